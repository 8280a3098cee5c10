package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/outboxmail/outbox/queue"
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
func (l *lane) settlement(ctx context.Context, j *job, i int, e *smtpx.Error, took time.Duration) queue.Settlement {
	c, d := &j.claimed, &j.claimed.Deliveries[i]
	s := queue.Settlement{Evidence: evidenceOf(l.name, e, took)}
	if ctx.Err() != nil && e.Class != smtpx.ClassAmbiguous && errors.Is(e, context.Canceled) {
		return queue.Settlement{Outcome: queue.Recycled} // cut off because the dispatcher stops: nobody's fault
	}
	if errors.Is(e, errStage) {
		s.Outcome, s.Uncounted, s.Delay = queue.Deferred, true, stageRetry
		return l.withDoubt(s, d)
	}
	switch e.Class {
	case smtpx.ClassRecipient, smtpx.ClassMessage:
		s.Outcome = queue.Failed
		s.Suppress = e.Class == smtpx.ClassRecipient && l.cfg.suppresses(c.Route)
		return s
	case smtpx.ClassRecycle:
		// Where new sessions did not help it waits as through an outage; and so does what is in doubt, whose class cannot tell.
		if d.Class != string(smtpx.ClassRecycle) && !doubtful(*d) {
			s.Outcome = queue.Recycled
			return s
		}
	default:
	}

	age := c.Age + time.Since(j.claimedAt)
	attempt := Attempt{
		ID: c.ID, Seq: d.Seq, Number: d.Attempt, Priority: c.Priority, Class: e.Class, Age: age, DeferredFor: d.DeferredFor,
	}
	delay, again := Backoff{}.Next(attempt) // where the policy panics
	l.safely(ctx, "RetryPolicy.Next", func() { delay, again = l.cfg.Retry.Next(attempt) })
	delay = max(delay, e.RetryAfter) // what the relay asks for; and never negative
	giveUp := !again || l.spent(e.Class, d, age, delay)
	switch {
	case e.Class == smtpx.ClassAmbiguous:
		// Whether it is sent again is the message's to say, and doubt is never a reason to call it failed: what is given up
		// stays uncertain until an operator resolves it.
		s.Outcome, s.Delay = queue.Uncertain, delay
		if giveUp {
			s.Delay = never
		}
	case giveUp && e.Class != smtpx.ClassConfig:
		s.Outcome = queue.Failed
	default:
		s.Outcome, s.Uncounted, s.Delay = queue.Deferred, !counted(e.Class), delay
		// Certainly not accepted: another relay may have it at once, but not in a circle, and not what is in doubt elsewhere.
		if e.Stage != "" && failsOver(e.Class) && !failsOver(smtpx.Class(d.Class)) && !doubtful(*d) && l.another(l, c.Route) {
			s.Delay = 0
		}
	}
	if !counted(e.Class) {
		return l.withDoubt(s, d)
	}
	return s
}

// withDoubt keeps an older doubt, with its relay, when an attempt sent nothing.
func (l *lane) withDoubt(s queue.Settlement, d *queue.ClaimedDelivery) queue.Settlement {
	if doubtful(*d) {
		s.Evidence.Class, s.Evidence.Relay = d.Class, d.Relay
		s.Evidence.Reply = oneLine("still in doubt; relay " + l.name + ": " + s.Evidence.Reply)
	}
	return s
}

// spent says whether a budget ends before the next attempt: refusals have one from when the message was due, outages and
// throttling have one of their own, and a fault of the configuration has none.
func (l *lane) spent(class smtpx.Class, d *queue.ClaimedDelivery, age, delay time.Duration) bool {
	switch {
	case class == smtpx.ClassConfig:
		return false
	case !counted(class):
		return d.DeferredFor+delay > l.cfg.MaxOutage
	case d.Attempt == 1: // nobody refused it yet: it may have waited long for a relay, or an operator requeued it
		return d.DeferredFor+delay > l.cfg.MaxAge
	default:
		return age+delay > l.cfg.MaxAge
	}
}

// failsOver says whether a message may be given to another relay at once: only where it is certain that this one did not
// accept it, and where the fault is this relay's alone.
func failsOver(c smtpx.Class) bool {
	return c == smtpx.ClassUnreachable || c == smtpx.ClassQuota || c == smtpx.ClassConfig
}

// evidenceOf keeps the relay's words, or the error of the connection.
func evidenceOf(relay string, e *smtpx.Error, took time.Duration) queue.Evidence {
	ev := queue.Evidence{
		Relay: relay, Stage: string(e.Stage), Class: string(e.Class), Code: e.Reply.Code, Enhanced: e.Reply.Enhanced, Duration: took,
	}
	ev.Reply = wordsOf(e)
	return ev
}

// wordsOf is what the relay said, or the error of the connection, on one line.
func wordsOf(e *smtpx.Error) string {
	switch {
	case e.Reply.Code != 0:
		return oneLine(e.Reply.Text())
	case e.Err != nil:
		return oneLine(e.Err.Error())
	default:
		return ""
	}
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

// concluded writes the event of each outcome and tells the Observer, adds the notice of what was given up, and returns the
// outcomes.
func (l *lane) concluded(ctx context.Context, j *job, list []queue.Settlement, body []byte) []queue.Settlement {
	for i := range list {
		l.logOutcome(ctx, &j.claimed, i, list[i])
		if hook := l.cfg.Observer.Outcome; hook != nil {
			event := OutcomeEvent{
				Event: eventOf(list[i].Outcome), Message: &j.claimed, Delivery: &j.claimed.Deliveries[i], Settlement: list[i],
			}
			l.safely(ctx, "Observer.Outcome", func() { hook(ctx, event) })
		}
	}
	l.cfg.Notice.attach(ctx, l, j, list, body)
	return list
}

// logOutcome writes the event of an outcome, without addresses.
func (l *lane) logOutcome(ctx context.Context, c *queue.Claimed, i int, s queue.Settlement) {
	level := slog.LevelWarn
	switch s.Outcome {
	case queue.Sent:
		level = slog.LevelInfo
	case queue.Failed:
		level = slog.LevelError
	default:
	}
	if !l.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("id", string(c.ID)), slog.Int("seq", s.Ref.Seq), slog.String("relay", l.name),
		slog.Int("attempt", c.Deliveries[i].Attempt), slog.Duration("took", s.Evidence.Duration),
	}
	if s.Outcome == queue.Sent {
		attrs = append(attrs, slog.String("provider_id", s.Evidence.ProviderID))
	} else {
		attrs = append(attrs, slog.String("verb", string(s.Outcome)), slog.String("class", s.Evidence.Class),
			slog.String("stage", s.Evidence.Stage), slog.Int("code", s.Evidence.Code), slog.String("enhanced", s.Evidence.Enhanced),
			slog.String("reply", masked(s.Evidence.Reply)), slog.Duration("delay", s.Delay))
	}
	l.log.LogAttrs(ctx, level, string(eventOf(s.Outcome)), attrs...) //nolint:sloglint // one of a few constants
}
