package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
)

// job is a claimed message on its way through a lane.
type job struct {
	claimed   outbox.Claimed
	claimedAt time.Time // before the claim was asked for
}

// expired says whether the deadline of the message has passed, by the time since the claim.
func (j *job) expired() bool {
	return j.claimed.ExpiresIn > 0 && time.Since(j.claimedAt) >= j.claimed.ExpiresIn
}

// refs are those of all the claimed deliveries.
func (j *job) refs() []outbox.Ref {
	refs := make([]outbox.Ref, len(j.claimed.Deliveries))
	for i := range refs {
		refs[i] = j.claimed.Ref(i)
	}
	return refs
}

// lane sends what was claimed for one relay. It has room for so many messages, of which taken counts those that wait and
// those that are being sent.
type lane struct {
	*engine
	relay  Relay
	room   int
	jobs   chan *job
	taken  atomic.Int64
	closed chan struct{}
	hungry bool         // the claimer's: the last claim was filled
	fault  atomic.Value // smtpx.Class of the last outcome that was the relay's fault, "" when it works

	unsigned sync.Once // says that the provider would break signatures
}

// note takes what an outcome says about the relay. What is wrong with a message or a recipient shows that it works.
func (l *lane) note(c smtpx.Class) {
	switch c {
	case smtpx.ClassUnreachable, smtpx.ClassConfig, smtpx.ClassQuota, smtpx.ClassThrottled:
	default:
		c = ""
	}
	l.fault.Store(c)
}

// health says in a word how the relay does.
func (l *lane) health() string {
	if c, _ := l.fault.Load().(smtpx.Class); c != "" {
		return string(c)
	}
	return "healthy"
}

func newLane(e *engine, r Relay) *lane {
	room := e.cfg.Concurrency * prefetch
	// Twice the room, because other lanes may bring what must go through this one.
	return &lane{engine: e, relay: r, room: room, jobs: make(chan *job, 2*room), closed: make(chan struct{})}
}

// free is how many messages may be claimed for the lane.
func (l *lane) free() int { return l.room - int(l.taken.Load()) }

// put hands a job to the workers. It is false when there is no room; where it may wait it waits for some until ctx ends.
func (l *lane) put(ctx context.Context, j *job, wait bool) bool {
	l.taken.Add(1)
	select {
	case l.jobs <- j:
		return true
	default:
	}
	if wait {
		select {
		case l.jobs <- j:
			return true
		case <-ctx.Done():
		}
	}
	l.taken.Add(-1)
	return false
}

// close tells the workers that nothing more comes, and that what they have not begun is to be handed back.
func (l *lane) close() {
	close(l.closed)
	close(l.jobs)
}

// work is the loop of one worker. It ends when the lane is closed and empty.
func (l *lane) work(ctx context.Context) {
	for j := range l.jobs {
		select {
		case <-l.closed:
			l.settler.put(all(j, outbox.Settlement{Verb: outbox.VerbRecycle})...)
		default:
			l.settler.put(l.deliver(ctx, j)...)
		}
		l.taken.Add(-1)
		l.kicked()
	}
}

// all gives every delivery of a job the same settlement.
func all(j *job, s outbox.Settlement) []outbox.Settlement {
	list := make([]outbox.Settlement, len(j.claimed.Deliveries))
	for i := range list {
		list[i] = s
		list[i].Ref = j.claimed.Ref(i)
	}
	return list
}

// The errors of the hook that keeps a message from being sent.
var (
	errLeaseLost = errors.New("the lease was lost before the message was sent")
	errStage     = errors.New("the stage could not be recorded")
	errExpired   = errors.New("the deadline passed before the message was sent")
)

// deliver sends one message and says what became of each of its deliveries.
func (l *lane) deliver(ctx context.Context, j *job) []outbox.Settlement {
	c := &j.claimed
	if j.expired() {
		return all(j, outbox.Settlement{Verb: outbox.VerbExpire, Uncounted: true})
	}
	body := c.Body
	if body == nil {
		var err error
		if body, err = l.cfg.Queue.Body(ctx, c.ID); errors.Is(err, outbox.ErrNoBody) {
			return l.failed(ctx, j, &smtpx.Error{Class: smtpx.ClassMessage, Err: err}, 0)
		} else if err != nil {
			l.log.ErrorContext(ctx, "cannot read a message; it is put back", "id", c.ID, "error", err)
			return l.failed(ctx, j, &smtpx.Error{Class: smtpx.ClassUnreachable, Err: fmt.Errorf("read the body: %w", err)}, 0)
		}
	}
	body, err := l.prepare(ctx, c, body)
	if err != nil {
		return l.notReady(ctx, j, err)
	}
	l.sending.Add(1)
	asked := sync.OnceFunc(func() { l.sending.Add(-1) })
	defer asked()
	env := smtpx.Envelope{From: c.Sender, To: make([]string, len(c.Deliveries)), Commit: func(ctx context.Context) error {
		defer asked()
		if j.expired() { // it may have waited for a connection
			return errExpired
		}
		return l.stager.commit(ctx, j)
	}}
	for i, d := range c.Deliveries {
		env.To[i] = d.Recipient
	}
	began := time.Now()
	res, err := l.relay.Sender.Send(ctx, env, body)
	took := time.Since(began)
	switch {
	case errors.Is(err, errExpired):
		return all(j, outbox.Settlement{Verb: outbox.VerbExpire, Uncounted: true})
	case errors.Is(err, errLeaseLost):
		// Whoever took a lease over settles it; what is still ours, such as the other recipients, is handed back.
		l.log.WarnContext(ctx, "lease lost; not sent", "id", c.ID, "relay", l.relay.Name)
		return all(j, outbox.Settlement{Verb: outbox.VerbRecycle})
	}
	if len(res.Outcomes) != len(env.To) {
		return l.failed(ctx, j, verdictOf(err), took)
	}
	list := make([]outbox.Settlement, len(res.Outcomes))
	for i, o := range res.Outcomes {
		switch {
		case o.Accepted:
			list[i] = outbox.Settlement{Verb: outbox.VerbSent, Evidence: outbox.Evidence{
				Relay: l.relay.Name, Stage: string(smtpx.StageDot), Code: res.Reply.Code, Enhanced: res.Reply.Enhanced,
				Reply: oneLine(res.Reply.Text()), ProviderID: oneLine(res.ProviderID), Duration: took,
			}}
		case o.Err == nil:
			list[i] = l.settlement(ctx, j, i, verdictOf(err), took)
		default:
			list[i] = l.settlement(ctx, j, i, o.Err, took)
		}
		list[i].Ref = c.Ref(i)
		l.observe(ctx, c, i, list[i])
	}
	return list
}

// verdictOf finds the *smtpx.Error in what a Sender returned. Without one, nobody knows whether the message was accepted.
func verdictOf(err error) *smtpx.Error {
	if e, ok := errors.AsType[*smtpx.Error](err); ok {
		return e
	}
	if err == nil {
		err = errors.New("the sender gave neither an outcome for each recipient nor an error")
	}
	return &smtpx.Error{Stage: smtpx.StageDot, Class: smtpx.ClassAmbiguous, Err: err}
}

// failed settles every delivery of a job by the same verdict.
func (l *lane) failed(ctx context.Context, j *job, e *smtpx.Error, took time.Duration) []outbox.Settlement {
	list := make([]outbox.Settlement, len(j.claimed.Deliveries))
	for i := range list {
		list[i] = l.settlement(ctx, j, i, e, took)
		list[i].Ref = j.claimed.Ref(i)
		l.observe(ctx, &j.claimed, i, list[i])
	}
	return list
}
