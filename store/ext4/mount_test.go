package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/store/ext4/ext4test"
)

// twin writes the same tree to an image and to a directory of the host.
type twin struct {
	t   testing.TB
	w   *Writer
	dir string
}

func (p *twin) create(name string, h Header, data []byte) {
	p.t.Helper()
	h.Size = int64(len(data))
	must(p.t, p.w.Create(name, h))
	if len(data) > 0 {
		_, err := p.w.Write(data)
		must(p.t, err)
	}
	path := filepath.Join(p.dir, name)
	switch h.Mode & modeType {
	case modeDir:
		if name != "." {
			must(p.t, os.Mkdir(path, 0o700))
		}
	case modeRegular:
		must(p.t, os.WriteFile(path, data, 0o600))
	case modeSymlink:
		must(p.t, os.Symlink(h.Target, path))
	default:
		must(p.t, unix.Mknod(path, h.Mode, int(unix.Mkdev(h.Major, h.Minor))))
	}
	must(p.t, os.Lchown(path, int(h.UID), int(h.GID)))
	if h.Mode&modeType != modeSymlink {
		must(p.t, unix.Chmod(path, h.Mode&0o7777))
	}
	for attr, value := range h.Xattrs {
		must(p.t, unix.Lsetxattr(path, attr, value, 0))
	}
	p.touch(path, h.ModTime)
}

func (p *twin) touch(path string, m time.Time) {
	p.t.Helper()
	ts := unix.Timespec{Sec: m.Unix(), Nsec: int64(m.Nanosecond())}
	must(p.t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

func (p *twin) link(old, name string) {
	p.t.Helper()
	must(p.t, p.w.Link(old, name))
	must(p.t, os.Link(filepath.Join(p.dir, old), filepath.Join(p.dir, name)))
}

// generate makes a random tree of n entries. It returns the directories and their times,
// which the host changes whenever something is made in them.
func (p *twin) generate(r *rand.Rand, n int) {
	dirs, times, files := []string{"."}, []time.Time{epoch}, []string{}
	p.create(".", Header{Mode: modeDir | 0o755, ModTime: epoch}, nil)
	for i := range n {
		name := filepath.Join(dirs[r.IntN(len(dirs))], randomName(r, i))
		h := Header{
			UID: uint32(r.IntN(70000)), GID: uint32(r.IntN(70000)),
			// Some before 1970, some after 2038.
			ModTime: time.Unix(minSec+r.Int64N(maxSec-minSec), r.Int64N(1e9)),
		}
		perm := uint32(r.IntN(0o10000))
		if r.IntN(4) == 0 {
			h.Xattrs = randomXattrs(r)
		}
		switch k := r.IntN(20); {
		case k < 4 && strings.Count(name, "/") < 20:
			h.Mode = modeDir | perm
			p.create(name, h, nil)
			dirs, times = append(dirs, name), append(times, h.ModTime)
		case k == 4 && len(files) > 0:
			p.link(files[r.IntN(len(files))], name)
		case k == 5:
			h.Mode, h.Target, h.Xattrs = modeSymlink|0o777, randomName(r, i)+strings.Repeat("/t", r.IntN(80)), nil
			p.create(name, h, nil)
		case k == 6:
			h.Xattrs = nil
			h.Mode = []uint32{modeFIFO, modeSocket, modeChar, modeBlock}[r.IntN(4)] | perm
			if t := h.Mode & modeType; t == modeChar || t == modeBlock {
				h.Major, h.Minor = uint32(r.IntN(1<<12)), uint32(r.IntN(1<<20))
			}
			p.create(name, h, nil)
		default:
			h.Mode = modeRegular | perm
			p.create(name, h, randomContent(r))
			files = append(files, name)
		}
	}
	for i, dir := range dirs {
		p.touch(filepath.Join(p.dir, dir), times[i])
	}
}

// randomName has bytes of every value but two. Its number makes it unique.
func randomName(r *rand.Rand, i int) string {
	b := []byte(fmt.Sprintf("%d-", i))
	for range r.IntN(240) * r.IntN(2) {
		if c := byte(r.IntN(256)); c != 0 && c != '/' {
			b = append(b, c)
		}
	}
	return string(b)
}

// randomContent is often empty or small, has holes at times, and is large rarely.
func randomContent(r *rand.Rand) []byte {
	size := []int{0, 10, 4095, 4096, 4097, 20000, 200000}[r.IntN(7)]
	p := noise(r.Uint64(), size)
	for b := 0; b+4096 <= size; b += 4096 {
		if r.IntN(3) == 0 {
			clear(p[b : b+4096])
		}
	}
	return p
}

func randomXattrs(r *rand.Rand) map[string][]byte {
	m := map[string][]byte{}
	for i := range 1 + r.IntN(5) {
		name := fmt.Sprintf("%s%d%s", []string{"user.", "trusted."}[r.IntN(2)], i, strings.Repeat("n", r.IntN(40)))
		m[name] = noise(r.Uint64(), r.IntN(300))
	}
	if r.IntN(2) == 0 {
		m["security.capability"] = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	}
	return m
}

func newTwin(t *testing.T) *twin {
	if os.Geteuid() != 0 {
		t.Skip("making devices and owners on the host needs root")
	}
	dir, w := hostTree(t), (*Writer)(nil)
	return &twin{t: t, w: w, dir: dir}
}

// hostTree is a directory that can hold what ext4 can: an ext4 that mkfs has made.
func hostTree(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("mkfs.ext4 is missing")
	}
	img := filepath.Join(t.TempDir(), "host")
	if out, err := exec.Command("mkfs.ext4", "-q", "-I", "256", img, "1g").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	dir, _ := ext4test.Mount(t, img, "")
	return dir
}

func TestKernelSeesTheSameTree(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			p := newTwin(t)
			w, f := newImage(t, Options{FreeBytes: 32 << 20})
			p.w = w
			p.generate(rand.New(rand.NewPCG(seed, 1)), 600)
			finish(t, w, f)
			dir, _ := ext4test.Mount(t, f.Name(), "ro")
			got, want := ext4test.Tree(t, dir), ext4test.Tree(t, p.dir)
			if len(got) < 600 {
				t.Errorf("only %d names", len(got))
			}
			ext4test.Compare(t, got, want)
		})
	}
}

func TestTimes(t *testing.T) {
	w, f := newImage(t, Options{})
	cases := map[string]struct{ in, want time.Time }{
		"1901":  {time.Unix(minSec, 1), time.Unix(minSec, 1)},
		"1800":  {time.Date(1800, 1, 1, 0, 0, 0, 0, time.UTC), time.Unix(minSec, 0)},
		"1969":  {time.Unix(-1, 999999999), time.Unix(-1, 999999999)},
		"1970":  {time.Unix(0, 0), time.Unix(0, 0)},
		"2038":  {time.Unix(1<<31, 5), time.Unix(1<<31, 5)},
		"2106":  {time.Unix(1<<32, 5), time.Unix(1<<32, 5)},
		"2310":  {time.Unix(maxSec, 7), time.Unix(maxSec, 7)},
		"99999": {time.Unix(1<<40, 7), time.Unix(maxSec, 0)},
	}
	for name, c := range cases {
		must(t, w.Create(name, Header{
			Mode: modeRegular, ModTime: c.in, AccessTime: c.in.Add(-time.Hour), ChangeTime: c.in.Add(time.Hour)}))
	}
	finish(t, w, f)
	dir, _ := ext4test.Mount(t, f.Name(), "ro")
	for name, c := range cases {
		var s unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, name), &s))
		if got := time.Unix(s.Mtim.Sec, s.Mtim.Nsec); !got.Equal(c.want) {
			t.Errorf("%s: mtime %v, want %v", name, got, c.want)
		}
		if got, want := s.Atim.Sec, stampOf(c.in.Add(-time.Hour)).sec; got != want {
			t.Errorf("%s: atime %v, want %v", name, got, want)
		}
		if got, want := s.Ctim.Sec, stampOf(c.in.Add(time.Hour)).sec; got != want {
			t.Errorf("%s: ctime %v, want %v", name, got, want)
		}
	}
}

// aclOf makes an ACL as setxattr(2) takes it.
func aclOf(entries ...[3]uint32) []byte {
	p := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		p = binary.LittleEndian.AppendUint16(p, uint16(e[0]))
		p = binary.LittleEndian.AppendUint16(p, uint16(e[1]))
		p = binary.LittleEndian.AppendUint32(p, e[2])
	}
	return p
}

func TestKernelReadsACLs(t *testing.T) {
	const none = 0xffffffff
	acl := aclOf([3]uint32{aclUserObj, 7, none}, [3]uint32{aclUser, 4, 1000}, [3]uint32{aclUser, 6, 70000},
		[3]uint32{aclGroupObj, 5, none}, [3]uint32{aclGroup, 1, 33}, [3]uint32{aclMask, 7, none}, [3]uint32{aclOther, 0, none})
	w, f := newImage(t, Options{})
	must(t, w.Create("dir", Header{Mode: modeDir | 0o770, Xattrs: map[string][]byte{
		"system.posix_acl_access": acl, "system.posix_acl_default": acl}}))
	finish(t, w, f)
	dir, _ := ext4test.Mount(t, f.Name(), "")
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		buf := make([]byte, 1000)
		n, err := unix.Getxattr(filepath.Join(dir, "dir"), name, buf)
		if err != nil || !bytes.Equal(buf[:n], acl) {
			t.Errorf("%s: %x, %v\nwant %x", name, buf[:max(n, 0)], err, acl)
		}
	}
	// The default ACL must be inherited: the kernel understands it.
	must(t, os.Mkdir(filepath.Join(dir, "dir/sub"), 0o777))
	buf := make([]byte, 1000)
	if n, err := unix.Getxattr(filepath.Join(dir, "dir/sub"), "system.posix_acl_default", buf); err != nil || !bytes.Equal(buf[:n], acl) {
		t.Errorf("inherited: %x, %v", buf[:max(n, 0)], err)
	}
}

func TestGrowsOnline(t *testing.T) {
	for _, c := range []struct{ from, to int64 }{
		{16 << 20, 100 << 20},
		{100 << 20, 3 << 30},
		{0, 40 << 30},
		{5<<30 + 777*blockSize, 300 << 30},
	} {
		t.Run(fmt.Sprintf("%d to %d", c.from, c.to), func(t *testing.T) {
			w, f := newImage(t, Options{SizeBytes: c.from})
			content := noise(9, 2<<20)
			put(t, w, "file", content)
			finish(t, w, f)
			must(t, f.Truncate(c.to))
			dir, unmount := ext4test.Mount(t, f.Name(), "")
			growTo(t, dir, c.to)
			var s unix.Statfs_t
			must(t, unix.Statfs(dir, &s))
			if total := int64(s.Blocks) * s.Bsize; total < c.to*9/10 {
				t.Errorf("%d bytes after growing, want about %d", total, c.to)
			}
			// Use it: more than was free before.
			must(t, os.WriteFile(filepath.Join(dir, "new"), noise(10, 20<<20), 0o600))
			got, err := os.ReadFile(filepath.Join(dir, "file"))
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("content has changed: %v", err)
			}
			unmount()
			ext4test.Check(t, f.Name())
		})
	}
}

// growTo makes the mounted file system as large as its device by the kernel's own call.
func growTo(t *testing.T, dir string, size int64) {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	const resizeFS = 0x40086610 // EXT4_IOC_RESIZE_FS
	err = ioctlUint64(d.Fd(), resizeFS, uint64(size/blockSize))
	if errors.Is(err, unix.EPERM) {
		t.Skip("growing a mounted file system needs CAP_SYS_RESOURCE; TestGrowsInGuest does it in a guest")
	}
	must(t, err)
}

func TestWritableAfterMount(t *testing.T) {
	w, f := newImage(t, Options{SizeBytes: 200 << 20})
	build(t, w)
	for i := range 3000 {
		put(t, w, fmt.Sprintf("many/%05d-%s", i, strings.Repeat("n", i%60)), nil)
	}
	must(t, w.Create("removed", Header{Mode: modeRegular, Size: 8 << 20}))
	_, err := w.Write(noise(7, 8<<20))
	must(t, err)
	w.NextLayer()
	must(t, w.Remove("removed"))
	finish(t, w, f)
	dir, unmount := ext4test.Mount(t, f.Name(), "")
	for i := range 3000 {
		switch i % 3 {
		case 0:
			must(t, os.Remove(filepath.Join(dir, fmt.Sprintf("many/%05d-%s", i, strings.Repeat("n", i%60)))))
		case 1:
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("many/new-%d-%s", i, strings.Repeat("m", i%99))), noise(1, 3000), 0o644))
		}
	}
	must(t, os.RemoveAll(filepath.Join(dir, "usr/long")))
	must(t, os.Remove(filepath.Join(dir, "usr/bin/big")))
	must(t, os.WriteFile(filepath.Join(dir, "holes"), noise(1, 30<<20), 0o644))
	must(t, unix.Setxattr(filepath.Join(dir, "attrs"), "user.more", noise(2, 500), 0))
	// Fill it up: every block that is said to be free must be usable.
	full, err := os.Create(filepath.Join(dir, "full"))
	must(t, err)
	n, err := io.Copy(full, neverEnding{})
	full.Close()
	if err == nil || n < 50<<20 {
		t.Errorf("filled with %d bytes: %v", n, err)
	}
	unmount()
	ext4test.Check(t, f.Name())
}

// neverEnding is a reader of bytes that are not zero.
type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i) | 1
	}
	return len(p), nil
}
