package smtpx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// errTimeout is the error of a wait that passed its limit.
var errTimeout = fmt.Errorf("no reply: %w", os.ErrDeadlineExceeded)

const (
	// maxFlight is the most recipients of one transaction: every server takes 100 (RFC 5321 §4.5.3.1.8), and the replies to
	// so many commands fit the queue of the reader, so that neither side can block the other for good (RFC 2920 §3.1).
	maxFlight = 100
	// blockSize is the size of a write within a body.
	blockSize = 64 << 10
	// lingering is how long a verdict is waited for after a write failed: it may have been on its way.
	lingering = time.Second
)

// conn is a session in use. One goroutine, that of serve, writes and decides; another reads replies, and so notices a
// server that hangs up or speaks up while nothing is going on.
type conn struct {
	*session
	pool *pool

	work    chan *job    // hands a job to a parked connection
	replies chan inbound // from the reader
	done    chan struct{}
	read    chan struct{} // closed when the reader has ended

	timer     *time.Timer
	buf       []byte
	born      time.Time
	lastUsed  time.Time
	flown     time.Time // when the last flight left
	sent      int       // messages begun
	messages  int       // the most messages, as far as is known
	maxAge    time.Duration
	fresh     bool // it has not asked for a job yet; guarded by pool.mu
	leaving   bool // it ends because it is one too many; guarded by pool.mu
	waited    bool // it was without work once
	dead      bool // out of step, closed, or told to be: not to be used again
	dirty     bool // a transaction is open that will not be finished: RSET is due
	rcptMax   int  // the most recipients per transaction, as far as is known
	domainMax int  // the most domains among them, 0 for any number
}

// inbound is a reply, or the error with which the stream of replies ended.
type inbound struct {
	reply Reply
	err   error
}

func newConn(s *session, p *pool) *conn {
	c := &conn{
		session: s,
		pool:    p,
		work:    make(chan *job, 1),
		replies: make(chan inbound, maxFlight+8),
		done:    make(chan struct{}),
		read:    make(chan struct{}),
		timer:   time.NewTimer(time.Hour),
		rcptMax: maxFlight,
		fresh:   true,
	}
	c.timer.Stop()
	c.announcedLimits()
	c.born = time.Now()
	c.lastUsed = c.born
	if f := c.relay.Observer.Opened; f != nil {
		o := Opened{Host: c.relay.addr, Connection: c.number, Mechanism: c.mech}
		if c.tls != nil {
			o.TLS, o.Resumed = tls.VersionName(c.tls.Version), c.tls.DidResume
		}
		for _, step := range c.steps {
			o.Duration += step.Duration
		}
		f(o)
	}
	go c.readReplies()
	return c
}

// announcedLimits takes the limits that the server gives in EHLO (RFC 9422), and the profile's.
func (c *conn) announcedLimits() {
	// The limits of connections that were opened together must not end them together.
	c.messages = c.pool.messageLimit()
	c.messages -= rand.IntN(c.messages/10 + 1)              //nolint:gosec // jitter
	c.maxAge = c.relay.MaxAge - rand.N(c.relay.MaxAge/10+1) //nolint:gosec // jitter
	if f := c.relay.profile.Recipients; f.Sure() {
		c.rcptMax = min(c.rcptMax, f.Value)
	}
	for limit := range strings.FieldsSeq(c.ext["LIMITS"]) {
		name, value, _ := strings.Cut(limit, "=")
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 {
			continue
		}
		switch strings.ToUpper(name) {
		case "MAILMAX":
			c.messages = min(c.messages, n)
		case "RCPTMAX":
			c.rcptMax = min(c.rcptMax, n)
		case "RCPTDOMAINMAX":
			c.domainMax = n
		}
	}
}

func (c *conn) readReplies() {
	defer close(c.read)
	for {
		r, err := readReply(c.br)
		if err == nil {
			c.heard(r, false)
		}
		select {
		case c.replies <- inbound{r, err}:
		case <-c.done:
			return
		}
		if err != nil {
			return
		}
	}
}

// serve sends jobs until the connection is used up, then ends it.
func (c *conn) serve() {
	defer c.end()
	t := c.next(nil)
	for t != nil {
		rider := c.run(t)
		j := t.job
		if j.todo = t.left(); len(j.todo) == 0 {
			t = c.after(j, rider)
			continue
		}
		// There are recipients that the transaction had no room for, or nothing was sent at all.
		if c.dirty && !c.dead {
			c.reset()
		}
		if c.dead || c.usedUp() {
			c.pool.requeue(j)
			return
		}
		if t = c.begin(j); t == nil {
			t = c.next(j)
		}
	}
}

// after goes on from a job that is done.
func (c *conn) after(j *job, rider *transaction) *transaction {
	if rider == nil && !c.dirty {
		return c.next(j)
	}
	close(j.done) // its caller need not wait for what follows
	if c.dirty && !c.dead {
		c.reset()
	}
	if t := c.board(rider); t != nil {
		return t
	}
	return c.next(nil)
}

// board makes the message whose head rode behind the last dot the current one. It returns nil if there is none, or it was
// withdrawn, or the connection ended meanwhile: then nothing of it was sent, and another connection may take it.
func (c *conn) board(rider *transaction) *transaction {
	switch {
	case rider == nil:
		return nil
	case !c.pool.board(rider.job):
		c.cut() // DATA was asked for, and there is nothing to say
		return nil
	case c.dead:
		rider.job.todo = append(rider.rcpts, rider.job.todo...)
		c.pool.requeue(rider.job)
		return nil
	}
	return rider
}

// next reports a job that is done, if any, waits for another and begins its transaction. It returns nil when the connection
// should end.
func (c *conn) next(done *job) *transaction {
	for {
		if c.dead || c.usedUp() {
			if done != nil {
				close(done.done)
			}
			return nil
		}
		j := c.pool.take(c, done)
		if j == nil {
			return nil
		}
		in := c.unsolicited()
		if in != nil && c.kept() {
			c.pool.requeue(j)
			return nil
		}
		t := c.begin(j)
		if t != nil && in == nil {
			return t
		}
		if t != nil {
			c.unwelcome(t, in)
		}
		done = j
	}
}

// unwelcome ends a job whose connection was ended, or got out of step, as soon as it had come about. Another one would hardly
// fare better: it is for the caller to try again.
func (c *conn) unwelcome(t *transaction, in *inbound) {
	var e *Error
	switch {
	case in.err != nil:
		e = &Error{Stage: StageMail, Class: ClassTransient, Err: plainIO(in.err)}
	case in.reply.Code >= 400:
		e = refusal(c.relay.profile, StageMail, in.reply)
		c.pool.learn(c, e)
	default:
		e = &Error{Stage: StageMail, Class: ClassTransient, Reply: in.reply, Err: errors.New("reply without a command")}
	}
	t.abandon(e)
}

// reset clears a transaction that was begun and will not be finished.
func (c *conn) reset() {
	c.dirty = false
	c.said("RSET")
	if _, err := c.write(context.Background(), []byte("RSET\r\n")); err != nil {
		return
	}
	if r, err := c.await(context.Background(), c.relay.Timeouts.Mail); err != nil || !r.Positive() {
		c.dead = true
	}
}

// park waits for a job. It returns nil when the connection should end: it was idle too long, the pool closes or wants fewer,
// or the server spoke or hung up.
func (c *conn) park() *job {
	c.timer.Reset(min(c.pool.idleLimit(), max(0, time.Until(c.born.Add(c.maxAge)))))
	defer c.timer.Stop()
	c.waited = true
	select {
	case j := <-c.work:
		return j
	case in := <-c.replies:
		c.dead = true
		c.pool.hungUp(c, in.reply)
	case <-c.timer.C:
	case <-c.pool.closing:
	}
	return nil
}

// unsolicited tells what the server said while nothing was asked, its hanging up included: nil for nothing. It costs no round
// trip.
func (c *conn) unsolicited() *inbound {
	select {
	case in := <-c.replies:
		c.dead = true
		return &in
	default:
		return nil
	}
}

// kept tells whether the connection is an old one by the time that a job comes: that it is at its end then says nothing about
// the relay, and the job may go on another.
func (c *conn) kept() bool { return c.sent > 0 || c.waited }

// usedUp reports that the connection has served enough messages or time.
func (c *conn) usedUp() bool {
	return c.sent >= c.messages || time.Since(c.born) >= c.maxAge
}

// end closes the connection and waits for the reader. One that is in step says QUIT, and what the server makes of it is of
// no interest.
func (c *conn) end() {
	if !c.dead {
		_ = c.raw.SetWriteDeadline(time.Now().Add(c.relay.Timeouts.Quit))
		c.said("QUIT")
		if _, err := c.nc.Write([]byte("QUIT\r\n")); err == nil {
			if r, err := c.await(context.Background(), c.relay.Timeouts.Quit); err == nil && r.Positive() {
				_ = c.nc.Close() // with TLS's close_notify, which a server that is in step takes
			}
		}
	}
	_ = c.raw.Close()
	close(c.done)
	<-c.read
	c.timer.Stop()
	if f := c.relay.Observer.Closed; f != nil {
		f(Closed{Host: c.relay.addr, Connection: c.number, Messages: c.sent, Duration: time.Since(c.born), Lost: c.dead})
	}
}

// cut ends a connection inside DATA: whatever has not left the machine must not leave it, and nothing may follow.
func (c *conn) cut() {
	c.dead = true
	if t, ok := c.raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.raw.Close()
}

// await takes the next reply off the queue.
func (c *conn) await(ctx context.Context, limit time.Duration) (Reply, error) {
	select {
	case in := <-c.replies:
		return in.reply, in.err
	default:
	}
	c.timer.Reset(limit)
	defer c.timer.Stop()
	select {
	case in := <-c.replies:
		return in.reply, in.err
	case <-ctx.Done():
		return Reply{}, ctx.Err()
	case <-c.timer.C:
		return Reply{}, errTimeout
	}
}

// write sends one flight. When ctx is done it stops in the middle, so that it must not hold a final dot unless ctx cannot
// be done.
func (c *conn) write(ctx context.Context, p []byte) (int, error) {
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.relay.Timeouts.Block))
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, func() { _ = c.raw.Close() })
		defer stop()
	}
	c.flown = time.Now()
	n, err := c.nc.Write(p)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		c.dead = true
	}
	return n, err
}

// verdict is asked after a write failed: a server that hangs up has often said why. It is nil if there was no refusal.
func (c *conn) verdict(stage Stage, cause error) *Error {
	if errors.Is(cause, context.Canceled) || errors.Is(cause, os.ErrDeadlineExceeded) {
		return nil
	}
	c.timer.Reset(lingering)
	defer c.timer.Stop()
	var in inbound
	select {
	case in = <-c.replies:
	case <-c.timer.C:
	case <-c.read: // nothing more will come
		select {
		case in = <-c.replies:
		default:
		}
	}
	if in.err != nil || in.reply.Code < 400 {
		return nil
	}
	return refusal(c.relay.profile, stage, in.reply)
}
