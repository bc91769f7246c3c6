package vsock

import (
	"bytes"
	"encoding/binary"
	"net"
	"testing"
	"time"
)

// FuzzPacket splits arbitrary bytes, cut into segments, into header and payload.
func FuzzPacket(f *testing.F) {
	h := header{srcCID: 3, dstCID: 2, srcPort: 1, dstPort: 2, len: 5, typ: typeStream, op: opData}
	raw := h.encode()
	f.Add(append(raw[:], "hello"...), uint8(44))
	f.Add(append(raw[:], "hello"...), uint8(3))
	f.Add([]byte{}, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		var segs [][]byte
		for rest := b; len(rest) > 0; {
			n := min(int(cut)+1, len(rest))
			segs, rest = append(segs, rest[:n]), rest[n:]
		}
		h, payload, err := parsePacket(segs)
		if err != nil {
			return
		}
		if size(payload) != int(h.len) || h.len > maxPayload {
			t.Fatalf("payload of %d bytes, header says %d", size(payload), h.len)
		}
		if !bytes.Equal(bytes.Join(payload, nil), b[headerLen:headerLen+int(h.len)]) {
			t.Fatal("payload is not what follows the header")
		}
		if again := h.encode(); !bytes.Equal(again[:], b[:headerLen]) {
			t.Fatal("header does not survive")
		}
	})
}

// FuzzVring walks whatever lies in guest memory. Nothing that is returned may be outside
// of it, and the work must be bounded.
func FuzzVring(f *testing.F) {
	ring := make([]byte, 0x400)
	desc{addr: 0x300, len: 44}.put(ring)
	binary.LittleEndian.PutUint16(ring[0x102:], 1)
	f.Add(ring, uint8(3), true)
	desc{addr: 0x300, len: 32, flags: descTable}.put(ring)
	f.Add(ring, uint8(3), false)
	desc{addr: 0x10, len: 8, flags: descNext, next: 0}.put(ring)
	f.Add(ring, uint8(4), true)
	f.Fuzz(func(t *testing.T, b []byte, order uint8, eventIdx bool) {
		const size = 0x1000
		whole := make([]byte, size)
		copy(whole, b)
		m := &memory{regions: []region{
			{guest: 0, user: 0x10000, bytes: whole[:0x300], whole: whole},
			{guest: 0x300, user: 0x20000, bytes: whole[0x300:], whole: whole},
		}}
		num := uint32(1) << (order % 5)
		r, err := newVring(m, num, ringAddrs{desc: 0x10000, avail: 0x10100, used: 0x10200}, 0, eventIdx)
		if err != nil {
			t.Fatal(err)
		}
		for pops := 0; ; pops++ {
			c, ok, err := r.pop()
			if !ok {
				break
			}
			if pops > int(num) {
				t.Fatal("more chains than the ring has entries")
			}
			for _, s := range append(c.readable, c.writable...) {
				if len(s) > size {
					t.Fatalf("segment of %d bytes", len(s))
				}
			}
			if err == nil && len(c.readable)+len(c.writable) > 2*int(num) {
				t.Fatalf("%d segments in a ring of %d", len(c.readable)+len(c.writable), num)
			}
			r.push(c.head, 0)
		}
		r.publish()
		r.await()
	})
}

// FuzzMessages lets QEMU say anything.
func FuzzMessages(f *testing.F) {
	message := func(request uint32, payload []byte) []byte {
		b := binary.LittleEndian.AppendUint32(nil, request)
		b = binary.LittleEndian.AppendUint32(b, flagVersion|flagNeedReply)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(payload))), payload...)
	}
	f.Add(bytes.Join([][]byte{
		message(getFeatures, nil), message(setProtocolFeatures, u64(protoFeatures)), message(setFeatures, u64(features)),
		message(setVringNum, u64(8<<32)), message(setVringAddr, make([]byte, 40)), message(setVringEnable, u64(1<<32)),
		message(getConfig, make([]byte, 20)), message(getVringBase, u64(0)),
	}, nil))
	f.Add(message(setMemTable, append(u64(1), make([]byte, 32)...)))
	f.Add(message(setVringKick, u64(1<<8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		ours, theirs := socketPair(t)
		c, err := net.FileConn(theirs)
		theirs.Close()
		if err != nil {
			t.Fatal(err)
		}
		m := newMux(testCID, "/nowhere")
		done := make(chan struct{})
		go func() {
			defer close(done)
			newSession(testCID, m, ours).run()
			ours.Close()
		}()
		c.SetDeadline(time.Now().Add(time.Second))
		go c.Write(b)
		c.(*net.UnixConn).CloseRead()
		time.Sleep(time.Millisecond)
		c.Close()
		<-done
		m.close()
	})
}

// FuzzGuest lets the guest say anything to a device with one stream: the bounds hold.
func FuzzGuest(f *testing.F) {
	packet := func(op uint16, flags uint32, n int) []byte {
		h := header{srcPort: 7, dstPort: firstPort, op: op, flags: flags, len: uint32(n), bufAlloc: 100}
		raw := h.encode()
		return append(raw[:], make([]byte, n)...)
	}
	f.Add(bytes.Join([][]byte{packet(opResponse, 0, 0), packet(opData, 0, 100), packet(opShutdown, 3, 0)}, nil))
	f.Add(bytes.Join([][]byte{packet(opResponse, 0, 0), packet(opResponse, 0, 0)}, nil))
	f.Add(bytes.Join([][]byte{packet(opRequest, 0, 0), packet(opReset, 0, 0)}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMux(testCID, "/nowhere")
		defer m.close()
		ours, theirs := socketPair(t)
		defer theirs.Close()
		s := &stream{conn: ours, key: key{host: firstPort, guest: 7}}
		m.mu.Lock()
		m.addLocked(s)
		m.askLocked(s, wantRequest)
		m.mu.Unlock()
		buf := [][]byte{make([]byte, 4096)}
		for len(b) >= headerLen {
			h, err := decodeHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			b = b[headerLen:]
			h.srcCID, h.dstCID = testCID, hostCID
			h.len = min(h.len, uint32(len(b)), maxPayload)
			m.handle(&h, [][]byte{b[:h.len]})
			b = b[h.len:]
			for m.emit(buf) > 0 {
			}
			m.mu.Lock()
			if len(s.out) > bufAlloc || len(m.streams) > 1 {
				t.Fatalf("%d bytes buffered, %d streams", len(s.out), len(m.streams))
			}
			m.mu.Unlock()
		}
	})
}

// FuzzConnect reads the line of a host's client.
func FuzzConnect(f *testing.F) {
	f.Add("CONNECT 1024")
	f.Add("connect 0")
	f.Add("CONNECT  7")
	f.Fuzz(func(t *testing.T, line string) {
		port, err := parseConnect(line)
		if err != nil {
			return
		}
		if again, err := parseConnect("CONNECT " + line[len("CONNECT "):]); err != nil || again != port {
			t.Errorf("%q gives %d, then %d, %v", line, port, again, err)
		}
	})
}
