package helper

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"banger/install/layout"
	"banger/ops"
)

// programs are Firecracker and its jailer as the installer has recorded them. VMs run
// in no other.
type programs struct {
	record string // path of the record

	// mu guards the fields that follow, and is held while a program is read.
	mu       sync.Mutex
	recorded []layout.Program
	seen     map[string]stamp // those that are what was recorded, by path
}

// set takes the programs from a record.
func (p *programs) set(r layout.Record) { p.recorded = []layout.Program{r.Firecracker, r.Jailer} }

// stamp is what changes with the content of a file: to compare it costs nothing.
type stamp struct {
	inode
	size         int64
	mtime, ctime unix.Timespec
}

// check refuses programs that are not what was recorded. Each is read once, and again
// when it has changed.
func (p *programs) check() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.checkLocked()
	if err == nil {
		return nil
	}
	// An upgrade may have exchanged both since this helper was started.
	r, lerr := layout.Load(p.record)
	if lerr != nil {
		return err
	}
	p.set(r)
	return p.checkLocked()
}

func (p *programs) checkLocked() error {
	for _, program := range p.recorded {
		if program.Path == "" {
			continue
		}
		if err := p.compareLocked(program); err != nil {
			return err
		}
	}
	return nil
}

func (p *programs) compareLocked(program layout.Program) error {
	f, err := os.Open(program.Path)
	if err != nil {
		return fmt.Errorf("compare with what was installed: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("compare %s with what was installed: %w", program.Path, err)
	}
	now := stamp{inode{st.Dev, st.Ino}, st.Size, st.Mtim, st.Ctim}
	if p.seen[program.Path] == now {
		return nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("compare %s with what was installed: %w", program.Path, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != program.SHA256 {
		return &ops.Error{
			Code: ops.Unsupported, Message: program.Path + " is not what was installed",
			HintText: "find out who has changed it; \"sudo banger system install\" with --firecracker, and --jailer if it is used, copies it again",
		}
	}
	if p.seen == nil {
		p.seen = make(map[string]stamp)
	}
	p.seen[program.Path] = now
	return nil
}
