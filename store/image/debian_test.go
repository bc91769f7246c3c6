package image

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/store/ext4/ext4test"
	"banger/testdata/assets"
)

// extracted is the tree that GNU tar makes of the archive at path.
func extracted(t testing.TB, path string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("extracting owners and devices needs root")
	}
	dir := t.TempDir()
	out, err := exec.Command("tar", "-C", dir, "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", "-xpf", path).CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return dir
}

// TestDebian compares a whole Debian entry by entry with what tar extracts.
func TestDebian(t *testing.T) {
	name := assets.File(t, "debian.tar")
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	src, err := FromFile(f)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	img, info := importImage(t, src, Options{})
	t.Logf("%d entries, %d MiB in %v; %s, init %q", info.Entries, info.ContentBytes>>20, time.Since(start), info.OSName, info.Init)
	if !strings.Contains(info.OSName, "Debian") {
		t.Errorf("name is %q", info.OSName)
	}
	dir, _ := ext4test.Mount(t, img, "ro")
	got, want := ext4test.Tree(t, dir), ext4test.Tree(t, extracted(t, name))
	if len(got) < 1000 {
		t.Errorf("only %d names", len(got))
	}
	ext4test.Compare(t, got, want)
}

// TestSpecialEntries compares what Debian has none of: ACLs, capabilities, sparse files, odd
// names and times, as GNU tar writes them.
func TestSpecialEntries(t *testing.T) {
	long := strings.Repeat("long/", 40) + "name"
	entries := []entry{
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "acl-words", Mode: 0o674, PAXRecords: map[string]string{
			"SCHILY.acl.access": "user::rw-,user:1000:rwx,group::r--,group:33:--x,mask::rwx,other::r--\n"}}},
		{Header: tar.Header{Typeflag: tar.TypeDir, Name: "acl-default/", Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.acl.default": "user::rwx\nuser:5:r-x\ngroup::r-x\nmask::r-x\nother::---\n"}}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "capability", Mode: 0o755, Size: 4, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.user.mime":           "text/plain", "SCHILY.xattr.trusted.x": string(bytes.Repeat([]byte{0xff, 1}, 600))}}, data: "ping"},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "old", ModTime: time.Unix(-1000000000, 250000000), Format: tar.FormatPAX}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "new", ModTime: time.Unix(5000000000, 1), Format: tar.FormatPAX}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "owner", Uid: 1<<32 - 2, Gid: 1 << 31, Mode: 0o6755}},
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "latin1-\xe9\xff\x80", Mode: 0o600, Format: tar.FormatGNU}},
		file("newline\nand \\ and \"quote\"", "x"), file("漢字 ☃", "x"), file(long, "x"),
		symlink("slow", strings.Repeat("target/", 30)),
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3, Mode: 0o666}},
		{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "dev/big", Devmajor: 4000, Devminor: 1000000, Mode: 0o660, Format: tar.FormatGNU}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "dev/fifo", Mode: 0o600}},
	}
	work := t.TempDir()
	name := filepath.Join(work, "special.tar")
	if err := os.WriteFile(name, makeTar(t, entries...), 0o600); err != nil {
		t.Fatal(err)
	}
	img, info := importImage(t, FromReader(bytes.NewReader(makeTar(t, entries...))), Options{})
	if info.Dropped != 0 {
		t.Errorf("%d attributes dropped", info.Dropped)
	}
	dir, _ := ext4test.Mount(t, img, "ro")
	got, want := ext4test.Tree(t, dir), ext4test.Tree(t, extracted(t, name))
	// tar dates the directories that it has to make by the clock.
	for _, m := range []map[string]ext4test.Entry{got, want} {
		for name, e := range m {
			if e.Mode&0o170000 == 0o040000 && name != "acl-default" {
				delete(m, name)
			}
		}
	}
	if !strings.Contains(got["acl-words"].Xattrs, "posix_acl_access") || !strings.Contains(got["capability"].Xattrs, "capability") {
		t.Errorf("attributes: %q, %q", got["acl-words"].Xattrs, got["capability"].Xattrs)
	}
	ext4test.Compare(t, got, want)
}

// TestSparseFiles imports files with holes as GNU tar writes them, in its own formats and in PAX.
func TestSparseFiles(t *testing.T) {
	work := t.TempDir()
	f, err := os.Create(filepath.Join(work, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(300) {
		if _, err := f.WriteAt(binary.LittleEndian.AppendUint64(nil, uint64(i)+1), i*100_000); err != nil {
			t.Fatal(err)
		}
	}
	f.Truncate(50 << 20)
	f.Close()
	for _, args := range [][]string{
		{"--format=gnu"}, {"--format=posix", "--sparse-version=0.0"}, {"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=1.0"},
	} {
		name := filepath.Join(work, "tar")
		if out, err := exec.Command("tar", append(args, "-S", "-C", work, "-cf", name, "sparse")...).CombinedOutput(); err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		img, _ := importImage(t, FromReader(bytes.NewReader(data)), Options{})
		want, err := os.ReadFile(filepath.Join(work, "sparse"))
		if err != nil {
			t.Fatal(err)
		}
		wantContents(t, img, map[string]string{"sparse": string(want)})
	}
}

// TestSameInputSameImage imports the same archive twice, in pieces of different sizes.
func TestSameInputSameImage(t *testing.T) {
	data := makeTar(t, testEntries()...)
	var images [2][]byte
	for i, src := range []Source{FromReader(bytes.NewReader(data)), FromReader(&slowly{data: data})} {
		img, _ := importImage(t, src, Options{})
		images[i], _ = os.ReadFile(img)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two images of the same archive differ")
	}
}

func testEntries() []entry {
	return []entry{
		dir("d"), file("d/a", strings.Repeat("abc", 10000)), link("d/b", "d/a"), symlink("s", "d"),
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{
			"SCHILY.xattr.user.1": "1", "SCHILY.xattr.user.2": "2", "SCHILY.xattr.user.3": "3", "SCHILY.xattr.com.apple": "dropped"}}},
	}
}

// slowly gives few bytes at a time.
type slowly struct {
	data []byte
}

func (s *slowly) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), 77)], s.data)
	if s.data = s.data[n:]; len(s.data) == 0 {
		return n, io.EOF
	}
	return n, nil
}
