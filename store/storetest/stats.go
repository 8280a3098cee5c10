package storetest

import (
	"fmt"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/store"
)

func statsRules() []rule {
	return []rule{
		{"empty", "The statistics of an empty queue are zero.", func(w *world) {
			st := w.stats()
			want(w, "counts", len(st.Counts), 0)
			want(w, "due, scheduled and deferred", st.Due+st.Scheduled+st.Deferred, 0)
			want(w, "oldest", st.OldestDue.IsZero(), true)
		}},
		{"counts", "Deliveries are counted by route and state.", func(w *world) {
			for _, state := range outbox.States()[1:] {
				w.finish(w.enqueue(mail(on("a"))), state)
			}
			w.many(3, on("b"))
			got := make(map[string]int64)
			for _, c := range w.stats().Counts {
				got[c.Route+" "+string(c.State)] += c.Deliveries
			}
			expected := map[string]int64{"b queued": 3}
			for _, state := range outbox.States()[1:] {
				expected["a "+string(state)] = 1
			}
			want(w, "counts", fmt.Sprint(got), fmt.Sprint(expected))
		}},
		{"waiting", "What is queued is divided into due, scheduled and deferred.", func(w *world) {
			c := w.leased()
			w.settle(c, outbox.VerbDefer, inAnHour)
			c = w.leased()
			w.settle(c, outbox.VerbDefer, uncounted, inAnHour)
			w.many(3, later)
			w.many(4)
			st := w.stats()
			want(w, "due, scheduled and deferred", [3]int64{st.Due, st.Scheduled, st.Deferred}, [3]int64{4, 3, 2})
		}},
		{"oldest", "The oldest is what has been due for the longest time.", func(w *world) {
			ids := w.many(3)
			w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE message_id = $2", longAgo, string(ids[1]))
			want(w, "oldest", w.stats().OldestDue.UTC(), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC))
		}},
		{"pause", "A pause says since when, by whom and why; pausing again changes the reason and keeps the time.", func(w *world) {
			w.store = w.newStore(store.Actor("ann"))
			w.must(w.store.Pause(w.Context(), "it's news", "first"))
			w.exec("UPDATE outbox_routes SET paused_at = $1", longAgo)
			w.must(w.newStore(store.Actor("bob")).Pause(w.Context(), "it's news", "second"))
			paused := w.stats().Paused
			if len(paused) != 1 {
				w.violatedf("%d routes are paused", len(paused))
				return
			}
			p := paused[0]
			want(w, "pause", [4]any{p.Route, p.By, p.Reason, p.Since.Year()}, [4]any{"it's news", "bob", "second", 2000})
		}},
		{"resume", "Resuming says whether the route was paused, and is noted if it was.", func(w *world) {
			w.must(w.store.Pause(w.Context(), "news", ""))
			for i, expected := range []bool{true, false} {
				was, err := w.store.Resume(w.Context(), "news")
				w.must(err)
				want(w, fmt.Sprintf("paused before resume %d", i+1), was, expected)
			}
			want(w, "actions", w.number("SELECT count(*) FROM outbox_actions WHERE verb IN ('pause', 'resume')"), 2)
		}},
		{"pause-nothing", "A route must have a name to be paused.", func(w *world) {
			w.refused(w.store.Pause(w.Context(), "", "why"), "route")
		}},
		{"hostile-reason", "Routes and reasons are data, whatever they hold.", func(w *world) {
			w.must(w.store.Pause(w.Context(), "news", "it's \"broken\" \x00 \xff"))
			want(w, "reason", w.stats().Paused[0].Reason, "it's \"broken\" \uFFFD \uFFFD")
		}},
		{"check", "Check finds nothing wrong with a database that was migrated.", func(w *world) {
			w.must(w.store.Check(w.Context()))
		}},
	}
}

func (w *world) stats() store.Stats {
	w.Helper()
	st, err := w.store.Stats(w.Context())
	w.must(err)
	return st
}
