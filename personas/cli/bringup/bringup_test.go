package bringup

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/personas"
	"banger/personas/api"
)

// who is what a fake daemon tells of itself to everybody who connects.
type who struct {
	PID, SID, UID, GID int
	Groups             []int
	Args, Env          []string
	Dir                string
	Callers            []uint32 // who has connected so far
}

// TestMain lets the test binary be the daemons that it starts.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "bangerd", "banger-helper":
		fakeDaemon()
	}
	os.Exit(m.Run())
}

func fakeDaemon() {
	if strings.Contains(strings.Join(os.Args, " "), "/die") {
		fmt.Fprintln(os.Stderr, "cannot read the store")
		os.Exit(3)
	}
	door, err := openDoor()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// No fake outlives its test for long, whatever happens.
	time.AfterFunc(time.Minute, func() { os.Exit(0) })
	sid, _ := unix.Getsid(0)
	groups, _ := os.Getgroups()
	dir, _ := os.Getwd()
	me := who{os.Getpid(), sid, os.Getuid(), os.Getgid(), groups, os.Args, os.Environ(), dir, nil}
	for {
		conn, err := door.AcceptUnix()
		if err != nil {
			os.Exit(1)
		}
		rc, _ := conn.SyscallConn()
		rc.Control(func(fd uintptr) {
			cred, _ := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
			me.Callers = append(me.Callers, cred.Uid)
		})
		text, _ := json.Marshal(me)
		conn.Write(text)
		conn.Close()
	}
}

// openDoor opens what this process was started with, holds what two daemons
// cannot share, and leaves when it was idle for as long as it was told.
func openDoor() (*personas.Door, error) {
	l, err := personas.Listener()
	if err != nil {
		return nil, err
	}
	door, err := personas.NewDoor(l)
	if err != nil {
		return nil, err
	}
	state, err := unix.Open(l.Addr().String()+".state", unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err == nil {
		err = unix.Flock(state, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, fmt.Errorf("another daemon has the state: %w", err)
	}
	i := slices.Index(os.Args, "--idle")
	if i < 0 {
		return door, nil
	}
	idle, err := time.ParseDuration(os.Args[i+1])
	go func() {
		for range time.Tick(idle / 10) {
			left, err := door.Leave(idle)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			if left {
				time.Sleep(rand.N(60 * time.Millisecond)) // the end takes its time
				os.Exit(0)
			}
		}
	}()
	return door, err
}

const testUID, testGID = 54321, 54322

func newHost(t *testing.T, state string) Host {
	if os.Geteuid() != 0 {
		t.Skip("only root brings daemons up")
	}
	dir := t.TempDir()
	// The owner must get to the directory, as to /run.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h := Host{
		DaemonDir: dir + "/banger", HelperDir: dir + "/banger-helper", Lock: dir + "/banger.lock", Exe: "/proc/self/exe",
		Owner: func() (Owner, error) {
			return Owner{UID: testUID, GID: testGID, Home: "/home/u", StateDir: "/home/u" + state}, nil
		},
	}
	t.Cleanup(func() {
		for network, path := range map[string]string{"unix": h.daemonSocket(), "unixpacket": h.helperSocket()} {
			if w, err := meet(network, path); err == nil {
				syscall.Kill(w.PID, syscall.SIGKILL)
			}
		}
	})
	return h
}

// meet asks a fake daemon who it is.
func meet(network, path string) (w who, err error) {
	conn, err := net.Dial(network, path)
	if err != nil {
		return w, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return w, json.NewDecoder(conn).Decode(&w)
}

func mustMeet(t *testing.T, h Host) (daemon, helper who) {
	t.Helper()
	daemon, err := meet("unix", h.daemonSocket())
	if err != nil {
		t.Fatalf("bangerd: %v", err)
	}
	helper, err = meet("unixpacket", h.helperSocket())
	if err != nil {
		t.Fatalf("banger-helper: %v", err)
	}
	return daemon, helper
}

func TestEnsureStartsBoth(t *testing.T) {
	h := newHost(t, "/state")
	// The umask must not matter.
	defer syscall.Umask(syscall.Umask(0))
	if _, err := Ensure(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	daemon, helper := mustMeet(t, h)
	if daemon.UID != testUID || daemon.GID != testGID || len(daemon.Groups) != 0 {
		t.Errorf("bangerd runs as %d:%d %v", daemon.UID, daemon.GID, daemon.Groups)
	}
	if helper.UID != 0 {
		t.Errorf("banger-helper runs as %d", helper.UID)
	}
	if want := "bangerd --standalone --owner-uid 54321 --owner-gid 54322 --state-dir /home/u/state"; strings.Join(daemon.Args, " ") != want {
		t.Errorf("bangerd's arguments: %q", daemon.Args)
	}
	if want := "banger-helper --standalone --owner-uid 54321 --owner-gid 54322"; strings.Join(helper.Args, " ") != want {
		t.Errorf("banger-helper's arguments: %q", helper.Args)
	}
	for name, w := range map[string]who{"bangerd": daemon, "banger-helper": helper} {
		if w.SID != w.PID || w.Dir != "/" {
			t.Errorf("%s: session %d of process %d, in %s", name, w.SID, w.PID, w.Dir)
		}
		if len(w.Env) != 3 || !slices.Contains(w.Env, "LISTEN_FDS=1") || !slices.Contains(w.Env, "PATH="+safePath) {
			t.Errorf("%s: environment %q", name, w.Env)
		}
	}
	for path, want := range map[string]struct {
		mode fs.FileMode
		uid  int
	}{
		h.DaemonDir:                   {fs.ModeDir | 0o700, testUID},
		h.daemonSocket():              {fs.ModeSocket | 0o600, testUID},
		h.DaemonDir + "/" + daemonLog: {0o600, testUID},
		h.HelperDir:                   {fs.ModeDir | 0o711, 0},
		h.helperSocket():              {fs.ModeSocket | 0o600, testUID},
		h.HelperDir + "/" + helperLog: {0o600, 0},
		h.Lock:                        {0o600, 0},
	} {
		info, err := os.Lstat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if uid := int(info.Sys().(*syscall.Stat_t).Uid); info.Mode() != want.mode || uid != want.uid {
			t.Errorf("%s: %s of %d, want %s of %d", path, info.Mode(), uid, want.mode, want.uid)
		}
	}
}

func TestEnsureStartsOnlyWhatIsMissing(t *testing.T) {
	h := newHost(t, "/state")
	if _, err := Ensure(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	daemon, helper := mustMeet(t, h)
	for range 3 {
		if _, err := Ensure(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	if d, hp := mustMeet(t, h); d.PID != daemon.PID || hp.PID != helper.PID {
		t.Error("daemons that ran were started again")
	}
	kill := func(w who) {
		syscall.Kill(w.PID, syscall.SIGKILL)
		for h.complete() {
			time.Sleep(5 * time.Millisecond) // the kernel closes the socket on its own time
		}
	}
	// Whoever calls now, the one that runs says whose daemons these are.
	h.Owner = func() (Owner, error) { return plainRoot(), nil }
	kill(helper)
	if _, err := Ensure(t.Context(), h); err == nil {
		t.Error("the owner of a socket has no home, and nobody said so")
	}
	h.Owner = func() (Owner, error) {
		return Owner{UID: testUID, GID: testGID, Home: "/home/u", StateDir: "/home/u/state"}, nil
	}
	if _, err := Ensure(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	d, hp := mustMeet(t, h)
	if d.PID != daemon.PID || hp.PID == helper.PID {
		t.Error("after the helper's death: want only a new helper")
	}
	kill(d)
	if _, err := Ensure(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if d2, hp2 := mustMeet(t, h); d2.PID == d.PID || hp2.PID != hp.PID {
		t.Error("after bangerd's death: want only a new bangerd")
	}
}

// A helper that still listened while it was being killed is there again when Reach
// returns: nobody else would start it for a user without rights.
func TestReachMeetsHelperThatDies(t *testing.T) {
	h := newHost(t, "/state")
	if err := ensureDir(h.HelperDir, 0o711, 0, 0); err != nil {
		t.Fatal(err)
	}
	dying, err := net.Listen("unixpacket", h.helperSocket())
	if err != nil {
		t.Fatal(err)
	}
	dying.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Lchown(h.helperSocket(), testUID, testGID); err != nil {
		t.Fatal(err)
	}
	err = Reach(t.Context(), h, func(context.Context) error {
		dying.Close()
		_, err := meet("unix", h.daemonSocket())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	mustMeet(t, h)
}

// The helper tells when somebody comes who is not the owner: nobody does.
func TestDaemonsAreAskedAsTheirOwner(t *testing.T) {
	h := newHost(t, "/state")
	for range 3 {
		if _, err := Ensure(t.Context(), h); err != nil {
			t.Fatal(err)
		}
	}
	for name, w := range map[string]func() (who, error){
		"bangerd":       func() (who, error) { return meet("unix", h.daemonSocket()) },
		"banger-helper": func() (who, error) { return meet("unixpacket", h.helperSocket()) },
	} {
		got, err := w()
		if err != nil {
			t.Fatal(err)
		}
		got.Callers = got.Callers[:len(got.Callers)-1] // this call
		if len(got.Callers) < 2 || slices.ContainsFunc(got.Callers, func(uid uint32) bool { return uid != testUID }) {
			t.Errorf("%s was asked by %v, want user %d alone", name, got.Callers, testUID)
		}
	}
	if os.Geteuid() != 0 {
		t.Error("this process has become somebody else")
	}
}

// Whoever calls at the moment that a daemon leaves gets its answer, or that of
// the next one.
func TestCallsWhileDaemonsLeave(t *testing.T) {
	h := newHost(t, "/state")
	h.Idle = 10 * time.Millisecond
	pids := make(map[int]bool)
	var mu sync.Mutex
	var all sync.WaitGroup
	const callers, calls = 3, 80
	for range callers {
		all.Go(func() {
			for range calls {
				err := Reach(t.Context(), h, func(context.Context) error {
					time.Sleep(rand.N(2 * h.Idle)) // a slow caller, or a busy host
					w, err := meet("unix", h.daemonSocket())
					mu.Lock()
					defer mu.Unlock()
					pids[w.PID] = err == nil
					return err
				})
				if err != nil {
					t.Error(err)
				}
				time.Sleep(rand.N(4 * h.Idle))
			}
		})
	}
	all.Wait()
	t.Logf("%d calls, %d daemons", callers*calls, len(pids))
	if len(pids) < 10 {
		t.Errorf("%d calls met %d daemons only: none was met while it left", callers*calls, len(pids))
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, path := range []string{h.daemonSocket(), h.helperSocket()} {
		for {
			if _, err := os.Lstat(path); os.IsNotExist(err) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s is still there", path)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// A daemon that ends with a request in its hands has left, in the words of its client too.
func TestNoAnswerIsFromADaemonThatHasLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for read, part := range map[string]int{"nothing": 0, "a part": 8, "all": 1 << 16} {
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if part > 0 {
				conn.Read(make([]byte, part))
			}
			conn.Close()
		}()
		if _, err := api.New(path, "").Version(t.Context()); !hasLeft(err) {
			t.Errorf("read %s, and it is said to be there still: %v", read, err)
		}
	}
}

func TestManyAtOnceStartOne(t *testing.T) {
	h := newHost(t, "/state")
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := Ensure(t.Context(), h); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	first, helper := mustMeet(t, h)
	for range 10 {
		if d, hp := mustMeet(t, h); d.PID != first.PID || hp.PID != helper.PID {
			t.Fatal("more than one daemon answers")
		}
	}
}

func TestDaemonThatDiesIsExplained(t *testing.T) {
	h := newHost(t, "/die")
	for range 2 { // only what the last one said is shown
		s, err := Ensure(t.Context(), h)
		if err != nil {
			t.Fatal(err)
		}
		_, err = meet("unix", h.daemonSocket())
		if err == nil {
			t.Fatal("a dead daemon answered")
		}
		want := "start bangerd: it ended: exit status 3\ncannot read the store"
		// Built for coverage, the daemon of this test says one thing more.
		got := strings.TrimSuffix(s.explain(err).Error(), "\nwarning: GOCOVERDIR not set, no coverage data emitted")
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What the owner puts into his directory leads root nowhere.
func TestOwnersLinksLeadNowhere(t *testing.T) {
	h := newHost(t, "/state")
	secret := filepath.Join(filepath.Dir(h.DaemonDir), "secret")
	if err := os.WriteFile(secret, []byte("root's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, plant := range []func(string) error{
		func(p string) error { return os.Symlink(secret, p) },
		func(p string) error { return os.Link(secret, p) },
		func(p string) error { return syscall.Mkfifo(p, 0o666) },
	} {
		if err := os.MkdirAll(h.DaemonDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(h.DaemonDir, testUID, testGID); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{daemonLog, daemonSocket} {
			if err := plant(filepath.Join(h.DaemonDir, name)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Ensure(t.Context(), h); err == nil {
			t.Error("a log that is no file of the owner's was taken")
		}
		info, err := os.Lstat(secret)
		text, _ := os.ReadFile(secret)
		if err != nil || string(text) != "root's" || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("root's file was touched: %v, %v, %q", info, err, text)
		}
		os.RemoveAll(h.DaemonDir)
	}
}

func TestDirectoryOfAnotherOwnerIsReplaced(t *testing.T) {
	h := newHost(t, "/state")
	if err := os.Mkdir(h.DaemonDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(h.DaemonDir, 11111, 11111); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", h.HelperDir); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	mustMeet(t, h)
	if _, err := os.Stat("/etc/" + helperSocket); err == nil {
		t.Error("a link was followed")
	}
}

func TestLockIsWaitedForWithinContext(t *testing.T) {
	path := t.TempDir() + "/lock"
	unlock, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := lock(ctx, path); err == nil {
		t.Fatal("taken twice")
	}
	unlock()
	again, err := lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
