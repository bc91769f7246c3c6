package install

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/install/layout"
)

// validName is what useradd(8) takes by default.
var validName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`) })

// findOwner returns the user whose VMs these will be. It refuses root, users of
// the system and names that mean something else to a shell or a unit file.
func (o *Options) findOwner(h *host, old layout.Owner) (layout.Owner, error) {
	name := first(o.Owner, old.Name)
	switch {
	case name == "":
		return layout.Owner{}, fmt.Errorf("%w: whose VMs will these be? Say --owner NAME", ErrRefused)
	case !validName().MatchString(name):
		return layout.Owner{}, fmt.Errorf("%w: owner %q: a user name has small letters, digits, _ and -, at most 32", ErrRefused, name)
	case old.Name != "" && old.Name != name:
		return layout.Owner{}, fmt.Errorf("%w: banger is installed for %s: uninstall it first", ErrRefused, old.Name)
	}
	lookup := o.lookup
	if lookup == nil {
		lookup = user.Lookup
	}
	u, err := lookup(name)
	if err != nil {
		return layout.Owner{}, fmt.Errorf("%w: owner %q: no such user", ErrRefused, name)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return layout.Owner{}, fmt.Errorf("%w: owner %q: uid %q", ErrRefused, name, u.Uid)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return layout.Owner{}, fmt.Errorf("%w: owner %q: gid %q", ErrRefused, name, u.Gid)
	}
	lowest := firstUserID(h.path("/etc/login.defs"))
	switch {
	case uid == 0:
		return layout.Owner{}, fmt.Errorf("%w: the owner must not be root: VMs of root's would be root's processes", ErrRefused)
	case uid < lowest || uid == nobody || gid == 0:
		return layout.Owner{}, fmt.Errorf("%w: owner %q (uid %d, gid %d) is a user of the system; people begin at uid %d", ErrRefused, name, uid, gid, lowest)
	case uid >= o.UIDs.First && uid < o.UIDs.First+o.UIDs.Count:
		return layout.Owner{}, fmt.Errorf("%w: owner %q has uid %d, which is among those of VMs", ErrRefused, name, uid)
	case !filepath.IsAbs(u.HomeDir):
		return layout.Owner{}, fmt.Errorf("%w: owner %q has home %q", ErrRefused, name, u.HomeDir)
	}
	return layout.Owner{Name: name, UID: uid, GID: gid, Home: u.HomeDir}, nil
}

const nobody = 65534

// checkAge refuses to put an older binary in the place of a newer one.
func (o *Options) checkAge(old *layout.Record) error {
	if o.AllowDowngrade || !older(o.Build.Built, old.Built) {
		return nil
	}
	return fmt.Errorf("%w: this is %s of %s, and %s of %s is installed, as %s: --allow-downgrade of \"system install\" goes back",
		ErrRefused, o.Build.Version, o.Build.Built, old.Version, old.Built, layout.Binary(old.Prefix))
}

// older reports whether a build is older than another, by the times that they say
// of themselves. Versions have no order: they are tags, commits and "devel". A
// build that does not know its time is not older.
func older(built, than string) bool {
	a, err := time.Parse(time.RFC3339, built)
	if err != nil {
		return false
	}
	b, err := time.Parse(time.RFC3339, than)
	return err == nil && a.Before(b)
}

// firstUserID is UID_MIN of login.defs(5), 1000 where that says nothing.
func firstUserID(path string) int {
	const usual = 1000
	f, err := os.Open(path)
	if err != nil {
		return usual
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if w := strings.Fields(lines.Text()); len(w) == 2 && w[0] == "UID_MIN" {
			if n, err := strconv.Atoi(w[1]); err == nil && n > 0 {
				return n
			}
		}
	}
	return usual
}

// checkHost refuses a host that cannot take an installation. known says that there is
// a record of one, which names this prefix.
func (h *host) checkHost(o *Options, r *layout.Record, known bool) error {
	if err := h.checkForeign(r); err != nil {
		return err
	}
	if !h.owns(r.Prefix, known) {
		return fmt.Errorf("%w: %s is there and was not put there by this installer: remove it, or take another --prefix", ErrRefused, layout.Binary(r.Prefix))
	}
	if o.Root != "" {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: only root can install: say \"sudo banger system install\"", ErrRefused)
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return fmt.Errorf("%w: this host does not run systemd; \"sudo banger vm run\" works without an installation", ErrRefused)
	}
	if err := h.checkPrivate(r); err != nil {
		return err
	}
	if err := checkSource(o.binary()); err != nil {
		return err
	}
	for _, p := range []string{layout.Binary(r.Prefix), layout.ConfigDir, layout.UnitDir, layout.HelperState} {
		if err := onlyRoots(p); err != nil {
			return err
		}
	}
	return nil
}

// checkSource refuses to make root's program of a file that anybody could have put
// there: it and the directories above it may be the owner's, and must not be
// writable by all. In a directory such as /tmp only its owner can replace a file.
func checkSource(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("look at the binary: %w", err)
	}
	for p := path; ; p = filepath.Dir(p) {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return fmt.Errorf("look at %s: %w", p, err)
		}
		sticky := st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
		if st.Mode&0o002 != 0 && !sticky {
			return fmt.Errorf("%w: %s has mode %04o: anybody could have put another binary there", ErrRefused, p, st.Mode&0o7777)
		}
		if p == "/" {
			return nil
		}
	}
}

// owns reports whether a binary below prefix, if there is one, is ours: the record of an
// installation names that prefix, or a link of ours is beside it.
func (h *host) owns(prefix string, recorded bool) bool {
	if _, err := os.Lstat(h.path(layout.Binary(prefix))); recorded || errors.Is(err, fs.ErrNotExist) {
		return true
	}
	for _, link := range layout.Links(prefix) {
		if target, err := os.Readlink(h.path(link)); err == nil && target == "banger" {
			return true
		}
	}
	return false
}

// checkPrivate refuses a host on which private daemons run: their VMs and their
// network would be taken from under them. It refuses a store of somebody else's,
// too, which systemd would give to the owner.
func (h *host) checkPrivate(r *layout.Record) error {
	var st unix.Stat_t
	if err := unix.Lstat(h.path(layout.OwnerState), &st); err == nil && int(st.Uid) != r.Owner.UID && st.Uid != 0 {
		return fmt.Errorf("%w: %s belongs to uid %d, not to %s: move it away, or remove it", ErrRefused, layout.OwnerState, st.Uid, r.Owner.Name)
	}
	if _, err := os.Stat(h.path(layout.Metadata)); err == nil {
		return nil // they are our units'
	}
	for network, path := range map[string]string{"unix": layout.DaemonSocketPath, "unixpacket": layout.HelperSocketPath} {
		conn, err := net.Dial(network, h.path(path))
		if err != nil {
			continue
		}
		conn.Close()
		return fmt.Errorf("%w: private daemons run on this host: stop their VMs (\"sudo banger vm list\"), and come again after a minute, when they have left", ErrRefused)
	}
	return nil
}

// checkForeign refuses to write over what an installer of ours has not written.
func (h *host) checkForeign(r *layout.Record) error {
	for _, f := range files {
		data, err := os.ReadFile(h.path(f.path))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", f.path, err)
		}
		if !strings.HasPrefix(string(data), "# "+mark) {
			return fmt.Errorf("%w: %s is there and was not written by this installer: remove it, or what it belongs to", ErrRefused, f.path)
		}
	}
	for _, link := range layout.Links(r.Prefix) {
		switch target, err := os.Readlink(h.path(link)); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil || target != "banger":
			return fmt.Errorf("%w: %s is there and is not a link to banger", ErrRefused, link)
		}
	}
	return nil
}
