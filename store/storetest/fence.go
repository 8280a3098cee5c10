package storetest

import (
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

func fenceRules() []rule {
	return []rule{
		{"marks", "Fencing marks the deliveries as past the point of no return, and nothing else.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			before := w.rest(c.ID)
			want(w, "lost", w.fence(refs(c)...), nil)
			want(w, "marked", w.marked(), 2)
			want(w, "the rest of the row", w.rest(c.ID), before)
		}},
		{"relay", "Fencing records the relay of each delivery, in place of that of its last outcome.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org", "c@example.org"))
			w.settle(c, queue.Deferred, evidence(refusal()))
			c = w.claimOne()
			lost, err := w.store.Fence(w.Context(), []queue.FencedRef{
				{Ref: c.Ref(0), Relay: "it's backup"}, {Ref: c.Ref(1), Relay: "nul\x00"}, {Ref: c.Ref(2)},
			})
			w.must(err)
			want(w, "lost", lost, nil)
			var got []string
			for _, d := range w.get(c.ID).Deliveries {
				got = append(got, d.Relay+" "+d.Class)
			}
			want(w, "relay and class of the last outcome", got, []string{"it's backup transient", "nul\uFFFD transient", " transient"})
		}},
		{"repeatable", "Fencing twice is the same as once.", func(w *world) {
			c := w.leased()
			want(w, "lost", w.fence(refs(c)...), nil)
			w.unchanged(func() { want(w, "lost the second time", w.fence(refs(c)...), nil) })
		}},
		{"stale-token", "A holder whose delivery went to another cannot fence it.", func(w *world) {
			c := w.retaken()
			w.unchanged(func() { want(w, "lost", w.fence(refs(c)...), refs(c)) })
		}},
		{"stale-beside-fresh", "In one call with the claim that replaced it, a stale claim is lost and only the fresh one may be sent.",
			func(w *world) {
				stale, fresh := w.staleAndFresh()
				want(w, "lost", w.fence(fresh.Ref(0), stale.Ref(0)), refs(stale))
				want(w, "marked", w.marked(), 1)
			}},
		{"lapsed-lease", "A holder whose lease lapsed cannot fence, even while nobody else has the delivery.",
			func(w *world) {
				c := w.leased()
				w.lapse(c.ID)
				w.unchanged(func() { want(w, "lost", w.fence(refs(c)...), refs(c)) })
			}},
		{"wrong-place", "A token is good for the recipients that it was claimed for and for no other.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			w.settle(queue.Claimed{ID: c.ID, Token: c.Token, Deliveries: c.Deliveries[1:]}, queue.Deferred, inAnHour)
			other := []queue.Ref{{ID: c.ID, Seq: 2, Token: c.Token}, {ID: c.ID, Seq: 3, Token: c.Token}}
			w.unchanged(func() { want(w, "lost", w.fence(other...), other) })
		}},
		{"only-the-lost", "Of several refs those that are lost are returned and the others are marked.", func(w *world) {
			w.many(3)
			claimed := w.claim()
			w.lapse(claimed[1].ID)
			want(w, "lost", w.fence(claimed[0].Ref(0), claimed[1].Ref(0), claimed[2].Ref(0)), []queue.Ref{claimed[1].Ref(0)})
			want(w, "marked", w.marked(), 2)
		}},
		{"settled", "What was settled cannot be fenced.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Sent)
			w.unchanged(func() { want(w, "lost", w.fence(refs(c)...), refs(c)) })
		}},
		{"unknown", "Refs of unknown messages and of no sensible form are lost, and harm no other.", func(w *world) {
			c := w.leased()
			odd := []queue.Ref{
				{ID: outbox.ID(uuid.NewString()), Seq: 1, Token: uuid.NewString()},
				{ID: "x", Seq: 1, Token: c.Token}, {ID: c.ID, Seq: 1, Token: "'"}, {ID: c.ID, Seq: -1, Token: c.Token},
			}
			want(w, "lost", w.fence(append(odd, refs(c)...)...), odd)
			want(w, "marked", w.marked(), 1)
		}},
		{"none", "Fencing nothing does nothing.", func(w *world) {
			want(w, "lost", w.fence(), nil)
		}},
		{"ends-with-the-claim", "The fence ends with its claim: the next one begins before the point of no return.", func(w *world) {
			c := w.leased()
			w.fence(refs(c)...)
			w.settle(c, queue.Deferred)
			w.claimOne()
			want(w, "marked", w.marked(), 0)
		}},
	}
}

func renewRules() []rule {
	return []rule{
		{"extends", "Renewing extends the lease to the given time from now, and changes nothing else.", func(w *world) {
			c := w.leased()
			before := w.rest(c.ID)
			want(w, "lost", w.renew(time.Hour, refs(c)...), nil)
			w.near("the end of the lease", w.one(c.ID).LeaseUntil, w.now().Add(time.Hour))
			want(w, "the rest of the row", w.rest(c.ID), before)
		}},
		{"keeps-fence", "Renewing keeps the fence.", func(w *world) {
			c := w.leased()
			w.fence(refs(c)...)
			w.renew(time.Hour, refs(c)...)
			want(w, "marked", w.marked(), 1)
		}},
		{"stale-token", "A holder whose delivery went to another cannot renew, and the other's lease stays as it is.", func(w *world) {
			c := w.retaken()
			w.unchanged(func() { want(w, "lost", w.renew(time.Hour, refs(c)...), refs(c)) })
		}},
		{"lapsed-but-not-taken", "A lease that lapsed and that nobody took back is renewed: its holder is alive.", func(w *world) {
			c := w.leased()
			w.lapse(c.ID)
			want(w, "lost", w.renew(time.Hour, refs(c)...), nil)
			want(w, "lost by fencing", w.fence(refs(c)...), nil)
		}},
		{"taken-back", "A lease that was taken back cannot be renewed.", func(w *world) {
			c := w.leased()
			w.lapse(c.ID)
			w.reap()
			w.unchanged(func() { want(w, "lost", w.renew(time.Hour, refs(c)...), refs(c)) })
		}},
		{"settled", "What was settled has no lease to renew.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Failed)
			w.unchanged(func() { want(w, "lost", w.renew(time.Hour, refs(c)...), refs(c)) })
		}},
		{"only-the-lost", "Of several refs those that are lost are returned and the others are renewed.", func(w *world) {
			w.many(3)
			claimed := w.claim()
			w.settle(claimed[1], queue.Sent)
			want(w, "lost", w.renew(time.Hour, claimed[0].Ref(0), claimed[1].Ref(0), claimed[2].Ref(0)), []queue.Ref{claimed[1].Ref(0)})
			w.near("the end of the last lease", w.one(claimed[2].ID).LeaseUntil, w.now().Add(time.Hour))
		}},
		{"too-short", "A lease that would end at once is refused.", func(w *world) {
			c := w.leased()
			w.unchanged(func() {
				_, err := w.store.Renew(w.Context(), refs(c), 0)
				w.refused(err, "lease")
			})
		}},
	}
}

// retaken returns a claim whose lease lapsed. Another dispatcher holds its delivery now.
func (w *world) retaken() queue.Claimed {
	w.Helper()
	c := w.leased()
	w.lapse(c.ID)
	w.reap()
	w.claimOne(func(r *queue.ClaimRequest) { r.Owner = "d2" })
	return c
}

// fence fences deliveries that are about to go through the relay "primary".
func (w *world) fence(list ...queue.Ref) []queue.Ref {
	w.Helper()
	fenced := make([]queue.FencedRef, len(list))
	for i, ref := range list {
		fenced[i] = queue.FencedRef{Ref: ref, Relay: "primary"}
	}
	lost, err := w.store.Fence(w.Context(), fenced)
	w.must(err)
	return lost
}

func (w *world) renew(lease time.Duration, list ...queue.Ref) []queue.Ref {
	w.Helper()
	lost, err := w.store.Renew(w.Context(), list, lease)
	w.must(err)
	return lost
}

func (w *world) reap() queue.ReapReport {
	w.Helper()
	report, err := w.store.Reap(w.Context())
	w.must(err)
	return report
}

// marked counts the deliveries that are fenced.
func (w *world) marked() int {
	w.Helper()
	return w.number("SELECT count(*) FROM outbox_deliveries WHERE fenced = 1")
}

// rest returns the columns of a message's deliveries that neither a fence nor a renewal may change.
func (w *world) rest(id outbox.ID) string {
	w.Helper()
	return w.rows(`SELECT seq, state, due_at, attempts, lease_token, lease_owner, class, finished_at FROM outbox_deliveries
WHERE message_id = $1 ORDER BY seq`, string(id))
}
