package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/install/doctor"
	"banger/personas/api"
	"banger/personas/guest/agent"
	"banger/personas/guest/link"
)

// TestMain lets the test binary be banger, so that tests see real processes:
// exit codes, signals and terminals.
func TestMain(m *testing.M) {
	if socket := os.Getenv("BANGER_TEST_SOCKET"); socket != "" {
		os.Exit(Main(context.Background(), os.Args[1:], testConfig(socket)))
	}
	os.Exit(m.Run())
}

func testConfig(socket string) Config {
	return Config{
		Socket: socket,
		Host: doctor.Host{
			KVM: func(context.Context) doctor.Result {
				return doctor.Result{Status: doctor.Fail, Detail: "missing\x1b[2J", Hint: "load kvm"}
			},
		},
	}
}

// fakeDaemon answers as bangerd does, with VMs that are nothing but a record.
// Their agent is the real one, which runs commands on this machine.
type fakeDaemon struct {
	t      *testing.T
	socket string
	agent  *agent.Agent

	// mu guards the fields that follow.
	mu       sync.Mutex
	vms      map[string]*api.VM
	images   []api.Image
	settings api.Settings
	calls    []string               // in order, without questions
	specs    []api.VMSpec           // of the creations
	fail     map[string]*api.Error  // by call
	block    map[string]chan string // by call: waits until the client has gone, then says so
	holds    []net.Conn
	held     chan struct{} // a hold was taken
	got      []byte        // the content of the last import
	req      api.ImportRequest
	take     func(req api.ImportRequest, files []*os.File) // what an import does, if not nil
	root     string                                        // of the host that banger runs on
	server   *http.Server
}

func newFake(t *testing.T) *fakeDaemon {
	t.Setenv("HOME", "/nonexistent") // whoever runs the tests keeps theirs, and has no keys
	// Whatever this machine's shells read when they start is not ours, nor what
	// their line editors do with what is typed ahead.
	home := link.ExecDefaults{Env: []string{"HOME=" + t.TempDir(), "SHELL=/bin/sh"}}
	d := &fakeDaemon{
		t: t, socket: filepath.Join(t.TempDir(), "d.sock"), agent: agent.New(agent.Config{Defaults: home}),
		vms: map[string]*api.VM{}, fail: map[string]*api.Error{}, block: map[string]chan string{}, held: make(chan struct{}, 16),
	}
	d.listen()
	t.Cleanup(d.die)
	return d
}

// listen begins to answer, again if it had died.
func (d *fakeDaemon) listen() {
	os.Remove(d.socket)
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		d.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(api.Version{Version: "1.2.4"})
	})
	mux.HandleFunc("GET /v1/inventory", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"b":1,"a":2}`) })
	mux.HandleFunc("GET /v1/config", d.config)
	mux.HandleFunc("GET /v1/vms", d.list)
	mux.HandleFunc("GET /v1/images", func(w http.ResponseWriter, r *http.Request) {
		d.with(func() { json.NewEncoder(w).Encode(d.images) })
	})
	mux.HandleFunc("DELETE /v1/images/{name}", d.deleteImage)
	mux.HandleFunc("POST /v1/vms", d.create)
	mux.HandleFunc("GET /v1/vms/{name}", d.show)
	mux.HandleFunc("DELETE /v1/vms/{name}", d.delete)
	mux.HandleFunc("POST /v1/vms/{name}/{verb}", d.verb)
	mux.HandleFunc("GET /v1/vms/{name}/logs", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") == "true" {
			io.WriteString(w, "ready\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		io.WriteString(w, "boot\r\n\x1b[31mred\x1b[0m\r\n")
	})
	mux.HandleFunc("POST /v1/images", d.importFile)
	mux.HandleFunc("POST /v1/kernels", d.importFile)
	server := &http.Server{Handler: mux}
	d.with(func() { d.server = server })
	go server.Serve(l)
}

// die ends all connections, as a kill -9 does.
func (d *fakeDaemon) die() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server.Close()
	for _, c := range d.holds {
		c.Close()
	}
	d.holds = nil
}

// did notes a call and returns the error that it is to have.
func (d *fakeDaemon) did(format string, args ...any) *api.Error {
	call := fmt.Sprintf(format, args...)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, call)
	return d.fail[call]
}

// with runs do, which may touch what the daemon knows.
func (d *fakeDaemon) with(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
}

func (d *fakeDaemon) spec() (s api.VMSpec)           { d.with(func() { s = d.specs[0] }); return s }
func (d *fakeDaemon) content() (s string)            { d.with(func() { s = string(d.got) }); return s }
func (d *fakeDaemon) request() (r api.ImportRequest) { d.with(func() { r = d.req }); return r }
func (d *fakeDaemon) has(name string) (is bool) {
	d.with(func() { is = d.vms[name] != nil })
	return is
}

// log returns all calls so far.
func (d *fakeDaemon) log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.calls, ", ")
}

func refuse(w http.ResponseWriter, e *api.Error) {
	w.WriteHeader(http.StatusConflict)
	json.NewEncoder(w).Encode(e)
}

func (d *fakeDaemon) answer(w http.ResponseWriter, v any) {
	raw, _ := json.Marshal(v)
	json.NewEncoder(w).Encode(api.Event{Step: "boot"})
	json.NewEncoder(w).Encode(api.Event{Step: "boot", Done: true, Millis: 12.3})
	json.NewEncoder(w).Encode(api.Event{Result: raw})
}

func (d *fakeDaemon) list(w http.ResponseWriter, _ *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	vms := []api.VM{}
	for _, vm := range d.vms {
		vms = append(vms, *vm)
	}
	slices.SortFunc(vms, func(a, b api.VM) int { return strings.Compare(a.Name, b.Name) })
	json.NewEncoder(w).Encode(vms)
}

func (d *fakeDaemon) create(w http.ResponseWriter, r *http.Request) {
	var spec api.VMSpec
	json.NewDecoder(r.Body).Decode(&spec)
	if spec.Name == "" {
		spec.Name = "vm-1"
	}
	if e := d.did("create %s", spec.Name); e != nil {
		refuse(w, e)
		return
	}
	if d.blocked(r, "create") {
		return
	}
	vm := api.VM{ID: "id-" + spec.Name, Name: spec.Name, State: api.Stopped, Spec: spec}
	d.with(func() { d.vms[spec.Name], d.specs = &vm, append(d.specs, spec) })
	d.answer(w, vm)
}

// blocked waits until the client has gone, where a test wants that.
func (d *fakeDaemon) blocked(r *http.Request, call string) bool {
	d.mu.Lock()
	c := d.block[call]
	d.mu.Unlock()
	if c == nil {
		return false
	}
	c <- "begun"
	<-r.Context().Done()
	c <- "gone"
	return true
}

// find returns a copy of the VM that is asked for.
func (d *fakeDaemon) find(w http.ResponseWriter, r *http.Request) *api.VM {
	d.mu.Lock()
	defer d.mu.Unlock()
	vm := d.vms[strings.TrimPrefix(r.PathValue("name"), "id-")]
	if vm == nil {
		refuse(w, &api.Error{Code: api.CodeNotFound, Message: "no VM " + r.PathValue("name")})
		return nil
	}
	clone := *vm
	return &clone
}

func (d *fakeDaemon) show(w http.ResponseWriter, r *http.Request) {
	if vm := d.find(w, r); vm != nil {
		json.NewEncoder(w).Encode(vm)
	}
}

func (d *fakeDaemon) delete(w http.ResponseWriter, r *http.Request) {
	vm := d.find(w, r)
	if vm == nil {
		return
	}
	if e := d.did("delete %s %s", vm.Name, r.URL.Query().Get("force")); e != nil {
		refuse(w, e)
		return
	}
	if d.blocked(r, "delete") {
		return
	}
	d.mu.Lock()
	delete(d.vms, vm.Name)
	d.mu.Unlock()
	d.answer(w, struct{}{})
}

func (d *fakeDaemon) deleteImage(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(d.images), func(i api.Image) bool { return i.Name == r.PathValue("name") })
	if len(left) == len(d.images) {
		refuse(w, &api.Error{Code: api.CodeNotFound, Message: "no image " + r.PathValue("name")})
	}
	d.images = left
}

func (d *fakeDaemon) verb(w http.ResponseWriter, r *http.Request) {
	vm := d.find(w, r)
	if vm == nil {
		return
	}
	verb := r.PathValue("verb")
	if e := d.did("%s %s", verb, vm.Name); e != nil {
		refuse(w, e)
		return
	}
	switch verb {
	case "hold":
		conn := d.upgrade(w)
		d.mu.Lock()
		d.holds = append(d.holds, conn)
		d.mu.Unlock()
		d.held <- struct{}{}
	case "agent":
		d.handOver(d.upgrade(w))
	default:
		if d.blocked(r, verb) {
			return
		}
		vm.State = map[string]api.State{"start": api.Running, "restart": api.Running, "stop": api.Stopped, "kill": api.Stopped}[verb]
		d.with(func() { d.vms[vm.Name] = vm })
		d.answer(w, vm)
	}
}

func (d *fakeDaemon) upgrade(w http.ResponseWriter) *net.UnixConn {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		d.t.Error(err)
	}
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.Upgrade+"\r\n\r\n")
	return conn.(*net.UnixConn)
}

// handOver passes one end of a pair, with the real agent at the other.
func (d *fakeDaemon) handOver(conn *net.UnixConn) {
	defer conn.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		d.t.Error(err)
		return
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "agent"), os.NewFile(uintptr(pair[1]), "client")
	defer theirs.Close()
	served, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		d.t.Error(err)
		return
	}
	go d.agent.Handle(context.Background(), served)
	if err := api.SendFiles(conn, theirs); err != nil {
		d.t.Error(err)
	}
}

func (d *fakeDaemon) importFile(w http.ResponseWriter, r *http.Request) {
	var req api.ImportRequest
	json.NewDecoder(r.Body).Decode(&req)
	conn := d.upgrade(w)
	defer conn.Close()
	names := []string{"source"}
	if req.Modules {
		names = append(names, "modules")
	}
	if req.Config {
		names = append(names, "config")
	}
	files, err := api.RecvFiles(conn, names...)
	if err != nil {
		d.t.Error(err)
		return
	}
	d.with(func() {
		if d.take != nil {
			d.take(req, files)
		}
	})
	got, _ := io.ReadAll(files[0])
	d.mu.Lock()
	d.got, d.req = got, req
	d.mu.Unlock()
	raw, _ := json.Marshal(api.Image{Name: req.Name})
	json.NewEncoder(conn).Encode(api.Event{Bytes: int64(len(got))})
	json.NewEncoder(conn).Encode(api.Event{Result: raw})
}

// result is how a banger process has ended.
type result struct {
	code     int
	out, err string
}

// cmd returns banger with args, as a process of its own.
func (d *fakeDaemon) cmd(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(d.t.Context(), os.Args[0], args...)
	// The race detector keeps a process for a second at its end, for reports of
	// threads that are still at it.
	cmd.Env = append(os.Environ(), "BANGER_TEST_SOCKET="+d.socket, "GORACE=atexit_sleep_ms=0")
	return cmd
}

// call runs banger in this process, which is faster. It can neither be
// interrupted nor read anything.
func (d *fakeDaemon) call(args ...string) result {
	file := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_TRUNC|os.O_CREATE, 0o600)
		if err != nil {
			d.t.Fatal(err)
		}
		return f
	}
	dir := d.t.TempDir()
	in, out, errOut := file("/dev/null"), file(dir+"/out"), file(dir+"/err")
	config := testConfig(d.socket)
	config.Root = d.root
	a := &app{config: config, in: in, out: out, err: errOut, requestID: "test-1"}
	code := a.main(d.t.Context(), args)
	for _, f := range []*os.File{in, out, errOut} {
		f.Close()
	}
	outText, _ := os.ReadFile(dir + "/out")
	errText, _ := os.ReadFile(dir + "/err")
	return result{code, string(outText), string(errText)}
}

func (d *fakeDaemon) run(args ...string) result { return d.runWith(nil, args...) }

func (d *fakeDaemon) runWith(stdin io.Reader, args ...string) result {
	cmd := d.cmd(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errOut
	err := cmd.Run()
	if cmd.ProcessState == nil {
		d.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// await fails the test when want does not come.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for: %s", what)
		panic("unreachable")
	}
}
