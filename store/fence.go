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

// fenceJSON is what the statement fence reads for each claim and relay.
type fenceJSON struct {
	Token string  `json:"token"`
	Relay *string `json:"relay"`
	Refs  []place `json:"refs"`
}

// place is a delivery in a fence.
type place struct {
	ID  outbox.ID `json:"id"`
	Seq int       `json:"seq"`
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
// the final dot of a message may leave. It records a delivery only while the lease of its claim holds, and returns the
// other refs: their messages must not be sent. On an error nothing may be sent. The call may have taken effect then, and may be
// repeated. If the error is a [*queue.BusyError], it holds for the refs that it names; the others were fenced or are lost.
//
// Fence looks at claims, not at deliveries. It accepts a ref that was settled before, as long as the claim holds others.
//
// If the process dies before it settles, [Store.Reap] keeps the relay of the last fence. The next claim of the delivery then has the
// class "ambiguous" and that relay in queue.ClaimedDelivery.
func (s *Store) Fence(ctx context.Context, list []queue.FencedRef) (lost []queue.Ref, err error) {
	var claims []*fenceJSON
	index := make(map[[2]string]*fenceJSON) // by token and relay
	for _, f := range list {
		ref, ok := canonical(f.Ref)
		if !ok {
			continue
		}
		of := [2]string{ref.Token, clean(f.Relay)}
		c := index[of]
		if c == nil {
			c = &fenceJSON{Token: ref.Token, Relay: optional(of[1])}
			index[of], claims = c, append(claims, c)
		}
		c.Refs = append(c.Refs, place{ID: ref.ID, Seq: ref.Seq})
	}
	answers := make(map[string]answer)
	if len(claims) > 0 {
		slices.SortFunc(claims, func(a, b *fenceJSON) int { return strings.Compare(a.Token, b.Token) })
		if err := s.fence(ctx, claims, answers); err != nil {
			return nil, s.failed(ctx, err, "fence")
		}
	}
	var busy []queue.Ref
	for _, f := range list {
		ref, _ := canonical(f.Ref)
		switch answers[ref.Token] {
		case refused:
			lost = append(lost, f.Ref)
		case locked:
			busy = append(busy, f.Ref)
		case done:
		}
	}
	if len(busy) > 0 {
		return lost, fmt.Errorf("fence: %w", &queue.BusyError{Refs: busy})
	}
	return lost, nil
}

// answer is what a statement says of a claim or a delivery.
type answer int

const (
	refused answer = iota // it is not held under the token
	locked                // another transaction has locked it
	done
)

// claimRow is the answer of a statement for one claim.
type claimRow struct {
	Token string
	Busy  bool
}

func (r claimRow) answer() answer {
	if r.Busy {
		return locked
	}
	return done
}

func (s *Store) fence(ctx context.Context, claims []*fenceJSON, answers map[string]answer) error {
	if s.dialect == schema.SQLite {
		query := s.queries.get("fence")
		return s.atomically(ctx, func(c conn) error {
			return eachRow(ctx, claims, func(ctx context.Context, f *fenceJSON) error {
				refs, err := json.Marshal(f.Refs)
				if err != nil {
					return err
				}
				n, err := affected(ctx, c, query, f.Token, f.Relay, string(refs))
				if err == nil && n == 1 {
					answers[f.Token] = done
				}
				return err
			})
		})
	}
	list, err := json.Marshal(claims)
	if err != nil {
		return err
	}
	rows, err := change[claimRow](ctx, s, "fence", string(list))
	for _, r := range rows {
		answers[r.Token] = r.answer()
	}
	return err
}

// Renew extends the leases of claims to the given time from now, by the clock of the database. It returns the tokens of the claims
// that are gone, because they were taken back or all of their deliveries are settled. A lease that lapsed and that nobody has taken back
// is renewed as well. An error that is a [*queue.BusyError] names the claims that were passed over; the others were renewed or are lost.
func (s *Store) Renew(ctx context.Context, tokens []string, lease time.Duration) (lost []string, err error) {
	if lease < MinLease {
		return nil, fmt.Errorf("renew: the lease must be at least %v, not %v", MinLease, lease)
	}
	list := make([]string, 0, len(tokens))
	for _, t := range tokens {
		if token, err := outbox.ParseID(t); err == nil {
			list = append(list, string(token))
		}
	}
	answers := make(map[string]answer, len(list))
	if len(list) > 0 {
		if err := s.renew(ctx, list, lease, answers); err != nil {
			return nil, s.failed(ctx, err, "renew")
		}
	}
	var busy []string
	for _, t := range tokens {
		token, _ := outbox.ParseID(t) // the empty one has no answer
		switch answers[string(token)] {
		case refused:
			lost = append(lost, t)
		case locked:
			busy = append(busy, t)
		case done:
		}
	}
	if len(busy) > 0 {
		return lost, fmt.Errorf("renew: %w", &queue.BusyError{Tokens: busy})
	}
	return lost, nil
}

func (s *Store) renew(ctx context.Context, tokens []string, lease time.Duration, answers map[string]answer) error {
	if s.dialect == schema.SQLite {
		query := s.queries.get("renew")
		return s.atomically(ctx, func(c conn) error {
			return eachRow(ctx, tokens, func(ctx context.Context, token string) error {
				n, err := affected(ctx, c, query, token, s.interval(lease))
				if err == nil && n == 1 {
					answers[token] = done
				}
				return err
			})
		})
	}
	list, err := json.Marshal(tokens)
	if err != nil {
		return err
	}
	rows, err := change[claimRow](ctx, s, "renew", string(list), s.interval(lease))
	for _, r := range rows {
		answers[r.Token] = r.answer()
	}
	return err
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
