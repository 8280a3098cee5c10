package storetest

import (
	"context"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// guardRules are about guards that a test would miss whose rows are all alike, or that has an index which happens to give the
// right order: a policy beside another, a limit that other rows fill, a clock that goes back, a row that is locked.
func guardRules() []rule {
	const day = 24 * time.Hour
	one := func(r *queue.ClaimRequest) { r.Limit = 1 }
	return []rule{
		{"hold-beside-resend", "What the policy of one message resolves leaves what waits for an operator, and what waits for its delay.",
			func(w *world) {
				hold, resend, fresh := w.doubtful(holding), w.doubtful(), w.doubtful()
				w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE message_id IN ($2, $3)", longAgo, string(hold.ID), string(resend.ID))
				want(w, "report", w.reap(), queue.ReapReport{Resent: 1})
				want(w, "hold", w.one(hold.ID).State, outbox.StateUncertain)
				want(w, "resend", w.one(resend.ID).State, outbox.StateQueued)
				want(w, "before its delay", w.one(fresh.ID).State, outbox.StateUncertain)
				want(w, "claimed", w.claimOne().ID, resend.ID)
			}},
		{"oldest-without-index", "The earliest due is claimed first, whether or not an index gives the order.", func(w *world) {
			w.withoutIndex("outbox_deliveries_due", func() {
				ids := w.many(3)
				for i, at := range []string{"2001-01-03T00:00:00.000Z", "2001-01-01T00:00:00.000Z", "2001-01-02T00:00:00.000Z"} {
					w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE message_id = $2", at, string(ids[i]))
				}
				for _, i := range []int{1, 2, 0} {
					want(w, "claimed", w.claimOne(one).ID, ids[i])
				}
			})
		}},
		{"crowds", "However many others look alike, the one that is overdue expires, and the one in doubt is sent again.", func(w *world) {
			id := w.enqueue(mail(expiring))
			w.many(600, expiring, holding)
			others := func(set string) {
				w.Helper()
				w.exec("UPDATE outbox_deliveries SET "+set+" WHERE message_id <> $1", string(id))
			}
			w.exec("UPDATE outbox_deliveries SET expires_at = $1", longAgo)
			w.exec("UPDATE outbox_deliveries SET expires_at = $1 WHERE message_id = $2", "2001-01-01T00:00:00.000Z", string(id))
			others("state = 'uncertain'")
			want(w, "report beside what is uncertain", w.reap(), queue.ReapReport{Expired: 1})
			w.exec("UPDATE outbox_deliveries SET state = 'uncertain', finished_at = NULL, expires_at = NULL, due_at = '2001-01-01T00:00:00.000Z'")
			others("state = 'queued', due_at = '" + longAgo + "'")
			w.exec("UPDATE outbox_messages SET on_uncertain = 'resend'")
			want(w, "report beside what is queued", w.reap(), queue.ReapReport{Resent: 1})
			others("state = 'uncertain', due_at = '" + longAgo + "'")
			w.exec("UPDATE outbox_messages SET on_uncertain = 'hold' WHERE id <> $1", string(id))
			w.exec("UPDATE outbox_deliveries SET state = 'uncertain', due_at = '2001-01-01T00:00:00.000Z' WHERE message_id = $1", string(id))
			want(w, "report beside what waits for an operator", w.reap(), queue.ReapReport{Resent: 1})
		}},
		{"held-alone", "A deadline ends what is held although nothing else is to do.", func(w *world) {
			id := w.enqueue(mail(expiring))
			w.exec("UPDATE outbox_deliveries SET state = 'held', expires_at = $1", longAgo)
			want(w, "report", w.reap(), queue.ReapReport{Expired: 1})
			want(w, "state", w.one(id).State, outbox.StateExpired)
		}},
		{"clock-that-goes-back", "A clock that is put back neither refills an allowance twice nor takes from it.", func(w *world) {
			w.many(30)
			limited := func(r *queue.ClaimRequest) { r.Relay, r.Rate = "primary", queue.Rate{PerSecond: 0.1, Burst: 10} }
			want(w, "claimed", len(w.claim(limited)), 10)
			w.exec("UPDATE outbox_relays SET refilled_at = $1", bindTime(w.now().Add(time.Hour)))
			want(w, "claimed after the clock was put back", len(w.claim(limited)), 0)
			w.exec("UPDATE outbox_relays SET tokens = 0.5") // the next claim looks at the row again
			want(w, "claimed once more", len(w.claim(limited)), 0)
			want(w, "rows that were refilled in the future",
				w.number("SELECT count(*) FROM outbox_relays WHERE refilled_at > $1", bindTime(w.now().Add(50*time.Minute))), 1)
			want(w, "rows that owe", w.number("SELECT count(*) FROM outbox_relays WHERE tokens < 0"), 0)
			w.exec("UPDATE outbox_relays SET tokens = 2")
			want(w, "claimed of what is left", len(w.claim(limited)), 2)
			want(w, "rows that are refilled in the future still",
				w.number("SELECT count(*) FROM outbox_relays WHERE refilled_at > $1", bindTime(w.now().Add(50*time.Minute))), 1)
			w.exec("UPDATE outbox_relays SET tokens = 0, refilled_at = $1", bindTime(w.now().Add(-45*time.Second)))
			want(w, "claimed of what was refilled", len(w.claim(limited)), 4)
			want(w, "claimed of the same once more", len(w.claim(limited)), 0)
		}},
		{"committed-later", "A body is scrubbed although its delivery was committed after later ones had been cleaned.", func(w *world) {
			keep := queue.Retention{Body: day}
			w.ended(w.enqueue(mail()), 1, "sent", day+time.Hour)
			want(w, "report", w.clean(keep), queue.CleanReport{Scrubbed: 1})
			w.ended(w.enqueue(mail()), 1, "sent", day+time.Hour+45*time.Second)
			want(w, "report after the commit", w.clean(keep), queue.CleanReport{Scrubbed: 1})
		}},
		{"own-progress", "How far the cleaning of one state has come says nothing of another.", func(w *world) {
			keep := queue.Retention{Body: day}
			w.ended(w.enqueue(mail()), 1, "sent", day+time.Hour)
			want(w, "report", w.clean(keep), queue.CleanReport{Scrubbed: 1})
			for _, state := range []string{"failed", "expired", "cancelled", "suppressed"} {
				w.ended(w.enqueue(mail()), 1, state, 3*day)
				want(w, "report of what is "+state, w.clean(keep), queue.CleanReport{Scrubbed: 1})
			}
		}},
		{"locked-rows", "A row that another transaction has locked holds up no other: neither a claim, nor the reaper, nor cleaning.",
			lockedRows},
	}
}

// withoutIndex runs fn while an index is not there. SQLite keeps it, because the statements name it.
func (w *world) withoutIndex(name string, fn func()) {
	w.Helper()
	if w.dialect == schema.SQLite {
		fn()
		return
	}
	if w.schema != "" {
		name = pgschema.Quote(w.schema) + "." + name
	}
	var definition string
	w.must(w.db.GetContext(w.Context(), &definition, "SELECT pg_get_indexdef($1::regclass)", name))
	raw := func(statement string) {
		w.Helper()
		_, err := w.db.ExecContext(w.Context(), statement) // the definition has the schema already
		w.must(err)
	}
	raw("DROP INDEX " + name)
	defer raw(definition)
	fn()
}

// lockedRows locks the first of several rows, which every statement with a limit would take first. What waits for the lock takes
// longer than the rule allows.
func lockedRows(w *world) {
	if w.dialect == schema.SQLite { // which locks the whole file
		return
	}
	ctx, cancel := context.WithTimeout(w.Context(), 10*time.Second)
	defer cancel()
	lock := func(id outbox.ID) (free func()) {
		w.Helper()
		return w.locked("outbox_deliveries WHERE message_id = $1", string(id))
	}
	reap := func(what string, expected queue.ReapReport) {
		w.Helper()
		report, err := w.store.Reap(ctx)
		w.must(err)
		want(w, what, report, expected)
	}
	set := func(column string, ids ...outbox.ID) {
		w.Helper()
		for _, id := range ids {
			w.exec("UPDATE outbox_deliveries SET "+column+" = $1 WHERE message_id = $2", longAgo, string(id))
		}
	}

	ids := w.many(3)
	set("due_at", ids...)
	free := lock(ids[0])
	claimed, err := w.store.Claim(ctx, request())
	w.must(err)
	want(w, "claimed", claimedIDs(claimed), ids[1:])
	free()

	doubts := []outbox.ID{w.doubt().ID, w.doubt().ID}
	set("due_at", doubts...)
	free = lock(doubts[0])
	reap("report of doubt", queue.ReapReport{Resent: 1})
	free()
	reap("report of doubt afterwards", queue.ReapReport{Resent: 1})

	overdue := w.many(2, expiring)
	set("expires_at", overdue...)
	free = lock(overdue[0])
	reap("report of deadlines", queue.ReapReport{Expired: 1})
	free()
	reap("report of deadlines afterwards", queue.ReapReport{Expired: 1})

	old := w.many(2)
	for _, id := range old {
		w.ended(id, 1, "failed", 48*time.Hour)
	}
	free = lock(old[0])
	report, err := w.store.Clean(ctx, queue.Retention{Unsent: 24 * time.Hour})
	w.must(err)
	want(w, "report of cleaning", report, queue.CleanReport{Purged: 1})
	free()
}

// doubt is a message that is uncertain because its lease lapsed behind the fence, beside others that are being sent.
func (w *world) doubt() queue.Claimed {
	w.Helper()
	id := w.enqueue(mail())
	for _, c := range w.claim() {
		if c.ID != id {
			w.settle(c, queue.Held)
			continue
		}
		w.fence(refs(c)...)
		w.lapse(id)
		want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
		return c
	}
	w.Fatalf("%s was not claimed", id)
	return queue.Claimed{}
}
