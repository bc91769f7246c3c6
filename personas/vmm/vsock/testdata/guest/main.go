// The guest of the tests: the only program of a virtual machine. It loads the modules
// of its initrd, says hello to port 1024 of the host, and serves on these ports:
//
//	1  echo
//	2  takes a length and as many bytes, answers with their SHA-256
//	3  takes a length, sends as many bytes and their SHA-256
//	4  accepts, does not read, and closes after five seconds
//	5  takes a port, dials it on the host, answers 0 or the errno, and if it could
//	   dial echoes on that connection
//	6  reboots
//	7  accepts and closes
//	8  takes a length, sends as many bytes and closes at once
//	9  takes a length and as many bytes, answers with one
package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
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
	for port, serve := range []func(*os.File){
		1: echo, 2: sink, 3: source, 4: ignore, 5: dial, 6: reboot, 7: func(f *os.File) { f.Close() }, 8: blurt, 9: discard,
	} {
		if serve != nil {
			listen(uint32(port), serve)
		}
	}
	c, err := connect(1024)
	check(err)
	fmt.Fprintln(c, "hello")
	select {}
}

func check(err error) {
	if err != nil {
		fmt.Println("guest:", err)
		unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

func listen(port uint32, serve func(*os.File)) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	check(err)
	check(unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: port}))
	check(unix.Listen(fd, 1024))
	go func() {
		for {
			if c, _, err := unix.Accept(fd); err == nil {
				go serve(os.NewFile(uintptr(c), "vsock"))
			}
		}
	}()
}

func connect(port uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: 2, Port: port}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "vsock"), nil
}

func echo(f *os.File) {
	defer f.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := f.Read(b)
		if err != nil {
			return
		}
		if _, err := f.Write(b[:n]); err != nil {
			return
		}
	}
}

func sink(f *os.File) {
	defer f.Close()
	var n uint64
	if binary.Read(f, binary.LittleEndian, &n) != nil {
		return
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.LimitReader(f, int64(n)), make([]byte, 256<<10)); err != nil {
		return
	}
	f.Write(h.Sum(nil))
}

func source(f *os.File) {
	defer f.Close()
	var n uint64
	if binary.Read(f, binary.LittleEndian, &n) != nil {
		return
	}
	block := make([]byte, 256<<10)
	rand.NewChaCha8([32]byte{}).Read(block)
	h := sha256.New()
	for i := uint64(0); n > 0; i++ {
		binary.LittleEndian.PutUint64(block, i)
		b := block[:min(uint64(len(block)), n)]
		if _, err := f.Write(b); err != nil {
			return
		}
		h.Write(b)
		n -= uint64(len(b))
	}
	f.Write(h.Sum(nil))
	f.Read(block[:1]) // until the host closes
}

func blurt(f *os.File) {
	defer f.Close()
	var n uint64
	if binary.Read(f, binary.LittleEndian, &n) == nil {
		for b := make([]byte, 256<<10); n > 0; n -= min(n, uint64(len(b))) {
			f.Write(b[:min(n, uint64(len(b)))])
		}
	}
}

func discard(f *os.File) {
	defer f.Close()
	var n int64
	b := make([]byte, 256<<10)
	if binary.Read(f, binary.LittleEndian, &n) != nil {
		return
	}
	for n > 0 {
		got, err := f.Read(b)
		if err != nil {
			return
		}
		n -= int64(got)
	}
	f.Write(b[:1])
}

func ignore(f *os.File) {
	time.Sleep(5 * time.Second)
	f.Close()
}

func dial(f *os.File) {
	defer f.Close()
	var port uint32
	if binary.Read(f, binary.LittleEndian, &port) != nil {
		return
	}
	c, err := connect(port)
	errno, _ := err.(unix.Errno)
	binary.Write(f, binary.LittleEndian, uint32(errno))
	if err == nil {
		echo(c)
	}
}

func reboot(*os.File) { unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }
