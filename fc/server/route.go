package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"banger/fc"
)

// route is one request that the API takes. Method and path come from the request's type.
type route struct {
	method string
	// path ends in a slash where the thing's id follows.
	path   string
	decode func([]byte) (fc.Request, error)
}

// routes is the table of contents of all that changes something.
func routes() []route {
	return []route{
		takes[fc.Action](),
		takes[fc.Balloon](),
		takes[fc.BalloonUpdate](),
		takes[fc.BalloonStatsUpdate](),
		takes[fc.BootSource](),
		takes[fc.Drive](),
		takes[fc.DriveUpdate](),
		takes[fc.Entropy](),
		takes[fc.Logger](),
		takes[fc.MachineConfig](),
		takes[fc.MachineUpdate](),
		takes[fc.Metrics](),
		takes[fc.NetworkInterface](),
		takes[fc.NetworkUpdate](),
		takes[fc.Serial](),
		takes[fc.SnapshotCreate](),
		takes[fc.SnapshotLoad](),
		takes[fc.VM](),
		takes[fc.Vsock](),
	}
}

// elsewhere are the parts of Firecracker's API that banger has no use for, by the first
// element of their path.
var elsewhere = map[string]string{
	"cpu-config": "custom CPU templates",
	"hotplug":    "memory hot-plugging",
	"mmds":       "the metadata service",
	"pmem":       "pmem devices",
}

// takes is the route of T.
func takes[T fc.Request]() route {
	var zero T
	method, path := zero.Target()
	return route{method, path, func(body []byte) (fc.Request, error) {
		var request T
		if err := decodeStrict(body, &request); err != nil {
			return nil, err
		}
		return request, validate(request)
	}}
}

// decode finds the request's type, reads the body and checks all that needs no machine.
// path has one slash in front and none behind.
func (s *Server) decode(method, path string, body []byte) (fc.Request, error) {
	first, id, _ := strings.Cut(path[1:], "/")
	switch {
	case len(body) == 0 && method == http.MethodPut:
		return nil, errEmptyPut
	case len(body) == 0 && method == http.MethodPatch:
		return nil, errEmptyPatch
	}
	if what, ok := elsewhere[first]; ok {
		return nil, Unsupported(what)
	}
	if strings.HasPrefix(path, "/balloon/hinting") {
		return nil, Unsupported("free page hinting")
	}
	for _, route := range s.routes {
		if route.method != method {
			continue
		}
		if route.path == path {
			return readBody(route, body)
		}
		if strings.HasSuffix(route.path, "/") && route.path == "/"+first+"/" {
			if err := checkID(id); err != nil {
				return nil, err
			}
			request, err := readBody(route, body)
			if err != nil {
				return nil, err
			}
			if _, target := request.Target(); target != path {
				return nil, errIDMismatch
			}
			return request, nil
		}
	}
	if first == "snapshot" {
		first = path
	}
	return nil, unknownPath(method, first)
}

func readBody(r route, body []byte) (fc.Request, error) {
	request, err := r.decode(body)
	if err != nil {
		return nil, invalidBody(err)
	}
	if request == (fc.MachineUpdate{}) {
		return nil, errEmptyPatch
	}
	return request, nil
}

// checkID wants letters, digits and underscores.
func checkID(id string) error {
	if id == "" {
		return errEmptyID
	}
	for _, c := range id {
		if !isAlphanumeric(c) && c != '_' {
			return errInvalidID
		}
	}
	return nil
}

func isAlphanumeric(c rune) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// get answers what is asked without changing anything.
func (s *Server) get(ctx context.Context, path string, body []byte) (any, error) {
	if len(body) > 0 {
		return nil, errGetWithBody
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch path {
	case "/":
		return fc.InstanceInfo{
			AppName: s.config.AppName, ID: s.config.ID, State: s.state, VMMVersion: s.config.Version,
		}, nil
	case "/version":
		return fc.Version{Firecracker: s.config.Version}, nil
	case "/machine-config":
		return *s.vm.MachineConfig, nil
	case "/vm/config":
		return s.vm, nil
	case "/balloon":
		if s.vm.Balloon == nil {
			return nil, errNoBalloon
		}
		return *s.vm.Balloon, nil
	case "/balloon/statistics":
		return s.balloonStatsLocked(ctx)
	}
	first, rest, _ := strings.Cut(path[1:], "/")
	if what, ok := elsewhere[first]; ok {
		return nil, Unsupported(what)
	}
	if first == "balloon" {
		return nil, fmt.Errorf("Unrecognized GET request path `%s`.", rest)
	}
	return nil, unknownPath(http.MethodGet, first)
}

func (s *Server) balloonStatsLocked(ctx context.Context) (any, error) {
	switch {
	case s.state == fc.StateNotStarted:
		return nil, errNotBeforeBoot
	case s.vm.Balloon == nil:
		return nil, fmt.Errorf("Internal VMM error: %s", noDevice)
	case s.vm.Balloon.StatsIntervalSeconds == 0:
		return nil, fmt.Errorf("Internal VMM error: %s", statsDisabled)
	}
	stats, err := s.config.Machine.BalloonStats(ctx)
	if err != nil {
		return nil, fmt.Errorf("Internal VMM error: %w", err)
	}
	return stats, nil
}
