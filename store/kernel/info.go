// Package kernel turns what distributions ship, a kernel package, a boot image or
// the running host's own files, into what banger boots guests with: an uncompressed
// kernel, the modules that a guest needs, and what is known about both.
//
// The result is one directory:
//
//	vmlinux               the kernel as an ELF file
//	bzImage               the boot image that it was taken from, if there was one
//	config                the kernel's configuration, if there was one
//	modules/kernel/...    the modules of the initrd, decompressed
//	modules/modules.dep   paths and what must be loaded before, as depmod writes it
//	modules.ext4          a read-only drive with all modules that a guest may want,
//	                      and all that modprobe wants to know of them
package kernel

// Names of files in the directory that Import makes.
const (
	VmlinuxFile = "vmlinux"
	BzImageFile = "bzImage"
	ModulesDir  = "modules"
	DriveFile   = "modules.ext4"
	configFile  = "config"
)

// Info is what is known of an imported kernel. The caller keeps it.
type Info struct {
	// Release is what uname -r prints in the guest, Version the whole banner.
	Release string `json:"release"`
	Version string `json:"version"`
	// Arch is the machine as uname -m prints it.
	Arch string `json:"arch"`
	// Digest is "sha256:<hex>" over the kernel, the modules and their load order:
	// equal kernels have equal digests, wherever they came from.
	Digest string `json:"digest"`
	// Source is the base name of the file that the kernel came from, Format what it
	// was: deb, rpm, bzImage or vmlinux.
	Source string `json:"source"`
	Format string `json:"format"`
	// Compression is how the kernel was packed in its boot image, if it had one.
	Compression string `json:"compression,omitempty"`
	// PVH tells that QEMU can start vmlinux itself; without it, only bzImage.
	PVH bool `json:"pvh"`
	// BzImage and Config tell whether these files exist.
	BzImage bool `json:"bzimage"`
	Config  bool `json:"config"`
	// SizeBytes is the size of all files together.
	SizeBytes int64 `json:"size_bytes"`
	// Modules are paths relative to the modules directory.
	Modules Modules `json:"modules"`
	// Missing are options that the kernel lacks and that most guests can do
	// without; each says what will not work.
	Missing []Requirement `json:"missing,omitempty"`
	// Unknown are options that nothing could be found out about, because the
	// kernel came without its configuration.
	Unknown []string `json:"unknown,omitempty"`
}

// Modules are the modules of a kernel by the time at which a guest needs them.
type Modules struct {
	// Boot is what the guest loads first, in this order, to reach disk, network and host.
	Boot []string `json:"boot"`
	// OnDemand is what the guest's first process may load, depending on the VM.
	OnDemand []string `json:"on_demand,omitempty"`
	// Extra is what programs in the guest may ask for later.
	Extra []string `json:"extra,omitempty"`
}
