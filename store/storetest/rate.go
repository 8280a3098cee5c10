package storetest

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/outboxmail/outbox/queue"
)

// rateRules are about the allowance that dispatchers share.
func rateRules() []rule {
	limited := func(perSecond float64, burst int) func(*queue.ClaimRequest) {
		return func(r *queue.ClaimRequest) {
			r.Relay, r.Rate = "primary", queue.Rate{PerSecond: perSecond, Burst: burst}
		}
	}
	// A thousandth of a recipient in a second: the allowance does not grow while a rule is checked.
	slow := func(burst int) func(*queue.ClaimRequest) { return limited(0.001, burst) }
	return []rule{
		{"burst", "A claim takes no more than the allowance holds, and the next one what is left.", func(w *world) {
			w.many(30)
			want(w, "claimed", len(w.claim(slow(12), func(r *queue.ClaimRequest) { r.Limit = 5 })), 5)
			want(w, "claimed next", len(w.claim(slow(12))), 7)
			want(w, "claimed from an empty allowance", len(w.claim(slow(12))), 0)
		}},
		{"refill", "The allowance fills up by the clock of the database, to its burst and no further.", func(w *world) {
			w.many(50)
			want(w, "claimed", len(w.claim(limited(0.1, 10))), 10)
			w.exec("UPDATE outbox_relays SET refilled_at = $1", bindTime(w.now().Add(-45*time.Second)))
			want(w, "claimed after 45 s at 0.1/s", len(w.claim(limited(0.1, 10))), 4)
			w.exec("UPDATE outbox_relays SET refilled_at = $1", longAgo)
			want(w, "claimed after years", len(w.claim(limited(0.1, 10))), 10)
		}},
		{"default-burst", "Without a burst the allowance is that of a second, and at least one.", func(w *world) {
			w.many(50)
			want(w, "claimed at 7.9/s", len(w.claim(limited(7.9, 0))), 7)
			want(w, "claimed at 0.01/s", len(w.claim(func(r *queue.ClaimRequest) {
				r.Relay, r.Rate = "other", queue.Rate{PerSecond: 0.01}
			})), 1)
		}},
		{"only-what-was-claimed", "Only what was claimed is drawn from the allowance.", func(w *world) {
			w.many(3)
			want(w, "claimed", len(w.claim(slow(10))), 3)
			w.many(20)
			want(w, "claimed next", len(w.claim(slow(10))), 7)
		}},
		{"debt", "A message with more recipients than the allowance holds is claimed whole, and the allowance owes.", func(w *world) {
			w.enqueue(mail(to("a@example.org", "b@example.org", "c@example.org", "d@example.org")))
			w.many(10)
			want(w, "recipients", len(w.claimOne(limited(0.1, 1)).Deliveries), 4)
			w.exec("UPDATE outbox_relays SET refilled_at = $1", bindTime(w.now().Add(-35*time.Second)))
			want(w, "claimed while it owes", len(w.claim(limited(0.1, 1))), 0)
			w.exec("UPDATE outbox_relays SET refilled_at = $1", bindTime(w.now().Add(-45*time.Second)))
			want(w, "claimed when the debt is paid", len(w.claim(limited(0.1, 1))), 1)
		}},
		{"per-relay", "Each relay has an allowance of its own.", func(w *world) {
			w.many(30)
			want(w, "claimed for one", len(w.claim(slow(5))), 5)
			want(w, "claimed for another", len(w.claim(slow(5), func(r *queue.ClaimRequest) { r.Relay = "it's another" })), 5)
		}},
		{"no-rate", "A claim without a rate asks no allowance.", func(w *world) {
			w.many(30)
			want(w, "claimed", len(w.claim(func(r *queue.ClaimRequest) { r.Relay = "primary" })), 30)
			want(w, "allowances", w.number("SELECT count(*) FROM outbox_relays"), 0)
		}},
		{"nothing-due", "Nothing is drawn, and nothing written, when nothing is due.", func(w *world) {
			w.claim(slow(5))
			want(w, "allowances", w.number("SELECT count(*) FROM outbox_relays"), 0)
		}},
		{"waiting-writes-nothing", "A claim that waits for its allowance writes nothing.", func(w *world) {
			w.many(30)
			w.claim(slow(5))
			before := w.rows("SELECT name, tokens, refilled_at, updated_at FROM outbox_relays")
			want(w, "claimed", len(w.claim(slow(5))), 0)
			want(w, "the allowance", w.rows("SELECT name, tokens, refilled_at, updated_at FROM outbox_relays"), before)
		}},
		{"clock-goes-back", "A clock that is set back does not fill the allowance and does not empty it.", func(w *world) {
			w.many(30)
			want(w, "claimed", len(w.claim(limited(0.001, 10), func(r *queue.ClaimRequest) { r.Limit = 4 })), 4)
			w.exec("UPDATE outbox_relays SET refilled_at = $1", bindTime(w.now().Add(24*time.Hour)))
			want(w, "claimed", len(w.claim(slow(10))), 6)
			want(w, "claimed again", len(w.claim(slow(10))), 0)
		}},
		{"shared", "Dispatchers that claim at once keep the allowance together.", func(w *world) {
			w.many(200)
			var (
				wg    sync.WaitGroup
				total atomic.Int64
			)
			for range 8 {
				wg.Go(func() {
					for range 5 {
						total.Add(int64(len(w.claim(slow(60), func(r *queue.ClaimRequest) { r.Limit = 7 }))))
					}
				})
			}
			wg.Wait()
			want(w, "claimed together", total.Load(), 60)
		}},
		{"bad-rates", "A negative rate, and one without the name of a relay, are refused.", func(w *world) {
			w.enqueue(mail())
			for _, rate := range []queue.Rate{{PerSecond: -1}, {PerSecond: 1, Burst: -1}} {
				req := request()
				req.Relay, req.Rate = "primary", rate
				_, err := w.store.Claim(w.Context(), req)
				w.refused(err, "negative")
			}
			req := request()
			req.Rate = queue.Rate{PerSecond: 1}
			_, err := w.store.Claim(w.Context(), req)
			w.refused(err, "relay")
		}},
	}
}

// bindTime formats a time as both databases read it.
func bindTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
