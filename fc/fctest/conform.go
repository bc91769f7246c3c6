package fctest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Target is a VMM that Conform puts its questions to, fresh and not yet configured.
type Target struct {
	// Socket is the API socket.
	Socket string
	// Kernel, Initrd, Disk and Disk2 are files that the VMM can open; UDS is a path that
	// it can listen on. A Target whose VMM opens no files may leave them at any words.
	Kernel, Initrd, Disk, Disk2, UDS string
	// OpensFiles tells that the VMM looks at what it is given before boot.
	OpensFiles bool
	// NoDrivers tells that the guest has none for the devices, which Firecracker minds.
	NoDrivers bool
	// BootArgs is a command line with which the kernel stays up.
	BootArgs string
}

// step is one request and what must come back. fault is a part of the fault message.
type step struct {
	method, path, body string
	status             int
	fault              string
	needs              need
}

// need is what a step can be asked with only.
type need int

const (
	nothing need = iota
	// files can only be refused by a VMM that opens them.
	files
	// drivers in the guest take part in the answer.
	drivers
)

const (
	notAfter  = "not supported after starting"
	notBefore = "not supported before starting"
	badBody   = "deserializing the json body"
)

// steps is the table: in this order, from a fresh VMM over its boot. What Firecracker's
// versions answer differently is not in it.
var steps = []step{
	// What there is at first.
	{"GET", "/", "", 200, "", nothing},
	{"GET", "/version", "", 200, "", nothing},
	{"GET", "/machine-config", "", 200, "", nothing},
	{"GET", "/vm/config", "", 200, "", nothing},
	{"GET", "/balloon", "", 400, "No balloon device found", nothing},

	// Requests that are none.
	{"GET", "/nonsense", "", 400, "Invalid request method and/or path: GET nonsense.", nothing},
	{"PUT", "/nonsense", "{}", 400, "Invalid request method and/or path: PUT nonsense.", nothing},
	{"PATCH", "/actions", `{"action_type":"FlushMetrics"}`, 400, "Invalid request method and/or path: PATCH actions.", nothing},
	{"PUT", "/actions", "", 400, "Empty PUT request.", nothing},
	{"PATCH", "/vm", "", 400, "Empty PATCH request.", nothing},
	{"GET", "/", "{}", 400, "GET request cannot have a body.", nothing},
	{"PUT", "/snapshot/nonsense", "{}", 400, "Invalid request method and/or path: PUT /snapshot/nonsense.", nothing},

	// Bodies that are none.
	{"PUT", "/actions", "{", 400, badBody, nothing},
	{"PUT", "/actions", "{} {}", 400, badBody, nothing},
	{"PUT", "/actions", `{"action_type":"Explode"}`, 400, badBody, nothing},
	{"PUT", "/actions", `{"action_type":"InstanceStart","x":1}`, 400, badBody, nothing},
	{"PUT", "/actions", `{"action_type":"InstanceStart","action_type":"InstanceStart"}`, 400, badBody, nothing},
	{"PUT", "/actions", `{"Action_Type":"InstanceStart"}`, 400, badBody, nothing},
	{"PUT", "/actions", `{}`, 400, badBody, nothing},
	{"PUT", "/actions", `{"action_type":null}`, 400, badBody, nothing},
	{"PUT", "/machine-config", `{"vcpu_count":"2","mem_size_mib":128}`, 400, badBody, nothing},
	{"PUT", "/machine-config", `{"vcpu_count":2}`, 400, badBody, nothing},
	{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"{disk}","cache_type":"Maybe"}`, 400, badBody, nothing},
	{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"{disk}","rate_limiter":{"ops":{"size":1}}}`, 400, badBody, nothing},
	{"PUT", "/network-interfaces/n", `{"iface_id":"n","host_dev_name":"t","guest_mac":"06:00"}`, 400, badBody, nothing},
	{"PATCH", "/vm", `{"state":"Running"}`, 400, badBody, nothing},

	// Names.
	{"PUT", "/drives", `{"drive_id":"a","is_root_device":false,"path_on_host":"{disk}"}`, 400, "The ID cannot be empty.", nothing},
	{"PUT", "/drives/a-b", `{"drive_id":"a-b","is_root_device":false,"path_on_host":"{disk}"}`, 400, "alphanumeric characters and underscores", nothing},
	{"PUT", "/drives/b", `{"drive_id":"a","is_root_device":false,"path_on_host":"{disk}"}`, 400, "does not match the id from the body", nothing},

	// Too early.
	{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 400, "without kernel configuration", nothing},
	{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, 400, notBefore, nothing},
	{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, 400, notBefore, nothing},
	{"PATCH", "/vm", `{"state":"Paused"}`, 400, notBefore, nothing},
	{"PATCH", "/drives/a", `{"drive_id":"a"}`, 400, notBefore, nothing},
	{"PATCH", "/network-interfaces/n", `{"iface_id":"n"}`, 400, notBefore, nothing},
	{"PATCH", "/balloon", `{"amount_mib":1}`, 400, notBefore, nothing},
	{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":1}`, 400, notBefore, nothing},
	{"GET", "/balloon/statistics", "", 400, notBefore, nothing},
	{"PUT", "/snapshot/create", `{"snapshot_path":"s","mem_file_path":"m"}`, 400, notBefore, nothing},

	// Machine.
	{"PUT", "/machine-config", `{"vcpu_count":0,"mem_size_mib":128}`, 400, "number of vCPUs", nothing},
	{"PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":128}`, 400, "number of vCPUs", nothing},
	{"PUT", "/machine-config", `{"vcpu_count":3,"mem_size_mib":128,"smt":true}`, 400, "number of vCPUs", nothing},
	{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":0}`, 400, "memory size", nothing},
	{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":192}`, 204, "", nothing},
	{"PATCH", "/machine-config", `{}`, 400, "Empty PATCH request.", nothing},
	{"PATCH", "/machine-config", `{"mem_size_mib":256}`, 204, "", nothing},
	{"GET", "/machine-config", "", 200, "", nothing},

	// Boot source and drives.
	{"PUT", "/boot-source", `{"kernel_image_path":"/nonexistent"}`, 400, "Boot source error", files},
	{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","initrd_path":"/nonexistent"}`, 400, "Boot source error", files},
	{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}","initrd_path":"{initrd}","boot_args":"{args}"}`, 204, "", nothing},
	{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"/nonexistent"}`, 400, "Drive config error", files},
	{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false}`, 400, "Drive config error", nothing},
	{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":true,"path_on_host":"{disk}"}`, 204, "", nothing},
	{"PUT", "/drives/b", `{"drive_id":"b","is_root_device":true,"path_on_host":"{disk2}"}`, 400, "root block device already exists", nothing},
	{"PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"{disk}","cache_type":"Writeback",` +
		`"rate_limiter":{"bandwidth":{"size":104857600,"refill_time":100}}}`, 204, "", nothing},

	// Devices of which there is one.
	{"PUT", "/vsock", `{"guest_cid":3}`, 400, badBody, nothing},
	{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"{uds}"}`, 204, "", nothing},
	{"PUT", "/entropy", `{}`, 204, "", nothing},
	{"PUT", "/balloon", `{"amount_mib":257,"deflate_on_oom":true}`, 400, "Balloon config error", nothing},
	{"PUT", "/balloon", `{"amount_mib":8,"deflate_on_oom":true,"stats_polling_interval_s":1}`, 204, "", nothing},
	{"GET", "/balloon", "", 200, "", nothing},
	{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":7}`, 400, "smaller than the previously set balloon", nothing},
	{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_file_path":"m"}`, 400, "not allowed after configuring", nothing},

	// Boot.
	{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 204, "", nothing},
	{"PUT", "/actions", `{"action_type":"InstanceStart"}`, 400, notAfter, nothing},

	// Too late.
	{"PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`, 400, notAfter, nothing},
	{"PATCH", "/machine-config", `{"vcpu_count":1}`, 400, notAfter, nothing},
	{"PUT", "/boot-source", `{"kernel_image_path":"{kernel}"}`, 400, notAfter, nothing},
	{"PUT", "/vsock", `{"guest_cid":3,"uds_path":"{uds}2"}`, 400, notAfter, nothing},
	{"PUT", "/entropy", `{}`, 400, notAfter, nothing},
	{"PUT", "/balloon", `{"amount_mib":0,"deflate_on_oom":true}`, 400, notAfter, nothing},
	{"PUT", "/logger", `{"level":"Info"}`, 400, notAfter, nothing},
	{"PUT", "/metrics", `{"metrics_path":"m"}`, 400, notAfter, nothing},
	{"PUT", "/snapshot/load", `{"snapshot_path":"s","mem_file_path":"m"}`, 400, notAfter, nothing},
	{"PUT", "/boot-source", `{"kernel_image_path":1}`, 400, badBody, nothing},

	// Life.
	{"GET", "/", "", 200, "", nothing},
	{"GET", "/vm/config", "", 200, "", nothing},
	{"PATCH", "/vm", `{"state":"Paused"}`, 204, "", nothing},
	{"PATCH", "/vm", `{"state":"Paused"}`, 204, "", nothing},
	{"GET", "/", "", 200, "", nothing},
	{"PATCH", "/vm", `{"state":"Resumed"}`, 204, "", nothing},
	{"PATCH", "/vm", `{"state":"Resumed"}`, 204, "", nothing},
	{"PUT", "/actions", `{"action_type":"FlushMetrics"}`, 204, "", nothing},
	{"PATCH", "/drives/nope", `{"drive_id":"nope","path_on_host":"{disk}"}`, 400, "Unable to patch the block device", nothing},
	{"PATCH", "/drives/a", `{"drive_id":"a","path_on_host":"{disk}"}`, 204, "", drivers},
	{"PATCH", "/drives/a", `{"drive_id":"a","rate_limiter":{"ops":{"size":100000,"refill_time":100}}}`, 204, "", nothing},
	{"PATCH", "/network-interfaces/nope", `{"iface_id":"nope"}`, 400, "Network config error", nothing},
	{"PATCH", "/balloon", `{"amount_mib":257}`, 400, "Balloon update error", nothing},
	{"PATCH", "/balloon", `{"amount_mib":4}`, 204, "", drivers},
	{"GET", "/balloon", "", 200, "", drivers},
	{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":0}`, 400, "Balloon update error", nothing},
	{"PATCH", "/balloon/statistics", `{"stats_polling_interval_s":2}`, 204, "", drivers},
	{"PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, 204, "", nothing},
}

// answers is what must be in the bodies that come for a path, in order.
var answers = map[string][]map[string]any{
	"/":               {{"state": "Not started"}, {"state": "Running"}, {"state": "Paused"}},
	"/machine-config": {{"vcpu_count": 1.0, "mem_size_mib": 128.0, "smt": false, "huge_pages": "None"}, {"vcpu_count": 1.0, "mem_size_mib": 256.0}},
	"/balloon":        {{"amount_mib": 8.0, "deflate_on_oom": true, "stats_polling_interval_s": 1.0}, {"amount_mib": 4.0}},
}

// Conform asks target the whole table of requests, in order, and compares status, the shape
// of what comes and the words of the refusals.
func Conform(t *testing.T, target Target) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", target.Socket)
		},
	}}
	defer client.CloseIdleConnections()
	words := strings.NewReplacer("{kernel}", target.Kernel, "{initrd}", target.Initrd, "{args}", target.BootArgs,
		"{disk}", target.Disk, "{disk2}", target.Disk2, "{uds}", target.UDS)
	asked := make(map[string]int)
	for i, s := range steps {
		if s.needs == files && !target.OpensFiles || s.needs == drivers && target.NoDrivers {
			continue
		}
		name := fmt.Sprintf("step %d: %s %s %s", i, s.method, s.path, s.body)
		status, body, err := ask(t.Context(), client, s.method, s.path, words.Replace(s.body))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if problem := s.compare(status, body); problem != "" {
			t.Errorf("%s: %s", name, problem)
		}
		if s.method == http.MethodGet && s.status == http.StatusOK {
			if problem := compareAnswer(s.path, asked[s.path], body); problem != "" {
				t.Errorf("%s: %s", name, problem)
			}
			asked[s.path]++
		}
	}
}

// compare returns what is wrong with an answer, or nothing.
func (s step) compare(status int, body []byte) string {
	if status != s.status {
		return fmt.Sprintf("status %d, want %d: %s", status, s.status, body)
	}
	if status == http.StatusNoContent {
		if len(body) > 0 {
			return fmt.Sprintf("content %q in an answer without content", body)
		}
		return ""
	}
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		return fmt.Sprintf("body %q: %v", body, err)
	}
	fault, isFault := fields["fault_message"].(string)
	switch {
	case isFault != (status != http.StatusOK):
		return fmt.Sprintf("status %d with body %s", status, body)
	case isFault && len(fields) != 1:
		return fmt.Sprintf("a fault with more than a fault message: %s", body)
	case !strings.Contains(fault, s.fault):
		return fmt.Sprintf("fault %q, want %q in it", fault, s.fault)
	}
	return ""
}

func compareAnswer(path string, n int, body []byte) string {
	var fields map[string]any
	if err := json.Unmarshal(body, &fields); err != nil {
		return err.Error()
	}
	if n >= len(answers[path]) {
		return ""
	}
	for key, want := range answers[path][n] {
		if fields[key] != want {
			return fmt.Sprintf("%s is %v, want %v", key, fields[key], want)
		}
	}
	return ""
}

func ask(ctx context.Context, client *http.Client, method, path, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, answer, err
}
