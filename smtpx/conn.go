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
	// maxFlight is the most recipients of one transaction. Every server takes 100 (RFC 5321 §4.5.3.1.8). The replies to so many
	// commands fit the queue of the reader: neither side can block the other for good (RFC 2920 §3.1).
	maxFlight = 100
	// blockSize is the number of octets of one write within a body.
	blockSize = 64 << 10
	// lingering is how long the reader waits, after a failed write, for a verdict that may be on its way.
	lingering = time.Second
	// quitGrace is how long a connection that says QUIT keeps its place in the pool.
	quitGrace = 250 * time.Millisecond
)

// conn is a session in use. The goroutine of serve writes and decides. A second goroutine reads replies. It therefore notices a
// server that hangs up or speaks unasked.
type conn struct {
	*session
	pool *pool

	work    chan *job    // hands a job to a parked connection
	replies chan inbound // from the reader
	done    chan struct{}
	ended   chan struct{} // closed when the reader has ended

	timer     *time.Timer
	buf       []byte
	born      time.Time
	lastUsed  time.Time
	flown     time.Time // when the last flight left
	sent      int       // messages begun
	carried   int       // messages accepted
	messages  int       // the most messages, as far as is known
	maxAge    time.Duration
	state     connState
	place     connPlace // in the pool; guarded by pool.mu
	used      bool      // it began a message, or waited for one: its end says nothing about the relay
	rcptMax   int       // the most recipients per transaction, as far as is known
	domainMax int       // the most domains among them, 0 for any number
}

// connState says what may be sent.
type connState int

const (
	connReady connState = iota // any command
	connDirty                  // RSET: a transaction is open that will not be finished
	connDead                   // nothing: it is closed, out of step, or told to close
)

// connPlace says how the pool counts a connection.
type connPlace int

const (
	placeDialing connPlace = iota // it has not asked for a job yet
	placeOpen
	placeLeaving // it ends because it is one too many
	placeNone    // it is not counted any more
)

// dead tells whether nothing may be sent any more.
func (c *conn) dead() bool { return c.state == connDead }

// settle changes the state of a connection that is not dead.
func (c *conn) settle(state connState) {
	if c.state != connDead {
		c.state = state
	}
}

// inbound is a reply, or the error that ended the stream of replies.
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
		ended:   make(chan struct{}),
		timer:   time.NewTimer(time.Hour),
		rcptMax: maxFlight,
	}
	c.timer.Stop()
	c.takeLimits()
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

// takeLimits takes the limits of the pool, of the profile, and of the server's LIMITS (RFC 9422).
func (c *conn) takeLimits() {
	// The limits of connections that were opened together must not end them together.
	c.messages = c.pool.messageLimit()
	c.messages -= rand.IntN(c.messages/10 + 1)              //nolint:gosec // jitter
	c.maxAge = c.relay.MaxAge - rand.N(c.relay.MaxAge/10+1) //nolint:gosec // jitter
	c.rcptMax = min(c.rcptMax, c.pool.recipientLimit())
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

// readReplies is the goroutine that reads. A refusal whose end is missing or too long is a verdict all the same; the error
// follows it.
func (c *conn) readReplies() {
	defer close(c.ended)
	for {
		r, err := c.readReply()
		if r.Code != 0 {
			c.logReply(r, false)
			if !c.deliver(inbound{reply: r}) {
				return
			}
		}
		if err != nil {
			c.deliver(inbound{err: err})
			return
		}
	}
}

func (c *conn) deliver(in inbound) bool {
	select {
	case c.replies <- in:
		return true
	case <-c.done:
		return false
	}
}

// serve sends jobs until the connection is used up.
func (c *conn) serve() {
	t := c.next(nil)
	for t != nil {
		next := c.run(t)
		if t.early {
			c.relay.early.undecided()
		}
		j := t.job
		if j.todo = t.left(); len(j.todo) == 0 {
			t = c.after(j, next)
			continue
		}
		// The transaction had no room for some recipients, or nothing was sent at all.
		c.giveBack(next)
		if c.state == connDirty {
			c.reset()
		}
		if c.dead() || c.usedUp() {
			c.pool.requeue(j)
			return
		}
		if t = c.begin(j); t == nil {
			t = c.next(j)
		}
	}
}

// after goes on from a job that is done.
func (c *conn) after(j *job, next *transaction) *transaction {
	if next == nil && c.state != connDirty {
		return c.next(j)
	}
	close(j.done) // its caller need not wait for what follows
	if c.state == connDirty {
		c.reset()
	}
	if t := c.takeOffered(next); t != nil {
		return t
	}
	return c.next(nil)
}

// takeOffered makes the message whose head left early the current one. It returns nil if there is none, the caller withdrew
// it, or the connection ended meanwhile.
func (c *conn) takeOffered(t *transaction) *transaction {
	if t == nil || (!c.dead() && c.pool.takeOffered(t.job)) {
		return t
	}
	c.giveBack(t)
	return nil
}

// giveBack ends the connection of a message whose head left early, if there is one, and will not be followed by the rest. Nothing
// of it was sent then, and another connection takes it unless the caller withdrew it.
func (c *conn) giveBack(t *transaction) {
	if t == nil {
		return
	}
	if !c.dead() {
		c.cut() // DATA was asked for, and there is nothing to send
	}
	if c.pool.takeOffered(t.job) {
		t.job.todo = append(t.rcpts, t.job.todo...)
		c.pool.requeue(t.job)
	}
	c.relay.early.undecided()
}

// next reports a job that is done, if any, waits for another and begins its transaction. It returns nil when the connection
// should end.
func (c *conn) next(done *job) *transaction {
	for {
		if c.dead() || c.usedUp() {
			if done != nil {
				close(done.done)
			}
			return nil
		}
		j := c.pool.take(c, done)
		if j == nil {
			return nil
		}
		in := c.pending()
		if in != nil && c.used {
			c.relay.early.restart()
			c.pool.requeue(j)
			return nil
		}
		t := c.begin(j)
		if t != nil && in == nil {
			return t
		}
		if t != nil {
			c.endAtOnce(t, in)
		}
		done = j
	}
}

// endAtOnce fails a job whose new connection ended, or got out of step, before the first command. Another connection would
// probably fail, too. The caller decides whether to try again.
func (c *conn) endAtOnce(t *transaction, in *inbound) {
	var e *Error
	switch {
	case in.err != nil:
		e = &Error{Stage: StageMail, Class: ClassTransient, Err: plainIO(in.err)}
	case in.reply.Code >= 400:
		e = c.refused(StageMail, in.reply)
		c.pool.learn(c, e)
	default:
		e = &Error{Stage: StageMail, Class: ClassTransient, Reply: c.scrub(in.reply), Err: errors.New("reply without a command")}
	}
	t.abandon(e)
}

// reset clears a transaction that was begun and will not be finished.
func (c *conn) reset() {
	c.settle(connReady)
	c.logSent("RSET")
	if _, err := c.write(context.Background(), []byte("RSET\r\n")); err != nil {
		return
	}
	if r, err := c.await(context.Background(), c.relay.Timeouts.Mail); err != nil || !r.Positive() || closes(r.Code) {
		c.state = connDead
	}
}

// park waits for a job. It returns nil when the connection should end. That is when it was idle for too long, the pool closes or
// wants fewer connections, or the server spoke or hung up.
func (c *conn) park() *job {
	c.timer.Reset(min(c.pool.idleLimit(), max(0, time.Until(c.born.Add(c.maxAge)))))
	defer c.timer.Stop()
	c.used = true
	select {
	case j := <-c.work:
		return j
	case in := <-c.replies:
		c.state = connDead
		c.pool.hungUp(c, c.scrub(in.reply))
	case <-c.timer.C:
	case <-c.pool.closing:
	}
	return nil
}

// pending returns a reply that came without a command, or the end of the stream, or nil if nothing came. A connection with
// something pending is dead. The call costs no round trip.
func (c *conn) pending() *inbound {
	select {
	case in := <-c.replies:
		c.state = connDead
		return &in
	default:
		return nil
	}
}

// usedUp reports that the connection has served enough messages or time.
func (c *conn) usedUp() bool {
	return c.sent >= c.messages || time.Since(c.born) >= c.maxAge
}

// end closes the connection and waits for the reader. If the connection is in step, end says QUIT first and ignores the reply.
// The connection gives up its place in the pool if the reply takes long.
func (c *conn) end() {
	if !c.dead() {
		_ = c.raw.SetWriteDeadline(time.Now().Add(c.relay.Timeouts.Quit))
		c.logSent("QUIT")
		if _, err := c.nc.Write([]byte("QUIT\r\n")); err == nil {
			grace := min(quitGrace, c.relay.Timeouts.Quit)
			r, err := c.await(context.Background(), grace)
			if errors.Is(err, errTimeout) {
				c.pool.release(c)
				r, err = c.await(context.Background(), c.relay.Timeouts.Quit-grace)
			}
			if err == nil && r.Positive() {
				_ = c.nc.Close() // with TLS's close_notify, which a server that is in step takes
			}
		}
	}
	_ = c.raw.Close()
	close(c.done)
	<-c.ended
	c.timer.Stop()
	if f := c.relay.Observer.Closed; f != nil {
		f(Closed{Host: c.relay.addr, Connection: c.number, Messages: c.sent, Duration: time.Since(c.born), Lost: c.dead()})
	}
}

// cut ends a connection inside DATA. Octets that are still on this machine must not leave it, and nothing may follow.
func (c *conn) cut() {
	c.state = connDead
	c.sever()
}

// sever closes the transport and drops what it has not sent yet. Any goroutine may call it.
func (c *conn) sever() {
	raw := c.raw
	if t, ok := raw.(*tls.Conn); ok { // to a proxy
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.raw.Close()
}

// await takes the next reply off the queue. It waits for at most limit, and until ctx is done.
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

// write sends one flight. It stops in the middle when ctx is done: a flight with a final dot needs a context that never is.
func (c *conn) write(ctx context.Context, p []byte) (int, error) {
	_ = c.raw.SetWriteDeadline(time.Now().Add(c.relay.Timeouts.Block))
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, c.sever)
		defer stop()
	}
	c.flown = time.Now()
	n, err := c.nc.Write(p)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		c.state = connDead
	}
	return n, err
}

// lastWords looks for a refusal after a write failed: a server that hangs up has often said why. It returns nil if there is
// none.
func (c *conn) lastWords(stage Stage, cause error) *Error {
	if errors.Is(cause, context.Canceled) || errors.Is(cause, os.ErrDeadlineExceeded) {
		return nil
	}
	c.timer.Reset(lingering)
	defer c.timer.Stop()
	var in inbound
	select {
	case in = <-c.replies:
	case <-c.timer.C:
	case <-c.ended: // nothing more will come
		select {
		case in = <-c.replies:
		default:
		}
	}
	if in.err != nil || in.reply.Code < 400 {
		return nil
	}
	return c.refused(stage, in.reply)
}
