package vsock

import (
	"encoding/binary"
	"errors"
)

// A packet is a header, little-endian, and the payload (virtio 1.2, section 5.10.6):
//
//	 0  src_cid u64     8  dst_cid u64
//	16  src_port u32   20  dst_port u32   24  len u32
//	28  type u16       30  op u16         32  flags u32
//	36  buf_alloc u32  40  fwd_cnt u32
const headerLen = 44

// maxPayload is the longest payload that Linux sends in one packet.
const maxPayload = 64 << 10

// hostCID is the address of the host.
const hostCID = 2

// typeStream is the only socket type that is offered.
const typeStream = 1

// Operations of a packet.
const (
	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// Flags of opShutdown: the sender will not receive, or not send, any more.
const (
	shutReceive = 1
	shutSend    = 2
	shutBoth    = shutReceive | shutSend
)

// header is a decoded packet header.
type header struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	len              uint32
	typ, op          uint16
	flags            uint32
	bufAlloc, fwdCnt uint32
}

var errShortPacket = errors.New("packet is shorter than its header says")

// decodeHeader reads a header from b. The payload length is not checked here.
func decodeHeader(b []byte) (header, error) {
	if len(b) < headerLen {
		return header{}, errShortPacket
	}
	le := binary.LittleEndian
	return header{
		srcCID: le.Uint64(b), dstCID: le.Uint64(b[8:]),
		srcPort: le.Uint32(b[16:]), dstPort: le.Uint32(b[20:]),
		len: le.Uint32(b[24:]), typ: le.Uint16(b[28:]), op: le.Uint16(b[30:]),
		flags: le.Uint32(b[32:]), bufAlloc: le.Uint32(b[36:]), fwdCnt: le.Uint32(b[40:]),
	}, nil
}

// encode returns h as it goes over the ring.
func (h *header) encode() (b [headerLen]byte) {
	le := binary.LittleEndian
	le.PutUint64(b[0:], h.srcCID)
	le.PutUint64(b[8:], h.dstCID)
	le.PutUint32(b[16:], h.srcPort)
	le.PutUint32(b[20:], h.dstPort)
	le.PutUint32(b[24:], h.len)
	le.PutUint16(b[28:], h.typ)
	le.PutUint16(b[30:], h.op)
	le.PutUint32(b[32:], h.flags)
	le.PutUint32(b[36:], h.bufAlloc)
	le.PutUint32(b[40:], h.fwdCnt)
	return b
}

// parsePacket splits the segments of a descriptor chain into header and payload. The
// payload still lies in guest memory, where the guest can change it, but not its place.
func parsePacket(segs [][]byte) (header, [][]byte, error) {
	var raw [headerLen]byte
	segs = gather(raw[:], segs)
	if segs == nil {
		return header{}, nil, errShortPacket
	}
	h, err := decodeHeader(raw[:])
	if err != nil {
		return header{}, nil, err
	}
	if h.len > maxPayload {
		return header{}, nil, errors.New("packet is longer than 64 KiB")
	}
	payload, ok := limit(segs, int(h.len))
	if !ok {
		return header{}, nil, errShortPacket
	}
	return h, payload, nil
}

// gather fills dst from the beginning of segs and returns what follows, or nil if they
// are too short.
func gather(dst []byte, segs [][]byte) [][]byte {
	for i, s := range segs {
		n := copy(dst, s)
		dst = dst[n:]
		if len(dst) == 0 {
			rest := [][]byte{s[n:]}
			return append(rest, segs[i+1:]...)
		}
	}
	return nil
}

// limit returns the first n bytes of segs.
func limit(segs [][]byte, n int) ([][]byte, bool) {
	var out [][]byte
	for _, s := range segs {
		if n == 0 {
			break
		}
		s = s[:min(n, len(s))]
		if len(s) > 0 {
			out = append(out, s)
		}
		n -= len(s)
	}
	return out, n == 0
}

// scatter copies src to the beginning of segs and returns how much went in, and what
// of segs is left.
func scatter(segs [][]byte, src []byte) (int, [][]byte) {
	done := 0
	for len(segs) > 0 && len(src) > 0 {
		n := copy(segs[0], src)
		done += n
		src = src[n:]
		if n == len(segs[0]) {
			segs = segs[1:]
		} else {
			segs = append([][]byte{segs[0][n:]}, segs[1:]...)
		}
	}
	return done, segs
}

// size returns the number of bytes in segs.
func size(segs [][]byte) int {
	n := 0
	for _, s := range segs {
		n += len(s)
	}
	return n
}
