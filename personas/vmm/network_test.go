package vmm

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"

	"banger/fc"

	"golang.org/x/sys/unix"
)

// TestTapTraffic sends through a tap in a network namespace made for it, which the role is
// started in.
func TestTapTraffic(t *testing.T) {
	f := needGuest(t)
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and the namespace with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("make network namespace: %v", err)
	}
	tap := makeTap(t, "tap0", "10.9.8.1")
	defer tap.Close()
	l, err := net.Listen("tcp", "10.9.8.1:7")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	v := startVMM(t)
	const mac = "06:00:0a:09:08:02"
	v.boot(t, f, fc.NetworkInterface{ID: "eth0", HostDevName: "tap0", GuestMAC: mac})
	if got := v.mustAsk(t, "net 10.9.8.2 10.9.8.1:7"); got != mac {
		t.Errorf("the guest's address is %q", got)
	}
	// The connection ends with the guest.
	if _, err := v.ask("poweroff"); !errors.Is(err, io.EOF) {
		t.Errorf("power off: %v", err)
	}
	if code := v.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// makeTap makes a persistent tap and gives it an address.
func makeTap(t *testing.T, name, address string) io.Closer {
	t.Helper()
	file, err := openTap(name)
	if err != nil {
		t.Skip(err)
	}
	defer file.Close()
	if err := unix.IoctlSetInt(int(file.Fd()), unix.TUNSETPERSIST, 1); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	set := func(request uint, fill func(*unix.Ifreq) error) {
		t.Helper()
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = fill(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, request, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	set(unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.ParseIP(address).To4()) })
	set(unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) })
	set(unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil })
	return os.NewFile(uintptr(fd), "socket")
}
