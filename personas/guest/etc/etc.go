// Package etc writes what banger has to say into a guest's file system: names,
// resolver, keys, files, and hints for the image's own init.
//
// What must hold from boot to boot is written to the VM's own disk, as a person
// would, and only where it differs: a guest's tools may replace it. It is not
// bind-mounted over, as containers do it, because that breaks every tool that
// writes by rename. What is a hint to systemd goes to /run, and is gone with the
// boot. The image itself is never written to.
package etc

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/personas/guest/link"
)

// A Tree is the guest's file system.
type Tree struct {
	// Root is its root directory: "/", but in tests.
	Root string
}

// Apply writes all that config says. NIC is the name of the interface that is
// configured already, if there is one. It returns what could not be written: a
// guest runs without.
func (t Tree) Apply(config link.BootConfig, nic string) []error {
	errs := []error{
		t.setHostname(config.Hostname),
		t.setHosts(config.Hostname, config.Hosts),
		t.setMachineID(config.MachineID, config.FirstBoot),
		t.setKeys(config),
		t.writeFiles(config.Files),
		t.writeHome(config.Files, config.Exec.User),
	}
	if config.Network != nil {
		errs = append(errs, t.setResolver(config.Network))
	}
	errs = append(errs, t.hintSystemd(config.Network, nic)...)
	present := errs[:0]
	for _, err := range errs {
		if err != nil {
			present = append(present, err)
		}
	}
	return present
}

func (t Tree) path(p string) string { return filepath.Join(t.Root, p) }

func (t Tree) exists(p string) bool {
	_, err := os.Stat(t.path(p))
	return err == nil
}

// setHostname makes systemd and others keep the name that the kernel has.
func (t Tree) setHostname(name string) error {
	if name == "" || !t.exists("/etc") {
		return nil
	}
	return replace(t.path("/etc/hostname"), []byte(name+"\n"), 0o644)
}

// writeFiles writes the files that the configuration brings.
func (t Tree) writeFiles(files []link.File) error {
	var errs []error
	for _, f := range files {
		if strings.HasPrefix(f.Path, link.Home) {
			continue // see writeHome
		}
		path := t.path(f.Path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = replace(path, f.Data, fs.FileMode(f.Mode))
		}
		if err == nil {
			err = os.Lchown(path, int(f.UID), int(f.GID))
		}
		if err == nil && f.Mode&^0o777 != 0 {
			err = chmodBits(path, f.Mode) // a change of owner takes setuid away
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// replace writes a file by rename, unless it has this content already. What is
// written here is the same at the next boot, so it is not synced.
func replace(path string, data []byte, mode fs.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		if info, err := os.Lstat(path); err == nil && info.Mode() == mode.Perm() {
			return nil
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".banger-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(mode.Perm()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("replace %q: %w", path, err)
	}
	return nil
}
