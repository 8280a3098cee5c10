package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
)

// counted is a queue that counts the calls of those verbs that a message costs, and the time that they take.
type counted struct {
	dispatcher.Queue

	claims, fences, settles tally
}

// tally is of one verb.
type tally struct {
	calls, rows atomic.Int64
	took        atomic.Int64 // nanoseconds
}

func (t *tally) add(began time.Time, rows int) {
	t.calls.Add(1)
	t.rows.Add(int64(rows))
	t.took.Add(int64(time.Since(began)))
}

func (t *tally) each() time.Duration { return time.Duration(t.took.Load() / max(t.calls.Load(), 1)) }

// Claim implements dispatcher.Queue.
func (q *counted) Claim(ctx context.Context, req queue.ClaimRequest) ([]queue.Claimed, error) {
	began := time.Now()
	list, err := q.Queue.Claim(ctx, req)
	q.claims.add(began, len(list))
	return list, err
}

// Fence implements dispatcher.Queue.
func (q *counted) Fence(ctx context.Context, list []queue.FencedRef) ([]queue.Ref, error) {
	began := time.Now()
	lost, err := q.Queue.Fence(ctx, list)
	q.fences.add(began, len(list))
	return lost, err
}

// Settle implements dispatcher.Queue.
func (q *counted) Settle(ctx context.Context, owner string, list []queue.Settlement) ([]queue.Ref, error) {
	began := time.Now()
	lost, err := q.Queue.Settle(ctx, owner, list)
	q.settles.add(began, len(list))
	return lost, err
}

// String says how many calls of each verb a message took, and how long one of them was.
func (q *counted) String() string {
	n := float64(max(q.settles.rows.Load(), 1))
	return fmt.Sprintf("claim %.3f (%v), fence %.3f (%v), settle %.3f (%v)",
		float64(q.claims.calls.Load())/n, q.claims.each().Round(10*time.Microsecond),
		float64(q.fences.calls.Load())/n, q.fences.each().Round(10*time.Microsecond),
		float64(q.settles.calls.Load())/n, q.settles.each().Round(10*time.Microsecond))
}

// perMessage reports how many calls a message took at full load. On PostgreSQL each is one statement, on SQLite one transaction.
func (b *bench) perMessage(work string, q *counted) {
	n := float64(max(q.settles.rows.Load(), 1))
	most := float64(max(q.claims.calls.Load(), q.fences.calls.Load(), q.settles.calls.Load())) / n
	b.report(result{work: work, who: ours, more: q.String(), bar: "≤ 0.05 each", met: most <= 0.05})
}
