package storetest

import (
	"fmt"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

func suppressRules() []rule {
	return []rule{
		{"at-claim", "A delivery to an address on the list becomes suppressed when it is claimed, with the reason; its siblings are sent.",
			func(w *world) {
				w.suppress(store.Suppression{Address: "Bob@Example.ORG", Reason: "it's a bounce"})
				id := w.enqueue(mail(to("ann@example.org", "BOB@example.org", "cy@example.org")))
				c := w.claimOne()
				want(w, "recipients claimed", len(c.Deliveries), 2)
				want(w, "states", w.states(id), []outbox.State{outbox.StateSending, outbox.StateSuppressed, outbox.StateSending})
				d := w.get(id).Deliveries[1]
				want(w, "reply", d.Reply, "the recipient is on the suppression list: it's a bounce")
				want(w, "attempts", d.Attempts, 0)
				w.near("end", d.FinishedAt, w.now())
			}},
		{"all-suppressed", "A claim goes on past deliveries that it suppressed.", func(w *world) {
			w.suppress(store.Suppression{Address: "bob@example.org"})
			w.many(30, to("bob@example.org"))
			last := w.enqueue(mail())
			var got []outbox.ID
			for range 31 {
				if got = claimedIDs(w.claim(func(r *queue.ClaimRequest) { r.Limit = 10 })); len(got) > 0 {
					break
				}
			}
			want(w, "claimed", got, []outbox.ID{last})
			want(w, "suppressed", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'suppressed'"), 30)
		}},
		{"in-one-claim", "A claim for which something is due does not come back empty because of the list.", func(w *world) {
			w.suppress(store.Suppression{Address: "bob@example.org"})
			w.many(30, to("bob@example.org"))
			w.enqueue(mail())
			want(w, "claimed", len(w.claim(func(r *queue.ClaimRequest) { r.Limit = 10 })), 1)
		}},
		{"flood", "However many deliveries are suppressed, one claim gets past them, in short transactions.", func(w *world) {
			w.suppress(store.Suppression{Address: "bob@example.org"})
			w.many(2500, to("bob@example.org"))
			last := w.enqueue(mail())
			want(w, "claimed", claimedIDs(w.claim(func(r *queue.ClaimRequest) { r.Limit = 400 })), []outbox.ID{last})
			want(w, "suppressed", w.number("SELECT count(*) FROM outbox_deliveries WHERE state = 'suppressed'"), 2500)
		}},
		{"not-others", "Addresses that only resemble one on the list get their mail.", func(w *world) {
			w.suppress(store.Suppression{Address: "bob@example.org"})
			w.enqueue(mail(to("xbob@example.org", "bob@example.orgx", "bob@sub.example.org")))
			want(w, "recipients claimed", len(w.claimOne().Deliveries), 3)
		}},
		{"under-way", "What is under way when its recipient is put on the list is not touched.", func(w *world) {
			c := w.leased(to("bob@example.org"))
			w.suppress(store.Suppression{Address: "bob@example.org"})
			w.settle(c, queue.Sent)
			want(w, "states", w.states(c.ID), []outbox.State{outbox.StateSent})
		}},
		{"address-form", "An international domain is the same in either form.", func(w *world) {
			w.suppress(store.Suppression{Address: "Bob@BÜCHER.example"})
			id := w.enqueue(mail(to("bob@bücher.example")))
			w.claim()
			want(w, "states", w.states(id), []outbox.State{outbox.StateSuppressed})
			for _, address := range []string{"bob@bücher.example", "bob@xn--bcher-kva.example"} {
				e, found, err := w.store.Suppressed(w.Context(), address)
				w.must(err)
				want(w, "found", found, true)
				want(w, "address", e.Address, "bob@xn--bcher-kva.example")
			}
			n, err := w.store.Unsuppress(w.Context(), "bob@Bücher.example")
			w.must(err)
			want(w, "taken off", n, int64(1))
		}},
		{"quoted-form", "An address in quotes is the same in every form that means the same.", func(w *world) {
			w.suppress(store.Suppression{Address: `"bob"@example.org`}, store.Suppression{Address: `"the\ bob"@Example.org`})
			ids := []outbox.ID{w.enqueue(mail(to("bob@example.org"))), w.enqueue(mail(to(`"the bob"@example.org`)))}
			w.claim()
			for i, address := range []string{`"b\ob"@example.org`, `"the bob"@example.org`} {
				want(w, "states", w.states(ids[i]), []outbox.State{outbox.StateSuppressed})
				_, found, err := w.store.Suppressed(w.Context(), address)
				w.must(err)
				want(w, "found", found, true)
			}
			n, err := w.store.Unsuppress(w.Context(), `"\bob"@example.org`)
			w.must(err)
			want(w, "taken off", n, int64(1))
		}},
		{"by-settling", "A refusal for good may put its recipient on the list, with the relay's words and in the transaction that " +
			"settles it; what is claimed from then on is not sent.", func(w *world) {
			c := w.leased(to("Bob@Example.ORG", "cy@example.org"))
			lost, err := w.store.Settle(w.Context(), "d1", []queue.Settlement{
				{Ref: c.Ref(0), Outcome: queue.Failed, Suppress: true, Evidence: queue.Evidence{Reply: "550 it's nobody"}},
				{Ref: c.Ref(1), Outcome: queue.Failed, Evidence: refusal()},
			})
			w.must(err)
			want(w, "lost", lost, nil)
			e, found, err := w.store.Suppressed(w.Context(), "bob@example.org")
			w.must(err)
			w.near("when", e.CreatedAt, w.now())
			e.CreatedAt = time.Time{}
			want(w, "entry", e, store.Suppression{Address: "bob@example.org", Reason: "550 it's nobody", Source: "bounce", MessageID: c.ID})
			want(w, "found", found, true)
			want(w, "entries", w.number("SELECT count(*) FROM outbox_suppressions"), 1)
			w.enqueue(mail(to("bob@example.org")))
			want(w, "claimed", len(w.claim()), 0)
		}},
		{"by-settling-no-words", "A recipient is put on the list with a reason also where the relay said nothing.", func(w *world) {
			w.settle(w.leased(), queue.Failed, suppressing)
			e, _, err := w.store.Suppressed(w.Context(), "ann@example.org")
			w.must(err)
			want(w, "reason", e.Reason, "a delivery failed")
		}},
		{"by-settling-keeps", "An address that is on the list already keeps its entry when a delivery to it fails.", func(w *world) {
			list := w.many(3)
			claimed := w.claim()
			w.suppress(store.Suppression{Address: "ann@example.org", Reason: "asked for it"})
			var all []queue.Settlement
			for _, c := range claimed {
				all = append(all, queue.Settlement{Ref: c.Ref(0), Outcome: queue.Failed, Suppress: true, Evidence: refusal()})
			}
			lost, err := w.store.Settle(w.Context(), "d1", all)
			w.must(err)
			want(w, "lost", lost, nil)
			e, _, err := w.store.Suppressed(w.Context(), "ann@example.org")
			w.must(err)
			want(w, "reason and source", e.Reason+" "+e.Source, "asked for it operator")
			want(w, "state of the last", w.one(list[2]).State, outbox.StateFailed)
		}},
		{"by-settling-once", "Several refusals of one recipient in one call make one entry.", func(w *world) {
			w.enqueueAll(mail(to("ann@example.org")), mail(to("ANN@example.org")))
			var all []queue.Settlement
			for _, c := range w.claim() {
				all = append(all, queue.Settlement{Ref: c.Ref(0), Outcome: queue.Failed, Suppress: true, Evidence: refusal()})
			}
			lost, err := w.store.Settle(w.Context(), "d1", all)
			w.must(err)
			want(w, "lost", lost, nil)
			want(w, "entries", w.number("SELECT count(*) FROM outbox_suppressions"), 1)
		}},
		{"by-settling-stale", "A holder whose delivery went to another puts nobody on the list.", func(w *world) {
			stale, fresh := w.staleAndFresh()
			want(w, "lost", w.trySettle(stale, queue.Failed, suppressing), refs(stale))
			want(w, "entries", w.number("SELECT count(*) FROM outbox_suppressions"), 0)
			w.settle(fresh, queue.Sent)
		}},
		{"by-settling-only-failed", "Only what failed puts its recipient on the list; anything else is refused and nothing is written.",
			func(w *world) {
				c := w.leased()
				w.unchanged(func() {
					for _, verb := range []queue.Outcome{queue.Sent, queue.Deferred, queue.Held, queue.Uncertain} {
						_, err := w.store.Settle(w.Context(), "d1", []queue.Settlement{{Ref: c.Ref(0), Outcome: verb, Suppress: true}})
						w.refused(err, "suppression list", string(verb))
					}
				})
				want(w, "entries", w.number("SELECT count(*) FROM outbox_suppressions"), 0)
			}},
		{"off-the-list", "An address that is taken off gets mail again; what was suppressed goes out once it is requeued.", func(w *world) {
			w.suppress(store.Suppression{Address: "bob@example.org"})
			id := w.enqueue(mail(to("bob@example.org")))
			want(w, "claimed", len(w.claim()), 0)
			n, err := w.store.Unsuppress(w.Context(), "BOB@example.org", "nobody@example.org")
			w.must(err)
			want(w, "taken off", n, 1)
			want(w, "claimed before it is requeued", len(w.claim()), 0)
			w.changes(1, w.store.Requeue, store.Filter{States: []outbox.State{outbox.StateSuppressed}})
			want(w, "claimed", claimedIDs(w.claim()), []outbox.ID{id})
		}},
		{"list", "The list is read in the order of its addresses, with everything that is known of each.", func(w *world) {
			id := w.enqueue(mail())
			w.suppress(
				store.Suppression{Address: "b@example.org", Reason: "550 no such user", Source: "bounce", MessageID: id},
				store.Suppression{Address: "A@example.org", Reason: "asked for it"})
			var got []store.Suppression
			for e, err := range w.store.Suppressions(w.Context()) {
				w.must(err)
				w.near("time", e.CreatedAt, w.now())
				e.CreatedAt = time.Time{}
				got = append(got, e)
			}
			want(w, "list", got, []store.Suppression{
				{Address: "a@example.org", Reason: "asked for it", Source: "operator"},
				{Address: "b@example.org", Reason: "550 no such user", Source: "bounce", MessageID: id},
			})
			e, ok, err := w.store.Suppressed(w.Context(), "B@example.org")
			w.must(err)
			want(w, "looked up", fmt.Sprint(ok, " ", e.Reason), "true 550 no such user")
			_, ok, err = w.store.Suppressed(w.Context(), "c@example.org")
			w.must(err)
			want(w, "on the list", ok, false)
		}},
		{"long-list", "A list of any length can be imported and read.", func(w *world) {
			list := make([]store.Suppression, 1234)
			for i := range list {
				list[i].Address = fmt.Sprintf("u%d@example.org", i)
			}
			w.suppress(list...)
			seen := make(map[string]bool)
			for e, err := range w.store.Suppressions(w.Context()) {
				w.must(err)
				seen[e.Address] = true
			}
			want(w, "entries", len(seen), 1234)
			want(w, "actions", w.number("SELECT count(*) FROM outbox_actions"), 1)
			want(w, "affected", w.number("SELECT affected FROM outbox_actions"), 1234)
		}},
		{"again", "An address that is put on the list again keeps its time and gets the new reason.", func(w *world) {
			w.suppress(store.Suppression{Address: "b@example.org", Reason: "first"})
			w.exec("UPDATE outbox_suppressions SET created_at = $1", longAgo)
			w.suppress(store.Suppression{Address: "b@example.org", Reason: "second"})
			e, _, err := w.store.Suppressed(w.Context(), "b@example.org")
			w.must(err)
			want(w, "reason and year", fmt.Sprint(e.Reason, e.CreatedAt.Year()), "second2000")
		}},
		{"mistakes", "What is no address is refused, and nothing of its list is written.", func(w *world) {
			for _, address := range []string{"", "bob", "@example.org", "bob@", "a b@example.org", "<b@example.org>",
				"b@example.org\r\n", "b\x00@x"} {
				_, err := w.store.Suppress(w.Context(), store.Suppression{Address: "ok@example.org"}, store.Suppression{Address: address})
				w.refused(err, "entry 2", "not an address")
				_, err = w.store.Unsuppress(w.Context(), address)
				w.refused(err, "not an address")
			}
			want(w, "entries", w.number("SELECT count(*) FROM outbox_suppressions"), 0)
		}},
		{"hostile-reason", "Reasons are data, whatever they hold.", func(w *world) {
			w.suppress(store.Suppression{Address: `"it's; DROP"@example.org`, Reason: "nul \x00 and \xff", Source: "'"})
			for e, err := range w.store.Suppressions(w.Context()) {
				w.must(err)
				want(w, "reason", e.Reason, "nul \uFFFD and \uFFFD")
				want(w, "address", e.Address, strings.ToLower(`"it's; DROP"@example.org`))
			}
		}},
	}
}

func (w *world) suppress(list ...store.Suppression) {
	w.Helper()
	n, err := w.store.Suppress(w.Context(), list...)
	w.must(err)
	want(w, "entries written", n, int64(len(list)))
}

func suppressing(st *queue.Settlement) { st.Suppress = true }
