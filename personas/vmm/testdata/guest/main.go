// The guest of the tests: the only program of a virtual machine. It loads the modules of
// its initrd, dials port 1024 of the host, and does what comes as lines over that
// connection, answering each with a line that begins with "ok" or "error".
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	modules, err := os.ReadFile("/etc/banger/modules")
	check(err)
	for _, m := range strings.Fields(string(modules)) {
		f, err := os.Open(m)
		check(err)
		check(unix.FinitModule(int(f.Fd()), "", 0))
		f.Close()
	}
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		os.Mkdir(m[1], 0o755)
		check(unix.Mount(m[0], m[1], m[0], 0, ""))
	}
	check(os.WriteFile("/proc/sys/kernel/ctrl-alt-del", []byte("0"), 0))
	pressed := make(chan os.Signal, 1)
	signal.Notify(pressed, unix.SIGINT)
	go func() {
		<-pressed
		fmt.Println("guest: ctrl-alt-del")
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}()
	host, err := dialHost()
	if err != nil {
		// Without a socket device there is nothing to do but to be seen to run.
		fmt.Println("guest: up")
		select {}
	}
	for in := bufio.NewScanner(host); in.Scan(); {
		words := strings.Fields(in.Text())
		answer, err := do(words[0], words[1:])
		if err != nil {
			fmt.Fprintf(host, "error %v\n", err)
			continue
		}
		fmt.Fprintf(host, "ok %s\n", answer)
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func check(err error) {
	if err != nil {
		fmt.Println("guest:", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

func dialHost() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "host"), unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: 1024})
}

func do(verb string, args []string) (string, error) {
	switch verb {
	case "echo":
		return strings.Join(args, " "), nil
	case "cat":
		b, err := os.ReadFile(args[0])
		return strings.Join(strings.Fields(string(b)), " "), err
	case "write":
		return write(args[0], args[1])
	case "read":
		return read(args[0], args[1])
	case "clock":
		var t unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
		return strconv.FormatInt(t.Nano(), 10), err
	case "rng":
		b := make([]byte, 16)
		f, err := os.Open("/dev/hwrng")
		if err == nil {
			_, err = io.ReadFull(f, b)
		}
		return fmt.Sprintf("%x", b), err
	case "tick":
		go func() {
			for n := 0; ; n++ {
				fmt.Println("tick", n)
				time.Sleep(20 * time.Millisecond)
			}
		}()
		return "", nil
	case "net":
		return network(args[0], args[1])
	case "poweroff":
		unix.Sync()
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "reboot":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	return "", errors.New("no such verb")
}

// write puts text at the start of a device, and flushes it to the disk.
func write(device, text string) (string, error) {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		return "", err
	}
	return "", f.Sync()
}

// read reads as many bytes of a device past the cache, and answers with the milliseconds.
func read(device, count string) (string, error) {
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buffer, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return "", err
	}
	start := time.Now()
	for ; n > 0; n -= int64(len(buffer)) {
		if _, err := io.ReadFull(f, buffer); err != nil {
			return "", err
		}
	}
	return strconv.FormatInt(time.Since(start).Milliseconds(), 10), nil
}

// network gives eth0 an address and asks a server for an echo.
func network(address, server string) (string, error) {
	if err := configure("lo", "127.0.0.1"); err != nil {
		return "", err
	}
	if err := configure("eth0", address); err != nil {
		return "", err
	}
	c, err := net.DialTimeout("tcp", server, 10*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	line := strings.Repeat("x", 100_000)
	go fmt.Fprintln(c, line)
	got, err := bufio.NewReaderSize(c, 128<<10).ReadString('\n')
	if err == nil && got != line+"\n" {
		err = errors.New("echo differs")
	}
	mac, _ := os.ReadFile("/sys/class/net/eth0/address")
	return strings.TrimSpace(string(mac)), err
}

func configure(name, address string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		request uint
		fill    func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.ParseIP(address).To4()) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(name)
		if err == nil {
			err = set.fill(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, set.request, r)
		}
		if err != nil {
			return fmt.Errorf("configure %s: %w", name, err)
		}
	}
	return nil
}
