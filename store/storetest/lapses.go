package storetest

import (
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// by names the dispatcher of a claim.
func by(owner string) func(*queue.ClaimRequest) {
	return func(r *queue.ClaimRequest) { r.Owner = owner }
}

// lapsesRules are about messages whose handling ends the process again and again.
func lapsesRules() []rule {
	return []rule{
		{"counted", "Lapses in a row are counted and noted, fenced or not. The first one delays nothing.", func(w *world) {
			id := w.enqueue(mail())
			w.claimOne()
			w.lapse(id)
			w.reap()
			d := w.one(id)
			want(w, "lapses", d.Lapses, 1)
			w.near("due", d.DueAt, w.now())
			w.fence(refs(w.claimOne())...)
			w.lapse(id)
			want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
			d = w.one(id)
			want(w, "lapses", d.Lapses, 2)
			want(w, "reply", d.Reply, "the lease of dispatcher d1 lapsed, for the 2. time in a row")
		}},
		{"delayed", "From the second lapse on a message waits for 10 seconds for each. It is shown as deferred.", func(w *world) {
			id := w.enqueue(mail())
			for n := 1; n < 5; n++ {
				w.claimOne()
				w.lapse(id)
				want(w, "report", w.reap(), queue.ReapReport{Requeued: 1})
				d := w.one(id)
				if n > 1 {
					w.near("due", d.DueAt, w.now().Add(time.Duration(n)*10*time.Second))
					want(w, "shown", d.Shown(), "deferred")
					stats, err := w.store.Stats(w.Context())
					w.must(err)
					want(w, "deferred in the numbers", stats.Deferred, 1)
				}
				w.dueNow()
			}
		}},
		{"held", "After five lapses in a row a message is held, with the reason.", func(w *world) {
			id := w.enqueue(mail())
			w.lapseTimes(id, 4)
			w.claimOne()
			w.lapse(id)
			want(w, "report", w.reap(), queue.ReapReport{Held: 1})
			d := w.one(id)
			want(w, "state", d.State, outbox.StateHeld)
			want(w, "attempts", d.Attempts, 0)
			want(w, "reply", d.Reply, "the lease of dispatcher d1 lapsed, for the 5. time in a row")
			w.unchanged(func() { want(w, "claimed", len(w.claim()), 0) })
			n, err := w.store.Release(w.Context(), store.Filter{IDs: []outbox.ID{id}})
			w.must(err)
			want(w, "released", n, 1)
			want(w, "lapses", w.one(id).Lapses, 0)
		}},
		{"held-in-doubt", "What is in doubt after five lapses in a row is held, not sent again. With Hold it stays uncertain.", func(w *world) {
			for _, edits := range [][]edit{nil, {holding}} {
				id := w.enqueue(mail(edits...))
				w.lapseTimes(id, 4)
				w.fence(refs(w.claimOne())...)
				w.lapse(id)
				want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
				report, state := w.reapDoubt(), outbox.StateHeld
				if edits == nil {
					want(w, "report after the delay", report, queue.ReapReport{Held: 1})
				} else {
					state = outbox.StateUncertain
				}
				d := w.one(id)
				want(w, "state and class", [2]string{string(d.State), d.Class}, [2]string{string(state), "ambiguous"})
			}
		}},
		{"reset", "Any outcome ends the row of lapses. Handing a message back that was not begun does not.", func(w *world) {
			for _, outcome := range []queue.Outcome{queue.Deferred, queue.Sent, queue.Failed, queue.Uncertain, queue.Recycled} {
				id := w.enqueue(mail(holding))
				w.lapseTimes(id, 3)
				w.settle(w.claimOne(), queue.Recycled)
				want(w, "lapses of what was handed back", w.one(id).Lapses, 3)
				w.settle(w.claimOne(), outcome, evidence(refusal()), inAnHour)
				want(w, "lapses after "+string(outcome), w.one(id).Lapses, 0)
			}
		}},
		{"alone", "A message that lapsed twice has a token of its own, and a dispatcher has one such message at a time.", func(w *world) {
			bad := w.many(3, to("a@example.org", "b@example.org"))
			for _, id := range bad {
				w.lapseTimes(id, 2)
			}
			w.many(4)
			claimed := w.claim()
			tokens := make(map[string]int)
			suspects := 0
			for _, c := range claimed {
				tokens[c.Token]++
				if len(c.Deliveries) == 2 {
					suspects++
				}
			}
			want(w, "messages", len(claimed), 5)
			want(w, "suspects", suspects, 1)
			want(w, "claims", len(tokens), 2)
			want(w, "claimed by the same dispatcher", len(w.claim()), 0)
			want(w, "claimed by another", len(w.claim(by("d2"))), 1)
			for _, c := range claimed {
				if len(c.Deliveries) == 2 {
					w.settle(c, queue.Sent)
				}
			}
			want(w, "claimed afterwards", len(w.claim()), 1)
		}},
		{"innocent", "If a dispatcher dies with such a message, the lapses of what it held beside do not count, whichever claim lapses first.",
			func(w *world) {
				for _, first := range []string{"alone", "NOT alone"} {
					bad := w.enqueue(mail())
					w.lapseTimes(bad, 2)
					good := w.many(3)
					want(w, "claimed", len(w.claim()), 4)
					w.exec("UPDATE outbox_claims SET lease_until = $1 WHERE "+first, longAgo)
					w.reap()
					w.exec("UPDATE outbox_claims SET lease_until = $1", longAgo)
					w.reap()
					want(w, "lapses of the one", w.one(bad).Lapses, 3)
					for _, id := range good {
						want(w, "lapses of another", w.one(id).Lapses, 0)
					}
					w.exec("DELETE FROM outbox_messages")
				}
			}},
		{"removed", "A claim that somebody removed is no lapse.", func(w *world) {
			c := w.leased()
			w.exec("DELETE FROM outbox_claims")
			w.reap()
			want(w, "lapses", w.one(c.ID).Lapses, 0)
			want(w, "reply", strings.HasPrefix(w.one(c.ID).Reply, "the claim was removed"), true)
		}},
	}
}

// dueNow makes what waits due.
func (w *world) dueNow() {
	w.Helper()
	w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE state = 'queued'", longAgo)
}

// lapseTimes makes a message as it is after n lapses in a row, and due.
func (w *world) lapseTimes(id outbox.ID, n int) {
	w.Helper()
	w.exec("UPDATE outbox_deliveries SET lapses = $1, due_at = $2 WHERE message_id = $3", n, longAgo, string(id))
}
