package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/testdata/assets"
	"banger/testdata/host"
)

// benchExec compares a command through banger with one through ssh, in the same
// guest. Both clients are started anew for each command, as people do.
func benchExec(b *testing.B, t *table) {
	for _, tool := range []string{"ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skipf("needs %s", tool)
		}
	}
	image := assets.File(b, "debian-systemd.tar")
	h := benchHost(b, banger(b))
	h.Must(host.Root, "banger", "image", "import", "--name", "systemd", image)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web", "--image", "systemd", "--memory", "512m")
	vm, err := client(h).VM(b.Context(), "web")
	if err != nil {
		b.Fatal(err)
	}
	key := filepath.Join(h.Dir(), "key")
	h.Must(host.Root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
	h.Must(host.Root, "banger", "vm", "exec", "web", "--", "mkdir", "-p", "-m", "700", "/root/.ssh")
	h.Must(host.Root, "banger", "vm", "cp", key+".pub", "web:/root/.ssh/authorized_keys")
	ssh := []string{"ssh", "-F", "none", "-i", key, "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "root@" + vm.Address, "true"}
	awaitSuccess(b, h, ssh)

	const turns = 7
	times := inTurn(turns,
		func() time.Duration {
			return timed(b, func() error { h.Must(host.Root, "banger", "vm", "exec", "web", "--", "true"); return nil })
		},
		func() time.Duration { return timed(b, func() error { h.Must(host.Root, ssh...); return nil }) },
	)
	t.compare("vm exec -- true", times[0], "ssh to the same guest", times[1], 0.1)
}

// awaitSuccess waits until a command of the host succeeds: a guest's sshd comes
// up after its agent.
func awaitSuccess(b *testing.B, h *host.Host, argv []string) {
	b.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		r := h.Run(host.Root, argv...)
		if r.Code == 0 {
			return
		}
		if time.Now().After(deadline) {
			b.Fatalf("%s: %v", strings.Join(argv, " "), r)
		}
		time.Sleep(500 * time.Millisecond)
	}
}

// benchCLI compares the CLI's start with that of a Go program that does nothing. What
// is the least that one can cost which links banger's API, and has its command line
// parsed as banger's is, is told beside it.
func benchCLI(b *testing.B, t *table) {
	start := func(program string, args ...string) func() time.Duration {
		program = installed(b, program)
		return func() time.Duration {
			return timed(b, func() error { return exec.Command(program, args...).Run() })
		}
	}
	const turns = 101
	times := inTurn(turns,
		start(banger(b), "version"),
		start(goProgram(b, "empty", "package main\n\nfunc main() {}\n")),
		start(goProgram(b, "http", "package main\n\nimport _ \"net/http\"\n\nfunc main() {}\n")),
		start(goProgram(b, "kong", oneCommand), "version"),
	)
	t.compare("banger version", times[0], "an empty Go program", times[1], 1.6)
	t.compare("  an empty one that links net/http", times[2], "an empty Go program", times[1], 0)
	t.compare("  and has kong parse its one command", times[3], "an empty Go program", times[1], 0)
}

// oneCommand is a program whose one command does nothing.
const oneCommand = `package main

import (
	_ "net/http"

	"github.com/alecthomas/kong"
)

type version struct{}

func (version) Run() error { return nil }

func main() {
	var grammar struct {
		Version version ` + "`cmd:\"\"`" + `
	}
	if err := kong.Parse(&grammar).Run(); err != nil {
		panic(err)
	}
}
`

// goProgram builds a program of one file.
func goProgram(b *testing.B, name, text string) string {
	b.Helper()
	source := filepath.Join(b.TempDir(), name+".go")
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	program, err := build(name, source)
	if err != nil {
		b.Fatal(err)
	}
	return program
}

// installed copies a program. The linker writes by page, so that the kernel has
// its file in single ones, and each costs a fault; nobody installs a file that way.
func installed(b *testing.B, program string) string {
	b.Helper()
	text, err := os.ReadFile(program)
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), filepath.Base(program))
	if err := os.WriteFile(file, text, 0o700); err != nil {
		b.Fatal(err)
	}
	return file
}

// benchIdle tells what the daemons need once they have run a VM. A page that
// both map counts half for each.
func benchIdle(b *testing.B, t *table) {
	h := benchHost(b, banger(b))
	h.Must(host.Root, "banger", "vm", "run", "--rm", "--", "true")
	for _, name := range []string{"bangerd", "banger-helper"} {
		rss := memory(b, h, name, "smaps_rollup", "Rss:")
		pss := memory(b, h, name, "smaps_rollup", "Pss:")
		t.tell("idle memory of "+name, "%s", mib(pss))
		t.rows[len(t.rows)-1].against = fmt.Sprintf("resident %s", mib(rss))
	}
}
