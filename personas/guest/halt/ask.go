package halt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// systemdReboot is the signal that starts systemd's reboot.target: SIGRTMIN+5,
// counted as glibc does.
const systemdReboot = unix.Signal(34 + 5)

// Ask asks an image's init, which is PID 1, to end the guest in its own way. When
// the guest is still there after grace, or the init cannot be asked, the guest
// ends without it.
func Ask(systemd bool, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	var err error
	if systemd {
		err = askSystemd(ctx)
	} else {
		err = askCommand(ctx)
	}
	if err == nil {
		// The machine restarts from under us, or does not.
		<-ctx.Done()
	}
	return errors.Join(err, Now(killTime))
}

// askSystemd signals systemd as soon as it listens: PID 1 ignores a signal that
// it has no handler for, as systemd has none in its first moments.
func askSystemd(ctx context.Context) error {
	// Nothing tells of a handler that is set, so this looks again and again.
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for !listens(1, systemdReboot) {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("ask systemd: it does not listen: %w", ctx.Err())
		}
	}
	if err := unix.Kill(1, systemdReboot); err != nil {
		return fmt.Errorf("ask systemd: %w", err)
	}
	return nil
}

// listens reports whether a process blocks or catches the signal.
func listens(pid int, sig unix.Signal) bool {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, mask, _ := strings.Cut(lines.Text(), ":")
		if name != "SigBlk" && name != "SigCgt" {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err == nil && bits&(1<<(uint(sig)-1)) != 0 {
			return true
		}
	}
	return false
}

// askCommand runs reboot, which every other init brings and which knows how to
// ask it.
func askCommand(ctx context.Context) error {
	for _, path := range []string{"/sbin/reboot", "/usr/sbin/reboot", "/bin/reboot"} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		if err := exec.CommandContext(ctx, path).Run(); err != nil {
			return fmt.Errorf("run %q: %w", path, err)
		}
		return nil
	}
	return errors.New("ask init: the image has no reboot command")
}
