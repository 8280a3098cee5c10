package dispatcher

import (
	"context"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Observer receives the events of a dispatcher. Every function may be nil. The functions are called concurrently by the
// goroutines that do the work, so they should return soon. They must not call [Dispatcher.Update], which would wait for them. A
// panic in one of them is logged and changes nothing.
type Observer struct {
	// Claimed is called after each claim that found something.
	Claimed func(ctx context.Context, e ClaimedEvent)
	// SendStart is called when a message is about to be handed to its relay.
	SendStart func(ctx context.Context, e SendEvent)
	// Outcome is called for each delivery when its outcome is known, before the outcome is recorded.
	Outcome func(ctx context.Context, e OutcomeEvent)
	// Lost is called for leases that lapsed, or that another dispatcher has taken over.
	Lost func(ctx context.Context, refs []queue.Ref)
	// Relay is called when the state of a relay changes.
	Relay func(ctx context.Context, e RelayEvent)
	// Fault is called when a [Fault] begins, and once more when it is over.
	Fault func(ctx context.Context, e FaultEvent)
	// Queue is called with the error of a call to the queue, and with nil once that call works again.
	Queue func(ctx context.Context, call string, err error)
}

// ClaimedEvent describes a claim.
type ClaimedEvent struct {
	Relay      string
	Messages   int
	Deliveries int
	Took       time.Duration
}

// SendEvent describes a message that is about to be sent.
type SendEvent struct {
	Relay string
	// Message is the claimed message. It must not be changed.
	Message *queue.Claimed
	// Waited is the time since the claim.
	Waited time.Duration
}

// Event names the outcome of a delivery. The strings also appear in the log and never change.
type Event string

// The events.
const (
	EventSuccess   Event = "send_success"
	EventFailed    Event = "send_failed"
	EventDeferred  Event = "send_deferred"
	EventRecycled  Event = "send_recycled"
	EventUncertain Event = "send_uncertain"
	EventHeld      Event = "send_held"
	EventExpired   Event = "send_expired"
)

// eventOf returns the event of an outcome.
func eventOf(v queue.Outcome) Event {
	switch v {
	case queue.Sent:
		return EventSuccess
	case queue.Failed:
		return EventFailed
	case queue.Recycled:
		return EventRecycled
	case queue.Uncertain:
		return EventUncertain
	case queue.Held:
		return EventHeld
	case queue.Expired:
		return EventExpired
	default:
		return EventDeferred
	}
}

// OutcomeEvent describes the outcome of a delivery.
type OutcomeEvent struct {
	Event Event
	// Message is the claimed message and Delivery one of its deliveries. They must not be changed.
	Message  *queue.Claimed
	Delivery *queue.ClaimedDelivery
	// Settlement is the record that the queue gets.
	Settlement queue.Settlement
}

// RelayEvent describes a relay whose state changed.
type RelayEvent struct {
	Relay string
	State RelayState
	// Since is when the state began.
	Since time.Time
	// Reason is the relay's own words, or the error of the connection. It may contain addresses. Empty for a healthy relay.
	Reason string
	// Class is the class of the answer or error that changed the state. Code is its reply code (RFC 5321 §4.2), 0 for none.
	Class smtpx.Class
	Code  int
	// For is the time until the relay is tried again. Zero if it is in use.
	For time.Duration
	// Routes are those that the relay serves; none means every route. Rate is its configured bound. PerSecond is how many messages
	// may begin in a second now, +Inf unless the relay throttles.
	Routes    []string
	Rate      Rate
	PerSecond float64
}
