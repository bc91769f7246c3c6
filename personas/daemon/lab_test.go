package daemon

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/ops"
	"banger/personas/api"
	"banger/store/kernel/kerneltest"
)

// lab is a daemon that serves, with a helper that only gives out leases.
type lab struct {
	*Daemon
	client *api.Client
	raw    *http.Client
	dir    string
	end    func() // stops the daemon and waits
}

func newLab(t testing.TB) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "bangerd") // t.TempDir is too long for sockets
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	d, err := open(t.Context(), slog.New(slog.DiscardHandler), filepath.Join(dir, "state"))
	must(t, err)
	d.helper = ops.NewClient(serveHelper(t, dir))
	d.vms.Helper = d.helper
	d.home = filepath.Join(dir, "home") // where nothing is yet
	d.vms.Home = d.home
	socket := filepath.Join(dir, "bangerd.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.serve(ctx, l, nil) }()
	end := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
		d.store.Close()
	})
	t.Cleanup(end)
	raw := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
	return &lab{Daemon: d, client: api.New(socket, "test"), raw: raw, dir: dir, end: end}
}

// serveHelper answers what a VM needs that does not run.
func serveHelper(t testing.TB, dir string) string {
	t.Helper()
	s := &ops.Server{
		Log:       slog.New(slog.DiscardHandler),
		Authorise: func(*unix.Ucred) error { return nil },
		Vet:       func(int) error { return nil },
	}
	ops.Bind(s, ops.Hello, func(context.Context, *ops.Call, ops.None) (ops.HelloReply, []*os.File, error) {
		return ops.HelloReply{Prefix: "10.83.0.1/16", Gateway: "10.83.0.1", KVM: "missing"}, nil, nil
	})
	list := func(context.Context, *ops.Call, ops.None) (ops.None, []*os.File, error) {
		fd, err := unix.MemfdCreate("list", unix.MFD_CLOEXEC)
		f := os.NewFile(uintptr(fd), "list")
		f.WriteAt([]byte("[]"), 0)
		return ops.None{}, []*os.File{f}, err
	}
	ops.Bind(s, ops.Inventory, list)
	ops.Bind(s, ops.Reconcile, list)
	ops.Bind(s, ops.VMReserve, func(context.Context, *ops.Call, ops.None) (ops.VMReserveReply, []*os.File, error) {
		return ops.VMReserveReply{Handle: strings.Repeat("0", 32), ID: "00000000", Address: "10.83.0.2", Prefix: 16}, nil, nil
	})
	refuse := errors.New("not here")
	ops.Bind(s, ops.VMStart, func(context.Context, *ops.Call, ops.VMStartArgs) (ops.VMStartReply, []*os.File, error) {
		return ops.VMStartReply{}, nil, refuse
	})
	ops.Bind(s, ops.VMReconnect, func(context.Context, *ops.Call, ops.HandleArgs) (ops.VMStartReply, []*os.File, error) {
		return ops.VMStartReply{}, nil, refuse
	})
	done := func(context.Context, *ops.Call, ops.HandleArgs) (ops.None, []*os.File, error) {
		return ops.None{}, nil, nil
	}
	ops.Bind(s, ops.VMSeal, done)
	ops.Bind(s, ops.VMStop, done)
	ops.Bind(s, ops.VMRelease, done)
	ops.Bind(s, ops.KernelPut, func(context.Context, *ops.Call, ops.KernelPutArgs) (ops.KernelPutReply, []*os.File, error) {
		return ops.KernelPutReply{Have: true}, nil, nil
	})
	ops.Bind(s, ops.Resolver, func(context.Context, *ops.Call, ops.None) (ops.None, []*os.File, error) {
		return ops.None{}, nil, refuse
	})
	path := filepath.Join(dir, "helper.sock")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { s.Serve(ctx, l); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
	return path
}

// rootfs is a tar of a small root file system that says what it is.
func rootfs(t testing.TB, id string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range map[string]string{"etc/os-release": "PRETTY_NAME=" + id + "\n"} {
		must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := io.WriteString(w, content)
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// file is an open file with some content. Nothing leads to it by name.
func file(t testing.TB, content []byte) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, content, 0o600))
	f, err := os.Open(path)
	must(t, err)
	must(t, os.Remove(path))
	t.Cleanup(func() { f.Close() })
	return f
}

// importImage imports a small image.
func (l *lab) importImage(t testing.TB, name, id string) api.Image {
	t.Helper()
	img, err := l.client.ImportImage(t.Context(), api.ImportRequest{Name: name, Source: id + ".tar"}, file(t, rootfs(t, id)), nil)
	must(t, err)
	return img
}

// importKernel imports a kernel that no machine can boot, with its modules.
func (l *lab) importKernel(t testing.TB, name, version string) (api.Kernel, error) {
	t.Helper()
	release, _, _ := strings.Cut(version, " ")
	dir := filepath.Join(t.TempDir(), release)
	must(t, os.Mkdir(dir, 0o755))
	builtin := ""
	for _, m := range []string{"virtio", "virtio_mmio", "virtio_blk", "vsock", "vmw_vsock_virtio_transport", "virtio_net", "ext4"} {
		builtin += "kernel/" + m + ".ko\n"
	}
	must(t, os.WriteFile(filepath.Join(dir, "modules.builtin"), []byte(builtin), 0o644))
	modules, err := os.Open(dir)
	must(t, err)
	defer modules.Close()
	image := kerneltest.BzImage(version, kerneltest.Gzip(kerneltest.Vmlinux(kerneltest.Machine, version, true, nil)))
	return l.client.ImportKernel(t.Context(), api.ImportRequest{Name: name, Source: "vmlinuz"}, file(t, image), modules, nil, nil)
}

// vm makes a VM that does not run.
func (l *lab) vm(t testing.TB, spec api.VMSpec) api.VM {
	t.Helper()
	if len(l.images.List()) == 0 {
		l.importImage(t, "debian", "debian")
	}
	if len(l.kernels.List()) == 0 {
		_, err := l.importKernel(t, "linux", "6.1.0-test (test@test) #1")
		must(t, err)
	}
	spec.DiskBytes = 128 << 20
	v, err := l.client.CreateVM(t.Context(), spec, nil)
	must(t, err)
	return v
}

// do sends a request and returns its status and the error in the answer.
func (l *lab) do(t testing.TB, method, path, body string, header ...string) (int, *api.Error, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://bangerd"+path, strings.NewReader(body))
	must(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := l.raw.Do(req)
	must(t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	must(t, err)
	e := &api.Error{}
	if json.Unmarshal(data, e) != nil {
		e = nil
	}
	return res.StatusCode, e, res.Header
}

// upgrade is a connection that the daemon has taken over from HTTP.
func (l *lab) upgrade(t testing.TB, path, body string) *net.UnixConn {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(l.dir, "bangerd.sock"))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: bangerd\r\nConnection: Upgrade\r\nUpgrade: %s\r\nContent-Length: %d\r\n\r\n%s",
		path, api.Upgrade, len(body), body)
	answer := make([]byte, 0, 256)
	for b := make([]byte, 1); !bytes.HasSuffix(answer, []byte("\r\n\r\n")); answer = append(answer, b...) {
		_, err := io.ReadFull(conn, b)
		must(t, err)
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("answer is %q", answer)
	}
	return conn.(*net.UnixConn)
}

// wantNoLeftovers fails where an import has left something unfinished.
func (l *lab) wantNoLeftovers(t testing.TB) {
	t.Helper()
	eventually(t, "the folder for unfinished work to be empty", func() bool { // what was deleted is cleared away later
		entries, err := os.ReadDir(l.store.TempDir())
		must(t, err)
		return len(entries) == 0
	})
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain for ", what)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, code api.Code) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want an error as %s", fmt.Sprint(err), code)
	}
}
