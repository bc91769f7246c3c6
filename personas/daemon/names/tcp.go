package names

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// idleTimeout is how long a guest may keep a connection without a query.
	idleTimeout = 5 * time.Second
	// maxQueries bounds the queries of one connection.
	maxQueries = 100
)

// serveTCP answers connections until accepting fails.
func (s *Server) serveTCP(ctx context.Context, ln net.Listener) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		client, ok := s.client(conn.RemoteAddr())
		if !ok {
			conn.Close()
			continue
		}
		release, ok := s.limits.connect(client)
		if !ok {
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer release()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			for range maxQueries {
				if s.answerTCP(ctx, conn) != nil {
					return // the guest has gone, or does not speak DNS
				}
			}
		})
	}
}

// answerTCP answers one query of a connection.
func (s *Server) answerTCP(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(idleTimeout)); err != nil {
		return err
	}
	raw, err := readMessage(conn)
	if err != nil {
		return err
	}
	q, err := parse(raw)
	if err != nil {
		return err
	}
	client, _ := s.client(conn.RemoteAddr())
	release, ok := s.limits.begin(client, time.Now())
	if !ok {
		return fmt.Errorf("too many queries")
	}
	defer release()
	reply, ok := s.local(q, client)
	if !ok {
		reply = s.forward(ctx, "tcp", q, raw)
	}
	return writeMessage(conn, reply)
}

// readMessage reads one message behind its length.
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, msg)
	return msg, err
}

// writeMessage writes a message and its length at once.
func writeMessage(w io.Writer, msg []byte) error {
	if len(msg) > maxTCP {
		return fmt.Errorf("message of %d bytes", len(msg))
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...))
	return err
}
