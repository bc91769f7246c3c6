package jail

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary plays all the parts: argv[0] picks one, as in the real program.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case StageName:
		os.Exit(Stage(os.Args[1:]))
	case "fake-vmm":
		fakeVMM(os.Args[1:])
	case BinaryPath: // started by the jailer, which has eight arguments of its own
		fakeVMM(os.Args[9:])
	case "jailer":
		runtime.LockOSThread()
		fmt.Println(fakeJailer(os.Args[1:]))
		os.Exit(1)
	case "fake-keeper":
		fakeKeeper(os.Args[1:])
	case "fake-owner":
		fakeOwner()
		return
	}
	os.Exit(m.Run())
}

// vmUID is the VM's, and no other test run's: what runs as it was started by this one.
var vmUID = 0x70000000 + os.Getpid()

// ownerUID stands for any user.
const ownerUID = 61235

// needRoot skips a test that cannot be had without root.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to build a jail")
	}
}

// view is what the fake VMM saw of itself. It answers with it on its API socket.
type view struct {
	UID, GID, PID     int
	Args, Env         []string
	Groups            []int
	CapEff, NoNewPriv string
	CapBnd            string
	Capabilities      [3]uint64 // effective, permitted, inheritable
	Root, Dev, FDs    []string
	RootWrite         string
	DiskWrite         string
	Disk1Write        string
	KernelWrite       string
	Kernel            string
	Hostname          string
	Session           int
	Limits            []uint64
	Umask             int
	Mounts            []string
	Tun, Null         string
	Input             string // what reading the standard input comes to
}

// fakeVMM behaves as its arguments say: it listens on the API socket and answers
// each connection with its view.
func fakeVMM(args []string) {
	mode := ""
	if len(args) > 0 {
		mode = args[0]
	}
	fds := list("/proc/self/fd")
	switch mode {
	case "die":
		fmt.Println("cannot go on")
		os.Exit(3)
	case "silent":
		time.Sleep(time.Minute)
	case "link": // where root will look for a socket
		os.Symlink("/kernel", APISocket)
		time.Sleep(time.Minute)
	}
	if mode == "child" { // which serves in its stead
		c := exec.Command(BinaryPath)
		c.Args = []string{"fake-vmm"}
		fmt.Println(c.Run())
		os.Exit(1)
	}
	v := look()
	v.FDs = fds
	if mode == "term" {
		c := make(chan os.Signal, 1)
		signal.Notify(c, unix.SIGTERM)
		go func() { <-c; os.Exit(7) }()
	}
	if mode == "stubborn" {
		signal.Ignore(unix.SIGTERM)
	}
	if mode == "plant" {
		plant()
	}
	if _, err := net.Listen("unix", RunPath+"/"+vsockName); err != nil {
		fmt.Println(err)
	}
	l, err := net.Listen("unix", APISocket)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			os.Exit(1)
		}
		go func() {
			defer c.Close()
			b := make([]byte, 1024)
			n, _ := c.Read(b)
			if strings.HasPrefix(string(b[:n]), "PUT /actions") {
				if mode == "cad" {
					fmt.Fprint(c, "HTTP/1.1 204 No Content\r\n\r\n")
					os.Exit(0)
				}
				fmt.Fprint(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
				return
			}
			if strings.HasPrefix(string(b[:n]), "dial ") {
				g, err := net.Dial("unix", RunPath+"/"+vsockName+"_"+strings.Fields(string(b[:n]))[1])
				if err != nil {
					fmt.Fprint(c, err)
					return
				}
				fmt.Fprint(g, "hello")
				g.Close()
				return
			}
			if string(b[:n]) == "make" {
				json.NewEncoder(c).Encode(makeInRun())
				return
			}
			json.NewEncoder(c).Encode(v)
		}()
	}
}

// makeInRun tries whatever would take room in the run directory, or open it again, and
// tells what succeeded. Of what it makes it leaves nothing.
func makeInRun() (made []string) {
	for what, try := range map[string]func(path string) error{
		"file":      func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"link":      func(path string) error { return os.Symlink("/", path) },
		"socket":    func(path string) error { return do(net.Listen("unix", path)) },
		"name":      func(path string) error { return os.Rename(RunPath+"/"+vsockName, path) },
		"mode":      func(string) error { return os.Chmod(RunPath, 0o711) },
	} {
		path := RunPath + "/" + what
		if try(path) != nil {
			continue
		}
		made = append(made, what)
		if what == "name" {
			os.Rename(path, RunPath+"/"+vsockName)
		}
		os.RemoveAll(path)
	}
	return made
}

func do(_ any, err error) error { return err }

func look() view {
	v := view{UID: os.Getuid(), GID: os.Getgid(), PID: os.Getpid(), Args: os.Args, Env: os.Environ()}
	v.Groups, _ = os.Getgroups()
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		k, val, _ := strings.Cut(line, ":")
		switch val = strings.TrimSpace(val); k {
		case "CapEff":
			v.CapEff = val
		case "CapBnd":
			v.CapBnd = val
		case "NoNewPrivs":
			v.NoNewPriv = val
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		fmt.Println(err)
	}
	for i, set := range sets {
		v.Capabilities[0] |= uint64(set.Effective) << (32 * i)
		v.Capabilities[1] |= uint64(set.Permitted) << (32 * i)
		v.Capabilities[2] |= uint64(set.Inheritable) << (32 * i)
	}
	v.Root, v.Dev = list("/"), list("/dev")
	v.RootWrite = errText(os.WriteFile("/x", nil, 0o600))
	v.DiskWrite = errText(writeAt(DiskPath(0), "written by the VMM"))
	v.Disk1Write = errText(writeAt(DiskPath(1), "x"))
	v.KernelWrite = errText(writeAt(KernelPath, "x"))
	k, _ := os.ReadFile(KernelPath)
	v.Kernel = string(k)
	v.Hostname, _ = os.Hostname()
	v.Session, _ = unix.Getsid(0)
	for _, which := range []int{unix.RLIMIT_NOFILE, unix.RLIMIT_FSIZE, unix.RLIMIT_CORE} {
		var l unix.Rlimit
		unix.Getrlimit(which, &l)
		v.Limits = append(v.Limits, l.Max)
	}
	v.Umask = unix.Umask(0)
	m, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(m)) {
		f := strings.Fields(line)
		v.Mounts = append(v.Mounts, f[1]+" "+f[3])
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	f.Close()
	_, readErr := os.Stdin.Read(make([]byte, 1))
	v.Input = errText(readErr)
	v.Tun, v.Null = errText(err), errText(writeAt("/dev/null", "x"))
	return v
}

func errText(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

func writeAt(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	f.Close()
	return err
}

func list(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// newSpec returns a Spec for a fake VMM with one disk.
func newSpec(t testing.TB, mode string) *Spec {
	t.Helper()
	dir := t.TempDir()
	parent := filepath.Join(dir, "jails")
	if err := os.Mkdir(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	return &Spec{
		ID: "web", Parent: parent, UID: vmUID, GID: vmUID, OwnerUID: ownerUID, OwnerGID: ownerUID,
		Binary: "/proc/self/exe", Args: []string{"fake-vmm", mode},
		Kernel: openFile(t, filepath.Join(dir, "kernel"), "a kernel", 0o444),
		Disks:  []Disk{{File: openFile(t, filepath.Join(dir, "disk"), "empty disk, long enough", 0o666)}},
		Log:    openFile(t, filepath.Join(dir, "log"), "", 0o600),
	}
}

func openFile(t testing.TB, path, content string, mode os.FileMode) *os.File {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// start starts s and sees to it that nothing is left after the test.
func start(t testing.TB, s *Spec) *Process {
	t.Helper()
	needRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	p, err := Start(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.gone()
		p.Release()
	})
	return p
}

// ask sends a line to the fake VMM and returns its answer.
func ask(t testing.TB, p *Process, line string) []byte {
	t.Helper()
	c, err := p.DialAPI()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, line)
	b := make([]byte, 64<<10)
	n, err := c.Read(b)
	if err != nil && line == "look" {
		t.Fatal(err)
	}
	return b[:n]
}

// fakeKeeper starts a VMM with the given files, tells its jail, and waits to be killed.
func fakeKeeper(args []string) {
	open := func(path string) *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return f
	}
	uid, _ := strconv.Atoi(args[5])
	p, err := Start(context.Background(), &Spec{
		ID: "web", Parent: args[0], UID: uid, GID: uid, OwnerUID: ownerUID, OwnerGID: ownerUID,
		Binary: os.Args[7], Args: []string{"fake-vmm", args[4]},
		Kernel: open(args[1]), Disks: []Disk{{File: open(args[2])}}, Log: open(args[3]),
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.Record().Dir)
	time.Sleep(time.Minute)
}

// fakeOwner says what it gets from the sockets in the run directory on descriptor 3.
func fakeOwner() {
	for _, name := range []string{"api.sock", "v.sock"} {
		c, err := net.Dial("unix", "/proc/self/fd/3/"+name)
		fmt.Println(name, errText(err))
		if err == nil {
			c.Close()
		}
	}
}

// plant leaves in /run what makes removing dangerous or tedious. It runs as the VM.
func plant() {
	os.Symlink("/etc", RunPath+"/etc")
	os.Symlink("../../../outside", RunPath+"/outside")
	os.Symlink("/proc/1/root", RunPath+"/root")
	os.Link(RunPath+"/etc", RunPath+"/hard")
	unix.Mkfifo(RunPath+"/fifo", 0o600)
	os.Mkdir(RunPath+"/locked", 0o000)
	os.Mkdir(RunPath+"/.1", 0o700) // a name that the removal itself gives
	os.WriteFile(RunPath+"/.2", nil, 0o600)
	for i := range 2000 {
		os.WriteFile(fmt.Sprintf(RunPath+"/file%d", i), nil, 0o600)
	}
	// Deeper than a path can say, and than descriptors can hold open.
	at := unix.AT_FDCWD
	dir := RunPath + "/deep"
	for range 1500 {
		if unix.Mkdirat(at, dir, 0o700) != nil {
			break
		}
		next, err := unix.Openat(at, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			break
		}
		if at != unix.AT_FDCWD {
			unix.Close(at)
		}
		at, dir = next, "deep"
		f, err := unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err == nil {
			unix.Close(f)
		}
	}
}
