package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// courier takes messages to one relay and decides what becomes of each. It knows neither the lane that calls it nor the other relays.
type courier struct {
	cfg      *Config
	log      *slog.Logger
	guard    guard
	name     string // of the relay
	current  *atomic.Pointer[Relay]
	ledger   *ledger
	fetching *semaphore.Weighted     // bytes of large bodies that are being fetched
	another  func(route string) bool // whether another relay can take messages of a route
	send     SendFunc

	unsigned    sync.Once // logs that the provider would break signatures
	uncommitted sync.Once // logs that the sender does not call Envelope.Commit
}

// relay returns the present configuration.
func (co *courier) relay() *Relay { return co.current.Load() }

// delivered is what came of one message.
type delivered struct {
	list    []queue.Settlement // one for each delivery
	took    time.Duration      // of the send; 0 if nothing was sent
	verdict verdict            // what it shows about the relay
	heard   bool               // whether there is a verdict
}

// deliver sends one message.
func (co *courier) deliver(ctx context.Context, j *job) delivered {
	c := &j.claimed
	if j.expired() {
		return co.settleAll(ctx, j, queue.Settlement{Outcome: queue.Expired, Uncounted: true})
	}
	body, err := co.body(ctx, j)
	switch {
	case errors.Is(err, queue.ErrNoBody):
		return co.failed(ctx, j, &smtpx.Error{Class: smtpx.ClassMessage, Err: err}, nil, 0)
	case err != nil && ctx.Err() != nil:
		return delivered{list: same(j, queue.Settlement{Outcome: queue.Recycled})}
	case err != nil:
		co.log.ErrorContext(ctx, "cannot read a message; will try again", "id", c.ID, "error", err)
		return co.failed(ctx, j, &smtpx.Error{Class: smtpx.ClassUnreachable, Err: fmt.Errorf("read the body: %w", err)}, nil, 0)
	}

	j.sealed = c.BodyKeyID != "" || keyring.IsSealed(body)
	if body, err = co.prepare(ctx, c, body); err != nil {
		return co.notReady(ctx, j, err)
	}

	var committed, returned atomic.Bool
	co.ledger.sending.Add(1)
	asked := sync.OnceFunc(func() { co.ledger.sending.Add(-1) })
	defer asked()
	env := smtpx.Envelope{From: c.Sender, To: make([]string, len(c.Deliveries)), Commit: func(ctx context.Context) error {
		defer asked()
		if returned.Load() {
			return errLate
		}
		if j.expired() { // it may have waited for a connection
			return errExpired
		}
		if err := co.passFence(ctx, j); err != nil {
			return err
		}
		committed.Store(true)
		return nil
	}}
	if co.unfenced(j) { // a message in several transactions takes long: the lease is checked before each
		env.CommitAccepted = func(context.Context, []int) error { return co.passFence(ctx, j) }
	}
	for i, d := range c.Deliveries {
		env.To[i] = d.Recipient
	}
	began := time.Now()
	tell(ctx, co.guard, "Observer.SendStart", co.cfg.Observer.SendStart,
		SendEvent{Relay: co.name, Message: c, Waited: began.Sub(j.claimedAt)})
	res, err := co.contained(ctx, &Sending{Relay: co.name, Message: c, Envelope: env, Body: body}, committed.Load)
	returned.Store(true)
	took := max(time.Since(began), 1)
	if !committed.Load() && slices.ContainsFunc(res.Outcomes, func(o smtpx.Outcome) bool { return o.Accepted }) {
		co.uncommitted.Do(func() {
			co.log.ErrorContext(ctx, "the sender or a middleware sent without calling Envelope.Commit; a crash may bring copies", "relay", co.name)
		})
	}
	switch {
	case errors.Is(err, errExpired):
		return co.settleRest(ctx, j, res, queue.Settlement{Outcome: queue.Expired, Uncounted: true}, took)
	case errors.Is(err, errLeaseLost):
		// Another dispatcher settles what it took over. The settlement hands back the rest, such as other recipients.
		co.log.WarnContext(ctx, "lease lost; not sent to all", "id", c.ID, "relay", co.name)
		return co.settleRest(ctx, j, res, queue.Settlement{Outcome: queue.Recycled}, took)
	}
	if len(res.Outcomes) != len(env.To) {
		return co.failed(ctx, j, verdictOf(err), body, took)
	}
	d := delivered{took: took}
	d.verdict, d.heard = learn(ctx, j, res, err)
	d.list = co.outcomes(ctx, j, res, err, body, took)
	return d
}

// outcomes returns a settlement for each recipient by its own outcome.
func (co *courier) outcomes(ctx context.Context, j *job, res smtpx.Result, err error, body []byte, took time.Duration) []queue.Settlement {
	list := make([]queue.Settlement, len(res.Outcomes))
	for i, o := range res.Outcomes {
		switch {
		case o.Accepted:
			list[i] = co.accepted(res, took)
		case o.Err == nil:
			list[i] = co.settlement(ctx, j, i, verdictOf(err), took)
		default:
			list[i] = co.settlement(ctx, j, i, o.Err, took)
		}
		list[i].Ref = j.claimed.Ref(i)
	}
	return co.finish(ctx, j, list, body)
}

// accepted is the settlement of a recipient for whom the relay accepted the message.
func (co *courier) accepted(res smtpx.Result, took time.Duration) queue.Settlement {
	return queue.Settlement{Outcome: queue.Sent, Evidence: queue.Evidence{
		Relay: co.name, Stage: string(smtpx.StageDot), Code: res.Reply.Code, Enhanced: res.Reply.Enhanced,
		Reply: oneLine(res.Reply.Text()), ProviderID: oneLine(res.ProviderID), Duration: took,
	}}
}

// settleRest returns settlements for a message that went no further. It may have gone in several transactions: the recipients of
// those that were accepted are sent, and only the others get the settlement.
func (co *courier) settleRest(ctx context.Context, j *job, res smtpx.Result, rest queue.Settlement, took time.Duration) delivered {
	list := same(j, rest)
	for i := range min(len(list), len(res.Outcomes)) {
		if res.Outcomes[i].Accepted {
			sent := co.accepted(res, took)
			sent.Ref = list[i].Ref
			list[i] = sent
		}
	}
	return delivered{list: co.finish(ctx, j, list, nil), took: took}
}

// sizeInMemory returns how many bytes of MaxBytes a large body takes.
func (co *courier) sizeInMemory(j *job) int64 { return min(max(j.claimed.Size, 1), co.cfg.MaxBytes) }

// body returns the message as it is stored. It fetches a large one, for which the lane has reserved the memory.
func (co *courier) body(ctx context.Context, j *job) ([]byte, error) {
	if !j.large() {
		return slices.Clip(j.claimed.Body), nil // hooks see the body: appending to it must copy it
	}
	passing := min(co.sizeInMemory(j), fetchBytes)
	if err := co.fetching.Acquire(ctx, passing); err != nil {
		return nil, err
	}
	defer co.fetching.Release(passing)
	limited, cancel := context.WithTimeout(ctx, co.cfg.Lease)
	defer cancel()
	return co.cfg.Queue.Body(limited, j.claimed.ID)
}

// passFence fences the message, or only checks its lease if the relay's Fence leaves it out. After an error the message must not be
// sent.
func (co *courier) passFence(ctx context.Context, j *job) error {
	if co.unfenced(j) {
		if !co.ledger.valid(j) {
			return errLeaseLost
		}
		return nil
	}
	return co.ledger.fence(ctx, j, co.name)
}

// unfenced says whether the message is sent without being fenced.
func (co *courier) unfenced(j *job) bool {
	return co.relay().Fence == FenceHold && j.claimed.OnUncertain != outbox.Hold && !j.fenced
}

// learn derives a verdict about the relay from the result of a message. A message that is rejected for itself shows that the relay
// works. There is no verdict if no relay was asked, or if this process broke the send off.
func learn(ctx context.Context, j *job, res smtpx.Result, err error) (v verdict, heard bool) {
	v = verdict{sender: j.claimed.Sender}
	e := verdictOf(err)
	for i, o := range res.Outcomes {
		if o.Accepted {
			return v, true
		}
		if o.Err != nil && (i == 0 || faultOfRelay(o.Err)) {
			e = o.Err
		}
	}
	if e.Stage == "" || ctx.Err() != nil && errors.Is(e, context.Canceled) || errors.Is(e, errFence) {
		return verdict{}, false
	}
	if faultOfRelay(e) {
		v.class, v.stage, v.scope, v.words, v.reset = e.Class, e.Stage, e.Scope(), wordsOf(e), e.RetryAfter
		v.code = e.Reply.Code
		if e.Class == smtpx.ClassTransient {
			v.class = smtpx.ClassUnreachable
		}
	}
	return v, true
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
func (co *courier) failed(ctx context.Context, j *job, e *smtpx.Error, body []byte, took time.Duration) delivered {
	d := delivered{took: took}
	d.verdict, d.heard = learn(ctx, j, smtpx.Result{}, e)
	list := make([]queue.Settlement, len(j.claimed.Deliveries))
	for i := range list {
		list[i] = co.settlement(ctx, j, i, e, took)
		list[i].Ref = j.claimed.Ref(i)
	}
	d.list = co.finish(ctx, j, list, body)
	return d
}

// settleAll gives every delivery the same settlement, and logs it.
func (co *courier) settleAll(ctx context.Context, j *job, s queue.Settlement) delivered {
	return delivered{list: co.finish(ctx, j, same(j, s), nil)}
}
