package fctest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/fc"
	"banger/fc/fctest"
)

// serve runs v until the test ends and returns its socket.
func serve(t *testing.T, v *fctest.VMM) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return socket
}

func dial(t *testing.T, socket string) *fc.Client {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	client := fc.NewClient(conn, nil)
	t.Cleanup(func() { client.Close() })
	return client
}

func TestConform(t *testing.T) {
	fctest.Conform(t, fctest.Target{
		Socket: serve(t, &fctest.VMM{ID: "vm-1"}),
		Kernel: "/kernel", Initrd: "/initrd", Disk: "/disk0", Disk2: "/disk1", UDS: "/v.sock", BootArgs: "console=ttyS0",
	})
}

func TestVMMRemembersAndRefuses(t *testing.T) {
	vmm := &fctest.VMM{}
	client := dial(t, serve(t, vmm))
	vmm.Refuse("PUT", "/entropy", errors.New("no randomness today"))
	err := client.Do(t.Context(), fc.Entropy{})
	var refused *fc.APIError
	if !errors.As(err, &refused) || !strings.Contains(refused.FaultMessage, "no randomness today") {
		t.Errorf("error is %v", err)
	}
	vmm.Refuse("PUT", "/entropy", nil)
	if err := client.Do(t.Context(), fc.Entropy{}); err != nil {
		t.Error(err)
	}
	if asked := vmm.Asked(); !slices.Equal(asked, []string{"PUT /entropy", "PUT /entropy"}) {
		t.Errorf("asked %q", asked)
	}
	if e := vmm.Events()[0]; e.Status != 400 || string(e.Body) != "{}" {
		t.Errorf("event is %+v", e)
	}
}

func TestGuestIsReachedOverVsock(t *testing.T) {
	var started fc.VMConfig
	vmm := &fctest.VMM{
		OnStart: func(_ context.Context, config fc.VMConfig) error { started = config; return nil },
		Guest: func(port uint32, conn net.Conn) {
			defer conn.Close()
			if port == 1025 {
				io.WriteString(conn, "hello")
			}
		},
	}
	client := dial(t, serve(t, vmm))
	uds := filepath.Join(t.TempDir(), "v.sock")
	for _, r := range []fc.Request{
		fc.BootSource{KernelPath: "/kernel"},
		fc.Vsock{GuestCID: 3, UDSPath: uds},
		fc.Action{Type: fc.InstanceStart},
	} {
		if err := client.Do(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if started.Vsock == nil || started.Vsock.UDSPath != uds {
		t.Errorf("started with vsock %+v", started.Vsock)
	}
	conn, err := fc.DialVsock(t.Context(), uds, 1025)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
}
