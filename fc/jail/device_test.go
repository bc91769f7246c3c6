package jail

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loopDevice attaches a new file to a loop device that goes when it is closed for the
// last time, and returns the device, the file's path, and whether it is still there.
func loopDevice(t *testing.T) (dev *os.File, path string, there func() bool) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs loop devices: %v", err)
	}
	defer control.Close()
	for range 10 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			t.Skipf("needs loop devices: %v", err)
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		if err := unix.IoctlLoopConfigure(int(dev.Fd()), &config); err != nil {
			dev.Close() // another test was faster
			continue
		}
		t.Cleanup(func() { dev.Close() })
		return dev, path, func() bool {
			text, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", n))
			return err == nil && strings.TrimSpace(string(text)) == path
		}
	}
	t.Fatal("no free loop device")
	return nil, "", nil
}

// TestDiskThatIsDevice: the VM has a node of its own, whoever owns the host's, and the
// device stays for exactly as long as the VMM.
func TestDiskThatIsDevice(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "")
	dev, path, there := loopDevice(t)
	s.Disks[0] = Disk{File: dev}
	p := start(t, s)
	var v view
	if err := json.Unmarshal(ask(t, p, "look"), &v); err != nil {
		t.Fatal(err)
	}
	if v.DiskWrite != "ok" {
		t.Errorf("write to the disk: %s", v.DiskWrite)
	}
	if len(v.FDs) != 5 { // standard ones, the device, and what reads the directory
		t.Errorf("the VMM has inherited %v", v.FDs)
	}
	if err := dev.Close(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // nothing happens
	if !there() {
		t.Error("the device has gone with our descriptor")
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); there() && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
	}
	if there() {
		t.Error("the device has outlived the VMM")
	}
	if got, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(got), "written by the VMM") {
		t.Errorf("the file has %q, %v", got[:20], err)
	}
}

// TestDisksThatAreRefused: what only somebody else could have made sense of.
func TestDisksThatAreRefused(t *testing.T) {
	needRoot(t)
	s := newSpec(t, "")
	dev, _, _ := loopDevice(t)
	for want, d := range map[string]Disk{
		"is missing":           {},
		"that nobody has made": {File: s.Disks[0].File, Origin: s.Kernel},
		"cannot be read-only":  {File: dev, ReadOnly: true},
	} {
		s.Disks[0] = d
		if p, err := Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v, %v", want, p, err)
		}
	}
}
