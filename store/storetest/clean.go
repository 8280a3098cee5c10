package storetest

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

func cleanRules() []rule {
	const day = 24 * time.Hour
	return []rule{
		{"keeps-all", "The zero retention keeps everything.", func(w *world) {
			everyState(w)
			w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE finished_at IS NOT NULL", longAgo)
			w.unchanged(func() { want(w, "report", w.clean(queue.Retention{}), queue.CleanReport{}) })
		}},
		{"by-state", "What was sent and what was not are kept for their own times.", func(w *world) {
			ids := everyState(w)
			w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE finished_at IS NOT NULL", longAgo)
			want(w, "report for sent", w.clean(queue.Retention{Sent: day}), queue.CleanReport{Purged: 1})
			_, err := w.store.Get(w.Context(), ids[outbox.StateSent])
			want(w, "the sent one is gone", errors.Is(err, store.ErrNotFound), true)
			want(w, "report for the others", w.clean(queue.Retention{Unsent: day}), queue.CleanReport{Purged: 4})
			want(w, "left", w.number("SELECT count(*) FROM outbox_deliveries"), 4)
		}},
		{"age", "What finished within the time that it is kept stays.", func(w *world) {
			old, fresh := w.enqueue(mail()), w.enqueue(mail())
			w.finish(old, outbox.StateFailed)
			w.finish(fresh, outbox.StateFailed)
			w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE message_id = $2", bindTime(w.now().Add(-25*time.Hour)), string(old))
			w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE message_id = $2", bindTime(w.now().Add(-23*time.Hour)), string(fresh))
			want(w, "report", w.clean(queue.Retention{Unsent: day, Sent: time.Hour}), queue.CleanReport{Purged: 1})
			want(w, "states", w.states(fresh), []outbox.State{outbox.StateFailed})
		}},
		{"live-stay", "What waits, however old it is, is never removed, and neither is its message.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			lost, err := w.store.Settle(w.Context(), "d1", []queue.Settlement{
				{Ref: c.Ref(0), Outcome: queue.Sent}, {Ref: c.Ref(1), Outcome: queue.Held},
			})
			w.must(err)
			want(w, "lost", lost, nil)
			w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE finished_at IS NOT NULL", longAgo)
			keep := queue.Retention{Sent: 2 * day, Unsent: 2 * day, Body: day}
			want(w, "report", w.clean(keep), queue.CleanReport{Purged: 1})
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateHeld})
			_, err = w.store.Body(w.Context(), c.ID)
			w.must(err)
		}},
		{"scrub", "Bodies and metadata go once the last delivery of a message has been finished for long enough; the record stays.",
			func(w *world) {
				c := w.leased(to("a@example.org", "b@example.org"), labelled("t", "user", "17"))
				w.settle(queue.Claimed{ID: c.ID, Token: c.Token, Deliveries: c.Deliveries[:1]}, queue.Sent)
				w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE finished_at IS NOT NULL", longAgo)
				want(w, "report while one is under way", w.clean(queue.Retention{Body: day}), queue.CleanReport{})
				w.settle(queue.Claimed{ID: c.ID, Token: c.Token, Deliveries: c.Deliveries[1:]}, queue.Failed)
				want(w, "report while one is fresh", w.clean(queue.Retention{Body: day}), queue.CleanReport{})
				w.exec("UPDATE outbox_deliveries SET finished_at = $1", bindTime(w.now().Add(-25*time.Hour)))
				want(w, "report", w.clean(queue.Retention{Body: day}), queue.CleanReport{Scrubbed: 1})
				m := w.get(c.ID)
				want(w, "scrubbed", m.Scrubbed, true)
				want(w, "metadata", len(m.Metadata), 0)
				want(w, "tags", m.Tags, []string{"t"})
				want(w, "report the second time", w.clean(queue.Retention{Body: day}), queue.CleanReport{})
			}},
		{"scrub-any-order", "A body never outlives its retention, in whatever order and for however long the deliveries of its message are kept.",
			scrubAnyOrder},
		{"scrub-after-purge", "A body does not outlive its retention because an operator purged the delivery that kept it.", func(w *world) {
			keep := queue.Retention{Sent: 90 * day, Unsent: 90 * day, Body: 2 * day}
			id := w.enqueue(mail(to("a@example.org", "b@example.org")))
			w.ended(id, 1, "sent", 80*time.Hour)
			w.ended(w.enqueue(mail()), 1, "sent", 60*time.Hour)
			want(w, "report while one is queued", w.clean(keep), queue.CleanReport{Scrubbed: 1})
			w.ended(id, 2, "failed", time.Hour)
			want(w, "report while one is fresh", w.clean(keep), queue.CleanReport{})
			w.changes(1, w.store.Purge, store.Filter{States: []outbox.State{outbox.StateFailed}})
			want(w, "report after the purge", w.clean(keep), queue.CleanReport{Scrubbed: 1})
			want(w, "scrubbed", w.get(id).Scrubbed, true)
		}},
		{"scrub-all", "Bodies go whatever the deliveries ended as, and however many there are.", func(w *world) {
			w.many(1100)
			for i, c := range w.claim(func(r *queue.ClaimRequest) { r.Limit = 1100 }) {
				w.settle(c, []queue.Outcome{queue.Sent, queue.Failed, queue.Expired}[i%3])
			}
			w.many(5)
			w.changes(5, w.store.Cancel, store.Filter{})
			w.exec("UPDATE outbox_deliveries SET finished_at = $1", longAgo)
			want(w, "report", w.clean(queue.Retention{Body: day}), queue.CleanReport{Scrubbed: 1105})
		}},
		{"scrub-later", "What finishes after a cleaning is scrubbed by a later one, also when it finished in the same instant as the last.",
			func(w *world) {
				first := w.enqueue(mail())
				w.finish(first, outbox.StateSent)
				w.exec("UPDATE outbox_deliveries SET finished_at = $1", longAgo)
				want(w, "first report", w.clean(queue.Retention{Body: day}), queue.CleanReport{Scrubbed: 1})
				w.finish(w.enqueue(mail()), outbox.StateSent)
				w.exec("UPDATE outbox_deliveries SET finished_at = $1", longAgo)
				want(w, "second report", w.clean(queue.Retention{Body: day}), queue.CleanReport{Scrubbed: 1})
			}},
		{"requeued-keeps-body", "What was requeued before its body went keeps it.", func(w *world) {
			id := w.enqueue(mail())
			w.finish(id, outbox.StateFailed)
			w.exec("UPDATE outbox_deliveries SET finished_at = $1", longAgo)
			w.changes(1, w.store.Requeue, store.Filter{})
			want(w, "report", w.clean(queue.Retention{Body: day}), queue.CleanReport{})
			want(w, "claimed", claimedIDs(w.claim()), []outbox.ID{id})
		}},
		{"requeue-or-scrub", "When messages are scrubbed while they are requeued, none is queued without its body.", func(w *world) {
			ids := w.many(60, to("a@example.org", "b@example.org"))
			w.changes(120, w.store.Cancel, store.Filter{})
			w.exec("UPDATE outbox_deliveries SET finished_at = $1", longAgo)
			var wg sync.WaitGroup
			wg.Go(func() { w.clean(queue.Retention{Body: day}) })
			cancelled := []outbox.State{outbox.StateCancelled}
			for _, id := range ids {
				wg.Go(func() {
					if _, err := w.store.Requeue(w.Context(), store.Filter{IDs: []outbox.ID{id}, States: cancelled}); err != nil {
						w.violatedf("requeue: %v", err)
					}
				})
			}
			wg.Wait()
			want(w, "queued without a body", w.number(`SELECT count(*) FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
WHERE d.state = 'queued' AND m.body IS NULL`), 0)
		}},
		{"many", "Cleaning works through any number of deliveries, and beside others that clean.", func(w *world) {
			w.many(1700)
			w.changes(1700, w.store.Cancel, store.Filter{})
			w.exec("UPDATE outbox_deliveries SET finished_at = $1", longAgo)
			var (
				wg    sync.WaitGroup
				mu    sync.Mutex
				total int
			)
			for range 3 {
				wg.Go(func() {
					report := w.clean(queue.Retention{Unsent: day})
					mu.Lock()
					defer mu.Unlock()
					total += report.Purged
				})
			}
			wg.Wait()
			total += w.clean(queue.Retention{Unsent: day}).Purged
			want(w, "purged together", total, 1700)
			want(w, "messages left", w.number("SELECT count(*) FROM outbox_messages"), 0)
		}},
		{"interrupted", "Cleaning stops with its context.", func(w *world) {
			w.finish(w.enqueue(mail()), outbox.StateSent)
			ctx, cancel := context.WithCancel(w.Context())
			cancel()
			_, err := w.store.Clean(ctx, queue.Retention{Sent: time.Nanosecond})
			want(w, "is context.Canceled", errors.Is(err, context.Canceled), true)
		}},
		{"mistakes", "A negative retention is refused.", func(w *world) {
			_, err := w.store.Clean(w.Context(), queue.Retention{Sent: -1})
			w.refused(err, "negative")
		}},
	}
}

func (w *world) clean(keep queue.Retention) queue.CleanReport {
	w.Helper()
	report, err := w.store.Clean(w.Context(), keep)
	w.must(err)
	return report
}

// beatRules are about the heartbeats of dispatchers.
func beatRules() []rule {
	longSince := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	beat := queue.Heartbeat{
		ID: "d1", Host: "mx-1", PID: 17, Version: "v1.2.3", Relays: map[string]queue.RelayHealth{
			"primary": {State: "healthy", Routes: []string{"default", "billing"}, Rate: queue.Rate{PerSecond: 14}, Concurrency: 10},
			"it's \x00": {
				State: "offline", Class: "config", Code: 535, Reason: "down \xff", Since: longSince, NextTry: longSince.Add(time.Hour), Sending: 3,
			},
		},
		Faults: []queue.Fault{{Kind: "unserved_route", Route: "recipts", Since: longSince}, {Kind: "hung_sends", Relay: "it's", Count: 3}},
	}
	return []rule{
		{"heartbeat", "A heartbeat says who lives, where, as what, and how its relays do.", func(w *world) {
			w.must(w.store.Heartbeat(w.Context(), beat))
			list, err := w.store.Dispatchers(w.Context())
			w.must(err)
			if len(list) != 1 {
				w.violatedf("%d dispatchers are listed", len(list))
				return
			}
			d := list[0]
			w.near("start", d.StartedAt, w.now())
			w.near("last seen", d.SeenAt, w.now())
			if d.Silent < -time.Second || d.Silent > 5*time.Second {
				w.violatedf("it is said to have been silent for %v", d.Silent)
			}
			want(w, "dispatcher", [4]any{d.ID, d.Host, d.PID, d.Version}, [4]any{"d1", "mx-1", 17, "v1.2.3"})
			odd := beat.Relays["it's \x00"]
			odd.Reason = "down \uFFFD"
			want(w, "relays", d.Relays, map[string]queue.RelayHealth{"primary": beat.Relays["primary"], "it's \uFFFD": odd})
			want(w, "faults", d.Faults, beat.Faults)
		}},
		{"words", "What earlier versions said of relays in words is understood.", func(w *world) {
			w.must(w.store.Heartbeat(w.Context(), beat))
			w.exec(`UPDATE outbox_dispatchers SET relays = '{"a": "healthy", "b": "offline: 421 not now: later"}'`)
			list, err := w.store.Dispatchers(w.Context())
			w.must(err)
			want(w, "relays", list[0].Relays, map[string]queue.RelayHealth{
				"a": {State: "healthy"}, "b": {State: "offline", Reason: "421 not now: later"},
			})
		}},
		{"again", "Later heartbeats keep the start and renew the rest.", func(w *world) {
			w.must(w.store.Heartbeat(w.Context(), beat))
			w.exec("UPDATE outbox_dispatchers SET started_at = $1, seen_at = $2", longAgo, bindTime(w.now().Add(-time.Hour)))
			later := beat
			later.Relays = map[string]queue.RelayHealth{"primary": {State: "degraded"}}
			w.must(w.store.Heartbeat(w.Context(), later))
			list, err := w.store.Dispatchers(w.Context())
			w.must(err)
			want(w, "dispatchers", len(list), 1)
			want(w, "start", list[0].StartedAt.Year(), 2000)
			w.near("last seen", list[0].SeenAt, w.now())
			want(w, "relay", list[0].Relays["primary"].State, "degraded")
		}},
		{"retire", "A dispatcher that stops is forgotten, whether it was known or not.", func(w *world) {
			w.must(w.store.Heartbeat(w.Context(), beat))
			for range 2 {
				w.must(w.store.Retire(w.Context(), "d1"))
			}
			list, err := w.store.Dispatchers(w.Context())
			w.must(err)
			want(w, "dispatchers", len(list), 0)
		}},
		{"forgotten", "A dispatcher that has not been heard of for a day is forgotten; one that was silent for an hour is listed.",
			func(w *world) {
				for _, id := range []string{"dead", "silent"} {
					other := beat
					other.ID = id
					w.must(w.store.Heartbeat(w.Context(), other))
				}
				w.exec("UPDATE outbox_dispatchers SET seen_at = $1 WHERE id = 'dead'", longAgo)
				w.exec("UPDATE outbox_dispatchers SET seen_at = $1 WHERE id = 'silent'", bindTime(w.now().Add(-time.Hour)))
				w.must(w.store.Heartbeat(w.Context(), beat))
				list, err := w.store.Dispatchers(w.Context())
				w.must(err)
				silent := make(map[string]time.Duration)
				for _, d := range list {
					silent[d.ID] = d.Silent.Round(time.Hour)
				}
				want(w, "silent", silent, map[string]time.Duration{"silent": time.Hour, "d1": 0})
			}},
		{"nameless", "A heartbeat without an id is refused.", func(w *world) {
			w.refused(w.store.Heartbeat(w.Context(), queue.Heartbeat{}), "id")
		}},
	}
}

// ended finishes a delivery at the given time before now.
func (w *world) ended(id outbox.ID, seq int, state string, ago time.Duration) {
	w.Helper()
	w.exec("UPDATE outbox_deliveries SET state = $1, finished_at = $2 WHERE message_id = $3 AND seq = $4",
		state, bindTime(w.now().Add(-ago)), string(id), seq)
}

// scrubAnyOrder finishes the second recipient after scrubbing has passed over the first one. It tries pairs of
// states, with retentions shorter than, equal to and longer than that of bodies.
func scrubAnyOrder(w *world) {
	const day = 24 * time.Hour
	for _, keep := range []queue.Retention{
		{Sent: 90 * day, Unsent: day, Body: 2 * day},
		{Sent: day, Unsent: 90 * day, Body: 2 * day},
		{Sent: 2 * day, Unsent: 2 * day, Body: 2 * day},
		{Sent: 90 * day, Unsent: 0, Body: 2 * day},
		{Sent: 0, Unsent: day, Body: 2 * day},
	} {
		for _, first := range []string{"sent", "failed", "expired"} {
			for _, second := range []string{"sent", "failed", "cancelled", "suppressed"} {
				two, other := w.enqueue(mail(to("a@example.org", "b@example.org"))), w.enqueue(mail())
				w.ended(two, 1, first, 47*time.Hour)
				w.ended(other, 1, first, 40*time.Hour)
				w.clean(keep)
				w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE finished_at IS NOT NULL AND seq = 1", bindTime(w.now().Add(-60*time.Hour)))
				w.clean(keep) // passes over the message: its second delivery is queued
				w.ended(two, 2, second, 50*time.Hour)
				w.clean(keep)
				w.clean(keep)
				if n := w.number("SELECT count(*) FROM outbox_messages WHERE body IS NOT NULL"); n != 0 {
					w.violatedf("%+v: first %s, then %s: %d bodies are left", keep, first, second, n)
				}
				w.exec("DELETE FROM outbox_messages")
				w.exec("DELETE FROM outbox_chores")
			}
		}
	}
}
