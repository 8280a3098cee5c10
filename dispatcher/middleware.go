package dispatcher

import (
	"context"
	"errors"
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
	// Message is the claimed message. It must not be changed.
	Message *queue.Claimed
	// Envelope and Body go to the Sender. Envelope.To has the recipients of Message.Deliveries in their order. Keep
	// Envelope.Commit. Replace Body to change it; never write into it. The new Body must be the same at every attempt.
	Envelope smtpx.Envelope
	Body     []byte
}

// SendFunc sends a message; see [Sender].
type SendFunc func(ctx context.Context, s *Sending) (smtpx.Result, error)

// Middleware wraps every send, to measure it, to trace it or to change the body. The function that it returns calls next once,
// or refuses the message with a *smtpx.Error. That function is called concurrently. A panic in it or in a Sender is logged. The
// message is kept, and is uncertain if Envelope.Commit had succeeded.
type Middleware func(next SendFunc) SendFunc

// chain wraps the sender of a relay in the middleware.
func (co *courier) chain() SendFunc {
	send := func(ctx context.Context, s *Sending) (smtpx.Result, error) {
		return co.relay().Sender.Send(ctx, s.Envelope, s.Body)
	}
	for _, m := range slices.Backward(co.cfg.Middleware) {
		next := send
		send = func(context.Context, *Sending) (smtpx.Result, error) { //nolint:unparam // it is a SendFunc
			return smtpx.Result{}, &smtpx.Error{Class: smtpx.ClassConfig, Err: errors.New("a middleware panicked when it was set up")}
		}
		co.guard.call(context.Background(), "Middleware", func() { send = m(next) })
	}
	return send
}

// contained calls the chain and turns a panic into an error, an ambiguous one if the message may have left.
func (co *courier) contained(ctx context.Context, s *Sending, committed func() bool) (res smtpx.Result, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		co.log.ErrorContext(ctx, "sending panicked", "id", s.Message.ID, "relay", s.Relay, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		failure := &smtpx.Error{Class: smtpx.ClassConfig, Err: fmt.Errorf("the sender panicked: %v", p)}
		if committed() {
			failure.Class, failure.Stage = smtpx.ClassAmbiguous, smtpx.StageDot
		}
		res, err = smtpx.Result{}, failure
	}()
	return co.send(ctx, s)
}
