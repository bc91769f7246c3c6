package ops

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/testdata/deaf"
)

// TestMain serves a file system too, where it was started as one: a process that serves
// what it waits for itself could not even be killed.
func TestMain(m *testing.M) {
	if os.Args[0] != "deaf" {
		os.Exit(m.Run())
	}
	files, err := deaf.Mount(os.Args[1], 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	files.Sulk()
	time.AfterFunc(time.Minute, func() { os.Exit(1) }) // whatever becomes of the test
	fmt.Println("mounted")
	files.Serve()
	os.Exit(0)
}

// sulking is a file whose every close and poll waits for an answer that does not come. It
// is no [os.File] for the sake of this process.
func sulking(t *testing.T) (fd int) {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and /dev/fuse")
	}
	dir := t.TempDir()
	server := exec.Command("/proc/self/exe")
	server.Args = []string{"deaf", dir}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 100)
	if n, err := out.Read(said); !bytes.HasPrefix(said[:n], []byte("mounted")) {
		server.Wait()
		t.Skipf("needs to mount a FUSE: %s, %v", said[:n], err)
	}
	// It has an answer for the first one who closes.
	for i := range 2 {
		fd, err = unix.Open(filepath.Join(dir, "disk"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			unix.Close(fd)
		}
	}
	t.Cleanup(func() {
		server.Process.Kill() // and what waits has an error
		server.Wait()
		unix.Close(fd)
		unix.Unmount(dir, unix.MNT_DETACH)
	})
	return fd
}

// TestDescriptorThatDoesNotClose: whoever gives descriptors that wait for him when they
// are closed gets rid of no more than a few, and everything else goes on.
func TestDescriptorThatDoesNotClose(t *testing.T) {
	fd := sulking(t)
	path, log := serve(t, func(s *Server) {
		s.Vet = func(int) error { return &Error{Code: Invalid, Message: "on a file system of another type"} }
	})
	put := []byte(`{"v":1,"id":"a","op":"KernelPut","args":{"digest":"` + strings.Repeat("a", 64) + `"}}`)
	for name, c := range map[string]struct {
		msg []byte
		fds int
	}{
		"refused":        {put, 1},
		"too many":       {put, MaxFilesIn + 1},
		"no request":     {[]byte("x"), 1},
		"none of one":    {[]byte(`{"v":1,"id":"a","op":"Hello","args":{}}`), 1},
		"and too large":  {bytes.Repeat([]byte{' '}, MaxRequest+1), 1},
		"of another one": {[]byte(`{"v":1,"id":"a","op":"Root","args":{}}`), 1},
	} {
		fds := make([]int, c.fds)
		for i := range fds {
			fds[i] = fd
		}
		for range 2 {
			var clients sync.WaitGroup
			for range maxConns / 2 {
				conn := dial(t, path)
				clients.Go(func() {
					ask(t, conn, c.msg, fds...)
					conn.Close()
				})
			}
			clients.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			for { // until there is a connection
				_, _, err := Hello.Call(ctx, NewClient(path), None{})
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					t.Fatalf("%s: nobody is served any more: %v", name, err)
				}
			}
			cancel()
		}
	}
	for begin := time.Now(); !strings.Contains(log.String(), "refuse descriptors"); {
		conn := dial(t, path)
		ask(t, conn, put, fd)
		conn.Close()
		if time.Since(begin) > 5*time.Second {
			t.Fatal("at the bound descriptors are taken still")
		}
	}
}

// TestDescriptorThatIsNotPolled: no descriptor gets to the runtime's poller that was not
// vetted. One that waits there stops the whole process, at the latest when garbage is
// collected, until the file's server has ended.
func TestDescriptorThatIsNotPolled(t *testing.T) {
	fd := sulking(t)
	path, _ := serve(t, func(s *Server) {
		s.Vet = func(int) error { return &Error{Code: Invalid, Message: "on a file system of another type"} }
	})
	begin := time.Now()
	conn := dial(t, path)
	ask(t, conn, []byte(`{"v":1,"id":"a","op":"KernelPut","args":{"digest":"`+strings.Repeat("a", 64)+`"}}`), fd)
	conn.Close()
	runtime.GC()
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("the process stood still for %v", took)
	}
}
