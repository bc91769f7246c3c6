package helper

import (
	"context"
	"os"
	"sync"

	"banger/netns"
	"banger/ops"
)

// dns holds the resolver's sockets once they are bound, so that a daemon that
// comes back finds the same ones and no query is refused meanwhile.
type dns struct {
	network *netns.Namespace

	// mu guards the fields that follow.
	mu       sync.Mutex
	udp, tcp *os.File
}

func (d *dns) resolver(ctx context.Context, _ *ops.Call, _ ops.None) (ops.None, []*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.udp == nil {
		udp, tcp, err := d.network.ListenDNS(ctx)
		if err != nil {
			return ops.None{}, nil, err
		}
		d.udp, d.tcp = udp, tcp
	}
	udp, err := dup(d.udp)
	if err != nil {
		return ops.None{}, nil, err
	}
	tcp, err := dup(d.tcp)
	if err != nil {
		udp.Close()
		return ops.None{}, nil, err
	}
	return ops.None{}, []*os.File{udp, tcp}, nil
}
