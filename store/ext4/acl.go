package ext4

import (
	"encoding/binary"
	"fmt"
)

// The tags of access control entries, in the order in which an ACL must list them.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// encodeACL turns an ACL as getxattr(2) gives it (version 2, every entry with an id) into
// the form on disk (version 1, an id only where it means something), and checks it as the
// kernel would: a guest's kernel trusts what it finds on disk.
func encodeACL(p []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(p) < 4 || (len(p)-4)%8 != 0 || le.Uint32(p) != 2 {
		return nil, fmt.Errorf("%w: not an ACL", ErrXattr)
	}
	out := make([]byte, 4, len(p))
	le.PutUint32(out, 1)
	var last uint64
	seen, needMask := uint16(0), false
	for p = p[4:]; len(p) > 0; p = p[8:] {
		tag, perm, id := le.Uint16(p), le.Uint16(p[2:]), le.Uint32(p[4:])
		named := tag == aclUser || tag == aclGroup
		if !named {
			id = 0
		}
		order := uint64(tag)<<32 | uint64(id)
		if order <= last || perm > 7 {
			return nil, fmt.Errorf("%w: ACL entry %#x out of order", ErrXattr, tag)
		}
		last, seen = order, seen|tag
		switch tag {
		case aclUserObj, aclGroupObj, aclMask, aclOther:
			out = append(out, p[:4]...)
		case aclUser, aclGroup:
			out, needMask = append(out, p[:8]...), true
		default:
			return nil, fmt.Errorf("%w: ACL tag %#x", ErrXattr, tag)
		}
	}
	const must = aclUserObj | aclGroupObj | aclOther
	if seen&must != must || needMask && seen&aclMask == 0 {
		return nil, fmt.Errorf("%w: ACL is not complete", ErrXattr)
	}
	return out, nil
}
