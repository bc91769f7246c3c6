package install

import (
	"bytes"
	"embed"
	"fmt"
	"net/netip"
	"path/filepath"
	"text/template"

	"banger/install/layout"
)

//go:embed files
var sources embed.FS

// mark begins every file that the installer writes: a file without it is somebody
// else's, and neither replaced nor removed.
const mark = "Written by \"banger system install\"; changes are lost with the next one."

// TmpfilesConf makes the directories below /run at each boot.
const TmpfilesConf = "/etc/tmpfiles.d/banger.conf"

// files is everything that the installer writes from a template.
var files = []struct{ source, path string }{
	{"banger-net.service", layout.UnitDir + "/" + layout.NetService},
	{"banger-net-watch.service", layout.UnitDir + "/" + layout.NetWatch},
	{"run-banger-helper.mount", layout.UnitDir + "/" + layout.HelperMount},
	{"banger-helper.socket", layout.UnitDir + "/" + layout.HelperSocket},
	{"banger-helper.service", layout.UnitDir + "/" + layout.HelperService},
	{"bangerd.socket", layout.UnitDir + "/" + layout.DaemonSocket},
	{"bangerd.service", layout.UnitDir + "/" + layout.DaemonService},
	{"banger-vm@.service", layout.UnitDir + "/" + layout.VMTemplate},
	{"banger.slice", layout.UnitDir + "/" + layout.VMSlice},
	{"05-banger.rules", "/etc/udev/rules.d/05-banger.rules"},
	{"modules.conf", "/etc/modules-load.d/banger.conf"},
	{"tmpfiles.conf", TmpfilesConf},
}

// values are what templates see.
type values struct {
	Mark, Bin string
	Owner     layout.Owner
	Network   netip.Prefix
}

// render returns the content of a file.
func render(source string, r *layout.Record) ([]byte, error) {
	t, err := template.New(source).Option("missingkey=error").ParseFS(sources, "files/"+source)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	var b bytes.Buffer
	err = t.ExecuteTemplate(&b, source, values{Mark: mark, Bin: filepath.Join(r.Prefix, "bin"), Owner: r.Owner, Network: r.Network})
	if err != nil {
		return nil, fmt.Errorf("fill template: %w", err)
	}
	return b.Bytes(), nil
}

// writeFiles writes all of them.
func (h *host) writeFiles(r *layout.Record) error {
	for _, f := range files {
		data, err := render(f.source, r)
		if err != nil {
			return err
		}
		if err := h.writeFile(f.path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}
