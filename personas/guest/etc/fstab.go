package etc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFstab bounds what is read of an image's file.
const maxFstab = 1 << 20

// SoftenFstab keeps the image's /etc/fstab from holding, or failing, the boot:
// entries for disks that this VM does not have, as the machine had that the image
// was made on, become optional and stop to wait soon. The file on the disk stays as
// it is; a softened copy in /run is mounted over it when there is something to
// soften.
func (t Tree) SoftenFstab() error {
	path := t.path("/etc/fstab")
	old, err := os.ReadFile(path)
	if err != nil || len(old) > maxFstab {
		return nil // none, or none that anyone could read
	}
	soft, changed := t.soften(string(old))
	if !changed {
		return nil
	}
	copied := t.path("/run/banger/fstab")
	if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
		return err
	}
	if err := replace(copied, []byte(soft), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(copied, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %q at %q: %w", copied, path, err)
	}
	return nil
}

func (t Tree) soften(text string) (soft string, changed bool) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") || !t.mayBeMissing(fields[0], fields[1]) {
			continue
		}
		options := strings.Split(fields[3], ",")
		if slices.Contains(options, "nofail") || slices.Contains(options, "noauto") {
			continue
		}
		fields[3] += ",nofail,x-systemd.device-timeout=5s"
		lines[i], changed = strings.Join(fields, "\t"), true
	}
	return strings.Join(lines, "\n"), changed
}

// mayBeMissing reports whether an entry is for a disk that is not known to be
// there. The root file system is, whatever its entry says.
func (t Tree) mayBeMissing(device, target string) bool {
	if target == "/" {
		return false
	}
	if strings.HasPrefix(device, "/dev/") {
		return !t.exists(device)
	}
	for _, tag := range []string{"UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="} {
		if strings.HasPrefix(device, tag) {
			return true
		}
	}
	return false
}
