package daemon

import (
	"errors"
	"strings"

	"banger/personas/api"
	"banger/store/image"
	"banger/store/kernel"
)

// importHints say what to do about an input that is refused. The first that fits counts.
// FILE and NAME stand for what the user has given.
var importHints = []struct {
	err  error
	hint string
}{
	{image.ErrDirectory, `a root file system comes as a tar, packed with sudo where its files are not all yours: tar -C FILE -c . | banger image import --name NAME -`},
	{image.ErrKernel, `a kernel goes to "banger kernel import FILE"; an image is a tar of a root file system, an archive of docker save, or an OCI layout`},
	{image.ErrUnknownFormat, `an image is a tar of a root file system (plain, gz, xz, zstd), an archive of docker save, or an OCI layout`},
	{image.ErrEmpty, `nothing came: see whether what writes it has failed`},
	{image.ErrNoLayers, `nothing is packed in it: see whether what made it has failed`},
	{image.ErrArchive, `unpack it and import the directory: mkdir NAME && tar -C NAME -xf FILE && banger image import NAME`},
	{image.ErrAmbiguous, `choose one: banger image import --name NAME --ref REF FILE`},
	{image.ErrMissing, `save the image anew, whole and for this machine; --ref takes a reference that is in it`},
	{image.ErrDigest, `it was damaged on its way: save or fetch it anew`},
	{image.ErrCorrupt, `it is damaged or cut off: see whether what made it has failed, and make it anew`},
	{image.ErrTooBig, `leave out what a guest does not need`},
	{kernel.ErrNotKernel, `a kernel comes as .deb, .rpm, bzImage or vmlinux; an image goes to "banger image import FILE"`},
	{kernel.ErrArch, `a guest runs x86-64: take the package for amd64`},
	{kernel.ErrMismatch, `--modules takes the directory of the kernel's own release`},
	{kernel.ErrCannotBoot, `take a distribution's kernel for virtual machines, such as Debian's linux-image-cloud-amd64, or build it with what is missing`},
	{kernel.ErrMalformed, `it is damaged or cut off: fetch it anew`},
}

// importHint returns what the user can do about err.
func importHint(err error, req api.ImportRequest) string {
	source := req.Source
	if source == standardInput {
		source = "-"
	}
	for _, h := range importHints {
		if errors.Is(err, h.err) {
			return strings.NewReplacer("FILE", shellWord(source), "NAME", req.Name).Replace(h.hint)
		}
	}
	return ""
}

// standardInput is what the CLI calls it.
const standardInput = "standard input"

// shellWord is s for a command line that somebody copies.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:+@,%=", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
