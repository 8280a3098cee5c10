package dispatcher

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

const (
	// prefetch is the largest number of messages that wait in a lane for each one that it sends at once.
	prefetch = 7
	// ahead is the amount of work that a lane holds beyond what it is sending, as the time that the work takes. It is short, so
	// that an urgent message that comes later waits little.
	ahead = 250 * time.Millisecond
	// stuckAfter is the time for which a full lane may finish nothing. After that the others do not wait for its share.
	stuckAfter = 2 * time.Second
)

// job is a claimed message on its way through a lane.
type job struct {
	claimed   queue.Claimed
	claimedAt time.Time // before the claim was asked for
	to        []string  // the recipients' domains, set at the first use
	sealed    bool      // it is encrypted at rest
	fenced    bool      // the message must be fenced before it is sent, whatever the relay's Fence
	passed    int       // how many later messages were sent before it
}

// expired says whether the deadline of the message has passed. It goes by the time since the claim.
func (j *job) expired() bool {
	return j.claimed.ExpiresIn > 0 && time.Since(j.claimedAt) >= j.claimed.ExpiresIn
}

// refs returns the references to all deliveries of the job.
func (j *job) refs() []queue.Ref {
	refs := make([]queue.Ref, len(j.claimed.Deliveries))
	for i := range refs {
		refs[i] = j.claimed.Ref(i)
	}
	return refs
}

// domains returns the domains of the recipients. The caller holds the lock of jobs.
func (j *job) domains() []string {
	if j.to == nil {
		j.to = domainsOf(j.claimed.Deliveries)
	}
	return j.to
}

// lane sends the messages that were claimed for one relay. It begins messages as fast as pace and breaker allow, each in a
// goroutine, and waits for all of them before it ends.
type lane struct {
	*engine
	name        string
	current     atomic.Pointer[Relay]
	jobs        *jobs
	breaker     *breaker
	pace        *pace
	send        SendFunc
	closing     chan struct{} // closed by close
	finished    chan struct{} // closed when its Sender is not used any more
	down        chan struct{} // buffer of one: the breaker opened
	again       chan struct{} // buffer of one: the pause ended early
	cut         context.CancelFunc
	unsigned    sync.Once // logs that the provider would break signatures
	uncommitted sync.Once // logs that the sender does not call Envelope.Commit

	sends     sends
	took      atomic.Int64 // moving average of the duration of a send, in nanoseconds
	lastDone  atomic.Int64 // when a message was last finished, in Unix nanoseconds
	recovered atomic.Bool  // the relay is used again after an outage

	// Only the claimer uses these.
	backlog   bool      // the queue probably has more for this lane
	served    float64   // messages claimed, divided by the weight
	idled     bool      // it could not send at the last turn
	putBackAt time.Time // when messages for full domains were last put back

	last    queue.Due // where the last message came from
	guessed bool      // the last claim looked there first
}

func newLane(e *engine, r Relay) *lane {
	now := time.Now()
	l := &lane{
		engine: e, name: r.Name, breaker: newBreaker(now), pace: newPace(r.Concurrency, now),
		closing: make(chan struct{}), finished: make(chan struct{}), down: make(chan struct{}, 1), again: make(chan struct{}, 1), idled: true,
	}
	l.current.Store(&r)
	l.jobs = newJobs(l.bound)
	l.send = l.chain()
	l.lastDone.Store(now.UnixNano())
	return l
}

// relay returns the present configuration.
func (l *lane) relay() *Relay { return l.current.Load() }

// bound returns how many messages may be sent at once, and how many of them to one domain.
func (l *lane) bound() (concurrency, perDomain int) {
	return l.concurrency(), l.relay().PerDomain
}

func (l *lane) concurrency() int {
	switch state, _, _ := l.breaker.status(time.Now()); state {
	case RelayOffline, RelayPaused:
		return 0
	case RelayTrial:
		return 1
	default:
		return l.pace.concurrency()
	}
}

// able says whether the relay may get messages now.
func (l *lane) able() bool { return l.concurrency() > 0 }

// room returns how many messages the lane may hold.
func (l *lane) room() int {
	n := l.concurrency()
	if state, _, _ := l.breaker.status(time.Now()); n == 0 || state == RelayTrial {
		return n
	}
	wait := prefetch * n
	if took := l.took.Load(); took > 0 {
		wait = min(wait, max(1, int(int64(n)*int64(ahead)/took)))
	}
	return n + wait
}

// free returns how many more messages the lane may hold.
func (l *lane) free() int {
	waiting, active := l.jobs.count()
	return l.room() - waiting - active
}

// run sends until the lane is closed. It returns when all sends have ended.
func (l *lane) run(ctx context.Context) {
	var sends sync.WaitGroup
	// Each goroutine sends one message after the other: its stack has already grown to what a send needs. There are as many as
	// messages were ever sent at once, and they stay until the lane ends.
	work := make(chan *job)
	workers := 0
	for {
		l.pace.wait(l.closing)
		j, ok := l.jobs.next()
		if !ok {
			break
		}
		if j == nil { // the relay cannot send: other relays may take what waits
			l.handBack(l.jobs.take())
			continue
		}
		l.ledger.underway.Add(1)
		if _, active := l.jobs.count(); workers < active {
			workers++
			sends.Go(func() {
				for j := range work {
					l.handle(ctx, j)
				}
			})
		}
		work <- j // there are as many goroutines as messages, so one is free or soon will be
	}
	close(work)
	l.handBack(l.jobs.take())
	sends.Wait()
}

// handle sends one message and hands over its outcome.
func (l *lane) handle(ctx context.Context, j *job) {
	l.sends.begin(j)
	list := l.deliver(ctx, j)
	l.sends.end(j)
	l.ledger.underway.Add(-1)
	l.ledger.put(list...)
	l.lastDone.Store(time.Now().UnixNano())
	l.jobs.done(j)
	l.progressed()
}

// close makes the lane begin nothing more. Then run hands back the messages that have not begun.
func (l *lane) close() {
	select {
	case <-l.closing:
		return
	default:
		close(l.closing)
	}
	l.jobs.close()
}

// handBack returns messages to the queue as if they had not been claimed.
func (l *lane) handBack(list []*job) {
	for _, j := range list {
		l.ledger.put(same(j, queue.Settlement{Outcome: queue.Recycled})...)
	}
	if len(list) > 0 {
		l.progressed()
	}
}

// put gives the lane a message. If the lane cannot take it, the message goes back to the queue. It is due at once if another lane
// can take it, and later if not, or if it is in doubt with this relay.
func (l *lane) put(j *job) {
	if l.able() && l.jobs.put(j) {
		return
	}
	s := queue.Settlement{Outcome: queue.Recycled, Delay: l.cfg.Poll}
	switch {
	case slices.ContainsFunc(j.claimed.Deliveries, doubtful):
		s.Delay = max(s.Delay, l.breaker.wait(time.Now()))
	case l.another(l, j.claimed.Route):
		s.Delay = 0
	}
	l.ledger.put(same(j, s)...)
}

// doubtful says whether a delivery may have been accepted before.
func doubtful(d queue.ClaimedDelivery) bool { return d.Class == string(smtpx.ClassAmbiguous) }

// timed updates the average duration of a send.
func (l *lane) timed(took time.Duration) {
	if before := l.took.Load(); before > 0 {
		took = time.Duration(before) + (took-time.Duration(before))/8
	}
	l.took.Store(int64(took))
}

// stuck says whether the lane has finished nothing for a while.
func (l *lane) stuck(now time.Time) bool { return now.UnixNano()-l.lastDone.Load() > int64(stuckAfter) }

// note applies a verdict to pace and breaker.
func (l *lane) note(ctx context.Context, v verdict) {
	now := time.Now()
	before := l.pace.concurrency()
	switch v.class {
	case "":
		l.pace.accepted(now)
	case smtpx.ClassThrottled:
		l.pace.throttled(now, v.reset)
	default:
	}
	changed := l.breaker.note(now, v)
	if l.pace.concurrency() != before || changed {
		l.jobs.rebound()
	}
	if !changed {
		return
	}
	l.report(ctx, v.class)
	if !l.able() {
		signal(l.down)
		l.handBack(l.jobs.take())
		l.sharePause(ctx)
	}
}

// report logs the state of the relay and tells the Observer. It is called once for a change, however many messages met the fault.
func (l *lane) report(ctx context.Context, class smtpx.Class) {
	now := time.Now()
	state, _, reason := l.breaker.status(now)
	event := RelayEvent{Relay: l.name, State: state, Reason: reason, Class: class, For: l.breaker.wait(now)}
	level := slog.LevelWarn
	switch state {
	case RelayOffline, RelayPaused:
		level = slog.LevelError
	case RelayHealthy:
		level = slog.LevelInfo
	default:
	}
	l.log.Log(ctx, level, "relay", "relay", l.name, "state", state, "class", class, "reason", masked(reason), "for", event.For)
	notify(ctx, l.engine, "Observer.Relay", l.cfg.Observer.Relay, event)
	l.heartbeatSoon()
}

// same returns the same settlement for every delivery of a job.
func same(j *job, s queue.Settlement) []queue.Settlement {
	list := make([]queue.Settlement, len(j.claimed.Deliveries))
	for i := range list {
		list[i] = s
		list[i].Ref = j.claimed.Ref(i)
	}
	return list
}
