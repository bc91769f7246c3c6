// Package server is the answering side of Firecracker's API: what is accepted when, with
// which status and in which words it is refused, and what a machine is at. It knows no
// hypervisor. A Machine does the deeds; fc/fctest has one that does nothing, the role
// banger-vmm has one that drives QEMU.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"banger/fc"
)

// Machine does what accepted requests ask for. Its methods are called one at a time. An
// error of theirs becomes the fault message, after the words with which Firecracker opens
// the same fault; Unsupported stands for itself.
type Machine interface {
	// Prepare readies what a request before boot names, such as opening a file. A request
	// for the same thing again replaces the former. A refused one must change nothing.
	Prepare(ctx context.Context, r fc.Request) error
	// Start boots config, all of which was prepared, and returns when the guest runs.
	// After an error the machine may be configured on and started again.
	Start(ctx context.Context, config fc.VMConfig) error
	// Change does what a request after boot asks for: VM, Action, DriveUpdate,
	// NetworkUpdate, BalloonUpdate, BalloonStatsUpdate or SnapshotCreate.
	Change(ctx context.Context, r fc.Request) error
	// BalloonStats tells what the guest last said.
	BalloonStats(ctx context.Context) (fc.BalloonStats, error)
}

// Unsupported is the refusal of what a Machine cannot do at all.
type Unsupported string

// Error implements error.
func (u Unsupported) Error() string { return "The requested operation is not supported: " + string(u) }

// MaxBody is the longest request body in bytes, as in Firecracker.
const MaxBody = 51200

// Config is what a Server is made of.
type Config struct {
	Machine Machine
	// ID, AppName and Version are told to those who ask.
	ID      string
	AppName string
	Version string
	// Observe, if not nil, is told of each answer to a request. It must not block.
	Observe func(Event)
}

// Event is one answered request.
type Event struct {
	Method string
	Path   string
	// Body is what came, at most MaxBody bytes.
	Body   []byte
	Status int
	// Fault is the refusal, empty for success.
	Fault string
}

// Server answers the API for one machine. It is an http.Handler, safe for concurrent use;
// requests are done one after the other, as Firecracker does them.
type Server struct {
	config Config
	routes []route

	// mu is held over each request, deeds of the machine included: their order is the
	// order of the answers.
	mu      sync.Mutex
	state   fc.InstanceState
	vm      fc.VMConfig
	touched bool
}

// New makes a server whose machine is not started.
func New(config Config) *Server {
	return &Server{
		config: config,
		routes: routes(),
		state:  fc.StateNotStarted,
		vm:     fc.VMConfig{MachineConfig: &fc.MachineConfig{VCPUCount: 1, MemSizeMiB: 128, HugePages: "None"}},
	}
}

// Serve answers on l until ctx ends or l fails, and closes l. Ended by ctx it returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler:        s,
		MaxHeaderBytes: 8 << 10,
		BaseContext:    func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// One byte more than is allowed tells too long from just long enough.
	body, err := io.ReadAll(io.LimitReader(r.Body, MaxBody+1))
	if err != nil {
		http.Error(w, "unreadable request body", http.StatusBadRequest)
		return
	}
	// The machine's deeds outlast a client that hangs up, as Firecracker's do.
	value, deprecated, err := s.answer(context.WithoutCancel(r.Context()), r.Method, r.URL.Path, body)
	event := Event{Method: r.Method, Path: r.URL.Path, Body: body, Status: http.StatusNoContent}
	switch {
	case err != nil:
		event.Status, event.Fault = http.StatusBadRequest, err.Error()
		value = map[string]string{"fault_message": event.Fault}
	case value != nil:
		event.Status = http.StatusOK
	}
	if s.config.Observe != nil {
		s.config.Observe(event)
	}
	w.Header().Set("Server", "Firecracker API")
	if deprecated {
		w.Header().Set("Deprecation", "true")
	}
	if value == nil {
		w.WriteHeader(event.Status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(event.Status)
	// Nobody is left to tell when the client is gone.
	_ = json.NewEncoder(w).Encode(value)
}

// answer does one request. A nil value without error is an answer without content.
func (s *Server) answer(ctx context.Context, method, path string, body []byte) (value any, deprecated bool, err error) {
	if len(body) > MaxBody {
		return nil, false, fmt.Errorf("HTTP payload with size %d is larger than the limit of %d bytes.", len(body), MaxBody)
	}
	path = "/" + strings.Trim(path, "/")
	if method == http.MethodGet {
		value, err = s.get(ctx, path, body)
		return value, false, err
	}
	request, err := s.decode(method, path, body)
	if err != nil {
		return nil, false, err
	}
	return nil, isDeprecated(request), s.do(ctx, request)
}

// Load does what a configuration file says, as --config-file wants it, and starts the
// machine. The file's format is that of GET /vm/config.
func (s *Server) Load(ctx context.Context, file []byte) error {
	var config fc.VMConfig
	if err := decodeStrict(file, &config); err != nil {
		return fmt.Errorf("Invalid JSON: %w", err)
	}
	for name, raw := range map[string]json.RawMessage{
		"cpu-config": config.CPUConfig, "mmds-config": config.MMDS, "pmem": config.Pmem, "memory-hotplug": config.MemoryHotplug,
	} {
		if v := string(raw); v != "" && v != "null" && v != "[]" {
			return Unsupported(name)
		}
	}
	for _, request := range requests(config) {
		if err := validate(request); err != nil {
			return invalidBody(err)
		}
		if err := s.do(ctx, request); err != nil {
			return err
		}
	}
	return s.do(ctx, fc.Action{Type: fc.InstanceStart})
}

// requests is config as the requests that make it, in Firecracker's order.
func requests(config fc.VMConfig) []fc.Request {
	var list []fc.Request
	if config.Logger != nil {
		list = append(list, *config.Logger)
	}
	if config.Metrics != nil {
		list = append(list, *config.Metrics)
	}
	if config.MachineConfig != nil {
		list = append(list, *config.MachineConfig)
	}
	list = append(list, config.BootSource)
	for _, d := range config.Drives {
		list = append(list, d)
	}
	for _, n := range config.Network {
		list = append(list, n)
	}
	if config.Vsock != nil {
		list = append(list, *config.Vsock)
	}
	if config.Balloon != nil {
		list = append(list, *config.Balloon)
	}
	if config.Entropy != nil {
		list = append(list, *config.Entropy)
	}
	return list
}
