package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

func settleRules() []rule {
	list := []rule{
		{"defer-delay", "A deferred delivery is due after its delay, by the clock of the database.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, inAnHour)
			w.near("due", w.one(c.ID).DueAt, w.now().Add(time.Hour))
		}},
		{"recycle-at-once", "A recycled delivery is due at once and its attempt does not count.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Recycled)
			d := w.one(c.ID)
			want(w, "attempts", d.Attempts, 0)
			want(w, "attempt of the next claim", w.claimOne().Deliveries[0].Attempt, 1)
		}},
		{"uncounted", "An attempt that is not counted gives its number back.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, uncounted)
			want(w, "attempts", w.one(c.ID).Attempts, 0)
			again := w.claimOne()
			w.settle(again, queue.Deferred)
			want(w, "attempts after one that counts", w.one(c.ID).Attempts, 1)
		}},
		{"deferred-since", "An outage is timed from its first uncounted deferral; recycling does not end it, an answer does.",
			func(w *world) {
				c := w.leased()
				w.settle(c, queue.Deferred, uncounted)
				w.near("start of the outage", w.one(c.ID).DeferredSince, w.now())
				w.exec("UPDATE outbox_deliveries SET deferred_since = $1", longAgo)
				w.settle(w.claimOne(), queue.Deferred, uncounted)
				want(w, "start after a second deferral", w.one(c.ID).DeferredSince.Year(), 2000)
				w.settle(w.claimOne(), queue.Recycled)
				want(w, "start after recycling", w.one(c.ID).DeferredSince.Year(), 2000)
				w.settle(w.claimOne(), queue.Deferred)
				want(w, "start after an answer", w.one(c.ID).DeferredSince.IsZero(), true)
			}},
		{"uncertain-delay", "An uncertain delivery waits for its delay before its policy applies.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Uncertain, inAnHour)
			want(w, "report", w.reap(), queue.ReapReport{})
			w.near("due", w.one(c.ID).DueAt, w.now().Add(time.Hour))
		}},
		{"partial", "Each recipient of a message has its own outcome.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org", "c@example.org", "d@example.org"))
			lost, err := w.store.Settle(w.Context(), "d1", []queue.Settlement{
				{Ref: c.Ref(0), Outcome: queue.Sent},
				{Ref: c.Ref(1), Outcome: queue.Failed, Evidence: refusal()},
				{Ref: c.Ref(2), Outcome: queue.Deferred, Delay: time.Hour, Evidence: refusal()},
			})
			w.must(err)
			want(w, "lost", lost, nil)
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateSent, outbox.StateFailed, outbox.StateQueued, outbox.StateSending})
		}},
		{"stale-beside-fresh", "In one call with the claim that replaced it, the outcome of a stale claim is lost and the fresh one counts.",
			func(w *world) {
				for _, order := range []bool{true, false} {
					stale, fresh := w.staleAndFresh()
					list := []queue.Settlement{
						{Ref: stale.Ref(0), Outcome: queue.Failed, Evidence: refusal()}, {Ref: fresh.Ref(0), Outcome: queue.Sent},
					}
					if order {
						list[0], list[1] = list[1], list[0]
					}
					lost, err := w.store.Settle(w.Context(), "d1", list)
					w.must(err)
					want(w, "lost", lost, refs(stale))
					want(w, "state", w.one(fresh.ID).State, outbox.StateSent)
				}
			}},
		{"all-or-none", "Bad input is refused before anything is written: an unknown verb, a negative delay, two outcomes for one claim.",
			func(w *world) {
				w.many(2)
				claimed := w.claim()
				good := queue.Settlement{Ref: claimed[0].Ref(0), Outcome: queue.Sent}
				w.unchanged(func() {
					for word, bad := range map[string]queue.Settlement{
						"verb":         {Ref: claimed[1].Ref(0), Outcome: "forget"},
						"negative":     {Ref: claimed[1].Ref(0), Outcome: queue.Deferred, Delay: -time.Second},
						"two outcomes": {Ref: claimed[0].Ref(0), Outcome: queue.Failed},
					} {
						_, err := w.store.Settle(w.Context(), "d1", []queue.Settlement{good, bad})
						w.refused(err, word)
					}
				})
			}},
		{"many-at-once", "A thousand outcomes of every kind are settled in one call.", settleMany},
		{"none", "Settling nothing does nothing.", func(w *world) {
			lost, err := w.store.Settle(w.Context(), "d1", nil)
			w.must(err)
			want(w, "lost", lost, nil)
		}},
		{"finished", "Only terminal states have a time at which they were reached.", func(w *world) {
			for verb := range verbsAndStates() {
				c := w.leased()
				w.settle(c, verb, inAnHour)
				d := w.one(c.ID)
				want(w, "is finished after "+string(verb), !d.FinishedAt.IsZero(), d.State.Terminal())
				if d.State.Terminal() {
					w.near("the end after "+string(verb), d.FinishedAt, w.now())
				}
				w.exec("UPDATE outbox_deliveries SET due_at = '2100-01-01T00:00:00.000Z' WHERE message_id = $1", string(c.ID))
			}
		}},
		{"lease-ends", "Settling ends the lease.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred)
			d := w.one(c.ID)
			want(w, "end of the lease", d.LeaseUntil.IsZero(), true)
			want(w, "owner", d.LeaseOwner, "")
		}},
	}
	for verb, state := range verbsAndStates() {
		list = append(list, rule{
			"verb-" + string(verb), fmt.Sprintf("The verb %s leads from sending to %s.", verb, state), func(w *world) {
				c := w.leased(to("a@example.org", "b@example.org"))
				w.settle(c, verb)
				want(w, "states", w.states(c.ID), []outbox.State{state, state})
			},
		})
	}
	return list
}

func verbsAndStates() map[queue.Outcome]outbox.State {
	return map[queue.Outcome]outbox.State{
		queue.Sent: outbox.StateSent, queue.Deferred: outbox.StateQueued, queue.Failed: outbox.StateFailed,
		queue.Recycled: outbox.StateQueued, queue.Uncertain: outbox.StateUncertain, queue.Expired: outbox.StateExpired,
		queue.Held: outbox.StateHeld,
	}
}

func settleMany(w *world) {
	w.many(1000)
	claimed := w.claim(func(r *queue.ClaimRequest) { r.Limit = 1000 })
	want(w, "claimed", len(claimed), 1000)
	verbs := []queue.Outcome{queue.Sent, queue.Failed, queue.Deferred, queue.Held}
	var list []queue.Settlement
	for i, c := range claimed {
		list = append(list, queue.Settlement{Ref: c.Ref(0), Outcome: verbs[i%len(verbs)], Delay: time.Hour, Evidence: refusal()})
	}
	lost, err := w.store.Settle(w.Context(), "d1", list)
	w.must(err)
	want(w, "lost", len(lost), 0)
	for _, state := range []outbox.State{outbox.StateSent, outbox.StateFailed, outbox.StateQueued, outbox.StateHeld} {
		want(w, "deliveries that are "+string(state), w.number("SELECT count(*) FROM outbox_deliveries WHERE state = $1", string(state)), 250)
	}
	want(w, "attempts", w.number("SELECT count(*) FROM outbox_attempts"), 750)
}

// staleRules are about holders that have lost their lease.
func staleRules() []rule {
	return []rule{
		{"stale-token", "A holder whose delivery went to another changes nothing by settling it.", func(w *world) {
			c := w.retaken()
			for verb := range verbsAndStates() {
				w.unchanged(func() { want(w, "lost by "+string(verb), w.trySettle(c, verb, evidence(refusal())), refs(c)) })
			}
		}},
		{"second-settle", "A delivery is settled once: the second outcome changes nothing.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Sent)
			for verb := range verbsAndStates() {
				w.unchanged(func() { want(w, "lost by "+string(verb), w.trySettle(c, verb, evidence(refusal())), refs(c)) })
			}
		}},
		{"settle-after-requeue", "An outcome that comes after its delivery was taken back and queued changes nothing.", func(w *world) {
			c := w.leased()
			w.lapse(c.ID)
			w.reap()
			w.unchanged(func() { want(w, "lost", w.trySettle(c, queue.Sent), refs(c)) })
		}},
		{"lapsed-but-held", "An outcome counts as long as nobody took the delivery back, even after the lease lapsed: it is the truth.",
			func(w *world) {
				c := w.leased()
				w.lapse(c.ID)
				w.settle(c, queue.Sent)
				want(w, "states", w.states(c.ID), []outbox.State{outbox.StateSent})
			}},
		{"wrong-place", "A token settles the recipients that it was claimed for and no other.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			w.settle(queue.Claimed{ID: c.ID, Token: c.Token, Deliveries: c.Deliveries[1:]}, queue.Recycled)
			w.claimOne(func(r *queue.ClaimRequest) { r.Owner = "d2" })
			second := queue.Claimed{ID: c.ID, Token: c.Token, Deliveries: []queue.ClaimedDelivery{{Seq: 2}, {Seq: 9}}}
			w.unchanged(func() { want(w, "lost", w.trySettle(second, queue.Sent), refs(second)) })
		}},
		{"other-message", "A token settles its own message and no other.", func(w *world) {
			w.many(2)
			claimed := w.claim(func(r *queue.ClaimRequest) { r.Limit = 1 })
			other := w.claim()
			swapped := queue.Claimed{ID: other[0].ID, Token: claimed[0].Token, Deliveries: other[0].Deliveries}
			w.unchanged(func() { want(w, "lost", w.trySettle(swapped, queue.Sent), refs(swapped)) })
		}},
		{"odd-refs", "Refs of unknown messages and of no sensible form are lost, and the others of the call are settled.",
			func(w *world) {
				c := w.leased()
				odd := []queue.Ref{
					{ID: outbox.ID(uuid.NewString()), Seq: 1, Token: c.Token}, {ID: "x", Seq: 1, Token: "y"}, {ID: c.ID, Seq: 1, Token: ""},
				}
				list := []queue.Settlement{{Ref: c.Ref(0), Outcome: queue.Sent}}
				for _, ref := range odd {
					list = append(list, queue.Settlement{Ref: ref, Outcome: queue.Sent, Evidence: refusal()})
				}
				lost, err := w.store.Settle(w.Context(), "d1", list)
				w.must(err)
				want(w, "lost", lost, odd)
				want(w, "states", w.states(c.ID), []outbox.State{outbox.StateSent})
				want(w, "attempts", w.number("SELECT count(*) FROM outbox_attempts"), 0)
			}},
		{"one-winner", "Of outcomes that are settled at once for one delivery exactly one counts.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			var (
				wg   sync.WaitGroup
				wins atomic.Int64
			)
			for _, verb := range []queue.Outcome{queue.Sent, queue.Failed, queue.Deferred, queue.Held} {
				wg.Go(func() {
					if len(w.trySettle(c, verb, inAnHour, evidence(refusal()))) == 0 {
						wins.Add(1)
					}
				})
			}
			wg.Wait()
			want(w, "winners", wins.Load(), 1)
			states := w.states(c.ID)
			want(w, "both recipients have the same outcome", states[0], states[1])
		}},
		{"reap-or-settle", "When a lease is taken back while its holder settles, one of the two counts.", reapOrSettle},
		{"renew-and-fence-at-once", "Renewing and fencing the same claims at once loses nothing; a renewal may be busy.", func(w *world) {
			var list []queue.Ref
			var tokens []string
			for range 10 {
				w.many(10)
				for _, c := range w.claim() {
					list = append(list, refs(c)...)
					tokens = append(tokens, c.Token)
				}
			}
			tokens = slices.Compact(tokens)
			reversed := make([]queue.Ref, len(list))
			for i, ref := range list {
				reversed[len(list)-1-i] = ref
			}
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					lost, err := w.store.Renew(w.Context(), tokens, time.Minute)
					if _, busy := errors.AsType[*queue.BusyError](err); len(lost) > 0 || err != nil && !busy {
						w.violatedf("lost by renewing: %v (%v)", lost, err)
					}
				})
				wg.Go(func() { want(w, "lost by fencing", w.fence(reversed...), nil) })
			}
			wg.Wait()
		}},
	}
}

func reapOrSettle(w *world) {
	w.many(50)
	claimed := w.claim()
	for _, c := range claimed {
		w.lapse(c.ID)
	}
	var (
		wg      sync.WaitGroup
		settled atomic.Int64
		report  queue.ReapReport
	)
	wg.Go(func() { report = w.reap() })
	for _, c := range claimed {
		wg.Go(func() {
			if len(w.trySettle(c, queue.Sent)) == 0 {
				settled.Add(1)
			}
		})
	}
	wg.Wait()
	want(w, "settled and taken back", int(settled.Load())+report.Requeued, 50)
	want(w, "sent", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'sent'"), int(settled.Load()))
	want(w, "queued", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'queued'"), report.Requeued)
}
