package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"banger/fc"
	"banger/fc/server"
)

// still is a machine that does nothing, unless it is told to fail.
type still struct{ err error }

func (m *still) Prepare(context.Context, fc.Request) error { return m.err }
func (m *still) Start(context.Context, fc.VMConfig) error  { return m.err }
func (m *still) Change(context.Context, fc.Request) error  { return m.err }
func (m *still) BalloonStats(context.Context) (fc.BalloonStats, error) {
	return fc.BalloonStats{ActualMiB: 7}, m.err
}

func do(s *server.Server, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestFailureOfTheMachineChangesNothing(t *testing.T) {
	m := &still{}
	s := server.New(server.Config{Machine: m})
	do(s, "PUT", "/boot-source", `{"kernel_image_path":"/kernel"}`)
	before := do(s, "GET", "/vm/config", "").Body.String()
	m.err = errors.New("it is broken")
	for path, opening := range map[string]string{
		"/drives/a": "Drive config error: ", "/vsock": "Vsock config error: ", "/actions": "Start microvm error: ",
	} {
		body := map[string]string{
			"/drives/a": `{"drive_id":"a","is_root_device":false,"path_on_host":"/d"}`,
			"/vsock":    `{"guest_cid":3,"uds_path":"/v"}`,
			"/actions":  `{"action_type":"InstanceStart"}`,
		}[path]
		w := do(s, "PUT", path, body)
		if want := `{"fault_message":"` + opening + `it is broken"}`; w.Code != 400 || strings.TrimSpace(w.Body.String()) != want {
			t.Errorf("%s: %d %s, want %s", path, w.Code, w.Body, want)
		}
	}
	if after := do(s, "GET", "/vm/config", "").Body.String(); after != before {
		t.Errorf("config was\n%s, is\n%s", before, after)
	}
	m.err = nil
	if w := do(s, "PUT", "/actions", `{"action_type":"InstanceStart"}`); w.Code != 204 {
		t.Errorf("second start: %d %s", w.Code, w.Body)
	}
}

func TestUnsupportedStandsForItself(t *testing.T) {
	s := server.New(server.Config{Machine: &still{err: server.Unsupported("vhost-user drives")}})
	w := do(s, "PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"socket":"/s"}`)
	if want := `{"fault_message":"The requested operation is not supported: vhost-user drives"}`; strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("body is %s", w.Body)
	}
	for _, path := range []string{"/mmds", "/mmds/config", "/cpu-config", "/pmem/a", "/hotplug/memory"} {
		if w := do(s, "PUT", path, "{}"); w.Code != 400 || !strings.Contains(w.Body.String(), "is not supported: ") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestBodyLimit(t *testing.T) {
	s := server.New(server.Config{Machine: &still{}})
	for size, want := range map[int]int{server.MaxBody: 204, server.MaxBody + 1: 400} {
		body := `{"level":"Info"}`
		body += strings.Repeat(" ", size-len(body))
		if w := do(s, "PUT", "/logger", body); w.Code != want {
			t.Errorf("%d bytes: status %d, want %d", size, w.Code, want)
		}
	}
}

func TestRootDriveIsFirst(t *testing.T) {
	s := server.New(server.Config{Machine: &still{}})
	drive := func(id string, root bool) string {
		b, _ := json.Marshal(fc.Drive{ID: id, IsRoot: root, Path: "/" + id})
		return string(b)
	}
	order := func() string {
		var config fc.VMConfig
		json.Unmarshal(do(s, "GET", "/vm/config", "").Body.Bytes(), &config)
		var ids []string
		for _, d := range config.Drives {
			ids = append(ids, d.ID)
		}
		return strings.Join(ids, " ")
	}
	for _, step := range []struct {
		id   string
		root bool
		want string
	}{
		{"a", false, "a"}, {"b", false, "a b"}, {"c", true, "c a b"}, {"c", false, "c a b"}, {"b", true, "b c a"}, {"d", true, "b c a"},
	} {
		do(s, "PUT", "/drives/"+step.id, drive(step.id, step.root))
		if got := order(); got != step.want {
			t.Fatalf("after %s root=%v: %s, want %s", step.id, step.root, got, step.want)
		}
	}
}

func TestDeprecatedFieldsAreMarked(t *testing.T) {
	s := server.New(server.Config{Machine: &still{}})
	w := do(s, "PUT", "/vsock", `{"vsock_id":"v","guest_cid":3,"uds_path":"/v"}`)
	if w.Code != 204 || w.Header().Get("Deprecation") != "true" {
		t.Errorf("status %d, header %v", w.Code, w.Header())
	}
	w = do(s, "PUT", "/vsock", `{"guest_cid":3,"uds_path":"/v"}`)
	if w.Header().Get("Deprecation") != "" {
		t.Errorf("header %v", w.Header())
	}
}

func TestLoad(t *testing.T) {
	tests := []struct{ name, file, fault string }{
		{"whole", `{"boot-source":{"kernel_image_path":"/kernel"},"drives":[{"drive_id":"a","is_root_device":true,"path_on_host":"/d"}],
			"machine-config":{"vcpu_count":2,"mem_size_mib":64},"network-interfaces":[{"iface_id":"n","host_dev_name":"t"}],"pmem":[],"cpu-config":null}`, ""},
		{"no drives", `{"boot-source":{"kernel_image_path":"/kernel"}}`, "missing field `drives`"},
		{"unknown part", `{"boot-source":{"kernel_image_path":"/kernel"},"drives":[],"balon":null}`, "unknown field `balon`"},
		{"part that is not there", `{"boot-source":{"kernel_image_path":"/kernel"},"drives":[],"mmds-config":{"network_interfaces":[]}}`, "not supported: mmds-config"},
		{"wrong value", `{"boot-source":{"kernel_image_path":"/kernel"},"drives":[],"machine-config":{"vcpu_count":99,"mem_size_mib":64}}`, "number of vCPUs"},
		{"two roots", `{"boot-source":{"kernel_image_path":"/kernel"},"drives":[{"drive_id":"a","is_root_device":true,"path_on_host":"/d"},
			{"drive_id":"b","is_root_device":true,"path_on_host":"/e"}]}`, "root block device already exists"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := server.New(server.Config{Machine: &still{}})
			err := s.Load(t.Context(), []byte(tt.file))
			var info fc.InstanceInfo
			json.Unmarshal(do(s, "GET", "/", "").Body.Bytes(), &info)
			if tt.fault == "" {
				if err != nil || info.State != fc.StateRunning {
					t.Errorf("state %s, error %v", info.State, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.fault) || info.State != fc.StateNotStarted {
				t.Errorf("state %s, error %v, want %q", info.State, err, tt.fault)
			}
		})
	}
}

// FuzzRequest sends any request to a server before and after boot. What comes back must be
// one of the three statuses, and the answer of the shape that goes with it.
func FuzzRequest(f *testing.F) {
	f.Add("PUT", "/machine-config", []byte(`{"vcpu_count":2,"mem_size_mib":128}`))
	f.Add("PATCH", "/machine-config", []byte(`{"smt":true}`))
	f.Add("PUT", "/drives/a", []byte(`{"drive_id":"a","is_root_device":true,"path_on_host":"/d","rate_limiter":{"ops":{"size":1,"refill_time":1}}}`))
	f.Add("PUT", "/snapshot/load", []byte(`{"snapshot_path":"a","mem_backend":{"backend_type":"File","backend_path":"b"},"network_overrides":[{"iface_id":"a","host_dev_name":"b"}]}`))
	f.Add("PATCH", "/balloon/statistics", []byte(`{"stats_polling_interval_s":1}`))
	f.Add("GET", "/vm/config", []byte(nil))
	f.Add("PUT", "/actions", []byte(`{"action_type":"InstanceStart"}`))
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		s := server.New(server.Config{Machine: &still{}})
		for range 2 {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/", strings.NewReader(string(body)))
			r.Method, r.URL.Path = method, path
			s.ServeHTTP(w, r)
			var fields map[string]any
			decoded := json.Unmarshal(w.Body.Bytes(), &fields) == nil
			_, fault := fields["fault_message"]
			switch {
			case w.Code == http.StatusNoContent && w.Body.Len() == 0:
			case w.Code == http.StatusOK && decoded && !fault:
			case w.Code == http.StatusBadRequest && decoded && fault:
			default:
				t.Fatalf("%s %q %q: %d %s", method, path, body, w.Code, w.Body)
			}
			do(s, "PUT", "/boot-source", `{"kernel_image_path":"/kernel"}`)
			do(s, "PUT", "/actions", `{"action_type":"InstanceStart"}`)
		}
	})
}
