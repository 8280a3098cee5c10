package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

// settlementJSON is an [outbox.Settlement] as a statement reads it.
type settlementJSON struct {
	refJSON
	Verb       outbox.Verb  `json:"verb"`
	State      outbox.State `json:"state"`
	Delay      any          `json:"delay"`
	Uncounted  bool         `json:"uncounted"`
	Finished   bool         `json:"finished"`
	Evidence   bool         `json:"evidence"`
	Relay      *string      `json:"relay"`
	Stage      *string      `json:"stage"`
	Class      *string      `json:"class"`
	Code       *int         `json:"code"`
	Enhanced   *string      `json:"enhanced"`
	Reply      *string      `json:"reply"`
	ProviderID *string      `json:"provider_id"`
	DurationMS int64        `json:"duration_ms"`
	Owner      string       `json:"owner"`
	Attempt    int          `json:"attempt"` // known once the statement ran; SQLite only
}

// verbReap is the verb that the store itself gives to a lapsed lease.
const verbReap outbox.Verb = "reap"

// stateAfter is where each verb leads.
func stateAfter(v outbox.Verb) (outbox.State, error) {
	switch v {
	case outbox.VerbSent:
		return outbox.StateSent, nil
	case outbox.VerbDefer, outbox.VerbRecycle:
		return outbox.StateQueued, nil
	case outbox.VerbFail:
		return outbox.StateFailed, nil
	case outbox.VerbUncertain:
		return outbox.StateUncertain, nil
	case outbox.VerbExpire:
		return outbox.StateExpired, nil
	case outbox.VerbHold:
		return outbox.StateHeld, nil
	default:
		return "", fmt.Errorf("%q is not a verb that settles", string(v))
	}
}

// Settle records the outcomes of attempts under their tokens, all of them or, on an error, none: sending → the state of
// each verb. Every outcome that was not simply sent also leaves a row in outbox_attempts with its evidence. It returns
// the refs whose deliveries are no longer held under their tokens: for those it changed nothing.
//
// Bad input, such as two outcomes for one delivery, is refused before anything is written. After any other error the call
// may have taken effect; it may be repeated, and what it then returns as lost was settled. Owner names the dispatcher.
func (s *Store) Settle(ctx context.Context, owner string, list []outbox.Settlement) (lost []outbox.Ref, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	owner = clean(owner)
	rows := make([]settlementJSON, 0, len(list))
	for _, st := range list {
		row, err := s.settlementJSON(owner, st)
		if err != nil {
			return nil, fmt.Errorf("settle %s/%d: %w", st.Ref.ID, st.Ref.Seq, err)
		}
		if ref, ok := canonical(st.Ref); ok {
			row.refJSON = ref
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b settlementJSON) int { return compareKeys(a.key(), b.key()) })
	for i := range rows[:max(len(rows)-1, 0)] {
		if rows[i].key() == rows[i+1].key() {
			return nil, fmt.Errorf("settle %s/%d: two outcomes for one delivery", rows[i].ID, rows[i].Seq)
		}
	}
	done, err := s.settle(ctx, owner, rows)
	if err != nil {
		return nil, s.failed(ctx, err, "settle")
	}
	for _, st := range list {
		if ref, ok := canonical(st.Ref); !ok || !done[ref.key()] {
			lost = append(lost, st.Ref)
		}
	}
	return lost, nil
}

// settle writes the rows and returns the keys of those that took effect.
func (s *Store) settle(ctx context.Context, owner string, rows []settlementJSON) (done map[key]bool, err error) {
	switch {
	case len(rows) == 0:
		return map[key]bool{}, nil
	case s.dialect == schema.Postgres:
		return s.settlePostgres(ctx, owner, rows)
	}
	err = s.atomically(ctx, func(c conn) error {
		done, err = s.settleSQLite(ctx, c, rows)
		return err
	})
	return done, err
}

func (s *Store) settlementJSON(owner string, st outbox.Settlement) (settlementJSON, error) {
	state, err := stateAfter(st.Verb)
	if err != nil {
		return settlementJSON{}, err
	}
	if st.Delay < 0 {
		return settlementJSON{}, fmt.Errorf("the delay must not be negative: %v", st.Delay)
	}
	e := st.Evidence
	return settlementJSON{
		Verb: st.Verb, State: state, Delay: s.interval(st.Delay),
		Uncounted: st.Uncounted || st.Verb == outbox.VerbRecycle, Finished: state.Terminal(),
		Evidence: e != outbox.Evidence{}, Relay: text(e.Relay), Stage: text(e.Stage), Class: text(e.Class), Code: optional(e.Code),
		Enhanced: text(e.Enhanced), Reply: text(e.Reply), ProviderID: text(e.ProviderID), DurationMS: e.Duration.Milliseconds(),
		Owner: owner,
	}, nil
}

// optional stores a zero value as NULL.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// text is an optional text from outside.
func text(s string) *string { return optional(clean(s)) }

// settlePostgres does all in one statement.
func (s *Store) settlePostgres(ctx context.Context, owner string, rows []settlementJSON) (map[key]bool, error) {
	list, err := json.Marshal(rows)
	if err != nil {
		return nil, err
	}
	changed, err := change[key](ctx, s, "settle", string(list), owner)
	if err != nil {
		return nil, err
	}
	return set(changed), nil
}

// settleSQLite settles and then notes the attempts; c is a transaction.
func (s *Store) settleSQLite(ctx context.Context, c conn, rows []settlementJSON) (map[key]bool, error) {
	list, err := json.Marshal(rows)
	if err != nil {
		return nil, err
	}
	type settled struct {
		key
		Attempts int
	}
	changed, err := collect[settled](ctx, c, s.queries.get("settle"), string(list))
	if err != nil {
		return nil, err
	}
	attempts := make(map[key]int, len(changed))
	done := make(map[key]bool, len(changed))
	for _, r := range changed {
		attempts[r.key], done[r.key] = r.Attempts, true
	}
	var notes []settlementJSON
	for _, r := range rows {
		if !done[r.key()] || !r.Evidence || r.Verb == outbox.VerbSent {
			continue
		}
		r.Attempt = attempts[r.key()]
		if r.Uncounted {
			r.Attempt++
		}
		notes = append(notes, r)
	}
	if len(notes) == 0 {
		return done, nil
	}
	if list, err = json.Marshal(notes); err != nil {
		return nil, err
	}
	n, err := affected(ctx, c, s.queries.get("note_attempts"), string(list))
	if err == nil && n != int64(len(notes)) {
		err = fmt.Errorf("%d attempts noted instead of %d", n, len(notes))
	}
	return done, err
}
