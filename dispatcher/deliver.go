package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// The errors with which Envelope.Commit stops a message. None of it was sent.
var (
	errLeaseLost = errors.New("the lease was lost before the message was sent")
	errFence     = errors.New("the fence could not be recorded")
	errExpired   = errors.New("the deadline passed before the message was sent")
	errLate      = errors.New("Envelope.Commit was called after Send had returned")
)

// deliver sends one message and returns a settlement for each of its deliveries.
func (l *lane) deliver(ctx context.Context, j *job) []queue.Settlement {
	c := &j.claimed
	if j.expired() {
		return l.settleAll(ctx, j, queue.Settlement{Outcome: queue.Expired, Uncounted: true})
	}
	body, release, err := l.body(ctx, j)
	defer release()
	switch {
	case errors.Is(err, queue.ErrNoBody):
		return l.failed(ctx, j, &smtpx.Error{Class: smtpx.ClassMessage, Err: err}, nil, 0)
	case err != nil && ctx.Err() != nil:
		return same(j, queue.Settlement{Outcome: queue.Recycled})
	case err != nil:
		l.log.ErrorContext(ctx, "cannot read a message; will try again", "id", c.ID, "error", err)
		return l.failed(ctx, j, &smtpx.Error{Class: smtpx.ClassUnreachable, Err: fmt.Errorf("read the body: %w", err)}, nil, 0)
	}

	j.sealed = c.BodyKeyID != "" || keyring.IsSealed(body)
	if body, err = l.prepare(ctx, c, body); err != nil {
		return l.notReady(ctx, j, err)
	}

	var committed, returned atomic.Bool
	l.ledger.sending.Add(1)
	asked := sync.OnceFunc(func() { l.ledger.sending.Add(-1) })
	defer asked()
	env := smtpx.Envelope{From: c.Sender, To: make([]string, len(c.Deliveries)), Commit: func(ctx context.Context) error {
		defer asked()
		if returned.Load() {
			return errLate
		}
		if j.expired() { // it may have waited for a connection
			return errExpired
		}
		if err := l.passFence(ctx, j); err != nil {
			return err
		}
		committed.Store(true)
		return nil
	}}
	if l.unfenced(j) { // a message in several transactions takes long: the lease is checked before each
		env.CommitAccepted = func(context.Context, []int) error { return l.passFence(ctx, j) }
	}
	for i, d := range c.Deliveries {
		env.To[i] = d.Recipient
	}
	began := time.Now()
	notify(ctx, l.engine, "Observer.SendStart", l.cfg.Observer.SendStart,
		SendEvent{Relay: l.name, Message: c, Waited: began.Sub(j.claimedAt)})
	res, err := l.contained(ctx, &Sending{Relay: l.name, Message: c, Envelope: env, Body: body}, committed.Load)
	returned.Store(true)
	took := time.Since(began)
	l.timed(took)
	if !committed.Load() && slices.ContainsFunc(res.Outcomes, func(o smtpx.Outcome) bool { return o.Accepted }) {
		l.uncommitted.Do(func() {
			l.log.ErrorContext(ctx, "the sender or a middleware sent without calling Envelope.Commit; a crash may bring copies", "relay", l.name)
		})
	}
	switch {
	case errors.Is(err, errExpired):
		return l.settleRest(ctx, j, res, queue.Settlement{Outcome: queue.Expired, Uncounted: true}, took)
	case errors.Is(err, errLeaseLost):
		// Another dispatcher settles what it took over. The settlement hands back the rest, such as other recipients.
		l.log.WarnContext(ctx, "lease lost; not sent to all", "id", c.ID, "relay", l.name)
		return l.settleRest(ctx, j, res, queue.Settlement{Outcome: queue.Recycled}, took)
	}
	if len(res.Outcomes) != len(env.To) {
		return l.failed(ctx, j, verdictOf(err), body, took)
	}
	l.learn(ctx, j, res, err)
	return l.outcomes(ctx, j, res, err, body, took)
}

// outcomes returns a settlement for each recipient by its own outcome.
func (l *lane) outcomes(ctx context.Context, j *job, res smtpx.Result, err error, body []byte, took time.Duration) []queue.Settlement {
	list := make([]queue.Settlement, len(res.Outcomes))
	for i, o := range res.Outcomes {
		switch {
		case o.Accepted:
			list[i] = l.accepted(res, took)
		case o.Err == nil:
			list[i] = l.settlement(ctx, j, i, verdictOf(err), took)
		default:
			list[i] = l.settlement(ctx, j, i, o.Err, took)
		}
		list[i].Ref = j.claimed.Ref(i)
	}
	return l.finish(ctx, j, list, body)
}

// accepted is the settlement of a recipient for whom the relay accepted the message.
func (l *lane) accepted(res smtpx.Result, took time.Duration) queue.Settlement {
	return queue.Settlement{Outcome: queue.Sent, Evidence: queue.Evidence{
		Relay: l.name, Stage: string(smtpx.StageDot), Code: res.Reply.Code, Enhanced: res.Reply.Enhanced,
		Reply: oneLine(res.Reply.Text()), ProviderID: oneLine(res.ProviderID), Duration: took,
	}}
}

// settleRest returns settlements for a message that went no further. It may have gone in several transactions: the recipients of
// those that were accepted are sent, and only the others get the settlement.
func (l *lane) settleRest(ctx context.Context, j *job, res smtpx.Result, rest queue.Settlement, took time.Duration) []queue.Settlement {
	list := same(j, rest)
	for i := range min(len(list), len(res.Outcomes)) {
		if res.Outcomes[i].Accepted {
			sent := l.accepted(res, took)
			sent.Ref = list[i].Ref
			list[i] = sent
		}
	}
	return l.finish(ctx, j, list, nil)
}

// body returns the message as it is stored. It fetches a large one, and waits for the memory that MaxBytes allows. The caller calls
// release once the body is not used any more, even after an error.
func (l *lane) body(ctx context.Context, j *job) (body []byte, release func(), err error) {
	if j.claimed.Body != nil {
		return slices.Clip(j.claimed.Body), func() {}, nil // hooks see the body: appending to it must copy it
	}
	size := min(max(j.claimed.Size, 1), l.cfg.MaxBytes)
	if err := l.memory.Acquire(ctx, size); err != nil {
		return nil, func() {}, err
	}
	release = func() { l.memory.Release(size) }
	passing := min(size, fetchBytes)
	if err := l.fetching.Acquire(ctx, passing); err != nil {
		return nil, release, err
	}
	defer l.fetching.Release(passing)
	limited, cancel := context.WithTimeout(ctx, l.cfg.Lease)
	defer cancel()
	body, err = l.cfg.Queue.Body(limited, j.claimed.ID)
	return body, release, err
}

// passFence fences the message, or only checks its lease if the relay's Fence leaves it out. After an error the message must not be
// sent.
func (l *lane) passFence(ctx context.Context, j *job) error {
	if l.unfenced(j) {
		if !l.ledger.valid(j) {
			return errLeaseLost
		}
		return nil
	}
	return l.ledger.fence(ctx, j, l.name)
}

// unfenced says whether the message is sent without being fenced.
func (l *lane) unfenced(j *job) bool {
	return l.relay().Fence == FenceHold && j.claimed.OnUncertain != outbox.Hold && !j.fenced
}

// learn derives a verdict about the relay from the result of a message. A message that is rejected for itself shows that the relay
// works.
func (l *lane) learn(ctx context.Context, j *job, res smtpx.Result, err error) {
	v := verdict{sender: j.claimed.Sender}
	e := verdictOf(err)
	for i, o := range res.Outcomes {
		if o.Accepted {
			l.note(ctx, v)
			return
		}
		if o.Err != nil && (i == 0 || faultOfRelay(o.Err)) {
			e = o.Err
		}
	}
	if e.Stage == "" || ctx.Err() != nil && errors.Is(e, context.Canceled) || errors.Is(e, errFence) {
		return // no relay was asked, or this process broke the send off
	}
	if faultOfRelay(e) {
		v.class, v.stage, v.scope, v.words, v.reset = e.Class, e.Stage, e.Scope(), wordsOf(e), e.RetryAfter
		if e.Class == smtpx.ClassTransient {
			v.class = smtpx.ClassUnreachable
		}
	}
	l.note(ctx, v)
}

// faultOfRelay says whether a failure is the relay's and would meet any other message as well.
func faultOfRelay(e *smtpx.Error) bool {
	switch e.Class {
	case smtpx.ClassUnreachable, smtpx.ClassConfig, smtpx.ClassQuota, smtpx.ClassThrottled, smtpx.ClassAmbiguous, smtpx.ClassRecycle:
		return true
	case smtpx.ClassTransient:
		return handshake(e.Stage)
	default:
		return false
	}
}

// verdictOf returns the *smtpx.Error that a Sender returned. Without one it returns an ambiguous error.
func verdictOf(err error) *smtpx.Error {
	if e, ok := errors.AsType[*smtpx.Error](err); ok {
		return e
	}
	if err == nil {
		err = errors.New("the sender returned neither an outcome for each recipient nor an error")
	}
	return &smtpx.Error{Stage: smtpx.StageDot, Class: smtpx.ClassAmbiguous, Err: err}
}

// failed returns settlements for a job whose deliveries all failed for the same reason.
func (l *lane) failed(ctx context.Context, j *job, e *smtpx.Error, body []byte, took time.Duration) []queue.Settlement {
	l.learn(ctx, j, smtpx.Result{}, e)
	list := make([]queue.Settlement, len(j.claimed.Deliveries))
	for i := range list {
		list[i] = l.settlement(ctx, j, i, e, took)
		list[i].Ref = j.claimed.Ref(i)
	}
	return l.finish(ctx, j, list, body)
}

// settleAll gives every delivery the same settlement, and logs it.
func (l *lane) settleAll(ctx context.Context, j *job, s queue.Settlement) []queue.Settlement {
	return l.finish(ctx, j, same(j, s), nil)
}
