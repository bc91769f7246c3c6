package main_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
	"banger/testdata/deaf"
	"banger/testdata/host"
)

// What the test program does on a host instead of testing, where its environment
// says so: it mounts a file system that never answers a read at a folder, or, as
// the owner, it gives a file to the helper.
const (
	deafEnv = "BANGER_TEST_DEAF"
	giveEnv = "BANGER_TEST_GIVE"
)

// give gives a file to the helper as a kernel, and says how it was refused.
func give(file string) int {
	f, err := os.Open(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	args := ops.KernelPutArgs{Digest: strings.Repeat("0", 64)}
	_, _, err = ops.KernelPut.Call(context.Background(), ops.NewClient(ops.SocketPath), args, f)
	fmt.Println(err)
	return 0
}

// serveDeaf serves a file system of the owner's whose content nobody ever gets.
func serveDeaf(dir string) int {
	files, err := deaf.Mount(dir, host.OwnerID)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		files.Unmount()
		os.Exit(0) // and what waits for an answer has an error
	}()
	fmt.Println("mounted")
	files.Serve()
	return 1
}

// TestFileThatIsNeverRead is abuse 6: a file on a file system that never answers is
// refused by the helper, without a look at it, and an import of it keeps nobody but
// itself waiting, in either daemon.
func TestFileThatIsNeverRead(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
	h := newHost(t, host.Config{})
	self := filepath.Join(h.Dir(), "self") // where the owner finds it
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.Must(host.Root, "cp", program, self)
	h.Must(host.Sudo, "banger", "vm", "list")
	dir := filepath.Join(h.Dir(), "deaf")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	server, _ := startSaying(t, h, "mounted", "env", deafEnv+"="+dir, self)
	disk := filepath.Join(dir, "disk")

	begin := time.Now()
	r := h.Run(host.Owner, "env", giveEnv+"="+disk, self)
	if took := time.Since(begin); !strings.Contains(r.Stdout, "on a file system of type 0x65735546") || took > 10*time.Second {
		t.Errorf("given to the helper after %v: %v", took, r)
	}

	imports := h.Cmd(t.Context(), host.Owner, "banger", "image", "import", "--name", "deaf", disk)
	said := &said{word: "banger: ", when: make(chan struct{})}
	imports.Stdout, imports.Stderr = said, said
	if err := imports.Start(); err != nil {
		t.Fatal(err)
	}
	waiting := func() bool {
		log, err := os.ReadFile(h.Path("/run/banger/bangerd.log"))
		return err == nil && strings.Count(string(log), "GET /v1/version") >= 2
	}
	waitFor(t, "the import to begin", waiting)
	for range 5 {
		begin := time.Now()
		h.Must(host.Owner, "banger", "vm", "list")
		h.Must(host.Owner, "banger", "system", "inventory", "--output", "json")
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("beside an import that waits, two calls took %v", took)
		}
	}
	if err := unix.Kill(imports.Process.Pid, 0); err != nil || said.String() != "" {
		t.Errorf("the import does not wait: %v, %s", err, said)
	}
	if err := server.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	waitCode(t, server)
	if code := waitCode(t, imports); code != 125 {
		t.Errorf("import: exit %d, %s", code, said)
	}
	if got := h.Must(host.Owner, "banger", "image", "list", "--quiet"); got != "" {
		t.Errorf("images are %q", got)
	}
}
