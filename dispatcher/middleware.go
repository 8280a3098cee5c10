package dispatcher

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Sending is a message on its way to a relay.
type Sending struct {
	// Relay is the name of the relay.
	Relay string
	// Message is what was claimed; it must not be changed.
	Message *queue.Claimed
	// Envelope and Body are what the Sender gets. Envelope.To has the recipients of Message.Deliveries in their order, and
	// Envelope.Commit must stay. A Body is replaced and not written into; what takes its place must be the same at each attempt
	// of a message.
	Envelope smtpx.Envelope
	Body     []byte
}

// SendFunc sends a message; see [Sender].
type SendFunc func(ctx context.Context, s *Sending) (smtpx.Result, error)

// Middleware is wrapped around every send: to measure, to trace, to change the body. It returns a function that calls next
// once, or that refuses the message with a *smtpx.Error instead. It must be safe for concurrent use. A panic in it or in a
// Sender is contained: the message is kept, and is uncertain if its point of no return had been recorded.
type Middleware func(next SendFunc) SendFunc

// chain puts the middleware around the senders of a lane.
func (l *lane) chain() SendFunc {
	send := func(ctx context.Context, s *Sending) (smtpx.Result, error) {
		return l.relay().Sender.Send(ctx, s.Envelope, s.Body)
	}
	for _, m := range slices.Backward(l.cfg.Middleware) {
		send = m(send)
	}
	return send
}

// contained calls a SendFunc and turns a panic into an error: in doubt if the message may have left.
func (l *lane) contained(ctx context.Context, s *Sending, committed func() bool) (res smtpx.Result, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		l.log.ErrorContext(ctx, "sending panicked", "id", s.Message.ID, "relay", s.Relay, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		failure := &smtpx.Error{Class: smtpx.ClassConfig, Err: fmt.Errorf("the sender panicked: %v", p)}
		if committed() {
			failure.Class, failure.Stage = smtpx.ClassAmbiguous, smtpx.StageDot
		}
		res, err = smtpx.Result{}, failure
	}()
	return l.send(ctx, s)
}
