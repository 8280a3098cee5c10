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

// key identifies a delivery in the answer of a statement.
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

// refJSON is a [queue.Ref] as a statement reads it.
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

// canonical returns a ref as the database writes it. It returns false if the ID or the token is no UUID: no claim has such a
// ref.
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

// Fence records that deliveries pass the point of no return, and the relay that is about to get each of them. Call it before
// the final dot of a message may leave. It marks a delivery only under its token and while its lease holds, and returns the
// other refs: their messages must not be sent. On an error nothing may be sent. The call may have taken effect then, and may be
// repeated.
//
// If the process dies before it settles, [Store.Reap] keeps the relay. The next claim of the delivery then has the class
// "ambiguous" and that relay in queue.ClaimedDelivery.
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
		return nil, s.failed(ctx, err, "fence")
	}
	return lost, nil
}

// Renew extends leases to the given time from now, by the clock of the database. It returns the refs whose deliveries are no
// longer held under their tokens. A lapsed lease that nobody has taken back yet is renewed as well.
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

// fenced runs a statement over refs, with a relay for each or none at all, and returns the refs that it did not change. It
// sorts them by their keys. The statements lock the rows in that order, so two calls over the same rows wait for one another
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

// notIn returns the refs that a statement did not change.
func notIn(done map[refJSON]bool, refs []queue.Ref) (lost []queue.Ref) {
	for _, r := range refs {
		if ref, ok := canonical(r); !ok || !done[ref] {
			lost = append(lost, r)
		}
	}
	return lost
}

// apart sorts values by the keys of their deliveries and divides them into parts in which no key comes twice. A statement
// answers with the keys that it changed, so in one statement each key must stand for one claim. There are several parts only if
// a process holds a stale claim of a delivery beside a fresh one.
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
