package etc

import (
	"os"
	"path/filepath"
	"strings"

	"banger/personas/guest/link"
)

// maxLinks is how many links are followed to /etc/resolv.conf's place.
const maxLinks = 8

// setResolver writes /etc/resolv.conf. Where that is a link into /run, as that
// of systemd-resolved, the link stays and its target is written: names resolve
// before the service is there, and the service replaces the target when it comes.
func (t Tree) setResolver(n *link.Network) error {
	if len(n.DNS) == 0 || !t.exists("/etc") {
		return nil
	}
	var b strings.Builder
	for _, a := range n.DNS {
		b.WriteString("nameserver " + a.String() + "\n")
	}
	if len(n.Search) > 0 {
		b.WriteString("search " + strings.Join(n.Search, " ") + "\n")
	}
	target := t.resolverTarget()
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return replace(target, []byte(b.String()), 0o644)
}

// resolverTarget is the file to write: what the link leads to when that is in
// /run, else the name itself, which a file then takes.
func (t Tree) resolverTarget() string {
	const conf = "/etc/resolv.conf"
	at := conf
	for range maxLinks {
		to, err := os.Readlink(t.path(at))
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(at), to)
		}
		at = filepath.Clean(to)
		// /var/run is a link to /run everywhere.
		if rest, ok := strings.CutPrefix(at, "/var/run/"); ok {
			at = "/run/" + rest
		}
	}
	if strings.HasPrefix(at, "/run/") {
		return t.path(at)
	}
	return t.path(conf)
}
