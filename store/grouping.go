package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// grouping collects the deliveries of one claim under their messages, in the order in which they come.
type grouping struct {
	token      string
	alone      bool // it is for one message whose leases lapsed time and again
	list       []queue.Claimed
	leased     int
	suppressed int
	unread     []unread
	index      map[outbox.ID]int    // of list
	reasons    map[outbox.ID]string // why a message cannot be read
}

// unread is a claimed delivery whose message cannot be read.
type unread struct {
	key    key
	reason string
}

// statement names the statement that claims.
func (g *grouping) statement() string {
	if g.alone {
		return "claim_alone"
	}
	return "claim"
}

// passedOver is how many deliveries the claim took from the queue without handing them out.
func (g *grouping) passedOver() int { return g.suppressed + len(g.unread) }

// add adds a delivery. Its message is nil if the row is missing. What cannot be read is set aside and is no error.
func (g *grouping) add(l leasedRow, m *messageRow) {
	if l.State != outbox.StateSending {
		g.suppressed++
		return
	}
	i, known := g.index[l.ID]
	if !known {
		if g.index == nil {
			g.index, g.reasons = make(map[outbox.ID]int), make(map[outbox.ID]string)
		}
		c, err := g.claimedMessage(l, m)
		if err != nil {
			g.reasons[l.ID] = err.Error()
		}
		i = len(g.list)
		if err == nil {
			g.list = append(g.list, c)
		}
		g.index[l.ID] = i
	}
	if reason := g.reasons[l.ID]; reason != "" {
		g.unread = append(g.unread, unread{key{l.ID, l.Seq}, reason})
		return
	}
	g.leased++
	g.list[i].Deliveries = append(g.list[i].Deliveries, queue.ClaimedDelivery{
		Seq: l.Seq, Recipient: l.Recipient, Attempt: l.Attempts, DeferredFor: seconds(l.DeferredFor), Class: l.Class, Relay: l.Relay,
	})
}

// claimedMessage makes the claim of a message from its rows. Its error says what cannot be read.
func (g *grouping) claimedMessage(l leasedRow, m *messageRow) (queue.Claimed, error) {
	if m == nil {
		return queue.Claimed{}, errors.New("outbox_messages has no row for it")
	}
	if id, err := outbox.ParseID(string(l.ID)); err != nil || id != l.ID {
		return queue.Claimed{}, fmt.Errorf("%q is not the canonical form of a message id", string(l.ID))
	}
	c := queue.Claimed{
		ID: l.ID, MessageID: m.RFCID, IdempotencyKey: m.Key, Route: m.Route, Priority: m.Priority, Sender: m.Sender, Subject: m.Subject,
		Size: m.Size, OnUncertain: m.OnUncertain, TraceParent: m.TraceParent, Age: seconds(m.Age), ExpiresIn: seconds(l.ExpiresIn),
		Body: m.Body, BodyKeyID: m.KeyID, Token: g.token,
	}
	if err := decode(m.Tags, &c.Tags); err != nil {
		return c, fmt.Errorf("tags is not an array of strings: %w", err)
	}
	if err := decode(m.Metadata, &c.Metadata); err != nil {
		return c, fmt.Errorf("metadata is not an object of strings: %w", err)
	}
	return c, nil
}

// classUnreadable is the class of a message that is held because the store cannot read it: the message is to blame.
const classUnreadable = "message"

// holdUnread settles what a claim took and could not read: sending → held, with the reason. c is the transaction of the claim,
// or nil.
func (s *Store) holdUnread(ctx context.Context, c conn, owner string, group *grouping) error {
	if len(group.unread) == 0 {
		return nil
	}
	owner = clean(owner)
	rows := make([]settlementJSON, len(group.unread))
	for i, u := range group.unread {
		rows[i] = settlementJSON{
			refJSON: refJSON{ID: u.key.ID, Seq: u.key.Seq, Token: group.token}, Verb: queue.Held, State: outbox.StateHeld,
			Delay: s.interval(0), Uncounted: true, Evidence: true, Class: optional(classUnreadable),
			Reply: words("the message cannot be read: " + u.reason), Owner: owner,
		}
	}
	answers := make(map[refJSON]answer, len(rows))
	switch {
	case c == nil:
		_, err := s.settle(ctx, owner, rows, nil)
		return err
	case s.dialect == schema.Postgres:
		return s.settlePostgres(ctx, c, owner, rows, answers)
	default:
		return s.settleSQLite(ctx, c, rows, answers)
	}
}

// decode reads a JSON column that may be NULL.
func decode(column []byte, into any) error {
	if len(column) == 0 {
		return nil
	}
	return json.Unmarshal(column, into)
}

// readList reads a JSON array for people. An element that is no string appears as its JSON text. A column that is no array
// appears as one such element.
func readList(column []byte) []string {
	var list []string
	if decode(column, &list) == nil {
		return list
	}
	var values []json.RawMessage
	if json.Unmarshal(column, &values) != nil {
		return []string{string(column)}
	}
	list = make([]string, len(values))
	for i, v := range values {
		list[i] = readValue(v)
	}
	return list
}

// readMap reads a JSON object as [readList] reads an array. A column that is no object appears under an empty key.
func readMap(column []byte) map[string]string {
	var all map[string]string
	if decode(column, &all) == nil {
		return all
	}
	var values map[string]json.RawMessage
	if json.Unmarshal(column, &values) != nil {
		return map[string]string{"": string(column)}
	}
	all = make(map[string]string, len(values))
	for k, v := range values {
		all[k] = readValue(v)
	}
	return all
}

func readValue(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	return string(v)
}
