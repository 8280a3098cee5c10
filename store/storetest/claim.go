package storetest

import (
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

func claimRules() []rule { return append(claimTakes(), claimTells()...) }

// claimTakes are the rules about which deliveries a claim takes and which it leaves.
func claimTakes() []rule {
	return []rule{
		{"nothing-due", "A claim of an empty queue returns nothing and is no error.", func(w *world) {
			want(w, "claimed", len(w.claim()), 0)
		}},
		{"leaves-scheduled", "A delivery whose time has not come is not claimed.", func(w *world) {
			w.enqueue(mail(later))
			w.unchanged(func() { want(w, "claimed", len(w.claim()), 0) })
		}},
		{"takes-due-again", "A deferred delivery is claimed again once its time has come.", func(w *world) {
			w.settle(w.leased(), queue.Deferred, inAnHour)
			want(w, "claimed before the time", len(w.claim()), 0)
			w.exec("UPDATE outbox_deliveries SET due_at = $1", longAgo)
			want(w, "attempt", w.claimOne().Deliveries[0].Attempt, 2)
		}},
		{"leaves-other-states", "Only queued deliveries are claimed: those in any other state stay.", func(w *world) {
			for _, state := range outbox.States()[1:] {
				w.finish(w.enqueue(mail()), state)
			}
			w.unchanged(func() { want(w, "claimed", len(w.claim()), 0) })
		}},
		{"leaves-leased", "What one owner holds no other claims.", func(w *world) {
			w.leased()
			w.unchanged(func() {
				want(w, "claimed", len(w.claim(func(r *queue.ClaimRequest) { r.Owner = "d2" })), 0)
			})
		}},
		{"leaves-paused-route", "Deliveries of a paused route stay until it is resumed.", func(w *world) {
			id := w.enqueue(mail(on("news")))
			w.must(w.store.Pause(w.Context(), "news", "incident"))
			w.unchanged(func() { want(w, "claimed while paused", len(w.claim()), 0) })
			_, err := w.store.Resume(w.Context(), "news")
			w.must(err)
			want(w, "claimed after the pause", claimedIDs(w.claim()), []outbox.ID{id})
		}},
		{"leaves-overdue", "A delivery past its deadline is not claimed.", func(w *world) {
			w.enqueue(mail(expiring))
			w.exec("UPDATE outbox_deliveries SET expires_at = $1", longAgo)
			w.unchanged(func() { want(w, "claimed", len(w.claim()), 0) })
		}},
		{"counts-attempts", "Each claim counts one more attempt, from 1.", func(w *world) {
			c := w.leased()
			want(w, "first attempt", c.Deliveries[0].Attempt, 1)
			w.settle(c, queue.Deferred)
			want(w, "second attempt", w.claimOne().Deliveries[0].Attempt, 2)
		}},
		{"fresh-token", "Every claim has a token of its own.", func(w *world) {
			first := w.leased()
			w.settle(first, queue.Recycled)
			if second := w.claimOne(); second.Token == first.Token || second.Token == "" {
				w.violatedf("the tokens are %q and %q", first.Token, second.Token)
			}
		}},
		{"leases-by-database-clock", "A lease ends after the time that was asked for, by the clock of the database.", func(w *world) {
			w.enqueue(mail())
			c := w.claimOne(func(r *queue.ClaimRequest) { r.Lease = time.Hour })
			d := w.one(c.ID)
			w.near("the end of the lease", d.LeaseUntil, w.now().Add(time.Hour))
			want(w, "owner", d.LeaseOwner, "d1")
			want(w, "state", d.State, outbox.StateSending)
		}},
		{"limit", "A claim takes no more deliveries than its limit.", func(w *world) {
			w.many(10)
			want(w, "claimed", len(w.claim(func(r *queue.ClaimRequest) { r.Limit = 3 })), 3)
			want(w, "claimed next", len(w.claim()), 7)
		}},
		{"siblings-together", "The due recipients of a message are claimed together, even where that passes the limit.", func(w *world) {
			id := w.enqueue(mail(to("a@example.org", "b@example.org", "c@example.org")))
			c := w.claimOne(func(r *queue.ClaimRequest) { r.Limit = 1 })
			want(w, "message", c.ID, id)
			want(w, "recipients", len(c.Deliveries), 3)
			for i, d := range c.Deliveries {
				want(w, "place of a recipient", d.Seq, i+1)
			}
		}},
		{"siblings-not-due-stay", "A recipient that is deferred or done does not come along with its siblings.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org", "c@example.org"))
			lost, err := w.store.Settle(w.Context(), "d1", []queue.Settlement{
				{Ref: c.Ref(0), Outcome: queue.Sent}, {Ref: c.Ref(1), Outcome: queue.Recycled},
				{Ref: c.Ref(2), Outcome: queue.Deferred, Delay: time.Hour},
			})
			w.must(err)
			want(w, "lost", lost, nil)
			again := w.claimOne()
			want(w, "recipients", len(again.Deliveries), 1)
			want(w, "place", again.Deliveries[0].Seq, 2)
		}},
		{"siblings-overdue-stay", "A recipient past its deadline does not come along with its siblings.", func(w *world) {
			id := w.enqueue(mail(to("a@example.org", "b@example.org")))
			w.exec("UPDATE outbox_deliveries SET expires_at = $1 WHERE message_id = $2 AND seq = 2", longAgo, string(id))
			want(w, "recipients", len(w.claimOne().Deliveries), 1)
		}},
		{"oldest-due-first", "Of one route and priority the earliest due comes first.", func(w *world) {
			ids := w.many(3)
			for i, at := range []string{"2001-01-03T00:00:00.000Z", "2001-01-01T00:00:00.000Z", "2001-01-02T00:00:00.000Z"} {
				w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE message_id = $2", at, string(ids[i]))
			}
			want(w, "order", claimedIDs(w.claim()), []outbox.ID{ids[1], ids[2], ids[0]})
		}},
		{"routes", "A claim takes deliveries of the routes that it names, or of all when it names none.", func(w *world) {
			a, b := w.enqueue(mail(on("a"))), w.enqueue(mail(on("b")))
			w.enqueue(mail(on("c")))
			got := claimedIDs(w.claim(func(r *queue.ClaimRequest) { r.Routes = []string{"b", "a", "no such route"} }))
			if len(got) != 2 || (got[0] != a && got[1] != a) || (got[0] != b && got[1] != b) {
				w.violatedf("claimed %v, want %s and %s", got, a, b)
			}
			want(w, "claimed from any route", len(w.claim()), 1)
		}},
	}
}

// claimTells are the rules about what a claim returns.
func claimTells() []rule {
	return []rule{
		{"gives-what-was-enqueued", "A claim returns the message as it was enqueued, with its body and its recipients.", claimGivesMessage},
		{"inline-bodies", "A body comes with its claim up to the size that was asked for, and else by itself.", func(w *world) {
			small, large := w.enqueue(mail()), w.enqueue(mail(text(strings.Repeat("long ", 1000))))
			for _, c := range w.claim(func(r *queue.ClaimRequest) { r.InlineBytes = 2000 }) {
				want(w, "has its body", c.Body != nil, c.ID == small)
				body, err := w.store.Body(w.Context(), c.ID)
				w.must(err)
				want(w, "size", int64(len(body)), c.Size)
				if c.ID == small {
					want(w, "inline body", string(c.Body), string(body))
				}
				w.settle(c, queue.Recycled)
			}
			for _, c := range w.claim(func(r *queue.ClaimRequest) { r.InlineBytes = 0 }) {
				want(w, "body of "+string(c.ID)+" without inline bodies", c.Body == nil, true)
			}
			_ = large
		}},
		{"tells-last-outcome", "A claim tells the class and relay of the last outcome, and since when an outage lasts.", func(w *world) {
			c := w.leased()
			want(w, "class at first", c.Deliveries[0].Class+c.Deliveries[0].Relay, "")
			want(w, "deferred at first", c.Deliveries[0].DeferredFor, 0)
			w.settle(c, queue.Deferred, uncounted, evidence(refusal()))
			w.exec("UPDATE outbox_deliveries SET deferred_since = $1", longAgo)
			d := w.claimOne().Deliveries[0]
			want(w, "class and relay", d.Class+" "+d.Relay, "transient primary")
			if years := d.DeferredFor / (365 * 24 * time.Hour); years < 20 {
				w.violatedf("it has been deferred for %v only", d.DeferredFor)
			}
		}},
		{"tells-deadline", "A claim tells the time until the deadline, and zero when there is none.", func(w *world) {
			w.enqueue(mail())
			want(w, "no deadline", w.claimOne().ExpiresIn, 0)
			w.enqueue(mail(expiring))
			if in := w.claimOne().ExpiresIn; in < 50*time.Minute || in > 70*time.Minute {
				w.violatedf("the deadline is said to be in %v instead of an hour", in)
			}
		}},
		{"tells-age", "A claim tells the age of the message since it was first due, whatever its deliveries went through.",
			func(w *world) {
				c := w.leased()
				if c.Age < 0 || c.Age > time.Minute {
					w.violatedf("a new message is said to be %v old", c.Age)
				}
				w.settle(c, queue.Deferred)
				w.exec("UPDATE outbox_messages SET created_at = $1", longAgo)
				if again := w.claimOne(); again.Age < 20*365*24*time.Hour {
					w.violatedf("a message of the year 2000 is said to be %v old", again.Age)
				}
			}},
		{"bad-requests", "A claim without an owner, a limit or a sensible lease is refused.", func(w *world) {
			w.enqueue(mail())
			w.unchanged(func() {
				for word, e := range map[string]func(*queue.ClaimRequest){
					"owner": func(r *queue.ClaimRequest) { r.Owner = "" },
					"limit": func(r *queue.ClaimRequest) { r.Limit = 0 },
					"lease": func(r *queue.ClaimRequest) { r.Lease = 0 },
				} {
					req := request()
					e(&req)
					_, err := w.store.Claim(w.Context(), req)
					w.refused(err, word)
				}
			})
		}},
		{"hostile-names", "Owners and routes are data: quotes, percent signs, NUL and broken UTF-8 do no harm.", func(w *world) {
			id := w.enqueue(mail())
			for _, name := range []string{`'; DROP TABLE outbox_messages; --`, `"x"`, "%", "a\x00b", "\xff\xfe"} {
				_, err := w.store.Claim(w.Context(), queue.ClaimRequest{Owner: name, Limit: 1, Lease: time.Minute, Routes: []string{"it's"}})
				w.must(err)
				c := w.claimOne(func(r *queue.ClaimRequest) { r.Owner = name })
				w.settle(c, queue.Recycled)
			}
			want(w, "states", w.states(id), []outbox.State{outbox.StateQueued})
		}},
	}
}

func claimGivesMessage(w *world) {
	msg := mail(to("ann@example.org", "bob@example.net"), on("orders"), with(outbox.High),
		keyed("order-17"), holding, labelled("welcome", "user", "17"))
	msg.EnvelopeFrom = "bounces@example.com"
	id := w.enqueue(msg)
	c := w.claimOne()
	stored := w.get(id)
	want(w, "id", c.ID, id)
	want(w, "message id", c.MessageID, stored.MessageID)
	want(w, "key", c.IdempotencyKey, "order-17")
	want(w, "route", c.Route, "orders")
	want(w, "priority", c.Priority, outbox.High)
	want(w, "sender", c.Sender, "bounces@example.com")
	want(w, "subject", c.Subject, "Your order")
	want(w, "policy", c.OnUncertain, outbox.Hold)
	want(w, "tags", c.Tags, []string{"welcome"})
	want(w, "metadata", c.Metadata, map[string]string{"user": "17"})
	want(w, "size", c.Size, int64(len(c.Body)))
	if !strings.Contains(string(c.Body), "It is on its way.") {
		w.violatedf("the body is %q", c.Body)
	}
	var recipients []string
	for _, d := range c.Deliveries {
		recipients = append(recipients, d.Recipient)
	}
	want(w, "recipients", recipients, []string{"ann@example.org", "bob@example.net"})
}
