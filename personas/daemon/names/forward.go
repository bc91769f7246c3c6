package names

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxUpstreams bounds the resolvers that are asked for one query, as glibc does.
const maxUpstreams = 3

// forward asks one upstream after the other, and returns the first answer that
// is one, else the failure.
func (s *Server) forward(ctx context.Context, network string, q query, raw []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	upstreams := s.Upstream()
	upstreams = upstreams[:min(len(upstreams), maxUpstreams)]
	failure := q.reply(dnsmessage.RCodeServerFailure, false)
	for i, up := range upstreams {
		share := queryTimeout / time.Duration(len(upstreams))
		deadline, _ := ctx.Deadline()
		if i == len(upstreams)-1 {
			share = time.Until(deadline)
		}
		reply, code, err := exchange(ctx, network, up, q, raw, share)
		switch {
		case err != nil:
			continue
		case code == dnsmessage.RCodeServerFailure, code == dnsmessage.RCodeRefused:
			failure = reply
			continue
		}
		return reply
	}
	return failure
}

// exchange asks one upstream. The id is a fresh one, because the guest's may be
// known to others; the answer has the guest's again.
func exchange(ctx context.Context, network string, up netip.AddrPort, q query, raw []byte, wait time.Duration) ([]byte, dnsmessage.RCode, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, up.String())
	if err != nil {
		return nil, 0, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	asked := append([]byte(nil), raw...)
	var id [2]byte
	rand.Read(id[:]) // never fails
	copy(asked, id[:])
	send, receive := sendUDP, receiveUDP
	if network == "tcp" {
		send, receive = sendTCP, receiveTCP
	}
	if err := send(conn, asked); err != nil {
		return nil, 0, err
	}
	for {
		reply, err := receive(conn)
		if err != nil {
			return nil, 0, err
		}
		code, err := answers(reply, id, q)
		if err != nil {
			if network == "tcp" {
				return nil, 0, err
			}
			continue // somebody else's, or a late one
		}
		binary.BigEndian.PutUint16(reply, q.header.ID)
		return reply, code, nil
	}
}

func sendUDP(conn net.Conn, msg []byte) error {
	_, err := conn.Write(msg)
	return err
}

func receiveUDP(conn net.Conn) ([]byte, error) {
	buf := make([]byte, maxUDP+1)
	n, err := conn.Read(buf)
	if err == nil && n > maxUDP {
		err = errors.New("answer is too large")
	}
	return buf[:n], err
}

func sendTCP(conn net.Conn, msg []byte) error  { return writeMessage(conn, msg) }
func receiveTCP(conn net.Conn) ([]byte, error) { return readMessage(conn) }

// answers reports why reply is no answer to q under this id.
func answers(reply []byte, id [2]byte, q query) (dnsmessage.RCode, error) {
	var p dnsmessage.Parser
	h, err := p.Start(reply)
	switch {
	case err != nil:
		return 0, err
	case !h.Response || h.ID != binary.BigEndian.Uint16(id[:]):
		return 0, errors.New("not the answer")
	}
	got, err := p.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) && h.RCode != dnsmessage.RCodeSuccess {
		return h.RCode, nil // a refusal may leave the question out
	}
	if err != nil {
		return 0, err
	}
	want := q.question
	if got.Type != want.Type || got.Class != want.Class || !strings.EqualFold(got.Name.String(), want.Name.String()) {
		return 0, fmt.Errorf("answer to another question")
	}
	return h.RCode, nil
}
