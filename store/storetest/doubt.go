package storetest

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// doubtRules are about outcomes that come late: the lease has lapsed and the delivery is uncertain.
func doubtRules() []rule {
	list := []rule{
		{"other-token", "Only the token of the lease that lapsed resolves a doubt.", func(w *world) {
			c := w.doubtful()
			other := c
			other.Token = uuid.NewString()
			w.unchanged(func() { want(w, "lost", w.trySettle(other, queue.Sent), refs(other)) })
			w.settle(c, queue.Sent)
		}},
		{"once", "A doubt is resolved once: what is settled under its token after that changes nothing.", func(w *world) {
			c := w.doubtful()
			w.settle(c, queue.Uncertain, inAnHour, evidence(queue.Evidence{Class: "ambiguous", Reply: "connection reset"}))
			d := w.one(c.ID)
			want(w, "state and reply", [2]any{d.State, d.Reply}, [2]any{outbox.StateUncertain, "connection reset"})
			w.unchanged(func() { want(w, "lost", w.trySettle(c, queue.Sent), refs(c)) })
		}},
		{"older", "An attempt whose lease lapsed before it sent anything leaves an older doubt as it was, with its relay.", func(w *world) {
			c := w.doubtful()
			want(w, "report", w.reapDoubt(), queue.ReapReport{Resent: 1})
			before := w.claimOne().Deliveries[0]
			want(w, "class of the doubt", before.Class, "ambiguous")
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1})
			w.dueNow()
			after := w.claimOne().Deliveries[0]
			want(w, "class and relay", [2]string{after.Class, after.Relay}, [2]string{before.Class, before.Relay})
			want(w, "reply", strings.HasPrefix(w.get(c.ID).Deliveries[0].Reply, "still in doubt; the lease of dispatcher"), true)
		}},
		{"own-doubt", "A holder that itself reported a doubt has nothing more to say.", func(w *world) {
			c := w.leased(holding)
			w.settle(c, queue.Uncertain)
			w.unchanged(func() { want(w, "lost", w.trySettle(c, queue.Sent), refs(c)) })
		}},
		{"no-lease", "Who left a doubt has no lease: it neither fences nor renews.", func(w *world) {
			c := w.doubtful()
			w.unchanged(func() {
				want(w, "lost by fencing", w.fence(refs(c)...), refs(c))
				want(w, "lost by renewing", w.renew(store.DoubtDelay, c.Token), []string{c.Token})
			})
		}},
		{"not-fenced", "Before the point of no return there is no doubt to resolve: a late answer changes nothing.", func(w *world) {
			c := w.leased()
			w.lapse(c.ID)
			w.reap()
			w.unchanged(func() { want(w, "lost", w.trySettle(c, queue.Sent), refs(c)) })
		}},
		{"partial", "Of the recipients of a message a late answer settles those that are in doubt.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			w.fence(c.Ref(1))
			w.lapse(c.ID)
			w.reap()
			want(w, "lost", w.trySettle(c, queue.Sent), []queue.Ref{c.Ref(0)})
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateQueued, outbox.StateSent})
		}},
		{"suppress", "A refusal that comes late puts its recipient on the suppression list, too.", func(w *world) {
			w.settle(w.doubtful(), queue.Failed, suppressing)
			want(w, "entries", w.number("SELECT count(*) FROM outbox_suppressions"), 1)
		}},
		{"after-policy", "Once the policy of the message has resolved the doubt, a late answer changes nothing.", func(w *world) {
			c := w.doubtful()
			want(w, "report", w.reapDoubt(), queue.ReapReport{Resent: 1})
			w.unchanged(func() { want(w, "lost", w.trySettle(c, queue.Sent), refs(c)) })
			fresh := w.claimOne()
			w.unchanged(func() { want(w, "lost beside its successor", w.trySettle(c, queue.Sent), refs(c)) })
			w.settle(fresh, queue.Sent)
		}},
		{"after-operator", "Once an operator has resolved the doubt, a late answer changes nothing.", func(w *world) {
			for _, r := range []store.Resolution{store.ResolveSent, store.ResolveResend} {
				c := w.doubtful(holding)
				n, err := w.store.Resolve(w.Context(), store.Filter{IDs: []outbox.ID{c.ID}}, r)
				w.must(err)
				want(w, "resolved", n, 1)
				w.unchanged(func() { want(w, "lost after "+string(r), w.trySettle(c, queue.Failed), refs(c)) })
			}
		}},
	}
	for verb, state := range map[queue.Outcome]outbox.State{
		queue.Sent: outbox.StateSent, queue.Failed: outbox.StateFailed, queue.Deferred: outbox.StateQueued,
		queue.Recycled: outbox.StateQueued, queue.Held: outbox.StateHeld, queue.Expired: outbox.StateExpired,
	} {
		list = append(list, rule{"late-" + string(verb), "An answer that comes when its lease has lapsed resolves the doubt: " +
			string(verb) + " makes it " + string(state) + ", whatever the policy, with its evidence.", func(w *world) {
			for _, edits := range [][]edit{nil, {holding}} {
				c := w.doubtful(edits...)
				w.settle(c, verb, evidence(refusal()))
				m := w.get(c.ID)
				d := m.Deliveries[0]
				want(w, "state", d.State, state)
				want(w, "evidence", [4]any{d.Class, d.Code, d.Relay, d.ProviderID}, [4]any{"transient", 451, "primary", "p-17"})
				verbs := make([]queue.Outcome, 0, len(m.Attempts))
				for _, a := range m.Attempts {
					verbs = append(verbs, a.Verb)
				}
				expected := []queue.Outcome{"reap", verb}
				if verb == queue.Sent {
					expected = expected[:1]
				}
				want(w, "noted", verbs, expected)
				w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE state = 'queued'", bindTime(w.now().Add(time.Hour)))
			}
		}})
	}
	return list
}

// doubtful returns a claim whose lease lapsed past the point of no return. Its deliveries are uncertain.
func (w *world) doubtful(edits ...edit) queue.Claimed {
	w.Helper()
	c := w.leased(edits...)
	w.fence(refs(c)...)
	w.lapse(c.ID)
	want(w, "report", w.reap(), queue.ReapReport{Uncertain: len(c.Deliveries)})
	return c
}

// reapDoubt lets the delay of uncertain deliveries pass and reaps.
func (w *world) reapDoubt() queue.ReapReport {
	w.Helper()
	w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE state = 'uncertain'", longAgo)
	return w.reap()
}
