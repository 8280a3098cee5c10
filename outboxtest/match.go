package outboxtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/outboxmail/outbox"
)

// Match says which messages are meant. Every field that is set must fit. The zero value fits every message.
type Match struct {
	// To is the address of a recipient, Bcc included. Case does not matter.
	To string
	// From is the address of the author. Case does not matter.
	From string
	// Subject is the whole subject.
	Subject string
	// Contains is a part of the subject, the text or the HTML.
	Contains string
	// Key, Route and Tag are those of an enqueued message. A message that arrived has none of them.
	Key, Route, Tag string
	// State is the state of the deliveries of an enqueued message. With To it is the state of the delivery to that address.
	// Otherwise all deliveries must be in it; for [RequireNotEnqueued], none may be. [Scheduled] and [Deferred] count as
	// states: they are kinds of outbox.StateQueued. A message that arrived has no state.
	State outbox.State
	// Where has the last word, if it is set, about a message that fits otherwise.
	Where func(m *Mail) bool

	some bool // one delivery in State is enough
}

// miss says why a message does not fit. It is empty for one that fits.
func (w Match) miss(m *Mail) string {
	differs := func(name, want, got string, fits bool) string {
		if want == "" || fits {
			return ""
		}
		return fmt.Sprintf("%s %q is not %q", name, got, want)
	}
	to := slices.ContainsFunc(m.Recipients, func(r string) bool { return strings.EqualFold(r, w.To) })
	for _, reason := range []string{
		differs("To", w.To, strings.Join(m.Recipients, ", "), to),
		differs("From", w.From, m.From.Address, strings.EqualFold(m.From.Address, w.From)),
		differs("Subject", w.Subject, m.Subject, m.Subject == w.Subject),
		differs("Key", w.Key, m.Key, m.Key == w.Key),
		differs("Route", w.Route, m.Route, m.Route == w.Route),
		differs("Tag", w.Tag, strings.Join(m.Tags, ", "), slices.Contains(m.Tags, w.Tag)),
	} {
		if reason != "" {
			return reason
		}
	}
	in := func(s string) bool { return strings.Contains(s, w.Contains) }
	switch {
	case w.State != "" && !m.hasState(w.State, w.To, w.some):
		return fmt.Sprintf("State %q is not %q", m.states(), w.State)
	case !in(m.Subject) && !in(m.Text) && !in(m.HTML):
		return fmt.Sprintf("neither subject nor body contains %q", w.Contains)
	case w.Where != nil && !w.Where(m):
		return "Where says no"
	default:
		return ""
	}
}

// filter returns the messages that fit.
func (w Match) filter(list []*Mail) (found []*Mail) {
	for _, m := range list {
		if w.miss(m) == "" {
			found = append(found, m)
		}
	}
	return found
}

// one returns the message that fits and fails the test unless there is exactly one.
func (w Match) one(t TB, list []*Mail, verb string) *Mail {
	t.Helper()
	found := w.filter(list)
	if len(found) != 1 {
		t.Fatalf("%s %s, want 1%s", w.count(found), verb, w.describe(list))
		return nil
	}
	return found[0]
}

// count says how many messages fit.
func (Match) count(found []*Mail) string {
	if len(found) == 1 {
		return "1 message of this kind was"
	}
	return fmt.Sprintf("%d messages of this kind were", len(found))
}

// describe lists all messages and says of each why it does not fit.
func (w Match) describe(list []*Mail) string {
	if len(list) == 0 {
		return "; there are none at all"
	}
	var b strings.Builder
	b.WriteString(" of these:")
	for _, m := range list {
		reason := w.miss(m)
		if reason == "" {
			reason = "fits"
		}
		fmt.Fprintf(&b, "\n\t%s", m)
		if states := m.states(); states != "" {
			fmt.Fprintf(&b, " (%s)", states)
		}
		b.WriteString(": " + reason)
	}
	return b.String()
}
