package api

import (
	"encoding/json"
	"time"
)

// Event is one line of an answer that takes time. A stream ends with exactly
// one event that has Result or Error; a stream that ends without one broke.
type Event struct {
	// Step names what is going on, such as "disk" or "boot". Done tells its
	// end and Millis how long it took.
	Step   string  `json:"step,omitempty"`
	Done   bool    `json:"done,omitempty"`
	Millis float64 `json:"millis,omitempty"`

	// Bytes counts input that was read so far, for imports.
	Bytes int64 `json:"bytes,omitempty"`

	// Notice is something that the user should be told once.
	Notice string `json:"notice,omitempty"`

	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// Begin tells emit that a step begins, and that it has ended when the returned
// function is called.
func Begin(emit func(Event), step string) (end func()) {
	begin := time.Now()
	emit(Event{Step: step})
	return func() {
		emit(Event{Step: step, Done: true, Millis: float64(time.Since(begin).Microseconds()) / 1000})
	}
}

// Code is the kind of a failure. A program may act on it.
type Code string

// The codes of an [Error].
const (
	CodeUsage     Code = "usage"     // the request can never succeed as it stands
	CodeNotFound  Code = "not-found" // no such VM, image or kernel
	CodeConflict  Code = "conflict"  // the state of things forbids it now
	CodeNoSpace   Code = "no-space"  // disk or quota
	CodeForbidden Code = "forbidden" // the caller has no right to it
	CodeNoHelper  Code = "no-helper" // banger-helper cannot be reached
	CodeTimeout   Code = "timeout"   // waited long enough
	CodeCancelled Code = "cancelled" // the client went away
	CodeBadInput  Code = "bad-input" // the content of an import is refused
	CodeInternal  Code = "internal"  // everything else
)

// Error is how a request failed, in words for the user.
type Error struct {
	Code      Code   `json:"code"`
	Message   string `json:"message"`
	HintText  string `json:"hint,omitempty"`
	RequestID string `json:"request_id,omitempty"`
}

// Error returns the message alone.
func (e *Error) Error() string { return e.Message }

// Hint returns what the user can do, or an empty string.
func (e *Error) Hint() string { return e.HintText }
