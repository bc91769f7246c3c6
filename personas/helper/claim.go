package helper

import (
	"slices"

	"banger/ops"
)

// claim is one disk that a VMM has open.
type claim struct {
	inode
	ReadOnly bool `json:"read_only,omitempty"`
}

// claims are the VMs that have a disk open: any number that read it, or one that
// writes it and nobody else.
type claims map[inode][]*reservation

func (c claims) add(r *reservation, disks []claim) {
	for _, d := range disks {
		c[d.inode] = append(c[d.inode], r)
	}
}

func (c claims) remove(r *reservation, disks []claim) {
	for _, d := range disks {
		users := slices.DeleteFunc(c[d.inode], func(u *reservation) bool { return u == r })
		if len(users) == 0 {
			delete(c, d.inode)
		} else {
			c[d.inode] = users
		}
	}
}

// claim notes which disks r has open, or refuses. The caller has the token of r.
func (t *table) claim(r *reservation, disks []file) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var wanted []claim
	for _, d := range disks {
		for _, w := range wanted {
			if w.inode == d.inode {
				return &ops.Error{Code: ops.Invalid, Message: "the same disk twice"}
			}
		}
		for _, other := range t.claims[d.inode] {
			if !d.readOnly || other.writesLocked(d.inode) {
				return &ops.Error{Code: ops.Conflict, Message: "a disk is in use by VM " + other.rec.ID}
			}
		}
		wanted = append(wanted, claim{d.inode, d.readOnly})
	}
	t.claims.add(r, wanted)
	r.rec.Disks = wanted
	return nil
}

// writesLocked reports whether r has a disk for writing. The caller holds
// table.mu, under which alone the claims of a record change.
func (r *reservation) writesLocked(disk inode) bool {
	return slices.Contains(r.rec.Disks, claim{disk, false})
}

// unclaim gives up the disks of r, whose token the caller has.
func (t *table) unclaim(r *reservation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.claims.remove(r, r.rec.Disks)
	r.rec.Disks = nil
}
