package layout

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"
)

// Record is what the installer has written down: /etc/banger/install.toml.
type Record struct {
	Layout      int       `toml:"layout"`
	InstalledAt time.Time `toml:"installed_at"`
	Version     string    `toml:"version"`
	Commit      string    `toml:"commit,omitempty"`
	Built       string    `toml:"built,omitempty"`
	Prefix      string    `toml:"prefix"`
	Owner       Owner     `toml:"owner"`
	// UIDs are the users of VMs: nobody else has any of them.
	UIDs UIDs `toml:"uids"`
	// Network is the private /16 of the address plan.
	Network     netip.Prefix `toml:"network"`
	Firecracker Program      `toml:"firecracker,omitempty"`
	// Jailer is what starts Firecracker, of the same version. It is optional.
	Jailer Program `toml:"jailer,omitempty"`
}

// Owner is the user whose VMs these are.
type Owner struct {
	Name string `toml:"name"`
	UID  int    `toml:"uid"`
	GID  int    `toml:"gid"`
	Home string `toml:"home"`
}

// UIDs is a range of user ids, which are group ids too.
type UIDs struct {
	First int `toml:"first"`
	Count int `toml:"count"`
}

// Firecracker is where the installer copies Firecracker to, and the only one that an
// installed helper starts: the installer has looked at its version.
const Firecracker = HelperState + "/bin/firecracker"

// Jailer is where the installer copies Firecracker's jailer to.
const Jailer = HelperState + "/bin/jailer"

// Program is a binary that the installer has copied.
type Program struct {
	Path    string `toml:"path"`
	SHA256  string `toml:"sha256"`
	Version string `toml:"version"`
}

// maxRecord bounds the file, in bytes.
const maxRecord = 64 << 10

// ErrForeign says that a path is not root's alone, so that nothing in it counts.
var ErrForeign = errors.New("not root's alone")

// ErrNewer says that a newer banger has written the record.
var ErrNewer = errors.New("use the banger that is installed")

// Load reads the record at path. It is fs.ErrNotExist where banger is not
// installed. A file that others than root can write is refused, and so are
// unknown keys and a layout that this binary does not know.
func Load(path string) (Record, error) {
	var r Record
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return r, fmt.Errorf("read installation record: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return r, fmt.Errorf("read installation record %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 || st.Mode&0o022 != 0 {
		return r, fmt.Errorf("read installation record %s: %w", path, ErrForeign)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return r, fmt.Errorf("read installation record %s: %w", path, err)
	}
	if r, err = Decode(data); err != nil {
		return r, fmt.Errorf("read installation record %s: %w", path, err)
	}
	return r, nil
}

// Decode reads a record and checks it.
func Decode(data []byte) (Record, error) {
	var r Record
	if len(data) > maxRecord {
		return r, fmt.Errorf("more than %d bytes", maxRecord)
	}
	// What a newer layout has may be of another kind altogether.
	var age struct {
		Layout int `toml:"layout"`
	}
	if err := toml.Unmarshal(data, &age); err == nil && age.Layout > Version {
		return r, fmt.Errorf("layout %d is newer than this binary's %d: %w", age.Layout, Version, ErrNewer)
	}
	meta, err := toml.NewDecoder(bytes.NewReader(data)).Decode(&r)
	if err != nil {
		return r, err
	}
	if left := meta.Undecoded(); len(left) > 0 {
		return r, fmt.Errorf("unknown key %q", left[0].String())
	}
	return r, r.check()
}

func (r *Record) check() error {
	switch o := r.Owner; {
	case r.Layout < 1:
		return fmt.Errorf("layout %d", r.Layout)
	case o.Name == "" || o.UID <= 0 || o.GID <= 0 || !filepath.IsAbs(o.Home):
		return fmt.Errorf("owner %q with uid %d, gid %d and home %q is no ordinary user", o.Name, o.UID, o.GID, o.Home)
	case !filepath.IsAbs(r.Prefix) || strings.ContainsAny(r.Prefix, " \t\n%\"'\\"):
		return fmt.Errorf("prefix %q", r.Prefix)
	case r.UIDs.First <= 0 || r.UIDs.Count <= 0:
		return fmt.Errorf("uid range of %d from %d", r.UIDs.Count, r.UIDs.First)
	case !r.Network.IsValid():
		return errors.New("no network")
	}
	for _, p := range []string{r.Firecracker.Path, r.Jailer.Path} {
		if p != "" && !filepath.IsAbs(p) {
			return fmt.Errorf("path %q of Firecracker or its jailer", p)
		}
	}
	return nil
}

// Encode returns the record as Load reads it, in the oldest layout that can have it,
// which it sets.
func (r *Record) Encode() ([]byte, error) {
	r.Layout = withoutJailer
	if r.Jailer.Path != "" {
		r.Layout = Version
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("write installation record: %w", err)
	}
	var b bytes.Buffer
	b.WriteString("# Written by \"banger system install\", which is also how to change it.\n")
	if err := toml.NewEncoder(&b).Encode(r); err != nil {
		return nil, fmt.Errorf("write installation record: %w", err)
	}
	return b.Bytes(), nil
}
