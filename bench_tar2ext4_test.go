package main_test

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/testdata/host"
)

// tar2ext4 is the program of testdata/tar2ext4, built.
type tar2ext4 string

// buildTar2ext4 builds it. It is a module of its own, which has to be fetched
// once; the error says what is missing.
func buildTar2ext4(dir string) (tar2ext4, error) {
	file := filepath.Join(dir, "tar2ext4")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", file, ".")
	cmd.Dir = "testdata/tar2ext4"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build tar2ext4: %w: %s", err, out)
	}
	return tar2ext4(file), nil
}

// convert makes an image of a packed tar.
func (tool tar2ext4) convert(packed, image string) error {
	const script = `gzip -dc "$1" | "$0" "$2"` // the tool syncs
	if out, err := exec.Command("sh", "-c", script, string(tool), packed, image).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// benchGaps tells what the two images are worth, by the same tools: that of
// banger, which is "bench", and that of tar2ext4.
func benchGaps(b *testing.B, t *table, h *host.Host, tool tar2ext4, packed string) {
	image := filepath.Join(h.Dir(), "tar2ext4.img")
	sample, theirs := filepath.Join(h.Dir(), "acl.tar"), filepath.Join(h.Dir(), "acl.img")
	writeACLs(b, sample)
	if err := errors.Join(tool.convert(packed, image), pipe(sample, string(tool), theirs)); err != nil {
		b.Fatal(err)
	}
	h.Must(host.Root, "banger", "image", "import", "--name", "acl", sample)
	ours := h.Path(imagePath(b, h, "bench"))
	for _, fact := range []struct {
		name        string
		own, others string
	}{
		{"  e2fsck -fn", checked(ours), checked(image)},
		{"  journal", journal(b, ours), journal(b, image)},
		{"  free blocks", superblock(b, ours, "Free blocks:"), superblock(b, image, "Free blocks:")},
		{"  ACLs kept", keptACLs(b, h, imagePath(b, h, "acl")), keptACLs(b, h, theirs)},
	} {
		t.add(row{name: fact.name, figure: fact.own, against: "tar2ext4: " + fact.others})
	}
}

// imagePath is the path of an image's file on the host.
func imagePath(b *testing.B, h *host.Host, name string) string {
	b.Helper()
	image, err := client(h).Image(b.Context(), name)
	if err != nil {
		b.Fatal(err)
	}
	return image.Path
}

// pipe runs a program with a file for its standard input.
func pipe(file, program string, args ...string) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdin = in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}

// checked is what a forced check says that changes nothing.
func checked(image string) string {
	err := exec.Command("e2fsck", "-fn", image).Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "clean"
	case errors.As(err, &exit) && exit.ExitCode() == 4:
		return "errors"
	}
	return err.Error()
}

// superblock is what dumpe2fs says of one thing.
func superblock(b *testing.B, image, what string) string {
	b.Helper()
	out, err := exec.Command("dumpe2fs", "-h", image).Output()
	if err != nil {
		b.Fatalf("dumpe2fs of %s: %v", image, err)
	}
	for line := range strings.Lines(string(out)) {
		if value, ok := strings.CutPrefix(line, what); ok {
			return strings.TrimSpace(value)
		}
	}
	b.Fatalf("dumpe2fs of %s says no %q", image, what)
	return ""
}

func journal(b *testing.B, image string) string {
	b.Helper()
	if strings.Contains(superblock(b, image, "Filesystem features:"), "has_journal") {
		return "yes"
	}
	return "no"
}

// aclXattr is where the kernel has an ACL. aclText and aclBinary are the same
// one, as GNU tar and as docker keep it.
const (
	aclXattr = "system.posix_acl_access"
	aclText  = "user::rw-\nuser:1000:rw-\ngroup::r--\nmask::rw-\nother::r--\n"
)

func aclBinary() string {
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 6, 1000}, {4, 4, ^uint32(0)}, {0x10, 6, ^uint32(0)}, {0x20, 4, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	return string(acl)
}

// writeACLs makes a tar of two files that have that ACL.
func writeACLs(b *testing.B, file string) {
	b.Helper()
	out, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	w := tar.NewWriter(out)
	for name, record := range map[string][2]string{"text": {"SCHILY.acl.access", aclText}, "binary": {"SCHILY.xattr." + aclXattr, aclBinary()}} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{
			Name: name, Mode: 0o664, Typeflag: tar.TypeReg, Format: tar.FormatPAX, PAXRecords: map[string]string{record[0]: record[1]},
		}))
	}
	if err := errors.Join(err, w.Close(), out.Close()); err != nil {
		b.Fatal(err)
	}
}

// keptACLs mounts an image of that tar, and counts the ACLs that the kernel
// finds on it.
func keptACLs(b *testing.B, h *host.Host, image string) string {
	b.Helper()
	h.Must(host.Root, "mount", "-o", "ro,loop", image, "/mnt")
	defer h.Must(host.Root, "umount", "/mnt")
	kept := 0
	for _, name := range []string{"text", "binary"} {
		value := make([]byte, 256)
		n, err := unix.Lgetxattr(h.Path("/mnt/"+name), aclXattr, value)
		if err == nil && string(value[:n]) == aclBinary() {
			kept++
		}
	}
	return fmt.Sprintf("%d of 2", kept)
}
