package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"

	"banger/personas/api"
)

// events writes a stream of events. Its emit is safe for concurrent use, and
// forgets what a client that went away would have been told: the end of its
// context says that better.
type events struct {
	mu    sync.Mutex
	w     io.Writer
	flush func()
	any   bool // something was written
}

func (e *events) emit(ev api.Event) {
	data, err := json.Marshal(ev)
	if err != nil {
		return // an event is strings and numbers
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.any = true
	e.w.Write(append(data, '\n'))
	e.flush()
}

// finish ends the stream with a result or an error.
func (e *events) finish(result any, err error, requestID string) {
	if err != nil {
		e.emit(api.Event{Error: explain(err, requestID)})
		return
	}
	raw, merr := json.Marshal(result)
	if merr != nil {
		e.emit(api.Event{Error: explain(merr, requestID)})
		return
	}
	e.emit(api.Event{Result: raw})
}

// stream answers with events while act works, and with its result. An error
// before the first event is an answer like any other, with a status of its own.
func stream(w http.ResponseWriter, act func(emit func(api.Event)) (any, error)) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	rc := http.NewResponseController(w)
	e := &events{w: w, flush: func() { rc.Flush() }}
	result, err := act(e.emit)
	if err != nil && !e.any {
		return err
	}
	e.finish(result, err, w.Header().Get(api.RequestIDHeader))
	if err != nil {
		return told{err}
	}
	return nil
}

// told is an error that the client knows already.
type told struct{ error }

func (t told) Unwrap() error { return t.error }

// upgrade takes the connection over from HTTP. The caller ends it with the
// returned function; the daemon's end closes it before.
func (d *Daemon) upgrade(w http.ResponseWriter, r *http.Request) (*net.UnixConn, func(), error) {
	if r.Header.Get("Upgrade") != api.Upgrade {
		return nil, nil, &api.Error{Code: api.CodeUsage, Message: "this call passes descriptors: want the header Upgrade: " + api.Upgrade}
	}
	d.given.Add(1) // before HTTP gives it away, and no longer waits for it
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		d.given.Done()
		return nil, nil, fmt.Errorf("take over connection: %w", err)
	}
	d.clients.open.Add(1)
	stop := context.AfterFunc(d.ctx, func() { conn.Close() })
	done := func() {
		stop()
		conn.Close()
		d.clients.note(nil, http.StateClosed)
		d.given.Done()
	}
	uc, ok := conn.(*net.UnixConn)
	if !ok || buf.Reader.Buffered() > 0 {
		done()
		return nil, nil, told{fmt.Errorf("take over connection: data before the answer")}
	}
	answer := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + api.Upgrade + "\r\n\r\n"
	if _, err := io.WriteString(uc, answer); err != nil {
		done()
		return nil, nil, told{fmt.Errorf("take over connection: %w", err)}
	}
	return uc, done, nil
}

// receive takes the descriptors of an import.
func receive(conn *net.UnixConn, names []string) ([]*os.File, error) {
	files, err := api.RecvFiles(conn, names...)
	if err != nil {
		return nil, &api.Error{Code: api.CodeUsage, Message: "receive descriptors: " + err.Error()}
	}
	return files, nil
}
