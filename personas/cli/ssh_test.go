package cli

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"banger/personas/api"
	"banger/personas/sshconfig"
)

// guestPort listens on this machine's loopback, which is the guest's as the fake has
// it, and greets.
func guestPort(t *testing.T, greeting string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, greeting)
				io.Copy(conn, conn)
			}()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestSSHConnect(t *testing.T) {
	d := newFake(t)
	d.with(func() {
		d.vms["web"] = &api.VM{ID: "id-web", Name: "web", State: api.Running, HostKey: "ssh-ed25519 AAAA"}
	})
	port := guestPort(t, "hello\n")
	cmd := d.cmd("ssh-connect", "WEB.vm", port)
	in, err := cmd.StdinPipe()
	out, oerr := cmd.StdoutPipe()
	if err := errors.Join(err, oerr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("hello\nping"))
	io.WriteString(in, "ping")
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "hello\nping" {
		t.Errorf("got %q, %v", got, err)
	}
	d.die() // no daemon is on the way
	io.WriteString(in, "pong")
	if _, err := io.ReadFull(out, got[:4]); err != nil || string(got[:4]) != "pong" {
		t.Errorf("without a daemon: %q, %v", got, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

// Nobody is waited for who does not come.
func TestSSHConnectToNobody(t *testing.T) {
	d := newFake(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	d.with(func() {
		d.vms["old"] = &api.VM{ID: "id-old", Name: "old", State: api.Running, StartedAt: time.Now().Add(-time.Hour)}
	})
	begin := time.Now()
	r := d.run("ssh-connect", "old.vm", port)
	if r.code != exitFailed || !strings.Contains(r.err, "nobody listens on port "+port) || !strings.Contains(r.err, "banger vm exec old") {
		t.Errorf("%d %q", r.code, r.err)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if r := d.run("ssh-connect", "none.vm", port); r.code != exitFailed || !strings.Contains(r.err, "no VM none") {
		t.Errorf("%d %q", r.code, r.err)
	}
}

func TestSSHHostKey(t *testing.T) {
	d := newFake(t)
	d.with(func() { d.vms["web"] = &api.VM{ID: "id-web", Name: "web", HostKey: "ssh-ed25519 AAAA"} })
	d.with(func() { d.vms["old"] = &api.VM{ID: "id-old", Name: "old"} })
	for _, host := range []string{"web.vm", "[web.vm]:2222"} {
		if r := d.call("ssh-host-key", host); r.code != 0 || r.out != host+" ssh-ed25519 AAAA\n" {
			t.Errorf("%s: %d %q %q", host, r.code, r.out, r.err)
		}
	}
	for _, host := range []string{"old.vm", "none.vm"} {
		if r := d.call("ssh-host-key", host); r.code != exitFailed || r.out != "" {
			t.Errorf("%s: %d %q %q", host, r.code, r.out, r.err)
		}
	}
}

// Where no sshd listens, the command arrives as it was given, and ends as it does.
func TestSSHThroughExec(t *testing.T) {
	if conn, err := net.Dial("tcp", "127.0.0.1:22"); err == nil {
		conn.Close()
		t.Skip("an sshd runs on this machine")
	}
	d := newFake(t)
	d.with(func() { d.vms["web"] = &api.VM{ID: "id-web", Name: "web", State: api.Running} })
	if r := d.run("vm", "ssh", "web", "--", "sh", "-c", `printf '%s|' "$@"; exit 42`, "sh", "a b", "", "$HOME", "'"); r.code != 42 || r.out != "a b||$HOME|'|" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
	if r := d.runWith(strings.NewReader("echo hi\n"), "vm", "ssh", "web"); r.code != 0 || r.out != "hi\n" {
		t.Errorf("a shell: %d %q %q", r.code, r.out, r.err)
	}
}

// A VM admits the user's key, which is made once. Root for somebody has none.
func TestAuthorizedKeys(t *testing.T) {
	d := newFake(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SUDO_UID", "")
	d.call("vm", "create", "--name", "a")
	d.call("vm", "create", "--name", "b")
	want, err := sshconfig.In(home).PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	d.with(func() {
		for _, s := range d.specs {
			if !slices.Equal(s.AuthorizedKeys, []string{want}) {
				t.Errorf("%s admits %q", s.Name, s.AuthorizedKeys)
			}
		}
	})
	if os.Geteuid() != 0 {
		return
	}
	for name, set := range map[string]func(){
		"sudo": func() { t.Setenv("SUDO_UID", "1000"); t.Setenv("HOME", t.TempDir()) },
		"a stranger's": func() {
			t.Setenv("SUDO_UID", "")
			t.Setenv("HOME", t.TempDir())
			os.Chown(os.Getenv("HOME"), 1000, 1000)
		},
		"none that exists": func() { t.Setenv("HOME", filepath.Join(home, "none")) },
	} {
		set()
		d.with(func() { d.specs = nil })
		if r := d.call("vm", "create", "--name", "c"); r.code != 0 {
			t.Errorf("%s: %d %q", name, r.code, r.err)
		}
		if got := d.spec().AuthorizedKeys; len(got) > 0 {
			t.Errorf("%s: a key of root's: %q", name, got)
		}
		if entries, _ := os.ReadDir(os.Getenv("HOME")); len(entries) > 0 {
			t.Errorf("%s: root has made %v", name, entries)
		}
		if r := d.call("ssh-config"); r.code != exitUsage {
			t.Errorf("%s: ssh-config: %d %q", name, r.code, r.err)
		}
	}
}

func TestSSHConfig(t *testing.T) {
	d := newFake(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SUDO_UID", "")
	config := filepath.Join(home, ".local/share/banger/ssh/config")
	user := filepath.Join(home, ".ssh/config")
	if r := d.call("ssh-config"); r.code != 0 || r.out != config+"\n" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
	if _, err := os.Stat(user); err == nil {
		t.Error("~/.ssh/config was made without being asked for")
	}
	if r := d.call("ssh-config", "--install"); r.code != 0 {
		t.Errorf("%d %q", r.code, r.err)
	}
	if b, err := os.ReadFile(user); err != nil || !strings.Contains(string(b), config) {
		t.Errorf("%q, %v", b, err)
	}
	if r := d.call("ssh-config", "--uninstall"); r.code != 0 || r.out != "" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
	for _, path := range []string{user, config} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	if r := d.call("ssh-config", "--install", "--uninstall"); r.code != exitUsage {
		t.Errorf("both: %d %q", r.code, r.err)
	}
}
