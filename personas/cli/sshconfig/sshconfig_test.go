package sshconfig

import (
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
		"proxycommand \"/usr/local/bin/banger\" ssh-connect %h %p\n", "knownhostscommand \"/usr/local/bin/banger\" ssh-host-key %H\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("ssh does not see %q in\n%s", want, out)
		}
	}
	if out, err := exec.Command(ssh, "-G", "-F", f.user(), "other").Output(); err != nil || !strings.Contains(string(out), "port 2222\n") || strings.Contains(string(out), "banger") {
		t.Errorf("other hosts are not what they were: %v\n%s", err, out)
	}
	if err := f.Exclude(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(f.user())
	if got, _ := os.ReadFile(f.user()); string(got) != own || err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the owner's configuration is %q with mode %v afterwards", got, info.Mode())
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
