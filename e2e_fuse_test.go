package main_test

import (
	"context"
	"encoding/binary"
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

// deaf serves a FUSE file system of the owner's, with one file in it, "disk".
// Everything is answered but what asks for content: such a call waits for ever.
func deaf(dir string) int {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, host.OwnerID, host.OwnerID)
		err = unix.Mount("deaf", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options)
	}
	if err != nil {
		fmt.Println("mount:", err)
		return 1
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM)
	go func() {
		<-end
		unix.Unmount(dir, unix.MNT_DETACH)
		os.Exit(0) // and what waits for an answer has an error
	}()
	fmt.Println("mounted")
	for buf := make([]byte, 1<<20); ; {
		n, err := unix.Read(fd, buf)
		if err != nil || n < 40 {
			return 1
		}
		if answer := deafAnswer(buf[:n]); answer != nil {
			unix.Write(fd, answer)
		}
	}
}

// deafAnswer is the answer to a request, nil where there is none; see <linux/fuse.h>.
func deafAnswer(request []byte) []byte {
	const lookup, forget, getattr, open, read, statfs, init, interrupt, batchForget = 1, 2, 3, 14, 15, 17, 26, 36, 42
	le := binary.LittleEndian
	node := le.Uint64(request[16:])
	attr := func(node uint64) []byte {
		a := make([]byte, 88)
		le.PutUint64(a, node)
		le.PutUint64(a[8:], 1<<20) // bytes
		mode := uint32(unix.S_IFREG | 0o644)
		if node == 1 {
			mode = unix.S_IFDIR | 0o755
		}
		le.PutUint32(a[60:], mode)
		le.PutUint32(a[64:], 1) // names
		le.PutUint32(a[68:], host.OwnerID)
		le.PutUint32(a[72:], host.OwnerID)
		return a
	}
	var body []byte
	switch le.Uint32(request[4:]) {
	case forget, batchForget, interrupt, read, statfs:
		return nil
	case init:
		body = make([]byte, 64)
		le.PutUint32(body, 7)
		le.PutUint32(body[4:], 31)
		le.PutUint32(body[20:], 1<<16)
	case lookup:
		body = append(make([]byte, 40), attr(2)...)
		le.PutUint64(body, 2)
	case getattr:
		body = append(make([]byte, 16), attr(node)...)
	case open:
		body = make([]byte, 16)
	}
	answer := append(make([]byte, 16), body...)
	le.PutUint32(answer, uint32(len(answer)))
	copy(answer[8:16], request[8:16])
	return answer
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
