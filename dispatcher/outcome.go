package dispatcher

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

const (
	// fenceRetry is how long a message waits that could not be fenced. The fault is the database's, not the relay's.
	fenceRetry = 5 * time.Second
	// never is a delay that does not end.
	never = 200 * 365 * 24 * time.Hour
	// maxReply is the largest part of a relay's words that is stored, in bytes.
	maxReply = 1000
)

// settlement decides the outcome of a delivery that was not accepted, by the class of its failure.
func (co *courier) settlement(ctx context.Context, j *job, i int, e *smtpx.Error, took time.Duration) queue.Settlement {
	c, d := &j.claimed, &j.claimed.Deliveries[i]
	s := queue.Settlement{Evidence: evidenceOf(co.name, e, took)}
	if ctx.Err() != nil && e.Class != smtpx.ClassAmbiguous && errors.Is(e, context.Canceled) {
		return queue.Settlement{Outcome: queue.Recycled} // cut off because the dispatcher stops
	}
	if errors.Is(e, errFence) {
		s.Outcome, s.Uncounted, s.Delay = queue.Deferred, true, fenceRetry
		return co.withDoubt(s, d)
	}
	switch e.Class {
	case smtpx.ClassRecipient, smtpx.ClassMessage:
		s.Outcome = queue.Failed
		s.Suppress = e.Class == smtpx.ClassRecipient && !e.MailboxFull() && co.cfg.suppresses(c.Route) && addressGone(e)
		return s
	case smtpx.ClassRecycle:
		// A new session may help once. After that the delivery waits as in an outage. So does one in doubt, because its class does not
		// tell whether it was recycled before.
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
	delay, again := Backoff{}.Next(attempt) // for a policy that panics
	co.guard.call(ctx, "RetryPolicy.Next", func() { delay, again = co.cfg.Retry.Next(attempt) })
	delay = max(delay, e.RetryAfter) // at least what the relay asks for, and never negative
	giveUp := !again || co.overBudget(e.Class, d, age, delay)
	switch {
	case e.Class == smtpx.ClassAmbiguous:
		// The message's policy decides whether it is sent again. Doubt never makes it failed: a delivery that is given up stays
		// uncertain until an operator resolves it.
		s.Outcome, s.Delay = queue.Uncertain, delay
		if giveUp {
			s.Delay = never
		}
	case giveUp && e.Class != smtpx.ClassConfig:
		s.Outcome = queue.Failed
	default:
		s.Outcome, s.Uncounted, s.Delay = queue.Deferred, !counted(e.Class), delay
		// This relay certainly did not accept it, so another may have it at once. Relays must not pass it round in a circle, and a
		// delivery in doubt stays with its relay.
		// A delivery that a dead dispatcher left has such a class, too, but names no relay.
		passedOn := d.Relay != "" && failsOver(smtpx.Class(d.Class))
		if e.Stage != "" && failsOver(e.Class) && !passedOn && !doubtful(*d) && co.another(c.Route) {
			s.Delay = 0
		}
	}
	if !counted(e.Class) {
		return co.withDoubt(s, d)
	}
	return s
}

// goneCodes are the enhanced codes (RFC 3463, RFC 7505) with which a server says that the address itself is gone. A full mailbox and
// a policy are none of them.
var goneCodes = []string{
	"5.1.1",  // bad destination mailbox address
	"5.1.2",  // bad destination system address
	"5.1.3",  // bad destination mailbox address syntax
	"5.1.6",  // destination mailbox has moved, no forwarding address
	"5.1.10", // recipient address has null MX
	"5.2.1",  // mailbox disabled
	"5.7.13", // user account disabled
}

// addressGone says whether the server's reply shows that the address itself is gone.
func addressGone(e *smtpx.Error) bool {
	r := e.Reply
	if r.Code/100 != 5 || e.Stage != smtpx.StageRcpt && e.Stage != smtpx.StageDot {
		return false
	}
	code := r.Enhanced
	if code == "" && len(r.Lines) > 0 {
		code, _, _ = strings.Cut(strings.TrimSpace(r.Lines[0]), " ")
	}
	return slices.Contains(goneCodes, strings.TrimPrefix(code, "#"))
}

// withDoubt keeps an older doubt and its relay after an attempt that sent nothing.
func (co *courier) withDoubt(s queue.Settlement, d *queue.ClaimedDelivery) queue.Settlement {
	if doubtful(*d) {
		s.Evidence.Class, s.Evidence.Relay = d.Class, d.Relay
		s.Evidence.Reply = oneLine("still in doubt; relay " + co.name + ": " + s.Evidence.Reply)
	}
	return s
}

// overBudget says whether MaxAge or MaxOutage ends before the next attempt. MaxAge bounds refusals, MaxOutage bounds outages and
// throttling, and nothing bounds a fault of the configuration.
func (co *courier) overBudget(class smtpx.Class, d *queue.ClaimedDelivery, age, delay time.Duration) bool {
	switch {
	case class == smtpx.ClassConfig:
		return false
	case !counted(class):
		return d.DeferredFor+delay > co.cfg.MaxOutage
	case d.Attempt == 1: // never refused before: it may have waited long for a relay, or an operator requeued it
		return d.DeferredFor+delay > co.cfg.MaxAge
	default:
		return age+delay > co.cfg.MaxAge
	}
}

// failsOver says whether another relay may have the message at once. This relay must certainly not have accepted it, and the fault
// must be this relay's alone.
func failsOver(c smtpx.Class) bool {
	return c == smtpx.ClassUnreachable || c == smtpx.ClassQuota || c == smtpx.ClassConfig
}

// evidenceOf returns the evidence of a failure, with the relay's own words or the error of the connection.
func evidenceOf(relay string, e *smtpx.Error, took time.Duration) queue.Evidence {
	ev := queue.Evidence{
		Relay: relay, Stage: string(e.Stage), Class: string(e.Class), Code: e.Reply.Code, Enhanced: e.Reply.Enhanced, Duration: took,
	}
	ev.Reply = wordsOf(e)
	return ev
}

// wordsOf returns the relay's own words, or the error of the connection, on one line.
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

// oneLine makes any text safe to store and to show: valid UTF-8 without control characters, of bounded length.
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

// addresses matches the local part of an address and the @.
var addresses = regexp.MustCompile(`[^\s<>"'(),;:]+@`)

// masked hides the local parts of addresses, for the log. The database keeps them.
func masked(reply string) string { return addresses.ReplaceAllString(reply, "***@") }

// finish logs each outcome, tells the Observer, attaches the notice of a failure, and returns the settlements.
func (co *courier) finish(ctx context.Context, j *job, list []queue.Settlement, body []byte) []queue.Settlement {
	for i := range list {
		co.logOutcome(ctx, &j.claimed, i, list[i])
		if hook := co.cfg.Observer.Outcome; hook != nil {
			event := OutcomeEvent{
				Event: eventOf(list[i].Outcome), Message: &j.claimed, Delivery: &j.claimed.Deliveries[i], Settlement: list[i],
			}
			co.guard.call(ctx, "Observer.Outcome", func() { hook(ctx, event) })
		}
	}
	co.cfg.Notice.attach(ctx, co.cfg, co.log, j, list, body)
	return list
}

// logOutcome logs an outcome, without addresses.
func (co *courier) logOutcome(ctx context.Context, c *queue.Claimed, i int, s queue.Settlement) {
	level := slog.LevelWarn
	switch s.Outcome {
	case queue.Sent:
		level = slog.LevelInfo
	case queue.Failed:
		level = slog.LevelError
	default:
	}
	if !co.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("id", string(c.ID)), slog.Int("seq", s.Ref.Seq), slog.String("relay", co.name),
		slog.Int("attempt", c.Deliveries[i].Attempt), slog.Duration("took", s.Evidence.Duration),
	}
	if s.Outcome == queue.Sent {
		attrs = append(attrs, slog.String("provider_id", s.Evidence.ProviderID))
	} else {
		attrs = append(attrs, slog.String("verb", string(s.Outcome)), slog.String("class", s.Evidence.Class),
			slog.String("stage", s.Evidence.Stage), slog.Int("code", s.Evidence.Code), slog.String("enhanced", s.Evidence.Enhanced),
			slog.String("reply", masked(s.Evidence.Reply)), slog.Duration("delay", s.Delay))
	}
	co.log.LogAttrs(ctx, level, string(eventOf(s.Outcome)), attrs...) //nolint:sloglint // one of a few constants
}
