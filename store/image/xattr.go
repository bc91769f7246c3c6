package image

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"banger/store/ext4"
)

// The PAX records in which archivers keep extended attributes and ACLs.
const (
	paxXattr      = "SCHILY.xattr."
	paxACLAccess  = "SCHILY.acl.access"
	paxACLDefault = "SCHILY.acl.default"
)

// namespaces are the names that a kernel gives to extended attributes.
var namespaces = []string{"user.", "trusted.", "security.", "system.posix_acl_"}

// xattrs collects an entry's extended attributes. Names that no kernel accepts are dropped
// and counted; values that the kernel would refuse are an error.
func (b *builder) xattrs(h *tar.Header) (map[string][]byte, error) {
	var m map[string][]byte
	set := func(name string, value []byte) error {
		if !slices.ContainsFunc(namespaces, func(ns string) bool { return strings.HasPrefix(name, ns) }) {
			b.dropped++
			return nil
		}
		if err := ext4.CheckXattr(name, value); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		if m == nil {
			m = map[string][]byte{}
		}
		m[name] = value
		return nil
	}
	for _, text := range []struct{ record, name string }{
		{paxACLAccess, "system.posix_acl_access"},
		{paxACLDefault, "system.posix_acl_default"},
	} {
		value, ok := h.PAXRecords[text.record]
		if !ok || value == "" {
			continue
		}
		acl, err := parseACL(value)
		if err != nil {
			return nil, err
		}
		if err := set(text.name, acl); err != nil {
			return nil, err
		}
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		if err := set(name, []byte(value)); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// aclTags are the kinds of entries of an ACL, without and with a name.
var aclTags = map[string]struct{ plain, named uint16 }{
	"user": {0x01, 0x02}, "group": {0x04, 0x08}, "mask": {0x10, 0}, "other": {0x20, 0},
}

// parseACL turns the text form of an ACL ("user::rwx,user:1000:r--,...") into the form of
// setxattr(2). Names of users are worthless here; star adds the number as fourth field, GNU
// tar writes numbers with --numeric-owner.
func parseACL(text string) ([]byte, error) {
	type entry struct {
		tag, perm uint16
		id        uint32
	}
	var list []entry
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		line, _, _ = strings.Cut(line, "#")
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) == 1 && f[0] == "" {
			continue
		}
		if len(f) == 2 { // mask:rwx
			f = []string{f[0], "", f[1]}
		}
		tags, ok := aclTags[f[0]]
		if !ok || len(f) > 4 || len(f) < 3 {
			return nil, fmt.Errorf("%w: ACL entry %q", ErrCorrupt, line)
		}
		e := entry{tag: tags.plain, id: 0xffffffff}
		if f[1] != "" {
			number := f[len(f)-1]
			if len(f) == 3 {
				number = f[1]
			}
			id, err := strconv.ParseUint(number, 10, 32)
			if err != nil || tags.named == 0 {
				return nil, fmt.Errorf("%w: ACL entry %q has no numeric owner", ErrCorrupt, line)
			}
			e.tag, e.id = tags.named, uint32(id)
		}
		for _, c := range f[2] {
			bit, ok := map[rune]uint16{'r': 4, 'w': 2, 'x': 1, '-': 0}[c]
			if !ok {
				return nil, fmt.Errorf("%w: ACL entry %q", ErrCorrupt, line)
			}
			e.perm |= bit
		}
		list = append(list, e)
	}
	slices.SortStableFunc(list, func(a, b entry) int {
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range list {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out, nil
}
