package agent

import (
	"path"
	"strings"

	"banger/personas/guest/link"
	"banger/personas/guest/link/frame"
	"banger/personas/guest/link/tree"
)

// copyIn makes the trees that the client sends, and answers when they are on
// the disk.
func copyIn(r *frame.Reader, w *frame.Writer, req *link.CopyInRequest) error {
	err := tree.Unpack(r, rooted(string(req.Dest)), req.Sources, tree.Options{
		Owners: req.Owners, Trusted: true, Sync: true,
	})
	if err != nil {
		return err
	}
	return w.JSON(frame.Answer, link.Nothing{})
}

// copyOut sends trees to the client.
func copyOut(w *frame.Writer, req *link.CopyOutRequest) error {
	paths := make([]string, len(req.Sources))
	for i, s := range req.Sources {
		paths[i] = rooted(string(s))
	}
	return tree.Pack(w, paths)
}

// rooted begins a relative path at the root directory, and keeps the slash, or
// the "/.", at its end, which mean something.
func rooted(p string) string {
	out := path.Join("/", p)
	switch {
	case out == "/":
	case strings.HasSuffix(p, "/."):
		out += "/."
	case strings.HasSuffix(p, "/"):
		out += "/"
	}
	return out
}
