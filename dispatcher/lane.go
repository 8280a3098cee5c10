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
	// prefetch is the most messages that wait in a lane for each that it sends at once, so that one claim serves many.
	prefetch = 7
	// ahead is how much work a lane holds besides what it is sending. A slow relay has less waiting, so that what is urgent
	// and comes later does not queue behind it.
	ahead = 250 * time.Millisecond
	// stuckAfter is how long a lane that is full may finish nothing before the others stop waiting for its share.
	stuckAfter = 2 * time.Second
)

// job is a claimed message on its way through a lane.
type job struct {
	claimed   queue.Claimed
	claimedAt time.Time // before the claim was asked for
	to        []string  // domains, once they are asked for
	sealed    bool      // it is encrypted at rest
	staged    bool      // the claim counts on its stage being recorded
	passed    int       // how often others went before it that came after it
}

// expired says whether the deadline of the message has passed, by the time since the claim.
func (j *job) expired() bool {
	return j.claimed.ExpiresIn > 0 && time.Since(j.claimedAt) >= j.claimed.ExpiresIn
}

// refs are those of all the claimed deliveries.
func (j *job) refs() []queue.Ref {
	refs := make([]queue.Ref, len(j.claimed.Deliveries))
	for i := range refs {
		refs[i] = j.claimed.Ref(i)
	}
	return refs
}

// domains are those of the recipients. The lane's jobs guard it.
func (j *job) domains() []string {
	if j.to == nil {
		j.to = domainsOf(j.claimed.Deliveries)
	}
	return j.to
}

// lane sends what was claimed for one relay: it starts messages as fast as pace and breaker allow, in as many goroutines as there
// are messages at once, and waits for all of them before it ends.
type lane struct {
	*engine
	name     string
	current  atomic.Pointer[Relay]
	jobs     *jobs
	breaker  *breaker
	pace     *pace
	send     SendFunc
	closing  chan struct{} // closed by close
	finished chan struct{} // closed when its Sender is not used any more
	down     chan struct{} // of one: the breaker opened
	again    chan struct{} // of one: what it waits for is over
	cut      context.CancelFunc
	unsigned sync.Once // says that the provider would break signatures
	heedless sync.Once // says that the sender does not ask for the stage

	took     atomic.Int64 // moving average of a send, in nanoseconds
	lastDone atomic.Int64 // when a message was last finished, in Unix nanoseconds
	hopeful  atomic.Bool  // it may claim again after an outage

	// The claimer's own.
	hungry bool      // the last claim was filled, or not made for want of room
	served float64   // messages claimed, divided by the weight
	idled  bool      // it could not take its share at the last turn
	parted time.Time // when it last put back what crowded it

	last    queue.Due // where the last message came from
	guessed bool      // the last claim expected something there
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

// relay is the configuration as it stands now.
func (l *lane) relay() *Relay { return l.current.Load() }

// bound says how many messages may be sent at once, and how many of them to one domain.
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

// able says whether the relay can be given messages.
func (l *lane) able() bool { return l.concurrency() > 0 }

// room is how many messages the lane may hold.
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

// free is how many messages may be claimed for the lane.
func (l *lane) free() int {
	waiting, active := l.jobs.count()
	return l.room() - waiting - active
}

// run sends until the lane is closed, and returns when nothing is being sent any more.
func (l *lane) run(ctx context.Context) {
	var sends sync.WaitGroup
	// A goroutine takes one message after the other, because its stack has grown to what a send needs; there are as many as messages
	// ever were under way at once, and they stay until the lane ends.
	work := make(chan *job)
	workers := 0
	for {
		l.pace.wait(l.closing)
		j, ok := l.jobs.next()
		if !ok {
			break
		}
		if j == nil { // the relay cannot send: what waits is for others
			l.handBack(l.jobs.take())
			continue
		}
		l.underway.Add(1)
		if _, active := l.jobs.count(); workers < active {
			workers++
			sends.Go(func() {
				for j := range work {
					l.handle(ctx, j)
				}
			})
		}
		work <- j // there are as many goroutines as messages: one of them is free, or about to be
	}
	close(work)
	l.handBack(l.jobs.take())
	sends.Wait()
}

// handle sends one message and hands over its outcome.
func (l *lane) handle(ctx context.Context, j *job) {
	list := l.deliver(ctx, j)
	l.underway.Add(-1)
	l.settler.put(list...)
	l.lastDone.Store(time.Now().UnixNano())
	l.jobs.done(j)
	l.kicked()
}

// close has the lane begin nothing more; run hands back what has not begun.
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
		l.settler.put(all(j, queue.Settlement{Outcome: queue.Recycled})...)
	}
	if len(list) > 0 {
		l.kicked()
	}
}

// put gives the lane a message. One that it cannot take is for another lane, or is put back for a moment; one that is in doubt
// with this relay waits for it.
func (l *lane) put(j *job) {
	if l.able() && l.jobs.put(j) {
		return
	}
	s := queue.Settlement{Outcome: queue.Deferred, Uncounted: true, Delay: l.cfg.Poll}
	switch {
	case slices.ContainsFunc(j.claimed.Deliveries, doubtful):
		s.Delay = max(s.Delay, l.breaker.wait(time.Now()))
	case l.another(l, j.claimed.Route):
		s = queue.Settlement{Outcome: queue.Recycled}
	}
	l.settler.put(all(j, s)...)
}

// doubtful says whether a delivery may have been accepted before.
func doubtful(d queue.ClaimedDelivery) bool { return d.Class == string(smtpx.ClassAmbiguous) }

// timed keeps the average of how long a message takes.
func (l *lane) timed(took time.Duration) {
	if before := l.took.Load(); before > 0 {
		took = time.Duration(before) + (took-time.Duration(before))/8
	}
	l.took.Store(int64(took))
}

// stuck says whether the lane has finished nothing for a while.
func (l *lane) stuck(now time.Time) bool { return now.UnixNano()-l.lastDone.Load() > int64(stuckAfter) }

// note takes what a message says about the relay, slows down or speeds up by it, and opens or closes the breaker.
func (l *lane) note(ctx context.Context, v verdict) {
	now := time.Now()
	before := l.pace.concurrency()
	switch v.class {
	case "":
		l.pace.accepted(now)
	case smtpx.ClassThrottled:
		l.pace.throttled(now)
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
		poke(l.down)
		l.handBack(l.jobs.take())
		l.sharePause(ctx)
	}
}

// report tells of the state that the relay has now. A fault that takes it offline is one event with the relay's own words,
// however many messages met it.
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
	l.beatSoon()
}

// all gives every delivery of a job the same settlement.
func all(j *job, s queue.Settlement) []queue.Settlement {
	list := make([]queue.Settlement, len(j.claimed.Deliveries))
	for i := range list {
		list[i] = s
		list[i].Ref = j.claimed.Ref(i)
	}
	return list
}
