package link

import (
	"context"
	"net"

	"banger/personas/guest/link/frame"
)

// Hello is a guest's first word: who has started.
type Hello struct {
	// Version is the version of the banger binary in the initrd.
	Version string `json:"version"`
	// KernelRelease is what uname -r prints in the guest.
	KernelRelease string `json:"kernel_release"`
	// BootID is the kernel's random id of this boot.
	BootID string `json:"boot_id"`
	// UptimeNanos is the age of the guest's kernel, in nanoseconds.
	UptimeNanos int64 `json:"uptime_nanos"`
}

// Ready is a guest's last word on the hello connection: the root disk is
// mounted, the network is up, and the agent listens.
type Ready struct {
	// Init is what PID 1 is: "banger", or the path of the image's own init.
	Init string `json:"init"`
	// UptimeNanos is the age of the guest's kernel, in nanoseconds.
	UptimeNanos int64 `json:"uptime_nanos"`
	// Warnings are parts of the boot configuration that could not be applied
	// and without which the guest still runs. Untrusted text.
	Warnings []string `json:"warnings,omitempty"`
}

// ReadHello reads who has dialed HelloPort. It waits until ctx is done, at most
// for HandshakeTimeout.
func ReadHello(ctx context.Context, conn net.Conn) (Hello, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	defer interruptible(ctx, conn)()
	var h Hello
	if err := frame.NewReader(conn).Expect(frame.Hello, &h); err != nil {
		return Hello{}, explain(ctx, "read hello", err)
	}
	return h, nil
}

// SendBoot tells the guest what to become.
func SendBoot(ctx context.Context, conn net.Conn, config BootConfig) error {
	if err := config.Validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	defer interruptible(ctx, conn)()
	return explain(ctx, "send boot configuration", frame.NewWriter(conn).JSON(frame.Boot, config))
}

// ReadReady waits until the guest has become what SendBoot said. It waits until
// ctx is done: how long a guest may take is the caller's to say. A guest that
// could not boot answers with a *Failure. The caller closes conn.
func ReadReady(ctx context.Context, conn net.Conn) (Ready, error) {
	defer interruptible(ctx, conn)()
	var r Ready
	if err := frame.NewReader(conn).Expect(frame.Ready, &r); err != nil {
		return Ready{}, explain(ctx, "wait for guest", err)
	}
	return r, nil
}
