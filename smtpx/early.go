package smtpx

import (
	"strings"
	"sync"
	"time"
)

// An early head is the MAIL, RCPT and DATA of the next message, sent right after the final dot of the current message, before
// the reply to that dot (RFC 2920 §3.1). It saves a round trip for each message. Some servers that offer PIPELINING do not
// support it. They discard it, answer 503, or die before they answer the dot, which leaves accepted mail in doubt. The client
// therefore tries early heads only after kept connections have carried earlyAfter messages, and stops them for earlyPause after
// one failed.

const (
	// earlyAfter is the number of messages that kept connections must carry before the first early head is tried.
	earlyAfter = 16
	// earlyPause is how long no early head is sent after one did harm.
	earlyPause = 3 * 24 * time.Hour
	// earlyHead is the most octets of one. Haraka hangs up on more than 8 KiB behind a dot.
	earlyHead = 4 << 10
	// firstWait and earlyWait are the longest waits for the reply to the MAIL of the first early head and of a later one.
	// restWait is the longest wait for RCPT and DATA of the first one. The server has discarded a command that it has not
	// answered by then.
	firstWait = 2 * time.Second
	earlyWait = 10 * time.Second
	restWait  = 30 * time.Second
)

// earlyUnsafe lists servers that tell their name in the greeting and do not take early heads.
var earlyUnsafe = []string{
	"haraka",   // connection.js, awaiting_data_reply: 503 since 3.3.4
	"chasquid", // internal/smtpsrv/conn.go: DATA is read through a buffer of its own
	"dovecot",  // smtp-server-transaction.c: the submission service dies of a pending RCPT
}

// earlyState says whether a relay takes early heads.
type earlyState int

const (
	earlyUntried earlyState = iota
	earlyOnTrial            // the first one is under way
	earlyTaken
	earlyRefused
)

// earlyHeads keeps what is known of a relay. All its connections share it.
type earlyHeads struct {
	mu      sync.Mutex
	state   earlyState
	carried int       // messages that kept connections carried since the start or the last loss
	until   time.Time // the end of earlyRefused
}

// ask tells whether a connection may send an early head now. Only one connection sends the first early head, and only after it
// carried a message.
func (e *earlyHeads) ask(kept bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == earlyRefused && !time.Now().Before(e.until) {
		e.state, e.carried = earlyUntried, 0
	}
	if e.state == earlyUntried && e.carried >= earlyAfter && kept {
		e.state = earlyOnTrial
		return true
	}
	return e.state == earlyTaken
}

// count notes a message that a kept connection carried.
func (e *earlyHeads) count() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == earlyUntried {
		e.carried++
	}
}

// restart notes that the server ended a connection that had just carried a message.
func (e *earlyHeads) restart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.carried = 0
}

// take notes that the server answered an early head as it should.
func (e *earlyHeads) take() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == earlyOnTrial {
		e.state = earlyTaken
	}
}

// refuse notes that an early head was not taken, or did harm.
func (e *earlyHeads) refuse() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state, e.until = earlyRefused, time.Now().Add(earlyPause)
}

// undecided notes that a trial ended without a result.
func (e *earlyHeads) undecided() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state == earlyOnTrial {
		e.state = earlyUntried
	}
}

// onTrial tells whether the first early head is under way.
func (e *earlyHeads) onTrial() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.state == earlyOnTrial
}

// wait returns how long the reply to a command of an early head may take, at most limit.
func (e *earlyHeads) wait(stage Stage, limit time.Duration) time.Duration {
	switch trial := e.onTrial(); {
	case trial && stage == StageMail:
		return min(limit, firstWait)
	case trial:
		return min(limit, restWait)
	case stage == StageMail:
		return min(limit, earlyWait)
	}
	return limit
}

// takesEarlyHeads tells whether an early head may leave on this connection.
func (c *conn) takesEarlyHeads() bool {
	if c.relay.profile.Quirk(QuirkHangsUp) {
		return false
	}
	greeting := strings.ToLower(c.banner.Text())
	for _, name := range earlyUnsafe {
		if strings.Contains(greeting, name) {
			return false
		}
	}
	return c.relay.early.ask(c.carried > 0)
}

// appendEarlyHead appends to c.buf the head of the next message that waits, and returns its transaction. It returns nil when no
// message waits, the connection may not serve another, or the server is not known to take early heads.
func (c *conn) appendEarlyHead() *transaction {
	if c.usedUp() || !c.pool.hasWaiting() || !c.takesEarlyHeads() {
		return nil
	}
	for !c.usedUp() {
		j := c.pool.offerNext(func(j *job) bool { return j.headSize() <= earlyHead })
		if j == nil {
			break
		}
		if t := c.begin(j); t != nil {
			t.early = true
			end := len(c.buf)
			c.buf = c.appendHead(c.buf, t)
			c.logFlight(c.buf[end:])
			j.commitEarly()
			c.pool.allowWithdraw(j)
			return t
		}
		close(j.done)
	}
	c.relay.early.undecided()
	return nil
}

// headSize returns an upper bound of the octets of MAIL, RCPT and DATA.
func (j *job) headSize() int {
	const verbs = len("MAIL FROM:<> SIZE=1234567890 BODY=8BITMIME SMTPUTF8 REQUIRETLS RET=FULL ENVID=\r\nDATA\r\n")
	const rcpt = len("RCPT TO:<> NOTIFY=DELAY,FAILURE,SUCCESS\r\n")
	n := verbs + len(j.from.text) + 3*len(j.env.DSN.ID)
	for _, i := range j.todo {
		n += rcpt + len(j.to[i].text)
		if i < len(j.env.DSN.Original) {
			n += len(" ORCPT=") + len(appendOriginal(nil, j.env.DSN.Original[i]))
		}
	}
	return n
}
