package fc_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/fc"
)

// vmm answers each request on one end of a pipe by what reply says, and returns the other
// end. A nil answer closes the connection.
func vmm(t *testing.T, reply func(*http.Request, string) []byte) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go func() {
		defer theirs.Close()
		in := bufio.NewReader(theirs)
		for {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			answer := reply(req, string(body))
			if answer == nil {
				return
			}
			if _, err := theirs.Write(answer); err != nil {
				return
			}
		}
	}()
	return ours
}

func answer(status int, body string) []byte {
	if status == http.StatusNoContent {
		return []byte("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n")
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func TestClientKeepsOneConnection(t *testing.T) {
	var got []string
	client := fc.NewClient(vmm(t, func(r *http.Request, body string) []byte {
		got = append(got, r.Method+" "+r.URL.Path+" "+body)
		if r.Method == http.MethodGet {
			return answer(200, `{"app_name":"x","id":"vm-1","state":"Running","vmm_version":"1.14.4"}`)
		}
		return answer(204, "")
	}), nil)
	defer client.Close()
	for _, r := range []fc.Request{
		fc.MachineConfig{VCPUCount: 2, MemSizeMiB: 256},
		fc.Drive{ID: "root", IsRoot: true, Path: "/disk0", CacheType: fc.CacheWriteback},
		fc.Action{Type: fc.InstanceStart},
		fc.VM{State: fc.Paused},
	} {
		if err := client.Do(t.Context(), r); err != nil {
			t.Fatalf("%T: %v", r, err)
		}
	}
	info, err := client.InstanceInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.ID != "vm-1" || info.State != fc.StateRunning {
		t.Errorf("info is %+v", info)
	}
	want := []string{
		`PUT /machine-config {"vcpu_count":2,"mem_size_mib":256,"smt":false,"track_dirty_pages":false}`,
		`PUT /drives/root {"drive_id":"root","is_root_device":true,"cache_type":"Writeback","path_on_host":"/disk0"}`,
		`PUT /actions {"action_type":"InstanceStart"}`,
		`PATCH /vm {"state":"Paused"}`,
		`GET / `,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("sent\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRefusalIsAPIErrorAndKeepsTheConnection(t *testing.T) {
	asked := 0
	client := fc.NewClient(vmm(t, func(*http.Request, string) []byte {
		if asked++; asked == 1 {
			return answer(400, `{"fault_message":"The requested operation is not supported after starting the microVM."}`)
		}
		return answer(204, "")
	}), nil)
	err := client.Do(t.Context(), fc.Entropy{})
	var refused *fc.APIError
	if !errors.As(err, &refused) {
		t.Fatalf("error is %v", err)
	}
	if refused.Status != 400 || refused.Path != "/entropy" || !strings.HasPrefix(refused.FaultMessage, "The requested") {
		t.Errorf("refusal is %+v", refused)
	}
	if err := client.Do(t.Context(), fc.Entropy{}); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func TestClientRefusesUnboundedAnswers(t *testing.T) {
	endless := strings.Repeat("x", 2<<20)
	for name, raw := range map[string]string{
		"body without length": "HTTP/1.1 200 OK\r\n\r\n" + endless,
		"body with length":    fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(endless), endless),
		"header":              "HTTP/1.1 200 OK\r\nX: " + endless,
		"status line":         endless,
	} {
		t.Run(name, func(t *testing.T) {
			client := fc.NewClient(vmm(t, func(*http.Request, string) []byte { return []byte(raw) }), nil)
			defer client.Close()
			if _, err := client.VMConfig(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than") {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestLostConnectionIsDialledForTheNextRequest(t *testing.T) {
	dead := func(*http.Request, string) []byte { return nil }
	alive := func(*http.Request, string) []byte { return answer(204, "") }
	dials := 0
	client := fc.NewClient(vmm(t, dead), func(context.Context) (net.Conn, error) {
		dials++
		return vmm(t, alive), nil
	})
	if err := client.Do(t.Context(), fc.Entropy{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("error on a dead connection is %v", err)
	}
	for range 2 {
		if err := client.Do(t.Context(), fc.Entropy{}); err != nil {
			t.Fatal(err)
		}
	}
	if dials != 1 {
		t.Errorf("dialled %d times", dials)
	}
	alone := fc.NewClient(nil, nil)
	if err := alone.Do(t.Context(), fc.Entropy{}); !errors.Is(err, fc.ErrNoConnection) {
		t.Errorf("error without connection is %v", err)
	}
}

func TestCancelEndsTheWait(t *testing.T) {
	block := make(chan struct{})
	defer close(block)
	client := fc.NewClient(vmm(t, func(*http.Request, string) []byte { <-block; return nil }), nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := client.Do(ctx, fc.Entropy{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestClientIsSafeForConcurrentUse(t *testing.T) {
	client := fc.NewClient(vmm(t, func(r *http.Request, _ string) []byte {
		return answer(200, fmt.Sprintf(`{"firecracker_version":%q}`, "v"))
	}), nil)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if v, err := client.Version(t.Context()); err != nil || v != "v" {
				t.Errorf("version %q, error %v", v, err)
			}
		})
	}
	wg.Wait()
}

// FuzzAnswer feeds any bytes as a VMM's answer: the client must end, with or without error.
func FuzzAnswer(f *testing.F) {
	f.Add(answer(204, ""))
	f.Add(answer(200, `{"drives":[{"drive_id":"a"}],"boot-source":{}}`))
	f.Add(answer(400, `{"fault_message":"no"}`))
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		go func() {
			theirs.Write(raw)
			theirs.Close()
		}()
		client := fc.NewClient(ours, nil)
		defer client.Close()
		client.VMConfig(t.Context())
	})
}
