package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"banger/personas/api"
)

// The exit codes that are not the guest's own.
const (
	exitUsage  = 2   // the command line can never succeed
	exitFailed = 125 // banger failed, as docker has it
	exitSignal = 128 // plus the signal's number
)

// exitStatus ends the CLI with the code of a command in the guest, or with one
// whose reason was printed before. No other error chooses the exit code: an
// error of a library that happens to have an ExitCode method is a failure like
// any other.
type exitStatus struct {
	code  int
	cause error // to be printed; nil if there is nothing to say
}

func (e *exitStatus) Error() string {
	if e.cause != nil {
		return e.cause.Error()
	}
	return fmt.Sprintf("exit status %d", e.code)
}

// usageError is a wrong command line. Nothing was changed.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

// Hint returns what the user can do.
func (e *usageError) Hint() string { return e.hint }

func usagef(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// hintedError is a failure with advice.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }
func (e *hintedError) Unwrap() error { return e.err }

// Hint returns what the user can do.
func (e *hintedError) Hint() string { return e.hint }

func withHint(err error, format string, args ...any) error {
	return &hintedError{err: err, hint: fmt.Sprintf(format, args...)}
}

// signalError is the end by a signal.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return "ended by " + e.signal.String() }

// endedBy returns err with cause, once, in the place of all that is but its
// consequence. Other failures of a joined error stay.
func endedBy(cause, err error) error {
	parts := joined(err)
	switch {
	case parts != nil:
	case errors.Is(err, context.Canceled), errors.Is(err, cause):
		return cause
	default:
		return err
	}
	var errs []error
	for _, e := range parts {
		if e = endedBy(cause, e); e != cause || !slices.Contains(errs, cause) {
			errs = append(errs, e)
		}
	}
	return errors.Join(errs...)
}

// joined returns the errors that errors.Join has made err of. One that wraps several in
// words of its own is a single one.
func joined(err error) []error {
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil
	}
	parts := several.Unwrap()
	lines := make([]string, len(parts))
	for i, e := range parts {
		lines[i] = e.Error()
	}
	if err.Error() != strings.Join(lines, "\n") {
		return nil
	}
	return parts
}

// exitCode returns the exit code for err.
func exitCode(err error) int {
	var (
		status  *exitStatus
		usage   *usageError
		ended   *signalError
		refused *api.Error
	)
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return status.code
	case errors.As(err, &ended):
		return exitSignal + int(ended.signal)
	case errors.As(err, &usage), errors.As(err, &refused) && refused.Code == api.CodeUsage:
		return exitUsage
	}
	return exitFailed
}

// report prints err for the user, each of a joined error on its own.
func (a *app) report(err error) {
	if parts := joined(err); parts != nil {
		for _, e := range parts {
			a.report(e)
		}
		return
	}
	var status *exitStatus
	if errors.As(err, &status) {
		err = status.cause
	}
	if err == nil {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "banger: %s\n", printable(explain(err)))
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		fmt.Fprintf(&b, "hint: %s\n", printable(hinted.Hint()))
	}
	var refused *api.Error
	if errors.As(err, &refused) && refused.RequestID != "" && inLogs(refused.Code) {
		fmt.Fprintf(&b, "request: %s\n", printable(refused.RequestID))
	}
	_, _ = a.err.WriteString(b.String())
}

// inLogs reports whether the daemons' logs say more of such a failure than the
// user was told.
func inLogs(c api.Code) bool { return c != api.CodeUsage && c != api.CodeNotFound }

// explain says what the words of the libraries do not.
func explain(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return strings.Replace(err.Error(), context.DeadlineExceeded.Error(), "no answer in time", 1)
	}
	return err.Error()
}
