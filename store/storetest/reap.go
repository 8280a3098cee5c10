package storetest

import (
	"sync"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

func reapRules() []rule {
	return []rule{
		{"nothing", "When nothing lapsed, reaping changes nothing.", func(w *world) {
			w.leased(expiring)
			w.enqueue(mail(expiring))
			w.unchanged(func() { want(w, "report", w.reap(), queue.ReapReport{}) })
		}},
		{"not-fenced", "A lease that lapsed before the point of no return leaves its delivery queued and due now, its attempt not counted.",
			func(w *world) {
				c := w.leased()
				w.lapse(c.ID)
				want(w, "report", w.reap(), queue.ReapReport{Requeued: 1})
				d := w.one(c.ID)
				want(w, "state", d.State, outbox.StateQueued)
				want(w, "attempts", d.Attempts, 0)
				want(w, "attempt of the next claim", w.claimOne().Deliveries[0].Attempt, 1)
			}},
		{"lapses-are-no-refusals", "However often a lease lapses before anything is sent, the first refusal is the first attempt that counts.",
			func(w *world) {
				id := w.enqueue(mail())
				for range 6 {
					w.claimOne()
					w.lapse(id)
					w.exec("UPDATE outbox_deliveries SET lapses = 0") // of which more would hold it
					want(w, "report", w.reap(), queue.ReapReport{Requeued: 1})
				}
				c := w.claimOne()
				want(w, "attempt", c.Deliveries[0].Attempt, 1)
				w.settle(c, queue.Deferred, evidence(refusal()))
				want(w, "attempts", w.one(id).Attempts, 1)
				m := w.get(id)
				want(w, "attempts in the history", len(m.Attempts), 7)
				want(w, "the number of the first lapse", m.Attempts[0].Attempt, 1)
			}},
		{"not-fenced-hold", "The policy for uncertain outcomes does not matter before the point of no return.", func(w *world) {
			c := w.leased(holding)
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1})
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateQueued})
		}},
		{"fenced-resend", "A lease that lapsed after the point of no return makes its delivery uncertain; with Resend it is queued again " +
			"after a delay, in which whoever held the lease may still answer.",
			func(w *world) {
				c := w.leased()
				w.fence(refs(c)...)
				w.lapse(c.ID)
				want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
				w.near("the end of the delay", w.one(c.ID).DueAt, w.now().Add(store.DoubtDelay))
				w.unchanged(func() { want(w, "second report", w.reap(), queue.ReapReport{}) })
				want(w, "report after the delay", w.reapDoubt(), queue.ReapReport{Resent: 1})
				want(w, "states", w.states(c.ID), []outbox.State{outbox.StateQueued})
				want(w, "claimed again", len(w.claim()), 1)
			}},
		{"fenced-hold", "With Hold an uncertain delivery stays uncertain until an operator resolves it.", func(w *world) {
			c := w.leased(holding)
			w.fence(refs(c)...)
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
			w.unchanged(func() { want(w, "second report", w.reap(), queue.ReapReport{}) })
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateUncertain})
		}},
		{"evidence", "A lease that was taken back leaves an attempt that names its owner, and replaces the evidence before it.",
			func(w *world) {
				c := w.leased()
				w.settle(c, queue.Deferred, evidence(refusal()))
				w.fence(refs(w.claimOne(func(r *queue.ClaimRequest) { r.Owner = "it's d7" }))...)
				w.lapse(c.ID)
				w.reap()
				m := w.get(c.ID)
				d := m.Deliveries[0]
				want(w, "class", d.Class, "ambiguous")
				want(w, "reply", d.Reply, "the lease of dispatcher it's d7 lapsed")
				want(w, "relay of the fence", d.Relay, "primary")
				want(w, "enhanced code and provider's id", d.Enhanced+d.ProviderID, "")
				want(w, "code", d.Code, 0)
				if len(m.Attempts) != 2 {
					w.violatedf("%d attempts are noted, want 2", len(m.Attempts))
					return
				}
				a := m.Attempts[1]
				want(w, "attempt", [5]any{a.Verb, a.Attempt, a.Owner, a.Stage, a.Class},
					[5]any{queue.Outcome("reap"), 2, "it's d7", "dot", "ambiguous"})
				want(w, "relay of the attempt", a.Relay, "primary")
			}},
		{"doubt-names-relay", "After a crash past the point of no return the next claim says which relay the doubt is with; after one " +
			"before it there is no doubt and no relay.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			w.settle(c, queue.Deferred, evidence(queue.Evidence{Relay: "backup", Class: "transient"}))
			c = w.claimOne()
			w.fence(c.Ref(1))
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1, Uncertain: 1})
			want(w, "report after the delay", w.reapDoubt(), queue.ReapReport{Resent: 1})
			again := w.claimOne()
			var got [][2]string
			for _, d := range again.Deliveries {
				got = append(got, [2]string{d.Class, d.Relay})
			}
			want(w, "class and relay", got, [][2]string{{"unreachable", ""}, {"ambiguous", "primary"}})
		}},
		{"keeps-outage", "A lease that was taken back does not end an outage.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, uncounted)
			w.exec("UPDATE outbox_deliveries SET deferred_since = $1", longAgo)
			w.claimOne()
			w.lapse(c.ID)
			w.reap()
			want(w, "start of the outage", w.one(c.ID).DeferredSince.Year(), 2000)
		}},
		{"uncertain-after-delay", "An uncertain delivery of a message with Resend is queued once its delay is over.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Uncertain, inAnHour)
			want(w, "report before", w.reap(), queue.ReapReport{})
			w.exec("UPDATE outbox_deliveries SET due_at = $1", longAgo)
			want(w, "report after", w.reap(), queue.ReapReport{Resent: 1})
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateQueued})
		}},
		{"expire", "Queued and held deliveries past their deadline expire; those before it do not.", func(w *world) {
			queued, held, fresh := w.enqueue(mail(expiring)), w.enqueue(mail(expiring)), w.enqueue(mail(expiring))
			w.finish(held, outbox.StateHeld)
			w.exec("UPDATE outbox_deliveries SET expires_at = $1 WHERE message_id <> $2", longAgo, string(fresh))
			want(w, "report", w.reap(), queue.ReapReport{Expired: 2})
			want(w, "queued", w.one(queued).State, outbox.StateExpired)
			want(w, "held", w.one(held).State, outbox.StateExpired)
			want(w, "fresh", w.one(fresh).State, outbox.StateQueued)
			w.near("end", w.one(queued).FinishedAt, w.now())
		}},
		{"no-expiry-under-way", "A deadline does not touch what is being sent, uncertain or finished.", func(w *world) {
			for _, state := range []outbox.State{outbox.StateUncertain, outbox.StateSent, outbox.StateFailed, outbox.StateSending} {
				w.finish(w.enqueue(mail(expiring, holding)), state)
			}
			w.exec("UPDATE outbox_deliveries SET expires_at = $1", longAgo)
			w.unchanged(func() { want(w, "report", w.reap(), queue.ReapReport{}) })
		}},
		{"lapsed-and-overdue", "A delivery whose lease lapsed after its deadline is taken back and expires in the same reaping.",
			func(w *world) {
				c := w.leased(expiring)
				w.lapse(c.ID)
				w.exec("UPDATE outbox_deliveries SET expires_at = $1", longAgo)
				want(w, "report", w.reap(), queue.ReapReport{Requeued: 1, Expired: 1})
			}},
		{"many", "Reaping works through any number of deliveries.", func(w *world) {
			w.many(1200)
			for _, c := range w.claim(func(r *queue.ClaimRequest) { r.Limit = 1200 }) {
				_ = c
			}
			w.exec("UPDATE outbox_claims SET lease_until = $1", longAgo)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1200})
		}},
		{"at-once", "Dispatchers that reap at once count each delivery once.", func(w *world) {
			w.many(300, expiring)
			w.claim(func(r *queue.ClaimRequest) { r.Limit = 200 })
			w.exec("UPDATE outbox_claims SET lease_until = $1", longAgo)
			w.exec("UPDATE outbox_deliveries SET expires_at = $1 WHERE state = 'queued'", longAgo)
			var (
				wg    sync.WaitGroup
				mu    sync.Mutex
				total queue.ReapReport
			)
			for range 4 {
				wg.Go(func() {
					report := w.reap()
					mu.Lock()
					defer mu.Unlock()
					total.Requeued += report.Requeued
					total.Expired += report.Expired
				})
			}
			wg.Wait()
			last := w.reap()
			total.Requeued += last.Requeued
			total.Expired += last.Expired
			want(w, "reports together", total, queue.ReapReport{Requeued: 200, Expired: 100})
		}},
		{"partial", "The recipients of a message are taken back each by its own fence.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"), holding)
			w.fence(c.Ref(1))
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1, Uncertain: 1})
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateQueued, outbox.StateUncertain})
		}},
	}
}
