package names

import (
	"net/netip"
	"sync"
	"time"
)

// The bounds of what guests may ask.
const (
	ratePerSecond = 100  // queries of one guest, on average
	rateBurst     = 200  // and at once
	maxInFlight   = 64   // queries of all guests that are under way
	maxGuest      = 16   // and of one
	maxConns      = 64   // connections of all guests
	maxGuestConns = 8    // and of one
	maxKnown      = 4096 // guests whose rate is remembered
)

// limits keeps guests from each other's share. The zero value is ready.
type limits struct {
	// mu guards the fields that follow.
	mu       sync.Mutex
	guests   map[netip.Addr]*share
	inFlight int
	conns    int
}

// share is what one guest uses.
type share struct {
	tokens   float64
	at       time.Time // when tokens was right
	inFlight int
	conns    int
}

// begin admits a query, or reports false. The caller releases it once.
func (l *limits) begin(guest netip.Addr, now time.Time) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shareLocked(guest, now)
	s.tokens = min(rateBurst, s.tokens+now.Sub(s.at).Seconds()*ratePerSecond)
	s.at = now
	if s.tokens < 1 || l.inFlight >= maxInFlight || s.inFlight >= maxGuest {
		return nil, false
	}
	s.tokens--
	s.inFlight++
	l.inFlight++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.inFlight--
		l.inFlight--
	}, true
}

// connect admits a connection, or reports false. The caller releases it once.
func (l *limits) connect(guest netip.Addr) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shareLocked(guest, time.Now())
	if l.conns >= maxConns || s.conns >= maxGuestConns {
		return nil, false
	}
	s.conns++
	l.conns++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.conns--
		l.conns--
	}, true
}

// shareLocked returns a guest's share. When too many guests are known, those
// that have nothing under way are forgotten.
func (l *limits) shareLocked(guest netip.Addr, now time.Time) *share {
	if s := l.guests[guest]; s != nil {
		return s
	}
	if l.guests == nil {
		l.guests = make(map[netip.Addr]*share)
	}
	if len(l.guests) >= maxKnown {
		for a, s := range l.guests {
			if s.inFlight == 0 && s.conns == 0 {
				delete(l.guests, a)
			}
		}
	}
	s := &share{tokens: rateBurst, at: now}
	l.guests[guest] = s
	return s
}
