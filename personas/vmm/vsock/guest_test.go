package vsock

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// One guest serves all of the tests here, as booting it takes most of the time. What
// reboots it comes last.
func TestGuest(t *testing.T) {
	g := bootGuest(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *guest)
	}{
		{"echo", testEcho},
		{"send 24 MiB", testSink},
		{"receive 24 MiB", testSource},
		{"speed without hashing", testSpeed},
		{"nothing is lost when the guest closes at once", testBlurt},
		{"guest dials the host", testGuestDials},
		{"refused on both sides", testRefused},
		{"50 streams at once", testMany},
		{"guest that does not read stops nobody else", testBlocked},
		{"300 short connections leave nothing", testShort},
		{"streams end with a reboot and begin again", testReboot},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, g) })
	}
}

func testEcho(t *testing.T, g *guest) {
	c := g.dial(t, 1)
	defer c.Close()
	var best time.Duration = time.Hour
	b := make([]byte, 4)
	for range 200 {
		begin := time.Now()
		fmt.Fprint(c, "ping")
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "ping" {
			t.Fatalf("echo %q, %v", b, err)
		}
		best = min(best, time.Since(begin))
	}
	t.Logf("round trip %v at best", best)
}

const bulk = 24 << 20

func testSink(t *testing.T, g *guest) {
	c := g.dial(t, 2)
	defer c.Close()
	data := make([]byte, bulk)
	rand.NewChaCha8([32]byte{1}).Read(data)
	begin := time.Now()
	binary.Write(c, binary.LittleEndian, uint64(len(data)))
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	var sum [32]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f MiB/s with the guest hashing", rate(begin))
	if sum != sha256.Sum256(data) {
		t.Fatal("the guest received something else")
	}
}

func testSource(t *testing.T, g *guest) {
	c := g.dial(t, 3)
	defer c.Close()
	begin := time.Now()
	binary.Write(c, binary.LittleEndian, uint64(bulk))
	h := sha256.New()
	if _, err := io.CopyN(h, c, bulk); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f MiB/s with the guest hashing", rate(begin))
	var sum [32]byte
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sum[:], h.Sum(nil)) {
		t.Fatal("received something else than the guest sent")
	}
}

func testSpeed(t *testing.T, g *guest) {
	c := g.dial(t, 9)
	defer c.Close()
	begin := time.Now()
	binary.Write(c, binary.LittleEndian, uint64(bulk))
	io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(zeros{}, bulk), make([]byte, 256<<10))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	to := rate(begin)

	c = g.dial(t, 8)
	defer c.Close()
	begin = time.Now()
	binary.Write(c, binary.LittleEndian, uint64(bulk))
	if n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, make([]byte, 256<<10)); n != bulk || err != nil {
		t.Fatalf("received %d of %d bytes, %v", n, bulk, err)
	}
	t.Logf("%.0f MiB/s to the guest, %.0f MiB/s from it", to, rate(begin))
}

func rate(begin time.Time) float64 { return bulk / (1 << 20) / time.Since(begin).Seconds() }

func testBlurt(t *testing.T, g *guest) {
	const n = 700_001
	c := g.dial(t, 8)
	defer c.Close()
	binary.Write(c, binary.LittleEndian, uint64(n))
	time.Sleep(3 * time.Second) // longer than any timeout of the device
	got, err := io.Copy(io.Discard, c)
	if got != n || err != nil {
		t.Fatalf("received %d of %d bytes, %v", got, n, err)
	}
}

// askDial lets the guest dial a port of the host and returns its errno.
func askDial(t *testing.T, g *guest, port uint32) (*net.UnixConn, unix.Errno) {
	t.Helper()
	c := g.dial(t, 5)
	binary.Write(c, binary.LittleEndian, port)
	var errno uint32
	if err := binary.Read(c, binary.LittleEndian, &errno); err != nil {
		t.Fatal(err)
	}
	return c, unix.Errno(errno)
}

func testGuestDials(t *testing.T, g *guest) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.path + "_77", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ask, errno := askDial(t, g, 77)
	defer ask.Close()
	if errno != 0 {
		t.Fatalf("guest could not dial: %v", errno)
	}
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{2}).Read(data)
	go c.Write(data)
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("echo of 1 MiB differs, %v", err)
	}
}

func testRefused(t *testing.T, g *guest) {
	if c, err := g.tryDial(99); err == nil {
		c.Close()
		t.Error("port 99 of the guest took a connection")
	} else if !errors.Is(err, io.EOF) {
		t.Errorf("refusal came as %v", err)
	}
	c, errno := askDial(t, g, 99)
	defer c.Close()
	if errno != unix.ECONNRESET {
		t.Errorf("guest dialling a closed port got %v", errno)
	}
}

func testMany(t *testing.T, g *guest) {
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			c, err := g.tryDial(1)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			data := make([]byte, 100_000)
			rand.NewChaCha8([32]byte{3, byte(i)}).Read(data)
			go c.Write(data)
			got := make([]byte, len(data))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("stream %d: echo differs, %v", i, err)
			}
		})
	}
	wg.Wait()
}

func testBlocked(t *testing.T, g *guest) {
	blocked := g.dial(t, 4)
	defer blocked.Close()
	blocked.SetWriteDeadline(time.Now().Add(time.Second))
	n, err := io.Copy(blocked, zeros{})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("wrote %d bytes to a guest that reads none, %v", n, err)
	}
	// The buffers: two of the unix socket, one of ours, the guest's 256 KiB.
	if n > 1<<20 {
		t.Errorf("%d bytes are under way", n)
	}
	begin := time.Now()
	testEcho(t, g)
	t.Logf("blocked after %d KiB; 200 round trips beside it took %v", n>>10, time.Since(begin))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func testShort(t *testing.T, g *guest) {
	g.settle(t)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for i := range 300 {
		c := g.dial(t, []int{1, 7}[i%2])
		if i%2 == 1 {
			io.Copy(io.Discard, c)
		}
		c.Close()
	}
	g.settle(t)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		nowGoroutines, nowFiles := runtime.NumGoroutine(), openFiles(t)
		if nowGoroutines <= goroutines && nowFiles <= files {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d goroutines and %d descriptors before, %d and %d after", goroutines, files, nowGoroutines, nowFiles)
		}
	}
}

// settle waits until the device has no stream left.
func (g *guest) settle(t testing.TB) {
	t.Helper()
	m := g.dev.mux
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		n := len(m.streams) + len(m.greeting) + len(m.ctl) + len(m.data) + len(m.resets)
		m.mu.Unlock()
		if n == 0 {
			time.Sleep(50 * time.Millisecond) // for goroutines to return
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d streams and packets are left", n)
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func testReboot(t *testing.T, g *guest) {
	c := g.dial(t, 1)
	defer c.Close()
	g.dial(t, 6).Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("stream outlived the guest")
	}
	if err := g.awaitHello(); err != nil {
		t.Fatal(err)
	}
	testEcho(t, g)
	testSink(t, g)
}
