package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/install/doctor"
	"banger/install/layout"
)

// mend is what helps against most of what can be found.
const mend = `"sudo banger doctor --fix" puts it in order; VMs run on`

// Checks are the doctor's checks of an installation. asks is the binary that asks,
// and services asks those that run for their versions, by name.
func Checks(r layout.Record, asks Build, services func(context.Context) (map[string]string, error)) []doctor.Check {
	s := site{record: &r}
	return []doctor.Check{
		{Name: "version", Run: func(context.Context) doctor.Result { return s.version(asks) }},
		{Name: "services", Run: func(ctx context.Context) doctor.Result { return s.services(services(ctx)) }},
		{Name: "files", Run: s.files},
		{Name: "overrides", Run: s.overrides},
		{Name: "ownership", Run: s.ownership},
		{Name: "sockets", Run: s.sockets},
		{Name: "units", Run: s.units},
		{Name: "installed vmm", Run: s.firecracker},
		{Name: "names", Run: s.names},
		{Name: "udev", Run: s.udev},
		{Name: "lvm", Run: s.lvm},
	}
}

// site is an installation to look at.
type site struct {
	record *layout.Record
	root   string // stands for "/"
}

func (s site) path(p string) string { return filepath.Join(s.root, p) }

// version compares the binary that asks with the one that is installed.
func (s site) version(asks Build) doctor.Result {
	r := s.record
	switch {
	case asks.Version == r.Version && asks.Built == r.Built:
		return doctor.Result{Status: doctor.OK, Detail: asks.Version + ", which is installed"}
	case older(asks.Built, r.Built):
		return doctor.Result{
			Status: doctor.Warn, Detail: fmt.Sprintf("this is %s, older than %s, which is installed", asks.Version, r.Version),
			Hint: "use " + layout.Binary(r.Prefix),
		}
	}
	return doctor.Result{
		Status: doctor.Warn, Detail: fmt.Sprintf("this is %s, and %s is installed", asks.Version, r.Version),
		Hint: `"sudo banger system install" with the newer one upgrades`,
	}
}

// services compares what runs with what is installed.
func (s site) services(versions map[string]string, err error) doctor.Result {
	if err != nil {
		return doctor.Result{Status: doctor.Info, Detail: "not asked: " + err.Error(), Hint: "run this as root, or as " + s.record.Owner.Name}
	}
	for _, name := range slices.Sorted(maps.Keys(versions)) {
		if v := versions[name]; v != s.record.Version {
			return doctor.Result{
				Status: doctor.Fail, Detail: fmt.Sprintf("%s runs as %s, and %s is installed", name, v, s.record.Version),
				Hint: `"sudo banger system restart" starts what is installed; VMs run on`,
			}
		}
	}
	return doctor.Result{Status: doctor.OK, Detail: "both run as " + s.record.Version}
}

// files compares what the installer has written with what it would write.
func (s site) files(context.Context) doctor.Result {
	var wrong []string
	for _, f := range files {
		want, err := render(f.source, s.record)
		if err != nil {
			return doctor.Result{Status: doctor.Fail, Detail: err.Error(), Hint: mend}
		}
		got, err := os.ReadFile(s.path(f.path))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			wrong = append(wrong, f.path+" is missing")
		case err != nil:
			wrong = append(wrong, err.Error())
		case !bytes.Equal(got, want):
			wrong = append(wrong, f.path+" was changed")
		}
	}
	if len(wrong) > 0 {
		return doctor.Result{Status: doctor.Fail, Detail: strings.Join(wrong, ", "), Hint: mend}
	}
	return doctor.Result{Status: doctor.OK, Detail: fmt.Sprintf("%d files are what the installer writes", len(files))}
}

// overrides lists drop-ins, which may take a unit's sandbox away.
func (s site) overrides(context.Context) doctor.Result {
	var found []string
	for _, unit := range append(services, layout.VMTemplate, layout.VMSlice) {
		for _, dir := range []string{"/etc/systemd/system", "/run/systemd/system", "/etc/systemd/system.control"} {
			names, err := filepath.Glob(s.path(filepath.Join(dir, unit+".d/*.conf")))
			if err != nil {
				return doctor.Result{Status: doctor.Fail, Detail: err.Error()}
			}
			found = append(found, names...)
		}
	}
	if len(found) > 0 {
		return doctor.Result{
			Status: doctor.Warn, Detail: "units are changed by " + strings.Join(found, ", "),
			Hint: "make sure that you know why: \"systemd-analyze security bangerd banger-helper\"",
		}
	}
	return doctor.Result{Status: doctor.OK, Detail: "no unit is changed by a drop-in"}
}

// ownership proves that only root can change what root executes or believes.
func (s site) ownership(context.Context) doctor.Result {
	paths := []string{layout.Binary(s.record.Prefix), layout.Metadata, layout.HelperState, layout.HelperRun}
	for _, f := range files {
		paths = append(paths, f.path)
	}
	for _, p := range paths {
		if err := onlyRoots(s.path(p)); err != nil {
			return doctor.Result{Status: doctor.Fail, Detail: err.Error(), Hint: "give it to root, and find out who has changed it"}
		}
	}
	return doctor.Result{Status: doctor.OK, Detail: fmt.Sprintf("%d paths, up to /, are root's alone", len(paths))}
}

// sockets looks at who may talk to the services.
func (s site) sockets(context.Context) doctor.Result {
	for _, want := range []struct {
		path     string
		uid, gid int
	}{
		{layout.DaemonSocketPath, s.record.Owner.UID, s.record.Owner.GID},
		{layout.HelperSocketPath, s.record.Owner.UID, s.record.Owner.GID},
		{layout.LaunchSocketPath, 0, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(s.path(want.path), &st); err != nil {
			return doctor.Result{Status: doctor.Fail, Detail: fmt.Sprintf("%s: %v", want.path, err), Hint: mend}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Mode&0o777 != 0o600 || int(st.Uid) != want.uid || int(st.Gid) != want.gid {
			return doctor.Result{
				Status: doctor.Fail, Hint: mend,
				Detail: fmt.Sprintf("%s has mode %04o and belongs to %d:%d, want 0600 and %d:%d", want.path, st.Mode&0o777, st.Uid, st.Gid, want.uid, want.gid),
			}
		}
	}
	return doctor.Result{Status: doctor.OK, Detail: "each admits its user alone"}
}

// units asks systemd whether everything is up.
func (s site) units(ctx context.Context) doctor.Result {
	units, err := Units(ctx)
	if err != nil {
		return doctor.Result{Status: doctor.Fail, Detail: err.Error()}
	}
	for _, u := range units {
		if !strings.HasPrefix(u.Active, "active") {
			return doctor.Result{Status: doctor.Fail, Detail: u.Name + " is " + u.Active, Hint: mend}
		}
	}
	return doctor.Result{Status: doctor.OK, Detail: fmt.Sprintf("%d units are active", len(units))}
}

// firecracker compares the copies with what was recorded of them.
func (s site) firecracker(context.Context) doctor.Result {
	p, jailer := s.record.Firecracker, s.record.Jailer
	if p.Path == "" {
		return doctor.Result{Status: doctor.Info, Detail: "no Firecracker: VMs run in QEMU", Hint: `"sudo banger system install --firecracker PATH" copies one`}
	}
	if r := s.asRecorded(p, "--firecracker"); r.Status != doctor.OK {
		return r
	}
	if jailer.Path == "" {
		return doctor.Result{Status: doctor.OK, Detail: fmt.Sprintf("Firecracker %s, with the digest that was recorded", p.Version)}
	}
	if r := s.asRecorded(jailer, "--jailer"); r.Status != doctor.OK {
		return r
	}
	if p.Version != jailer.Version {
		return doctor.Result{
			Status: doctor.Fail, Detail: fmt.Sprintf("Firecracker is %s, and its jailer %s", p.Version, jailer.Version),
			Hint: "\"sudo banger system install --firecracker PATH --jailer PATH\" copies two of one version",
		}
	}
	return doctor.Result{Status: doctor.OK, Detail: fmt.Sprintf("Firecracker and jailer %s, with the digests that were recorded", p.Version)}
}

// asRecorded compares one program, which option copies.
func (s site) asRecorded(p layout.Program, option string) doctor.Result {
	again := fmt.Sprintf("\"sudo banger system install %s PATH\" copies it again", option)
	f, err := os.Open(s.path(p.Path))
	if err != nil {
		return doctor.Result{Status: doctor.Fail, Detail: err.Error(), Hint: again}
	}
	defer f.Close()
	if got, err := digest(f); err != nil || got != p.SHA256 {
		return doctor.Result{Status: doctor.Fail, Detail: p.Path + " is not what was installed", Hint: "find out who has changed it; " + again}
	}
	return doctor.Result{Status: doctor.OK}
}

// probeName is a name that bangerd always answers, with the gateway's address; no
// VM can have it.
const probeName = "_banger.vm"

// names asks the host's own resolver.
func (s site) names(ctx context.Context) doctor.Result {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a := s.record.Network.Addr().As4()
	gateway := net.IPv4(a[0], a[1], 0, 1).String()
	got, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, probeName+".")
	if err == nil && len(got) == 1 && got[0] == gateway {
		return doctor.Result{Status: doctor.OK, Detail: "the host's resolver finds names below .vm"}
	}
	detail := fmt.Sprintf("the host's resolver does not find %s: %v", probeName, err)
	if err == nil {
		detail = fmt.Sprintf("the host's resolver says that %s is %s", probeName, strings.Join(got, ", "))
	}
	hint := "VMs find each other all the same. For the host, run systemd-resolved and let /etc/resolv.conf be its stub; or send queries for .vm to " + gateway
	if _, err := os.Stat(s.path("/run/systemd/resolve/io.systemd.Resolve")); err == nil {
		hint = "\"resolvectl status banger0\" must name " + gateway + "; \"sudo banger system restart\" tells it again"
	}
	return doctor.Result{Status: doctor.Warn, Detail: detail, Hint: hint}
}

// udev sees whether somebody reads the rules that keep scanners off guests' disks.
func (s site) udev(context.Context) doctor.Result {
	if _, err := os.Stat(s.path("/run/udev/control")); err != nil {
		return doctor.Result{Status: doctor.Info, Detail: "udev does not run: nobody scans guests' disks"}
	}
	return doctor.Result{Status: doctor.OK, Detail: "udev runs, and has the rules"}
}
