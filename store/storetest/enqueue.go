package storetest

import (
	"bytes"
	"errors"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/store"
)

// enqueueRules are about messages that the store itself enqueues, and about what a notice needs to know of the original.
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
			first[0].Duplicate = true
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
		{"header", "The header of a message is read without its body, however long either is.", func(w *world) {
			long, err := outbox.New(outbox.Config{MaxHeaderSize: 1 << 20, Schema: w.schema})
			w.must(err)
			fields := strings.Repeat("X-Note: "+strings.Repeat("x", 70)+"\r\n", 1500)
			for _, m := range []*outbox.Message{
				mail(), mail(text(strings.Repeat("0123456789 ", 20_000))),
				mail(raw("From: a@example.com\r\nTo: b@example.org\r\n" + fields + "\r\nBody.\r\n\r\nMore.\r\n")),
			} {
				tx, err := w.db.BeginTxx(w.Context(), nil)
				w.must(err)
				receipt, err := long.Enqueue(w.Context(), tx, m)
				w.must(err)
				w.must(tx.Commit())
				body, err := w.store.Body(w.Context(), receipt.ID)
				w.must(err)
				header, err := w.store.Header(w.Context(), receipt.ID)
				w.must(err)
				before, _, _ := bytes.Cut(body, []byte("\r\n\r\n"))
				if string(header) != string(before)+"\r\n\r\n" {
					w.violatedf("of a message of %d bytes with a header of %d, %d were read", len(body), len(before)+4, len(header))
				}
			}
		}},
		{"no-header", "The header of a message that is not there, or was scrubbed, is named as such.", func(w *world) {
			_, err := w.store.Header(w.Context(), outbox.ID(uuid.NewString()))
			want(w, "not found", errors.Is(err, store.ErrNotFound), true)
			id := w.enqueue(mail())
			w.exec("UPDATE outbox_messages SET body = NULL")
			_, err = w.store.Header(w.Context(), id)
			want(w, "scrubbed", errors.Is(err, store.ErrNoBody), true)
		}},
	}
}
