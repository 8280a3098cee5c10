package smtptest

import (
	"bytes"
	"context"
	"fmt"
	"net/mail"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Message is one that the server accepted.
type Message struct {
	// From is the reverse-path without brackets, "" for the null one. To are the recipients that were accepted.
	From string
	To   []string
	// Params are the ESMTP parameters of MAIL, RcptParams those of each RCPT, as they were received.
	Params     string
	RcptParams []string
	// Data is the body as received, with dots unstuffed and without the final dot. It is nil if Config.Discard is set.
	Data []byte
	// Size is the number of octets of the body.
	Size int
	// MessageID is the header field with its brackets, "" if there is none.
	MessageID string
	// ID is the server's name for the message, from its reply.
	ID string
	// Received is the time at which the message was complete.
	Received time.Time
	// Withheld is true when the server accepted the message and did not say so.
	Withheld bool
	// Session is the session of the message.
	Session Session
}

// Header returns a header field of the message without decoding it. It returns "" if the field is absent or Data is nil.
func (m *Message) Header(name string) string {
	parsed, err := mail.ReadMessage(bytes.NewReader(m.Data))
	if err != nil {
		return ""
	}
	return parsed.Header.Get(name)
}

// ledger keeps the messages that were accepted.
type ledger struct {
	mu       sync.Mutex
	messages []Message
	changed  chan struct{} // closed and replaced when something was added
}

func (l *ledger) add(m Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages = append(l.messages, m)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// snapshot returns the messages, and a channel that is closed when there are more.
func (l *ledger) snapshot() ([]Message, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return slices.Clip(l.messages), l.changed
}

// Messages returns the messages that the server has accepted, in order, including withheld ones. The caller must not change the
// slices in them.
func (s *Server) Messages() []Message {
	messages, _ := s.ledger.snapshot()
	return messages
}

// Count returns how many messages the server has accepted.
func (s *Server) Count() int { return len(s.Messages()) }

// WaitMessages returns when the server has accepted at least n messages. When ctx is done first, it returns an error that says
// how many there are.
func (s *Server) WaitMessages(ctx context.Context, n int) ([]Message, error) {
	for {
		messages, changed := s.ledger.snapshot()
		if len(messages) >= n {
			return messages, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return messages, fmt.Errorf("smtptest: %d of %d messages arrived: %w", len(messages), n, ctx.Err())
		}
	}
}

// Clear empties the ledger.
func (s *Server) Clear() {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	s.ledger.messages = nil
}

// Stats are the counters of a server.
type Stats struct {
	// Sessions is how many sessions began, Open how many are open, and Peak the most that were open at a time.
	Sessions, Open, Peak int
	// Flights counts the turns of the dialogue: how often a client sent something after a reply. A body of any length is part of
	// one flight. Handshakes of TLS are not counted.
	Flights int
	// MessageFlights counts the flights from a session's first MAIL on.
	MessageFlights int
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	return Stats{
		Sessions:       int(s.stats.sessions.Load()),
		Open:           int(s.stats.open.Load()),
		Peak:           int(s.stats.peak.Load()),
		Flights:        int(s.stats.flights.Load()),
		MessageFlights: int(s.stats.messageFlights.Load()),
	}
}

type counters struct {
	sessions, open, peak, flights, messageFlights atomic.Int64
}

// enter counts a session and returns its number and how many are open.
func (c *counters) enter() (id, open int) {
	n := c.open.Add(1)
	for {
		peak := c.peak.Load()
		if n <= peak || c.peak.CompareAndSwap(peak, n) {
			return int(c.sessions.Add(1)), int(n)
		}
	}
}

// counter counts up to a limit.
type counter struct{ n atomic.Int64 }

func (c *counter) below(limit int) bool { return limit < 0 || c.n.Add(1) <= int64(limit) }
