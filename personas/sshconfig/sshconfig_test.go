package sshconfig

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyIsMadeOnce(t *testing.T) {
	f := In(t.TempDir())
	line, err := f.EnsureKey()
	if err != nil || !strings.HasPrefix(line, "ssh-ed25519 ") {
		t.Fatalf("%q, %v", line, err)
	}
	if again, err := f.EnsureKey(); err != nil || again != line {
		t.Errorf("the second time: %q, %v", again, err)
	}
	info, err := os.Stat(f.Key())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("private key: %v, %v", info.Mode(), err)
	}
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("needs ssh-keygen")
	}
	out, err := exec.Command(keygen, "-y", "-f", f.Key()).Output()
	if err != nil || strings.Fields(string(out))[1] != strings.Fields(line)[1] {
		t.Errorf("ssh takes it for %q, %v", out, err)
	}
	if out, err := exec.Command(keygen, "-q", "-p", "-N", "a passphrase", "-f", f.Key()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if again, err := f.EnsureKey(); err != nil || again != line {
		t.Errorf("with a passphrase: %q, %v", again, err)
	}
	if err := os.WriteFile(f.Key(), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := f.EnsureKey(); err == nil || !strings.Contains(err.Error(), f.Key()) {
		t.Errorf("of no key: %q, %v", again, err)
	}
}

// What ssh itself makes of the configuration, included from the owner's.
func TestConfig(t *testing.T) {
	f := In(t.TempDir())
	if err := f.WriteConfig("/usr/local/bin/banger"); err != nil {
		t.Fatal(err)
	}
	const own = "Host other\n\tPort 2222\n"
	if err := os.Mkdir(filepath.Join(f.home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.user(), []byte(own), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again changes nothing
		if err := f.Include(); err != nil {
			t.Fatal(err)
		}
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("needs ssh")
	}
	out, err := exec.Command(ssh, "-G", "-F", f.user(), "web.vm").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"user root\n", "identityfile " + f.Key() + "\n", "stricthostkeychecking true\n",
		"proxycommand '/usr/local/bin/banger' ssh-connect '%h' %p\n", "forwardagent no\n", "updatehostkeys false\n", "knownhostscommand \"/usr/local/bin/banger\" ssh-host-key %H\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("ssh does not see %q in\n%s", want, out)
		}
	}
	if out, err := exec.Command(ssh, "-G", "-F", f.user(), "other").Output(); err != nil || !strings.Contains(string(out), "port 2222\n") || strings.Contains(string(out), "banger") {
		t.Errorf("other hosts are not what they were: %v\n%s", err, out)
	}
	if err := f.Check(t.Context(), ssh); err != nil {
		t.Error(err)
	}
	if err := f.Exclude(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(f.Config()); err == nil {
		t.Error("our own configuration is still there")
	}
	info, err := os.Stat(f.user())
	if got, _ := os.ReadFile(f.user()); string(got) != own || err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the owner's configuration is %q with mode %v afterwards", got, info.Mode())
	}
}

// A name is no way into the user's shell, even where ssh lets it through. This ssh
// may refuse it, so the shell is asked directly.
func TestNamesAreNoCommands(t *testing.T) {
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("needs ssh")
	}
	f := In(t.TempDir())
	dir := t.TempDir()
	proof, asked, proxy := filepath.Join(dir, "proof"), filepath.Join(dir, "asked"), filepath.Join(dir, "proxy")
	if err := os.WriteFile(proxy, []byte("#!/bin/sh\nprintf '%s|%s|%s' \"$#\" \"$2\" \"$3\" >"+asked+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteConfig(proxy); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(ssh, "-G", "-F", f.Config(), "web.vm").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, command, _ := strings.Cut(string(out), "\nproxycommand ")
	command, _, _ = strings.Cut(command, "\n")
	for _, name := range []string{"web.vm", "$(touch " + proof + ").vm", "`touch " + proof + "`.vm", ";touch " + proof + ";.vm", "\"|touch " + proof + "|\".vm", "-x\\ y.vm"} {
		line := strings.NewReplacer("%h", name, "%p", "22").Replace(command)
		if out, err := exec.Command("sh", "-c", "exec "+line).CombinedOutput(); err != nil {
			t.Errorf("%q: %v: %s", line, err, out)
		}
		if got, err := os.ReadFile(asked); err != nil || string(got) != "3|"+name+"|22" {
			t.Errorf("%q arrived as %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("a name was run")
	}
	// What could end the quotes is no VM's name.
	out, err = exec.Command(ssh, "-G", "-F", f.Config(), "--", "a'b.vm").Output()
	if err == nil && strings.Contains(string(out), "proxycommand") {
		t.Error("a name with a quote is taken for a VM's")
	}
}

// An ssh that does not know what we write says so.
func TestCheck(t *testing.T) {
	f := In(t.TempDir())
	if err := f.WriteConfig("/usr/local/bin/banger"); err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho Bad configuration option >&2; exit 255\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(t.Context(), old); err == nil || !strings.Contains(err.Error(), "Bad configuration option") {
		t.Errorf("got %v", err)
	}
}

// Where there was no configuration before there is none after.
func TestExcludeLeavesNothing(t *testing.T) {
	f := In(t.TempDir())
	for range 2 {
		if err := f.Include(); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(f.user()); err != nil || info.Mode() != 0o600 {
			t.Errorf("made as %v, %v", info, err)
		}
		for range 2 {
			if err := f.Exclude(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := os.Lstat(f.user()); err == nil {
			t.Error("an empty configuration is left")
		}
	}
}

// A configuration that is a link stays one.
func TestLinkStays(t *testing.T) {
	f := In(t.TempDir())
	real := filepath.Join(f.home, "dotfiles")
	if err := errors.Join(os.Mkdir(filepath.Join(f.home, ".ssh"), 0o700), os.WriteFile(real, []byte("Host a\n"), 0o600), os.Symlink("../dotfiles", f.user())); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Include(), f.Exclude()); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(f.user()); err != nil || to != "../dotfiles" {
		t.Errorf("it is %q, %v", to, err)
	}
	if got, err := os.ReadFile(real); err != nil || string(got) != "Host a\n" {
		t.Errorf("it has %q, %v", got, err)
	}
}

// Processes that make the key at once agree on it.
func TestKeyIsMadeByOne(t *testing.T) {
	f := In(t.TempDir())
	lines := make(chan string)
	for range 8 {
		go func() {
			line, err := f.EnsureKey()
			if err != nil {
				t.Error(err)
			}
			lines <- line
		}()
	}
	first := <-lines
	for range 7 {
		if line := <-lines; line != first {
			t.Errorf("one has %q, another %q", first, line)
		}
	}
	if entries, err := os.ReadDir(f.dir()); err != nil || len(entries) != 2 {
		t.Errorf("there are %v, %v", entries, err)
	}
}

func TestHalfOfTheMarkersIsNotTouched(t *testing.T) {
	f := In(t.TempDir())
	if err := os.Mkdir(filepath.Join(f.home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	const broken = begin + "\nHost x\n"
	if err := os.WriteFile(f.user(), []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	if f.Include() == nil || f.Exclude() == nil {
		t.Error("it was written")
	}
	if got, _ := os.ReadFile(f.user()); string(got) != broken {
		t.Errorf("it is %q now", got)
	}
}

func TestPathsThatSSHCannotBeTold(t *testing.T) {
	if err := In(t.TempDir()).WriteConfig("/opt/100%/banger"); err == nil {
		t.Error("it was written")
	}
}
