package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"banger/store/kernel/bzimage"
	"banger/store/kernel/vmlinux"
)

// Errors of this package, for errors.Is. What is wrong with the input is in their text.
var (
	// ErrNotKernel means a file that is neither a kernel nor a package with one.
	ErrNotKernel = errors.New("not a kernel")
	// ErrArch means a kernel for another architecture.
	ErrArch = errors.New("kernel is for another architecture")
	// ErrMalformed means a kernel, module or package that is damaged or cut off.
	ErrMalformed = errors.New("kernel is damaged")
	// ErrCannotBoot means a kernel without something that a guest cannot do without.
	// The error is then a *RequirementError too.
	ErrCannotBoot = errors.New("kernel cannot boot as a guest")
	// ErrMismatch means modules that were built for another kernel.
	ErrMismatch = errors.New("modules do not belong to the kernel")
)

// classify gives err the sentinel that belongs to it. What is neither the caller's
// wish, nor the file system's word, nor classified yet, is the input's fault.
func classify(err error) error {
	if errors.Is(err, bzimage.ErrNot64Bit) || errors.Is(err, vmlinux.ErrArch) {
		return fmt.Errorf("%w: %w", ErrArch, err)
	}
	for _, known := range []error{
		context.Canceled, context.DeadlineExceeded, ErrNotKernel, ErrArch, ErrMalformed, ErrCannotBoot, ErrMismatch,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	if errors.As(err, new(*fs.PathError)) || errors.As(err, new(*os.LinkError)) || errors.As(err, new(*os.SyscallError)) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}
