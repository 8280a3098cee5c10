package storetest

import (
	"errors"
	"sync"

	"github.com/outboxmail/outbox"
)

// enqueueRules are about messages that the store itself enqueues.
func enqueueRules() []rule {
	return []rule{
		{"stores", "Messages that the store enqueues are stored together and can be claimed.", func(w *world) {
			receipts, err := w.store.Enqueue(w.Context(), mail(), mail(to("b@example.org", "c@example.org")))
			w.must(err)
			claimed := w.claim()
			if len(receipts) != 2 || len(claimed) != 2 {
				w.violatedf("%d receipts and %d messages, want 2 of each", len(receipts), len(claimed))
				return
			}
			want(w, "messages", claimedIDs(claimed), []outbox.ID{receipts[0].ID, receipts[1].ID})
		}},
		{"none", "Enqueueing nothing does nothing.", func(w *world) {
			receipts, err := w.store.Enqueue(w.Context())
			w.must(err)
			want(w, "receipts", len(receipts), 0)
		}},
		{"all-or-none", "A message that cannot be sent keeps the others from being stored.", func(w *world) {
			_, err := w.store.Enqueue(w.Context(), mail(), mail(to("nobody")))
			if _, invalid := errors.AsType[*outbox.InvalidError](err); !invalid {
				w.violatedf("the error is %v, want an InvalidError", err)
			}
			want(w, "messages", w.number("SELECT count(*) FROM outbox_messages"), 0)
		}},
		{"key", "With a key a message is stored once, and the second time the receipt of the first is returned.", func(w *world) {
			first, err := w.store.Enqueue(w.Context(), mail(keyed("it's a notice")))
			w.must(err)
			second, err := w.store.Enqueue(w.Context(), mail(keyed("it's a notice")), mail())
			w.must(err)
			first[0].Duplicate, first[0].State = true, outbox.StateQueued
			want(w, "second receipt", second[0], first[0])
			want(w, "messages", w.number("SELECT count(*) FROM outbox_messages"), 2)
		}},
		{"key-at-once", "Of processes that enqueue one key at once one stores it, and none fails.", func(w *world) {
			var (
				wg    sync.WaitGroup
				mu    sync.Mutex
				fresh int
			)
			for range 8 {
				wg.Go(func() {
					receipts, err := w.newStore().Enqueue(w.Context(), mail(keyed("notice")))
					if err != nil {
						w.violatedf("unexpected error: %v", err)
						return
					}
					mu.Lock()
					defer mu.Unlock()
					if !receipts[0].Duplicate {
						fresh++
					}
				})
			}
			wg.Wait()
			want(w, "stored", fresh, 1)
			want(w, "messages", w.number("SELECT count(*) FROM outbox_messages"), 1)
		}},
	}
}
