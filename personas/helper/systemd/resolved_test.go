package systemd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// A bus that accepts and is silent, at once or when it is asked, keeps nobody waiting
// who has set no bound himself.
func TestSilentBus(t *testing.T) {
	for name, attend := range map[string]func(net.Conn){
		"says nothing":        func(net.Conn) {},
		"admits, and no more": admit,
	} {
		address := listen(t, func(conn net.Conn) {
			attend(conn)
			<-t.Context().Done() // open until then
			conn.Close()
		})
		set := make(chan error, 1)
		go func() {
			set <- setLinkResolver(t.Context(), address, 50*time.Millisecond, 1, netip.MustParseAddr("10.0.0.1"), "vm")
		}()
		select {
		case err := <-set:
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v", name, err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: it waits without end", name)
		}
	}
}
