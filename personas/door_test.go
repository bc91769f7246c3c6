package personas

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newDoor is a door at a path that is short enough for a socket.
func newDoor(t *testing.T) (*Door, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "door")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "d.sock")
	return doorAt(t, path), path
}

func doorAt(t *testing.T, path string) *Door {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	d, err := NewDoor(l)
	must(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantLeave(t *testing.T, d *Door, quiet time.Duration, want bool) {
	t.Helper()
	if left, err := d.Leave(quiet); left != want || err != nil {
		t.Errorf("leave is %t, %v; want %t", left, err, want)
	}
}

func TestDoorIsShutOnlyWhereNobodyComes(t *testing.T) {
	d, path := newDoor(t)
	wantLeave(t, d, time.Hour, false)
	waiting, err := net.Dial("unix", path)
	must(t, err)
	defer waiting.Close()
	wantLeave(t, d, 0, false) // he is in the queue
	if left, err := filepath.Glob(filepath.Dir(path) + "/*"); err != nil || len(left) != 1 || left[0] != path {
		t.Errorf("after a return the folder has %v, %v", left, err)
	}
	for _, again := range []bool{false, true} {
		if again {
			waiting, err = net.Dial("unix", path) // by the same name
			must(t, err)
			defer waiting.Close()
		}
		conn, err := d.Accept()
		must(t, err)
		_, err = waiting.Write([]byte("x"))
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		if n, err := conn.Read(make([]byte, 2)); n != 1 || err != nil {
			t.Errorf("read %d bytes, %v", n, err)
		}
		conn.Close()
		wantLeave(t, d, time.Hour, false)
	}
	wantLeave(t, d, 0, true)
	if _, err := net.Dial("unix", path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the leave: got %v", err)
	}
	// The folder is this process's until its end.
	dir, err := os.Open(filepath.Dir(path))
	must(t, err)
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("lock of the folder: got %v", err)
	}
	begin := time.Now()
	must(t, d.Close())
	if took := time.Since(begin); took >= lockWait {
		t.Errorf("close took %v", took)
	}
}

func TestDoorStaysWhileDaemonsAreStarted(t *testing.T) {
	d, path := newDoor(t)
	dir, err := os.Open(filepath.Dir(path))
	must(t, err)
	defer dir.Close()
	must(t, unix.Flock(int(dir.Fd()), unix.LOCK_EX))
	wantLeave(t, d, 0, false)
	must(t, dir.Close())
	wantLeave(t, d, 0, true)
}

func TestDoorLeavesTheNameOfAnotherAlone(t *testing.T) {
	for what, end := range map[string]func(*Door) error{
		"Leave": func(d *Door) error { _, err := d.Leave(0); return err },
		"Close": (*Door).Close,
	} {
		d, path := newDoor(t)
		must(t, os.Remove(path))
		doorAt(t, path)
		must(t, end(d))
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Errorf("%s of the first has shut the second: %v", what, err)
			continue
		}
		conn.Close()
	}
}

func TestDoorThatIsClosedEndsAccept(t *testing.T) {
	d, path := newDoor(t)
	ended := make(chan error, 1)
	go func() {
		_, err := d.Accept()
		ended <- err
	}()
	must(t, d.Close())
	if err := <-ended; err == nil {
		t.Error("accept goes on")
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
}
