package ops

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWhatTheEndInterrupts: an operation that the end of its server has ended is not
// answered, so that its client asks the next one; one that was done is.
func TestWhatTheEndInterrupts(t *testing.T) {
	for name, c := range map[string]struct {
		err  func(context.Context) error
		want string // in the answer; empty: there is none
	}{
		"interrupted": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, ""},
		"done":        {func(ctx context.Context) error { <-ctx.Done(); return nil }, `"ok"`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			s := newServer(&logBuffer{}, func(s *Server) {
				Bind(s, VMStop, func(ctx context.Context, _ *Call, _ HandleArgs) (None, []*os.File, error) {
					cancel()
					return None{}, nil, c.err(ctx)
				})
			})
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx, l) }()
			got := string(ask(t, dial(t, path), []byte(`{"v":1,"id":"a","op":"VMStop","args":{"handle":"`+strings.Repeat("a", 32)+`"}}`)))
			if err := <-done; err != nil {
				t.Error(err)
			}
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("the answer is %q, want %q in it", got, c.want)
			}
		})
	}
}
