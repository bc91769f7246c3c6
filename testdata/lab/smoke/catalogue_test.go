package smoke_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/testdata/lab/rig"
	"banger/testdata/lab/talk"
)

// An import takes a second here and a minute on an emulated machine, so that a
// scenario that is not about imports says "catalogue" instead. What it then gets
// was imported once, on a host of its own.

// wantsCatalogue matches a scenario that says so.
var wantsCatalogue = regexp.MustCompile(`(?m)^catalogue\b`)

// catalogueFile is the name of the catalogue among the shared files.
const catalogueFile = "catalogue.tar"

var (
	catalogueOnce sync.Once
	catalogueErr  error
)

// withCatalogue returns files and a catalogue, which it makes the first time.
func withCatalogue(t testing.TB, files map[string]string, coverage string) (map[string]string, error) {
	file := filepath.Join(coverage, "..", catalogueFile)
	catalogueOnce.Do(func() { catalogueErr = makeCatalogue(t.Context(), files, file) })
	files = maps.Clone(files)
	files[catalogueFile] = file
	return files, catalogueErr
}

func makeCatalogue(ctx context.Context, files map[string]string, file string) (err error) {
	host, err := rig.Start(ctx, rig.Config{Tier: rig.Namespaces, Files: files})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	const script = `/root/banger kernel import --name debian /root/linux-image-cloud.deb
/root/banger image import --name debian /root/debian.tar
pkill -TERM -f ^bangerd; while pgrep -f ^bangerd >/dev/null; do sleep 0.1; done`
	r, err := host.Run(ctx, talk.Command{User: "root", Args: []string{"sh", "-ec", script}})
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return errors.New(r.String())
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	pack := talk.Command{User: "root", Args: []string{"tar", "-C", "/var/lib/banger", "--sparse", "-c", "kernels", "images"}}
	p, err := host.Start(pack, talk.Streams{Stdout: out})
	if err != nil {
		return err
	}
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		return fmt.Errorf("pack catalogue: exit code %d: %v", code, err)
	}
	return out.Close()
}

// catalogue unpacks it where bangerd keeps its own, as bangerd's.
func catalogue(ts *testscript.TestScript, neg bool, args []string) {
	const script = `if systemctl --quiet is-enabled bangerd.socket 2>/dev/null; then
	stop='systemctl stop bangerd.socket bangerd.service' start='systemctl start bangerd.socket bangerd.service'
else
	stop='pkill -TERM -f ^bangerd' start=true
	/root/banger image list >/dev/null # makes what it keeps its state in
fi
$stop
while pgrep -f ^bangerd >/dev/null; do sleep 0.1; done
cd /var/lib/banger
tar --sparse -xf /srv/lab/` + catalogueFile + `
chown -R --reference=. kernels images
$start`
	as("root")(ts, neg, []string{"sh", "-ec", script})
}
