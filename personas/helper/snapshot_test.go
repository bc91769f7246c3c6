package helper

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/fc/jail"
	"banger/ops"
	"banger/store/disk/cow"
	"banger/store/disk/dm"
)

// snapshotLab has what passes for a kernel with snapshots, and notes the disks of
// the jails that it is to build.
func snapshotLab(t *testing.T) (l *lab, asked *[]jail.Disk) {
	l = newLab(t)
	asked = new([]jail.Disk)
	l.snapshots = func() error { return nil }
	l.startVMM = func(_ context.Context, s *jail.Spec) (*jail.Process, error) {
		*asked = append([]jail.Disk{}, s.Disks...)
		return nil, errEnough
	}
	return l, asked
}

var errEnough = errors.New("enough")

const imageBytes = 16 * cow.ChunkBytes

// sized is a file of the owner's with this beginning and size.
func (l *lab) sized(t *testing.T, begins []byte, size int64, flags int) *os.File {
	t.Helper()
	f := ownFile(t, filepath.Join(l.dir, "disks"), string(begins), flags)
	must(t, os.Truncate(f.Name(), size))
	must(t, os.Chmod(f.Name(), 0o644))
	return f
}

// What is no snapshot is refused before anything is made of it, whatever else is
// right.
func TestSnapshotsThatAreRefused(t *testing.T) {
	l, asked := snapshotLab(t)
	r := l.reserved(t, "a")
	store := cow.StoreBytes(imageBytes)
	image := l.sized(t, nil, imageBytes, os.O_RDONLY)
	header := func(words ...uint32) (b []byte) {
		for _, w := range words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
		return b
	}
	good := l.sized(t, nil, store, os.O_RDWR)
	used := l.sized(t, nil, store, os.O_RDWR)
	other := l.reserved(t, "b")
	must(t, l.table.claim(other, []file{{File: used, inode: inodeOf(t, used)}}))
	foreign := l.sized(t, nil, store, os.O_RDWR)
	must(t, foreign.Chown(0, 0))
	for name, c := range map[string]struct {
		files []*os.File
		want  ops.Code
	}{
		"no store":                {[]*os.File{image}, ops.Invalid},
		"no image":                {[]*os.File{good}, ops.Invalid},
		"the other way round":     {[]*os.File{good, image}, ops.Invalid},
		"an image to be written":  {[]*os.File{l.sized(t, nil, imageBytes, os.O_RDWR), good}, ops.Invalid},
		"a store to be read":      {[]*os.File{image, l.sized(t, nil, store, os.O_RDONLY)}, ops.Invalid},
		"one file twice":          {[]*os.File{l.sized(t, nil, store, os.O_RDONLY), good}, ops.Invalid},
		"a store that overflows":  {[]*os.File{image, l.sized(t, nil, store-cow.ChunkBytes, os.O_RDWR)}, ops.Invalid},
		"a store with half more":  {[]*os.File{image, l.sized(t, nil, store+512, os.O_RDWR)}, ops.Invalid},
		"an image of half chunks": {[]*os.File{l.sized(t, nil, imageBytes+512, os.O_RDONLY), good}, ops.Invalid},
		"a store that is none":    {[]*os.File{image, l.sized(t, []byte(strings.Repeat("x", 16)), store, os.O_RDWR)}, ops.Invalid},
		"a store given up":        {[]*os.File{image, l.sized(t, header(0x70416e53, 0, 1, 8), store, os.O_RDWR)}, ops.Invalid},
		"a store of large chunks": {[]*os.File{image, l.sized(t, header(0x70416e53, 1, 1, 1<<30), store, os.O_RDWR)}, ops.Invalid},
		"a foreign store":         {[]*os.File{image, foreign}, ops.Invalid},
		"a store of another VM":   {[]*os.File{image, used}, ops.Conflict},
	} {
		args := l.args(t, r, "ok")
		args.Snapshot = true
		_, _, err := l.start(t.Context(), &ops.Call{ID: "start-" + name, Files: c.files}, args)
		if !errors.Is(err, &ops.Error{Code: c.want}) {
			t.Errorf("%s: got %v, want a refusal as %q", name, err, c.want)
		}
		if *asked != nil {
			t.Errorf("%s: it came as far as a jail", name)
		}
	}

	l.snapshots = func() error { return errors.New("no device mapper") }
	args := l.args(t, r, "ok")
	args.Snapshot = true
	_, _, err := l.start(t.Context(), &ops.Call{ID: "start-without", Files: []*os.File{image, good}}, args)
	wantCode(t, err, ops.Unsupported)
}

// The device is made of the image and the store alone, and the VM gets no right to
// the store.
func TestSnapshotIsOneDisk(t *testing.T) {
	l, asked := snapshotLab(t)
	r := l.reserved(t, "a")
	image := l.sized(t, nil, imageBytes, os.O_RDONLY)
	store := l.sized(t, nil, cow.StoreBytes(imageBytes)+cow.ChunkBytes, os.O_RDWR)
	modules := l.sized(t, nil, 4096, os.O_RDONLY)
	args := l.args(t, r, "ok")
	args.Snapshot = true
	_, _, err := l.start(t.Context(), &ops.Call{ID: "start", Files: []*os.File{image, store, modules}}, args)
	if !errors.Is(err, errEnough) {
		t.Fatalf("got %v", err)
	}
	want := []jail.Disk{{File: store, Origin: image}, {File: modules, ReadOnly: true}}
	if len(*asked) != 2 || (*asked)[0] != want[0] || (*asked)[1] != want[1] {
		t.Errorf("got %+v, want %+v", *asked, want)
	}
	info, err := store.Stat()
	must(t, err)
	if info.Mode().Perm() != 0o644 {
		t.Errorf("the store has mode %v", info.Mode())
	}
}

// Where there is no device mapper, whoever asks for its disk all the same is told so,
// and nothing is left.
func TestSnapshotWithoutDeviceMapper(t *testing.T) {
	if cow.Loaded() == nil {
		t.Skip("there is a device mapper")
	}
	l := newLab(t)
	l.snapshots = func() error { return nil }
	r := l.reserved(t, "a")
	args := l.args(t, r, "ok")
	args.Snapshot = true
	_, _, err := l.start(t.Context(), &ops.Call{ID: "start", Files: []*os.File{
		l.sized(t, nil, imageBytes, os.O_RDONLY), l.sized(t, nil, cow.StoreBytes(imageBytes), os.O_RDWR),
	}}, args)
	if err == nil || !strings.Contains(err.Error(), "device mapper") {
		t.Errorf("got %v", err)
	}
	l.wantNothing(t)
}

// The disks of a snapshot that the kernel has not taken away yet are nobody else's.
func TestDisksOfBusySnapshotStayClaimed(t *testing.T) {
	l := newLab(t)
	r := l.reserved(t, "a")
	_, err := l.run(t, r, "start", "ok", l.disk(t))
	must(t, err)
	r.rec.Snapshot = true
	must(t, unix.Mount("tmpfs", "/sys/block", "tmpfs", 0, ""))
	shown := true
	hide := func() {
		if shown {
			must(t, unix.Unmount("/sys/block", 0))
			shown = false
		}
	}
	t.Cleanup(hide)
	must(t, os.MkdirAll("/sys/block/dm-0/dm", 0o755))
	must(t, os.WriteFile("/sys/block/dm-0/dm/uuid", []byte("BANGER-"+r.rec.ID+"-disk0\n"), 0o644))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, _, err := l.stop(ctx, nil, l.handle(r)); !errors.Is(err, dm.ErrBusy) {
		t.Errorf("stop says %v", err)
	}
	if len(l.table.claims) != 1 {
		t.Errorf("claims are %v", l.table.claims)
	}
	hide()
	_, _, err = l.stop(t.Context(), nil, l.handle(r))
	must(t, err)
	l.wantNothing(t)
}

func inodeOf(t *testing.T, f *os.File) inode {
	t.Helper()
	d, err := checkFile(f, testOwner.uid)
	must(t, err)
	return d.inode
}

// Without an installation nothing keeps the host's scanners off a snapshot: there are
// none, whatever the kernel has, and who asks is told what helps.
func TestStandaloneHasNoSnapshots(t *testing.T) {
	l := newLab(t)
	l.startAsChildren()
	hello, _, err := l.hello(t.Context(), nil, ops.None{})
	must(t, err)
	if !strings.Contains(hello.Snapshots, "system install") {
		t.Errorf("the daemon hears %q", hello.Snapshots)
	}
	args := l.args(t, l.reserved(t, "a"), "ok")
	args.Snapshot = true
	_, _, err = l.start(t.Context(), &ops.Call{ID: "start", Files: []*os.File{
		l.sized(t, nil, imageBytes, os.O_RDONLY), l.sized(t, nil, cow.StoreBytes(imageBytes), os.O_RDWR),
	}}, args)
	wantCode(t, err, ops.Unsupported)
	l.wantNothing(t)
}
