package dispatcher

import (
	"fmt"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

// RelayHealth is the state of a relay.
type RelayHealth struct {
	Name  string
	State RelayState
	// Since is when the state began.
	Since time.Time
	// Class, Code and Reason are those of the answer or error that led to the state: its class, its reply code (RFC 5321 §4.2), 0 for
	// none, and the relay's own words, which may contain addresses. Empty for a relay that is healthy or unused.
	Class  smtpx.Class
	Code   int
	Reason string
	// For is the time until the relay is tried again. Zero if it is in use.
	For time.Duration
	// Routes are those that the relay serves; none means every route. Rate is its configured bound.
	Routes []string
	Rate   Rate
	// Sending and Waiting count the messages of the relay that this dispatcher has claimed.
	Sending, Waiting int
	// Concurrency is how many messages the relay may be sent at once now. PerSecond is how many may begin in a second, +Inf unless
	// the relay throttles.
	Concurrency int
	PerSecond   float64
}

// String describes the state in a few words.
func (r RelayHealth) String() string {
	words := fmt.Sprintf("relay %s is %s", r.Name, r.State)
	if r.Class != "" {
		words += " (" + string(r.Class) + ")"
	}
	if r.Reason != "" {
		words += ": " + r.Reason
	}
	return words
}
