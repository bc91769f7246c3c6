package names

import (
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// local answers what is ours to know, and refuses the host everything else. It
// reports false for what a guest is to be answered by others.
func (s *Server) local(q query, client netip.Addr) ([]byte, bool) {
	name := q.name()
	if vm, ok := strings.CutSuffix(name, "."+domain); ok {
		return s.address(q, vm), true
	}
	if name == domain {
		return q.reply(dnsmessage.RCodeSuccess, true), true
	}
	if addr, ok := reverseAddr(name); ok && s.Prefix.Contains(addr) {
		return s.pointer(q, addr), true
	}
	if client == s.Host {
		return q.reply(dnsmessage.RCodeRefused, false), true
	}
	return nil, false
}

// probe is a name in domain that is always there, for those who want to know
// whether questions arrive here. No VM can have it.
const probe = "_banger"

// address answers for a name in domain.
func (s *Server) address(q query, vm string) []byte {
	addr, ok := s.Gateway, s.Gateway.IsValid()
	if vm != probe {
		addr, ok = s.Lookup(vm)
	}
	switch {
	case !ok || !addr.Is4():
		return q.reply(dnsmessage.RCodeNameError, true)
	case q.question.Class != dnsmessage.ClassINET, q.question.Type != dnsmessage.TypeA && q.question.Type != dnsmessage.TypeALL:
		return q.reply(dnsmessage.RCodeSuccess, true)
	}
	return q.reply(dnsmessage.RCodeSuccess, true, record(q, dnsmessage.TypeA, &dnsmessage.AResource{A: addr.As4()}))
}

// pointer answers for the address of a guest.
func (s *Server) pointer(q query, addr netip.Addr) []byte {
	vm, ok := s.Reverse(addr)
	if !ok {
		return q.reply(dnsmessage.RCodeNameError, true)
	}
	target, err := dnsmessage.NewName(vm + "." + domain + ".")
	switch {
	case err != nil:
		return q.reply(dnsmessage.RCodeServerFailure, true)
	case q.question.Class != dnsmessage.ClassINET, q.question.Type != dnsmessage.TypePTR && q.question.Type != dnsmessage.TypeALL:
		return q.reply(dnsmessage.RCodeSuccess, true)
	}
	return q.reply(dnsmessage.RCodeSuccess, true, record(q, dnsmessage.TypePTR, &dnsmessage.PTRResource{PTR: target}))
}

func record(q query, t dnsmessage.Type, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: q.question.Name, Type: t, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   body,
	}
}

// reverseAddr returns the address that a name below in-addr.arpa stands for.
func reverseAddr(name string) (netip.Addr, bool) {
	digits, ok := strings.CutSuffix(name, ".in-addr.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	labels := strings.Split(digits, ".")
	if len(labels) != 4 {
		return netip.Addr{}, false
	}
	var b [4]byte
	for i, l := range labels {
		n, err := strconv.ParseUint(l, 10, 8)
		if err != nil {
			return netip.Addr{}, false
		}
		b[3-i] = byte(n)
	}
	return netip.AddrFrom4(b), true
}
