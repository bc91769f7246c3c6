package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/testdata/assets"
	"banger/testdata/host"
)

// bigBytes is how much is sent through exec and through cp.
const bigBytes = 100 << 20

func TestShellOnATerminal(t *testing.T) {
	h := bootHost(t)
	term := h.Pty(t.Context(), host.Root, "banger", "vm", "run", "--rm", "--name", "shell")
	// The shell's echo of what is typed never holds what its commands print.
	term.Type("echo first-$((40+2))\n")
	term.Expect("first-42")
	term.Type("tty; stty size\n")
	term.Expect("/dev/pts/")
	term.Expect("24 80")
	term.Resize(40, 132)
	term.Type("stty size\n")
	term.Expect("40 132")

	// Ctrl-C belongs to what runs in the guest, Ctrl-D ends the shell.
	term.Type("sleep 1000; echo code-$?\n")
	time.Sleep(500 * time.Millisecond) // until sleep runs: the shell itself would take the signal otherwise
	term.Type("\x03")
	term.Type("echo still-$((1+1))\n")
	term.Expect("still-2")
	term.Type("sh -c 'echo last-$((1+1)); exit 5'\n")
	term.Expect("last-2")
	term.Expect("# ") // before its prompt a shell does not take what is typed for keys
	term.Type("\x04")
	if code := term.Wait(); code != 5 {
		t.Errorf("exit code %d, want the last one of the shell, 5\n%s", code, term.Output())
	}
}

func TestTerminalIsRestored(t *testing.T) {
	h := bootHost(t)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web")
	term := h.Pty(t.Context(), host.Root, "sh", "-c",
		h.Banger()+" vm exec -i -t web -- sh -c 'stty raw -echo; exit 3'; echo code $?; stty -a")
	term.Expect("code 3")
	term.Expect(" icanon")
	term.Expect(" echo ")
	term.Wait()
	h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
}

func TestBigStreams(t *testing.T) {
	h := bootHost(t)
	file := filepath.Join(h.Dir(), "big")
	sum := writeRandom(t, file, bigBytes)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web", "--memory", "512m")

	t.Run("through exec", func(t *testing.T) {
		if got := stream(t, h, file, nil, "banger", "vm", "exec", "-i", "web", "--", "sha256sum"); !strings.HasPrefix(got, sum) {
			t.Errorf("the guest has %s, want %s", got, sum)
		}
		back := sha256.New()
		stream(t, h, file, back, "banger", "vm", "exec", "-i", "web", "--", "cat")
		if got := hex.EncodeToString(back.Sum(nil)); got != sum {
			t.Errorf("came back as %s, want %s", got, sum)
		}
	})
	t.Run("through cp", func(t *testing.T) {
		h.Must(host.Root, "banger", "vm", "cp", file, "web:/root/")
		if got := h.Must(host.Root, "banger", "vm", "exec", "web", "--", "sha256sum", "/root/big"); !strings.HasPrefix(got, sum) {
			t.Errorf("the guest has %s, want %s", got, sum)
		}
		back := filepath.Join(h.Dir(), "back")
		h.Must(host.Root, "banger", "vm", "cp", "web:/root/big", back)
		if got := fileSum(t, back); got != sum {
			t.Errorf("came back as %s, want %s", got, sum)
		}
	})
	h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
}

func TestCopyKeepsTrees(t *testing.T) {
	h := bootHost(t)
	tree := filepath.Join(h.Dir(), "tree")
	h.Must(host.Root, "sh", "-c", `mkdir -p "$1/sub" && cd "$1" && echo a >a && ln -s ../a sub/link && chmod 750 sub &&
		chown 12:34 a && chmod 4755 a && truncate -s 64M sparse && echo end >>sparse && ln a hard && mkfifo sub/fifo`, "sh", tree)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web")
	h.Must(host.Root, "banger", "vm", "cp", "--archive", tree, "web:/srv/")
	list := `cd "$0" && find . -printf '%P %y %m %U:%G %n %l\n' | sort; stat -c %b sparse | awk '{print ($1 < 1000) ? "sparse" : "full"}'`
	want := h.Must(host.Root, "sh", "-c", list, tree)
	if got := h.Must(host.Root, "banger", "vm", "exec", "web", "--", "sh", "-c", list, "/srv/tree"); got != want {
		t.Errorf("in the guest:\n%s\nwant:\n%s", got, want)
	}

	h.Must(host.Root, "banger", "vm", "exec", "web", "--", "sh", "-c", "rm /srv/tree/sub/fifo; ln -s /etc/passwd /srv/tree/out")
	back := filepath.Join(h.Dir(), "back")
	h.Must(host.Root, "banger", "vm", "cp", "web:/srv/tree", back)
	if got := h.Must(host.Root, "sh", "-c", "cat $0/a; readlink $0/sub/link $0/out; stat -c %b $0/sparse | awk '{print ($1 < 1000)}'", back); got != "a\n../a\n/etc/passwd\n1" {
		t.Errorf("came back as %q", got)
	}
	h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
}

func TestSignalsReachTheGuest(t *testing.T) {
	h := bootHost(t)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		cmd, out := startSaying(t, h, "ready", "banger", "vm", "exec", "web", "--", "sh", "-c",
			`trap 'echo got INT; exit 11' INT; trap 'echo got TERM; exit 12' TERM; trap 'echo got HUP; exit 13' HUP
			echo ready; while :; do sleep 0.1; done`)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		want := map[syscall.Signal]int{syscall.SIGINT: 11, syscall.SIGTERM: 12, syscall.SIGHUP: 13}[sig]
		if code := waitCode(t, cmd); code != want {
			t.Errorf("%v: exit code %d, want %d\n%s", sig, code, want, out)
		}
	}
	// A client that is gone takes its command with it.
	cmd, _ := startSaying(t, h, "ready", "banger", "vm", "exec", "web", "--", "sh", "-c", "echo ready; exec sleep 4242")
	cmd.Process.Kill()
	waitCode(t, cmd)
	h.Must(host.Root, "banger", "vm", "exec", "web", "--", "sh", "-c",
		`for i in $(seq 100); do grep -qs '[4]242' /proc/[0-9]*/cmdline || exit 0; sleep 0.1; done; exit 1`)
	h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
}

func TestRemoveOnInterrupt(t *testing.T) {
	t.Run("while the command runs", func(t *testing.T) {
		h := bootHost(t)
		cmd, out := startSaying(t, h, "ready", "banger", "vm", "run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 1000")
		cmd.Process.Signal(syscall.SIGINT)
		if code := waitCode(t, cmd); code != 130 {
			t.Errorf("exit code %d, want 130\n%s", code, out)
		}
	})
	t.Run("while the VM boots", func(t *testing.T) {
		h := bootHost(t)
		cmd := h.Cmd(t.Context(), host.Root, "banger", "vm", "run", "--rm", "--name", "early", "--", "sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the VM to be listed", func() bool {
			return h.Must(host.Root, "banger", "vm", "list", "--quiet") == "early"
		})
		cmd.Process.Signal(syscall.SIGINT)
		if code := waitCode(t, cmd); code != 130 {
			t.Errorf("exit code %d, want 130", code)
		}
	})
	t.Run("when the client is killed", func(t *testing.T) {
		h := bootHost(t)
		cmd, _ := startSaying(t, h, "ready", "banger", "vm", "run", "--rm", "--", "sh", "-c", "echo ready; exec sleep 1000")
		cmd.Process.Kill()
		waitCode(t, cmd)
		waitFor(t, "the VM to be deleted", func() bool {
			return h.Must(host.Root, "banger", "vm", "list", "--quiet") == ""
		})
	})
}

func TestSystemdGuest(t *testing.T) {
	h := bootHost(t)
	h.Must(host.Root, "banger", "image", "import", "--name", "systemd", assets.File(t, "debian-systemd.tar"))
	// A shell is there before systemd is done.
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "sys", "--image", "systemd", "--memory", "512m")
	if got := h.Must(host.Root, "banger", "vm", "exec", "sys", "--", "readlink", "/proc/1/exe"); !strings.HasSuffix(got, "/systemd") {
		t.Errorf("PID 1 is %s", got)
	}
	state := h.Run(host.Root, "banger", "vm", "exec", "sys", "--", "sh", "-c",
		"until [ -S /run/systemd/private ]; do sleep 0.1; done; systemctl is-system-running --wait")
	if got := strings.TrimSpace(state.Stdout); got != "running" {
		failed := h.Run(host.Root, "banger", "vm", "exec", "sys", "--", "systemctl", "--failed", "--no-legend")
		t.Errorf("systemd is %s: %s", got, failed.Stdout)
	}
	if got := h.Must(host.Root, "banger", "vm", "exec", "sys", "--", "systemctl", "is-active", "ssh"); got != "active" {
		t.Errorf("sshd is %s", got)
	}
	// A stop is a shutdown that systemd takes part in.
	h.Must(host.Root, "banger", "vm", "exec", "sys", "--", "sh", "-c", `printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=/bin/touch /var/stopped-well\n' >/etc/systemd/system/last.service && systemctl daemon-reload && systemctl start last`)
	h.Must(host.Root, "banger", "vm", "stop", "sys")
	h.Must(host.Root, "banger", "vm", "start", "sys")
	h.Must(host.Root, "banger", "vm", "exec", "sys", "--", "test", "-e", "/var/stopped-well")

	// The same image under banger's own init.
	if got := h.Must(host.Root, "banger", "vm", "run", "--rm", "--image", "systemd", "--init", "banger", "--", "cat", "/proc/1/comm"); got == "systemd" {
		t.Error("--init banger runs systemd")
	}
	if r := h.Run(host.Root, "banger", "vm", "run", "--rm", "--image", "debian", "--init", "image", "--", "true"); r.Code != 125 || !strings.Contains(r.Stderr, "init") {
		t.Errorf("--init image without any: %v", r)
	}
	h.Must(host.Root, "banger", "vm", "delete", "--force", "sys")
	h.Must(host.Root, "banger", "image", "delete", "systemd")
}

func TestTwoCreatesAtOnce(t *testing.T) {
	h := bootHost(t)
	// Both bring up the daemons, and both want the name.
	h.StopDaemons()
	codes := make([]int, 2)
	var wg sync.WaitGroup
	for i := range codes {
		wg.Go(func() {
			codes[i] = h.Run(host.Root, "banger", "vm", "create", "--name", "same").Code
		})
	}
	wg.Wait()
	if codes[0]+codes[1] != 125 {
		t.Errorf("exit codes %v, want one 0 and one 125", codes)
	}
	h.Must(host.Root, "banger", "vm", "delete", "same")
}

func TestTenVMsAtOnce(t *testing.T) {
	h := bootHost(t)
	const n = 10
	var wg sync.WaitGroup
	results := make([]host.Result, n)
	for i := range n {
		wg.Go(func() {
			results[i] = h.Run(host.Root, "banger", "vm", "run", "-d", "--memory", "128m", "--name", fmt.Sprintf("vm%d", i))
		})
	}
	wg.Wait()
	addresses := map[string]bool{}
	for i, r := range results {
		if r.Code != 0 {
			t.Fatalf("vm%d: %v", i, r)
		}
		name := fmt.Sprintf("vm%d", i)
		out := h.Must(host.Root, "banger", "vm", "exec", name, "--", "sh", "-c", "hostname; cat /proc/net/fib_trie | grep -B1 '/32 host LOCAL' | grep -o '[0-9.]*$' | grep -v ^127 | sort -u")
		hostname, address, _ := strings.Cut(out, "\n")
		if hostname != name || addresses[address] {
			t.Errorf("vm%d is %q at %q", i, hostname, address)
		}
		addresses[address] = true
	}
	names := strings.Fields(h.Must(host.Root, "banger", "vm", "list", "--quiet"))
	h.Must(host.Root, append([]string{"banger", "vm", "delete", "--force"}, names...)...)
}

// writeRandom writes a file that no one can compress, the same every time, and
// returns its sum.
func writeRandom(t *testing.T, file string, size int64) string {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func fileSum(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// stream runs a command with a file as its input. Output goes to out, or is
// returned where out is nil.
func stream(t *testing.T, h *host.Host, file string, out io.Writer, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := h.Cmd(ctx, host.Root, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, &stdout, &stderr
	if out != nil {
		cmd.Stdout = out
	}
	began := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	t.Logf("%s: %.1f s", strings.Join(args, " "), time.Since(began).Seconds())
	return stdout.String()
}
