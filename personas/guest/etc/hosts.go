package etc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"banger/personas/guest/link"
)

const (
	hostsBegin = "# banger: begin"
	hostsEnd   = "# banger: end"
	// plainHosts is what every distribution starts with.
	plainHosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	// maxHosts bounds what is read of an image's file.
	maxHosts = 1 << 20
)

// setHosts keeps the image's /etc/hosts and puts a block of banger's at its end:
// the guest's own name, as Debian has it, and what else was asked for.
func (t Tree) setHosts(hostname string, hosts []link.Host) error {
	if hostname == "" && len(hosts) == 0 || !t.exists("/etc") {
		return nil
	}
	old, err := os.ReadFile(t.path("/etc/hosts"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(old) > maxHosts {
		return fmt.Errorf("keep /etc/hosts: %d bytes are too many", len(old))
	}
	var b strings.Builder
	b.WriteString(withoutBlock(string(old)))
	b.WriteString(hostsBegin + "\n")
	if hostname != "" {
		short, _, dotted := strings.Cut(hostname, ".")
		b.WriteString("127.0.1.1\t" + hostname)
		if dotted {
			b.WriteString(" " + short)
		}
		b.WriteString("\n")
	}
	for _, h := range hosts {
		b.WriteString(h.Address.String() + "\t" + strings.Join(h.Names, " ") + "\n")
	}
	b.WriteString(hostsEnd + "\n")
	return replace(t.path("/etc/hosts"), []byte(b.String()), 0o644)
}

// withoutBlock returns the file without the block of an earlier boot, ending in
// a newline. An empty file gets what it needs.
func withoutBlock(old string) string {
	if before, rest, ok := strings.Cut(old, hostsBegin+"\n"); ok {
		_, after, _ := strings.Cut(rest, hostsEnd+"\n")
		old = before + after
	}
	if strings.TrimSpace(old) == "" {
		return plainHosts
	}
	return strings.TrimRight(old, "\n") + "\n"
}
