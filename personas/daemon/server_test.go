package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
	"banger/personas/api"
)

// An import that is stuck, in a read that nobody answers, does not keep the daemon.
func TestEndsThoughAConnectionDoesNot(t *testing.T) {
	l := newLab(t)
	l.given.Add(1)
	defer l.given.Done()
	ended := make(chan struct{})
	go func() { l.end(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(3 * shutdownGrace):
		t.Fatal("the daemon does not end")
	}
}

// Every route answers for what is not there, with a status of its own.
func TestRoutes(t *testing.T) {
	l := newLab(t)
	want := map[string]int{
		"GET /v1/version": 200, "GET /v1/status": 200, "GET /v1/config": 200, "GET /v1/inventory": 200, "GET /v1/vms": 200, "GET /v1/images": 200, "GET /v1/kernels": 200,
		"POST /v1/vms":    404,                          // there is no image yet
		"POST /v1/images": 400, "POST /v1/kernels": 400, // no upgrade
	}
	for _, rt := range routes {
		method, path, _ := strings.Cut(rt.pattern, " ")
		body := ""
		if method == "POST" {
			body = "{}"
		}
		status := 404
		if s, ok := want[rt.pattern]; ok {
			status = s
		}
		got, e, header := l.do(t, method, strings.Replace(path, "{name}", "none", 1), body)
		if got != status || status >= 400 && (e == nil || e.Message == "" || e.RequestID == "") {
			t.Errorf("%s: status %d, error %+v; want %d", rt.pattern, got, e, status)
		}
		if header.Get(api.RequestIDHeader) == "" || !strings.Contains(header.Get("Content-Type"), "json") {
			t.Errorf("%s: header %v", rt.pattern, header)
		}
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{"PUT", "/v1/vms", 405}, {"DELETE", "/v1/version", 405}, {"GET", "/v1/vms/a/start", 405}, {"PATCH", "/v1/images/a", 405},
		{"GET", "/", 404}, {"GET", "/v2/vms", 404}, {"POST", "/v1/vms/a/explode", 404}, {"GET", "/v1/vms/a/b/c", 404},
	} {
		if got, _, _ := l.do(t, c.method, c.path, ""); got != c.want {
			t.Errorf("%s %s: status %d, want %d", c.method, c.path, got, c.want)
		}
	}
}

func TestBadRequests(t *testing.T) {
	l := newLab(t)
	v := l.vm(t, api.VMSpec{Name: "web"})
	for _, c := range []struct {
		name, method, path, body string
	}{
		{"no body", "POST", "/v1/vms", ""},
		{"not JSON", "POST", "/v1/vms", "name=web"},
		{"array", "POST", "/v1/vms", "[]"},
		{"unknown field", "POST", "/v1/vms", `{"nmae":"web"}`},
		{"wrong type", "POST", "/v1/vms", `{"cpus":"2"}`},
		{"two values", "POST", "/v1/vms", `{}{"name":"web"}`},
		{"bad name", "POST", "/v1/vms", `{"name":"../web"}`},
		{"too large", "POST", "/v1/vms", `{"user":"` + strings.Repeat("x", maxBody) + `"}`},
		{"negative CPUs", "POST", "/v1/vms", `{"cpus":-1}`},
		{"disk below the image", "POST", "/v1/vms", `{"disk_bytes":1}`},
		{"no KVM", "POST", "/v1/vms", `{"vmm":"firecracker"}`},
		{"bad flag", "DELETE", "/v1/vms/web?force=yes", ""},
		{"bad flag", "GET", "/v1/vms/web/logs?follow=1", ""},
		{"bad time", "POST", "/v1/vms/web/stop?timeout_ms=-1", ""},
		{"bad time", "POST", "/v1/vms/web/restart?timeout_ms=3600001", ""},
		{"import without upgrade", "POST", "/v1/images", `{"source":"a"}`},
		{"hold without upgrade", "POST", "/v1/vms/web/hold", ""},
		{"import to a bad name", "POST", "/v1/images", `{"source":"a","name":"A"}`},
		{"import of a bad source", "POST", "/v1/kernels", `{"source":"` + strings.Repeat("x", 5000) + `"}`},
	} {
		status, e, _ := l.do(t, c.method, c.path, c.body)
		if status != 400 || e == nil || e.Code != api.CodeUsage {
			t.Errorf("%s: status %d, error %+v", c.name, status, e)
		}
	}
	if vms, err := l.client.VMs(t.Context()); err != nil || len(vms) != 1 || vms[0].ID != v.ID {
		t.Errorf("VMs are %+v, %v", vms, err)
	}
}

func TestRequestID(t *testing.T) {
	l := newLab(t)
	for id, kept := range map[string]bool{
		"cli-0123abc": true, "": false, "-": false, "a b": false, "A": false, "\x1b[2J": false, strings.Repeat("a", 33): false,
	} {
		req, _ := http.NewRequest("GET", "/", nil)
		req.Header.Set(api.RequestIDHeader, id)
		if got := requestID(req); (got == id) != kept || len(got) == 0 || len(got) > 32 {
			t.Errorf("id %q became %q", id, got)
		}
	}
	_, e, header := l.do(t, "GET", "/v1/vms/none", "", api.RequestIDHeader, "abc-1")
	if e == nil || e.RequestID != "abc-1" || header.Get(api.RequestIDHeader) != "abc-1" {
		t.Errorf("error %+v, header %v", e, header)
	}
}

func TestErrorsAndTheirStatus(t *testing.T) {
	dial := func(network string, errno unix.Errno) error {
		return fmt.Errorf("helper Hello: %w", &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", errno)})
	}
	for _, c := range []struct {
		name   string
		err    error
		code   api.Code
		status int
	}{
		{"known", &api.Error{Code: api.CodeConflict, Message: "m"}, api.CodeConflict, 409},
		{"known, wrapped", fmt.Errorf("a: %w", &api.Error{Code: api.CodeNotFound}), api.CodeNotFound, 404},
		{"without a code", &api.Error{Message: "m"}, "", 500},
		{"quota", &ops.Error{Code: ops.Limit}, api.CodeNoSpace, 507},
		{"state", &ops.Error{Code: ops.Conflict}, api.CodeConflict, 409},
		{"kernel said no", &ops.Error{Code: ops.Failed}, api.CodeInternal, 500},
		{"no helper", dial("unixpacket", unix.ECONNREFUSED), api.CodeNoHelper, 503},
		{"no helper's socket", dial("unixpacket", unix.ENOENT), api.CodeNoHelper, 503},
		{"dead VMM", dial("unix", unix.ECONNREFUSED), api.CodeInternal, 500},
		{"file is gone", fmt.Errorf("open: %w", os.ErrNotExist), api.CodeInternal, 500},
		{"full", fmt.Errorf("write: %w", unix.ENOSPC), api.CodeNoSpace, 507},
		{"quota of the disk", fmt.Errorf("write: %w", unix.EDQUOT), api.CodeNoSpace, 507},
		{"cancelled", context.Canceled, api.CodeCancelled, 499},
		{"too late", context.DeadlineExceeded, api.CodeTimeout, 504},
		{"anything", errors.New("boom"), api.CodeInternal, 500},
	} {
		e := explain(c.err, "id")
		w := &answer{header: http.Header{}}
		writeError(w, e)
		if e.Code != c.code || w.status != c.status || e.Message == "" && c.err.Error() != "" {
			t.Errorf("%s: code %q, status %d; want %q, %d", c.name, e.Code, w.status, c.code, c.status)
		}
	}
}

// The hint for want of a helper is good on every host: an installed one is started by
// no command but that.
func TestHintForWantOfHelper(t *testing.T) {
	hint := explain(&net.OpError{Op: "dial", Net: "unixpacket", Err: unix.ECONNREFUSED}, "").HintText
	if !strings.Contains(hint, `"sudo banger system restart"`) || !strings.Contains(hint, `"sudo banger vm list"`) {
		t.Errorf("hint is %s", hint)
	}
}

// answer is a ResponseWriter that remembers.
type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(b []byte) (int, error) { return len(b), nil }
func (a *answer) WriteHeader(s int)           { a.status = s }

func TestVMOverAPI(t *testing.T) {
	l := newLab(t)
	v := l.vm(t, api.VMSpec{Name: "web", Net: api.NetNone})
	if v.State != api.Stopped || v.Spec.CPUs == 0 || v.Spec.MemMiB == 0 || v.Spec.Image != "debian" || !v.Emulated || v.VMM != api.VMMQEMU {
		t.Errorf("got %+v", v)
	}
	_, err := l.client.CreateVM(t.Context(), api.VMSpec{Name: "web"}, nil)
	wantCode(t, err, api.CodeConflict)
	_, err = l.client.CreateVM(t.Context(), api.VMSpec{Init: api.InitImage}, nil)
	wantCode(t, err, api.CodeConflict) // there is no init in it
	wantCode(t, l.client.Logs(t.Context(), "web", false, io.Discard), api.CodeNotFound)
	_, err = l.client.Agent(t.Context(), "web")
	wantCode(t, err, api.CodeConflict)
	// A start that the helper refuses is an error of the stream, and leaves the VM.
	if _, err := l.client.StartVM(t.Context(), "web", nil); err == nil || !strings.Contains(err.Error(), "not here") {
		t.Errorf("started: %v", err)
	}
	if got, err := l.client.VM(t.Context(), v.ID); err != nil || got.State != api.Stopped {
		t.Errorf("VM is %+v, %v", got, err)
	}
	_, err = l.client.StopVM(t.Context(), "web", time.Second, nil)
	must(t, err)
	must(t, l.client.DeleteVM(t.Context(), "web", false, nil))
	wantCode(t, l.client.DeleteVM(t.Context(), "web", false, nil), api.CodeNotFound)
}

// The VM goes with the connection of its holder.
func TestHold(t *testing.T) {
	l := newLab(t)
	v := l.vm(t, api.VMSpec{Name: "web", AutoRemove: true})
	_, err := l.client.Hold(t.Context(), "none")
	wantCode(t, err, api.CodeNotFound)
	conn, err := l.client.Hold(t.Context(), v.ID)
	must(t, err)
	if l.clients.idle() != 0 {
		t.Error("the daemon counts as idle while somebody holds a VM")
	}
	if _, err := l.client.VM(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	conn.Close()
	eventually(t, "the VM's end", func() bool { return len(l.vms.List()) == 0 })
	eventually(t, "an idle daemon", func() bool { return l.clients.idle() > 0 })
}

// The end of the daemon ends what waits for it, and deletes nothing.
func TestEndWithStreamsUnderWay(t *testing.T) {
	before := runtime.NumGoroutine()
	l := newLab(t)
	v := l.vm(t, api.VMSpec{Name: "web", AutoRemove: true})
	conn, err := l.client.Hold(t.Context(), v.ID)
	must(t, err)
	defer conn.Close()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	imported := make(chan error, 1)
	go func() {
		_, err := l.client.ImportImage(t.Context(), api.ImportRequest{Name: "x", Source: "-"}, r, nil)
		imported <- err
	}()
	eventually(t, "the import", func() bool {
		entries, _ := os.ReadDir(l.store.TempDir())
		return len(entries) > 0
	})
	begin := time.Now()
	l.end()
	if took := time.Since(begin); took > shutdownGrace {
		t.Errorf("the end took %v", took)
	}
	if err := <-imported; err == nil {
		t.Error("the import succeeded")
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the holder does not see the end")
	}
	if _, err := os.Stat(filepath.Join(l.dir, "state", "vms", v.ID, "record.json")); err != nil {
		t.Errorf("the VM was let go of: %v", err)
	}
	conn.Close()
	l.raw.CloseIdleConnections()
	eventually(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before+2 }) // the helper's
}

// A log is followed over its end, its growth and its emptying.
func TestFollowLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	must(t, os.WriteFile(path, []byte("one\n"), 0o600))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	add := func(text string) {
		w, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		must(t, err)
		defer w.Close()
		_, err = io.WriteString(w, text)
		must(t, err)
	}
	r, w := io.Pipe()
	over := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- copyLog(t.Context(), w, f, over, func() {})
		w.Close()
	}()
	read := func(want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	read("one\n")
	add("two and more\n")
	read("two and more\n")
	must(t, os.Truncate(path, 0))
	add("new\n")
	read("new\n")
	add("last\n")
	close(over)
	read("last\n")
	must(t, <-done)
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("read %q beyond the end", rest)
	}
	// Somebody who goes away ends it.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, copyLog(ctx, io.Discard, f, make(chan struct{}), func() {}))
	// What is over is copied once.
	var out strings.Builder
	must(t, copyLog(t.Context(), &out, f, nil, func() {}))
	if out.String() != "new\nlast\n" {
		t.Errorf("copied %q", out.String())
	}
}
