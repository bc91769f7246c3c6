// Package rtnl speaks the few rtnetlink messages that banger's network needs:
// links, bridge ports, addresses, routes and neighbours.
//
// It asks for single objects by name, never for a dump to find one: a dump of
// a thousand links takes 20 ms. It sends what general libraries leave out, such
// as aliases, groups and bridge port flags, and keeps the kernel's errno in
// every error, so that errors.Is works on what comes back.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Conn is a connection to the rtnetlink of one network namespace. Its methods
// are safe for concurrent use.
type Conn struct {
	c *netlink.Conn
}

// Dial connects to the network namespace that nsFD refers to. Zero means the
// namespace of the calling thread, and needs no right to change namespaces. The
// caller closes the connection.
func Dial(nsFD int) (*Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: nsFD})
	if err != nil {
		return nil, fmt.Errorf("dial rtnetlink: %w", err)
	}
	return &Conn{c}, nil
}

// Close closes the connection.
func (c *Conn) Close() error { return c.c.Close() }

// request sends one message and waits for its acknowledgement or its answers.
func (c *Conn) request(typ netlink.HeaderType, flags netlink.HeaderFlags, header []byte, attrs *netlink.AttributeEncoder) ([]netlink.Message, error) {
	data := header
	if attrs != nil {
		encoded, err := attrs.Encode()
		if err != nil {
			return nil, fmt.Errorf("encode attributes: %w", err)
		}
		data = append(data, encoded...)
	}
	msgs, err := c.c.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | flags},
		Data:   data,
	})
	if err != nil {
		return nil, errno(err)
	}
	return msgs, nil
}

// dump asks for all objects of a type. The kernel may say that the list changed
// under it; then the dump is taken again.
func (c *Conn) dump(typ netlink.HeaderType, header []byte) ([]netlink.Message, error) {
	var err error
	for range 8 {
		var msgs []netlink.Message
		msgs, err = c.request(typ, netlink.Dump, header, nil)
		if !errors.Is(err, unix.EINTR) {
			return msgs, err
		}
	}
	return nil, err
}

// errno strips netlink's own words: the caller knows what it asked for.
func errno(err error) error {
	var op *netlink.OpError
	if errors.As(err, &op) {
		if op.Message != "" {
			return fmt.Errorf("%w (%s)", op.Err, op.Message)
		}
		return op.Err
	}
	return err
}

// decode walks the attributes that follow a fixed header of size bytes.
func decode(data []byte, size int, each func(*netlink.AttributeDecoder)) error {
	if len(data) < size {
		return fmt.Errorf("read message: %d bytes, want at least %d", len(data), size)
	}
	ad, err := netlink.NewAttributeDecoder(data[size:])
	if err != nil {
		return fmt.Errorf("read attributes: %w", err)
	}
	for ad.Next() {
		each(ad)
	}
	return ad.Err()
}

// native is the byte order of rtnetlink's integers.
var native = binary.NativeEndian
