package outboxtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
)

// Words for a queued delivery, as people read it. A [Match] takes them as states.
const (
	// Scheduled is a delivery that is not due yet and was never attempted.
	Scheduled outbox.State = "scheduled"
	// Deferred is a delivery that was attempted and is to be attempted again.
	Deferred outbox.State = "deferred"
)

// Delivery says how far a message is on its way to one recipient.
type Delivery struct {
	// Recipient is the address in the envelope.
	Recipient string
	// State is the stored state. It never is [Scheduled] or [Deferred].
	State outbox.State
	// Attempts counts the attempts so far. An attempt for which the message was not to blame is not counted.
	Attempts int
	// Due is the time of the next attempt. It means something while the delivery is queued.
	Due time.Time
	// Relay, Class, Code and Reply are the relay's name, what its last answer means (see [smtpx.Class]), the SMTP reply code and
	// the words. They are zero before the first answer. Code is also 0 if the relay gave none.
	Relay, Class string
	Code         int
	Reply        string

	later, deferred bool // when it was read, by the clock of the database
}

// Shown returns the state as people read it: [Scheduled] or [Deferred] for a queued delivery that is one, otherwise State.
func (d Delivery) Shown() outbox.State {
	switch {
	case d.State != outbox.StateQueued:
		return d.State
	case d.Attempts > 0 || d.deferred:
		return Deferred
	case d.later:
		return Scheduled
	default:
		return d.State
	}
}

const selectDeliveries = `SELECT CAST(d.message_id AS TEXT), d.recipient, d.state, d.attempts, d.due_at, d.due_at > c.now, ` +
	`d.deferred_since IS NOT NULL, COALESCE(d.relay, ''), COALESCE(d.class, ''), COALESCE(d.code, 0), COALESCE(d.reply, '') ` +
	`FROM outbox_deliveries d CROSS JOIN outbox_clock c ORDER BY d.message_id, d.seq`

// addDeliveries gives every message its deliveries.
func addDeliveries(ctx context.Context, db Queryer, list []*Mail) error {
	if len(list) == 0 {
		return nil
	}
	byID := make(map[outbox.ID]*Mail, len(list))
	for _, m := range list {
		byID[m.ID] = m
	}
	rows, err := db.QueryContext(ctx, selectDeliveries)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			id  outbox.ID
			d   Delivery
			due any
		)
		err := rows.Scan(&id, &d.Recipient, &d.State, &d.Attempts, &due, &d.later, &d.deferred, &d.Relay, &d.Class, &d.Code, &d.Reply)
		if err != nil {
			return err
		}
		if d.Due, err = timeOf(due); err != nil {
			return err
		}
		if m := byID[id]; m != nil { // a message that was enqueued meanwhile is not in the list
			m.Deliveries = append(m.Deliveries, d)
		}
	}
	return rows.Err()
}

// checkState refuses a word that is no state: a match with it would never fit, and its absence would prove nothing.
func checkState(s outbox.State) error {
	if s == "" || s == Scheduled || s == Deferred || s.Valid() {
		return nil
	}
	words := []string{string(Scheduled), string(Deferred)}
	for _, state := range outbox.States() {
		words = append(words, string(state))
	}
	return fmt.Errorf("%q is not a state: want %s", s, strings.Join(words, ", "))
}

// hasState says whether the deliveries that are meant have a state: all of them, or some where some is true. Without an
// address every delivery of the message is meant.
func (m *Mail) hasState(want outbox.State, to string, some bool) bool {
	meant := m.Deliveries
	if to != "" {
		meant = slices.DeleteFunc(slices.Clone(meant), func(d Delivery) bool { return !strings.EqualFold(d.Recipient, to) })
	}
	fits := func(d Delivery) bool { return d.State == want || d.Shown() == want }
	if some {
		return slices.ContainsFunc(meant, fits)
	}
	return len(meant) > 0 && !slices.ContainsFunc(meant, func(d Delivery) bool { return !fits(d) })
}

// states names the states of the deliveries: one word if they are all the same. It is empty for mail that arrived.
func (m *Mail) states() string {
	if len(m.Deliveries) == 0 {
		return ""
	}
	first := m.Deliveries[0].Shown()
	if !slices.ContainsFunc(m.Deliveries, func(d Delivery) bool { return d.Shown() != first }) {
		return string(first)
	}
	words := make([]string, len(m.Deliveries))
	for i, d := range m.Deliveries {
		words[i] = fmt.Sprintf("%s %s", d.Recipient, d.Shown())
	}
	return strings.Join(words, ", ")
}
