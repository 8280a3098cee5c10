package storetest

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// poisonRules are about rows that were typed by hand, written by another program, or kept by an older release.
func poisonRules() []rule {
	rules := []rule{
		{"orphan", "A delivery whose message is missing is held with the reason, and stops no other.", func(w *world) {
			orphan, good := w.enqueue(mail()), w.enqueue(mail())
			lost := uuid.NewString()
			w.exec("UPDATE outbox_deliveries SET message_id = $1 WHERE message_id = $2", lost, string(orphan))
			want(w, "claimed", claimedIDs(w.claim()), []outbox.ID{good})
			state := w.nullable("SELECT state FROM outbox_deliveries WHERE message_id = $1", lost).String
			reply := w.nullable("SELECT reply FROM outbox_deliveries WHERE message_id = $1", lost).String
			if state != "held" || !strings.Contains(reply, "outbox_messages has no row") {
				w.violatedf("the orphan is %s: %q", state, reply)
			}
		}},
		{"id-not-utf8", "A delivery whose id is not UTF-8 is held, and stops no other.", func(w *world) {
			if w.dialect == schema.Postgres {
				return // its type of ids cannot hold one
			}
			w.exec(`INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, due_at)
				VALUES (CAST(x'ff41' AS TEXT), 1, 'a@example.org', 'default', 'normal', '2020-01-01T00:00:00.000Z')`)
			good := w.enqueue(mail())
			want(w, "claimed", claimedIDs(w.claim()), []outbox.ID{good})
			want(w, "held", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'held'"), 1)
		}},
		{"many-in-front", "However many deliveries cannot be read, a claim finds what can be read behind them.", func(w *world) {
			w.many(1500)
			w.exec(`UPDATE outbox_messages SET tags = '[1]'`)
			w.exec("UPDATE outbox_deliveries SET due_at = $1", longAgo)
			good := w.enqueue(mail())
			want(w, "claimed", claimedIDs(w.claim(func(r *queue.ClaimRequest) { r.Limit = 7 })), []outbox.ID{good})
			want(w, "held", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'held'"), 1500)
		}},
		{"released", "What was held because it could not be read is claimed once it was mended and released.", func(w *world) {
			id := w.enqueue(mail())
			w.exec(`UPDATE outbox_messages SET metadata = '{"n":1}'`)
			want(w, "claimed", len(w.claim()), 0)
			w.changes(1, w.store.Release, store.Filter{})
			want(w, "claimed before it is mended", len(w.claim()), 0)
			w.exec(`UPDATE outbox_messages SET metadata = '{"n":"1"}'`)
			w.changes(1, w.store.Release, store.Filter{})
			c := w.claimOne()
			want(w, "claimed", c.ID, id)
			want(w, "metadata", c.Metadata, map[string]string{"n": "1"})
			want(w, "attempt", c.Deliveries[0].Attempt, 1)
		}},
		{"attempts", "A delivery with the largest number of attempts is claimed like any other.", func(w *world) {
			for _, attempts := range []int{math.MaxInt32, math.MaxInt32 - 1, 1_000_000} {
				id := w.enqueue(mail())
				w.exec("UPDATE outbox_deliveries SET attempts = $1 WHERE message_id = $2", attempts, string(id))
			}
			good := w.enqueue(mail())
			ids := claimedIDs(w.claim())
			want(w, "claimed", len(ids), 4)
			want(w, "the last", ids[3], good)
		}},
		{"far-away", "Times that are too far away for a duration are as far away as one can say.", func(w *world) {
			for _, year := range []int{2300, 9999} {
				m := mail(on("later"))
				m.NotBefore = time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC)
				w.enqueue(m)
				due, err := w.store.Due(w.Context(), []string{"later"})
				w.must(err)
				if len(due) != 1 || due[0].In < 250*365*24*time.Hour {
					w.violatedf("what is due in the year %d is said to be due in %v", year, due)
				}
				want(w, "claimed", len(w.claim(func(r *queue.ClaimRequest) { r.Routes = []string{"later"} })), 0)
				w.exec("DELETE FROM outbox_messages")
				m = mail()
				m.Expires = time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC)
				w.enqueue(m)
				if in := w.claimOne().ExpiresIn; in < 250*365*24*time.Hour {
					w.violatedf("the deadline in the year %d is said to be in %v", year, in)
				}
			}
		}},
		{"infinite", "Times that are infinite, which only PostgreSQL knows, stop nothing.", func(w *world) {
			if w.store.Dialect() != schema.Postgres {
				w.Skip("SQLite has no infinite times")
			}
			for _, set := range []string{
				"deliveries SET due_at = '-infinity'", "deliveries SET expires_at = 'infinity'", "deliveries SET deferred_since = '-infinity'",
				"deliveries SET deferred_since = 'infinity'", "messages SET created_at = '-infinity'", "messages SET created_at = 'infinity'",
				"messages SET not_before = 'infinity'", "messages SET not_before = '-infinity'",
			} {
				w.many(2)
				w.exec("UPDATE outbox_" + set)
				w.enqueue(mail())
				_, err := w.store.Due(w.Context(), nil)
				w.must(err)
				want(w, "claimed with "+set, len(w.claim()), 3)
				w.exec("DELETE FROM outbox_messages")
			}
			w.enqueue(mail())
			w.exec("UPDATE outbox_deliveries SET due_at = 'infinity'")
			due, err := w.store.Due(w.Context(), nil)
			w.must(err)
			want(w, "due", due[0].In, time.Duration(math.MaxInt64))
		}},
	}
	for _, p := range []struct{ name, column, value, shown string }{
		{"metadata-number", "metadata", `{"order":42}`, "map[order:42]"},
		{"metadata-object", "metadata", `{"a":"b","order":{"n":[1,2]}}`, ""},
		{"metadata-true", "metadata", `{"vip":true}`, "map[vip:true]"},
		{"tags-number", "tags", `[1]`, "[1]"},
		{"tags-mixed", "tags", `["a",{"b":1.5},false]`, ""},
	} {
		rules = append(rules, rule{"unreadable-" + p.name, "A message whose " + p.column + " are " + p.value +
			" is held with the reason, and everything beside it is claimed.", func(w *world) { unreadable(w, p.column, p.value, p.shown) }})
	}
	return rules
}

// unreadable stores three messages and spoils a column of the second one, which has two recipients.
func unreadable(w *world, column, value, shown string) {
	w.Helper()
	for _, edits := range [][]func(*queue.ClaimRequest){
		nil,
		{func(r *queue.ClaimRequest) { r.Relay, r.Rate = "main", queue.Rate{PerSecond: 1000} }},
		{func(r *queue.ClaimRequest) { r.Limit = 2 }},
	} {
		first, bad, last := w.enqueue(mail()), w.enqueue(mail(to("a@example.org", "b@example.org"))), w.enqueue(mail())
		w.exec("UPDATE outbox_messages SET "+column+" = $1 WHERE id = $2", value, string(bad))
		want(w, "claimed", claimedIDs(w.claim(edits...)), []outbox.ID{first, last})
		want(w, "states", w.states(bad), []outbox.State{outbox.StateHeld, outbox.StateHeld})
		m := w.get(bad)
		for _, d := range m.Deliveries {
			want(w, "attempts", d.Attempts, 0)
			if !strings.Contains(d.Reply, "the message cannot be read: "+column+" is not an") {
				w.violatedf("the reason is %q", d.Reply)
			}
		}
		want(w, "attempts in the history", len(m.Attempts), 2)
		if shown != "" {
			want(w, "shown", fmt.Sprint(map[string]any{"metadata": m.Metadata, "tags": m.Tags}[column]), shown)
		}
		list := w.list(store.Filter{States: []outbox.State{outbox.StateHeld}})
		want(w, "listed", len(list), 2)
		want(w, "claimed again", len(w.claim(edits...)), 0)
		w.exec("DELETE FROM outbox_messages")
	}
}
