package vmm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"banger/fc/server"
)

// metrics are the lines of JSON that FlushMetrics writes, with those of Firecracker's
// counters that there is something to say for.
type metrics struct {
	// mu guards the fields that follow.
	mu       sync.Mutex
	out      *os.File
	requests map[string]uint64
	failures map[string]uint64
}

// blockStats are a drive's counters, under Firecracker's names.
type blockStats struct {
	ReadBytes  uint64 `json:"read_bytes"`
	ReadCount  uint64 `json:"read_count"`
	WriteBytes uint64 `json:"write_bytes"`
	WriteCount uint64 `json:"write_count"`
	FlushCount uint64 `json:"flush_count"`
}

// open sets where the lines go, once.
func (m *metrics) open(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.out != nil {
		return fmt.Errorf("Reinitialization of metrics not allowed.")
	}
	out, err := openOutput(path)
	if err != nil {
		return err
	}
	m.out = out
	return nil
}

func (m *metrics) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	closeFile(m.out)
	m.out = nil
}

// count counts one answered request.
func (m *metrics) count(e server.Event) {
	var kind string
	switch e.Method {
	case http.MethodGet:
		kind = "get"
	case http.MethodPut:
		kind = "put"
	case http.MethodPatch:
		kind = "patch"
	default:
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.requests == nil {
		m.requests, m.failures = make(map[string]uint64), make(map[string]uint64)
	}
	m.requests[kind]++
	if e.Fault != "" {
		m.failures[kind]++
	}
}

// write appends a line, if anyone wants one.
func (m *metrics) write(drives map[string]blockStats) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.out == nil {
		return nil
	}
	line := map[string]any{"utc_timestamp_ms": time.Now().UnixMilli()}
	for _, kind := range []string{"get", "put", "patch"} {
		line[kind+"_api_requests"] = map[string]uint64{"count": m.requests[kind], "fails": m.failures[kind]}
	}
	for id, stats := range drives {
		line["block_"+id] = stats
	}
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	_, err = m.out.Write(append(b, '\n'))
	return err
}

// flushMetrics writes a line of metrics now.
func (m *machine) flushMetrics(ctx context.Context) error {
	var devices []struct {
		Device string `json:"qdev"`
		Stats  struct {
			ReadBytes  uint64 `json:"rd_bytes"`
			ReadCount  uint64 `json:"rd_operations"`
			WriteBytes uint64 `json:"wr_bytes"`
			WriteCount uint64 `json:"wr_operations"`
			FlushCount uint64 `json:"flush_operations"`
		} `json:"stats"`
	}
	if err := m.qmp.Execute(ctx, "query-blockstats", nil, &devices); err != nil {
		return err
	}
	drives := make(map[string]blockStats)
	for i, d := range m.config.Drives {
		for _, q := range devices {
			if q.Device == driveDevice(i) {
				drives[d.ID] = blockStats(q.Stats)
			}
		}
	}
	return m.metrics.write(drives)
}
