package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Names inside every jail.
const (
	BinaryPath = "/vmm"
	KernelPath = "/kernel"
	InitrdPath = "/initrd"
	// RunPath is the only directory that the VMM can always write to.
	RunPath   = "/run/vmm"
	APISocket = RunPath + "/api.sock"
)

// DiskPath returns the name of the disk with index i inside the jail.
func DiskPath(i int) string { return fmt.Sprintf("/disk%d", i) }

// MaxDisks bounds the drives of one VM.
const MaxDisks = 16

// Disk is a drive of the VM.
type Disk struct {
	// File is what the VMM gets as DiskPath(i). Start does not close it. Of a block device
	// the VM's uid gets a node of its own, and the VMM inherits the descriptor: a
	// device that goes when nobody has it open stays for as long as the VMM runs.
	File *os.File
	// ReadOnly makes writing impossible, whatever the mode of the file says. No block
	// device can have it.
	ReadOnly bool
	// Origin is the image that File is the store of a snapshot of. It is for those who
	// hand a Spec on to who makes a device of the two: Start refuses it.
	Origin *os.File
}

// Limits are the resource limits of a VMM. Zero means the default.
type Limits struct {
	// Files is the number of descriptors, 2048 by default.
	Files uint64
	// FileBytes is the size of the largest file that it can write, disks and log
	// included. There is none by default.
	FileBytes uint64
	// MemoryBytes and CPUs are for those who start the VMM in a control group of its
	// own. Start does not, and leaves them alone.
	MemoryBytes uint64
	CPUs        int
}

// Spec describes a VMM to start. Everything in it must have been checked by the
// caller, who knows what the VM may have; Start only refuses what makes no sense.
// As JSON it is all but its files, for who hands it on to another process.
type Spec struct {
	// ID names the VM: it begins the name of the jail directory and is the jail's
	// host name. Lower-case letters, digits and hyphens, at most 39.
	ID string
	// Parent is the directory to make the jail directory in. It must belong to the
	// caller alone: owned by its uid, writable by nobody else.
	Parent string
	// UID and GID are the VM's own; no other VM, user or service may have the uid.
	UID, GID int
	// OwnerUID and OwnerGID get the API socket, with mode 0600.
	OwnerUID, OwnerGID int
	// Shared also admits the caller's group to the API socket and the run directory:
	// for a keeper that is root without CAP_DAC_OVERRIDE.
	Shared bool

	// Binary is the absolute path of the VMM. It becomes BinaryPath. /proc/self/exe will
	// do unless the caller has changed its mount namespace since it was executed.
	Binary string
	// Args is the whole argument vector; the first element picks the role of a
	// binary that has several.
	Args []string
	// Jailer is the absolute path of Firecracker's own jailer, which is then what starts
	// the VMM, in a second jail within this one; empty is none. It takes a Binary
	// without a dynamic loader, and Args without --id, which is the jailer's to give.
	// See jailer.go for what is different.
	Jailer string
	// System gives the jail the host's /usr and libraries, read-only: for a VMM that
	// starts other programs. A binary with a dynamic loader gets them anyway.
	System bool
	// KVM gives the jail /dev/kvm if the host has it.
	KVM bool

	// Kernel, Initrd and the disks become KernelPath, InitrdPath and DiskPath(i).
	// Initrd may be nil. Start closes none of them. Their modes must admit UID or GID,
	// which Start checks and does not change.
	Kernel *os.File `json:"-"`
	Initrd *os.File `json:"-"`
	Disks  []Disk   `json:"-"`
	// Log gets standard output and error: the serial console and the VMM's messages.
	// Open it for appending, so that it can be truncated while the VMM runs; if it is
	// readable too, the error of a failed start quotes its end.
	Log *os.File `json:"-"`

	Limits Limits
}

// check refuses what cannot become a jail.
func (s *Spec) check() error {
	switch {
	case !validID(s.ID):
		return fmt.Errorf("check jail: bad VM id %q", s.ID)
	case !filepath.IsAbs(s.Parent):
		return fmt.Errorf("check jail: parent %q is not absolute", s.Parent)
	case s.UID <= 0 || s.GID <= 0:
		return fmt.Errorf("check jail: uid %d and gid %d must be above zero", s.UID, s.GID)
	case s.OwnerUID < 0 || s.OwnerGID < 0:
		return fmt.Errorf("check jail: bad owner %d:%d", s.OwnerUID, s.OwnerGID)
	case !filepath.IsAbs(s.Binary):
		return fmt.Errorf("check jail: binary %q is not absolute", s.Binary)
	case len(s.Args) == 0 || s.Args[0] == "":
		return errors.New("check jail: no arguments")
	case s.Jailer != "" && !filepath.IsAbs(s.Jailer):
		return fmt.Errorf("check jail: jailer %q is not absolute", s.Jailer)
	case s.Jailer != "" && (s.System || slices.Contains(s.Args, "--id")):
		return errors.New("check jail: the jailer takes no VMM that needs more of the host, and gives --id itself")
	case s.Kernel == nil || s.Log == nil:
		return errors.New("check jail: no kernel or no log")
	case len(s.Disks) > MaxDisks:
		return fmt.Errorf("check jail: %d disks, at most %d", len(s.Disks), MaxDisks)
	}
	devices := 0
	for i, d := range s.Disks {
		if d.File == nil {
			return fmt.Errorf("check jail: disk %d is missing", i)
		}
		if d.Origin != nil {
			return fmt.Errorf("check jail: disk %d is a snapshot that nobody has made", i)
		}
		if d.ReadOnly && isBlockDevice(d.File) {
			return fmt.Errorf("check jail: disk %d is a device, and cannot be read-only", i)
		}
		if isBlockDevice(d.File) {
			devices++
		}
	}
	if s.Jailer != "" && devices > 1 {
		return errors.New("check jail: the jailer hands one device on, not several")
	}
	return nil
}

// validID reports whether id is safe as a part of a file name and as a host name.
func validID(id string) bool {
	if id == "" || len(id) > 39 || id[0] == '-' {
		return false
	}
	return strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}
