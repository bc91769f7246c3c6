package jail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// maxPlan bounds what the stage reads, and what it may answer.
const maxPlan = 64 << 10

// Descriptors that the stage is started with.
const (
	planFD  = 3 // socket: the plan comes in, an error goes out
	rootFD  = 4 // directory of the jail, where the new root is mounted
	firstFD = 5 // what plan.Files describes, in order
)

// plan is what Start tells the stage.
type plan struct {
	Hostname string
	UID, GID int
	Args     []string
	System   bool
	KVM      bool
	Binds    []string
	Files    []planFile
	Limits   Limits
}

// planFile says what becomes of descriptor firstFD+i.
type planFile struct {
	// Target is the name in the new root, without a leading slash.
	Target   string
	Dir      bool
	ReadOnly bool
	Exec     bool
}

// send writes p to w.
func (p *plan) send(w io.Writer) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode plan: %v", err)
	}
	if len(b) > maxPlan {
		return fmt.Errorf("encode plan: %d bytes, at most %d", len(b), maxPlan)
	}
	_, err = w.Write(b)
	return err
}

// receivePlan reads a plan to the end of r. A sender that went away without
// having sent all is an error, whatever it did send.
func receivePlan(r io.Reader) (*plan, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxPlan+1))
	if err != nil {
		return nil, fmt.Errorf("read plan: %v", err)
	}
	if len(b) > maxPlan {
		return nil, fmt.Errorf("read plan: more than %d bytes", maxPlan)
	}
	p := new(plan)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return nil, fmt.Errorf("decode plan: %v", err)
	}
	return p, nil
}
