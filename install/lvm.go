package install

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"banger/install/doctor"
)

// lvmHint is what keeps LVM off guests' disks. It has no directory of rules that
// an installer could write to, and looks at any block device: at the loop devices,
// too, that a disk is made of.
const lvmHint = `add these patterns to a filter that is there, or write into /etc/lvm/lvmlocal.conf: devices { global_filter = [ "r|^/dev/mapper/banger-|", "r|^/dev/loop|" ] }`

// lvm asks LVM whether it looks at guests' disks. udev's rules keep it from doing
// anything of itself; but "vgs" would show a guest's volume group as the host's.
func (s site) lvm(ctx context.Context) doctor.Result {
	settings, err := lvmSettings(ctx)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return doctor.Result{Status: doctor.OK, Detail: "there is no LVM on this host"}
	case err != nil:
		return doctor.Result{Status: doctor.Warn, Detail: "ask lvmconfig: " + err.Error(), Hint: lvmHint}
	}
	_, noList := os.Stat(s.path("/etc/lvm/devices/system.devices"))
	return judgeLVM(settings, noList == nil)
}

// judgeLVM reads what lvmconfig prints; list says whether there is a list of the
// devices that LVM may look at.
func judgeLVM(settings string, list bool) doctor.Result {
	switch {
	case list && strings.Contains(settings, "use_devicesfile=1"):
		return doctor.Result{Status: doctor.OK, Detail: "LVM looks at listed devices alone"}
	case rejects("/dev/mapper/banger-").MatchString(settings) && rejects("/dev/loop").MatchString(settings):
		return doctor.Result{Status: doctor.OK, Detail: "LVM leaves guests' disks out"}
	}
	return doctor.Result{
		Status: doctor.Warn, Hint: lvmHint,
		Detail: "LVM looks at guests' disks that are snapshots: what a guest writes can pass for a volume group of the host's",
	}
}

// rejects matches a filter that has LVM leave devices out whose names begin so.
func rejects(device string) *regexp.Regexp {
	return regexp.MustCompile(`"r(.)\^?` + regexp.QuoteMeta(device))
}

// lvmSettings asks for what decides which devices LVM looks at. It is fs.ErrNotExist
// where there is no LVM.
func lvmSettings(ctx context.Context) (string, error) {
	program := "/usr/sbin/lvmconfig" // which is in no user's PATH
	if _, err := os.Stat(program); err != nil {
		program = "/sbin/lvmconfig"
	}
	if _, err := os.Stat(program); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--type", "full", "devices/global_filter", "devices/filter", "devices/use_devicesfile")
	cmd.Env = []string{"LVM_SUPPRESS_FD_WARNINGS=1"}
	out, err := cmd.Output()
	return string(out), err
}
