package vsock

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// with returns h with another operation.
func (h header) with(op uint16) header {
	h.op = op
	return h
}

func TestHostDials(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1 << 20)
	fmt.Fprint(c, "to the guest")
	if _, got := d.expect(opData); got != "to the guest" {
		t.Errorf("guest received %q", got)
	}
	d.push(h.with(opData), "to the host")
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "to the host" {
		t.Errorf("host received %q, %v", b[:n], err)
	}
	// The host's end of file shuts both directions.
	c.CloseWrite()
	if s, _ := d.expect(opShutdown); s.flags != shutBoth {
		t.Errorf("shutdown with flags %d", s.flags)
	}
	d.push(h.with(opReset), "")
	if n, err := c.Read(b); err != io.EOF {
		t.Errorf("read %d bytes, %v", n, err)
	}
	d.expectNone() // a reset is not answered
}

func TestHostDialsWithDataBehindTheLine(t *testing.T) {
	d := newDriver(t, 32)
	c := d.dialHost("CONNECT 7\nearly")
	h, _ := d.expect(opRequest)
	d.push(header{srcPort: 7, dstPort: h.srcPort, op: opResponse, bufAlloc: 100}, "")
	readLine(c)
	fmt.Fprint(c, " and late")
	_, early := d.expect(opData)
	_, late := d.expect(opData)
	if early+late != "early and late" {
		t.Errorf("guest received %q and %q", early, late)
	}
}

func TestGuestDials(t *testing.T) {
	d := newDriver(t, 32)
	l, err := net.Listen("unix", d.path+"_99")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := header{srcPort: 1234, dstPort: 99, bufAlloc: 1 << 20}
	d.push(h.with(opRequest), "")
	if r, _ := d.expect(opResponse); r.srcPort != 99 || r.dstPort != 1234 || r.bufAlloc != bufAlloc {
		t.Errorf("response %+v", r)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	d.push(h.with(opData), "hello")
	// A half-close is not forwarded: the host can still answer.
	half := h.with(opShutdown)
	half.flags = shutSend
	d.push(half, "")
	b := make([]byte, 64)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "hello" {
		t.Errorf("host received %q, %v", b[:n], err)
	}
	fmt.Fprint(c, "answer")
	if _, got := d.expect(opData); got != "answer" {
		t.Errorf("guest received %q", got)
	}
	full := half
	full.flags = shutBoth
	d.push(full, "")
	d.expect(opReset)
	if n, err := c.Read(b); err != io.EOF {
		t.Errorf("read %d bytes, %v", n, err)
	}
}

func TestRefused(t *testing.T) {
	d := newDriver(t, 32)
	c := d.dialHost("CONNECT 7\n")
	h, _ := d.expect(opRequest)
	d.push(header{srcPort: 7, dstPort: h.srcPort, op: opReset}, "")
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("host got %q, %v", b, err)
	}
	d.push(header{srcPort: 5, dstPort: 98, op: opRequest}, "")
	if r, _ := d.expect(opReset); r.srcPort != 98 || r.dstPort != 5 {
		t.Errorf("reset %+v", r)
	}
	d.push(header{srcPort: 5, dstPort: 98, op: opData}, "lost")
	d.expect(opReset)
	d.push(header{srcPort: 5, dstPort: 98, op: opReset}, "")
	stray := header{srcCID: testCID, dstCID: hostCID, srcPort: 5, dstPort: 98, typ: 7, op: opRequest}
	d.pushRaw(stray, "") // a socket type that is not offered
	d.expect(opReset)
	stray.dstCID = 3 // another guest
	d.pushRaw(stray, "")
	stray.srcCID, stray.dstCID = 4, hostCID // as another guest
	d.pushRaw(stray, "")
	d.expectNone()
}

func TestGuestDoesNotAnswer(t *testing.T) {
	d := newDriver(t, 32)
	c := d.dialHost("CONNECT 7\n")
	d.expect(opRequest)
	begin := time.Now()
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("host got %q, %v", b, err)
	}
	if took := time.Since(begin); took < time.Second || took > 10*time.Second {
		t.Errorf("gave up after %v", took)
	}
	d.expect(opReset)
}

func TestBadConnectLine(t *testing.T) {
	d := newDriver(t, 32)
	for _, line := range []string{
		"\n", "CONNECT\n", "CONNECT \n", "CONNECT x\n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 7 \n",
		"GET / HTTP/1.1\r\n\r\n", "CONNECT " + strings.Repeat("0", 40) + "7\n", strings.Repeat("x", 100_000),
	} {
		c := d.dialHost("")
		fmt.Fprint(c, line) // may fail: the device stops reading
		b, err := io.ReadAll(c)
		if len(b) != 0 || (err != nil && !errors.Is(err, unix.ECONNRESET)) {
			t.Errorf("%.20q: host got %q, %v", line, b, err)
		}
	}
	d.expectNone()
}

func TestCredit(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1000)
	go c.Write(make([]byte, 2500))
	got := 0
	for got < 1000 {
		_, p := d.expect(opData)
		got += len(p)
	}
	if got != 1000 {
		t.Fatalf("sent %d bytes into a buffer of 1000", got)
	}
	d.expectNone()
	update := h.with(opCreditUpdate)
	update.fwdCnt = 600
	d.push(update, "")
	if _, p := d.expect(opData); len(p) != 600 {
		t.Errorf("sent %d bytes for a credit of 600", len(p))
	}
	update.fwdCnt = 5000 // more than it can have received: a lie, and worth nothing
	d.push(update, "")
	d.expectNone()
	update.fwdCnt, update.bufAlloc = 1600, 1<<32-1
	d.push(update, "")
	if _, p := d.expect(opData); len(p) != 900 {
		t.Errorf("sent %d bytes, 900 were left", len(p))
	}
	d.push(h.with(opCreditRequest), "")
	if u, _ := d.expect(opCreditUpdate); u.bufAlloc != bufAlloc {
		t.Errorf("credit update %+v", u)
	}
}

func TestGuestSendsBeyondCredit(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1000)
	other, h2 := d.open(1000)
	chunk := strings.Repeat("x", 32<<10)
	// The host does not read: its socket takes some, the device bufAlloc.
	sent, reset := 0, false
	for ; !reset && sent < 4<<20; sent += len(chunk) {
		d.push(h.with(opData), chunk)
		time.Sleep(time.Millisecond)
		for d.waiting() {
			p, _ := d.pull()
			reset = p.op == opReset
		}
	}
	if !reset || sent > bufAlloc+1<<20 {
		t.Errorf("guest could send %d bytes", sent)
	}
	io.Copy(io.Discard, c) // ends: the stream is gone
	d.push(h2.with(opData), "alive")
	b := make([]byte, 16)
	if n, err := other.Read(b); err != nil || string(b[:n]) != "alive" {
		t.Errorf("other stream: %q, %v", b[:n], err)
	}
}

func TestGuestIsTold(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1000)
	go io.Copy(io.Discard, c)
	for range 5 {
		d.push(h.with(opData), strings.Repeat("x", 32<<10))
	}
	if u, _ := d.expect(opCreditUpdate); u.fwdCnt < bufAlloc/2 {
		t.Errorf("told of %d bytes", u.fwdCnt)
	}
}

func TestSlowHostLosesNothing(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1000)
	const total = 400 << 10 // more than a unix socket takes
	for sent := 0; sent < total; sent += 40 << 10 {
		d.push(h.with(opData), strings.Repeat("x", 40<<10))
	}
	bye := h.with(opShutdown)
	bye.flags = shutBoth
	d.push(bye, "")
	time.Sleep(closeTimeout + time.Second)
	if n, err := io.Copy(io.Discard, c); n != total || err != nil {
		t.Errorf("received %d of %d bytes, %v", n, total, err)
	}
}

func TestTooManyStreams(t *testing.T) {
	d := newDriver(t, 32)
	l, err := net.Listen("unix", d.path+"_99")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close() // and not before: what is collected is closed
		}
	}()
	for i := range maxStreams + 1 {
		d.push(header{srcPort: uint32(i), dstPort: 99, op: opRequest}, "")
		want := uint16(opResponse)
		if i == maxStreams {
			want = opReset
		}
		d.expect(want)
	}
	c, err := net.Dial("unix", d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "CONNECT 7\n") // may fail: the device has closed
	if b, err := io.ReadAll(c); len(b) != 0 || (err != nil && !errors.Is(err, unix.ECONNRESET)) {
		t.Errorf("host got %q, %v", b, err)
	}
	d.push(header{srcPort: 0, dstPort: 99, op: opReset}, "")
	d.push(header{srcPort: 5000, dstPort: 99, op: opRequest}, "")
	d.expect(opResponse)
}

func TestRebootEndsStreams(t *testing.T) {
	d := newDriver(t, 32)
	c, _ := d.open(1000)
	d.stop()
	if b, err := io.ReadAll(c); len(b) != 0 || err != nil {
		t.Errorf("host got %q, %v", b, err)
	}
	d.start()
	for i := range 32 {
		d.post(i)
	}
	d.kick(rxRing)
	d.expectNone() // nothing of the old guest
	d.open(1000)
}

func TestSecondRequest(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1000)
	d.push(h.with(opRequest), "")
	d.expect(opReset)
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
}
