package storetest

import (
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

func overviewRules() []rule {
	const soon = 15 * time.Minute
	overview := func(w *world) store.Overview {
		o, err := w.store.Overview(w.Context(), soon)
		w.must(err)
		return o
	}
	return []rule{
		{"empty", "An empty queue has no routes and no outcomes.", func(w *world) {
			o := overview(w)
			want(w, "routes", len(o.Routes)+len(o.Outcomes), 0)
			w.near("time", o.Now, w.now())
		}},
		{"routes", "Each route has what waits on it now, and what ended in the last hour.", func(w *world) {
			for _, state := range outbox.States()[1:] {
				w.finish(w.enqueue(mail(on("a"))), state)
			}
			w.finish(w.enqueue(mail(on("a"))), outbox.StateSent)
			old := w.enqueue(mail(on("a")))
			w.finish(old, outbox.StateSent)
			w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE message_id = $2", longAgo, string(old))
			w.enqueue(mail(on("a"), later))
			w.enqueue(mail(on("b")))
			due := w.enqueue(mail(on("b")))
			w.exec("UPDATE outbox_deliveries SET due_at = $1, expires_at = $2 WHERE message_id = $3", longAgo, longAgo, string(due))
			o := overview(w)
			want(w, "routes", len(o.Routes), 2)
			a, b := o.Routes[0], o.Routes[1]
			want(w, "names", a.Route+b.Route, "ab")
			want(w, "open on a", []int64{a.Due, a.Scheduled, a.Deferred, a.Sending, a.Uncertain, a.Held, a.Expiring}, []int64{0, 1, 0, 1, 1, 1, 0})
			want(w, "open on b", []int64{b.Due, b.Scheduled, b.Deferred, b.Sending, b.Uncertain, b.Held, b.Expiring}, []int64{2, 0, 0, 0, 0, 0, 1})
			want(w, "sent on a in the last hour", a.LastHour[outbox.StateSent], 2)
			for _, state := range []outbox.State{outbox.StateFailed, outbox.StateExpired, outbox.StateCancelled, outbox.StateSuppressed} {
				want(w, string(state)+" on a in the last hour", a.LastHour[state], 1)
			}
			want(w, "ended on b", len(b.LastHour), 0)
			want(w, "enqueued on b", b.Enqueued, 2)
			want(w, "oldest on b", b.OldestDue.Year() < 2020, true)
			want(w, "none due on a", a.OldestDue.IsZero(), true)
			w.near("oldest held on a", a.OldestHeld, w.now())
			want(w, "counted in part", o.More, false)
		}},
		{"outcomes", "Outcomes that are the same are counted together, the most frequent first.", func(w *world) {
			for range 2 {
				w.settle(w.leased(), queue.Failed,
					evidence(queue.Evidence{Class: "recipient", Code: 550, Enhanced: "5.1.1", Relay: "eu", Reply: "gone"}))
			}
			w.settle(w.leased(), queue.Deferred, inAnHour, evidence(queue.Evidence{Class: "throttled", Code: 451, Relay: "eu", Reply: "slow"}))
			want(w, "outcomes", overview(w).Outcomes, []store.OutcomeCount{
				{Relay: "eu", Class: "recipient", Code: 550, Enhanced: "5.1.1", Reply: "gone", Deliveries: 2},
				{Relay: "eu", Class: "throttled", Code: 451, Reply: "slow", Deliveries: 1},
			})
		}},
		{"lapsed", "Deliveries that nobody took back are counted a minute after their lease lapsed.", func(w *world) {
			w.leased()
			want(w, "held now", overview(w).Lapsed, 0)
			w.exec("UPDATE outbox_claims SET lease_until = $1", longAgo)
			o := overview(w)
			want(w, "lapsed", o.Lapsed, 1)
			want(w, "since", o.OldestLapse.Year() < 2020, true)
		}},
	}
}
