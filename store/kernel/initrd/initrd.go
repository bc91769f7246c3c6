// Package initrd writes the archive that a guest boots from: banger's own binary
// as /init, the kernel modules that it must load, and the few nodes and directories
// that have to be there before anything is mounted.
//
//	/init                                 the binary
//	/dev/console                          for /init's first words
//	/dev /proc /run /sys                  to mount on
//	/etc/banger/modules                   paths of modules, one a line, in load order
//	/lib/modules/<release>/kernel/...     these, and those that are loaded on demand
//	/lib/modules/<release>/modules.dep    of all of them
//
// The archive is not compressed: it is read from the host's page cache, and a guest
// decompresses slower than it copies. Equal input gives equal bytes.
package initrd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"banger/store/kernel/cpio"
)

// ModuleList is where /init finds the load order.
const ModuleList = "/etc/banger/modules"

// Spec is what goes into an initrd.
type Spec struct {
	// Init is read to the end; it must give InitBytes bytes.
	Init      io.Reader
	InitBytes int64
	// Release is the kernel's; without modules it may be empty.
	Release string
	// Modules holds the module files, by the paths that follow, and modules.dep.
	Modules fs.FS
	// Boot are loaded by /init, in this order.
	Boot []string
	// OnDemand are there in case that /init wants one of them.
	OnDemand []string
}

// Build writes the initrd to w.
func Build(w io.Writer, s Spec) error {
	cw := cpio.NewWriter(w)
	err := errors.Join(cw.Dir("dev", 0o755), cw.Device("dev/console", 0o600, 5, 1),
		cw.Dir("proc", 0o555), cw.Dir("run", 0o755), cw.Dir("sys", 0o555),
		cw.File("init", 0o755, s.InitBytes, s.Init))
	if err != nil {
		return err
	}
	if err := addModules(cw, s); err != nil {
		return err
	}
	return cw.Close()
}

func addModules(cw *cpio.Writer, s Spec) error {
	files := slices.Concat(s.Boot, s.OnDemand)
	slices.Sort(files)
	files = slices.Compact(files)
	root := path.Join("lib/modules", s.Release)
	var list strings.Builder
	for _, m := range s.Boot {
		fmt.Fprintf(&list, "/%s/%s\n", root, m)
	}
	dirs := map[string]bool{}
	if err := addText(cw, dirs, ModuleList[1:], list.String()); err != nil || len(files) == 0 {
		return err
	}
	dep, err := dependencies(s.Modules, files)
	if err != nil {
		return err
	}
	if err := addText(cw, dirs, root+"/modules.dep", dep); err != nil {
		return err
	}
	for _, m := range files {
		if err := addDirs(cw, dirs, path.Dir(root+"/"+m)); err != nil {
			return err
		}
		if err := addModule(cw, s.Modules, m, root+"/"+m); err != nil {
			return err
		}
	}
	return nil
}

func addModule(cw *cpio.Writer, modules fs.FS, from, to string) error {
	f, err := modules.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return cw.File(to, 0o644, info.Size(), f)
}

func addText(cw *cpio.Writer, dirs map[string]bool, name, text string) error {
	if err := addDirs(cw, dirs, path.Dir(name)); err != nil {
		return err
	}
	return cw.File(name, 0o644, int64(len(text)), strings.NewReader(text))
}

// addDirs adds dir and those above it, each once.
func addDirs(cw *cpio.Writer, done map[string]bool, dir string) error {
	if dir == "." || done[dir] {
		return nil
	}
	if err := addDirs(cw, done, path.Dir(dir)); err != nil {
		return err
	}
	done[dir] = true
	return cw.Dir(dir, 0o755)
}

// dependencies returns the lines of modules.dep that are about files.
func dependencies(modules fs.FS, files []string) (string, error) {
	data, err := fs.ReadFile(modules, "modules.dep")
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, ":")
		if _, found := slices.BinarySearch(files, name); found {
			out.WriteString(line)
		}
	}
	return out.String(), nil
}
