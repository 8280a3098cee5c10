package smtpx

import (
	"slices"
	"strings"
	"time"
)

// limits are those of a pool: the configured ones, narrowed by what the server showed. The pool's mutex guards them.
type limits struct {
	connections int       // at a time
	narrowed    time.Time // when connections was last changed

	messages   learnt[int]           // of one connection
	recipients learnt[int]           // of one transaction
	idle       learnt[time.Duration] // of a connection without work
}

func newLimits(r *relay) limits {
	return limits{
		connections: r.Connections,
		messages:    learnt[int]{configured: r.MaxMessages, value: r.MaxMessages},
		recipients:  learnt[int]{configured: maxFlight, value: maxFlight},
		idle:        learnt[time.Duration]{configured: r.Idle, value: r.Idle},
	}
}

const (
	// recovery is how long the server must accept the lower limit of connections before one more is tried.
	recovery = 10 * time.Minute
	// forget is how long a learnt limit holds after it was last seen.
	forget = time.Hour
	// minIdle is the shortest idle time worth learning. A server that hangs up at once has another reason.
	minIdle = time.Second
)

// learnt is a limit that narrows after the server has shown a narrower one twice. It returns to the configured value when the
// server no longer shows the limit.
type learnt[T ~int | ~int64] struct {
	configured, value T
	witness           T // what the last observation showed, 0 for none
	seen              time.Time
}

// observe takes the limit that one connection showed. It reports whether the limit in force changed.
func (l *learnt[T]) observe(v T) bool {
	first := l.witness
	l.witness = v
	if !agree(first, v) {
		return false
	}
	l.witness = max(first, v)
	l.seen = time.Now()
	if l.witness >= l.current() {
		return false
	}
	l.value = l.witness
	return true
}

// agree tells whether two observations are within a fifth of each other.
func agree[T ~int | ~int64](a, b T) bool {
	return a > 0 && b > 0 && (max(a, b)-min(a, b))*5 <= max(a, b)
}

// current returns the limit in force. After it expired, one observation that agrees with the last brings it back.
func (l *learnt[T]) current() T {
	if l.value < l.configured && time.Since(l.seen) >= forget {
		l.value = l.configured
	}
	return l.value
}

// maxConnections returns the present limit. It recovers step by step. The caller holds mu.
func (p *pool) maxConnections() int {
	if p.limits.connections < p.configured && time.Since(p.limits.narrowed) >= recovery {
		p.limits.connections++
		p.limits.narrowed = time.Now()
	}
	return p.limits.connections
}

// setConnections changes the limit that the caller wants. A narrower learnt limit stays in force.
func (p *pool) setConnections(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limits.connections == p.configured || n < p.limits.connections {
		p.limits.connections = n
	}
	p.configured = n
	for len(p.idle) > 0 && p.surplus() {
		c := p.idle[0] // the longest idle
		p.idle = slices.Delete(p.idle, 0, 1)
		p.leave(c)
		c.work <- nil
	}
	p.grow()
}

// surplus reports that there are more connections than the caller wants. Connections about to end do not count. The caller holds
// mu.
func (p *pool) surplus() bool { return p.open-p.leaving > p.configured }

// leave notes that a connection will end because it is one too many. The caller holds mu.
func (p *pool) leave(c *conn) {
	c.place = placeLeaving
	p.leaving++
}

// learnConnections notes that the server allows no more than n connections for now. The caller holds mu.
func (p *pool) learnConnections(n int, r Reply) {
	n = max(1, n)
	p.limits.narrowed = time.Now()
	if n < p.limits.connections {
		p.limits.connections = n
		p.record(Learned{Effect: EffectConnectionCap, Value: n, Reply: r})
	}
}

// learn narrows the limits by a refusal on connection c. A refusal about a rate or a login changes none of them: the caller of
// Send sees it in the class.
func (p *pool) learn(c *conn, e *Error) {
	p.mu.Lock()
	defer p.report()
	defer p.mu.Unlock()
	switch e.effect {
	case EffectSessionCap:
		if n := c.carried; n > 0 && p.limits.messages.observe(n) {
			p.record(Learned{Effect: EffectSessionCap, Value: n, Reply: e.Reply})
		}
	case EffectConnectionCap:
		p.learnConnections(p.open-1, e.Reply)
	case EffectIdleLimit:
		p.learnIdle(c, e.Reply)
	default:
	}
}

// learnRecipients notes that the server takes no more than n recipients in a transaction.
func (p *pool) learnRecipients(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits.recipients.observe(n)
}

// learnIdle notes that the server ended a connection that had no work since its last message. The caller holds mu.
//
// A server that shuts down ends all connections, however long they were idle. Several ends at one moment count once.
func (p *pool) learnIdle(c *conn, r Reply) {
	limit := time.Since(c.lastUsed) * 4 / 5
	if limit < minIdle || limit >= p.limits.idle.current() || shutsDown(r) || c.lastUsed.Before(p.idleSeen) {
		return
	}
	p.idleSeen = time.Now()
	if p.limits.idle.observe(limit) {
		limit = p.limits.idle.value
		p.record(Learned{Effect: EffectIdleLimit, Value: int(limit.Seconds()), Reply: r})
	}
}

// shutsDown tells whether a reply announces that the server shuts down, and not only that the connection ends.
func shutsDown(r Reply) bool {
	text := strings.ToLower(r.Text())
	return strings.HasSuffix(r.Enhanced, ".3.2") ||
		slices.ContainsFunc([]string{"shut", "restart", "reboot", "maintenance", "going down"},
			func(word string) bool { return strings.Contains(text, word) })
}

// record keeps a change until report is called. The caller holds mu.
func (p *pool) record(l Learned) {
	if p.relay.Observer.Learned != nil {
		l.Host = p.relay.addr
		p.learned = append(p.learned, l)
	}
}

// report passes the recorded changes to the observer. The caller does not hold mu: the observer may ask the client.
func (p *pool) report() {
	p.mu.Lock()
	learned := p.learned
	p.learned = nil
	p.mu.Unlock()
	for _, l := range learned {
		p.relay.Observer.Learned(l)
	}
}

// idleLimit returns how long a connection may be without work.
func (p *pool) idleLimit() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits.idle.current()
}

// messageLimit returns how many messages a connection may carry.
func (p *pool) messageLimit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits.messages.current()
}

// recipientLimit returns how many recipients a transaction may have.
func (p *pool) recipientLimit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits.recipients.current()
}

// usedUp notes that the server refused a further message on connection c.
func (p *pool) usedUp(c *conn, r Reply) {
	p.mu.Lock()
	defer p.report()
	defer p.mu.Unlock()
	if p.limits.messages.observe(c.carried) {
		p.record(Learned{Effect: EffectSessionCap, Value: c.carried, Reply: r})
	}
}

// hungUp notes that the server ended connection c while it was idle.
func (p *pool) hungUp(c *conn, r Reply) {
	if time.Since(c.lastUsed) < minIdle {
		p.relay.early.restart()
	}
	p.mu.Lock()
	defer p.report()
	defer p.mu.Unlock()
	p.learnIdle(c, r)
}

// Stats are the numbers of a pool at one moment.
type Stats struct {
	// Open counts the connections, those being dialled included. Dialing and Idle are parts of it.
	Open, Dialing, Idle int
	// Waiting counts the calls of Send without a connection.
	Waiting int
	// MaxConnections, MaxMessages and IdleLimit are the limits in force, learnt ones included.
	MaxConnections, MaxMessages int
	IdleLimit                   time.Duration
}

// Stats returns the present numbers.
func (c *Client) Stats() Stats {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{
		Open: p.open, Dialing: p.dialing, Idle: len(p.idle), Waiting: len(p.waiting),
		MaxConnections: p.limits.connections, MaxMessages: p.limits.messages.current(), IdleLimit: p.limits.idle.current(),
	}
}
