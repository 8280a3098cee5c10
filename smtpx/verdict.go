package smtpx

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"
)

// hearMail reads the reply to MAIL. It is false when MAIL was refused or the connection was lost.
func (c *conn) hearMail(t *transaction) bool {
	r, err := c.hear(t, StageMail, c.relay.Timeouts.Mail)
	if err != nil {
		c.lost(t, StageMail, err)
		return false
	}
	t.heard = true
	if r.Positive() {
		c.dirty = true
		return true
	}
	c.refuse(t, refusal(c.relay.profile, StageMail, r))
	return false
}

// hear waits for a reply. Once the end of the body has left, nothing cuts the wait short: only a reply tells what became of it.
func (c *conn) hear(t *transaction, stage Stage, limit time.Duration) (Reply, error) {
	ctx := t.job.ctx
	if t.complete {
		ctx, limit = context.Background(), max(limit, c.relay.Timeouts.Dot)
	}
	r, err := c.await(ctx, limit)
	if c.relay.Observer.Stage != nil {
		var failed *Error
		switch {
		case err != nil && t.complete:
			failed = &Error{Stage: StageDot, Class: ClassAmbiguous, Err: plainIO(err)}
		case err != nil:
			failed = &Error{Stage: stage, Class: ClassTransient, Err: plainIO(err)}
		case r.Code >= 400:
			failed = refusal(c.relay.profile, stage, r)
		}
		c.observed(stage, c.flown, r.Code, failed)
	}
	return r, err
}

// refuse takes a verdict on the whole message, or on the session.
func (c *conn) refuse(t *transaction, e *Error) {
	c.pool.learn(c, e)
	if e.Reply.Code == 421 || e.Reply.Code < 400 {
		c.dead = true
	}
	if t.kept && (e.Class == ClassRecycle || (e.Stage == StageMail && e.Reply.Code == 421 && e.Class == ClassTransient)) {
		// The session was used up by earlier messages, or the server ends it while it was idle: this message goes on another
		// without a word. What is wrong with the relay, if anything is, a new connection will hear.
		c.dead = true
		t.stale = true
		t.accepted = nil
		return
	}
	t.abandon(e)
}

// hearRcpt reads the reply to one RCPT. It is false when the rest need not be read.
func (c *conn) hearRcpt(t *transaction, i int) bool {
	r, err := c.hear(t, StageRcpt, c.relay.Timeouts.Rcpt)
	if err != nil {
		c.lost(t, StageRcpt, err)
		return false
	}
	o := &t.job.res.Outcomes[i]
	switch {
	case o.Err != nil || t.stale: // MAIL was refused: this reply adds nothing
	case r.Positive():
		t.accepted = append(t.accepted, i)
	default:
		return c.refuseRcpt(t, i, refusal(c.relay.profile, StageRcpt, r))
	}
	return !c.dead
}

// refuseRcpt takes a verdict on one recipient. It is false when the rest need not be read.
func (c *conn) refuseRcpt(t *transaction, i int, e *Error) bool {
	code := e.Reply.Code
	switch many := tooManyRecipients(e); {
	case many && len(t.accepted) > 0 && code != 421:
		if len(t.later) == 0 {
			c.rcptMax = len(t.accepted)
		}
		t.later = append(t.later, i)
		return true
	case code != 421 && (strings.HasPrefix(e.Rule, "recipients.many") || (many && e.Rule == "rcpt")):
		e.Class, e.scope = ClassTransient, "" // there were none before it: trying again at once leads nowhere
	case t.complete:
		// The body has left: for the recipients that were accepted the reply to it is still to come.
	case code == 421 || code < 400 || (e.Class == ClassRecycle && t.kept):
		c.refuse(t, e)
		return false
	}
	t.job.res.Outcomes[i].Err = e
	return true
}

// tooManyRecipients tells whether a RCPT may have been refused only because of those before it: RFC 5321 §4.5.3.1.10 has 452
// for it and wants 552 taken the same way. What the words say about the relay or the message goes before.
func tooManyRecipients(e *Error) bool {
	r := e.Reply
	return strings.HasPrefix(e.Rule, "recipients.many") ||
		((r.Code == 452 || r.Code == 552) && r.Enhanced == "" && (e.Class == ClassTransient || e.Class == ClassRecipient))
}

// hearData reads the reply to DATA.
func (c *conn) hearData(t *transaction) {
	r, err := c.hear(t, StageData, c.relay.Timeouts.Data)
	if err != nil {
		c.lost(t, StageData, err)
		return
	}
	if r.Code == 354 {
		t.open = true
		return
	}
	if r.Code == 421 || r.Code < 400 {
		c.dead = true
	}
	e := refusal(c.relay.profile, StageData, r)
	c.pool.learn(c, e)
	t.fail(e)
}

// lost takes the end of the connection. Before the end of the body has left, the message was certainly not accepted.
func (c *conn) lost(t *transaction, stage Stage, err error) {
	defer c.cut()
	c.dead = true
	if t.complete {
		t.fail(&Error{Stage: StageDot, Class: ClassAmbiguous, Err: plainIO(err)})
		return
	}
	if cause := t.job.ctx.Err(); cause != nil {
		t.abandon(gaveUp(stage, cause))
		return
	}
	if e := c.verdict(stage, err); e != nil {
		c.refuse(t, e)
		return
	}
	if stage == StageMail && !t.heard && t.kept && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.stale = true // it was dead before we came
		return
	}
	t.fail(&Error{Stage: stage, Class: ClassTransient, Err: plainIO(err)})
}
