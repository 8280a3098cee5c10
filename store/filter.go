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
	// IDs are messages, any number of them.
	IDs []outbox.ID `json:"ids,omitempty"`
	// States are those of the deliveries.
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
	// Before and After bound the time of enqueueing, by the clock of the database.
	Before time.Time `json:"before,omitzero"`
	After  time.Time `json:"after,omitzero"`
	// Limit bounds the number of deliveries. Defaults to no limit.
	Limit int `json:"limit,omitempty"`
}

// Empty reports whether no field is set besides Limit: the filter selects everything.
func (f Filter) Empty() bool {
	f.Limit = 0
	text, err := json.Marshal(f)
	return err == nil && string(text) == "{}"
}

// check refuses a filter that can only be a mistake.
func (f Filter) check() error {
	for _, st := range f.States {
		if !st.Valid() {
			return fmt.Errorf("state %q is not known: use one of %s", string(st), joinStates(outbox.States()))
		}
	}
	for _, field := range [...]struct{ name, address string }{{"from", f.From}, {"to", f.To}} {
		if field.address != "" && (!strings.Contains(field.address, "@") || strings.HasSuffix(field.address, "@")) {
			return fmt.Errorf("%s: %q is neither an address nor @domain", field.name, field.address)
		}
	}
	for _, name := range slices.Concat(f.Routes, []string{f.From, f.To, f.Class, f.Relay, f.Key}) {
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
	quoted := make([]string, len(states))
	terminal := true
	for i, st := range states {
		quoted[i] = "'" + string(st) + "'" // one of [outbox.States], checked
		terminal = terminal && st.Terminal()
	}
	p.termf("d.state IN (%s)", strings.Join(quoted, ", "))
	if terminal {
		p.termf("d.finished_at IS NOT NULL") // follows from the states; the index wants to be told
	}
}

// predicate translates the filter, for listing, counting and every verb.
func (f Filter) predicate(d schema.Dialect) (*predicate, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	p := &predicate{dialect: d}
	if len(f.IDs) > 0 {
		ids := make([]string, len(f.IDs))
		for i, id := range f.IDs {
			canonical, err := outbox.ParseID(string(id))
			if err != nil {
				return nil, err
			}
			ids[i] = string(canonical)
		}
		if err := p.messages(ids); err != nil {
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
	return p, nil
}
