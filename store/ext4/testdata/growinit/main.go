// The first process of the growing test: it mounts the disk, grows its file system to the
// size of the disk while it is mounted, writes more than was free before, and powers off.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	// The guest's clock may run ahead of the host's, whose e2fsck would wonder about it.
	must("set clock", unix.Settimeofday(&unix.Timeval{Sec: 1700000000}))
	must("mount /proc", unix.Mount("proc", "/proc", "proc", 0, ""))
	must("mount /dev", unix.Mount("dev", "/dev", "devtmpfs", 0, ""))
	list, err := os.ReadFile("/etc/banger/modules")
	must("read list", err)
	for _, name := range strings.Fields(string(list)) {
		f, err := os.Open(name)
		must("open module", err)
		must("load "+name, unix.FinitModule(int(f.Fd()), "", 0))
	}
	must("mkdir", os.MkdirAll("/mnt", 0o755))
	must("mount /dev/vda", unix.Mount("/dev/vda", "/mnt", "ext4", 0, ""))
	before := blocks()
	disk, err := os.Open("/dev/vda")
	must("open disk", err)
	var size uint64
	must("size of disk", ioctl(disk, 0x80081272, &size)) // BLKGETSIZE64
	root, err := os.Open("/mnt")
	must("open root", err)
	target := size / 4096
	must("grow", ioctl(root, 0x40086610, &target)) // EXT4_IOC_RESIZE_FS
	fmt.Println("TEST grown", before, blocks())

	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for i := range 40 {
		binary.LittleEndian.PutUint64(content, uint64(i))
		must("write", os.WriteFile(fmt.Sprintf("/mnt/new%d", i), content, 0o600))
	}
	old, err := os.ReadFile("/mnt/file")
	must("read", err)
	fmt.Printf("TEST content %x\n", sha256.Sum256(old))
	must("close", root.Close())
	must("unmount", unix.Unmount("/mnt", 0))
	fmt.Println("TEST end")
	off()
}

func blocks() uint64 {
	var s unix.Statfs_t
	must("statfs", unix.Statfs("/mnt", &s))
	return s.Blocks
}

func ioctl(f *os.File, req uintptr, v *uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), req, uintptr(unsafe.Pointer(v))); errno != 0 {
		return errno
	}
	return nil
}

func must(what string, err error) {
	if err != nil {
		fmt.Println("TEST failed:", what, err)
		off()
	}
}

func off() {
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}
