package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
)

const (
	// stageRetry is how long a message waits whose stage could not be recorded: the database has trouble, not the relay.
	stageRetry = 5 * time.Second
	// never is a time that no delivery waits for.
	never = 200 * 365 * 24 * time.Hour
	// maxReply bounds what is stored of a relay's words, in bytes.
	maxReply = 1000
)

// settlement decides what becomes of a delivery that was not accepted: the table of package smtpx's classes.
func (l *lane) settlement(ctx context.Context, j *job, i int, e *smtpx.Error, took time.Duration) outbox.Settlement {
	c, d := &j.claimed, &j.claimed.Deliveries[i]
	s := outbox.Settlement{Evidence: evidenceOf(l.relay.Name, e, took)}
	if ctx.Err() != nil && e.Class != smtpx.ClassAmbiguous && errors.Is(e, context.Canceled) {
		return outbox.Settlement{Verb: outbox.VerbRecycle} // cut off because the dispatcher stops: nobody's fault
	}
	if errors.Is(e, errStage) {
		s.Verb, s.Uncounted, s.Delay = outbox.VerbDefer, true, stageRetry
		return s
	}
	switch e.Class {
	case smtpx.ClassRecipient, smtpx.ClassMessage:
		s.Verb = outbox.VerbFail
		return s
	case smtpx.ClassRecycle:
		if d.Class != string(smtpx.ClassRecycle) { // else new sessions do not help: it waits as through an outage
			s.Verb = outbox.VerbRecycle
			return s
		}
	default:
	}

	age := c.Age + time.Since(j.claimedAt)
	delay, again := l.cfg.Retry.Next(Attempt{
		ID: c.ID, Seq: d.Seq, Number: d.Attempt, Priority: c.Priority, Class: e.Class, Age: age, DeferredFor: d.DeferredFor,
	})
	spent := age
	if d.Attempt == 1 {
		spent = d.DeferredFor // nobody refused it yet, or an operator requeued it long after its time
	}
	giveUp := !again || spent+delay > l.cfg.MaxAge
	if e.Class == smtpx.ClassAmbiguous {
		// Whether it is sent again is the message's to say, and doubt is never a reason to call it failed: what is given up
		// stays uncertain until an operator resolves it.
		s.Verb, s.Delay = outbox.VerbUncertain, max(delay, 0)
		if giveUp {
			s.Delay = never
		}
		return s
	}
	if giveUp {
		s.Verb = outbox.VerbFail
		return s
	}
	s.Verb, s.Uncounted, s.Delay = outbox.VerbDefer, !counted(e.Class), max(delay, 0)
	return s
}

// evidenceOf keeps the relay's words, or the error of the connection.
func evidenceOf(relay string, e *smtpx.Error, took time.Duration) outbox.Evidence {
	ev := outbox.Evidence{
		Relay: relay, Stage: string(e.Stage), Class: string(e.Class), Code: e.Reply.Code, Enhanced: e.Reply.Enhanced, Duration: took,
	}
	switch {
	case e.Reply.Code != 0:
		ev.Reply = oneLine(e.Reply.Text())
	case e.Err != nil:
		ev.Reply = oneLine(e.Err.Error())
	}
	return ev
}

// oneLine makes hostile text safe to store and to show: valid UTF-8 without control characters, of bounded length.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\r' || r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return -1
		default:
			return r
		}
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxReply {
		s = strings.ToValidUTF8(s[:maxReply-len("…")], "") + "…"
	}
	return s
}

// addresses finds what looks like a mailbox in a relay's words.
var addresses = regexp.MustCompile(`[^\s<>"'(),;:]+@`)

// masked takes the local parts of addresses out of a relay's words, for the log. The database keeps them whole.
func masked(reply string) string { return addresses.ReplaceAllString(reply, "***@") }

// observe takes what an outcome says of the relay and writes its event, without addresses.
func (l *lane) observe(ctx context.Context, c *outbox.Claimed, i int, s outbox.Settlement) {
	if s.Evidence.Stage != "" { // else no relay was asked
		l.note(smtpx.Class(s.Evidence.Class))
	}
	attrs := []slog.Attr{
		slog.String("id", string(c.ID)), slog.Int("seq", s.Ref.Seq), slog.String("relay", l.relay.Name),
		slog.Int("attempt", c.Deliveries[i].Attempt), slog.Duration("took", s.Evidence.Duration),
	}
	if s.Verb == outbox.VerbSent {
		attrs = append(attrs, slog.String("provider_id", s.Evidence.ProviderID))
		l.log.LogAttrs(ctx, slog.LevelInfo, "send_success", attrs...)
		return
	}
	attrs = append(attrs, slog.String("verb", string(s.Verb)), slog.String("class", s.Evidence.Class), slog.String("stage", s.Evidence.Stage),
		slog.Int("code", s.Evidence.Code), slog.String("enhanced", s.Evidence.Enhanced), slog.String("reply", masked(s.Evidence.Reply)),
		slog.Duration("delay", s.Delay))
	if s.Verb == outbox.VerbFail {
		l.log.LogAttrs(ctx, slog.LevelError, "send_failed", attrs...)
		return
	}
	l.log.LogAttrs(ctx, slog.LevelWarn, "send_deferred", attrs...)
}
