package store

import (
	"context"
	"encoding/json"
	"strings"
	"time"
)

// Action is an entry of the audit: what an operator did.
type Action struct {
	At    time.Time
	Actor string
	// Verb is the name of the operation, such as "requeue", "resolve-sent", "pause" or "suppress".
	Verb string
	// Filter is what the operator chose, as the JSON of a [Filter] or with the name of a relay.
	Filter json.RawMessage
	// Reason is what [WithReason] gave, empty for none.
	Reason string
	// Changed counts the deliveries, routes, relays or addresses that were changed.
	Changed int64
}

// Change is what an operator did to one delivery.
type Change struct {
	Seq    int
	At     time.Time
	Actor  string
	Verb   string // as in [Action]
	Reason string // empty for none
}

// operatorMark begins the verb of a [Change] in outbox_attempts, which has the history of a delivery.
const operatorMark = "operator-"

// reasonKey is the key of a reason in a context.
type reasonKey struct{}

// WithReason returns a context under which the audit of every verb of operators records the reason.
func WithReason(ctx context.Context, reason string) context.Context {
	return context.WithValue(ctx, reasonKey{}, reason)
}

func reasonOf(ctx context.Context) string {
	reason, _ := ctx.Value(reasonKey{}).(string)
	return reason
}

// Actions returns the newest entries of the audit, at most limit, the newest first.
func (s *Store) Actions(ctx context.Context, limit int) ([]Action, error) {
	type row struct {
		ID, Actor, Verb, Filter, Reason string
		At                              timestamp
		Affected                        int64
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("actions"), max(0, limit))
	if err != nil {
		return nil, s.failed(ctx, err, "read the audit")
	}
	list := make([]Action, len(rows))
	for i, r := range rows {
		list[i] = Action{At: r.At.Time, Actor: r.Actor, Verb: r.Verb, Reason: r.Reason, Changed: r.Affected}
		if json.Valid([]byte(r.Filter)) {
			list[i].Filter = json.RawMessage(r.Filter)
		}
	}
	return list, nil
}

// noteChange records in the history of each delivery that an operator changed it.
func (s *Store) noteChange(ctx context.Context, c conn, verb string, keys []key) error {
	list := make([]refJSON, len(keys))
	for i, k := range keys {
		list[i] = refJSON{ID: k.ID, Seq: k.Seq}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	_, err = c.ExecContext(ctx, s.queries.get("note_change"), string(text), operatorMark+verb, s.actor, words(reasonOf(ctx)))
	return err
}

// change returns the [Change] that an attempt's row holds, or false.
func (a *Attempt) change() (Change, bool) {
	verb, ok := strings.CutPrefix(string(a.Verb), operatorMark)
	return Change{Seq: a.Seq, At: a.StartedAt, Actor: a.Owner, Verb: verb, Reason: a.Reply}, ok
}
