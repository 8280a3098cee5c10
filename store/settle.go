package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// settlementJSON is a [queue.Settlement] as a statement reads it.
type settlementJSON struct {
	refJSON
	Verb       queue.Outcome `json:"verb"`
	State      outbox.State  `json:"state"`
	Delay      any           `json:"delay"`
	Uncounted  bool          `json:"uncounted"`
	Finished   bool          `json:"finished"`
	Evidence   bool          `json:"evidence"`
	Relay      *string       `json:"relay"`
	Stage      *string       `json:"stage"`
	Class      *string       `json:"class"`
	Code       *int          `json:"code"`
	Enhanced   *string       `json:"enhanced"`
	Reply      *string       `json:"reply"`
	ProviderID *string       `json:"provider_id"`
	DurationMS int64         `json:"duration_ms"`
	Suppress   bool          `json:"suppress"`
	Owner      string        `json:"owner"`
	Doubt      *string       `json:"doubt,omitempty"`  // token that may still settle an uncertain delivery; SQLite only
	Lapses     int           `json:"lapses,omitempty"` // to count; SQLite only
}

// verbReap is the verb of a lapsed lease.
const verbReap queue.Outcome = "reap"

// stateAfter returns the state to which a verb leads.
func stateAfter(v queue.Outcome) (outbox.State, error) {
	switch v {
	case queue.Sent:
		return outbox.StateSent, nil
	case queue.Deferred, queue.Recycled:
		return outbox.StateQueued, nil
	case queue.Failed:
		return outbox.StateFailed, nil
	case queue.Uncertain:
		return outbox.StateUncertain, nil
	case queue.Expired:
		return outbox.StateExpired, nil
	case queue.Held:
		return outbox.StateHeld, nil
	default:
		return "", fmt.Errorf("%q is not a verb that settles", string(v))
	}
}

// Settle records the outcomes of attempts under their tokens: sending → the state of each verb. An outcome other than sent also
// leaves a row in outbox_attempts with its evidence. An outcome with Suppress leaves an entry in the suppression list, and one with
// a Notice enqueues that message; see [Through]. Settle returns the refs whose deliveries are no longer held under their tokens, for
// which it changed nothing. The last delivery of a claim that is settled ends the claim.
//
// PostgreSQL passes over deliveries that another transaction has locked. The error is then a [*queue.BusyError] that names them. All
// others were recorded or are lost.
//
// An outcome that comes too late for its lease resolves the doubt that [Store.Reap] left: while the delivery is uncertain, the
// token of the lapsed lease still settles it. Once the policy of the message or an operator has resolved the doubt, it changes
// nothing.
//
// An outcome is recorded in a database of any encoding: if the encoding lacks a character, the words of all outcomes of the
// call are stored with \uXXXX for every character outside of ASCII. A ProviderID of more than 400 bytes is shortened;
// [Store.RecordFeedback] finds it all the same.
//
// Bad input, such as two outcomes for one claim, is refused before anything is written. Any other error but a BusyError means that
// none is recorded, or that the call has taken effect and only its answer was lost. It may be repeated; what it then returns as lost
// was settled. Owner names the dispatcher.
func (s *Store) Settle(ctx context.Context, owner string, list []queue.Settlement) (lost []queue.Ref, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	owner = clean(owner)
	rows := make([]settlementJSON, 0, len(list))
	notices := make(map[refJSON]*queue.Notice)
	for _, st := range list {
		row, err := s.settlementJSON(owner, st)
		if err != nil {
			return nil, fmt.Errorf("settle %s/%d: %w", st.Ref.ID, st.Ref.Seq, err)
		}
		if ref, ok := canonical(st.Ref); ok {
			row.refJSON = ref
			rows = append(rows, row)
			if st.Notice != nil {
				notices[ref] = st.Notice
			}
		}
	}
	claims := make(map[refJSON]bool, len(rows))
	for _, row := range rows {
		if claims[row.refJSON] {
			return nil, fmt.Errorf("settle %s/%d: two outcomes for one claim", row.ID, row.Seq)
		}
		claims[row.refJSON] = true
	}
	answers, err := s.settle(ctx, owner, rows, notices)
	if unstorable(err) {
		for i := range rows {
			r := &rows[i]
			asciiAll(&r.Relay, &r.Stage, &r.Class, &r.Enhanced, &r.Reply)
			if r.ProviderID != nil {
				r.ProviderID = optional(bounded(ascii(*r.ProviderID)))
			}
		}
		answers, err = s.settle(ctx, ascii(owner), rows, notices)
	}
	if err != nil {
		return nil, s.failed(ctx, err, "settle")
	}
	var busy []queue.Ref
	for _, st := range list {
		ref, _ := canonical(st.Ref) // the empty one has no answer
		switch answers[ref] {
		case refused:
			lost = append(lost, st.Ref)
		case locked:
			busy = append(busy, st.Ref)
		case done:
		}
	}
	if len(busy) > 0 {
		return lost, fmt.Errorf("settle: %w", &queue.BusyError{Refs: busy})
	}
	return lost, nil
}

// settle writes the rows and their notices, all of them or none but for those that are locked, and returns what became of each.
func (s *Store) settle(
	ctx context.Context, owner string, rows []settlementJSON, notices map[refJSON]*queue.Notice,
) (map[refJSON]answer, error) {
	answers := make(map[refJSON]answer, len(rows))
	parts := s.partsOf(rows)
	if s.dialect == schema.Postgres && len(parts) == 1 && len(notices) == 0 { // one statement needs no transaction; see change
		if err := s.settlePostgres(ctx, s.db, owner, parts[0], answers); !conflict(ctx, err) {
			return answers, err
		}
	}
	err := s.atomically(ctx, func(c conn) error {
		clear(answers)
		if s.dialect == schema.SQLite {
			if err := s.settleSQLite(ctx, c, rows, answers); err != nil {
				return err
			}
			return s.enqueueNotices(ctx, c, notices, answers)
		}
		for _, part := range parts {
			if err := s.settlePostgres(ctx, c, owner, part, answers); err != nil {
				return err
			}
		}
		return s.enqueueNotices(ctx, c, notices, answers)
	})
	return answers, err
}

// partsOf divides outcomes into those that one statement of PostgreSQL can record: each part has a key once, and either outcomes
// that are simply sent or others.
func (s *Store) partsOf(rows []settlementJSON) [][]settlementJSON {
	if s.dialect == schema.SQLite {
		return nil
	}
	var parts [][]settlementJSON
	for _, part := range apart(rows, settlementJSON.key) {
		var sent, rest []settlementJSON
		for _, r := range part {
			if r.simplySent() {
				sent = append(sent, r)
			} else {
				rest = append(rest, r)
			}
		}
		for _, p := range [][]settlementJSON{sent, rest} {
			if len(p) > 0 {
				parts = append(parts, p)
			}
		}
	}
	return parts
}

// simplySent says whether the lean statement can record an outcome.
func (r *settlementJSON) simplySent() bool { return r.Verb == queue.Sent && r.Evidence && !r.Uncounted }

func (s *Store) settlementJSON(owner string, st queue.Settlement) (settlementJSON, error) {
	state, err := stateAfter(st.Outcome)
	if err != nil {
		return settlementJSON{}, err
	}
	if st.Delay < 0 {
		return settlementJSON{}, fmt.Errorf("the delay must not be negative: %v", st.Delay)
	}
	if st.Suppress && st.Outcome != queue.Failed {
		return settlementJSON{}, fmt.Errorf("only %q puts a recipient on the suppression list, not %q", queue.Failed, st.Outcome)
	}
	if st.Notice != nil && st.Outcome != queue.Failed {
		return settlementJSON{}, fmt.Errorf("only %q gives notice, not %q", queue.Failed, st.Outcome)
	}
	e := st.Evidence
	return settlementJSON{
		Verb: st.Outcome, State: state, Delay: s.interval(st.Delay),
		Uncounted: st.Uncounted || st.Outcome == queue.Recycled, Finished: state.Terminal(),
		Evidence: e != queue.Evidence{}, Relay: words(e.Relay), Stage: words(e.Stage), Class: words(e.Class), Code: optional(e.Code),
		Enhanced: words(e.Enhanced), Reply: words(e.Reply), ProviderID: optional(bounded(e.ProviderID)), DurationMS: e.Duration.Milliseconds(),
		Suppress: st.Suppress, Owner: owner,
	}, nil
}

// settlePostgres settles, notes the attempts and suppresses in one statement. No key comes twice in rows.
func (s *Store) settlePostgres(ctx context.Context, c conn, owner string, rows []settlementJSON, answers map[refJSON]answer) error {
	var (
		name string
		args []any
	)
	if rows[0].simplySent() {
		name, args = "settle_sent", sentArrays(rows)
	} else {
		list, err := json.Marshal(rows)
		if err != nil {
			return err
		}
		name, args = "settle", []any{string(list), owner}
	}
	changed, err := collect[key](ctx, c, s.queries.get(name), args...)
	if err != nil {
		return err
	}
	settled := set(changed)
	var left []settlementJSON
	for _, r := range rows {
		if settled[r.key()] {
			answers[r.refJSON] = done
		} else {
			left = append(left, r)
		}
	}
	if len(left) == 0 {
		return nil
	}
	list, err := json.Marshal(left)
	if err != nil {
		return err
	}
	still, err := collect[key](ctx, c, s.queries.get("unsettled"), string(list))
	if err != nil {
		return err
	}
	held := set(still)
	for _, r := range left {
		if held[r.key()] {
			answers[r.refJSON] = locked
		}
	}
	return nil
}

// sentArrays returns the arguments of settle_sent.
func sentArrays(rows []settlementJSON) []any {
	columns := make([]array, 9) //nolint:mnd // one for each parameter
	for i := range rows {
		r := &rows[i]
		columns[0].add(string(r.ID))
		columns[1].add(strconv.Itoa(r.Seq))
		columns[2].add(r.Token)
		columns[3].addOptional(r.Relay)
		columns[4].addOptional(r.Class)
		if r.Code == nil {
			columns[5].addOptional(nil)
		} else {
			columns[5].add(strconv.Itoa(*r.Code))
		}
		columns[6].addOptional(r.Enhanced)
		columns[7].addOptional(r.Reply)
		columns[8].addOptional(r.ProviderID)
	}
	args := make([]any, len(columns))
	for i := range columns {
		args[i] = columns[i].literal()
	}
	return args
}

// settleSQLite settles row by row, which costs SQLite less than reading a list, and then notes the attempts and suppresses. c
// is a transaction.
func (s *Store) settleSQLite(ctx context.Context, c conn, rows []settlementJSON, answers map[refJSON]answer) error {
	var notes, bounced []settlementJSON
	tokens := make(map[string]bool)
	general, lean := s.queries.get("settle"), s.queries.get("settle_sent")
	err := eachRow(ctx, rows, func(ctx context.Context, r settlementJSON) (err error) {
		var n int64
		if r.simplySent() {
			n, err = affected(ctx, c, lean, r.ID, r.Seq, r.Token, r.Relay, r.Class, r.Code, r.Enhanced, r.Reply, r.ProviderID)
		} else {
			n, err = affected(ctx, c, general, r.ID, r.Seq, r.Token, r.Verb, r.State, r.Delay, r.Uncounted, r.Finished, r.Evidence,
				r.Relay, r.Class, r.Code, r.Enhanced, r.Reply, r.ProviderID, r.Doubt, r.Lapses)
		}
		if err != nil || n == 0 {
			return err
		}
		answers[r.refJSON] = done
		tokens[r.Token] = true
		if r.Suppress {
			bounced = append(bounced, r)
		}
		// JSON cannot carry an id that is not UTF-8. Only a row typed by hand has one; it is held without an attempt.
		if r.Evidence && r.Verb != queue.Sent && utf8.ValidString(string(r.ID)) {
			notes = append(notes, r)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for token := range tokens {
		if _, err := c.ExecContext(ctx, s.queries.get("end_claim"), token); err != nil {
			return err
		}
	}
	if len(bounced) > 0 {
		list, err := json.Marshal(bounced)
		if err != nil {
			return err
		}
		if _, err := c.ExecContext(ctx, s.queries.get("suppress_bounced"), string(list)); err != nil {
			return err
		}
	}
	if len(notes) == 0 {
		return nil
	}
	list, err := json.Marshal(notes)
	if err != nil {
		return err
	}
	n, err := affected(ctx, c, s.queries.get("note_attempts"), string(list))
	if err == nil && n != int64(len(notes)) {
		err = fmt.Errorf("%d attempts noted instead of %d", n, len(notes))
	}
	return err
}

// eachRow calls fn for each row, with a context that does not end. Watching a context costs a driver more time than SQLite
// needs for the row. eachRow checks the end of ctx between two rows.
func eachRow[T any](ctx context.Context, rows []T, fn func(ctx context.Context, row T) error) error {
	detached := context.WithoutCancel(ctx)
	for _, r := range rows {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(detached, r); err != nil {
			return err
		}
	}
	return nil
}
