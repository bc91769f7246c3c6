package daemon

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"banger/personas/api"
	"banger/personas/daemon/config"
)

// configure writes the owner's configuration. The daemon is not told.
func (l *lab) configure(t testing.TB, text string) {
	t.Helper()
	path := config.Path(l.home)
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, os.WriteFile(path, []byte(text), 0o600))
}

func (l *lab) setting(t testing.TB, key string) api.Setting {
	t.Helper()
	s, err := l.client.Settings(t.Context())
	must(t, err)
	for _, v := range s.Values {
		if v.Key == key {
			return v
		}
	}
	t.Fatalf("no setting %q in %+v", key, s)
	return api.Setting{}
}

func TestMoreMemoryThanTheHostHas(t *testing.T) {
	l := newLab(t)
	l.vm(t, api.VMSpec{Name: "first"})
	_, err := l.client.CreateVM(t.Context(), api.VMSpec{MemMiB: api.MaxMemMiB}, nil)
	wantCode(t, err, api.CodeUsage)
	l.configure(t, "memory = \"1t\"")
	_, err = l.client.CreateVM(t.Context(), api.VMSpec{}, nil)
	wantCode(t, err, api.CodeUsage)
	if err == nil || !strings.Contains(err.Error(), config.Path(l.home)+":1: memory of") {
		t.Errorf("error is %v", err)
	}
	if vms, err := l.client.VMs(t.Context()); err != nil || len(vms) != 1 {
		t.Errorf("VMs are %+v, %v", vms, err)
	}
}

func TestConfiguredVM(t *testing.T) {
	l := newLab(t)
	l.vm(t, api.VMSpec{Name: "first"})
	l.importImage(t, "other", "other")
	l.configure(t, "cpus = 3\nmemory = \"128m\"\nimage = \"other\"\nnet = \"none\"\nbackend = \"copy\"\ndisk = \"64m\"")
	v, err := l.client.CreateVM(t.Context(), api.VMSpec{Name: "a", Net: api.NetFull}, nil)
	must(t, err)
	if s := v.Spec; s.CPUs != 3 || s.MemMiB != 128 || s.Image != "other" || s.Net != api.NetFull || v.Backend != api.BackendCopy || s.DiskBytes != 128<<20 {
		t.Errorf("%+v", v) // a default disk is never smaller than its image
	}
	path := config.Path(l.home)
	if got := l.setting(t, "image"); got != (api.Setting{Key: "image", Value: "other", Source: path + ":3"}) {
		t.Errorf("image: %+v", got)
	}
	if got := l.setting(t, "kernel"); got != (api.Setting{Key: "kernel", Value: "linux", Source: "catalogue"}) {
		t.Errorf("kernel: %+v", got)
	}

	l.configure(t, "") // no restart
	v, err = l.client.CreateVM(t.Context(), api.VMSpec{Name: "b", Image: "debian", DiskBytes: 128 << 20}, nil)
	must(t, err)
	if s := v.Spec; s.CPUs != min(runtime.NumCPU(), 4) || s.MemMiB < 512 || s.Net != api.NetInternet {
		t.Errorf("after the file was emptied: %+v", v)
	}
}

// A broken file stops nothing but the making of VMs.
func TestBrokenConfiguration(t *testing.T) {
	l := newLab(t)
	l.vm(t, api.VMSpec{Name: "first"})
	l.configure(t, "cpus = 1\nmemroy = \"1g\"")
	path := config.Path(l.home)
	want := path + `:2: unknown key "memroy": did you mean "memory"?`
	status, e, _ := l.do(t, "POST", "/v1/vms", `{"name":"a","cpus":1,"mem_mib":128}`)
	if status != http.StatusConflict || e.Message != want || e.HintText == "" {
		t.Errorf("create: %d %+v", status, e)
	}
	s, err := l.client.Settings(t.Context())
	must(t, err)
	if s.Error == nil || s.Error.Message != want || s.Path != path || !s.Found || len(s.Values) > 0 {
		t.Errorf("settings: %+v", s)
	}
	if vms, err := l.client.VMs(t.Context()); err != nil || len(vms) != 1 {
		t.Errorf("VMs: %+v, %v", vms, err)
	}
	must(t, l.client.DeleteVM(t.Context(), "first", false, nil))
	l.configure(t, "memory = \"1g\"")
	l.vm(t, api.VMSpec{Name: "a"})
}

// An error about what the file names says so.
func TestConfigurationIsBlamed(t *testing.T) {
	l := newLab(t)
	l.vm(t, api.VMSpec{Name: "first"})
	for _, c := range []struct{ text, body, source string }{
		{"image = \"none\"", `{}`, ":1: "},
		{"\nkernel = \"none\"", `{}`, ":2: "},
		{"vmm = \"firecracker\"", `{}`, ":1: "},
		{"image = \"none\"", `{"image":"nothing"}`, ""},
		{"vmm = \"auto\"", `{"vmm":"firecracker"}`, ""},
	} {
		l.configure(t, c.text)
		status, e, _ := l.do(t, "POST", "/v1/vms", c.body)
		path := config.Path(l.home)
		if status/100 != 4 || strings.HasPrefix(e.Message, path+c.source) != (c.source != "") {
			t.Errorf("%q with %s: %d %+v", c.text, c.body, status, e)
		}
	}
}

// Files that must not go to a guest stop a VM before it exists.
func TestFileSyncIsCheckedAtCreate(t *testing.T) {
	l := newLab(t)
	l.vm(t, api.VMSpec{Name: "first"})
	l.configure(t, "[[file_sync]]\nhost = \"good\"\n[[file_sync]]\nhost = \"bad\"")
	must(t, os.WriteFile(filepath.Join(l.home, "good"), nil, 0o600))
	l.vm(t, api.VMSpec{Name: "a"}) // one that is not there is no error
	must(t, os.Symlink("/etc/passwd", filepath.Join(l.home, "bad")))
	status, e, _ := l.do(t, "POST", "/v1/vms", `{"name":"b"}`)
	if status != http.StatusConflict || !strings.HasPrefix(e.Message, "file_sync[1]: ") || !strings.Contains(e.Message, "~/bad") {
		t.Errorf("%d %+v", status, e)
	}
	if _, err := l.client.VM(t.Context(), "b"); err == nil {
		t.Error("the VM is there")
	}
	rec, unpin, err := l.plan(context.Background(), api.VMSpec{Name: "c"})
	if err == nil {
		unpin()
		t.Errorf("planned: %+v", rec)
	}
	s, err := l.client.Settings(t.Context())
	must(t, err)
	if len(s.FileSync) != 2 || s.FileSync[1] != (api.FileSync{Host: "~/bad", Guest: "~/bad", Mode: "0600"}) {
		t.Errorf("settings: %+v", s)
	}
}

func TestOwnHome(t *testing.T) {
	t.Setenv("HOME", "/home/x")
	if got, err := ownHome(); err != nil || got != "/home/x" {
		t.Errorf("%q, %v", got, err)
	}
	t.Setenv("HOME", "")
	if got, err := ownHome(); err != nil || !filepath.IsAbs(got) {
		t.Errorf("without HOME: %q, %v", got, err)
	}
}
