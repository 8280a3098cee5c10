package storetest

import (
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

func fenceRules() []rule {
	return []rule{
		{"marks", "Fencing records the deliveries as past the point of no return, and changes none of them.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			w.unchanged(func() { want(w, "lost", w.fence(refs(c)...), nil) })
			want(w, "marked", w.marked(), 2)
		}},
		{"relay", "Fencing records the relay of each delivery. A doubt that it leaves is with that relay.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org", "c@example.org"))
			w.settle(c, queue.Deferred, evidence(refusal()))
			c = w.claimOne()
			lost, err := w.store.Fence(w.Context(), []queue.FencedRef{
				{Ref: c.Ref(0), Relay: "it's backup"}, {Ref: c.Ref(1), Relay: "nul\x00"}, {Ref: c.Ref(2)},
			})
			w.must(err)
			want(w, "lost", lost, nil)
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Uncertain: 3})
			var got []string
			for _, d := range w.get(c.ID).Deliveries {
				got = append(got, d.Relay+" "+d.Class)
			}
			want(w, "relay and class of the doubt", got, []string{"it's backup ambiguous", "nul\uFFFD ambiguous", " ambiguous"})
		}},
		{"last-relay", "A delivery that is fenced for one relay after another is in doubt with the last.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			for _, relay := range []string{"z", "a", "primary"} {
				_, err := w.store.Fence(w.Context(), []queue.FencedRef{{Ref: c.Ref(1), Relay: relay}})
				w.must(err)
			}
			_, err := w.store.Fence(w.Context(), []queue.FencedRef{{Ref: c.Ref(0), Relay: "other"}})
			w.must(err)
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Uncertain: 2})
			got := w.get(c.ID).Deliveries
			want(w, "relays", []string{got[0].Relay, got[1].Relay}, []string{"other", "primary"})
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
		{"wrong-place", "A token is good for the deliveries that it was claimed for. A fence for another one leaves no doubt.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			w.settle(queue.Claimed{ID: c.ID, Token: c.Token, Deliveries: c.Deliveries[1:]}, queue.Recycled)
			again := w.claimOne()
			w.fence(queue.Ref{ID: c.ID, Seq: 2, Token: c.Token}, queue.Ref{ID: c.ID, Seq: 3, Token: c.Token})
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 2})
			want(w, "lost", w.fence(refs(again)...), refs(again))
		}},
		{"only-the-lost", "Of several refs those that are lost are returned and the others are marked.", func(w *world) {
			claimed := w.each(3)
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
				{ID: "x", Seq: 1, Token: c.Token}, {ID: c.ID, Seq: 1, Token: "'"},
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
		{"extends", "Renewing extends the lease of a claim to the given time from now, and changes no delivery.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			w.unchanged(func() { want(w, "lost", w.renew(time.Hour, c.Token), nil) })
			for _, d := range w.get(c.ID).Deliveries {
				w.near("the end of the lease", d.LeaseUntil, w.now().Add(time.Hour))
			}
		}},
		{"keeps-fence", "Renewing keeps the fence.", func(w *world) {
			c := w.leased()
			w.fence(refs(c)...)
			w.renew(time.Hour, c.Token)
			want(w, "marked", w.marked(), 1)
		}},
		{"stale-token", "A holder whose delivery went to another cannot renew, and the other's lease stays as it is.", func(w *world) {
			c := w.retaken()
			before := w.one(c.ID).LeaseUntil
			want(w, "lost", w.renew(time.Hour, c.Token), []string{c.Token})
			want(w, "the end of the other's lease", w.one(c.ID).LeaseUntil, before)
		}},
		{"lapsed-but-not-taken", "A lease that lapsed and that nobody took back is renewed: its holder is alive.", func(w *world) {
			c := w.leased()
			w.lapse(c.ID)
			want(w, "lost", w.renew(time.Hour, c.Token), nil)
			want(w, "lost by fencing", w.fence(refs(c)...), nil)
		}},
		{"taken-back", "A claim that was taken back cannot be renewed.", func(w *world) {
			c := w.leased()
			w.lapse(c.ID)
			w.reap()
			want(w, "lost", w.renew(time.Hour, c.Token), []string{c.Token})
		}},
		{"settled", "A claim of which everything is settled has no lease to renew.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Failed)
			want(w, "lost", w.renew(time.Hour, c.Token), []string{c.Token})
		}},
		{"only-the-lost", "Of several claims those that are lost are returned and the others are renewed.", func(w *world) {
			claimed := w.each(3)
			w.settle(claimed[1], queue.Sent)
			lost := w.renew(time.Hour, claimed[0].Token, claimed[1].Token, claimed[2].Token)
			want(w, "lost", lost, []string{claimed[1].Token})
			w.near("the end of the last lease", w.one(claimed[2].ID).LeaseUntil, w.now().Add(time.Hour))
		}},
		{"unknown", "Tokens of no claim and of no sensible form are lost, and harm no other.", func(w *world) {
			c := w.leased()
			odd := []string{uuid.NewString(), "x", "", "'"}
			want(w, "lost", w.renew(time.Hour, append(odd, c.Token)...), odd)
			w.near("the end of the lease", w.one(c.ID).LeaseUntil, w.now().Add(time.Hour))
		}},
		{"none", "Renewing nothing does nothing.", func(w *world) { want(w, "lost", w.renew(time.Hour), nil) }},
		{"too-short", "A lease that would end at once is refused.", func(w *world) {
			c := w.leased()
			before := w.one(c.ID).LeaseUntil
			_, err := w.store.Renew(w.Context(), []string{c.Token}, 0)
			w.refused(err, "lease")
			want(w, "the end of the lease", w.one(c.ID).LeaseUntil, before)
		}},
	}
}

// each enqueues n messages and makes a claim for each.
func (w *world) each(n int) []queue.Claimed {
	w.Helper()
	list := make([]queue.Claimed, n)
	for i := range list {
		list[i] = w.leased()
	}
	return list
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

func (w *world) renew(lease time.Duration, tokens ...string) []string {
	w.Helper()
	lost, err := w.store.Renew(w.Context(), tokens, lease)
	w.must(err)
	return lost
}

func (w *world) reap() queue.ReapReport {
	w.Helper()
	report, err := w.store.Reap(w.Context())
	w.must(err)
	return report
}

// marked counts the fences of deliveries.
func (w *world) marked() int {
	w.Helper()
	length := "jsonb_array_length"
	if w.dialect == schema.SQLite {
		length = "json_array_length"
	}
	return w.number("SELECT coalesce(sum(" + length + "(refs)), 0) FROM outbox_fences")
}

// claims counts the claims, and fences the batches of fences.
func (w *world) claims() int { w.Helper(); return w.number("SELECT count(*) FROM outbox_claims") }
func (w *world) fences() int { w.Helper(); return w.number("SELECT count(*) FROM outbox_fences") }
