package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

// key names a delivery in the answer of a statement.
type key struct {
	ID  outbox.ID
	Seq int
}

// refJSON is an [outbox.Ref] as a statement reads it.
type refJSON struct {
	ID    outbox.ID `json:"id"`
	Seq   int       `json:"seq"`
	Token string    `json:"token"`
}

// CommitStage marks deliveries as being past the point of no return: sending, stage 0 → 1, under their tokens and while
// their leases hold. It is called before the final dot of a message may leave. It returns the refs that it did not mark:
// their leases lapsed, and their messages must not be sent. After an error nothing may be sent either; the call may
// have taken effect and may be repeated.
func (s *Store) CommitStage(ctx context.Context, refs []outbox.Ref) (lost []outbox.Ref, err error) {
	lost, err = s.fenced(ctx, "commit_stage", refs)
	if err != nil {
		return nil, fmt.Errorf("commit the stage: %w", err)
	}
	return lost, nil
}

// Renew extends leases to the given time from now, by the clock of the database. It returns the refs whose deliveries
// are no longer held under their tokens.
func (s *Store) Renew(ctx context.Context, refs []outbox.Ref, lease time.Duration) (lost []outbox.Ref, err error) {
	if lease < MinLease {
		return nil, fmt.Errorf("renew: the lease must be at least %v, not %v", MinLease, lease)
	}
	lost, err = s.fenced(ctx, "renew", refs, s.interval(lease))
	if err != nil {
		return nil, fmt.Errorf("renew: %w", err)
	}
	return lost, nil
}

// fenced runs a statement over refs and returns those that it did not change.
func (s *Store) fenced(ctx context.Context, name string, refs []outbox.Ref, args ...any) ([]outbox.Ref, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	list := make([]refJSON, len(refs))
	for i, r := range refs {
		list[i] = refJSON(r)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	changed, err := collect[key](ctx, s.db, s.queries.get(name), append([]any{string(text)}, args...)...)
	if err != nil {
		return nil, err
	}
	done := make(map[key]bool, len(changed))
	for _, k := range changed {
		done[k] = true
	}
	var lost []outbox.Ref
	for _, r := range refs {
		if !done[key{r.ID, r.Seq}] {
			lost = append(lost, r)
		}
	}
	return lost, nil
}

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
// After an error the call may have taken effect; it may be repeated, and what it then returns as lost was settled.
// Owner names the dispatcher.
func (s *Store) Settle(ctx context.Context, owner string, list []outbox.Settlement) (lost []outbox.Ref, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	rows := make([]settlementJSON, len(list))
	for i, st := range list {
		row, err := s.settlementJSON(owner, st)
		if err != nil {
			return nil, fmt.Errorf("settle %s/%d: %w", st.Ref.ID, st.Ref.Seq, err)
		}
		rows[i] = row
	}
	var done map[key]bool
	if s.dialect == schema.Postgres {
		done, err = s.settlePostgres(ctx, owner, rows)
	} else {
		err = s.atomically(ctx, func(c conn) error {
			done, err = s.settleSQLite(ctx, c, rows)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("settle: %w", err)
	}
	for _, st := range list {
		if !done[key{st.Ref.ID, st.Ref.Seq}] {
			lost = append(lost, st.Ref)
		}
	}
	return lost, nil
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
		refJSON: refJSON(st.Ref), Verb: st.Verb, State: state, Delay: s.interval(st.Delay),
		Uncounted: st.Uncounted || st.Verb == outbox.VerbRecycle, Finished: state.Terminal(),
		Evidence: e != outbox.Evidence{}, Relay: optional(e.Relay), Stage: optional(e.Stage), Class: optional(e.Class), Code: optional(e.Code),
		Enhanced: optional(e.Enhanced), Reply: optional(e.Reply), ProviderID: optional(e.ProviderID), DurationMS: e.Duration.Milliseconds(),
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

// settlePostgres does all in one statement.
func (s *Store) settlePostgres(ctx context.Context, owner string, rows []settlementJSON) (map[key]bool, error) {
	text, err := json.Marshal(rows)
	if err != nil {
		return nil, err
	}
	changed, err := collect[key](ctx, s.db, s.queries.get("settle"), string(text), owner)
	if err != nil {
		return nil, err
	}
	done := make(map[key]bool, len(changed))
	for _, k := range changed {
		done[k] = true
	}
	return done, nil
}

// settleSQLite settles and then notes the attempts; c is a transaction.
func (s *Store) settleSQLite(ctx context.Context, c conn, rows []settlementJSON) (map[key]bool, error) {
	text, err := json.Marshal(rows)
	if err != nil {
		return nil, err
	}
	type settled struct {
		key
		Attempts int
	}
	changed, err := collect[settled](ctx, c, s.queries.get("settle"), string(text))
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
		k := key{r.ID, r.Seq}
		if !done[k] || !r.Evidence || r.Verb == outbox.VerbSent {
			continue
		}
		r.Attempt = attempts[k]
		if r.Uncounted {
			r.Attempt++
		}
		notes = append(notes, r)
	}
	if len(notes) == 0 {
		return done, nil
	}
	if text, err = json.Marshal(notes); err != nil {
		return nil, err
	}
	n, err := affected(ctx, c, s.queries.get("note_attempts"), string(text))
	if err == nil && n != int64(len(notes)) {
		err = fmt.Errorf("%d attempts noted instead of %d", n, len(notes))
	}
	return done, err
}

// ErrNoBody says that a message has no body any more, because it was scrubbed.
var ErrNoBody = errors.New("the body of the message was scrubbed")

// ErrNotFound says that no message has the name that was given.
var ErrNotFound = errors.New("no such message")

// Body returns the rendered message. It is [ErrNotFound] when there is no such message and [ErrNoBody] when its body
// was scrubbed.
func (s *Store) Body(ctx context.Context, id outbox.ID) ([]byte, error) {
	bodies, err := collect[[]byte](ctx, s.db, s.queries.get("body"), string(id))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the body of %s: %w", id, err)
	case len(bodies) == 0:
		return nil, fmt.Errorf("read the body of %s: %w", id, ErrNotFound)
	case bodies[0] == nil:
		return nil, fmt.Errorf("read the body of %s: %w", id, ErrNoBody)
	}
	return bodies[0], nil
}
