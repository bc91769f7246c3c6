package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"banger/personas/guest/link/frame"
	"banger/personas/guest/link/tree"
)

// CopyOptions say what a copy keeps besides names, modes, times and content.
type CopyOptions struct {
	// Owners keeps numeric owners: into the guest always possible, out of it
	// only for root. Without it, copies belong to root in the guest, and to
	// the caller on the host.
	Owners bool
}

// CopyIn copies the files and trees at sources, on the host, to dest in the
// guest, by the rules of tree.Unpack. It returns when they are on the guest's
// disk. It closes conn.
func CopyIn(ctx context.Context, conn net.Conn, sources []string, dest string, opt CopyOptions) error {
	defer conn.Close()
	defer interruptible(ctx, conn)()
	req := &CopyInRequest{Dest: frame.Raw(dest), Owners: opt.Owners}
	here, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("copy to guest: %w", err)
	}
	for _, s := range sources {
		req.Sources = append(req.Sources, tree.SourceOf(here, s))
	}
	w := frame.NewWriter(conn)
	if err := open(ctx, conn, w, Request{CopyIn: req}); err != nil {
		return explain(ctx, "copy to guest", err)
	}
	if err := unbound(ctx, conn); err != nil {
		return explain(ctx, "copy to guest", err)
	}
	// The guest may refuse midway, while the host is still writing.
	answer := make(chan error, 1)
	go func() {
		err := frame.NewReader(conn).Expect(frame.Answer, &Nothing{})
		if err != nil {
			_ = conn.SetWriteDeadline(time.Unix(1, 0))
		}
		answer <- err
	}()
	packErr := tree.Pack(w, sources)
	if packErr != nil && !errors.Is(packErr, os.ErrDeadlineExceeded) {
		conn.Close()
		<-answer
		return explain(ctx, "copy to guest", packErr)
	}
	return explain(ctx, "copy to guest", <-answer)
}

// CopyOut copies the files and trees at sources, in the guest, to dest on the
// host, by the rules of tree.Unpack. It makes files as the calling process, and
// nowhere but at dest. It closes conn.
func CopyOut(ctx context.Context, conn net.Conn, sources []string, dest string, opt CopyOptions) error {
	defer conn.Close()
	defer interruptible(ctx, conn)()
	req := &CopyOutRequest{Sources: frame.Raws(sources)}
	// The names are ours to say: a guest must not choose where its files land.
	names := make([]tree.Source, len(sources))
	for i, s := range sources {
		names[i] = tree.SourceOf("/", s)
	}
	w := frame.NewWriter(conn)
	if err := open(ctx, conn, w, Request{CopyOut: req}); err != nil {
		return explain(ctx, "copy from guest", err)
	}
	if err := unbound(ctx, conn); err != nil {
		return explain(ctx, "copy from guest", err)
	}
	err := tree.Unpack(frame.NewReader(conn), dest, names, tree.Options{Owners: opt.Owners && os.Geteuid() == 0})
	return explain(ctx, "copy from guest", err)
}
