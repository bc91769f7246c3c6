package ops

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of a server.
const (
	maxConns    = 16               // at once
	idleTimeout = 5 * time.Second  // a connection that says nothing
	opTimeout   = 60 * time.Second // one operation
	closeTime   = time.Second / 10 // a connection waits for the end of what came by it
	maxClosing  = 2 * maxConns     // requests whose descriptors are being closed
)

// Call is one authorised request, as its handler sees it.
type Call struct {
	ID    string     // of the request; the same id asked again is the same request
	Files []*os.File // closed after the handler returns; dup what is to be kept
}

// binding is a handler with its types taken away.
type binding struct {
	decl  *Decl
	serve func(ctx context.Context, call *Call, args []byte) (any, []*os.File, error)
}

// Server answers operations. Bind every operation of [All] before Serve.
type Server struct {
	// Authorise says whether the process behind a connection may ask for
	// anything. It is called before a byte is read.
	Authorise func(*unix.Ucred) error

	// Vet says whether a descriptor that came may become an [os.File], and be asked
	// anything: it must refuse each whose file may never answer.
	Vet func(fd int) error

	// Log receives one audit line per request, and refusals to connect.
	Log *slog.Logger

	bound map[string]*binding

	// mu guards the fields that follow.
	mu   sync.Mutex
	busy int       // connections
	last time.Time // end of the last one

	closing atomic.Int32 // see letGo
}

// Bind makes handle serve op. The files that handle returns are sent and
// closed. It panics if op is bound already: that is a broken program.
func Bind[A Args, R any](s *Server, op *Op[A, R], handle func(context.Context, *Call, A) (R, []*os.File, error)) {
	if s.bound == nil {
		s.bound = make(map[string]*binding)
	}
	if s.bound[op.Name] != nil {
		panic("ops: " + op.Name + " is bound twice")
	}
	s.bound[op.Name] = &binding{&op.Decl, func(ctx context.Context, call *Call, raw []byte) (any, []*os.File, error) {
		var args A
		if err := decodeStrict(raw, &args); err != nil {
			return nil, nil, &Error{Code: Invalid, Message: "arguments: " + err.Error()}
		}
		if err := args.Validate(); err != nil {
			return nil, nil, &Error{Code: Invalid, Message: err.Error()}
		}
		return handle(ctx, call, args)
	}}
}

// Idle reports for how long no connection was open; zero while one is.
func (s *Server) Idle() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy > 0 || s.last.IsZero() {
		return 0
	}
	return time.Since(s.last)
}

// Listener is where a server takes its connections from: a *net.UnixListener, or
// what stands before one.
type Listener interface {
	AcceptUnix() (*net.UnixConn, error)
	Close() error
}

// Serve answers on l, a SOCK_SEQPACKET listener, until ctx is done. It closes l
// and returns when the requests that had begun are answered.
func (s *Server) Serve(ctx context.Context, l Listener) error {
	for _, op := range All() {
		if name := op.Declaration().Name; s.bound[name] == nil {
			return fmt.Errorf("serve operations: %s has no handler", name)
		}
	}
	s.mu.Lock()
	s.last = time.Now()
	s.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if !s.enter() {
			conn.Close()
			s.Log.Warn("refuse connection", "reason", "too many at once")
			continue
		}
		wg.Go(func() {
			defer s.leave()
			defer conn.Close()
			s.serveConn(ctx, conn)
		})
	}
}

func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy == maxConns {
		return false
	}
	s.busy++
	return true
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.last = time.Now()
}

func (s *Server) serveConn(ctx context.Context, conn *net.UnixConn) {
	cred, err := peer(conn)
	if err == nil {
		err = s.Authorise(cred)
	}
	if err != nil {
		s.Log.Warn("refuse connection", "reason", err)
		return
	}
	log := s.Log.With("uid", cred.Uid, "pid", cred.Pid)
	for ctx.Err() == nil {
		conn.SetDeadline(time.Now().Add(idleTimeout))
		maxFiles := MaxFilesIn
		if s.closing.Load() >= maxClosing {
			maxFiles = noFiles
		}
		data, fds, err := receive(conn, MaxRequest, maxFiles)
		if err != nil {
			if maxFiles == noFiles && errors.Is(err, errFiles) {
				log.Warn("refuse descriptors", "reason", "too many that came before do not close")
			}
			s.letGo(fds)
			return
		}
		conn.SetDeadline(time.Now().Add(opTimeout + idleTimeout))
		out, outFiles := s.answer(ctx, log, data, fds)
		if out.Err != nil && ctx.Err() != nil {
			// The end of this helper has ended it, perhaps: who hears nothing asks the
			// next one, as after a crash.
			s.letGo(fds)
			return
		}
		conn.SetDeadline(time.Now().Add(idleTimeout)) // to undo it may have taken more than it had
		err = send(conn, out, outFiles, MaxReply)
		closeAll(outFiles)
		s.letGo(fds)
		if err != nil {
			log.Warn("send reply", "error", err)
			return
		}
	}
}

// letGo closes the descriptors of a request. On FUSE that asks its server, who may never
// answer, and nothing ends the wait: who has waited for long enough goes on without, and
// [Server.closing] bounds how many there are. Serve does not wait for them either.
func (s *Server) letGo(fds []int) {
	if len(fds) == 0 {
		return
	}
	s.closing.Add(1)
	closed := make(chan struct{})
	go func() {
		defer s.closing.Add(-1)
		defer close(closed)
		closeFDs(fds)
	}()
	select {
	case <-closed:
	case <-time.After(closeTime):
	}
}

// answer performs one request and writes its audit line.
func (s *Server) answer(ctx context.Context, log *slog.Logger, data []byte, fds []int) (*reply, []*os.File) {
	var req request
	begin := time.Now()
	value, out, err := s.perform(ctx, &req, data, fds)
	raw := json.RawMessage(nil)
	if err == nil {
		raw, err = json.Marshal(value)
	}
	attrs := []any{"op", req.Op, "request", req.ID, "args", string(req.Args), "files", len(fds), "took", time.Since(begin)}
	if err == nil {
		log.Info("op", attrs...)
		return &reply{V: Version, OK: raw}, out
	}
	closeAll(out)
	refused := &Error{}
	if !errors.As(err, &refused) {
		refused = &Error{Code: Failed, Message: err.Error(), HintText: hint(err)}
	}
	level := slog.LevelWarn
	if refused.Code == NotFound {
		level = slog.LevelInfo // the daemon asks first, and gives a kernel only where it is missing
	}
	log.Log(ctx, level, "op refused", append(attrs, "code", refused.Code, "error", err)...)
	return &reply{V: Version, Err: clip(refused)}, nil
}

func (s *Server) perform(ctx context.Context, req *request, data []byte, fds []int) (value any, out []*os.File, err error) {
	if err := decodeStrict(data, req); err != nil {
		return nil, nil, &Error{Code: Invalid, Message: "request: " + err.Error()}
	}
	if err := req.check(); err != nil {
		return nil, nil, &Error{Code: Invalid, Message: err.Error()}
	}
	if req.V != Version && req.V != Version-1 {
		return nil, nil, &Error{Code: Unsupported, Message: fmt.Sprintf("protocol version %d: want %d", req.V, Version)}
	}
	b := s.bound[req.Op]
	if b == nil {
		return nil, nil, &Error{Code: Unsupported, Message: fmt.Sprintf("unknown operation %q", req.Op)}
	}
	if len(fds) < b.decl.MinFiles || len(fds) > b.decl.MaxFiles {
		return nil, nil, &Error{Code: Invalid, Message: fmt.Sprintf("%d descriptors: want %d to %d", len(fds), b.decl.MinFiles, b.decl.MaxFiles)}
	}
	files, err := s.open(fds)
	defer closeAll(files)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if p := recover(); p != nil {
			closeAll(out)
			value, out, err = nil, nil, fmt.Errorf("broken handler: %v", p)
			s.Log.Error("panic in handler", "op", req.Op, "request", req.ID, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	return b.serve(ctx, &Call{ID: req.ID, Files: files}, req.Args)
}

// open makes files of descriptors that may be ones. The caller closes the files, also
// when there is an error; the descriptors stay his.
func (s *Server) open(fds []int) (files []*os.File, err error) {
	for _, fd := range fds {
		if err := s.Vet(fd); err != nil {
			return files, err
		}
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return files, fmt.Errorf("copy descriptor: %w", err)
		}
		files = append(files, os.NewFile(uintptr(own), "received"))
	}
	return files, nil
}

// clip keeps an error within a reply.
func clip(e *Error) *Error {
	c := *e
	c.Message, c.HintText = clipText(c.Message), clipText(c.HintText)
	return &c
}

// clipText bounds text as it is in a reply, where a byte may become six.
func clipText(text string) string {
	const most = 1500
	for {
		encoded, err := json.Marshal(text)
		if err != nil || len(encoded) <= most {
			return text
		}
		text = text[:len(text)*most/len(encoded)]
	}
}

func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("ask for peer: %w", err)
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("ask for peer: %w", err)
	}
	return cred, nil
}
