package kerneltest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
)

// Offsets in a boot image, for tests that change a field.
const (
	ProtocolAt      = 0x206
	LoadFlagsAt     = 0x236
	PayloadOffsetAt = 0x248
	PayloadLengthAt = 0x24c
	VersionText     = 0x300
)

// BzImage returns a boot image as the kernel's build lays it out: two sectors of real
// mode code, some protected-mode code, then payload, then what a signature may be.
func BzImage(version string, payload []byte) []byte {
	const sects, offset = 1, 300
	im := make([]byte, (sects+1)*512+offset)
	le := binary.LittleEndian
	im[0x1f1] = sects
	copy(im[0x202:], "HdrS")
	le.PutUint16(im[ProtocolAt:], 0x020f)
	le.PutUint16(im[0x20e:], VersionText-0x200)
	copy(im[VersionText:], version)
	le.PutUint16(im[LoadFlagsAt:], 1)
	le.PutUint32(im[PayloadOffsetAt:], offset)
	le.PutUint32(im[PayloadLengthAt:], uint32(len(payload)))
	im = append(im, payload...)
	return append(im, "a signature"...)
}

// Gzip returns data compressed.
func Gzip(data []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(data) // to memory: cannot fail
	w.Close()
	return out.Bytes()
}

// File is a file of a package.
type File struct {
	Name string
	Data []byte
}

// Deb returns a Debian package with the given files.
func Deb(files ...File) []byte {
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./boot/", Mode: 0o755})
	for _, f := range files {
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + f.Name, Mode: 0o644, Size: int64(len(f.Data))})
		w.Write(f.Data)
	}
	w.Close()
	out := []byte("!<arch>\n")
	out = member(out, "debian-binary", []byte("2.0\n"))
	out = member(out, "control.tar.gz", Gzip([]byte("odd")))
	return member(out, "data.tar.gz", Gzip(data.Bytes()))
}

func member(out []byte, name string, data []byte) []byte {
	out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, 0, 0, 0, "100644", len(data))
	out = append(out, data...)
	if len(data)%2 == 1 {
		out = append(out, '\n')
	}
	return out
}
