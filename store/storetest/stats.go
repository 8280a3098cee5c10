package storetest

import (
	"fmt"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
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
		{"history", "Of what is finished no more than the newest ten thousand of a state are counted, and it says so.", func(w *world) {
			w.many(3)
			w.changes(3, w.store.Cancel, store.Filter{})
			want(w, "states with more", len(w.stats().More), 0)
			w.history(store.CountedAtMost)
			st := w.stats()
			want(w, "states with more at the limit", len(st.More), 0)
			w.plant("01890000-0000-7000-8000-00000000abcd")
			w.exec("UPDATE outbox_deliveries SET state = 'sent', finished_at = (SELECT now FROM outbox_clock) WHERE state = 'queued'")
			st = w.stats()
			want(w, "states with more", st.More, []outbox.State{outbox.StateSent})
			for _, c := range st.Counts {
				if c.State == outbox.StateSent {
					want(w, "sent", c.Deliveries, store.CountedAtMost)
				}
			}
		}},
		{"minutes", "It says what was finished in each of the last minutes.", func(w *world) {
			for i, ago := range []time.Duration{10 * time.Second, 30 * time.Second, 90 * time.Second, 270 * time.Second, time.Hour} {
				id := w.enqueue(mail())
				w.finish(id, outbox.StateSent)
				w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE message_id = $2", bindTime(w.now().Add(-ago)), string(id))
				if i == 2 {
					w.exec("UPDATE outbox_deliveries SET state = 'failed' WHERE message_id = $1", string(id))
				}
			}
			want(w, "minutes", w.stats().Minutes, [5]store.Minute{{Sent: 2}, {Unsent: 1}, {}, {}, {Sent: 1}})
		}},
		{"shape", "The shape divides what is not finished by domain and age, the largest domain first.", func(w *world) {
			w.many(3, to("a@slow.example", "c@SLOW.example"))
			w.exec(`UPDATE outbox_deliveries SET recipient = '"a@b"@slow.example' WHERE seq = 1`)
			fresh := w.enqueue(mail(to("a@fast.example")))
			w.finish(w.enqueue(mail(to("a@done.example"))), outbox.StateSent)
			w.exec("UPDATE outbox_messages SET created_at = $1 WHERE id <> $2", bindTime(w.now().Add(-30*time.Minute)), string(fresh))
			shape, err := w.store.Shape(w.Context(), store.Filter{})
			w.must(err)
			want(w, "shape", shape, []store.Shape{
				{Domain: "slow.example", Total: 6, Ages: [10]int64{3: 6}}, {Domain: "fast.example", Total: 1, Ages: [10]int64{1}},
			})
			shape, err = w.store.Shape(w.Context(), store.Filter{To: "@fast.example"})
			w.must(err)
			want(w, "domains of one filter", len(shape), 1)
			shape, err = w.store.Shape(w.Context(), store.Filter{Limit: 1})
			w.must(err)
			want(w, "domains with a limit", len(shape), 1)
		}},
		{"waiting", "What is queued is divided into due, scheduled and deferred.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, inAnHour)
			c = w.leased()
			w.settle(c, queue.Deferred, uncounted, inAnHour)
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

// history stores n messages that were sent, with plain SQL.
func (w *world) history(n int) {
	w.Helper()
	if w.dialect == schema.Postgres {
		w.exec(fmt.Sprintf(`INSERT INTO outbox_messages (id, message_id, sender, recipients, size, body)
SELECT gen_random_uuid(), '<m@example.com>', 'shop@example.com', '["ann@example.org"]', 3, 'abc' FROM generate_series(1, %d)`, n))
	} else {
		w.exec(fmt.Sprintf(`WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < %d)
INSERT INTO outbox_messages (id, message_id, sender, recipients, size, body)
SELECT printf('01890000-0000-7000-8000-%%012x', n), '<m@example.com>', 'shop@example.com', '["ann@example.org"]', 3, CAST('abc' AS blob)
FROM g`, n))
	}
	w.exec("UPDATE outbox_deliveries SET state = 'sent', finished_at = (SELECT now FROM outbox_clock) WHERE state = 'queued'")
}

func (w *world) stats() store.Stats {
	w.Helper()
	st, err := w.store.Stats(w.Context())
	w.must(err)
	return st
}
