package smtpx

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"
)

// readMail reads the reply to MAIL. It is false when MAIL was refused or the connection was lost.
func (c *conn) readMail(t *transaction) bool {
	r, err := c.read(t, StageMail, c.relay.Timeouts.Mail)
	if err != nil {
		c.lost(t, StageMail, err)
		return false
	}
	t.answered = true
	switch {
	case r.Positive() && !closes(r.Code):
		c.settle(connDirty)
		return true
	case t.early && outOfTurn(r):
		// The server was not ready for the commands when it read them. It cannot have taken anything of the message.
		c.relay.early.refuse()
		c.cut()
		c.moveOn(t)
	case c.falseOffer(t, StageMail, r):
	default:
		c.refuse(t, c.refused(StageMail, r))
	}
	return false
}

// read waits for a reply. Once the end of the body has left, no context cuts the wait short: only a reply tells the outcome.
func (c *conn) read(t *transaction, stage Stage, limit time.Duration) (Reply, error) {
	ctx := t.job.ctx
	switch {
	case t.closing != nil:
		ctx, limit = context.Background(), lingering
	case t.complete:
		ctx, limit = context.Background(), max(limit, c.relay.Timeouts.Dot)
	case t.early && !t.open:
		limit = c.relay.early.wait(stage, limit)
	}
	r, err := c.await(ctx, limit)
	if c.relay.Observer.Stage != nil {
		var failed *Error
		switch {
		case err != nil && t.complete:
			failed = c.unanswered(t, err)
		case err != nil:
			failed = &Error{Stage: stage, Class: ClassTransient, Err: plainIO(err)}
		case r.Code >= 400:
			failed = c.refused(stage, r)
		}
		c.observed(stage, c.flown, r.Code, failed)
	}
	return r, err
}

// refuse takes a verdict on the whole message, or on the session.
func (c *conn) refuse(t *transaction, e *Error) {
	c.pool.learn(c, e)
	if e.Stage == StageMail && e.Reply.Transient() && c.carried > 0 && !t.job.restarted && (e.Class == ClassTransient || e.Reply.Code == 452) {
		// A used-up session gives the same reply as a busy relay: OpenSMTPD says "452 too many recipients" to the MAIL of each
		// further message. A new connection tells the two apart.
		if e.Reply.Code == 452 && e.Class != ClassRecycle {
			c.pool.usedUp(c, e.Reply)
		}
		t.job.restarted = true
		c.moveOn(t)
		return
	}
	if closes(e.Reply.Code) || e.Reply.Code < 400 {
		c.state = connDead
	}
	if t.used && (e.Class == ClassRecycle || (e.Stage == StageMail && e.Reply.Code == 421 && e.Class == ClassTransient)) {
		// Earlier messages used the session up, or the server ended it while it was idle. This message goes on another
		// connection without an error. If the relay has a fault, the new connection will show it.
		c.moveOn(t)
		return
	}
	t.abandon(e)
}

// readRcpt reads the reply to one RCPT. It is false when the rest need not be read.
func (c *conn) readRcpt(t *transaction, i int) bool {
	r, err := c.read(t, StageRcpt, c.relay.Timeouts.Rcpt)
	if err != nil {
		c.lost(t, StageRcpt, err)
		return false
	}
	o := &t.job.res.Outcomes[i]
	switch {
	case o.Err != nil || t.stale: // MAIL was refused: this reply adds nothing
	case c.falseOffer(t, StageRcpt, r):
		return false
	case r.Positive() && !closes(r.Code):
		t.accepted = append(t.accepted, i)
		t.surplus.followed = t.surplus.followed || t.surplus.refused > 0
	default:
		return c.refuseRcpt(t, i, c.refused(StageRcpt, r))
	}
	return !c.dead()
}

// refuseRcpt takes a verdict on one recipient. It is false when the rest need not be read.
func (c *conn) refuseRcpt(t *transaction, i int, e *Error) bool {
	ends := closes(e.Reply.Code) || e.Reply.Code < 400
	many, certain := tooManyRecipients(e)
	switch {
	case many && len(t.accepted) > 0 && !ends:
		t.surplus.refused++
		t.surplus.certain = t.surplus.certain || certain
		t.later = append(t.later, i)
		return true
	case !ends && (certain || (many && e.Rule == "rcpt")):
		e.Class, e.scope = ClassTransient, "" // there was no recipient before it: an immediate retry cannot help
	case t.complete && ends:
		// The body has left, and the server ends the connection. It accepted none of it, unless it still answers the body.
		t.closing = e
	case t.complete:
		// The body has left: the reply to it decides about the recipients that were accepted.
	case ends || (e.Class == ClassRecycle && t.used):
		c.refuse(t, e)
		return false
	}
	t.job.res.Outcomes[i].Err = e
	return true
}

// tooManyRecipients tells whether a RCPT may have been refused only because of those before it, and whether the server says so.
// RFC 5321 §4.5.3.1.10 uses 452 for it, with the words "insufficient system storage" of §4.2.3, and wants 552 treated in the
// same way. Words about another cause, such as a full mailbox, go first.
func tooManyRecipients(e *Error) (may, certain bool) {
	r := e.Reply
	certain = strings.HasPrefix(e.Rule, "recipients.many")
	silent := e.Rule == "transient" || e.Rule == "rcpt" || strings.Contains(strings.ToLower(r.Text()), "insufficient system storage")
	return certain || ((r.Code == 452 || r.Code == 552) && r.Enhanced == "" && silent), certain
}

// readData reads the reply to DATA.
func (c *conn) readData(t *transaction) {
	r, err := c.read(t, StageData, c.relay.Timeouts.Data)
	if err != nil {
		c.lost(t, StageData, err)
		return
	}
	if r.Code == 354 {
		t.open = true
		c.relay.pipelined.Store(c.relay.pipelined.Load() || c.offers("PIPELINING"))
		if t.early {
			c.relay.early.take()
		}
		return
	}
	if len(t.accepted) > 0 && t.early && outOfTurn(r) {
		c.relay.early.refuse()
		c.cut()
		c.moveOn(t)
		return
	}
	if c.falseOffer(t, StageData, r) || c.shrink(t, r) {
		return
	}
	if closes(r.Code) || r.Code < 400 {
		c.state = connDead
	}
	e := c.refused(StageData, r)
	c.pool.learn(c, e)
	t.fail(e)
}

// lost takes the end of the connection. Before the end of the body has left, the message was certainly not accepted.
func (c *conn) lost(t *transaction, stage Stage, err error) {
	defer c.cut()
	c.state = connDead
	if t.complete {
		t.fail(c.unanswered(t, err))
		return
	}
	if cause := t.job.ctx.Err(); cause != nil {
		t.abandon(gaveUp(stage, cause))
		return
	}
	if t.early && !t.open && (!t.answered || c.relay.early.onTrial()) {
		c.relay.early.refuse()
		c.moveOn(t)
		return
	}
	if e := c.lastWords(stage, err); e != nil {
		c.refuse(t, e)
		return
	}
	if stage == StageMail && !t.answered && t.used && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.moveOn(t) // it was dead before the message came
		return
	}
	e := &Error{Stage: stage, Class: ClassTransient, Err: plainIO(err)}
	if t.answered && stage != StageMail && errors.Is(err, os.ErrDeadlineExceeded) && c.offers("PIPELINING") && !t.open &&
		!c.relay.pipelined.Load() {
		// The server answered the first command of a flight and lost the others.
		c.pool.disbelieve(c, "PIPELINING", Reply{})
		e.Hint = "the server offers PIPELINING and did not answer a flight: the next message goes without it; without=PIPELINING " +
			"in the relay's URL turns it off for good"
	}
	t.fail(e)
}
