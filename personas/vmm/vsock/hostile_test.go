package vsock

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// A guest that makes nonsense of its rings loses the packet and nothing else.
func TestHostileChains(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1000)
	for _, test := range []struct {
		name  string
		descs []desc
	}{
		{"loop", []desc{{addr: 0, len: 10, flags: descNext, next: 0}}},
		{"longer loop", []desc{{flags: descNext, next: 1}, {flags: descNext, next: 0}}},
		{"next outside the table", []desc{{addr: 0, len: 10, flags: descNext, next: 60000}}},
		{"address outside memory", []desc{{addr: memoryEnd, len: 44}}},
		{"address that wraps", []desc{{addr: 1<<64 - 8, len: 44}}},
		{"end outside memory", []desc{{addr: memoryEnd - 8, len: 44}}},
		{"giant length", []desc{{addr: 0, len: 1<<32 - 1}}},
		{"nothing", []desc{{}}},
		{"too short for a header", []desc{{addr: 0, len: headerLen - 1}}},
		{"writable", []desc{{addr: 0, len: headerLen, flags: descWrite}}},
		{"readable after writable", []desc{{addr: 0, len: 44, flags: descWrite | descNext, next: 1}, {addr: 0, len: 44}}},
		{"indirect of no length", []desc{{addr: 0x1000, len: 0, flags: descTable}}},
		{"indirect of odd length", []desc{{addr: 0x1000, len: 17, flags: descTable}}},
		{"indirect that is huge", []desc{{addr: 0x1000, len: 1 << 31, flags: descTable}}},
		{"indirect outside memory", []desc{{addr: memoryEnd, len: 16, flags: descTable}}},
		{"indirect over two regions", []desc{{addr: regionMeet - 16, len: 32, flags: descTable}}},
		{"indirect with a next", []desc{{addr: 0x1000, len: 16, flags: descTable | descNext}}},
		{"indirect in an indirect", []desc{{addr: 0x2000, len: 16, flags: descTable}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d.t = t
			desc{addr: 0x1000, len: 16, flags: descTable}.put(d.at(0x2000, descLen))
			for i, x := range test.descs {
				d.setDesc(txRing, i, x)
			}
			d.offer(txRing, 0)
			d.kick(txRing)
			if _, n := d.take(txRing); n != 0 {
				t.Errorf("%d bytes were written to a tx buffer", n)
			}
			d.push(h.with(opData), "still here")
			b := make([]byte, 16)
			if n, err := c.Read(b); err != nil || string(b[:n]) != "still here" {
				t.Errorf("afterwards: %q, %v", b[:n], err)
			}
		})
	}
	d.t = t
}

func TestHostilePackets(t *testing.T) {
	d := newDriver(t, 32)
	c, h := d.open(1000)
	for _, length := range []uint32{1, maxPayload, maxPayload + 1, 1<<32 - 1} {
		p := h.with(opData)
		p.srcCID, p.dstCID, p.typ, p.len = testCID, hostCID, typeStream, length
		d.pushRaw(p, "") // longer than its chain
	}
	d.expectNone()
	d.push(h.with(opData), "still here")
	b := make([]byte, 16)
	if n, err := c.Read(b); err != nil || string(b[:n]) != "still here" {
		t.Errorf("afterwards: %q, %v", b[:n], err)
	}
	d.push(h.with(99), "")
	d.expect(opReset)
}

// Receive buffers that are of no use come back empty, and the next good one is used.
func TestHostileReceiveBuffers(t *testing.T) {
	d := newDriver(t, 0)
	for i, x := range []desc{
		{addr: rxBuffers, len: headerLen - 1, flags: descWrite},
		{addr: rxBuffers, len: 4096},
		{addr: memoryEnd, len: 4096, flags: descWrite},
		{addr: rxBuffers, len: 4096, flags: descWrite | descNext, next: 3},
	} {
		d.setDesc(rxRing, i, x)
		d.offer(rxRing, i)
	}
	d.post(10)
	d.kick(rxRing)
	d.dialHost("CONNECT 7\n")
	for i := range 4 {
		if head, n := d.take(rxRing); int(head) != i || n != 0 {
			t.Errorf("buffer %d came back as %d with %d bytes", i, head, n)
		}
	}
	if head, n := d.take(rxRing); head != 10 || n != headerLen {
		t.Errorf("buffer %d with %d bytes", head, n)
	}
}

// An index that no driver can reach stops the ring until the driver starts again.
func TestHostileIndex(t *testing.T) {
	d := newDriver(t, 32)
	store16(d.at(d.rings[txRing].at+0x4000, 4)[2:], 40000)
	d.kick(txRing)
	time.Sleep(20 * time.Millisecond)
	if used := load16(d.at(d.rings[txRing].at+0x8000, 4)[2:]); used != 0 {
		t.Errorf("%d buffers were given back", used)
	}
	d.stop()
	d.start()
	for i := range 32 {
		d.post(i)
	}
	d.kick(rxRing)
	d.open(1000)
}

// A guest that takes no packets must not make the device hold ever more of them.
func TestFloodIsBounded(t *testing.T) {
	d := newDriver(t, 0)
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
			go io.Copy(io.Discard, c)
		}
	}()
	for i := range 1200 {
		d.push(header{srcPort: uint32(i), dstPort: 98, op: opRequest}, "")
		d.push(header{srcPort: 1, dstPort: 99, op: opRequest}, "")
		d.push(header{srcPort: 1, dstPort: 99, op: opCreditRequest}, "")
		d.push(header{srcPort: 1, dstPort: 99, op: opReset}, "")
	}
	m := d.dev.mux
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.resets) > maxResets || len(m.ctl) > 1 || len(m.streams) > 1 {
		t.Errorf("%d resets, %d control, %d streams", len(m.resets), len(m.ctl), len(m.streams))
	}
}

// What QEMU may not say ends the session with an error, and never with a panic.
func TestBadMessages(t *testing.T) {
	state := func(ring, v uint32) []byte { return u64(uint64(ring) | uint64(v)<<32) }
	for _, test := range []struct {
		name    string
		request uint32
		flags   uint32
		payload []byte
	}{
		{"unknown request", 77, flagVersion, nil},
		{"wrong version", getFeatures, 2, nil},
		{"reply", getFeatures, flagVersion | flagReply, nil},
		{"too long", getFeatures, flagVersion, make([]byte, maxMessage+1)},
		{"feature that was not offered", setFeatures, flagVersion, u64(1)},
		{"ring that does not exist", setVringNum, flagVersion, state(2, 8)},
		{"short state", setVringNum, flagVersion, []byte{1}},
		{"short address", setVringAddr, flagVersion, []byte{1}},
		{"empty memory table", setMemTable, flagVersion, u64(0)},
		{"memory table without files", setMemTable, flagVersion, append(u64(1), make([]byte, 32)...)},
		{"configuration that is cut off", getConfig, flagVersion, make([]byte, 5)},
		{"configuration outside", getConfig, flagVersion, append([]byte{9, 0, 0, 0}, make([]byte, 8)...)},
		{"base of a ring that does not exist", getVringBase, flagVersion, state(9, 0)},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := newDriver(t, 0)
			d.send(test.request, test.flags, test.payload)
			if b, err := d.answer(); err == nil {
				t.Errorf("answer %x", b)
			}
			if err := <-d.done; err == nil {
				t.Error("the session went on")
			}
			d.done <- nil
		})
	}
	t.Run("ring of a size that is no power of two", func(t *testing.T) {
		d := newDriver(t, 0)
		d.stop()
		d.send(setVringNum, flagVersion, state(0, 100))
		d.send(setVringKick, flagVersion|flagNeedReply, u64(0), int(d.rings[0].kick.Fd()))
		b, err := d.answer()
		if err != nil || binary.LittleEndian.Uint64(b) == 0 {
			t.Errorf("answer %x, %v", b, err)
		}
		<-d.done
		d.done <- nil
	})
}
