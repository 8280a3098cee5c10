package smtpx

import (
	"slices"
	"time"
)

// limits are what a pool keeps to: the configuration's, narrowed by what the server was found to allow. The pool's mutex
// guards them.
type limits struct {
	conns    int           // connections at a time
	messages int           // messages of one connection
	idle     time.Duration // of a connection without work

	narrowed time.Time // when conns was last changed
}

// recovery is how long the server must be content with fewer connections before one more is tried.
const recovery = 10 * time.Minute

// minIdle is the shortest idle time worth learning: a server that hangs up at once does so for another reason.
const minIdle = time.Second

// maxConns is the present limit. It recovers step by step. The caller holds mu.
func (p *pool) maxConns() int {
	if p.limits.conns < p.wanted && time.Since(p.limits.narrowed) >= recovery {
		p.limits.conns++
		p.limits.narrowed = time.Now()
	}
	return p.limits.conns
}

// setConns changes the limit that the caller wants. One that was learnt stays where it is narrower.
func (p *pool) setConns(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.limits.conns == p.wanted || n < p.limits.conns {
		p.limits.conns = n
	}
	p.wanted = n
	for len(p.idle) > 0 && p.surplus() {
		c := p.idle[0] // the longest idle
		p.idle = slices.Delete(p.idle, 0, 1)
		p.leave(c)
		c.work <- nil
	}
	p.grow()
}

// surplus reports that there are more connections than the caller wants, those that are about to end not counted. The caller
// holds mu.
func (p *pool) surplus() bool { return p.open-p.leaving > p.wanted }

// leave notes that a connection will end because it is one too many. The caller holds mu.
func (p *pool) leave(c *conn) {
	c.leaving = true
	p.leaving++
}

// learnConns takes it that the server allows no more than n connections for now. The caller holds mu.
func (p *pool) learnConns(n int, r Reply) {
	n = max(1, n)
	p.limits.narrowed = time.Now()
	if n < p.limits.conns {
		p.limits.conns = n
		p.tell(EffectConnectionCap, n, r)
	}
}

// learn takes what a refusal on connection c says about the server.
func (p *pool) learn(c *conn, e *Error) {
	p.mu.Lock()
	defer p.announce()
	defer p.mu.Unlock()
	switch e.effect {
	case EffectSessionCap:
		if n := c.sent - 1; n >= 1 && n < p.limits.messages {
			p.limits.messages = n
			p.tell(EffectSessionCap, n, e.Reply)
		}
	case EffectConnectionCap:
		p.learnConns(p.open-1, e.Reply)
	case EffectIdleLimit:
		p.learnIdle(time.Since(c.lastUsed), e.Reply)
	case EffectRate, EffectLogin: // what to do about them is the caller's decision
	}
}

// learnIdle takes it that the server ends connections that were idle for d. The caller holds mu.
func (p *pool) learnIdle(d time.Duration, r Reply) {
	if limit := d * 4 / 5; limit >= minIdle && limit < p.limits.idle {
		p.limits.idle = limit
		p.tell(EffectIdleLimit, int(limit.Seconds()), r)
	}
}

// tell keeps news for the observer until announce is called. The caller holds mu.
func (p *pool) tell(effect Effect, value int, r Reply) {
	if p.relay.Observer.Learned != nil {
		p.news = append(p.news, Learned{Host: p.relay.addr, Effect: effect, Value: value, Reply: r})
	}
}

// announce tells the observer the news. The caller does not hold mu: the observer may ask the client.
func (p *pool) announce() {
	p.mu.Lock()
	news := p.news
	p.news = nil
	p.mu.Unlock()
	for _, l := range news {
		p.relay.Observer.Learned(l)
	}
}

// idleLimit and messageLimit are what connections keep to.
func (p *pool) idleLimit() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits.idle
}

func (p *pool) messageLimit() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits.messages
}

// hungUp notes that the server ended connection c while it was idle.
func (p *pool) hungUp(c *conn, r Reply) {
	p.mu.Lock()
	defer p.announce()
	defer p.mu.Unlock()
	p.learnIdle(time.Since(c.lastUsed), r)
}

// Stats are the numbers of a pool at one moment.
type Stats struct {
	// Open counts the connections, those being dialled included; Dialing and Idle are parts of it.
	Open, Dialing, Idle int
	// Waiting counts the calls of Send without a connection.
	Waiting int
	// MaxConns, MaxMessages and IdleLimit are the limits in force, learnt ones included.
	MaxConns, MaxMessages int
	IdleLimit             time.Duration
}

// Stats returns the present numbers.
func (c *Client) Stats() Stats {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	return Stats{
		Open: p.open, Dialing: p.dialing, Idle: len(p.idle), Waiting: len(p.waiting),
		MaxConns: p.limits.conns, MaxMessages: p.limits.messages, IdleLimit: p.limits.idle,
	}
}
