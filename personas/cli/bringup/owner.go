package bringup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// plainRootID is the user and group that bangerd runs as where root has no user
// behind it: bangerd is never root. It lies above what systemd gives to
// containers and below what VMs get, and no account has it.
const plainRootID = 1891237887

// plainRootState is where the state of plain root lives.
const plainRootState = "/var/lib/banger"

// StateInHome is where the state lives below the home of its owner.
const StateInHome = ".local/share/banger"

// Owner is whose VMs these are.
type Owner struct {
	UID, GID int
	Home     string
	StateDir string

	// system says that StateDir is not in a home: root makes it.
	system bool
}

// InvokingOwner returns who has called sudo, or, for plain root, the owner that
// stands for it.
func InvokingOwner() (Owner, error) { return ownerFrom(os.Getenv, user.LookupId) }

func ownerFrom(getenv func(string) string, lookup func(string) (*user.User, error)) (Owner, error) {
	sudoUID := getenv("SUDO_UID")
	if sudoUID == "" || sudoUID == "0" {
		return plainRoot(), nil
	}
	uid, err := parseID(sudoUID)
	if err != nil {
		return Owner{}, fmt.Errorf("SUDO_UID: %w", err)
	}
	o, err := userOwner(uid, lookup)
	if err != nil {
		return Owner{}, err
	}
	if g := getenv("SUDO_GID"); g != "" {
		if o.GID, err = parseID(g); err != nil {
			return Owner{}, fmt.Errorf("SUDO_GID: %w", err)
		}
	}
	return o, nil
}

func plainRoot() Owner {
	return Owner{UID: plainRootID, GID: plainRootID, Home: plainRootState, StateDir: plainRootState, system: true}
}

func userOwner(uid int, lookup func(string) (*user.User, error)) (Owner, error) {
	u, err := lookup(strconv.Itoa(uid))
	if err != nil {
		return Owner{}, fmt.Errorf("find home of user %d: %w", uid, err)
	}
	gid, err := parseID(u.Gid)
	if err != nil {
		return Owner{}, fmt.Errorf("group of user %d: %w", uid, err)
	}
	if !filepath.IsAbs(u.HomeDir) {
		return Owner{}, fmt.Errorf("home of user %d: %q is not an absolute path", uid, u.HomeDir)
	}
	return Owner{UID: uid, GID: gid, Home: u.HomeDir, StateDir: filepath.Join(u.HomeDir, StateInHome)}, nil
}

// parseID reads the id of a user or of a group. It refuses 0: nothing here ever runs
// as root for an owner.
func parseID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n == 1<<32-1 {
		return 0, fmt.Errorf("%q is no id, or root's", s)
	}
	return int(n), nil
}

// or returns the owner of the socket of a daemon that runs, or of the folder of one
// that ran, which is c, the caller, in most cases. callerErr counts only if it is the
// caller who matters.
func (c Owner) or(path string, callerErr error) (Owner, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return Owner{}, fmt.Errorf("find owner of the daemons: %w", err)
	}
	st := info.Sys().(*syscall.Stat_t)
	switch uid := int(st.Uid); {
	case callerErr == nil && uid == c.UID:
		return c, nil
	case uid == plainRootID:
		return plainRoot(), nil
	case uid == 0:
		return Owner{}, fmt.Errorf("find owner of the daemons: %s belongs to root, not to an owner", path)
	default:
		o, err := userOwner(uid, user.LookupId)
		o.GID = int(st.Gid)
		return o, err
	}
}

// makeState makes the state directory where that is root's to do. A home is
// never touched: bangerd makes what is in it.
func (o Owner) makeState() error {
	if !o.system {
		return nil
	}
	err := os.Mkdir(o.StateDir, 0o711)
	switch {
	case err == nil, errors.Is(err, fs.ErrExist) && ungiven(o.StateDir):
		// Its parent is root's, so the name cannot lead elsewhere.
		if err := os.Lchown(o.StateDir, o.UID, o.GID); err != nil {
			return fmt.Errorf("give state directory to its owner: %w", err)
		}
		return nil
	case errors.Is(err, fs.ErrExist):
		// An installation leaves its owner's there.
		if err := checkDir(o.StateDir, o.UID); err != nil {
			return fmt.Errorf("use state directory: %w: move it away, or remove it", err)
		}
		return nil
	}
	return fmt.Errorf("make state directory: %w", err)
}

// ungiven reports whether path is root's and empty: a volume that was mounted there,
// or what somebody has made who was ended before giving it to its owner.
func ungiven(path string) bool {
	if checkDir(path, root.uid) != nil {
		return false
	}
	entries, err := os.ReadDir(path)
	return err == nil && len(entries) == 0
}

// identity is a user as which root does something.
type identity struct{ uid, gid int }

var root = identity{}

func (o Owner) identity() identity { return identity{o.UID, o.GID} }
