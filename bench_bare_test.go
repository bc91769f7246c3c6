package main_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc"
	"banger/personas/api"
	"banger/personas/guest/link"
	"banger/personas/vmm/vsock"
	"banger/store/disk"
	"banger/testdata/host"
)

// bare boots by hand what banger has booted before: QEMU with the same
// arguments, kernel, initrd and image. There is no tap, no monitor and no jail,
// and the one who answers the guest's hello is this process.
type bare struct {
	argv    []string
	files   map[int]*os.File // by the number that argv has for them
	backend api.Backend
	image   string // path of the ext4 file
	disk    int    // number of the VM's own disk
	vsock   int    // number of the vsock device's socket
	initrd  int
	dir     string
}

var fdNumber = regexp.MustCompile(`(?:fd=|/dev/fdset/|/proc/self/fd/)(\d+)`)

// learn starts a VM, notes how its QEMU was started, and deletes it.
func learn(b *testing.B, h *host.Host) *bare {
	b.Helper()
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "model")
	vm, err := client(h).VM(b.Context(), "model")
	if err != nil {
		b.Fatal(err)
	}
	images, err := client(h).Images(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	pids := h.Pids("qemu-system-x86_64")
	if len(pids) != 1 {
		b.Fatalf("%d processes are QEMU", len(pids))
	}
	proc := h.Path(fmt.Sprintf("/proc/%d", pids[0]))
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		b.Fatal(err)
	}
	bb := &bare{files: map[int]*os.File{}, backend: vm.Backend, image: h.Path(images[0].Path), dir: h.Dir()}
	bb.adapt(b, strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00"), proc)
	h.Must(host.Root, "banger", "vm", "delete", "--force", "model")
	return bb
}

// adapt takes from argv what belongs to the VM's host, and opens the files that
// the rest names.
func (q *bare) adapt(b *testing.B, argv []string, proc string) {
	b.Helper()
	q.argv = argv[:1]
	for i := 1; i < len(argv); i++ {
		option, value := argv[i], ""
		if i+1 < len(argv) && !strings.HasPrefix(argv[i+1], "-") {
			i++
			value = argv[i]
		}
		number := -1
		if m := fdNumber.FindStringSubmatch(value); m != nil {
			number, _ = strconv.Atoi(m[1])
		}
		switch {
		case option == "-mon", option == "-netdev", strings.HasPrefix(value, "socket,id=qmp,"), strings.HasPrefix(value, "virtio-net-device,"):
			continue
		case strings.HasPrefix(value, "socket,id=vsock,"):
			q.vsock = number
		case option == "-kernel", option == "-initrd":
			q.open(b, number, filepath.Join(proc, "fd", strconv.Itoa(number)))
			if option == "-initrd" {
				q.initrd = number
			}
		case option == "-blockdev" && strings.Contains(value, "/dev/fdset/"):
			if strings.Contains(value, `"read-only":true`) {
				q.open(b, number, q.image)
			} else {
				q.disk = number
			}
		}
		q.argv = append(q.argv, option)
		if value != "" {
			q.argv = append(q.argv, value)
		}
	}
	if q.vsock == 0 || q.disk == 0 || q.initrd == 0 {
		b.Fatalf("QEMU was started in a way that is not known here: %q", argv)
	}
}

func (q *bare) open(b *testing.B, number int, path string) {
	b.Helper()
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	q.files[number] = f
}

// booted is how long a guest took, counted from the start of its QEMU.
type booted struct {
	hello time.Duration // until /init said hello
	ready time.Duration // until root, names and agent were there
	ran   time.Duration // until a command had run in it
	init  time.Duration // age of the guest's kernel at the hello
	used  int64         // bytes of guest memory that are not available any more
}

// boot boots a guest with a disk of its own, once, and kills it.
func (q *bare) boot(b *testing.B) (times booted) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp(q.dir, "bare-")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	own := q.makeDisk(b, filepath.Join(dir, "disk"))
	defer own.Close()
	uds := filepath.Join(dir, "v")
	hello, err := net.Listen("unix", fmt.Sprintf("%s_%d", uds, link.HelloPort))
	if err != nil {
		b.Fatal(err)
	}
	defer hello.Close()
	stopHello := context.AfterFunc(ctx, func() { hello.Close() })
	defer stopHello()

	ours, theirs := socketPair(b)
	files := map[int]*os.File{q.disk: own, q.vsock: theirs}
	for number, f := range q.files {
		files[number] = f
	}
	cmd := exec.CommandContext(ctx, q.argv[0], q.argv[1:]...)
	cmd.ExtraFiles = extraFiles(files)
	cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	theirs.Close()
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	serveVsock(b, ctx, uds, ours)

	conn, err := hello.Accept()
	if err != nil {
		b.Fatalf("wait for guest: %v", err)
	}
	defer conn.Close()
	who, err := link.ReadHello(ctx, conn)
	if err != nil {
		b.Fatal(err)
	}
	times.hello, times.init = time.Since(begin), time.Duration(who.UptimeNanos)
	if err := link.SendBoot(ctx, conn, q.config()); err != nil {
		b.Fatal(err)
	}
	if _, err := link.ReadReady(ctx, conn); err != nil {
		b.Fatal(err)
	}
	times.ready = time.Since(begin)
	code, err := link.Exec(ctx, dialAgent(b, ctx, uds), link.ExecRequest{Args: []string{"true"}}, link.ExecIO{})
	if err != nil || code != 0 {
		b.Fatalf("true: exit code %d, %v", code, err)
	}
	times.ran = time.Since(begin)
	stats, err := link.Query(ctx, dialAgent(b, ctx, uds))
	if err != nil {
		b.Fatal(err)
	}
	times.used = int64(stats.MemTotalBytes) - int64(stats.MemAvailableBytes)
	return times
}

func dialAgent(b *testing.B, ctx context.Context, uds string) net.Conn {
	b.Helper()
	conn, err := fc.DialVsock(ctx, uds, link.AgentPort)
	if err != nil {
		b.Fatal(err)
	}
	return conn
}

// config is what the daemon would say, without a network.
func (q *bare) config() link.BootConfig {
	c := link.BootConfig{Hostname: "bare", Disk: link.Disk{Device: "vda"}, TimeUnixNano: time.Now().UnixNano(), Entropy: make([]byte, 64)}
	if q.backend == api.BackendOverlay {
		c.Disk.Upper = "vdb"
	}
	return c
}

func (q *bare) makeDisk(b *testing.B, path string) *os.File {
	b.Helper()
	origin, err := os.Open(q.image)
	if err != nil {
		b.Fatal(err)
	}
	defer origin.Close()
	if err := disk.Create(b.Context(), disk.Spec{Backend: disk.Backend(q.backend), Origin: origin, Volatile: true}, path); err != nil {
		b.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	return f
}

// serveVsock plays the host's half of the vsock device until the guest ends.
func serveVsock(b *testing.B, ctx context.Context, uds string, ours *os.File) {
	b.Helper()
	device, err := vsock.New(vsock.Config{CID: 3, Path: uds})
	if err != nil {
		b.Fatal(err)
	}
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		b.Fatal(err)
	}
	go device.Serve(ctx, conn.(*net.UnixConn))
}

func socketPair(b *testing.B) (ours, theirs *os.File) {
	b.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
}

// extraFiles puts each file where its number says.
func extraFiles(files map[int]*os.File) []*os.File {
	const first = 3
	var list []*os.File
	for number, f := range files {
		for len(list) <= number-first {
			list = append(list, nil)
		}
		list[number-first] = f
	}
	return list
}
