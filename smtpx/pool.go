package smtpx

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// pool hands jobs to connections, first come, first served. It opens a connection when a job waits and the limit allows one.
// Until a dial has succeeded it dials one connection at a time: a relay that is down or refuses the password must not be tried
// many times at once.
type pool struct {
	relay *relay

	mu         sync.Mutex
	waiting    []*job             // oldest first
	idle       []*conn            // longest idle first; the last is used first, so a quiet pool shrinks
	conns      map[*conn]struct{} // those that were opened and have not ended
	open       int                // connections, those being dialled included
	dialing    int
	leaving    int  // surplus connections that are about to end
	configured int  // the most connections that the caller allows
	lastDialOK bool // the last dial that ended succeeded
	closed     bool
	limits     limits
	learned    []Learned // not yet reported to the observer
	idleSeen   time.Time // when a connection last showed an idle limit

	failures int         // dials that failed in a row
	redialAt time.Time   // while other connections are open, no dial before this
	redial   *time.Timer // calls grow at redialAt or nextDial
	nextDial time.Time   // no dial before this, by the rate

	closing chan struct{} // closed by close
	wg      sync.WaitGroup
}

func newPool(r *relay) *pool {
	return &pool{
		relay:      r,
		configured: r.Connections,
		limits:     newLimits(r),
		conns:      make(map[*conn]struct{}),
		closing:    make(chan struct{}),
	}
}

// submit queues a job, or hands it to an idle connection.
func (p *pool) submit(j *job) *Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return notSent(StageDial, ErrClosed)
	}
	p.enqueue(j, len(p.waiting))
	return nil
}

// enqueue hands a job to an idle connection or puts it at place i of the queue. The caller holds mu.
func (p *pool) enqueue(j *job, i int) {
	// While a connection is idle, no job waits: take looks at the queue before it parks.
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = slices.Delete(p.idle, n-1, n)
		j.state = jobTaken
		c.work <- j
		return
	}
	j.state = jobWaiting
	p.waiting = slices.Insert(p.waiting, i, j)
	p.grow()
}

// arrived takes a connection out of those that are being dialled. The caller holds mu.
func (p *pool) arrived(c *conn) {
	if c.place == placeDialing {
		c.place = placeOpen
		p.dialing--
	}
}

// release stops counting a connection that ends: another may take its place.
func (p *pool) release(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.place == placeNone {
		return
	}
	p.arrived(c)
	if c.place == placeLeaving {
		p.leaving--
	}
	c.place = placeNone
	p.open--
	p.grow()
}

// grow opens connections for waiting jobs that no connection being dialled will serve. The caller holds mu.
func (p *pool) grow() {
	for !p.closed && len(p.waiting) > p.dialing && p.open < p.maxConnections() && (p.lastDialOK || p.dialing == 0) {
		if p.open > 0 && time.Now().Before(p.redialAt) {
			p.growIn(time.Until(p.redialAt))
			return // the open connections serve the queue meanwhile
		}
		if wait := p.dialPause(); wait > 0 {
			p.growIn(wait)
			return
		}
		p.open++
		p.dialing++
		p.wg.Go(p.connect)
	}
}

// connect is the goroutine of one connection, from its dialling to its end.
func (p *pool) connect() {
	ctx, cancel := context.WithCancel(context.Background())
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-p.closing:
			cancel()
		case <-stop:
		}
	}()
	s, err := openSession(ctx, p.relay)
	close(stop)
	<-watched
	cancel()

	p.mu.Lock()
	p.lastDialOK = err == nil
	if err != nil {
		p.dialing--
		p.open--
		p.failures++
		if err.effect == EffectConnectionCap {
			p.learnConnections(p.open, err.Reply)
		}
		p.dialFailed(err)
		p.mu.Unlock()
		p.report()
		return
	}
	p.failures = 0
	p.redialAt = time.Time{}
	p.grow()
	p.mu.Unlock()

	// The connection counts as being dialled until it takes its first job, so no other is dialled for that job.
	c := newConn(s, p)
	p.register(c)
	c.serve()
	c.end()
	p.release(c)
	p.forget(c)
}

func (p *pool) register(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
}

func (p *pool) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// severAll cuts every connection, whatever it is doing.
func (p *pool) severAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.sever()
	}
}

// dialFailed fails the jobs that wait if no other connection is left to serve them; otherwise it plans another try. The
// caller holds mu.
func (p *pool) dialFailed(err *Error) {
	if p.open > 0 && !p.closed {
		pause := min(time.Second<<min(p.failures-1, 6), time.Minute)
		p.redialAt = time.Now().Add(pause)
		p.growIn(pause)
		return
	}
	if p.closed {
		err = notSent(StageDial, ErrClosed)
	}
	for _, j := range p.waiting {
		j.res.Host = p.relay.addr
		j.fail(err)
		close(j.done)
	}
	p.waiting = nil
}

// growIn calls grow after a pause. The caller holds mu.
func (p *pool) growIn(pause time.Duration) {
	if p.redial != nil {
		p.redial.Stop()
	}
	p.redial = time.AfterFunc(pause, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.grow()
	})
}

// take gives a connection its next job: one that waits, or one that arrives while the connection is parked. It returns nil when
// the connection should end. take reports the finished job, if any, only when the connection can serve the next job, because the
// caller may come back at once.
func (p *pool) take(c *conn, done *job) *job {
	p.mu.Lock()
	p.arrived(c)
	var j *job
	end := p.closed
	if p.surplus() {
		p.leave(c)
		end = true
	} else if j = p.pop(); j == nil && !end {
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if done != nil {
		close(done.done)
	}
	if j != nil || end {
		return j
	}

	if j := c.park(); j != nil {
		return j
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.idle, c); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
		return nil
	}
	if c.place != placeLeaving {
		p.unshift(<-c.work) // handed over just as the connection ended
	}
	return nil
}

// hasWaiting tells whether a job waits for a connection.
func (p *pool) hasWaiting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) > 0
}

// offerNext takes the job that waits longest, for a connection that can send its head early. It returns nil if the job does not
// fit, or if there are more connections than configured.
func (p *pool) offerNext(fits func(*job) bool) *job {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.surplus() || len(p.waiting) == 0 || !fits(p.waiting[0]) {
		return nil
	}
	return p.pop()
}

// allowWithdraw lets the caller of a job whose head left early withdraw it while the connection is busy with the message
// before. The connection must not touch the job until takeOffered.
func (p *pool) allowWithdraw(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cause := j.ctx.Err(); cause != nil { // its caller may have tried in vain to withdraw it
		j.state = jobGone
		_, _ = j.finish(gaveUp(StageDial, fmt.Errorf("waiting for a connection: %w", cause)))
		close(j.done)
		return
	}
	j.state = jobOffered
}

// takeOffered gives a job whose head left early to the connection. It returns false if the caller withdrew the job.
func (p *pool) takeOffered(j *job) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.state == jobGone {
		return false
	}
	j.state = jobTaken
	return true
}

// pop removes the oldest job. The caller holds mu.
func (p *pool) pop() *job {
	if len(p.waiting) == 0 {
		return nil
	}
	j := p.waiting[0]
	p.waiting[0] = nil
	if p.waiting = p.waiting[1:]; len(p.waiting) == 0 {
		p.waiting = nil
	}
	j.state = jobTaken
	return j
}

// requeue puts a job that a connection could not serve back in front.
func (p *pool) requeue(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unshift(j)
}

// unshift is requeue for a caller that holds mu. A job whose context is done ends here: its caller waits for nothing else.
func (p *pool) unshift(j *job) {
	switch {
	case j.state == jobGone:
	case j.ctx.Err() != nil:
		j.fail(gaveUp(StageDial, fmt.Errorf("waiting for a connection: %w", j.ctx.Err())))
		close(j.done)
	case p.closed:
		j.fail(notSent(StageDial, ErrClosed))
		close(j.done)
	default:
		p.enqueue(j, 0)
	}
}

// withdraw takes a job back because of cause, unless a connection works on it or it is done. It returns the error of the job,
// or nil if it was not taken back.
func (p *pool) withdraw(j *job, cause error) *Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := gaveUp(StageDial, fmt.Errorf("waiting for a connection: %w", cause))
	if e.Class == ClassTransient && !p.lastDialOK {
		e.Class = ClassUnreachable
	}
	switch j.state {
	case jobWaiting:
		i := slices.Index(p.waiting, j)
		if i < 0 {
			return nil // it has just been failed
		}
		p.waiting = slices.Delete(p.waiting, i, i+1)
	case jobOffered:
	default:
		return nil
	}
	j.state = jobGone
	return e
}

func (p *pool) close() {
	p.mu.Lock()
	if !p.closed {
		p.closed = true
		close(p.closing)
		for _, j := range p.waiting {
			j.fail(notSent(StageDial, ErrClosed))
			close(j.done)
		}
		p.waiting = nil
		if p.redial != nil {
			p.redial.Stop()
		}
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *pool) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed
}
