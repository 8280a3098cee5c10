package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// bulkRules are about operations on more deliveries than one transaction should change.
func bulkRules() []rule {
	return []rule{
		{"batches", "An operation on many deliveries works in batches, reports its progress after each, and is noted once.",
			func(w *world) {
				w.many(2500)
				var progress []int64
				n, err := w.store.Hold(w.Context(), store.Filter{}, store.OnProgress(func(done int64) { progress = append(progress, done) }))
				w.must(err)
				want(w, "changed", n, 2500)
				want(w, "progress", fmt.Sprint(progress), "[1000 2000 2500]")
				want(w, "held", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'held'"), 2500)
				want(w, "actions", w.number("SELECT count(*) FROM outbox_actions"), 1)
				want(w, "affected", w.number("SELECT affected FROM outbox_actions"), 2500)
			}},
		{"interrupted", "An operation that is interrupted between batches keeps, returns and notes what was done, and can be taken up again.",
			func(w *world) {
				w.many(2500)
				ctx, cancel := context.WithCancel(w.Context())
				defer cancel()
				n, err := w.store.Cancel(ctx, store.Filter{}, store.OnProgress(func(int64) { cancel() }))
				want(w, "is context.Canceled", errors.Is(err, context.Canceled), true)
				want(w, "changed", n, 1000)
				want(w, "cancelled", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'cancelled'"), 1000)
				want(w, "affected", w.number("SELECT affected FROM outbox_actions"), 1000)
				w.changes(1500, w.store.Cancel, store.Filter{})
			}},
		{"limit", "A limit bounds an operation also over batches; the first in the order of ids are changed.", func(w *world) {
			ids := w.many(1300)
			w.changes(1100, w.store.Cancel, store.Filter{Limit: 1100})
			want(w, "cancelled", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'cancelled'"), 1100)
			want(w, "first", w.one(ids[0]).State, outbox.StateCancelled)
			want(w, "last", w.one(ids[1299]).State, outbox.StateQueued)
		}},
		{"exactly-one-batch", "An operation that ends with a full batch ends.", func(w *world) {
			w.many(1000)
			w.changes(1000, w.store.Hold, store.Filter{})
			w.changes(1000, w.store.Release, store.Filter{Limit: 1000})
		}},
		{"terminates", "An operation that leads back to where it starts goes over each delivery once.", func(w *world) {
			w.many(1100)
			for _, c := range w.claim(func(r *queue.ClaimRequest) { r.Limit = 1100 }) {
				w.settle(c, queue.Sent)
			}
			w.changes(1100, w.store.Requeue, store.Filter{States: []outbox.State{outbox.StateSent}})
		}},
		{"at-once", "Operations that run at once change each delivery once.", func(w *world) {
			w.many(2200)
			var (
				wg    sync.WaitGroup
				mu    sync.Mutex
				total int64
			)
			for range 4 {
				wg.Go(func() {
					n, err := w.store.Cancel(w.Context(), store.Filter{})
					mu.Lock()
					defer mu.Unlock()
					total += n
					if err != nil {
						w.violatedf("cancel: %v", err)
					}
				})
			}
			wg.Wait()
			want(w, "changed together", total, 2200)
		}},
		{"beside-claims", "An operation beside claims never takes what was claimed, and misses nothing.", func(w *world) {
			w.many(1500)
			var (
				wg       sync.WaitGroup
				claimed  int
				canceled int64
			)
			wg.Go(func() {
				for range 20 {
					claimed += len(w.claim(func(r *queue.ClaimRequest) { r.Limit = 50 }))
				}
			})
			wg.Go(func() {
				n, err := w.store.Cancel(w.Context(), store.Filter{})
				if err != nil {
					w.violatedf("cancel: %v", err)
				}
				canceled = n
			})
			wg.Wait()
			want(w, "claimed and cancelled", claimed+int(canceled), 1500)
			want(w, "sending", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'sending'"), claimed)
			want(w, "cancelled", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'cancelled'"), int(canceled))
		}},
	}
}

func purgeRules() []rule {
	return []rule{
		{"last-delivery", "A message goes with its last delivery, not before.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			lost, err := w.store.Settle(w.Context(), "d1", []queue.Settlement{
				{Ref: c.Ref(0), Outcome: queue.Sent}, {Ref: c.Ref(1), Outcome: queue.Deferred, Evidence: refusal()},
			})
			w.must(err)
			want(w, "lost", lost, nil)
			w.changes(1, w.store.Purge, store.Filter{})
			m := w.get(c.ID)
			want(w, "deliveries left", len(m.Deliveries), 1)
			want(w, "attempts left", len(m.Attempts), 1)
			_, err = w.store.Body(w.Context(), c.ID)
			w.must(err)
			w.changes(1, w.store.Cancel, store.Filter{})
			w.changes(1, w.store.Purge, store.Filter{})
			want(w, "messages left", w.number("SELECT count(*) FROM outbox_messages"), 0)
		}},
		{"attempts", "The attempts of a delivery go with it, and those of its siblings stay.", func(w *world) {
			c := w.leased(to("a@one.example", "b@two.example"))
			w.settle(c, queue.Failed, evidence(refusal()))
			w.changes(1, w.store.Purge, store.Filter{To: "@one.example"})
			attempts := w.get(c.ID).Attempts
			if len(attempts) != 1 || attempts[0].Seq != 2 {
				w.violatedf("the attempts left are %+v", attempts)
			}
			w.changes(1, w.store.Purge, store.Filter{})
			want(w, "attempts left", w.number("SELECT count(*) FROM outbox_attempts"), 0)
		}},
		{"key-is-free", "An idempotency key is free again once its message is purged, not before.", func(w *world) {
			id := w.enqueue(mail(keyed("order-1")))
			w.finish(id, outbox.StateSent)
			want(w, "the same message as before", w.enqueue(mail(keyed("order-1"))), id)
			w.changes(1, w.store.Purge, store.Filter{})
			if again := w.enqueue(mail(keyed("order-1"))); again == id {
				w.violatedf("the key still names the purged message")
			}
		}},
		{"at-once", "When both deliveries of a message are purged at once, the message goes.", func(w *world) {
			const n = 40
			w.many(n, to("a@one.example", "b@two.example"))
			w.changes(2*n, w.store.Cancel, store.Filter{})
			var wg sync.WaitGroup
			for _, domain := range []string{"@one.example", "@two.example"} {
				wg.Go(func() {
					if _, err := w.store.Purge(w.Context(), store.Filter{To: domain}); err != nil {
						w.violatedf("purge: %v", err)
					}
				})
			}
			wg.Wait()
			want(w, "messages left", w.number("SELECT count(*) FROM outbox_messages"), 0)
		}},
		{"many", "Purging works through any number of deliveries.", func(w *world) {
			w.many(2300)
			w.changes(2300, w.store.Cancel, store.Filter{})
			w.changes(2300, w.store.Purge, store.Filter{})
			want(w, "messages left", w.number("SELECT count(*) FROM outbox_messages"), 0)
		}},
	}
}
