package image

import (
	"archive/tar"
	"bytes"
	"testing"
)

// TestMerge applies layers of a container image; the result is what docker makes of them.
func TestMerge(t *testing.T) {
	type tree = map[string]string
	for name, c := range map[string]struct {
		layers [][]entry
		want   tree
	}{
		"whiteout of file": {
			[][]entry{{file("a", "1"), file("b", "2")}, {file(".wh.a", "")}},
			tree{"b": "2"}},
		"whiteout of directory": {
			[][]entry{{dir("d"), file("d/x", "1"), file("d/e/y", "2"), file("b", "2")}, {file(".wh.d", "")}},
			tree{"b": "2"}},
		"whiteout of nothing": {
			[][]entry{{file("a", "1")}, {file(".wh.b", ""), file("c/d/.wh.e", "")}},
			tree{"a": "1"}},
		"whiteout and new file, in either order": {
			[][]entry{{file("a", "1"), file("b", "1")}, {file(".wh.a", ""), file("a", "2"), file("b", "2"), file(".wh.b", "")}},
			tree{"a": "2", "b": "2"}},
		"whiteout has no effect on the layers above": {
			[][]entry{{file("a", "1")}, {file(".wh.a", "")}, {file("a", "3")}},
			tree{"a": "3"}},
		"whiteout of directory with new content": {
			[][]entry{{file("d/old", "1")}, {dir("d"), file("d/new", "2"), file(".wh.d", "")}},
			tree{"d/new": "2"}},
		"opaque first": {
			[][]entry{{file("d/old", "1"), file("d/sub/old", "1")}, {dir("d"), file("d/.wh..wh..opq", ""), file("d/new", "2")}},
			tree{"d/new": "2"}},
		"opaque last": {
			[][]entry{{file("d/old", "1"), file("d/sub/old", "1")}, {dir("d"), file("d/sub/new", "2"), file("d/.wh..wh..opq", "")}},
			tree{"d/sub/new": "2"}},
		"opaque of the root": {
			[][]entry{{file("a", "1"), file("d/x", "1")}, {file(".wh..wh..opq", ""), file("b", "2")}},
			tree{"b": "2"}},
		"opaque through symbolic link in parent": {
			[][]entry{{file("usr/lib/x/old", "1"), symlink("lib", "usr/lib")}, {file("lib/x/.wh..wh..opq", ""), file("lib/x/new", "2")}},
			tree{"usr/lib/x/new": "2", "lib": "-> usr/lib"}},
		"opaque on symbolic link does not follow it": {
			[][]entry{{file("d/x", "1"), symlink("s", "d")}, {file("s/.wh..wh..opq", "")}},
			tree{"d/x": "1", "s": "-> d"}},
		"whiteout of symbolic link, not of its target": {
			[][]entry{{file("d/x", "1"), symlink("s", "d")}, {file(".wh.s", "")}},
			tree{"d/x": "1"}},
		"file replaces symbolic link, not its target": {
			[][]entry{{file("target", "1"), symlink("s", "target")}, {file("s", "2")}},
			tree{"target": "1", "s": "2"}},
		"symbolic link replaces file": {
			[][]entry{{file("f", "1"), file("g", "2")}, {symlink("f", "g")}},
			tree{"f": "-> g", "g": "2"}},
		"file replaces directory": {
			[][]entry{{file("d/x", "1"), file("d/e/y", "1")}, {file("d", "2")}},
			tree{"d": "2"}},
		"directory replaces file": {
			[][]entry{{file("f", "1")}, {dir("f"), file("f/x", "2")}},
			tree{"f/x": "2"}},
		"directory replaces symbolic link": {
			[][]entry{{file("usr/lib/x", "1"), symlink("lib", "usr/lib")}, {dir("lib"), file("lib/y", "2")}},
			tree{"usr/lib/x": "1", "lib/y": "2"}},
		"entries go through symbolic links of lower layers": {
			[][]entry{{file("usr/lib/x", "1"), symlink("lib", "usr/lib")}, {file("lib/x", "2"), file("lib/new/y", "3")}},
			tree{"usr/lib/x": "2", "usr/lib/new/y": "3", "lib": "-> usr/lib"}},
		"absolute and upward links stay inside": {
			[][]entry{{dir("etc"), symlink("a", "/etc"), symlink("b", "../../../etc")}, {file("a/x", "1"), file("b/y", "2")}},
			tree{"etc/x": "1", "etc/y": "2", "a": "-> /etc", "b": "-> ../../../etc"}},
		"dangling link in parent gets its target": {
			[][]entry{{symlink("a", "new/dir")}, {file("a/x", "1")}},
			tree{"new/dir/x": "1", "a": "-> new/dir"}},
		"hard link over layers": {
			[][]entry{{file("a", "1")}, {link("b", "a")}},
			tree{"a": "1", "b": "1"}},
		"hard link outlives its first name": {
			[][]entry{{file("a", "1")}, {link("b", "a"), file(".wh.a", "")}},
			tree{"b": "1"}},
		"hard link keeps the old content": {
			[][]entry{{file("a", "1"), link("b", "a")}, {file("a", "2")}},
			tree{"a": "2", "b": "1"}},
		"hard link to symbolic link": {
			[][]entry{{symlink("s", "x"), link("t", "s")}},
			tree{"s": "-> x", "t": "-> x"}},
		"hard link to itself": {
			[][]entry{{file("a", "1"), link("a", "a")}},
			tree{"a": "1"}},
		"hard link through symbolic link in parent": {
			[][]entry{{file("usr/bin/a", "1"), symlink("bin", "usr/bin")}, {link("bin/b", "bin/a")}},
			tree{"usr/bin/a": "1", "usr/bin/b": "1", "bin": "-> usr/bin"}},
		"aufs files are no files": {
			[][]entry{{file("a", "1"), dir(".wh..wh.plnk"), file(".wh..wh.aufs", "")}},
			tree{"a": "1"}},
		"later entry of one layer wins": {
			[][]entry{{file("a", "1"), file("a", "2")}},
			tree{"a": "2"}},
		"names are cleaned": {
			[][]entry{{file("/abs", "1"), file("./dot", "2"), file("d//e/./f", "3")}},
			tree{"abs": "1", "dot": "2", "d/e/f": "3"}},
		"global headers and volume names are no files": {
			[][]entry{{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}, file("a", "1")}},
			tree{"a": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, l := range c.layers {
				layers = append(layers, makeTar(t, l...))
			}
			img, _ := importImage(t, FromDir(ociLayout(t, mixed, layers...).dir()), Options{})
			wantContents(t, img, c.want)
		})
	}
}

// TestRefusedEntries has what no layer may have.
func TestRefusedEntries(t *testing.T) {
	for name, c := range map[string]struct {
		entries []entry
		want    error
	}{
		"upwards":                     {[]entry{file("../x", "1")}, ErrCorrupt},
		"upwards in the middle":       {[]entry{file("a/../../x", "1")}, ErrCorrupt},
		"upwards but inside":          {[]entry{file("a/../x", "1")}, ErrCorrupt},
		"whiteout upwards":            {[]entry{file("a/../../.wh.x", "")}, ErrCorrupt},
		"whiteout of nothing":         {[]entry{file(".wh.", "")}, ErrCorrupt},
		"whiteout of parent":          {[]entry{file("a/.wh...", "")}, ErrCorrupt},
		"link to outside":             {[]entry{link("a", "../../etc/passwd")}, ErrCorrupt},
		"link to nothing":             {[]entry{link("a", "etc/passwd")}, ErrCorrupt},
		"link to later file":          {[]entry{link("a", "b"), file("b", "1")}, ErrCorrupt},
		"link to directory":           {[]entry{dir("d"), link("a", "d")}, ErrCorrupt},
		"link over its own directory": {[]entry{dir("d"), file("d/x", "1"), link("d", "d/x")}, ErrCorrupt},
		"file below file":             {[]entry{file("a", "1"), file("a/b", "2")}, ErrCorrupt},
		"loop":                        {[]entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "1")}, ErrCorrupt},
		"loop on itself":              {[]entry{symlink("a", "a/a"), file("a/x", "1")}, ErrCorrupt},
		"empty symbolic link":         {[]entry{symlink("a", "")}, ErrCorrupt},
		"long name":                   {[]entry{file(string(bytes.Repeat([]byte("n"), 256)), "1")}, ErrCorrupt},
		"long path":                   {[]entry{dir(string(bytes.Repeat([]byte("n/"), 2100)))}, ErrTooBig},
		"deep":                        {[]entry{dir(string(bytes.Repeat([]byte("n/"), 260)))}, ErrTooBig},
		"lost+found as file":          {[]entry{file("lost+found", "1")}, ErrCorrupt},
		"root as file":                {[]entry{{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "./", Linkname: "x"}}}, ErrCorrupt},
		"unknown type":                {[]entry{{Header: tar.Header{Typeflag: 'Z', Name: "x"}}}, ErrCorrupt},
		"bad ACL": {[]entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{
			"SCHILY.xattr.system.posix_acl_access": "\x02\x00\x00\x00junk"}}}}, ErrCorrupt},
		"bad ACL in words": {[]entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{
			"SCHILY.acl.access": "user::rwx,user:lisa:rwx,group::r-x,mask::rwx,other::---"}}}}, ErrCorrupt},
		"large attribute": {[]entry{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{
			"SCHILY.xattr.user.x": string(bytes.Repeat([]byte("v"), 5000))}}}}, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			fails(t, FromDir(ociLayout(t, unpacked, makeTar(t, c.entries...)).dir()), Options{}, c.want)
		})
	}
}
