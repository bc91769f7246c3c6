package link

import (
	"context"
	"net"

	"banger/personas/guest/link/frame"
)

// Stats is how a guest is. All of it is the guest's word.
type Stats struct {
	Version       string `json:"version"`
	KernelRelease string `json:"kernel_release"`
	BootID        string `json:"boot_id"`
	// UptimeNanos is the age of the guest's kernel, in nanoseconds.
	UptimeNanos int64 `json:"uptime_nanos"`
	// MemTotalBytes and MemAvailableBytes are as in /proc/meminfo.
	MemTotalBytes     uint64 `json:"mem_total_bytes"`
	MemAvailableBytes uint64 `json:"mem_available_bytes"`
	// DiskTotalBytes and DiskFreeBytes are those of the VM's own file system.
	DiskTotalBytes uint64 `json:"disk_total_bytes"`
	DiskFreeBytes  uint64 `json:"disk_free_bytes"`
	// Load are the load averages over 1, 5 and 15 minutes.
	Load [3]float64 `json:"load"`
	// Processes is the number of threads that exist.
	Processes int `json:"processes"`
	// Execs is the number of commands that run under the agent.
	Execs int `json:"execs"`
}

// Nothing is the answer to a request that has none.
type Nothing struct{}

// Query asks the guest how it is. It closes conn. It ends with ctx, and at the
// latest after HandshakeTimeout.
func Query(ctx context.Context, conn net.Conn) (Stats, error) {
	var s Stats
	err := ask(ctx, conn, "query guest", Request{Stats: &StatsRequest{}}, &s)
	return s, err
}

// Shutdown asks the guest to end, and returns when all that was written before
// the call is on the guest's disk and the end has begun. How long that may take
// is for ctx to say. The VMM's exit is the end itself. It closes conn.
func Shutdown(ctx context.Context, conn net.Conn, req ShutdownRequest) error {
	return ask(ctx, conn, "shut guest down", Request{Shutdown: &req}, &Nothing{})
}

// ask sends one request and reads its one answer.
func ask(ctx context.Context, conn net.Conn, doing string, req Request, answer any) error {
	defer conn.Close()
	defer interruptible(ctx, conn)()
	if err := open(ctx, conn, frame.NewWriter(conn), req); err != nil {
		return explain(ctx, doing, err)
	}
	if req.Shutdown != nil {
		if err := unbound(ctx, conn); err != nil {
			return explain(ctx, doing, err)
		}
	}
	return explain(ctx, doing, frame.NewReader(conn).Expect(frame.Answer, answer))
}
