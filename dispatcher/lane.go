package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// lane holds the messages that were claimed for one relay and sends them as its gate allows. It has no loop of its own: whatever may
// let a message begin calls pump.
type lane struct {
	name    string
	current *atomic.Pointer[Relay]
	gate    *gate
	memory  *tenant
	courier *courier
	ledger  *ledger
	log     *slog.Logger
	guard   guard
	outside surroundings

	mu        sync.Mutex
	jobs      *jobs
	sending   map[*job]time.Time // since when
	timer     *time.Timer        // calls pump; nil before the first time
	closed    bool
	probing   bool
	parted    time.Time          // when messages for full domains were last put back
	stopProbe context.CancelFunc // breaks off a probe; nil before the first
	work      sync.WaitGroup     // sends and probes
	finished  chan struct{}      // closed when its Sender is not used any more

	ctx context.Context //nolint:containedctx // of the sends: pump is called by timers, too
	cut context.CancelFunc

	recovered atomic.Bool // the relay is used again after an outage
}

// surroundings is what a lane tells others of.
type surroundings struct {
	moved    func()                                      // a slot was freed, or messages were handed back
	changed  func()                                      // the state of the relay changed
	ended    func()                                      // nothing uses the lane any more
	observer func(ctx context.Context, event RelayEvent) // of the application; nil for none
	restores bool                                        // bring a relay back that was out of use
	probe    time.Duration                               // the longest time for a probe
}

// newLane returns a lane that sends until close is called. cut, and the end of ctx, break off its sends.
func newLane(ctx context.Context, current *atomic.Pointer[Relay], c *courier, m *memory, s surroundings) *lane {
	now := time.Now()
	r := current.Load()
	l := &lane{
		name: r.Name, current: current, gate: newGate(r.Concurrency, now), courier: c, ledger: c.ledger, log: c.log, guard: c.guard,
		outside: s, jobs: newJobs(r.PerDomain), sending: make(map[*job]time.Time), finished: make(chan struct{}),
	}
	l.ctx, l.cut = context.WithCancel(ctx)
	l.memory = m.join(l.pump)
	return l
}

// relay returns the present configuration.
func (l *lane) relay() *Relay { return l.current.Load() }

// update gives the lane a new configuration.
func (l *lane) update(r Relay) {
	l.current.Store(&r)
	l.gate.resize(r.Concurrency)
	l.mu.Lock()
	l.jobs.perDomain = r.PerDomain
	l.mu.Unlock()
	l.pump()
}

// put gives the lane a message. It returns false if the lane cannot send now; the caller keeps the message then.
func (l *lane) put(j *job) bool {
	l.mu.Lock()
	if l.closed || !l.gate.able() {
		l.mu.Unlock()
		return false
	}
	l.jobs.put(j)
	l.mu.Unlock()
	l.pump()
	return true
}

// pump begins what may begin now.
func (l *lane) pump() {
	for {
		j := l.next()
		if j == nil {
			return
		}
		go l.run(j)
	}
}

// next removes the message that may begin now, and counts it as begun. Whoever gets it calls run. If there is none, next sets the timer
// for the time at which there may be one.
func (l *lane) next() *job {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	begin, again := l.gate.grant(now)
	if begin > 0 {
		var memory time.Time // when to ask for memory anew
		j := l.jobs.next(func(j *job) bool {
			ok, at := l.reserve(now, j)
			if memory.IsZero() || !at.IsZero() && at.Before(memory) {
				memory = at
			}
			return ok
		})
		if j != nil {
			l.gate.begin(now)
			l.sending[j] = now
			l.ledger.underway.Add(1)
			l.work.Add(1)
			return j
		}
		again = memory
	}
	if due, probe := l.gate.due(now); due && l.outside.restores && !l.probing {
		l.probing = true
		l.work.Go(func() { l.restore(probe) })
	} else if !again.IsZero() && (again.After(now) || !due) {
		l.wakeAt(now, again)
	}
	return nil
}

// wakeAt makes the timer call pump at a time. The caller holds the mutex.
func (l *lane) wakeAt(now, at time.Time) {
	d := max(at.Sub(now), 0)
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.pump)
		return
	}
	l.timer.Reset(d)
}

// reserve takes the memory for a large body.
func (l *lane) reserve(now time.Time, j *job) (ok bool, again time.Time) {
	if !j.large() || j.reserved > 0 {
		return true, time.Time{}
	}
	size := l.courier.sizeInMemory(j)
	if ok, again = l.memory.acquire(now, size); ok {
		j.reserved = size
	}
	return ok, again
}

// run sends one message after the other, as long as more may begin. Its stack has already grown to what a send needs.
func (l *lane) run(j *job) {
	for j != nil {
		l.handle(j)
		next := l.next()
		l.work.Done()
		l.pump() // more than one may begin, for example after an outage
		l.outside.moved()
		j = next
	}
}

// handle sends one message and hands over its outcome.
func (l *lane) handle(j *job) {
	d := l.courier.deliver(l.ctx, j)
	if d.heard {
		l.note(d.verdict)
	}
	l.ledger.underway.Add(-1)
	l.memory.release(j.reserved)
	l.ledger.put(d.list...)
	l.mu.Lock()
	l.jobs.done(j)
	delete(l.sending, j)
	l.mu.Unlock()
	l.gate.end(time.Now(), d.took)
}

// note applies a verdict. A relay that is out of use gets nothing more, so what waits goes back.
func (l *lane) note(v verdict) {
	changed, _ := l.gate.note(time.Now(), v)
	if !changed {
		return
	}
	l.report(v.class)
	if !l.gate.able() {
		l.handBack(l.take())
	}
}

// report logs the state of the relay and tells the Observer. It is called once for a change, however many messages met the fault.
func (l *lane) report(class smtpx.Class) {
	c := l.gate.condition(time.Now())
	event := RelayEvent{
		Relay: l.name, State: c.state, Since: c.since, Reason: c.why.words, Class: class, Code: c.why.code, For: c.next,
		Routes: l.relay().Routes, Rate: l.relay().Rate, PerSecond: c.perSecond,
	}
	level := slog.LevelWarn
	switch c.state {
	case RelayOffline, RelayPaused:
		level = slog.LevelError
	case RelayHealthy, RelayUnused:
		level = slog.LevelInfo
	default:
	}
	l.log.Log(l.ctx, level, "relay", "relay", l.name, "state", c.state, "class", class, "code", event.Code, "reason", masked(event.Reason),
		"for", event.For)
	tell(l.ctx, l.guard, "Observer.Relay", l.outside.observer, event)
	l.outside.changed()
}

// take removes all messages that wait.
func (l *lane) take() []*job {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.memory.forget()
	return l.jobs.take()
}

// handBack returns messages to the queue as if they had not been claimed.
func (l *lane) handBack(list []*job) {
	for _, j := range list {
		l.ledger.put(same(j, queue.Settlement{Outcome: queue.Recycled})...)
	}
	if len(list) > 0 {
		l.outside.moved()
	}
}

// giveBack hands back up to n messages that the lane cannot begin soon, of routes that others serve. What is in doubt stays: no other
// relay may have it.
func (l *lane) giveBack(n int, others func(route string) bool) {
	c := l.gate.room(time.Now())
	l.mu.Lock()
	n = min(n, l.jobs.count()-c.ready)
	list := l.jobs.takeLast(n, func(j *job) bool { return others(j.claimed.Route) && !j.doubted() })
	l.mu.Unlock()
	l.handBack(list)
}

const (
	// blockedDelay is how long a message waits that was put back because its recipients' domain is full.
	blockedDelay = 5 * time.Second
	// blockedEvery is the shortest time between two such removals.
	blockedEvery = time.Second
)

// partCrowd puts back messages that fill the lane and wait for a full domain.
func (l *lane) partCrowd(now time.Time) {
	l.mu.Lock()
	if l.jobs.perDomain <= 0 || now.Sub(l.parted) < blockedEvery {
		l.mu.Unlock()
		return
	}
	l.parted = now
	list := l.jobs.takeBlocked(l.jobs.perDomain)
	l.mu.Unlock()
	for _, j := range list {
		l.ledger.put(same(j, queue.Settlement{Outcome: queue.Recycled, Delay: blockedDelay})...)
	}
}

// free returns how many more messages the lane may hold.
func (l *lane) free() int {
	c := l.gate.room(time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	return c.ready - l.jobs.count()
}

// view shows the lane to the planner.
func (l *lane) view(now time.Time) view {
	r := l.relay()
	c := l.gate.room(now)
	condition := l.gate.condition(now)
	l.mu.Lock()
	waiting := l.jobs.count()
	l.mu.Unlock()
	v := view{
		Name: l.name, Routes: r.Routes, Backup: r.Backup, Weight: float64(r.Weight), Rate: r.Rate, Able: condition.concurrency > 0,
		Free: c.ready - waiting, Room: c.room, Waiting: waiting, Reach: c.reach, Opens: c.opens, Recovered: l.recovered.Swap(false),
	}
	if condition.state == RelayDegraded {
		v.Weight *= degradedShare
	}
	return v
}

// health returns the state of the relay.
func (l *lane) health(now time.Time) RelayHealth {
	c := l.gate.condition(now)
	r := l.relay()
	h := RelayHealth{
		Name: l.name, State: c.state, Since: c.since, Class: c.why.class, Code: c.why.code, Reason: c.why.words, For: c.next,
		Routes: r.Routes, Rate: r.Rate, Concurrency: c.concurrency, PerSecond: c.perSecond,
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	h.Waiting, h.Sending = l.jobs.count(), len(l.sending)
	return h
}

// longerThan returns how many sends take longer than limit, and since when the longest of them goes on.
func (l *lane) longerThan(limit time.Duration) (n int, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, began := range l.sending {
		if time.Since(began) > limit {
			if n++; since.IsZero() || began.Before(since) {
				since = began
			}
		}
	}
	return n, since
}

// restore brings the relay back after it was out of use: it probes, if the Sender can and probe says so, and begins a trial.
func (l *lane) restore(probe bool) {
	ok := (!probe || l.probe()) && l.gate.try(time.Now())
	if ok {
		l.report("")
		l.recovered.Store(true)
	}
	l.mu.Lock()
	l.probing = false
	l.mu.Unlock()
	l.pump()
	if ok {
		l.outside.moved()
	}
}

// probe says whether a trial may begin. It is true if the Sender cannot probe.
func (l *lane) probe() bool {
	p, ok := l.relay().Sender.(Prober)
	if !ok {
		return true
	}
	limited, cancel := context.WithTimeout(l.ctx, l.outside.probe)
	defer cancel()
	l.mu.Lock()
	l.stopProbe = cancel
	if l.closed {
		cancel()
	}
	l.mu.Unlock()
	err := errors.New("the probe panicked")
	l.guard.call(l.ctx, "Prober.Probe", func() { _, err = p.Probe(limited) })
	if err == nil {
		return true
	}
	e := verdictOf(err)
	v := verdict{class: smtpx.ClassUnreachable, stage: e.Stage, scope: e.Scope(), words: wordsOf(e), code: e.Reply.Code}
	if e.Class == smtpx.ClassConfig {
		v.class = smtpx.ClassConfig
	}
	wait := l.gate.reopen(time.Now(), v)
	l.log.WarnContext(l.ctx, "relay_probe_failed", "relay", l.name, "class", v.class, "reason", masked(v.words), "for", wait)
	return false
}

// pause takes the relay out of use for the time d.
func (l *lane) pause(d time.Duration, reason string) {
	if l.gate.pause(time.Now(), d, reason) {
		l.report(smtpx.ClassQuota)
		l.handBack(l.take())
	}
	l.pump() // sets the timer
}

// lift ends a pause that all dispatchers share.
func (l *lane) lift() {
	if l.gate.lift(time.Now()) {
		l.pump()
	}
}

// close makes the lane begin nothing more, and hands back what has not begun. finished is closed once all sends have ended.
func (l *lane) close() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
	if l.stopProbe != nil {
		l.stopProbe()
	}
	l.memory.forget()
	l.mu.Unlock()
	l.memory.leave()
	go func() {
		l.handBack(l.take())
		l.work.Wait()
		l.cut()
		close(l.finished)
		l.outside.ended()
	}()
}
