package main_test

import (
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"banger/testdata/host"
)

// The tests in this file are about the throw-away host itself: what the other
// end-to-end tests rest on.

func TestHostIsAMachineOfItsOwn(t *testing.T) {
	h := host.New(t, host.Config{Banger: "/bin/true"})
	if got := h.Must(host.Root, "sh", "-c", "cat /proc/1/comm; hostname; stat -c %a:%U /dev/net/tun"); !strings.HasSuffix(got, "\ntesthost\n600:root") {
		t.Errorf("host says %q", got)
	}
	if got := h.Must(host.Owner, "id"); got != "uid=1000(owner) gid=1000(owner) groups=1000(owner)" {
		t.Errorf("owner is %q", got)
	}
	if got := h.Must(host.Sudo, "sh", "-c", "echo $(id -u) $SUDO_UID"); got != "0 1000" {
		t.Errorf("sudo is %q", got)
	}
	if r := h.Input(host.Root, "hello", "sh", "-c", "cat; exit 7"); r.Stdout != "hello" || r.Code != 7 {
		t.Errorf("streams and exit code: %v", r)
	}
	if r := h.Run(host.Root, "sh", "-c", "kill -TERM $$"); r.Code != 128+15 {
		t.Errorf("killed command: %v", r)
	}
}

func TestHostReachesItsServer(t *testing.T) {
	h := host.New(t, host.Config{Banger: "/bin/true"})
	ln := h.Listen("tcp", host.Server+":80")
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "hello "+conn.RemoteAddr().String())
			conn.Close()
		}
	}()
	got := h.Must(host.Owner, "bash", "-c", "cat </dev/tcp/"+host.Server+"/80")
	if !strings.HasPrefix(got, "hello "+host.Address+":") {
		t.Errorf("server said %q", got)
	}
}

func TestHostHasATerminal(t *testing.T) {
	h := host.New(t, host.Config{Banger: "/bin/true"})
	term := h.Pty(t.Context(), host.Root, "sh", "-c", "tty; stty size; read line; echo got $line; exit 3")
	term.Expect("/dev/pts/")
	term.Expect("24 80")
	term.Type("word\n")
	term.Expect("got word")
	if code := term.Wait(); code != 3 {
		t.Errorf("exit code %d", code)
	}
}

// TestHostSeesWhatIsLeft is the negative control of every test that says that
// nothing is left.
func TestHostSeesWhatIsLeft(t *testing.T) {
	h := host.New(t, host.Config{Banger: "/bin/true"})
	before := h.Look()
	if diff := host.Difference(before, h.Look()); len(diff) > 0 {
		t.Fatalf("an idle host changes:\n%s", strings.Join(diff, "\n"))
	}
	h.Must(host.Root, "sh", "-c", `
		ip link add left0 type bridge
		ip netns add left
		nft add table inet left
		mkdir /run/left && mount -t tmpfs left /run/left
		sysctl -qw net.ipv4.ip_forward=1
		setsid sleep 1000 >/dev/null 2>&1 &`)
	waitFor(t, "the sleep", func() bool { return len(h.Pids("sleep")) == 1 }) // it is a shell's child first
	diff := host.Difference(before, h.Look())
	for _, want := range []string{"link left0", "netns left", "nft table inet left", "mount /run/left", "ip_forward 1", "process sleep 1000", "file /run/left"} {
		if !slices.ContainsFunc(diff, func(line string) bool { return strings.HasPrefix(line, "+ ") && strings.Contains(line, want) }) {
			t.Errorf("did not see %q in:\n%s", want, strings.Join(diff, "\n"))
		}
	}
	h.Kill("sleep", syscall.SIGKILL)
	h.WaitGone("sleep", patience)
}

func TestHostWithASmallFileSystem(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fs, func(t *testing.T) {
			h := host.New(t, host.Config{Banger: "/bin/true", StateFS: fs, StateMiB: 320})
			if got := h.Must(host.Root, "stat", "-f", "-c", "%T", "/var/lib"); !strings.HasPrefix(got, strings.TrimSuffix(fs, "4")) {
				t.Errorf("state is on %s, want %s", got, fs)
			}
		})
	}
}
