package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/testdata/host"
)

// TestCommandsOutliveTheDaemons kills each daemon, and both, under a command
// that runs in a guest.
func TestCommandsOutliveTheDaemons(t *testing.T) {
	h := bootHost(t)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web")
	bootID := func() string {
		return h.Must(host.Root, "banger", "vm", "exec", "web", "--", "cat", "/proc/sys/kernel/random/boot_id")
	}
	boot, address := bootID(), showVM(t, h, "web").Address
	for _, victims := range [][]string{{"bangerd"}, {"banger-helper"}, {"bangerd", "banger-helper"}} {
		t.Run(strings.Join(victims, " and "), func(t *testing.T) {
			cmd, out := startSaying(t, h, "ready", "banger", "vm", "exec", "web", "--", "sh", "-c", "echo ready; sleep 3; echo after; exit 33")
			for _, name := range victims {
				h.Kill(name, syscall.SIGKILL)
			}
			for _, name := range victims {
				h.WaitGone(name, patience)
			}
			if code := waitCode(t, cmd); code != 33 || !strings.Contains(out.String(), "after") {
				t.Errorf("exit code %d, want 33\n%s", code, out)
			}
			// The next command brings them up again, and they know the VM.
			if got := bootID(); got != boot {
				t.Errorf("the guest was booted anew")
			}
			if vm := showVM(t, h, "web"); vm.State != "running" || vm.Address != address {
				t.Errorf("VM is %+v", vm)
			}
		})
	}
	// Both still work: an adopted VM stops, starts and is deleted.
	h.Must(host.Root, "banger", "vm", "stop", "web")
	h.Must(host.Root, "banger", "vm", "start", "web")
	if got := bootID(); got == boot {
		t.Error("the boot id is the same after a stop and a start")
	}
	h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
}

// TestRunOutlivesTheDaemons: `run --rm` deletes its VM at the end, although
// the daemon that it began with is gone.
func TestRunOutlivesTheDaemons(t *testing.T) {
	h := bootHost(t)
	cmd, out := startSaying(t, h, "ready", "banger", "vm", "run", "--rm", "--", "sh", "-c", "echo ready; sleep 3; exit 33")
	h.Kill("bangerd", syscall.SIGKILL)
	h.Kill("banger-helper", syscall.SIGKILL)
	if code := waitCode(t, cmd); code != 33 {
		t.Errorf("exit code %d, want 33\n%s", code, out)
	}
	waitFor(t, "the VM to be deleted", func() bool {
		return h.Must(host.Root, "banger", "vm", "list", "--quiet") == ""
	})
}

// TestCreateKilledAtAnyPoint: what was not acknowledged leaves nothing.
func TestCreateKilledAtAnyPoint(t *testing.T) {
	h := bootHost(t)
	for _, after := range []time.Duration{0, 300 * time.Millisecond, time.Second} {
		for _, victim := range []string{"bangerd", "banger-helper"} {
			t.Run(fmt.Sprintf("%s after %v", victim, after), func(t *testing.T) {
				cmd := h.Cmd(t.Context(), host.Root, "banger", "vm", "run", "-d", "--name", "web")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				waitFor(t, "the VM to be listed", func() bool {
					return strings.Contains(h.Must(host.Root, "banger", "vm", "list"), "web")
				})
				time.Sleep(after) // not for anything to happen: to kill at another point
				h.Kill(victim, syscall.SIGKILL)
				code := waitCode(t, cmd)
				// Either it was made, or nothing is left of it: a stopped VM
				// that cannot be started would be neither.
				if list := h.Must(host.Root, "banger", "vm", "list"); strings.Contains(list, "web") {
					if code == 0 {
						h.Must(host.Root, "banger", "vm", "exec", "web", "--", "true")
					}
					h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
				} else if code == 0 {
					t.Error("run said that the VM is there, and it is not")
				}
			})
		}
	}
}

// TestDeadVMIsTold: a VMM that was killed is a stopped VM with a reason, not a
// running one and not another one.
func TestDeadVMIsTold(t *testing.T) {
	h := bootHost(t)
	h.Must(host.Root, "banger", "vm", "run", "-d", "--name", "web")
	cmd, out := startSaying(t, h, "ready", "banger", "vm", "exec", "web", "--", "sh", "-c", "echo ready; sleep 1000")
	h.Must(host.Root, "kill", "-9", strconv.Itoa(showVM(t, h, "web").PID))
	if code := waitCode(t, cmd); code != 125 {
		t.Errorf("exec ends with %d, want 125\n%s", code, out)
	}
	waitFor(t, "the VM to be stopped", func() bool { return showVM(t, h, "web").State == "stopped" })
	h.Must(host.Root, "banger", "vm", "start", "web")
	h.Must(host.Root, "banger", "vm", "exec", "web", "--", "true")
	h.Must(host.Root, "banger", "vm", "delete", "--force", "web")
}

// TestDamagedRecordIsTold: beside a record that was torn everything else works,
// and doctor says which it is and what to do.
func TestDamagedRecordIsTold(t *testing.T) {
	h := bootHost(t)
	h.Must(host.Root, "banger", "vm", "create", "--name", "torn")
	h.Must(host.Root, "banger", "vm", "create", "--name", "sound")
	torn := showVM(t, h, "torn")
	h.StopDaemons()
	record := filepath.Join(filepath.Dir(torn.Disk), "record.json")
	if err := os.Truncate(h.Path(record), 100); err != nil {
		t.Fatal(err)
	}
	list := h.Must(host.Root, "banger", "vm", "list")
	if !strings.Contains(list, "sound") || !strings.Contains(list, "damaged") {
		t.Errorf("vm list:\n%s", list)
	}
	giveUp := "banger vm delete --force " + filepath.Base(filepath.Dir(record))
	for _, user := range []host.User{host.Root, host.Owner} {
		r := h.Run(user, "banger", "doctor")
		told := strings.Contains(r.Stdout, filepath.Dir(record)) && strings.Contains(r.Stdout, giveUp)
		if r.Code != 1 && user == host.Root || told != (user == host.Root) {
			t.Errorf("doctor: %v", r)
		}
	}
	h.Must(host.Root, "sh", "-c", strings.Replace(giveUp, "banger", h.Banger(), 1))
	h.Must(host.Root, "banger", "vm", "delete", "sound")
	if r := h.Run(host.Root, "banger", "doctor"); !strings.Contains(r.Stdout, "all can be read") {
		t.Errorf("doctor: %v", r)
	}
}
