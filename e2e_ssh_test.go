package main_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/testdata/assets"
	"banger/testdata/host"
)

// TestSSH: after one command plain ssh and scp reach a guest by its name, with the
// key that its sshd was made with and no other; where there is no sshd, `vm ssh`
// works all the same. The VMs are begun through sudo and used without.
func TestSSH(t *testing.T) {
	for _, tool := range []string{"ssh", "scp"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	kernel, systemd, plain := assets.File(t, "linux-image-cloud.deb"), assets.File(t, "debian-systemd.tar"), assets.File(t, "debian.tar")
	h := newHost(t, host.Config{})
	h.Must(host.Sudo, "banger", "kernel", "import", kernel)
	h.Must(host.Sudo, "banger", "image", "import", "--name", "systemd", systemd)
	h.Must(host.Sudo, "banger", "image", "import", "--name", "plain", plain)
	// No address, no route: ssh needs none.
	h.Must(host.Sudo, "banger", "vm", "run", "-d", "--name", "web", "--image", "systemd", "--net", "none", "--memory", "512m")

	own := h.Must(host.Owner, "banger", "ssh-config", "--install")
	user := "/home/" + host.OwnerName + "/.ssh/config"
	if b, err := os.ReadFile(h.Path(user)); err != nil || !strings.Contains(string(b), own) {
		t.Fatalf("%s is %q, %v", user, b, err)
	}
	ssh := func(args ...string) host.Result {
		// This sshd's user has no entry in the machine's passwd, where ssh looks for ~.
		return h.Run(host.Owner, append([]string{"ssh", "-F", user, "-o", "BatchMode=yes"}, args...)...)
	}
	// At once: it waits for an sshd that comes up.
	if r := ssh("web.vm", "hostname; exit 7"); r.Code != 7 || r.Stdout != "web\n" {
		t.Fatalf("ssh: %v", r)
	}
	for _, line := range strings.Split(h.Must(host.Owner, "ssh", "-G", "-F", user, "web.vm"), "\n") {
		if strings.HasPrefix(line, "stricthostkeychecking") && line != "stricthostkeychecking true" {
			t.Error(line)
		}
	}
	// Arguments arrive as sent, exit codes as made.
	if r := h.Run(host.Owner, "banger", "vm", "ssh", "web", "--", "sh", "-c", `printf '%s|' ${SSH_CONNECTION:+ssh} "$@"; exit 42`, "sh", "a b", "", "$HOME", "'"); r.Code != 42 || r.Stdout != "ssh|a b||$HOME|'|" {
		t.Errorf("vm ssh: %v", r)
	}
	copyBySSH(t, h, user)
	streamOutlivesDaemons(t, h, user)

	// Another key at the guest's end is another machine.
	h.Must(host.Owner, "banger", "vm", "exec", "web", "--", "sh", "-c",
		"rm /etc/ssh/ssh_host_ed25519_key*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key && systemctl restart ssh")
	if r := ssh("web.vm", "true"); r.Code != 255 || !strings.Contains(r.Stderr, "verification failed") && !strings.Contains(r.Stderr, "CHANGED") {
		t.Errorf("ssh to a guest with another key: %v", r)
	}

	// The next VM of this name has a key of its own, which counts at once; and
	// without an sshd a shell still comes.
	h.Must(host.Owner, "banger", "vm", "delete", "--force", "web")
	if r := ssh("web.vm", "true"); r.Code != 255 || !strings.Contains(r.Stderr, "web") {
		t.Errorf("ssh to a VM that was deleted: %v", r)
	}
	h.Must(host.Owner, "banger", "vm", "run", "-d", "--name", "web", "--image", "plain", "--memory", "128m")
	begin := time.Now()
	if r := ssh("web.vm", "true"); r.Code != 255 || !strings.Contains(r.Stderr, "banger vm exec web") {
		t.Errorf("ssh to a VM without an sshd: %v", r)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("ssh waited %v for an sshd that the image does not have", took)
	}
	if r := h.Run(host.Owner, "banger", "vm", "ssh", "web", "--", "sh", "-c", "hostname; exit 42"); r.Code != 42 || r.Stdout != "web\n" {
		t.Errorf("vm ssh without an sshd: %v", r)
	}
	h.Must(host.Owner, "banger", "vm", "delete", "--force", "web")
	h.Must(host.Owner, "banger", "ssh-config", "--uninstall")
	if _, err := os.Stat(h.Path(user)); err == nil {
		t.Errorf("%s is left", user)
	}
	if foreign := h.Must(host.Root, "find", "/home/"+host.OwnerName, "!", "-user", host.OwnerName); foreign != "" {
		t.Errorf("in the owner's home, but not the owner's:\n%s", foreign)
	}
}

// copyBySSH copies a file there and back.
func copyBySSH(t *testing.T, h *host.Host, config string) {
	data := make([]byte, 3<<20)
	rand.Read(data)
	there, back := filepath.Join(h.Dir(), "there"), filepath.Join(h.Dir(), "back")
	if err := os.WriteFile(there, data, 0o644); err != nil {
		t.Fatal(err)
	}
	h.Must(host.Owner, "scp", "-q", "-B", "-F", config, there, "web.vm:/root/x")
	h.Must(host.Owner, "scp", "-q", "-B", "-F", config, "web.vm:/root/x", back)
	if got, err := os.ReadFile(back); err != nil || string(got) != string(data) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
	}
}

// streamOutlivesDaemons kills both daemons under an open ssh.
func streamOutlivesDaemons(t *testing.T, h *host.Host, config string) {
	cmd := h.Cmd(t.Context(), host.Owner, "ssh", "-F", config, "-o", "BatchMode=yes", "web.vm", "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	say := func(word string) {
		t.Helper()
		fmt.Fprintln(in, word)
		var got string
		if _, err := fmt.Fscanln(out, &got); err != nil || got != word {
			t.Errorf("said %q, heard %q, %v", word, got, err)
		}
	}
	say("before")
	daemons := []string{"bangerd", "banger-helper"}
	for _, name := range daemons {
		h.Kill(name, syscall.SIGKILL)
	}
	for _, name := range daemons {
		h.WaitGone(name, patience)
	}
	say("after")
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("ssh ended with %v", err)
	}
	h.Must(host.Sudo, "banger", "vm", "list") // starts them again
}
