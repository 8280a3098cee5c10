package smtpx

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// transferData writes the body and the final dot, with the head of the next message behind it where one waits and the
// server takes pipelining (RFC 2920 §3.1), and reads the reply to the dot.
func (c *conn) transferData(t *transaction) (rider *transaction) {
	j := t.job
	body := j.body.dotReader()
	for {
		c.buf = body.appendBlock(c.buf[:0], blockSize)
		if body.done() {
			break
		}
		if _, err := c.write(j.ctx, c.buf); err != nil {
			c.lost(t, StageData, err)
			return nil
		}
		if c.interrupted(t) {
			return nil
		}
	}
	if err := j.ctx.Err(); err != nil {
		c.cut()
		t.abandon(gaveUp(StageData, err))
		return nil
	}
	dot := len(c.buf)
	c.buf = append(c.buf, endOfData...)
	c.saidBody(j.body.size())
	c.said(".")
	if c.offers("PIPELINING") && len(t.later) == 0 && len(j.todo) == 0 {
		rider = c.ride()
	}
	// From here on the message may be complete at the other end: no context stops the write, and only a reply tells.
	n, err := c.write(context.Background(), c.buf)
	c.conclude(t, err, n > dot)
	return rider
}

// ride puts the head of the next message that waits behind the end of this one, if the connection may serve another.
func (c *conn) ride() *transaction {
	for !c.usedUp() {
		j := c.pool.rider()
		if j == nil {
			return nil
		}
		if t := c.begin(j); t != nil {
			t.rode = true
			end := len(c.buf)
			c.buf = c.appendHead(c.buf, t)
			c.saidFlight(c.buf[end:])
			c.pool.letRide(j)
			return t
		}
		close(j.done)
	}
	return nil
}

// transferChunk sends the body as one chunk (RFC 3030).
func (c *conn) transferChunk(t *transaction) {
	j := t.job
	c.buf = appendChunkHead(c.buf[:0], &j.body)
	c.saidFlight(c.buf)
	c.saidBody(j.body.size())
	rest := j.body.data
	first := min(len(rest), blockSize)
	c.buf = append(c.buf, rest[:first]...)
	rest = rest[first:]
	for len(rest) > 0 {
		if _, err := c.write(j.ctx, c.buf); err != nil {
			c.lost(t, StageData, err)
			return
		}
		if c.interrupted(t) {
			return
		}
		n := min(len(rest), blockSize)
		c.buf = append(c.buf[:0], rest[:n]...)
		rest = rest[n:]
	}
	if j.body.open {
		c.buf = append(c.buf, "\r\n"...)
	}
	if err := j.ctx.Err(); err != nil {
		c.cut()
		t.abandon(gaveUp(StageData, err))
		return
	}
	n, err := c.write(context.Background(), c.buf)
	c.conclude(t, err, n == len(c.buf))
}

func appendChunkHead(buf []byte, b *body) []byte {
	buf = append(buf, "BDAT "...)
	buf = strconv.AppendInt(buf, int64(b.size()), 10)
	return append(buf, " LAST\r\n"...)
}

// runFlight sends a whole message in one flight. The hook is asked first.
func (c *conn) runFlight(t *transaction) {
	if !c.commit(t) {
		return
	}
	j := t.job
	c.buf = c.appendHead(c.buf[:0], t)
	c.buf = appendChunkHead(c.buf, &j.body)
	c.saidFlight(c.buf)
	c.saidBody(j.body.size())
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
	// The first refusal is the verdict; all replies are read, so that the connection stays in step.
	if !c.hearMail(t) && c.dead {
		return
	}
	for _, i := range t.rcpts {
		if !c.hearRcpt(t, i) {
			return
		}
	}
	c.conclude(t, err, true)
}

// interrupted looks for a reply that comes before the body is complete. A refusal is the verdict; whatever it is, the
// server is not listening any more.
func (c *conn) interrupted(t *transaction) bool {
	select {
	case in := <-c.replies:
		c.cut()
		switch {
		case in.err != nil:
			t.fail(&Error{Stage: StageData, Class: ClassTransient, Err: plainIO(in.err)})
		case in.reply.Code >= 400:
			t.fail(refusal(c.relay.profile, StageData, in.reply))
		default:
			t.fail(&Error{Stage: StageData, Class: ClassTransient, Reply: in.reply, Err: errors.New("reply before the end of the message")})
		}
		return true
	default:
		return false
	}
}

// conclude reads the reply to the end of the body. complete is false when the write stopped before it, with err.
func (c *conn) conclude(t *transaction, err error, complete bool) {
	if !complete {
		c.lost(t, StageData, err)
		return
	}
	t.complete = true
	if err != nil {
		c.dead = true // what came behind the end did not get out
	}
	r, rerr := c.hear(t, StageDot, c.relay.Timeouts.Dot)
	switch {
	case rerr != nil:
		c.cut()
		t.fail(&Error{Stage: StageDot, Class: ClassAmbiguous, Err: plainIO(rerr)})
		return
	case r.Positive():
		c.dirty = false
		for _, i := range t.accepted {
			t.job.res.Outcomes[i].Accepted = true
		}
		if t.job.res.ProviderID == "" && len(t.accepted) > 0 {
			t.job.res.ProviderID = c.relay.profile.MessageID(r)
		}
	case r.Code >= 400:
		if r.Code == 421 {
			c.dead = true
		}
		// A server that refuses BDAT may leave the transaction open (RFC 3030 §2); after DATA it is closed.
		c.dirty = t.mode != transferData
		e := refusal(c.relay.profile, StageDot, r)
		c.pool.learn(c, e)
		t.fail(e)
	default:
		c.cut()
		t.fail(&Error{Stage: StageDot, Class: ClassAmbiguous, Reply: r, Err: fmt.Errorf("%w: unexpected code %d", errReply, r.Code)})
	}
	t.job.res.Reply = r
}
