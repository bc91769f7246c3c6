package names

import (
	"bufio"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// HostConfig is where the host says which resolvers it asks.
const HostConfig = "/etc/resolv.conf"

const (
	// checkEvery bounds how often the file is looked at.
	checkEvery = time.Second
	maxConfig  = 64 << 10
	dnsPort    = 53
)

// Upstream returns a function that returns the resolvers in the resolv.conf(5)
// at path, and reads it again when it has changed. A resolver on the host's
// loopback is fine, because it is asked from the host. A file that cannot be
// read keeps what was known before.
func Upstream(path string) func() []netip.AddrPort {
	u := &upstream{path: path}
	return u.get
}

type upstream struct {
	path string

	// mu guards the fields that follow, also while the file is read: others
	// would only read it too.
	mu      sync.Mutex
	checked time.Time
	seen    os.FileInfo
	servers []netip.AddrPort
}

func (u *upstream) get() []netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	if now.Sub(u.checked) < checkEvery {
		return u.servers
	}
	u.checked = now
	info, err := os.Stat(u.path)
	if err != nil || u.seen != nil && os.SameFile(info, u.seen) && info.ModTime().Equal(u.seen.ModTime()) && info.Size() == u.seen.Size() {
		return u.servers
	}
	f, err := os.Open(u.path)
	if err != nil {
		return u.servers
	}
	defer f.Close()
	u.seen, u.servers = info, nameservers(f)
	return u.servers
}

// nameservers reads the addresses of the resolvers. Lines that it does not
// understand are left out, as glibc does.
func nameservers(r io.Reader) []netip.AddrPort {
	var out []netip.AddrPort
	lines := bufio.NewScanner(io.LimitReader(r, maxConfig))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, netip.AddrPortFrom(addr, dnsPort))
		}
	}
	return out
}
