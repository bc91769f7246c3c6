package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"banger/personas/guest/link/frame"
	"banger/personas/guest/link/tree"
)

// A Request is the first frame of a connection to the agent. Exactly one of its
// fields is set.
type Request struct {
	Exec     *ExecRequest     `json:"exec,omitempty"`
	CopyIn   *CopyInRequest   `json:"copy_in,omitempty"`
	CopyOut  *CopyOutRequest  `json:"copy_out,omitempty"`
	Dial     *DialRequest     `json:"dial,omitempty"`
	Stats    *StatsRequest    `json:"stats,omitempty"`
	Shutdown *ShutdownRequest `json:"shutdown,omitempty"`
}

// ExecRequest asks for one command.
type ExecRequest struct {
	// Args is the command and its arguments, as they are: no shell reads them.
	// A command without a slash is searched in the PATH of its environment.
	Args []string
	// Env are "K=V" on top of the image's environment.
	Env []string
	// Dir is the working directory. Empty is the image's, else the user's home.
	Dir string
	// User is "name", "uid", "name:group" or "uid:gid", by the guest's own
	// /etc/passwd and /etc/group. Empty is the image's, else root.
	User string
	// TTY runs the command on a terminal of its own. Standard error then
	// arrives as standard output.
	TTY bool
	// Size is the terminal's first size.
	Size WinSize
	// Stdin says that standard input follows. Without it the command reads
	// /dev/null.
	Stdin bool
	// Detach lets the command outlive the connection. Its output goes to the
	// guest's console. The connection ends when the command has started.
	Detach bool
}

// WinSize is the size of a terminal, in characters.
type WinSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// CopyInRequest announces a file tree for the guest.
type CopyInRequest struct {
	// Dest is where it goes, with the trailing slash that the user wrote.
	// A relative path starts at the root directory.
	Dest frame.Raw `json:"dest"`
	// Sources name the trees that follow, in order.
	Sources []tree.Source `json:"sources"`
	// Owners keeps the numeric owners. Without it, all belongs to root.
	Owners bool `json:"owners,omitempty"`
}

// CopyOutRequest asks for file trees of the guest.
type CopyOutRequest struct {
	// Sources are paths in the guest. A relative path starts at the root directory.
	Sources []frame.Raw `json:"sources"`
}

// StatsRequest asks how the guest is.
type StatsRequest struct{}

// ShutdownRequest asks the guest to end. Its VMM exits then.
type ShutdownRequest struct {
	// Force skips the services: processes are killed, file systems are
	// written and made read-only.
	Force bool `json:"force,omitempty"`
	// GraceSeconds is how long services may take before the guest does as
	// with Force. Zero is 30 seconds.
	GraceSeconds int `json:"grace_seconds,omitempty"`
}

type wireExec struct {
	Args   []frame.Raw `json:"args"`
	Env    []frame.Raw `json:"env,omitempty"`
	Dir    frame.Raw   `json:"dir,omitempty"`
	User   string      `json:"user,omitempty"`
	TTY    bool        `json:"tty,omitempty"`
	Size   WinSize     `json:"size,omitzero"`
	Stdin  bool        `json:"stdin,omitempty"`
	Detach bool        `json:"detach,omitempty"`
}

// MarshalJSON implements json.Marshaler; arguments keep every byte.
func (r ExecRequest) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireExec{
		Args: frame.Raws(r.Args), Env: frame.Raws(r.Env), Dir: frame.Raw(r.Dir),
		User: r.User, TTY: r.TTY, Size: r.Size, Stdin: r.Stdin, Detach: r.Detach,
	})
}

// UnmarshalJSON implements json.Unmarshaler, as strict as the request around it.
func (r *ExecRequest) UnmarshalJSON(text []byte) error {
	var w wireExec
	if err := frame.DecodeStrict(text, &w); err != nil {
		return err
	}
	*r = ExecRequest{
		Args: frame.Strings(w.Args), Env: frame.Strings(w.Env), Dir: string(w.Dir),
		User: w.User, TTY: w.TTY, Size: w.Size, Stdin: w.Stdin, Detach: w.Detach,
	}
	return nil
}

// DecodeRequest decodes and checks the first frame of a connection.
func DecodeRequest(payload []byte) (Request, error) {
	var r Request
	if err := frame.DecodeStrict(payload, &r); err != nil {
		return Request{}, err
	}
	return r, r.Validate()
}

// Validate tells what in r the agent could not follow. Both sides call it.
func (r Request) Validate() error {
	set := 0
	for _, is := range []bool{
		r.Exec != nil, r.CopyIn != nil, r.CopyOut != nil, r.Dial != nil, r.Stats != nil, r.Shutdown != nil,
	} {
		if is {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("request: %d kinds at once, not one", set)
	}
	switch {
	case r.Exec != nil:
		return r.Exec.validate()
	case r.CopyIn != nil:
		return r.CopyIn.validate()
	case r.CopyOut != nil:
		return r.CopyOut.validate()
	case r.Dial != nil:
		return check(r.Dial.Port != 0, "port", "0")
	case r.Shutdown != nil:
		return check(r.Shutdown.GraceSeconds >= 0 && r.Shutdown.GraceSeconds <= 3600, "grace", fmt.Sprint(r.Shutdown.GraceSeconds))
	}
	return nil
}

func (r *ExecRequest) validate() error {
	if len(r.Args) == 0 || r.Args[0] == "" {
		return errors.New("exec: no command")
	}
	for _, a := range r.Args {
		if strings.ContainsRune(a, 0) {
			return fmt.Errorf("exec: argument %q: NUL byte", a)
		}
	}
	switch {
	case r.Dir != "" && !absolute(r.Dir):
		return fmt.Errorf("exec: working directory %q: not absolute", r.Dir)
	case r.Detach && (r.TTY || r.Stdin):
		return errors.New("exec: a detached command has neither terminal nor input")
	}
	return validEnv(r.Env)
}

func (r *CopyInRequest) validate() error {
	if r.Dest == "" || strings.ContainsRune(string(r.Dest), 0) {
		return fmt.Errorf("copy: invalid destination %q", string(r.Dest))
	}
	return tree.ValidSources(r.Sources)
}

func (r *CopyOutRequest) validate() error {
	if len(r.Sources) == 0 {
		return errors.New("copy: no source")
	}
	for _, s := range r.Sources {
		if s == "" || strings.ContainsRune(string(s), 0) {
			return fmt.Errorf("copy: invalid source %q", string(s))
		}
	}
	return nil
}
