package vsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
)

// Features of the device and of the protocol.
const (
	featIndirect   = 1 << 28
	featEventIdx   = 1 << 29
	featProtocol   = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featVersion1   = 1 << 32
	features       = featIndirect | featEventIdx | featProtocol | featVersion1
	protoReplyAck  = 1 << 3
	protoConfig    = 1 << 9
	protoFeatures  = protoReplyAck | protoConfig
	ringIndexMask  = 0xff // of KICK, CALL and ERR, which say above it whether a file comes
	configSizeCID  = 8
	configHeader   = 12 // offset, size, flags
	vringAddrBytes = 40
)

// Rings of the device, as seen by the guest. The event queue never reaches a backend.
const (
	rxRing = iota // to the guest
	txRing        // from the guest
	ringCount
)

// session is the conversation with one QEMU:
//
//	QEMU starts    GET_FEATURES GET/SET_PROTOCOL_FEATURES SET_OWNER GET_FEATURES
//	               SET_VRING_CALL and ERR for each ring, GET_CONFIG
//	driver loads   SET_VRING_CALL, SET_FEATURES, SET_MEM_TABLE, then for each ring
//	               NUM BASE ADDR KICK, then ENABLE, CALL               -> rings run
//	guest reboots  GET_VRING_BASE for each ring                        -> rings stop
//	driver loads   as above
//
// A ring runs from when it has all of its parts until GET_VRING_BASE. Messages come one
// after the other, so nothing here needs a lock.
type session struct {
	cid   uint32
	mux   *mux
	conn  *net.UnixConn
	mem   *memory
	feats uint64
	proto uint64
	rings [ringCount]*queue
}

func newSession(cid uint32, m *mux, conn *net.UnixConn) *session {
	s := &session{cid: cid, mux: m, conn: conn}
	s.rings[rxRing] = newQueue(m.receive)
	s.rings[txRing] = newQueue(m.transmit)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wakeRx = s.rings[rxRing].poke
	return s
}

// run answers messages until the connection ends.
func (s *session) run() error {
	defer s.end()
	for {
		m, err := readMessage(s.conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = s.handle(m)
		m.close()
		if err != nil {
			return err
		}
	}
}

// end stops everything and gives the memory back.
func (s *session) end() {
	for _, q := range s.rings {
		q.stop()
		q.close()
	}
	s.mux.reset()
	if s.mem != nil {
		s.mem.unmap()
	}
}

// handle does what a message asks for and answers it. What cannot be done is told to
// QEMU if it wants to know, and ends the session if not.
func (s *session) handle(m *message) error {
	answer, err := s.do(m)
	if answer != nil && err == nil {
		return m.reply(s.conn, answer)
	}
	if m.needReply && s.proto&protoReplyAck != 0 {
		status := uint64(0)
		if err != nil {
			status = 1
		}
		return errors.Join(err, m.reply(s.conn, u64(status)))
	}
	return err
}

// do carries out a message and returns the payload of the reply, nil if it has none.
func (s *session) do(m *message) ([]byte, error) {
	switch m.request {
	case getFeatures:
		return u64(features), nil
	case getProtocolFeatures:
		return u64(protoFeatures), nil
	case getQueueNum:
		return u64(ringCount), nil
	case getConfig:
		return s.config(m)
	case getVringBase:
		return s.stopRing(m)
	case setFeatures:
		v, err := m.uint64()
		if v&^uint64(features) != 0 {
			return nil, fmt.Errorf("features %#x were not offered", v&^uint64(features))
		}
		s.feats = v
		return nil, err
	case setProtocolFeatures:
		v, err := m.uint64()
		s.proto = v & protoFeatures
		return nil, err
	case setOwner, setConfig:
		return nil, nil
	case resetOwner:
		for _, q := range s.rings {
			q.stop()
		}
		s.mux.reset()
		return nil, nil
	case setMemTable:
		return nil, s.setMemory(m)
	case setVringNum, setVringBase, setVringAddr, setVringEnable, setVringKick, setVringCall, setVringErr:
		return nil, s.setRing(m)
	}
	return nil, fmt.Errorf("message %d is not supported", m.request)
}

// config answers with the part of the device's configuration that was asked for.
func (s *session) config(m *message) ([]byte, error) {
	if len(m.payload) < configHeader {
		return nil, fmt.Errorf("message %d with %d bytes", m.request, len(m.payload))
	}
	var space [configSizeCID]byte
	binary.LittleEndian.PutUint64(space[:], uint64(s.cid))
	offset, size := binary.LittleEndian.Uint32(m.payload), binary.LittleEndian.Uint32(m.payload[4:])
	if offset > configSizeCID || int(size) != len(m.payload)-configHeader {
		return nil, fmt.Errorf("configuration of %d bytes at %d", size, offset)
	}
	copy(m.payload[configHeader:], space[offset:])
	return m.payload, nil
}

// setMemory replaces the guest's memory under the rings.
func (s *session) setMemory(m *message) error {
	mem, err := mapMemory(m.payload, m.files)
	if err != nil {
		return err
	}
	for _, q := range s.rings {
		q.stop()
	}
	if s.mem != nil {
		s.mem.unmap()
	}
	s.mem = mem
	return s.startRings()
}

// stopRing stops a ring and answers with the index to go on from. The guest's driver is
// gone then, and so are its streams.
func (s *session) stopRing(m *message) ([]byte, error) {
	index, _, err := m.state()
	if err != nil {
		return nil, err
	}
	if index >= ringCount {
		return nil, fmt.Errorf("ring %d does not exist", index)
	}
	q := s.rings[index]
	q.stop()
	q.clearKick()
	s.mux.reset()
	return u64(uint64(index) | uint64(q.base)<<32), nil
}

// setRing sets one part of a ring.
func (s *session) setRing(m *message) error {
	if m.request == setVringAddr {
		return s.setRingAddr(m)
	}
	index, num, err := m.state()
	if err != nil {
		return err
	}
	masked := index
	switch m.request {
	case setVringKick, setVringCall, setVringErr:
		masked &= ringIndexMask
	}
	if masked >= ringCount {
		return fmt.Errorf("ring %d does not exist", masked)
	}
	q := s.rings[masked]
	switch m.request {
	case setVringNum:
		q.num = num
	case setVringBase:
		q.base = uint16(num)
	case setVringEnable:
		q.enabled = num == 1
		if !q.enabled {
			q.stop()
		}
	case setVringKick:
		q.stop()
		if err := q.setKick(m.takeFile(0)); err != nil {
			return err
		}
	case setVringCall:
		q.setCall(m.takeFile(0))
	case setVringErr: // errors are told by ending the session
	}
	return s.startRings()
}

// setRingAddr sets where a ring lies.
func (s *session) setRingAddr(m *message) error {
	if len(m.payload) != vringAddrBytes {
		return fmt.Errorf("message %d with %d bytes", m.request, len(m.payload))
	}
	le := binary.LittleEndian
	index := le.Uint32(m.payload)
	if index >= ringCount {
		return fmt.Errorf("ring %d does not exist", index)
	}
	q := s.rings[index]
	q.stop()
	q.addrs = &ringAddrs{desc: le.Uint64(m.payload[8:]), used: le.Uint64(m.payload[16:]), avail: le.Uint64(m.payload[24:])}
	return s.startRings()
}

// startRings starts the rings that have become complete.
func (s *session) startRings() error {
	for i, q := range s.rings {
		// Without the protocol feature a ring needs no enabling.
		if q.running() || s.mem == nil || q.addrs == nil || q.kick == nil || !(q.enabled || s.feats&featProtocol == 0) {
			continue
		}
		r, err := newVring(s.mem, q.num, *q.addrs, q.base, s.feats&featEventIdx != 0)
		if err != nil {
			return fmt.Errorf("start ring %d: %w", i, err)
		}
		q.start(r)
	}
	return nil
}

// u64 returns the payload of a reply that is a number.
func u64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
