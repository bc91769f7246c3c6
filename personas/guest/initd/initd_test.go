package initd_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/personas/guest/initd"
)

// asInit is the environment variable that makes the test binary PID 1.
const asInit = "BANGER_TEST_INIT"

func TestMain(m *testing.M) {
	if os.Getenv(asInit) != "" {
		os.Exit(beInit())
	}
	os.Exit(m.Run())
}

// beInit is PID 1 of a pid namespace, with a shell script as its agent.
func beInit() int {
	starts := 0
	agent := func() (int, error) {
		starts++
		fmt.Printf("start %d\n", starts)
		cmd := exec.Command("sh", "-c", os.Getenv(asInit))
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		return cmd.Process.Pid, nil
	}
	own := initd.Init{
		Agent:  agent,
		End:    func() error { fmt.Println("end"); return nil },
		Report: func(err error) { fmt.Println(err) },
	}
	if err := own.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// boot starts PID 1 in a pid namespace of its own, and returns its output.
func boot(t *testing.T, script string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to make a pid namespace")
	}
	// The namespace's /proc shows it to the script.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asInit+"=mount -t proc proc /proc; "+script)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS, Unshareflags: syscall.CLONE_NEWNS,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Skipf("needs a pid namespace: %v", err)
	}
	watchdog := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	t.Cleanup(func() {
		watchdog.Stop()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewScanner(out)
}

// expect reads lines until one begins with prefix.
func expect(t *testing.T, lines *bufio.Scanner, prefix string) string {
	t.Helper()
	var seen []string
	for lines.Scan() {
		if seen = append(seen, lines.Text()); strings.HasPrefix(lines.Text(), prefix) {
			return lines.Text()
		}
	}
	t.Fatalf("no %q in %q", prefix, seen)
	return ""
}

func TestReapsOrphans(t *testing.T) {
	// Grandchildren that end after their parents; the last count is after all did.
	_, lines := boot(t, `for i in 1 2 3 4 5 6 7 8 9; do sh -c 'sleep 0.2 & exit' & done; wait; sleep 1
		echo zombies $(cat /proc/[0-9]*/stat | grep -c ') Z'); sleep 1000`)
	if got := expect(t, lines, "zombies"); got != "zombies 0" {
		t.Fatal(got)
	}
}

func TestRestartsTheAgent(t *testing.T) {
	_, lines := boot(t, "exit 1")
	expect(t, lines, "start 1")
	begin := time.Now()
	expect(t, lines, "start 2")
	expect(t, lines, "start 3")
	if took := time.Since(begin); took < time.Second {
		t.Fatalf("an agent that dies at once is started again and again, after %v", took)
	}
}

func TestSignals(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGPWR, syscall.SIGUSR2} {
		t.Run(sig.String(), func(t *testing.T) {
			t.Parallel()
			cmd, lines := boot(t, "echo ready; sleep 1000")
			expect(t, lines, "ready")
			// What Go's runtime would exit for is ignored: PID 1 must not exit.
			for _, ignored := range []syscall.Signal{syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGALRM} {
				if err := cmd.Process.Signal(ignored); err != nil {
					t.Fatal(err)
				}
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			expect(t, lines, "end")
			if err := cmd.Wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}
