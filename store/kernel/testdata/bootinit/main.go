// The first process of the boot test: it loads the modules of the list, tells on
// the console what it finds, and powers off.
package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	start := time.Now()
	must("mount /proc", unix.Mount("proc", "/proc", "proc", 0, ""))
	must("mount /sys", unix.Mount("sys", "/sys", "sysfs", 0, ""))
	must("mount /dev", unix.Mount("dev", "/dev", "devtmpfs", 0, ""))
	list, err := os.ReadFile("/etc/banger/modules")
	must("read list", err)
	for _, name := range strings.Fields(string(list)) {
		must("load "+name, load(name))
	}
	fmt.Println("TEST loaded in", time.Since(start).Milliseconds(), "ms")
	loaded, err := os.ReadFile("/proc/modules")
	must("read /proc/modules", err)
	for line := range strings.Lines(string(loaded)) {
		fmt.Println("TEST module", strings.Fields(line)[0])
	}
	for _, name := range []string{"/dev/vda", "/sys/class/net/eth0", "/dev/hwrng"} {
		_, err := os.Stat(name)
		fmt.Println("TEST exists", name, err == nil)
	}
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	fmt.Println("TEST vsock", fd >= 0, err)
	fds, err := os.ReadFile("/proc/filesystems")
	must("read /proc/filesystems", err)
	fmt.Println("TEST ext4", strings.Contains(string(fds), "\text4\n"))
	must("mkdir", os.MkdirAll("/mnt", 0o755))
	must("mount /dev/vda", unix.Mount("/dev/vda", "/mnt", "ext4", unix.MS_RDONLY, ""))
	mark, err := os.ReadFile("/mnt/mark")
	fmt.Printf("TEST mark %q %v\n", mark, err)
	dep, err := os.ReadFile(modulesDir() + "/modules.dep")
	must("read modules.dep", err)
	for line := range strings.Lines(string(dep)) {
		if name, _, _ := strings.Cut(line, ":"); strings.HasSuffix(name, "/overlay.ko") {
			fmt.Println("TEST overlay", load(modulesDir()+"/"+name))
		}
	}
	fmt.Println("TEST end")
	off()
}

func modulesDir() string {
	var u unix.Utsname
	must("uname", unix.Uname(&u))
	return "/lib/modules/" + unix.ByteSliceToString(u.Release[:])
}

func load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
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
