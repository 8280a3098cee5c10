package smtpx

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// transaction is one MAIL … final dot. It carries a job, or as many of its recipients as the server takes at a time.
type transaction struct {
	job      *job
	rcpts    []int // indexes of Envelope.To
	accepted []int // those answered with 2xx
	later    []int // those that another transaction must carry
	surplus  surplus
	mode     transferMode
	used     bool   // the connection carried a message, or waited for one, before
	early    bool   // MAIL, RCPT and DATA left behind the final dot of the message before
	answered bool   // the server answered a command of it
	stale    bool   // the server took nothing of it: all of it must go on another connection
	open     bool   // the server waits for the body
	complete bool   // the end of the body has left: only a reply tells the outcome
	closing  *Error // a 421 that came after the end of the body had left
}

// surplus describes recipients that may have been refused only because of the number of recipients before them.
type surplus struct {
	certain  bool // the server said so
	refused  int  // how many
	followed bool // the server accepted a recipient after one of them
}

type transferMode int

const (
	transferData   transferMode = iota // DATA, in the flight of MAIL where the server takes pipelining
	transferBDAT                       // BDAT (RFC 3030) after the verdicts on the recipients
	transferFlight                     // MAIL, RCPT and BDAT LAST in one flight
)

const (
	// flightBody is the largest body that leaves before the recipients are known to be accepted.
	flightBody = 128 << 10
	// flightWindow is how long after the server's last answer such a body may leave. If a dead connection takes a whole message,
	// its outcome is in doubt.
	flightWindow = 2 * time.Second
)

// begin compares the needs of a job with the offers of the server and picks its next recipients. It returns nil when no
// recipient is left.
func (c *conn) begin(j *job) *transaction {
	j.res.Host = c.relay.addr
	if j.began.IsZero() {
		j.began = time.Now()
	}
	if err := j.ctx.Err(); err != nil {
		j.fail(gaveUp(StageMail, err))
	}
	if err := c.admit(j); err != nil {
		j.fail(err)
	}
	if len(j.todo) == 0 {
		return nil
	}
	t := &transaction{job: j, used: c.used}
	t.rcpts, j.todo = c.share(j)
	if c.offers("CHUNKING") {
		t.mode = transferBDAT
		if c.offers("PIPELINING") && j.body.size() <= flightBody && time.Since(c.lastUsed) < flightWindow {
			t.mode = transferFlight
		}
	}
	c.used = true
	c.sent++
	return t
}

// share splits the recipients that are left into those of this transaction and the rest, both in their order. If only some
// recipients need SMTPUTF8 and nothing else in the message does, they get a separate transaction. The others must also pass
// hosts without it (RFC 6531 §3.2).
func (c *conn) share(j *job) (now, later []int) {
	n := min(len(j.todo), c.rcptMax)
	international := slices.ContainsFunc(j.todo, func(i int) bool { return j.to[i].utf8 }) && !j.from.utf8 && !j.body.hdr8
	if c.domainMax == 0 && !international {
		return j.todo[:n:n], j.todo[n:]
	}
	var domains []string
	for _, i := range j.todo {
		domain := j.to[i].domain()
		known := slices.Contains(domains, domain)
		switch {
		case len(now) == n, c.domainMax > 0 && !known && len(domains) == c.domainMax,
			international && len(now) > 0 && j.to[i].utf8 != j.to[now[0]].utf8:
			later = append(later, i)
			continue
		case !known:
			domains = append(domains, domain)
		}
		now = append(now, i)
	}
	return now, later
}

// admit refuses a job that needs an extension without an offer. A recipient that needs SMTPUTF8 fails alone.
func (c *conn) admit(j *job) *Error {
	refuse := func(text string, args ...any) *Error {
		return &Error{Stage: StageMail, Class: ClassMessage, Rule: "client.extension", Err: fmt.Errorf(text, args...)}
	}
	if limit := c.sizeLimit(); limit > 0 && j.body.size() > limit {
		return refuse("message of %d bytes is larger than the %d that the server takes", j.body.size(), limit)
	}
	if j.body.bit8 && !c.announced("8BITMIME") {
		return refuse("message has 8-bit content and the server does not offer 8BITMIME")
	}
	if j.env.RequireTLS && (c.tls == nil || !c.offers("REQUIRETLS")) {
		return &Error{Stage: StageMail, Class: ClassConfig, Rule: "client.extension", scope: ScopeMessage,
			Err: errors.New("message requires TLS on every hop, which the server does not offer (REQUIRETLS)")}
	}
	if c.offers("SMTPUTF8") {
		return nil
	}
	if j.from.utf8 {
		return refuse("sender needs SMTPUTF8, which the server does not offer")
	}
	if j.body.hdr8 {
		return refuse("message has a header outside ASCII, which needs SMTPUTF8, and the server does not offer it: encode names and " +
			"texts (RFC 2047); an address outside ASCII in To or Cc cannot be encoded and must leave the header")
	}
	todo := j.todo[:0:0]
	for _, i := range j.todo {
		if j.to[i].utf8 {
			j.res.Outcomes[i].Err = &Error{Stage: StageRcpt, Class: ClassRecipient, Rule: "client.extension",
				Err: errors.New("recipient needs SMTPUTF8, which the server does not offer")}
			continue
		}
		todo = append(todo, i)
	}
	j.todo = todo
	return nil
}

// left returns the recipients without an outcome.
func (t *transaction) left() []int {
	if t.stale {
		t.later = nil
		for _, i := range t.rcpts {
			if t.job.res.Outcomes[i].Err == nil {
				t.later = append(t.later, i)
			}
		}
	}
	return append(t.later, t.job.todo...)
}

// fail gives an error to the recipients of the transaction that were accepted or have no verdict.
func (t *transaction) fail(err *Error) {
	for _, i := range t.rcpts {
		if o := &t.job.res.Outcomes[i]; o.Err == nil && !o.Accepted {
			o.Err = err
		}
	}
	for _, i := range t.later {
		t.job.res.Outcomes[i].Err = nil
	}
	t.accepted = nil
}

// abandon fails all that is left of the job, other transactions included.
func (t *transaction) abandon(err *Error) {
	t.later = nil
	t.fail(err)
	t.job.fail(err)
}

// moveOn leaves the transaction to another connection. The server took nothing of it.
func (c *conn) moveOn(t *transaction) {
	c.state = connDead
	t.stale = true
	t.accepted = nil
}

// run carries out a transaction. If the head of the next transaction left behind the final dot, run returns that transaction.
// The connection may be dead by then; nothing of the next body was sent in that case.
func (c *conn) run(t *transaction) (next *transaction) {
	defer func() { c.lastUsed = time.Now() }()
	if t.mode == transferFlight {
		c.runFlight(t)
		return nil
	}
	if t.early || c.offers("PIPELINING") {
		c.leadPipelined(t)
	} else {
		c.leadLockstep(t)
	}
	if c.dead() {
		return nil
	}
	if len(t.accepted) == 0 || !c.commit(t) {
		if t.open {
			c.cut() // the server would read any command as a part of the body
		}
		return nil
	}
	if t.mode == transferBDAT {
		c.transferChunk(t)
		return nil
	}
	if !t.open {
		c.askData(t)
	}
	if !t.open {
		return nil
	}
	return c.transferData(t)
}

// appendMail appends the MAIL command of a transaction.
func (c *conn) appendMail(buf []byte, t *transaction) []byte {
	j := t.job
	buf = append(buf, "MAIL FROM:<"...)
	buf = append(buf, j.from.text...)
	buf = append(buf, '>')
	if c.offers("SIZE") {
		buf = append(buf, " SIZE="...)
		buf = strconv.AppendInt(buf, int64(j.body.size()), 10)
	}
	if j.body.bit8 && c.offers("8BITMIME") {
		buf = append(buf, " BODY=8BITMIME"...)
	}
	if c.needsUTF8(t) {
		buf = append(buf, " SMTPUTF8"...)
	}
	if j.env.RequireTLS {
		buf = append(buf, " REQUIRETLS"...)
	}
	if c.offers("DSN") {
		buf = j.env.DSN.appendMail(buf)
	}
	return append(buf, "\r\n"...)
}

// needsUTF8 tells whether MAIL must announce the transaction as internationalised (RFC 6531 §3.4).
func (c *conn) needsUTF8(t *transaction) bool {
	if !c.offers("SMTPUTF8") {
		return false
	}
	if t.job.from.utf8 || t.job.body.hdr8 {
		return true
	}
	for _, i := range t.rcpts {
		if t.job.to[i].utf8 {
			return true
		}
	}
	return false
}

func (c *conn) appendRcpt(buf []byte, t *transaction, i int) []byte {
	buf = append(buf, "RCPT TO:<"...)
	buf = append(buf, t.job.to[i].text...)
	buf = append(buf, '>')
	if c.offers("DSN") {
		buf = t.job.env.DSN.appendRcpt(buf, i)
	}
	return append(buf, "\r\n"...)
}

// appendHead appends the head of a transaction: MAIL, all RCPTs, and DATA in its mode.
func (c *conn) appendHead(buf []byte, t *transaction) []byte {
	buf = c.appendMail(buf, t)
	for _, i := range t.rcpts {
		buf = c.appendRcpt(buf, t, i)
	}
	if t.mode == transferData {
		buf = append(buf, "DATA\r\n"...)
	}
	return buf
}

// leadPipelined sends the head in one flight (RFC 2920), unless it left already, and reads all the verdicts.
func (c *conn) leadPipelined(t *transaction) {
	j := t.job
	if !t.early {
		c.buf = c.appendHead(c.buf[:0], t)
		c.logFlight(c.buf)
		if _, err := c.write(j.ctx, c.buf); err != nil {
			c.lost(t, StageMail, err)
			return
		}
	}
	if !c.readMail(t) && c.dead() {
		return
	}
	for _, i := range t.rcpts {
		if !c.readRcpt(t, i) {
			return
		}
	}
	c.learnRecipients(t)
	if t.mode == transferData {
		c.readData(t)
	}
}

// leadLockstep sends MAIL and each RCPT and waits for the reply to each.
func (c *conn) leadLockstep(t *transaction) {
	j := t.job
	c.buf = c.appendMail(c.buf[:0], t)
	c.logFlight(c.buf)
	if _, err := c.write(j.ctx, c.buf); err != nil {
		c.lost(t, StageMail, err)
		return
	}
	if !c.readMail(t) {
		return
	}
	for n, i := range t.rcpts {
		c.buf = c.appendRcpt(c.buf[:0], t, i)
		c.logFlight(c.buf)
		if _, err := c.write(j.ctx, c.buf); err != nil {
			c.lost(t, StageRcpt, err)
			return
		}
		if !c.readRcpt(t, i) {
			return
		}
		if t.surplus.certain { // the server takes no more: the rest is not tried
			t.later = append(t.later, t.rcpts[n+1:]...)
			break
		}
	}
	c.learnRecipients(t)
}

// learnRecipients keeps the number of recipients that the server takes in a transaction. A refusal that does not say "too many"
// counts only if several recipients were refused like this and none was accepted after the first of them. One full mailbox is no
// limit.
func (c *conn) learnRecipients(t *transaction) {
	if n := len(t.accepted); n > 0 && (t.surplus.certain || (t.surplus.refused > 1 && !t.surplus.followed)) {
		c.rcptMax = n
		c.pool.learnRecipients(n)
	}
}

// shrink sends a message again if it was refused because of too many recipients. The new transaction has as many recipients as
// were accepted. Exim's recipients_max_reject answers 552 to recipients beyond its limit, and 554 to the message. shrink returns
// false if the refusal has another reason.
func (c *conn) shrink(t *transaction, r Reply) bool {
	n := len(t.accepted)
	if t.surplus.refused == 0 || n == 0 || !r.Permanent() || closes(r.Code) || t.job.resized {
		return false
	}
	t.job.resized = true
	c.rcptMax = n
	c.pool.learnRecipients(n)
	t.stale, t.accepted = true, nil
	return true
}

// askData sends DATA by itself.
func (c *conn) askData(t *transaction) {
	c.logSent("DATA")
	if _, err := c.write(t.job.ctx, []byte("DATA\r\n")); err != nil {
		c.lost(t, StageData, err)
		return
	}
	c.readData(t)
}

// commit calls the hooks. It returns false if the message must not be sent now: a hook refused, the context is done, or the
// connection ended.
func (c *conn) commit(t *transaction) bool {
	j := t.job
	if err := j.ctx.Err(); err != nil {
		t.abandon(gaveUp(StageData, err))
		return false
	}
	if err := j.commit(); err != nil {
		t.abandon(notSent(StageData, fmt.Errorf("not sent: %w", err)))
		return false
	}
	if j.env.CommitAccepted != nil {
		if err := j.env.CommitAccepted(j.ctx, t.mayGetIt()); err != nil {
			t.abandon(notSent(StageData, fmt.Errorf("not sent: %w", err)))
			return false
		}
	}
	return !c.interrupted(t)
}

// mayGetIt returns the recipients that the body is about to leave for. These are all recipients if the body leaves together with
// the envelope.
func (t *transaction) mayGetIt() []int {
	if t.mode == transferFlight {
		return slices.Clone(t.rcpts)
	}
	return slices.Clone(t.accepted)
}

// outOfTurn tells whether a server refuses a command because it came before it was ready for it.
func outOfTurn(r Reply) bool {
	text := strings.ToLower(r.Text())
	return dialogueFault(r) || (r.Code == 554 && (strings.Contains(text, "pipelin") || strings.Contains(text, "synchroni")))
}

// dialogueFault tells whether a refusal speaks of the dialogue rather than of the mail (RFC 5321 §4.2.4, RFC 3463 §3.6): the
// command or a parameter of it is not known, or comes at the wrong time.
func dialogueFault(r Reply) bool {
	switch r.Code {
	case 500, 502, 504, 555:
		return true
	case 501, 503:
		return r.Enhanced == "" || strings.HasPrefix(r.Enhanced, "5.5.")
	}
	return false
}
