package storetest

import (
	"slices"
	"sync"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// shareRules are about how a claim divides its limit among due deliveries.
func shareRules() []rule {
	return []rule{
		{"urgent-first", "The more urgent priority is claimed first.", func(w *world) {
			bulk, normal, high := w.enqueue(mail(with(outbox.Bulk))), w.enqueue(mail()), w.enqueue(mail(with(outbox.High)))
			want(w, "order", claimedIDs(w.claim()), []outbox.ID{high, normal, bulk})
		}},
		{"urgent-uses-the-limit", "While urgent deliveries fill the limit, others wait.", func(w *world) {
			w.enqueue(mail(with(outbox.Bulk)))
			w.many(3, with(outbox.High))
			for _, c := range w.claim(func(r *queue.ClaimRequest) { r.Limit = 3 }) {
				want(w, "priority", c.Priority, outbox.High)
			}
		}},
		{"none-is-starved", "Whatever urgent mail waits, every sixteenth claim begins with another priority, each in its turn.",
			func(w *world) {
				w.many(2, with(outbox.Bulk))
				w.many(2)
				w.many(64, with(outbox.High))
				turns := make(map[outbox.Priority]int)
				for n := 1; n <= 64; n++ {
					p := w.claimOne(func(r *queue.ClaimRequest) { r.Limit = 1 }).Priority
					if turns[p]++; p != outbox.High {
						want(w, "a claim with a turn", n%16, 0)
					}
				}
				want(w, "claimed by priority", turns, map[outbox.Priority]int{outbox.High: 60, outbox.Normal: 2, outbox.Bulk: 2})
			}},
		{"routes-share", "Routes of one priority share a claim evenly, however long their backlogs are.", func(w *world) {
			w.many(30, on("a"))
			w.many(30, on("b"))
			w.many(30, on("c"))
			perRoute := make(map[string]int)
			for _, c := range w.claim(func(r *queue.ClaimRequest) { r.Limit = 9 }) {
				perRoute[c.Route]++
			}
			want(w, "claimed by route", perRoute, map[string]int{"a": 3, "b": 3, "c": 3})
		}},
		{"leftovers-are-used", "What one route leaves of its share another takes.", func(w *world) {
			w.many(30, on("a"))
			w.many(1, on("b"))
			perRoute := make(map[string]int)
			for _, c := range w.claim(func(r *queue.ClaimRequest) { r.Limit = 10 }) {
				perRoute[c.Route]++
			}
			want(w, "claimed by route", perRoute, map[string]int{"a": 9, "b": 1})
		}},
		{"expected", "A claim that expects something finds it; what waits elsewhere is for the next, as is what it expected in vain.",
			func(w *world) {
				expecting := func(route string) func(*queue.ClaimRequest) {
					return func(r *queue.ClaimRequest) {
						r.Relay, r.Expect = "main", queue.Due{Route: route, Priority: outbox.Normal}
					}
				}
				there, elsewhere := w.enqueue(mail(on("a"))), w.enqueue(mail(on("b"), with(outbox.High)))
				got := claimedIDs(w.claim(expecting("a")))
				want(w, "what was expected is claimed", slices.Contains(got, there), true)
				got = append(got, claimedIDs(w.claim(expecting("a")))...) // nothing is due on this route any more
				slices.Sort(got)
				both := []outbox.ID{there, elsewhere}
				slices.Sort(both)
				want(w, "claimed in all", got, both)

				w.enqueue(mail(on("a")))
				w.must(w.store.Pause(w.Context(), "a", "test"))
				want(w, "claimed from a route that is paused", len(w.claim(expecting("a"))), 0)
				w.must(w.store.PauseRelay(w.Context(), "main", time.Hour, "test"))
				w.enqueue(mail(on("b")))
				want(w, "claimed for a relay that is paused", len(w.claim(expecting("b"))), 0)
				req := request()
				req.Routes, req.Expect.Route = []string{"a"}, "b"
				_, err := w.store.Claim(w.Context(), req)
				w.refused(err, "none of those asked for")
			}},
		{"claims-never-share", "Claims that run at once never get the same delivery, and together they get all.", claimsNeverShare},
	}
}

func claimsNeverShare(w *world) {
	const messages, workers = 240, 8
	w.many(messages/2, to("a@example.org", "b@example.org"))
	w.many(messages / 2)
	var (
		mu     sync.Mutex
		holder = make(map[queue.Ref]string)
		wg     sync.WaitGroup
	)
	for n := range workers {
		owner := string(rune('a' + n))
		wg.Go(func() {
			for {
				claimed, err := w.store.Claim(w.Context(), queue.ClaimRequest{Owner: owner, Limit: 7, Lease: request().Lease})
				if err != nil {
					w.violatedf("claim: %v", err)
					return
				}
				mu.Lock()
				for _, c := range claimed {
					for _, d := range c.Deliveries {
						ref := queue.Ref{ID: c.ID, Seq: d.Seq}
						if other, taken := holder[ref]; taken {
							w.violatedf("%s/%d went to %s and to %s", c.ID, d.Seq, other, owner)
						}
						holder[ref] = owner
					}
				}
				mu.Unlock()
				if len(claimed) == 0 {
					return
				}
			}
		})
	}
	wg.Wait()
	// A claim comes back empty if another one was taking all the rows that it found. Here the rest is taken.
	for _, c := range w.claim(func(r *queue.ClaimRequest) { r.Limit = messages * 2 }) {
		for _, d := range c.Deliveries {
			ref := queue.Ref{ID: c.ID, Seq: d.Seq}
			if other, taken := holder[ref]; taken {
				w.violatedf("%s/%d went to %s and was claimed again", c.ID, d.Seq, other)
			}
			holder[ref] = "d1"
		}
	}
	want(w, "deliveries claimed", len(holder), messages/2*3)
}
