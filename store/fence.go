package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// key names a delivery in the answer of a statement.
type key struct {
	ID  outbox.ID
	Seq int
}

func compareKeys(a, b key) int {
	if c := strings.Compare(string(a.ID), string(b.ID)); c != 0 {
		return c
	}
	return a.Seq - b.Seq
}

// set makes a set of keys.
func set(keys []key) map[key]bool {
	m := make(map[key]bool, len(keys))
	for _, k := range keys {
		m[k] = true
	}
	return m
}

// refJSON is an [queue.Ref] as a statement reads it.
type refJSON struct {
	ID    outbox.ID `json:"id"`
	Seq   int       `json:"seq"`
	Token string    `json:"token"`
}

func (r refJSON) key() key { return key{r.ID, r.Seq} }

// fencedJSON is what a fenced statement reads for each delivery.
type fencedJSON struct {
	refJSON
	Relay *string `json:"relay,omitempty"` // fence only
}

// canonical returns a ref as the database writes it. One whose parts are no UUIDs cannot be held by anybody.
func canonical(r queue.Ref) (refJSON, bool) {
	id, err := outbox.ParseID(string(r.ID))
	if err != nil {
		return refJSON{}, false
	}
	token, err := outbox.ParseID(r.Token)
	if err != nil {
		return refJSON{}, false
	}
	return refJSON{ID: id, Seq: r.Seq, Token: string(token)}, true
}

// Fence marks deliveries as being past the point of no return: sending, stage 0 → 1, under their tokens and while
// their leases hold, and records the relay that is about to get each of them. It is called before the final dot of a message
// may leave. It returns the refs that it did not mark: their leases lapsed, and their messages must not be sent. After an
// error nothing may be sent either; the call may have taken effect and may be repeated.
//
// Should the process die before it settles, [Store.Reap] keeps the relay: the next claim of the delivery says in
// queue.ClaimedDelivery that its class is "ambiguous" and which relay the doubt is with.
func (s *Store) Fence(ctx context.Context, list []queue.FencedRef) (lost []queue.Ref, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	refs, relays := make([]queue.Ref, len(list)), make([]*string, len(list))
	for i, st := range list {
		refs[i], relays[i] = st.Ref, words(st.Relay)
	}
	lost, err = s.fenced(ctx, "fence", refs, relays)
	if err != nil {
		return nil, s.failed(ctx, err, "commit the stage")
	}
	return lost, nil
}

// Renew extends leases to the given time from now, by the clock of the database. It returns the refs whose deliveries
// are no longer held under their tokens. A lease that lapsed and that nobody has taken back yet is renewed, too.
func (s *Store) Renew(ctx context.Context, refs []queue.Ref, lease time.Duration) (lost []queue.Ref, err error) {
	if lease < MinLease {
		return nil, fmt.Errorf("renew: the lease must be at least %v, not %v", MinLease, lease)
	}
	lost, err = s.fenced(ctx, "renew", refs, nil, s.interval(lease))
	if err != nil {
		return nil, s.failed(ctx, err, "renew")
	}
	return lost, nil
}

// fenced runs a statement over refs, with a relay for each or none at all, and returns those that it did not change. The refs
// are put in the order of their keys, in which the statements lock the rows: two calls over the same rows wait for one another
// and do not deadlock.
func (s *Store) fenced(ctx context.Context, name string, refs []queue.Ref, relays []*string, args ...any) ([]queue.Ref, error) {
	list := make([]fencedJSON, 0, len(refs))
	for i, r := range refs {
		ref, ok := canonical(r)
		if !ok {
			continue
		}
		row := fencedJSON{refJSON: ref}
		if relays != nil {
			row.Relay = relays[i]
		}
		list = append(list, row)
	}
	if len(list) == 0 {
		return refs, nil
	}
	done := make(map[refJSON]bool, len(list))
	if s.dialect == schema.SQLite {
		if err := s.fencedOneByOne(ctx, name, list, relays != nil, done, args); err != nil {
			return nil, err
		}
		return notIn(done, refs), nil
	}
	for _, part := range apart(list, fencedJSON.key) {
		list, err := json.Marshal(part)
		if err != nil {
			return nil, err
		}
		changed, err := change[key](ctx, s, name, append([]any{string(list)}, args...)...)
		if err != nil {
			return nil, err
		}
		answered := set(changed)
		for _, row := range part {
			done[row.refJSON] = answered[row.key()]
		}
	}
	return notIn(done, refs), nil
}

// fencedOneByOne runs a statement for each row, with its relay where the statement takes one, in one transaction; see
// [Store.settleSQLite].
func (s *Store) fencedOneByOne(
	ctx context.Context, name string, list []fencedJSON, withRelay bool, done map[refJSON]bool, args []any,
) error {
	query := s.queries.get(name)
	return s.atomically(ctx, func(c conn) error {
		return eachRow(ctx, list, func(ctx context.Context, row fencedJSON) error {
			own := []any{row.ID, row.Seq, row.Token}
			if withRelay {
				own = append(own, row.Relay)
			}
			n, err := affected(ctx, c, query, append(own, args...)...)
			done[row.refJSON] = n == 1
			return err
		})
	})
}

// notIn returns those refs that a statement did not change.
func notIn(done map[refJSON]bool, refs []queue.Ref) (lost []queue.Ref) {
	for _, r := range refs {
		if ref, ok := canonical(r); !ok || !done[ref] {
			lost = append(lost, r)
		}
	}
	return lost
}

// apart sorts what belongs to deliveries by their keys and divides it so that no key comes twice in a part. A statement
// answers with the keys that it changed; only where each stands for one claim does the answer say which token was right.
// There is one part but when a process holds a stale claim of a delivery beside a fresh one.
func apart[T any](list []T, keyOf func(T) key) [][]T {
	slices.SortStableFunc(list, func(a, b T) int { return compareKeys(keyOf(a), keyOf(b)) })
	var parts [][]T
	for i, depth := 0, 0; i < len(list); i++ {
		depth++
		if i == 0 || keyOf(list[i]) != keyOf(list[i-1]) {
			depth = 1
		}
		if depth > len(parts) {
			parts = append(parts, nil)
		}
		parts[depth-1] = append(parts[depth-1], list[i])
	}
	return parts
}
