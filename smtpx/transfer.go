package smtpx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
)

// transferData writes the body and the final dot and reads the reply to the dot. If the head of the next transaction left behind
// the dot, it returns that transaction (RFC 2920 §3.1).
func (c *conn) transferData(t *transaction) (next *transaction) {
	j := t.job
	c.buf = c.buf[:0]
	if !c.sendBody(t, false) {
		return nil
	}
	dot := len(c.buf)
	c.buf = append(c.buf, endOfData...)
	c.logBody(j.body.size())
	c.logSent(".")
	if c.offers("PIPELINING") && len(t.later) == 0 && len(j.todo) == 0 {
		next = c.appendEarlyHead()
	}
	// From here on the server may have the complete message. No context stops the write, and only a reply tells the outcome.
	n, err := c.write(context.Background(), c.buf)
	if !c.conclude(t, next, err, n > dot) && next != nil {
		c.relay.early.refuse() // the head behind the dot may be the reason
	}
	return next
}

// sendBody writes the body behind what c.buf holds, except for the last block, which it leaves in c.buf. It returns false if the
// message must not be ended.
func (c *conn) sendBody(t *transaction, plain bool) bool {
	giveUp := func(err error) bool {
		c.cut() // the server waits for the rest, and must not take it for complete
		t.abandon(notSent(StageData, err))
		return false
	}
	b, err := t.job.body.blocks(plain)
	if err != nil {
		return giveUp(err)
	}
	defer b.close()
	for limit := len(c.buf) + blockSize; ; limit = blockSize {
		if c.buf, err = b.appendBlock(c.buf, limit); err != nil {
			return giveUp(err)
		}
		if b.done() {
			return c.mayEnd(t)
		}
		if _, err := c.write(t.job.ctx, c.buf); err != nil {
			c.lost(t, StageData, err)
			return false
		}
		if c.interrupted(t) {
			return false
		}
		c.buf = c.buf[:0]
	}
}

// mayEnd tells whether the write that ends the body may begin. It returns false if the context is done, or the server spoke or
// hung up.
func (c *conn) mayEnd(t *transaction) bool {
	if err := t.job.ctx.Err(); err != nil {
		c.cut()
		t.abandon(gaveUp(StageData, err))
		return false
	}
	return !c.interrupted(t)
}

// transferChunk sends the body as one chunk (RFC 3030).
func (c *conn) transferChunk(t *transaction) {
	j := t.job
	c.buf = appendChunkHead(c.buf[:0], &j.body)
	c.logFlight(c.buf)
	c.logBody(j.body.size())
	if !c.sendBody(t, true) {
		return
	}
	n, err := c.write(context.Background(), c.buf)
	c.conclude(t, nil, err, n == len(c.buf))
}

func appendChunkHead(buf []byte, b *body) []byte {
	buf = append(buf, "BDAT "...)
	buf = strconv.AppendInt(buf, int64(b.size()), 10)
	return append(buf, " LAST\r\n"...)
}

// runFlight sends a whole message in one flight. It calls the hooks first.
func (c *conn) runFlight(t *transaction) {
	if !c.commit(t) {
		return
	}
	j := t.job
	c.buf = c.appendHead(c.buf[:0], t)
	c.buf = appendChunkHead(c.buf, &j.body)
	c.logFlight(c.buf)
	c.logBody(j.body.size())
	c.buf = append(c.buf, j.body.data...)
	if j.body.open {
		c.buf = append(c.buf, "\r\n"...)
	}
	n, err := c.write(context.Background(), c.buf)
	if err != nil && n < len(c.buf) {
		c.lost(t, StageMail, err)
		return
	}
	t.complete = true
	// The first refusal is the verdict. All replies are read, which keeps the connection in step.
	if !c.readMail(t) && c.dead() {
		return
	}
	for _, i := range t.rcpts {
		if !c.readRcpt(t, i) {
			return
		}
	}
	c.learnRecipients(t)
	c.conclude(t, nil, err, true)
}

// interrupted looks for a reply that comes before the end of the body has left. It costs no round trip. A refusal is the
// verdict. After any such reply the server does not read the rest, and nothing was accepted.
//
// A kept connection may end before anything of the transaction left, for example during a slow hook. The message then goes on
// another connection, once.
func (c *conn) interrupted(t *transaction) bool {
	in := c.pending()
	if in == nil {
		return false
	}
	c.cut()
	switch {
	case t.mode == transferFlight && t.used && !t.job.restarted && endOfSession(in):
		t.job.restarted = true
		c.moveOn(t)
	case in.err != nil:
		t.fail(&Error{Stage: StageData, Class: ClassTransient, Err: plainIO(in.err)})
	case in.reply.Code >= 400:
		t.fail(c.refused(StageData, in.reply))
	default:
		t.fail(&Error{Stage: StageData, Class: ClassTransient, Reply: c.scrub(in.reply), Err: errors.New("reply before the end of the message")})
	}
	return true
}

// conclude reads the reply to the end of the body. next is the transaction whose head left behind it, if any. complete is false
// when the write stopped before the end, with err. The result is false when no reply came.
func (c *conn) conclude(t, next *transaction, err error, complete bool) (answered bool) {
	if !complete {
		c.lost(t, StageData, err)
		return true
	}
	t.complete = true
	if err != nil {
		c.state = connDead // the head behind the end did not leave
	}
	r, rerr := c.read(t, StageDot, c.relay.Timeouts.Dot)
	if rerr != nil {
		c.cut()
		t.fail(c.unanswered(t, rerr))
		return false
	}
	if next != nil && outOfTurn(r) {
		first := r
		if r, answered = c.answerBehind(next); !answered {
			t.fail(&Error{Stage: StageDot, Class: ClassAmbiguous, Reply: c.scrub(first),
				Err: errors.New("the reply may be to a command behind the final dot")})
			return false
		}
	}
	switch {
	case closes(r.Code) && r.Positive(), r.Intermediate():
		c.cut()
		t.fail(&Error{Stage: StageDot, Class: ClassAmbiguous, Reply: c.scrub(r), Err: fmt.Errorf("%w: unexpected code %d", errReply, r.Code)})
	case r.Positive():
		c.accepted(t, r)
	case t.mode != transferData && len(t.accepted) > 0 && dialogueFault(r):
		// Octets of the body may have been read as commands: nothing more is sent here.
		c.cut()
		c.pool.disbelieve(c, "CHUNKING", r)
		c.moveOn(t)
	case c.shrink(t, r):
		c.settle(connReady)
		if t.mode != transferData {
			c.settle(connDirty)
		}
	default:
		c.refusedDot(t, r)
	}
	t.job.res.Reply = c.scrub(r)
	return true
}

// answerBehind looks for the reply to a final dot behind an early head when the first reply is out of turn: the server may have
// refused the commands of the head while it was busy with the message. The dot is answered last then. answered is false when
// nothing tells the verdict. The connection is cut, and the relay gets no more early heads.
func (c *conn) answerBehind(head *transaction) (r Reply, answered bool) {
	c.relay.early.refuse()
	defer c.cut()
	deadline := time.Now().Add(c.relay.Timeouts.Dot)
	inTurn := false // the head is answered behind the dot: the first reply may be the verdict
	for range len(head.rcpts) + 2 {
		limit := time.Until(deadline)
		if inTurn {
			limit = min(limit, lingering)
		}
		var err error
		if r, err = c.await(context.Background(), limit); err != nil || closes(r.Code) {
			return r, false
		}
		inTurn = inTurn || r.Code < 400
	}
	// All are answered. 2xx can only be to the dot: it is no answer to DATA.
	return r, r.Positive() || (!inTurn && !outOfTurn(r))
}

// accepted notes that the server took the message for the recipients that it accepted.
func (c *conn) accepted(t *transaction, r Reply) {
	c.settle(connReady)
	for _, i := range t.accepted {
		t.job.res.Outcomes[i].Accepted = true
	}
	if len(t.accepted) == 0 {
		return
	}
	if t.job.res.ProviderID == "" {
		t.job.res.ProviderID = c.relay.profile.MessageID(c.scrub(r))
	}
	if c.carried++; c.carried > 1 {
		c.relay.early.count()
	}
}

// refusedDot takes a refusal of the whole message.
func (c *conn) refusedDot(t *transaction, r Reply) {
	c.settle(connReady)
	if t.mode != transferData {
		c.settle(connDirty) // a server that refuses BDAT may leave the transaction open (RFC 3030 §2); after DATA it is closed
	}
	if closes(r.Code) {
		c.state = connDead
	}
	e := c.refused(StageDot, r)
	c.pool.learn(c, e)
	t.fail(e)
}

// unanswered is the error of a message whose end has left without a reply: it is in doubt, unless the server had said 421.
func (c *conn) unanswered(t *transaction, err error) *Error {
	if t.closing != nil {
		return t.closing
	}
	return &Error{Stage: StageDot, Class: ClassAmbiguous, Err: plainIO(err)}
}

// closes tells whether a reply code announces the end of the connection (RFC 5321 §4.2.3). 220 is the greeting of a new one.
func closes(code int) bool { return code == 421 || code == 221 || code == 220 }

// endOfSession tells whether a reply without a command says only that the connection ended: the stream did, or the server
// closes it after a time limit.
func endOfSession(in *inbound) bool {
	if in.err != nil {
		return errors.Is(in.err, io.EOF) || !errors.Is(in.err, errReply)
	}
	return closes(in.reply.Code) || in.reply.Enhanced == "4.4.2"
}
