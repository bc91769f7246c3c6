package jail

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkAdmits refuses a file that the VM could not open again inside the jail, where it
// is a name: a VMM would say no more than "permission denied". It changes nothing. A file
// that is shared by VMs is best readable by all, in a directory that keeps others out; a
// disk of one VM belongs to that VM's group.
func checkAdmits(file *os.File, uid, gid int, write bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	perm := st.Mode
	switch {
	case int(st.Uid) == uid:
		perm >>= 6
	case int(st.Gid) == gid:
		perm >>= 3
	}
	want := uint32(4)
	if write {
		want |= 2
	}
	if perm&want != want {
		return fmt.Errorf("mode %04o of uid %d, gid %d does not admit the VM's uid %d, gid %d", st.Mode&0o7777, st.Uid, st.Gid, uid, gid)
	}
	return nil
}
