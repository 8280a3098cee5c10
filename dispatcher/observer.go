package dispatcher

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Observer is told what a dispatcher does. Its functions may be nil. They are called concurrently, from the goroutines that
// do the work. They should return soon, and must not call [Dispatcher.Update], which would wait for them. A panic in one of them
// is logged and changes nothing. The zero value observes nothing.
type Observer struct {
	// Claimed is called after each claim that found something.
	Claimed func(ctx context.Context, e ClaimedEvent)
	// SendStart is called when a message is about to be handed to its relay.
	SendStart func(ctx context.Context, e SendEvent)
	// Outcome is called for each delivery, when it is known what becomes of it and before that is recorded.
	Outcome func(ctx context.Context, e OutcomeEvent)
	// Lost is called for leases that were found to have gone to another dispatcher.
	Lost func(ctx context.Context, refs []queue.Ref)
	// Relay is called when the state of a relay changes.
	Relay func(ctx context.Context, e RelayEvent)
	// Queue is called with the error of a call to the queue, and with nil when that call works again.
	Queue func(ctx context.Context, call string, err error)
}

// ClaimedEvent tells of a claim.
type ClaimedEvent struct {
	Relay      string
	Messages   int
	Deliveries int
	Took       time.Duration
}

// SendEvent tells of a message that is about to be sent.
type SendEvent struct {
	Relay string
	// Message is what was claimed; it must not be changed.
	Message *queue.Claimed
	// Waited is the time since the claim.
	Waited time.Duration
}

// Event names what became of a delivery. The strings are those of the log and never change.
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

// eventOf names what a verb does.
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

// OutcomeEvent tells what became of a delivery.
type OutcomeEvent struct {
	Event Event
	// Message is what was claimed, and Delivery the one of its deliveries that this is about; they must not be changed.
	Message  *queue.Claimed
	Delivery *queue.ClaimedDelivery
	// Settlement is what is recorded.
	Settlement queue.Settlement
}

// RelayEvent tells of a relay whose state changed.
type RelayEvent struct {
	Relay string
	State RelayState
	// Reason is the relay's own words, which may name addresses, or the error of the connection; "" when the relay is well.
	Reason string
	// Class is what they mean.
	Class smtpx.Class
	// For is how long the relay is left alone, 0 when it is not.
	For time.Duration
}

// safely calls a hook that is the application's, and contains its panic.
func (e *engine) safely(ctx context.Context, what string, hook func()) {
	defer func() {
		if p := recover(); p != nil {
			e.log.ErrorContext(ctx, "a hook panicked", "hook", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	hook()
}

// notify calls a function of the Observer if there is one.
func notify[T any](ctx context.Context, e *engine, what string, hook func(context.Context, T), event T) {
	if hook != nil {
		e.safely(ctx, what, func() { hook(ctx, event) })
	}
}

// queueFault reports the error of a call to the queue to the Observer, and its end.
func (e *engine) queueFault(ctx context.Context, call string, err error) {
	if hook := e.cfg.Observer.Queue; hook != nil {
		e.safely(ctx, "Observer.Queue", func() { hook(ctx, call, err) })
	}
}
