package inventory

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// realName is what the things that the test plants on the real machine are
// called, so that it does not meet what other programs have there.
const realName = "bangertest"

// TestRealLeftoversAreSeen runs itself in a mount and a network namespace of its
// own, plants one thing of each kind that can be had there, and removes it.
func TestRealLeftoversAreSeen(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts and makes links")
	}
	if os.Getenv("INVENTORY_TEST_APART") != "" {
		plantForReal(t)
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestRealLeftoversAreSeen$", "-test.v")
	cmd.Env = append(os.Environ(), "INVENTORY_TEST_APART=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func listed(t *testing.T) []Object {
	t.Helper()
	inv, err := Collect(t.Context(), Scope{Name: realName})
	must(t, err)
	if len(inv.Unread) > 0 {
		t.Errorf("root could not read: %q", inv.Unread)
	}
	return inv.Objects
}

func plantForReal(t *testing.T) {
	must(t, unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(t, unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"))
	must(t, unix.Mount("sysfs", "/sys", "sysfs", 0, "")) // that of this network namespace
	before := listed(t)

	var names []string
	dir := filepath.Join("/run", realName)
	must(t, os.Mkdir(dir, 0o700))
	names = append(names, "runtime "+dir)

	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	names = append(names, "mount "+dir)

	socket, err := net.Listen("unix", dir+"/a.sock")
	must(t, err)
	names = append(names, "socket "+dir+"/a.sock")

	must(t, os.Mkdir("/run/netns", 0o755))
	must(t, os.WriteFile("/run/netns/"+realName, nil, 0o444))
	names = append(names, "netns "+realName)

	must(t, os.WriteFile("/sys/class/net/lo/ifalias", []byte(realName+":lo"), 0))
	names = append(names, "link lo")

	conn, err := nftables.New()
	must(t, err)
	table := conn.AddTable(&nftables.Table{Name: realName, Family: nftables.TableFamilyINet})
	must(t, conn.Flush())
	names = append(names, "table inet "+realName)

	daemon := exec.Command("sleep", "60")
	daemon.Args[0] = realName + "d"
	must(t, daemon.Start())
	names = append(names, "process "+realName+"d")

	detach, err := attachLoop(dir + "/disk")
	if err != nil {
		t.Logf("no loop device: %v", err)
	} else {
		names = append(names, "loop "+filepath.Base(detach.Name()))
	}

	var got []string
	for _, o := range listed(t) {
		if !slices.Contains(before, o) {
			got = append(got, o.Kind+" "+o.Name)
		}
	}
	slices.Sort(names)
	slices.Sort(got)
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("planted and seen (-want +got):\n%s", diff)
	}

	if detach != nil {
		must(t, unix.IoctlSetInt(int(detach.Fd()), unix.LOOP_CLR_FD, 0))
		detach.Close()
	}
	must(t, daemon.Process.Kill())
	daemon.Wait()
	conn.DelTable(table)
	must(t, conn.Flush())
	must(t, os.WriteFile("/sys/class/net/lo/ifalias", []byte("\n"), 0))
	must(t, os.RemoveAll("/run/netns"))
	socket.Close()
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
	must(t, os.Remove(dir))
	if diff := cmp.Diff(before, listed(t)); diff != "" {
		t.Errorf("after removal (-before +after):\n%s", diff)
	}
}

// attachLoop makes a loop device of a new file, and returns the device.
func attachLoop(file string) (*os.File, error) {
	if err := os.WriteFile(file, make([]byte, 1<<16), 0o600); err != nil {
		return nil, err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return nil, err
	}
	dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		dev.Close()
		return nil, err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(f.Fd())); err != nil {
		dev.Close()
		return nil, err
	}
	return dev, nil
}

// TestRealMachineIsRead looks at the machine as it is: what is not read is said.
func TestRealMachineIsRead(t *testing.T) {
	inv, err := Collect(t.Context(), Scope{FirstUID: 0x70ba0000, UIDs: 4096})
	must(t, err)
	var forward bool
	for _, o := range inv.Objects {
		forward = forward || o.Kind == "sysctl"
	}
	if !forward && !strings.Contains(strings.Join(inv.Unread, " "), "settings") {
		t.Error("neither the host's forwarding nor why it was not read is told")
	}
	t.Logf("%d objects, unread %q", len(inv.Objects), inv.Unread)
}
