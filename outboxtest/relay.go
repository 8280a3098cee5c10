package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/outboxmail/outbox/smtpx"
)

// Relay is a relay in memory that fails on demand. It is a [dispatcher.Sender]. The zero value accepts every message. Its methods
// may be called concurrently.
type Relay struct {
	mu       sync.Mutex
	accepted []*Mail
	attempts int
	failures []failure
	refused  map[string]*smtpx.Error // by recipient in lower case
}

// failure is how the next messages fail.
type failure struct {
	left     int // messages, or negative for all
	err      *smtpx.Error
	accepted bool // the relay accepts the message nevertheless
}

// The common errors of relays, for [Relay.Fail] and [Relay.Refuse].
var (
	// ErrUnreachable says that the relay cannot be connected to.
	ErrUnreachable = &smtpx.Error{Stage: smtpx.StageDial, Class: smtpx.ClassUnreachable, Err: errors.New("connection refused")}
	// ErrBusy refuses a message for now.
	ErrBusy = refusal(smtpx.StageMail, smtpx.ClassTransient, 451, "4.3.0 try again later")
	// ErrBadPassword refuses the login. An operator has to mend it.
	ErrBadPassword = refusal(smtpx.StageAuth, smtpx.ClassConfig, 535, "5.7.8 authentication failed")
	// ErrNoSuchUser refuses a recipient for good.
	ErrNoSuchUser = refusal(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "5.1.1 no such user")
	// ErrSpam refuses a message for good after its transfer.
	ErrSpam = refusal(smtpx.StageDot, smtpx.ClassMessage, 554, "5.7.1 message rejected")
)

// refusal returns the error for a reply.
func refusal(stage smtpx.Stage, class smtpx.Class, code int, text string) *smtpx.Error {
	return &smtpx.Error{Stage: stage, Class: class, Reply: smtpx.NewReply(code, text)}
}

// errLost is the cause of an unknown outcome.
var errLost = errors.New("connection lost after the final dot")

// Fail makes the next n messages fail with err. A negative n means all messages from then on. Failures that were demanded before
// come first. The class of the error decides what the dispatcher does.
func (r *Relay) Fail(n int, err *smtpx.Error) { r.demand(failure{left: n, err: err}) }

// LoseReplies accepts the next n messages, but loses the connection before its reply. The sender cannot know the outcome; see
// [smtpx.ClassAmbiguous].
func (r *Relay) LoseReplies(n int) {
	err := &smtpx.Error{Stage: smtpx.StageDot, Class: smtpx.ClassAmbiguous, Err: errLost}
	r.demand(failure{left: n, err: err, accepted: true})
}

func (r *Relay) demand(f failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, f)
}

// Refuse refuses one recipient with err in every message. The other recipients of a message are accepted. A nil err accepts the
// recipient again. Case does not matter.
func (r *Relay) Refuse(recipient string, err *smtpx.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == nil {
		r.refused = make(map[string]*smtpx.Error)
	}
	if err == nil {
		delete(r.refused, strings.ToLower(recipient))
		return
	}
	r.refused[strings.ToLower(recipient)] = err
}

// Reset forgets all failures and refusals: every message is accepted from now on.
func (r *Relay) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures, r.refused = nil, nil
}

// Accepted returns the accepted messages in their order. Their Recipients are only the accepted ones. A message whose reply
// was lost is among them.
func (r *Relay) Accepted() []*Mail {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*Mail(nil), r.accepted...)
}

// Attempts returns how many times a message was sent to the relay, accepted or not.
func (r *Relay) Attempts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attempts
}

// Send accepts a message or fails as demanded. It follows the rules of [smtpx.Client.Send] for Envelope.Commit and for the
// error.
func (r *Relay) Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	r.mu.Lock()
	r.attempts++
	f := r.next()
	outcomes := make([]smtpx.Outcome, len(env.To))
	var accepted []string
	for i, to := range env.To {
		outcomes[i] = smtpx.Outcome{Recipient: to, Err: r.refused[strings.ToLower(to)]}
		if outcomes[i].Err == nil {
			accepted = append(accepted, to)
		}
	}
	r.mu.Unlock()

	fail := func(err *smtpx.Error) {
		for i := range outcomes {
			if outcomes[i].Err == nil {
				outcomes[i].Err = err
			}
		}
	}
	late := f.err != nil && (f.err.Stage == smtpx.StageData || f.err.Stage == smtpx.StageDot)
	switch {
	case ctx.Err() != nil:
		fail(&smtpx.Error{Stage: smtpx.StageDial, Class: smtpx.ClassRecycle, Err: ctx.Err()})
	case f.err != nil && !late:
		fail(f.err)
	case len(accepted) == 0:
	default:
		if env.Commit != nil {
			if err := env.Commit(ctx); err != nil {
				fail(&smtpx.Error{Stage: smtpx.StageData, Class: smtpx.ClassRecycle, Err: err})
				break
			}
		}
		if f.err == nil || f.accepted {
			if err := r.accept(env.From, accepted, body); err != nil {
				fail(&smtpx.Error{Stage: smtpx.StageDot, Class: smtpx.ClassMessage, Err: err})
				break
			}
		}
		if f.err != nil {
			fail(f.err)
		}
	}
	return result(outcomes)
}

// next returns the failure of the next message and counts the message.
func (r *Relay) next() failure {
	for len(r.failures) > 0 {
		f := &r.failures[0]
		if f.left == 0 {
			r.failures = r.failures[1:]
			continue
		}
		if f.left > 0 {
			f.left--
		}
		return *f
	}
	return failure{}
}

// accept keeps a message.
func (r *Relay) accept(from string, to []string, body []byte) error {
	m, err := parse(append([]byte(nil), body...), from, to)
	if err != nil {
		return fmt.Errorf("the message does not parse: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted = append(r.accepted, m)
	return nil
}

// result sets Accepted in the outcomes and returns the first error.
func result(outcomes []smtpx.Outcome) (smtpx.Result, error) {
	var first error
	for i := range outcomes {
		if outcomes[i].Accepted = outcomes[i].Err == nil; !outcomes[i].Accepted && first == nil {
			first = outcomes[i].Err
		}
	}
	return smtpx.Result{Outcomes: outcomes, Host: "relay.test:587"}, first
}
