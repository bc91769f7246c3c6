package vsock

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// driver plays QEMU and the guest's driver, against a device in the same process. Guest
// memory is two regions that meet at 1 MiB, in files of their own.
//
//	region 0   0..1 MiB    buffers to send from; the last may reach into region 1
//	region 1   1..4 MiB    buffers to receive into from 2 MiB on, rings from 3 MiB on
type driver struct {
	t     testing.TB
	dev   *Device
	path  string
	conn  *net.UnixConn
	mem   [2][]byte
	rings [ringCount]driverRing
	done  chan error
}

// driverRing is the driver's side of a ring.
type driverRing struct {
	at         uint64 // guest-physical address of the ring
	avail      uint16
	used       uint16
	kick, call *os.File
}

const (
	regionMeet  = 1 << 20
	memoryEnd   = 4 << 20
	ringsBegin  = 3 << 20
	ringEntries = 256
	rxBuffers   = 2 << 20 // guest-physical
	rxBufferLen = 4096
	userBase0   = 0x7f0000000000
	userBase1   = 0x7f8000000000
	testCID     = 42
)

// newDriver returns a driver with running rings and n buffers to receive into.
func newDriver(t testing.TB, n int) *driver {
	t.Helper()
	d := &driver{t: t, path: filepath.Join(t.TempDir(), "v.sock"), done: make(chan error, 1)}
	var err error
	if d.dev, err = New(Config{CID: testCID, Path: d.path}); err != nil {
		t.Fatal(err)
	}
	ours, theirs := socketPair(t)
	go func() { d.done <- d.dev.Serve(context.Background(), ours) }()
	c, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	d.conn = c.(*net.UnixConn)
	t.Cleanup(func() {
		d.conn.Close()
		if err := <-d.done; err != nil {
			t.Errorf("serve: %v", err)
		}
		for _, m := range d.mem {
			unix.Munmap(m)
		}
	})
	d.negotiate()
	d.start()
	for i := range n {
		d.post(i)
	}
	d.kick(rxRing)
	return d
}

// call sends a message and returns the payload of the answer, if one is due.
func (d *driver) call(request uint32, answer bool, payload []byte, fds ...int) []byte {
	d.t.Helper()
	d.send(request, flagVersion, payload, fds...)
	if !answer {
		return nil
	}
	got, err := d.answer()
	if err != nil {
		d.t.Fatalf("message %d: %v", request, err)
	}
	return got
}

func (d *driver) send(request, flags uint32, payload []byte, fds ...int) {
	d.t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, request)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := d.conn.WriteMsgUnix(append(b, payload...), oob, nil); err != nil {
		d.t.Fatalf("message %d: %v", request, err)
	}
}

func (d *driver) answer() ([]byte, error) {
	b := make([]byte, 4096)
	d.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, err := d.conn.Read(b)
	if err != nil {
		return nil, err
	}
	if size := binary.LittleEndian.Uint32(b[8:]); int(size) != n-messageHeader {
		return nil, fmt.Errorf("answer of %d bytes says %d", n-messageHeader, size)
	}
	return b[messageHeader:n], nil
}

// negotiate does what QEMU does before the guest runs.
func (d *driver) negotiate() {
	d.t.Helper()
	le := binary.LittleEndian
	if f := le.Uint64(d.call(getFeatures, true, nil)); f != features {
		d.t.Fatalf("features %#x", f)
	}
	if f := le.Uint64(d.call(getProtocolFeatures, true, nil)); f != protoFeatures {
		d.t.Fatalf("protocol features %#x", f)
	}
	d.call(setProtocolFeatures, false, u64(protoFeatures))
	d.call(setOwner, false, nil)
	config := make([]byte, configHeader+8)
	le.PutUint32(config[4:], 8)
	if got := d.call(getConfig, true, config); le.Uint64(got[configHeader:]) != testCID {
		d.t.Fatalf("configuration %x", got)
	}
	var files [2]int
	for i, size := range []int{regionMeet, memoryEnd - regionMeet} {
		fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
		if err != nil {
			d.t.Skipf("needs memfd: %v", err)
		}
		defer unix.Close(fd)
		if err := unix.Ftruncate(fd, int64(size)); err != nil {
			d.t.Fatal(err)
		}
		if d.mem[i], err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			d.t.Fatal(err)
		}
		files[i] = fd
	}
	d.call(setFeatures, false, u64(features))
	table := u64(2)
	for _, v := range []uint64{0, regionMeet, userBase0, 0, regionMeet, memoryEnd - regionMeet, userBase1, 0} {
		table = le.AppendUint64(table, v)
	}
	d.send(setMemTable, flagVersion|flagNeedReply, table, files[:]...)
	if got, err := d.answer(); err != nil || le.Uint64(got) != 0 {
		d.t.Fatalf("memory table: %x, %v", got, err)
	}
}

// start sets both rings up, as the guest's driver makes QEMU do when it loads.
func (d *driver) start() {
	d.t.Helper()
	for i := range d.rings {
		r := &d.rings[i]
		*r = driverRing{at: ringsBegin + uint64(i)*0x10000, kick: r.kick, call: r.call}
		clear(d.at(r.at, 0x10000))
		if r.kick == nil {
			r.kick, r.call = eventFD(d.t), eventFD(d.t)
		}
		state := func(v uint32) []byte { return u64(uint64(i) | uint64(v)<<32) }
		addr := make([]byte, vringAddrBytes)
		binary.LittleEndian.PutUint32(addr, uint32(i))
		user := userBase1 + r.at - regionMeet
		binary.LittleEndian.PutUint64(addr[8:], user)         // descriptors
		binary.LittleEndian.PutUint64(addr[16:], user+0x8000) // used
		binary.LittleEndian.PutUint64(addr[24:], user+0x4000) // available
		d.call(setVringNum, false, state(ringEntries))
		d.call(setVringBase, false, state(0))
		d.call(setVringAddr, false, addr)
		d.call(setVringKick, false, u64(uint64(i)), int(r.kick.Fd()))
		d.call(setVringEnable, false, state(1))
		d.call(setVringCall, false, u64(uint64(i)), int(r.call.Fd()))
	}
	d.sync()
}

// sync waits until the device has handled all messages.
func (d *driver) sync() { d.call(getQueueNum, true, nil) }

// stop stops both rings, as a guest that reboots.
func (d *driver) stop() {
	d.t.Helper()
	for i := range d.rings {
		d.call(getVringBase, true, u64(uint64(i)))
	}
}

func eventFD(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "event")
	t.Cleanup(func() { f.Close() })
	return f
}

// at returns guest memory, which must not cross the regions.
func (d *driver) at(addr uint64, n int) []byte {
	if addr < regionMeet {
		return d.mem[0][addr:][:n]
	}
	return d.mem[1][addr-regionMeet:][:n]
}

// write copies b into guest memory, over the border of the regions too.
func (d *driver) write(addr uint64, b []byte) {
	for i := range b {
		d.at(addr+uint64(i), 1)[0] = b[i]
	}
}

// desc is a descriptor.
type desc struct {
	addr  uint64
	len   uint32
	flags uint16
	next  uint16
}

func (x desc) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, x.addr)
	le.PutUint32(b[8:], x.len)
	le.PutUint16(b[12:], x.flags)
	le.PutUint16(b[14:], x.next)
}

// setDesc writes entry i of a ring's descriptor table.
func (d *driver) setDesc(ring, i int, x desc) {
	x.put(d.at(d.rings[ring].at+uint64(i)*descLen, descLen))
}

// offer makes the chain at head available.
func (d *driver) offer(ring, head int) {
	r := &d.rings[ring]
	avail := d.at(r.at+0x4000, 4+2*ringEntries)
	binary.LittleEndian.PutUint16(avail[4+2*int(r.avail%ringEntries):], uint16(head))
	r.avail++
	store16(avail[2:], r.avail)
}

func (d *driver) kick(ring int) { d.rings[ring].kick.Write(binary.NativeEndian.AppendUint64(nil, 1)) }

// post offers receive buffer i, which is descriptor i.
func (d *driver) post(i int) {
	d.setDesc(rxRing, i, desc{addr: rxBuffers + uint64(i)*rxBufferLen, len: rxBufferLen, flags: descWrite})
	d.offer(rxRing, i)
}

// take waits for the next used entry of a ring.
func (d *driver) take(ring int) (head, n uint32) {
	d.t.Helper()
	r := &d.rings[ring]
	used := d.at(r.at+0x8000, 4+8*ringEntries)
	for end := time.Now().Add(5 * time.Second); load16(used[2:]) == r.used; {
		if time.Now().After(end) {
			d.t.Fatal("the device gave nothing back")
		}
		time.Sleep(50 * time.Microsecond)
	}
	at := 4 + 8*int(r.used%ringEntries)
	r.used++
	// Ask for the next interrupt, as a driver with event indices does.
	store16(d.at(r.at+0x4000, 4+2*ringEntries+2)[4+2*ringEntries:], r.used)
	return binary.LittleEndian.Uint32(used[at:]), binary.LittleEndian.Uint32(used[at+4:])
}

// push sends one packet and waits until the device has taken it. It lies across the
// border of the regions.
func (d *driver) push(h header, payload string) {
	d.t.Helper()
	h.srcCID, h.dstCID, h.typ, h.len = testCID, hostCID, typeStream, uint32(len(payload))
	d.pushRaw(h, payload)
}

func (d *driver) pushRaw(h header, payload string) {
	d.t.Helper()
	raw := h.encode()
	at := uint64(regionMeet - headerLen - len(payload)/2)
	d.write(at, append(raw[:], payload...))
	d.setDesc(txRing, 0, desc{addr: at, len: headerLen, flags: descNext, next: 1})
	d.setDesc(txRing, 1, desc{addr: at + headerLen, len: uint32(len(payload))})
	if payload == "" {
		d.setDesc(txRing, 0, desc{addr: at, len: headerLen})
	}
	d.offer(txRing, 0)
	d.kick(txRing)
	d.take(txRing)
}

// pull receives one packet and offers its buffer again.
func (d *driver) pull() (header, string) {
	d.t.Helper()
	head, n := d.take(rxRing)
	b := d.at(rxBuffers+uint64(head)*rxBufferLen, int(n))
	h, err := decodeHeader(b)
	if err != nil || int(h.len) != len(b)-headerLen {
		d.t.Fatalf("packet of %d bytes with length %d, %v", n, h.len, err)
	}
	payload := string(b[headerLen:])
	d.post(int(head))
	d.kick(rxRing)
	return h, payload
}

// expect receives a packet that must have an operation.
func (d *driver) expect(op uint16) (header, string) {
	d.t.Helper()
	h, payload := d.pull()
	if h.op != op {
		d.t.Fatalf("operation %d, want %d", h.op, op)
	}
	if h.srcCID != hostCID || h.dstCID != testCID || h.typ != typeStream {
		d.t.Fatalf("packet %+v", h)
	}
	return h, payload
}

// waiting reports whether a packet has been received.
func (d *driver) waiting() bool {
	r := &d.rings[rxRing]
	return load16(d.at(r.at+0x8000, 4)[2:]) != r.used
}

// expectNone checks that no packet comes.
func (d *driver) expectNone() {
	d.t.Helper()
	time.Sleep(50 * time.Millisecond)
	if d.waiting() {
		h, _ := d.pull()
		d.t.Fatalf("unexpected packet %+v", h)
	}
}

// dialHost connects as the host's client and sends a line.
func (d *driver) dialHost(line string) *net.UnixConn {
	d.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: d.path, Net: "unix"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprint(c, line); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// open makes a stream from the host to port 7 of the guest, which has room for credit.
func (d *driver) open(credit uint32) (*net.UnixConn, header) {
	d.t.Helper()
	c := d.dialHost("CONNECT 7\n")
	h, _ := d.expect(opRequest)
	reply := header{srcPort: h.dstPort, dstPort: h.srcPort, op: opResponse, bufAlloc: credit}
	d.push(reply, "")
	if line, err := readLine(c); err != nil || line != fmt.Sprintf("OK %d", h.srcPort) {
		d.t.Fatalf("answer %q, %v", line, err)
	}
	return c, reply
}
