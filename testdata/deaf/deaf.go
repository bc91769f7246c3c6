// Package deaf serves a FUSE file system that does not answer: what a hostile user
// gives to those who read files for him. There is one file in it, "disk".
package deaf

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// FS is such a file system.
type FS struct {
	dir   string
	fd    int
	id    uint32
	quiet atomic.Bool

	sulks   atomic.Bool
	flushed atomic.Bool
}

// Mount mounts one at dir. Its files are id's, a uid and a gid of the caller's user
// namespace. The caller serves it.
func Mount(dir string, id int) (*FS, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d", fd, id, id)
	if err := unix.Mount("deaf", dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	return &FS{dir: dir, fd: fd, id: uint32(id)}, nil
}

// Quiet makes that nothing is answered any more to who asks for attributes.
func (f *FS) Quiet() { f.quiet.Store(true) }

// Sulk makes that one who closes the file is answered, and nobody after him, nor anybody
// who polls it. Otherwise the kernel learns that there is nobody to be asked.
func (f *FS) Sulk() { f.sulks.Store(true) }

// Unmount takes it away.
func (f *FS) Unmount() error { return unix.Unmount(f.dir, unix.MNT_DETACH) }

// Serve answers, except to who asks for content: he waits until the caller's process
// has ended. It returns when the file system is gone.
func (f *FS) Serve() {
	for buf := make([]byte, 1<<20); ; {
		n, err := unix.Read(f.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < 40 {
			return
		}
		if answer := f.answer(buf[:n]); answer != nil {
			unix.Write(f.fd, answer)
		}
	}
}

// answer is the answer to a request, nil where there is none; see <linux/fuse.h>.
func (f *FS) answer(request []byte) []byte {
	const (
		lookup, forget, getattr, open, read, statfs = 1, 2, 3, 14, 15, 17
		release, flush                              = 18, 25
		init, opendir, readdir, releasedir          = 26, 27, 28, 29
		interrupt, poll, batchForget                = 36, 40, 42
	)
	le := binary.LittleEndian
	var body []byte
	code := int32(0)
	switch opcode := le.Uint32(request[4:]); opcode {
	case forget, batchForget, interrupt, read:
		return nil
	case init:
		body = make([]byte, 64)
		le.PutUint32(body, 7)
		le.PutUint32(body[4:], 31)
		le.PutUint32(body[20:], 1<<16)
	case lookup:
		if name := string(request[40 : len(request)-1]); name != "disk" {
			code = -int32(unix.ENOENT)
			break
		}
		body = append(make([]byte, 40), f.attributes(2)...)
		le.PutUint64(body, 2)
	case getattr:
		if f.quiet.Load() {
			return nil
		}
		body = append(make([]byte, 16), f.attributes(le.Uint64(request[16:]))...)
	case statfs:
		if f.quiet.Load() {
			return nil
		}
		body = make([]byte, 80)
		le.PutUint32(body[40:], 4096) // bytes of a block
		le.PutUint32(body[44:], 255)  // bytes of a name
	case open, opendir:
		body = make([]byte, 16)
	case readdir, release, releasedir:
	case flush:
		if !f.sulks.Load() {
			code = -int32(unix.ENOSYS)
		} else if f.flushed.Swap(true) {
			return nil
		}
	default:
		if opcode == poll && f.sulks.Load() {
			return nil
		}
		code = -int32(unix.ENOSYS)
	}
	answer := append(make([]byte, 16), body...)
	le.PutUint32(answer, uint32(len(answer)))
	le.PutUint32(answer[4:], uint32(code))
	copy(answer[8:16], request[8:16])
	return answer
}

// attributes are those of the folder, 1, or the file.
func (f *FS) attributes(node uint64) []byte {
	le := binary.LittleEndian
	a := make([]byte, 88)
	le.PutUint64(a, node)
	le.PutUint64(a[8:], 1<<20) // bytes
	mode := uint32(unix.S_IFREG | 0o644)
	if node == 1 {
		mode = unix.S_IFDIR | 0o755
	}
	le.PutUint32(a[60:], mode)
	le.PutUint32(a[64:], 1) // names
	le.PutUint32(a[68:], f.id)
	le.PutUint32(a[72:], f.id)
	return a
}
