package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

// Operation is a verb of operators: it changes every delivery that a [Filter] selects and whose state allows it.
type Operation string

// The operations. Each has a method of the same name.
const (
	OpRequeue Operation = "requeue"
	OpHold    Operation = "hold"
	OpRelease Operation = "release"
	OpCancel  Operation = "cancel"
	OpResolve Operation = "resolve"
	OpPurge   Operation = "purge"
	// OpHoldRestored is that of [Store.HoldRestored]. The audit calls it a hold.
	OpHoldRestored Operation = "hold restored"
)

// Resolution says what an operator found out about an uncertain delivery.
type Resolution string

// The resolutions.
const (
	// ResolveSent records that the message arrived: uncertain → sent.
	ResolveSent Resolution = "sent"
	// ResolveResend sends it again: uncertain → queued, due now.
	ResolveResend Resolution = "resend"
)

// BulkOption changes how an operation runs.
type BulkOption func(*bulk)

// OnProgress calls fn after every batch with the number of deliveries changed so far.
func OnProgress(fn func(done int64)) BulkOption { return func(b *bulk) { b.progress = fn } }

// as records an operation under another name.
func as(verb string) BulkOption { return func(b *bulk) { b.verb = verb } }

// bulkBatch is how many deliveries an operation changes in one transaction. Dispatchers and the application wait for no longer
// than that.
const bulkBatch = 1000

// Requeue makes deliveries due now and counts their attempts anew: failed, expired and deferred ones. Somebody decided that the
// cancelled and suppressed ones are not sent: it requeues those only if Filter.States names their state or Filter.Deliveries names
// them, never because Filter.IDs names their message. It requeues sent ones only if Filter.States names [outbox.StateSent], because
// their recipients get a second copy. A delivery whose body was scrubbed stays. A deadline that has passed is lifted. For held
// deliveries use [Store.Release], for uncertain ones [Store.Resolve]. A cancelled message does not get its key back.
//
// Like every operation it returns the number of changed deliveries. On an error the changes made so far are kept.
func (s *Store) Requeue(ctx context.Context, f Filter, opts ...BulkOption) (int64, error) {
	return s.run(ctx, OpRequeue, f, opts, "state = 'queued', due_at = @now, attempts = 0, lapses = 0, deferred_since = NULL, "+
		"finished_at = NULL, expires_at = CASE WHEN expires_at > @now THEN expires_at END")
}

// Hold sets queued deliveries aside: queued → held.
func (s *Store) Hold(ctx context.Context, f Filter, opts ...BulkOption) (int64, error) {
	return s.run(ctx, OpHold, f, opts, "state = 'held'")
}

// Release lets held deliveries go on, when they are due: held → queued.
func (s *Store) Release(ctx context.Context, f Filter, opts ...BulkOption) (int64, error) {
	return s.run(ctx, OpRelease, f, opts, "state = 'queued', lapses = 0")
}

// Cancel withdraws deliveries that are not on their way yet: queued, held → cancelled. A message of which every delivery is
// cancelled gives its key back.
func (s *Store) Cancel(ctx context.Context, f Filter, opts ...BulkOption) (int64, error) {
	return s.run(ctx, OpCancel, f, opts, "state = 'cancelled', finished_at = @now")
}

// Resolve ends the doubt about uncertain deliveries: uncertain → sent or queued.
func (s *Store) Resolve(ctx context.Context, f Filter, r Resolution, opts ...BulkOption) (int64, error) {
	switch r {
	case ResolveSent:
		opts = append(slices.Clip(opts), as("resolve-sent"))
		return s.run(ctx, OpResolve, f, opts, "state = 'sent', finished_at = @now, doubt_token = NULL")
	case ResolveResend:
		opts = append(slices.Clip(opts), as("resolve-resend"))
		return s.run(ctx, OpResolve, f, opts, "state = 'queued', due_at = @now, lapses = 0, doubt_token = NULL")
	default:
		return 0, fmt.Errorf("resolve: %q is not a resolution: use sent or resend", string(r))
	}
}

// Purge removes deliveries in a terminal state with their attempts and feedback, and every message whose last delivery went.
func (s *Store) Purge(ctx context.Context, f Filter, opts ...BulkOption) (int64, error) {
	return s.run(ctx, OpPurge, f, opts, "")
}

// DryRun counts the deliveries that an operation would change and returns the first of them, at most samples. It writes nothing.
func (s *Store) DryRun(ctx context.Context, op Operation, f Filter, samples int) (int64, []Delivery, error) {
	p, err := s.operable(op, f)
	if err != nil {
		return 0, nil, fmt.Errorf("dry run of %s: %w", op, err)
	}
	n, err := s.count(ctx, p)
	if err != nil {
		return 0, nil, s.failed(ctx, err, "dry run of %s", op)
	}
	if f.Limit > 0 {
		n = min(n, int64(f.Limit))
	}
	query := fmt.Sprintf("%s WHERE %s ORDER BY d.message_id, d.seq LIMIT %s",
		selectDeliveries, p.sql(), p.arg(max(0, min(n, int64(samples)))))
	rows, err := collect[deliveryRow](ctx, s.db, s.qualify(query), p.args...)
	if err != nil {
		return 0, nil, s.failed(ctx, err, "dry run of %s", op)
	}
	list := make([]Delivery, len(rows))
	for i, r := range rows {
		list[i] = r.delivery()
	}
	return n, list, nil
}

// guards are the states that each operation starts from.
var guards = map[Operation]string{
	OpRequeue: "(d.state IN ('failed', 'expired') OR " +
		"d.state = 'queued' AND (d.attempts > 0 OR d.deferred_since IS NOT NULL OR d.lapses > 0)) AND m.body IS NOT NULL",
	OpHold:    "d.state = 'queued'",
	OpRelease: "d.state = 'held'",
	OpCancel:  "d.state IN ('queued', 'held')",
	OpResolve: "d.state = 'uncertain'",
	OpPurge:   "d.finished_at IS NOT NULL",

	OpHoldRestored: "d.state IN ('queued', 'sending', 'uncertain')",
}

// operable returns the predicate of a filter, narrowed to the states from which the operation starts.
func (s *Store) operable(op Operation, f Filter) (*predicate, error) {
	guard, ok := guards[op]
	if !ok {
		return nil, fmt.Errorf("%q is not an operation", string(op))
	}
	p, err := f.predicate(s.dialect)
	if err != nil {
		return nil, err
	}
	if op == OpRequeue {
		for _, st := range []outbox.State{outbox.StateSent, outbox.StateCancelled, outbox.StateSuppressed} {
			if slices.Contains(f.States, st) {
				guard = strings.Replace(guard, "'failed',", "'"+string(st)+"', 'failed',", 1)
			}
		}
		if len(f.States) == 0 && len(f.Deliveries) > 0 {
			list, err := canonicalKeys(f.Deliveries)
			if err != nil {
				return nil, err
			}
			named, err := p.keys(list)
			if err != nil {
				return nil, err
			}
			guard = "((" + guard + ") OR d.state IN ('cancelled', 'suppressed') AND m.body IS NOT NULL AND " + named + ")"
		}
	}
	p.termf("(%s)", guard)
	return p, nil
}

// bulk is one run of an operation.
type bulk struct {
	op       Operation
	verb     string // as it is recorded
	filter   Filter
	set      string
	progress func(int64)
	done     int64
	action   string // the row of outbox_actions, empty before the first batch
	last     *key
}

// run changes all deliveries that the operation may change, in the order of their keys, one batch in each transaction. The
// first batch that changes something records the action. The others add to it.
func (s *Store) run(ctx context.Context, op Operation, f Filter, opts []BulkOption, set string) (int64, error) {
	b := &bulk{op: op, verb: string(op), filter: f, set: strings.ReplaceAll(set, "@now", s.now()), progress: func(int64) {}}
	for _, opt := range opts {
		opt(b)
	}
	for {
		size := bulkBatch
		if f.Limit > 0 {
			size = min(size, f.Limit-int(b.done))
		}
		var changed []key
		action := b.action
		err := s.atomically(ctx, func(c conn) (err error) {
			if changed, err = s.batch(ctx, c, b, size); err != nil || len(changed) == 0 {
				return err
			}
			action, err = s.note(ctx, c, note{row: b.action, verb: b.verb, subject: f, before: b.done, changed: int64(len(changed))})
			return err
		})
		if err != nil {
			return b.done, s.failed(ctx, err, "%s", op)
		}
		if len(changed) == 0 {
			return b.done, nil
		}
		b.action = action
		b.done += int64(len(changed))
		last := slices.MaxFunc(changed, compareKeys)
		b.last = &last
		b.progress(b.done)
		if len(changed) < size || f.Limit > 0 && b.done >= int64(f.Limit) {
			return b.done, nil
		}
	}
}

// now returns the expression for the clock of the database.
func (s *Store) now() string { return clock(s.dialect) }

func clock(d schema.Dialect) string {
	if d == schema.Postgres {
		return "now()"
	}
	return "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
}

// batch changes the next deliveries and returns their keys. A CTE chooses them, because a join may run a subquery with LIMIT
// more than once. SQLite needs no row locks.
func (s *Store) batch(ctx context.Context, c conn, b *bulk, size int) ([]key, error) {
	p, err := s.operable(b.op, b.filter)
	if err != nil {
		return nil, err
	}
	if b.last != nil {
		p.termf("(d.message_id, d.seq) > (%s, %s)", p.arg(string(b.last.ID)), p.arg(b.last.Seq))
	}
	lock := ""
	if s.dialect == schema.Postgres {
		lock = "FOR UPDATE OF d"
		if b.op == OpRequeue {
			lock += " FOR SHARE OF m" // another transaction may be scrubbing its body
		}
	}
	if b.op == OpHoldRestored { // what is held must not be fenced by the former holder of its lease
		if _, err := c.ExecContext(ctx, s.queries.get("lapse_all")); err != nil {
			return nil, err
		}
	}
	change := "UPDATE outbox_deliveries SET " + b.set
	if b.op == OpPurge {
		change = "DELETE FROM outbox_deliveries"
	}
	changed, err := collect[key](ctx, c, s.qualify(fmt.Sprintf(`WITH chosen AS MATERIALIZED (
  SELECT d.message_id, d.seq FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
  WHERE %s ORDER BY d.message_id, d.seq LIMIT %s %s
)
%s WHERE (message_id, seq) IN (SELECT message_id, seq FROM chosen) RETURNING message_id AS id, seq`,
		p.sql(), p.arg(size), lock, change)), p.args...)
	if err != nil || len(changed) == 0 {
		return changed, err
	}
	if b.op != OpPurge {
		if err := s.noteChange(ctx, c, b.verb, changed); err != nil {
			return changed, err
		}
	}
	if b.op == OpCancel {
		return changed, s.onKeys(ctx, c, changed, "free_keys")
	}
	if b.op == OpPurge {
		if err := s.forget(ctx, c, changed); err != nil {
			return changed, err
		}
		return changed, s.onKeys(ctx, c, changed, "rewind_scrubbing")
	}
	return changed, nil
}

// forget removes the attempts and feedback of purged deliveries, and messages without any delivery left. It locks the messages
// before it looks, because another purge may be removing the other deliveries.
func (s *Store) forget(ctx context.Context, c conn, gone []key) error {
	names := []string{"forget_attempts", "forget_feedback", "forget_messages"}
	if s.dialect == schema.Postgres {
		names = slices.Insert(names, 2, "lock_messages")
	}
	return s.onKeys(ctx, c, gone, names...)
}

// Tally counts the deliveries that an operation would change, by route and state. It writes nothing.
func (s *Store) Tally(ctx context.Context, op Operation, f Filter) ([]Count, error) {
	p, err := s.operable(op, f)
	if err != nil {
		return nil, fmt.Errorf("count for %s: %w", op, err)
	}
	limit := ""
	if f.Limit > 0 {
		limit = "ORDER BY d.message_id, d.seq LIMIT " + p.arg(f.Limit)
	}
	counts, err := collect[Count](ctx, s.db, s.qualify(fmt.Sprintf(`SELECT route, state, count(*) AS deliveries FROM (
  SELECT d.route, d.state FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id WHERE %s %s
) AS x GROUP BY route, state ORDER BY route, state`, p.sql(), limit)), p.args...)
	if err != nil {
		return nil, s.failed(ctx, err, "count for %s", op)
	}
	return counts, nil
}

// onKeys runs statements whose only argument is a list of keys of deliveries.
func (s *Store) onKeys(ctx context.Context, c conn, keys []key, names ...string) error {
	list := make([]refJSON, len(keys))
	for i, k := range keys {
		list[i] = refJSON{ID: k.ID, Seq: k.Seq}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := c.ExecContext(ctx, s.queries.get(name), string(text)); err != nil {
			return err
		}
	}
	return nil
}

// note is one batch of an action that is recorded once.
type note struct {
	row             string // of outbox_actions, empty for the first batch
	verb            string
	subject         any
	before, changed int64
}

// note records an action or adds to it, and returns its row.
func (s *Store) note(ctx context.Context, c conn, n note) (string, error) {
	if n.row == "" {
		return s.audit(ctx, c, n.verb, n.subject, n.changed)
	}
	rows, err := affected(ctx, c, s.queries.get("amend_action"), n.row, n.before+n.changed)
	if err == nil && rows != 1 {
		err = errors.New("the audit of the operation is gone")
	}
	return n.row, err
}

// audit records an action and returns its row.
func (s *Store) audit(ctx context.Context, c conn, verb string, subject any, changed int64) (string, error) {
	text, err := json.Marshal(subject)
	if err != nil {
		return "", err
	}
	var id string
	err = sqlx.GetContext(ctx, c, &id, s.queries.get("record_action"), s.actor, verb, string(text), changed, words(reasonOf(ctx)))
	return id, err
}
