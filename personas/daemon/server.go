package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
	"banger/personas/api"
)

// route is one row of the API: what is asked, and who answers.
type route struct {
	pattern string // as net/http has it
	serve   func(d *Daemon, w http.ResponseWriter, r *http.Request) error
}

// routes is the whole API.
var routes = []route{
	{"GET /v1/version", (*Daemon).version},
	{"GET /v1/status", (*Daemon).status},
	{"GET /v1/config", (*Daemon).settings},
	{"GET /v1/inventory", (*Daemon).inventory},
	{"GET /v1/vms", (*Daemon).listVMs},
	{"POST /v1/vms", (*Daemon).createVM},
	{"GET /v1/vms/{name}", (*Daemon).showVM},
	{"DELETE /v1/vms/{name}", (*Daemon).deleteVM},
	{"POST /v1/vms/{name}/start", (*Daemon).startVM},
	{"POST /v1/vms/{name}/stop", (*Daemon).stopVM},
	{"POST /v1/vms/{name}/restart", (*Daemon).restartVM},
	{"POST /v1/vms/{name}/kill", (*Daemon).killVM},
	{"GET /v1/vms/{name}/logs", (*Daemon).logs},
	{"POST /v1/vms/{name}/hold", (*Daemon).hold},
	{"POST /v1/vms/{name}/agent", (*Daemon).agent},
	{"GET /v1/images", (*Daemon).listImages},
	{"POST /v1/images", (*Daemon).importImage},
	{"GET /v1/images/{name}", (*Daemon).showImage},
	{"DELETE /v1/images/{name}", (*Daemon).deleteImage},
	{"GET /v1/kernels", (*Daemon).listKernels},
	{"POST /v1/kernels", (*Daemon).importKernel},
	{"GET /v1/kernels/{name}", (*Daemon).showKernel},
	{"DELETE /v1/kernels/{name}", (*Daemon).deleteKernel},
}

// maxBody bounds a request's body, in bytes.
const maxBody = 1 << 20

// clients counts those who are connected, for the idle daemon.
type clients struct {
	open atomic.Int64
	last atomic.Int64 // UnixNano of the last change
}

func (c *clients) note(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		c.open.Add(1)
	case http.StateClosed, http.StateHijacked: // who hijacks counts himself
		c.open.Add(-1)
	}
	c.last.Store(time.Now().UnixNano())
}

// idle reports for how long nobody was connected; zero while somebody is.
func (c *clients) idle() time.Duration {
	if c.open.Load() > 0 {
		return 0
	}
	return time.Since(time.Unix(0, c.last.Load()))
}

func (d *Daemon) handler() http.Handler {
	mux := http.NewServeMux()
	for _, rt := range routes {
		mux.HandleFunc(rt.pattern, func(w http.ResponseWriter, r *http.Request) {
			id := requestID(r)
			w.Header().Set(api.RequestIDHeader, id)
			log := d.log.With("request", id)
			r = r.WithContext(ops.WithRequestID(r.Context(), id))
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			begin := time.Now()
			err := rt.serve(d, w, r)
			level, attrs := slog.LevelInfo, []any{"call", rt.pattern, "name", r.PathValue("name"), "took", time.Since(begin)}
			if err != nil {
				level, attrs = slog.LevelWarn, append(attrs, "error", err)
				if !errors.As(err, &told{}) {
					writeError(w, explain(err, id))
				}
			}
			log.Log(r.Context(), level, "request", attrs...)
		})
	}
	return mux
}

// requestID takes the client's id where it has the form of one, or makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get(api.RequestIDHeader)
	if len(id) > 0 && len(id) <= 32 {
		ok := id != "-" // which the helper takes for none
		for _, c := range []byte(id) {
			ok = ok && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == '-')
		}
		if ok {
			return id
		}
	}
	b := make([]byte, 6)
	rand.Read(b) // never fails: it ends the program instead
	return hex.EncodeToString(b)
}

// status is the HTTP status of each code.
var status = map[api.Code]int{
	api.CodeUsage: 400, api.CodeBadInput: 400, api.CodeForbidden: 403, api.CodeNotFound: 404,
	api.CodeConflict: 409, api.CodeNoSpace: 507, api.CodeNoHelper: 503, api.CodeTimeout: 504,
	api.CodeCancelled: 499, api.CodeInternal: 500,
}

// explain turns any error into one for the user. Kinds that nobody here knows
// better are told as they are.
func explain(err error, requestID string) *api.Error {
	e := &api.Error{Code: api.CodeInternal, Message: err.Error()}
	var known *api.Error
	var refused *ops.Error
	switch {
	case errors.As(err, &known):
		e.Code, e.HintText = known.Code, known.HintText
	case errors.As(err, &refused):
		e.HintText = refused.HintText
		switch refused.Code {
		case ops.Limit:
			e.Code = api.CodeNoSpace
		case ops.Conflict:
			e.Code = api.CodeConflict
		}
	case isHelperAway(err):
		e.Code = api.CodeNoHelper
		e.HintText = `banger-helper does not run; "sudo banger system restart" starts an installed one, and "sudo banger vm list" a private one`
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e.Code = api.CodeNoSpace
		e.HintText = "make room where banger keeps its state, or delete images and VMs"
	case errors.Is(err, context.Canceled):
		e.Code = api.CodeCancelled
	case errors.Is(err, context.DeadlineExceeded):
		e.Code = api.CodeTimeout
	}
	var hinted interface{ Hint() string }
	if e.HintText == "" && errors.As(err, &hinted) {
		e.HintText = hinted.Hint()
	}
	e.RequestID = requestID
	return e
}

// isHelperAway reports whether it was the helper that could not be connected to.
// No other socket is one of whole messages.
func isHelperAway(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial" && op.Net == "unixpacket"
}

func writeError(w http.ResponseWriter, e *api.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(cmp.Or(status[e.Code], http.StatusInternalServerError))
	json.NewEncoder(w).Encode(e)
}

func writeJSON(w http.ResponseWriter, v any) error {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// readJSON decodes a request's body strictly.
func readJSON(r *http.Request, v interface{ Validate() error }) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &api.Error{Code: api.CodeUsage, Message: "read request: " + err.Error()}
	}
	if _, err := dec.Token(); err != io.EOF {
		return &api.Error{Code: api.CodeUsage, Message: "read request: more than one JSON value"}
	}
	if err := v.Validate(); err != nil {
		return &api.Error{Code: api.CodeUsage, Message: err.Error()}
	}
	return nil
}
