package names

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// query is what is to be known of a guest's message.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	edns     bool
	size     int // of the largest answer that the guest takes over UDP, in bytes
}

// minUDP is the size that everybody takes.
const minUDP = 512

// maxExtra bounds the records that a query has besides its question.
const maxExtra = 8

// parse reads a query. An error means that it is no query that deserves an
// answer.
func parse(raw []byte) (q query, err error) {
	var p dnsmessage.Parser
	if q.header, err = p.Start(raw); err != nil {
		return q, err
	}
	if q.header.Response || q.header.OpCode != 0 {
		return q, errors.New("not a query")
	}
	questions, err := p.AllQuestions()
	if err != nil {
		return q, err
	}
	if len(questions) != 1 {
		return q, fmt.Errorf("%d questions", len(questions))
	}
	q.question, q.size = questions[0], minUDP
	if err := errors.Join(p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return q, err
	}
	for range maxExtra {
		h, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return q, nil
		}
		if err != nil {
			return q, err
		}
		if h.Type == dnsmessage.TypeOPT {
			q.edns, q.size = true, min(max(int(h.Class), minUDP), maxUDP)
		}
		if err := p.SkipAdditional(); err != nil {
			return q, err
		}
	}
	return q, errors.New("too many records")
}

// name returns the name that is asked for, in lower case and without the dot at
// its end.
func (q *query) name() string {
	return strings.ToLower(strings.TrimSuffix(q.question.Name.String(), "."))
}

// reply builds an answer. Building fails only for a record that cannot be
// packed, which none of ours is; the guest then gets none.
func (q *query) reply(code dnsmessage.RCode, authoritative bool, answers ...dnsmessage.Resource) []byte {
	m := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: q.header.ID, Response: true, Authoritative: authoritative, RCode: code,
			RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q.question},
		Answers:   answers,
	}
	if q.edns {
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(maxUDP, code, false); err == nil {
			h.Name = dnsmessage.MustNewName(".")
			m.Additionals = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.OPTResource{}}}
		}
	}
	raw, err := m.Pack()
	if err != nil {
		return nil
	}
	return raw
}

// fit returns reply, or, where that is more than the guest takes over UDP, the
// word to ask again over TCP.
func fit(reply []byte, q query) []byte {
	if len(reply) <= q.size {
		return reply
	}
	cut := q.reply(dnsmessage.RCodeSuccess, false)
	if len(cut) > 2 {
		cut[2] |= 0x02 // TC
	}
	return cut
}
