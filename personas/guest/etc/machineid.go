package etc

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"banger/personas/guest/link"
)

// Where a guest keeps its machine id. D-Bus has a copy of its own in images that
// are older than systemd, or do without it; elsewhere it is a link to the first.
const (
	machineIDFile     = "etc/machine-id"
	dbusMachineIDFile = "var/lib/dbus/machine-id"
)

// setMachineID gives the guest the machine id that is its own. All VMs of one
// image would else share the image's, and with it their DHCP identity and the
// name of their journal.
//
// At the first boot of a disk, an id that is there is the image's and goes. Later
// it is the guest's: whoever has set another inside the VM keeps it, and only one
// that is missing, or was reset as systemd and cloud-init do it ("uninitialized",
// or nothing), is made good. The id is there before systemd looks, which therefore
// takes no boot for the first one: it would ask its questions of a console where
// nobody answers.
func (t Tree) setMachineID(id string, firstBoot bool) error {
	if id == "" || !t.exists("/etc") {
		return nil
	}
	// The Root keeps links of the image from leading out of the guest's files.
	root, err := os.OpenRoot(t.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	if !firstBoot && link.MachineID(readMachineID(root, machineIDFile)) {
		return nil
	}
	errs := []error{writeMachineID(root, machineIDFile, id)}
	if info, err := root.Lstat(dbusMachineIDFile); err == nil && info.Mode().IsRegular() {
		errs = append(errs, writeMachineID(root, dbusMachineIDFile, id))
	}
	return errors.Join(errs...)
}

// readMachineID returns what a file says, or nothing where it is not a file that
// can say something.
func readMachineID(root *os.Root, name string) string {
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	const enough = 64
	text, err := io.ReadAll(io.LimitReader(f, enough))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(text), "\n")
}

// writeMachineID replaces a file by rename, whatever is there by that name.
func writeMachineID(root *os.Root, name, id string) error {
	temp := name + ".banger"
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write machine id: %w", err)
	}
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return fmt.Errorf("write machine id: %w", err)
	}
	_, err = f.WriteString(id + "\n")
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write machine id: %w", err), root.Remove(temp))
	}
	return nil
}
