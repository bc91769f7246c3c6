// Package ops holds the words between bangerd and the root helper: every
// privileged operation, declared once.
//
// The talk goes over a SOCK_SEQPACKET unix socket. One message is one request
// or one reply; descriptors travel beside the JSON.
//
//	bangerd                                   banger-helper
//	   | {"v":1,"id":..,"op":..,"args":{..}} + 0..4 fds  |
//	   | ----------------------------------------------> | size, decode, Validate,
//	   |                                                 | authorise, quota, lock,
//	   |                                                 | record, act, audit
//	   | {"v":1,"ok":{..}} + fds   or   {"v":1,"err":..} |
//	   | <---------------------------------------------- |
//
// A request never names a path, interface, uid, pid, address or table. It
// names a VM by the handle that VMReserve gave, and files by descriptor.
package ops

import (
	"context"
	"os"
)

// Version is the protocol version that this package speaks. A server answers
// Version and Version-1.
const Version = 1

// Bounds of one message.
const (
	MaxRequest  = 4 << 10 // bytes of JSON in a request
	MaxReply    = 4 << 10 // bytes of JSON in a reply; more goes into a memfd
	MaxFilesIn  = 4       // descriptors in a request
	MaxFilesOut = 8       // descriptors in a reply
)

// SocketPath is where the helper listens.
const SocketPath = "/run/banger-helper/helper.sock"

// Args is what the arguments of every operation can do: check themselves,
// before anyone is asked for anything.
type Args interface{ Validate() error }

// Decl describes an operation apart from its types.
type Decl struct {
	Name string // on the wire, unique

	// MinFiles and MaxFiles bound the descriptors in a request, FilesOut is
	// their number in a reply.
	MinFiles, MaxFiles, FilesOut int

	// Needs are the capabilities that it takes, Attack is what someone who owns the
	// owner's account could try with it, and Shown the tests that show that he fails,
	// as "folder Test". All three are for docs/ops.md, which is made of this.
	Needs, Attack string
	Shown         []string
}

// Op is one privileged operation with arguments A and reply R. Both are flat
// structs: their fields are scalars.
type Op[A Args, R any] struct{ Decl }

// Call performs op at the helper behind c. The files are only lent. The caller
// closes the files that it gets, of which there are FilesOut.
func (op *Op[A, R]) Call(ctx context.Context, c *Client, args A, files ...*os.File) (R, []*os.File, error) {
	var reply R
	if err := args.Validate(); err != nil {
		return reply, nil, &Error{Code: Invalid, Message: err.Error()}
	}
	out, err := c.roundTrip(ctx, &op.Decl, args, files, &reply)
	return reply, out, err
}

// Declaration returns what is said of op.
func (op *Op[A, R]) Declaration() *Decl { return &op.Decl }

// Zero returns arguments without a value in them.
func (op *Op[A, R]) Zero() Args {
	var args A
	return args
}

// Declared is an operation for those to whom its types are nothing: who serves,
// documents or attacks all of them.
type Declared interface {
	Declaration() *Decl
	Zero() Args
}

// None is the arguments or the reply of an operation that has none.
type None struct{}

// Validate accepts.
func (None) Validate() error { return nil }

// Code is the kind of a refusal. The daemon acts on it.
type Code string

// The codes of an [Error].
const (
	Invalid     Code = "invalid"     // can never be right: malformed, out of bounds, wrong descriptor
	NotFound    Code = "not-found"   // no such handle or digest
	Conflict    Code = "conflict"    // the VM's state forbids it now
	Limit       Code = "limit"       // a quota or the host's space is used up
	Unsupported Code = "unsupported" // unknown operation or version, or the host lacks something
	Failed      Code = "failed"      // the kernel said no
)

// Error is how an operation was refused. Nothing was changed by it, unless it has Failed.
type Error struct {
	Op       string `json:"-"`
	Code     Code   `json:"code"`
	Message  string `json:"message"`
	HintText string `json:"hint,omitempty"`
}

// Error returns the operation and the message.
func (e *Error) Error() string {
	if e.Op == "" {
		return e.Message
	}
	return "helper " + e.Op + ": " + e.Message
}

// Hint returns what the user can do, or an empty string.
func (e *Error) Hint() string { return e.HintText }

// Is makes errors.Is(err, &Error{Code: NotFound}) ask for the code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Op == "" && t.Message == "" && t.Code == e.Code
}

// All is every operation that root performs for the owner: the table of
// contents of banger's privilege. A server refuses to start unless each is
// bound.
func All() []Declared {
	return []Declared{
		Hello, Inventory, Reconcile,
		VMReserve, VMStart, VMSeal, VMReconnect, VMStop, VMRelease,
		KernelPut, Resolver,
	}
}
