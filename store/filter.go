package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

// Filter selects deliveries. A delivery must match every field that is set, and one of the values of each. The zero value selects
// all.
type Filter struct {
	// IDs are messages, any number of them. Deliveries are single recipients. A delivery matches if either names it.
	IDs        []outbox.ID  `json:"ids,omitempty"`
	Deliveries []DeliveryID `json:"deliveries,omitempty"`
	// States are those of the deliveries, or [Scheduled] and [Deferred], into which people divide the queued ones.
	States []outbox.State `json:"states,omitempty"`
	// Routes are the names of routes.
	Routes []string `json:"routes,omitempty"`
	// From is the envelope sender, To the recipient: an address, or "@" and a domain, which may be international. Case is ignored.
	// SQLite ignores only the case of ASCII before the @.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Class and Code are those of the last outcome; see package smtpx.
	Class string `json:"class,omitempty"`
	Code  int    `json:"code,omitempty"`
	// Relay is the one that gave the last outcome.
	Relay string `json:"relay,omitempty"`
	// Key is the idempotency key.
	Key string `json:"key,omitempty"`
	// Tag is one of the tags of the message. Metadata are pairs that it must have, all of them. Sealed metadata match nothing.
	Tag      string            `json:"tag,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	// Subject is a part of the subject. Case is ignored; SQLite ignores only the case of ASCII. A sealed subject matches nothing.
	Subject string `json:"subject,omitempty"`
	// Before and After bound the time of enqueueing, by the clock of the database.
	Before time.Time `json:"before,omitzero"`
	After  time.Time `json:"after,omitzero"`
	// Since and Until bound the time of the last change: when the delivery finished, or else its last attempt that did not succeed,
	// or else its enqueueing. Since takes its own instant, Until does not.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Limit bounds the number of deliveries. Defaults to no limit.
	Limit int `json:"limit,omitempty"`
}

// DeliveryID names a delivery: one recipient of a message.
type DeliveryID struct {
	ID  outbox.ID `json:"id"`
	Seq int       `json:"seq"` // from 1
}

// String returns the form in which outboxctl prints and reads it: ID/SEQ.
func (d DeliveryID) String() string { return string(d.ID) + "/" + strconv.Itoa(d.Seq) }

// Scheduled and Deferred are the two kinds of queued deliveries that [Delivery.Shown] tells apart. A [Filter] takes them as states.
const (
	Scheduled outbox.State = "scheduled" // never tried, and not due yet
	Deferred  outbox.State = "deferred"  // waits after an attempt
)

// Empty reports whether no field is set besides Limit: the filter selects everything.
func (f Filter) Empty() bool {
	f.Limit = 0
	text, err := json.Marshal(f)
	return err == nil && string(text) == "{}"
}

// check refuses a filter that can only be a mistake.
func (f Filter) check() error {
	for _, st := range f.States {
		if !st.Valid() && st != Scheduled && st != Deferred {
			return fmt.Errorf("state %q is not known: use one of %s", string(st), joinStates(outbox.States()))
		}
	}
	for _, field := range [...]struct{ name, address string }{{"from", f.From}, {"to", f.To}} {
		if field.address != "" && (!strings.Contains(field.address, "@") || strings.HasSuffix(field.address, "@")) {
			return fmt.Errorf("%s: %q is neither an address nor @domain", field.name, field.address)
		}
	}
	for _, name := range slices.Concat(f.Routes, []string{f.From, f.To, f.Class, f.Relay, f.Key, f.Tag, f.Subject}) {
		if name != clean(name) {
			return fmt.Errorf("%q is not text", name)
		}
	}
	if f.Limit < 0 {
		return fmt.Errorf("limit: %d is negative", f.Limit)
	}
	if !f.Before.IsZero() && !f.After.IsZero() && !f.After.Before(f.Before) {
		return errors.New("after: must lie before the time given as before")
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return errors.New("since: must lie before the time given as until")
	}
	for _, d := range f.Deliveries {
		if d.Seq < 1 {
			return fmt.Errorf("delivery %s: a recipient has a number from 1", d)
		}
	}
	for name, value := range f.Metadata {
		if name == "" || name != clean(name) || value != clean(value) {
			return fmt.Errorf("metadata %q: the name is empty, or it is not text", name)
		}
	}
	return nil
}

func joinStates(states []outbox.State) string {
	names := make([]string, len(states))
	for i, st := range states {
		names[i] = string(st)
	}
	return strings.Join(names, ", ")
}

// predicate is a condition over outbox_deliveries d joined with outbox_messages m, and its arguments.
type predicate struct {
	dialect schema.Dialect
	terms   []string
	args    []any
}

// arg adds an argument and returns its placeholder. Placeholders stand in the order of their numbers; see numbered.
func (p *predicate) arg(v any) string {
	p.args = append(p.args, v)
	return "$" + strconv.Itoa(len(p.args))
}

// termf adds a condition.
func (p *predicate) termf(format string, args ...any) {
	p.terms = append(p.terms, fmt.Sprintf(format, args...))
}

// sql renders the condition.
func (p *predicate) sql() string {
	if len(p.terms) == 0 {
		return "TRUE"
	}
	return strings.Join(p.terms, " AND ")
}

// messages adds a condition that the delivery belongs to one of the messages. They are one argument, because databases bound the
// number of arguments.
func (p *predicate) messages(ids []string) error {
	list, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	term := "d.message_id IN (SELECT value FROM json_each(%s))"
	if p.dialect == schema.Postgres {
		term = "d.message_id = ANY (ARRAY(SELECT jsonb_array_elements_text(%s::jsonb)::uuid))"
	}
	p.termf(term, p.arg(string(list)))
	return nil
}

// keys returns a condition that the delivery is one of those, as one argument.
func (p *predicate) keys(list []DeliveryID) (string, error) {
	text, err := json.Marshal(list)
	if err != nil {
		return "", err
	}
	term := "(d.message_id, d.seq) IN (SELECT value ->> 'id', value ->> 'seq' FROM json_each(%s))"
	if p.dialect == schema.Postgres {
		term = "(d.message_id, d.seq) IN (SELECT id, seq FROM jsonb_to_recordset(%s::jsonb) AS x (id uuid, seq integer))"
	}
	return fmt.Sprintf(term, p.arg(string(text))), nil
}

// named adds a condition that the delivery is named, by its message or by itself. Where both are given, the recipients of the
// messages are looked up first: a database could use no index for an OR.
func (p *predicate) named(messages []outbox.ID, deliveries []DeliveryID) error {
	ids := make([]string, len(messages))
	for i, id := range messages {
		canonical, err := outbox.ParseID(string(id))
		if err != nil {
			return err
		}
		ids[i] = string(canonical)
	}
	list, err := canonicalKeys(deliveries)
	if err != nil {
		return err
	}
	switch {
	case len(list) == 0:
		return p.messages(ids)
	case len(ids) == 0:
		term, err := p.keys(list)
		p.termf("%s", term)
		return err
	}
	names, err := json.Marshal(ids)
	if err != nil {
		return err
	}
	keys, err := json.Marshal(list)
	if err != nil {
		return err
	}
	term := `(d.message_id, d.seq) IN (SELECT value ->> 'id', value ->> 'seq' FROM json_each(%s)
 UNION SELECT y.message_id, y.seq FROM outbox_deliveries y WHERE y.message_id IN (SELECT value FROM json_each(%s)))`
	if p.dialect == schema.Postgres {
		term = `(d.message_id, d.seq) IN (SELECT id, seq FROM jsonb_to_recordset(%s::jsonb) AS x (id uuid, seq integer)
 UNION SELECT y.message_id, y.seq FROM outbox_deliveries y 
 WHERE y.message_id = ANY (ARRAY(SELECT jsonb_array_elements_text(%s::jsonb)::uuid)))`
	}
	first := p.arg(string(keys))
	p.termf(term, first, p.arg(string(names)))
	return nil
}

// canonicalKeys returns the deliveries with their ids in the form that the tables have.
func canonicalKeys(list []DeliveryID) ([]DeliveryID, error) {
	out := make([]DeliveryID, len(list))
	for i, d := range list {
		id, err := outbox.ParseID(string(d.ID))
		if err != nil {
			return nil, err
		}
		out[i] = DeliveryID{ID: id, Seq: d.Seq}
	}
	return out, nil
}

// in adds a condition that a column has one of the values.
func (p *predicate) in(column string, values []string) {
	marks := make([]string, len(values))
	for i, v := range values {
		marks[i] = p.arg(v)
	}
	p.termf("%s IN (%s)", column, strings.Join(marks, ", "))
}

// address adds a condition on an address column. The database puts both sides in lower case, so that both follow its rules.
func (p *predicate) address(column, pattern string) {
	if domain, ok := strings.CutPrefix(pattern, "@"); ok {
		_, domain, _ = cutLast(canonicalAddress("x@"+domain), "@")
		p.termf(`lower(%s) LIKE lower(CAST(%s AS text)) ESCAPE '\'`, column, p.arg("%@"+escapeLike(domain)))
		return
	}
	p.termf("lower(%s) = lower(CAST(%s AS text))", column, p.arg(canonicalAddress(pattern)))
}

func escapeLike(s string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
}

// states adds the states as literals, so that partial indexes match under any plan.
func (p *predicate) states(states []outbox.State) {
	var quoted, terms []string
	terminal := true
	for _, st := range states {
		terminal = terminal && st.Terminal()
		switch st {
		case Scheduled:
			terms = append(terms, "d.state = 'queued' AND d.attempts = 0 AND d.deferred_since IS NULL AND d.lapses = 0 AND d.due_at > "+
				clock(p.dialect))
		case Deferred:
			terms = append(terms, "d.state = 'queued' AND (d.attempts > 0 OR d.deferred_since IS NOT NULL OR d.lapses > 0)")
		default:
			quoted = append(quoted, "'"+string(st)+"'") // one of [outbox.States], checked
		}
	}
	if len(quoted) > 0 {
		terms = append(terms, fmt.Sprintf("d.state IN (%s)", strings.Join(quoted, ", ")))
	}
	p.termf("(%s)", strings.Join(terms, " OR "))
	if terminal {
		p.termf("d.finished_at IS NOT NULL") // follows from the states; the index wants to be told
	}
}

// lastChange is when a delivery changed last. What is finished does not change any more, and its time has an index.
func (f Filter) lastChange() string {
	finished := len(f.States) > 0
	for _, st := range f.States {
		finished = finished && st.Terminal()
	}
	if finished {
		return "d.finished_at"
	}
	return `coalesce(d.finished_at, (SELECT max(a.noted_at) FROM outbox_attempts a
 WHERE a.message_id = d.message_id AND a.seq = d.seq), m.created_at)`
}

// details adds conditions on what the application put into the message.
func (p *predicate) details(f Filter) error {
	if f.Tag != "" {
		term := "EXISTS (SELECT 1 FROM json_each(m.tags) t WHERE t.value = %s)"
		if p.dialect == schema.Postgres {
			term = "m.tags @> jsonb_build_array(CAST(%s AS text))"
		}
		p.termf(term, p.arg(f.Tag))
	}
	if len(f.Metadata) > 0 {
		text, err := json.Marshal(f.Metadata)
		if err != nil {
			return err
		}
		term := `NOT EXISTS (SELECT 1 FROM json_each(%s) w
 WHERE NOT EXISTS (SELECT 1 FROM json_each(m.metadata) h WHERE h.key = w.key AND h.value = w.value))`
		if p.dialect == schema.Postgres {
			term = "m.metadata @> %s::jsonb"
		}
		p.termf(term, p.arg(string(text)))
	}
	if f.Subject != "" {
		p.termf(`lower(m.subject) LIKE lower(CAST(%s AS text)) ESCAPE '\'`, p.arg("%"+escapeLike(f.Subject)+"%"))
	}
	return nil
}

// predicate translates the filter, for listing, counting and every verb.
func (f Filter) predicate(d schema.Dialect) (*predicate, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	p := &predicate{dialect: d}
	if len(f.IDs) > 0 || len(f.Deliveries) > 0 {
		if err := p.named(f.IDs, f.Deliveries); err != nil {
			return nil, err
		}
	}
	if len(f.States) > 0 {
		p.states(slices.Compact(slices.Sorted(slices.Values(f.States))))
	}
	if len(f.Routes) > 0 {
		p.in("d.route", f.Routes)
	}
	if f.From != "" {
		p.address("m.sender", f.From)
	}
	if f.To != "" {
		p.address("d.recipient", f.To)
	}
	for _, equal := range [...]struct{ column, value string }{{"d.class", f.Class}, {"d.relay", f.Relay}, {"m.idempotency_key", f.Key}} {
		if equal.value != "" {
			p.termf("%s = %s", equal.column, p.arg(equal.value))
		}
	}
	if f.Code != 0 {
		p.termf("d.code = %s", p.arg(f.Code))
	}
	if !f.Before.IsZero() {
		p.termf("m.created_at < %s", p.arg(bindTime(f.Before)))
	}
	if !f.After.IsZero() {
		p.termf("m.created_at >= %s", p.arg(bindTime(f.After)))
	}
	if !f.Since.IsZero() {
		p.termf("%s >= %s", f.lastChange(), p.arg(bindTime(f.Since)))
	}
	if !f.Until.IsZero() {
		p.termf("%s < %s", f.lastChange(), p.arg(bindTime(f.Until)))
	}
	return p, p.details(f)
}
