package storetest

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

func filterRules() []rule {
	return []rule{
		{"empty", "The zero filter selects everything and says that it is empty; a limit does not count as a field.", func(w *world) {
			w.selects(store.Filter{}, w.enqueue(mail()), w.enqueue(mail(on("b"))))
			want(w, "empty", store.Filter{}.Empty(), true)
			want(w, "empty with a limit", store.Filter{Limit: 3}.Empty(), true)
			want(w, "empty with a class", store.Filter{Class: "quota"}.Empty(), false)
		}},
		{"ids", "IDs select messages, whatever form they are given in.", func(w *world) {
			ids := w.many(3)
			w.selects(store.Filter{IDs: []outbox.ID{ids[0], "urn:uuid:" + ids[2]}}, ids[0], ids[2])
		}},
		{"states", "States select by where the deliveries stand.", func(w *world) {
			by := make(map[outbox.State]outbox.ID)
			for _, state := range slices.Backward(outbox.States()) {
				by[state] = w.enqueue(mail())
				w.finish(by[state], state)
			}
			for state, id := range by {
				w.selects(store.Filter{States: []outbox.State{state}}, id)
			}
			w.selects(store.Filter{States: []outbox.State{outbox.StateSent, outbox.StateHeld, outbox.StateSent}},
				by[outbox.StateSent], by[outbox.StateHeld])
			w.selects(store.Filter{States: []outbox.State{outbox.StateSent, outbox.StateFailed}}, by[outbox.StateSent], by[outbox.StateFailed])
		}},
		{"routes", "Routes select by the way out.", func(w *world) {
			a, b := w.enqueue(mail(on("a"))), w.enqueue(mail(on("b")))
			w.enqueue(mail(on("c")))
			w.selects(store.Filter{Routes: []string{"a", "b", "it's"}}, a, b)
		}},
		{"from", "From selects by the envelope sender: an address or @domain, whatever its case.", func(w *world) {
			a, b := w.enqueue(mail(from("Ann.Sales@shop.example"))), w.enqueue(mail(from("bob@shop.example")))
			w.enqueue(mail(from("bob@eshop.example")))
			w.selects(store.Filter{From: "ann.sales@SHOP.example"}, a)
			w.selects(store.Filter{From: "@Shop.Example"}, a, b)
		}},
		{"to", "To selects by the recipient: an address or @domain, whatever its case.", func(w *world) {
			a, b := w.enqueue(mail(to("Ann@Mail.example"))), w.enqueue(mail(to("bob@mail.example")))
			w.enqueue(mail(to("ann@xmail.example")))
			w.selects(store.Filter{To: "ann@mail.example"}, a)
			w.selects(store.Filter{To: "@mail.example"}, a, b)
		}},
		{"to-international", "To selects international addresses in the form in which people write them, and in the one that is stored.",
			func(w *world) {
				id := w.enqueue(mail(to("Jürgen@bücher.example")))
				w.enqueue(mail(to("jürgen@buecher.example")))
				for _, pattern := range []string{"Jürgen@bücher.example", "Jürgen@BÜCHER.example", "Jürgen@xn--bcher-kva.example", "@bücher.example",
					"@XN--BCHER-kva.example"} {
					w.selects(store.Filter{To: pattern}, id)
				}
			}},
		{"to-quoted", "To selects an address in quotes in every form that means the same, and so does From.", func(w *world) {
			quoted := w.enqueue(mail(from(`"the shop"@shop.example`), to(`"john doe"@mail.example`)))
			plain := w.enqueue(mail(from(`"shop"@shop.example`), to(`"ann"@mail.example`)))
			for _, pattern := range []string{`"john doe"@mail.example`, `"j\ohn\ doe"@MAIL.example`} {
				w.selects(store.Filter{To: pattern}, quoted)
			}
			for _, pattern := range []string{"ann@mail.example", `"ann"@mail.example`, `"\a\n\n"@Mail.example`} {
				w.selects(store.Filter{To: pattern}, plain)
			}
			w.selects(store.Filter{From: `"the\ shop"@shop.example`}, quoted)
			w.selects(store.Filter{From: "shop@shop.example"}, plain)
			w.selects(store.Filter{To: "@mail.example"}, quoted, plain)
		}},
		{"to-one-recipient", "To selects recipients, not whole messages.", func(w *world) {
			w.enqueue(mail(to("a@one.example", "b@two.example")))
			list := w.list(store.Filter{To: "@two.example"})
			want(w, "selected", len(list), 1)
			want(w, "recipient", list[0].Recipient, "b@two.example")
		}},
		{"no-patterns", "Percent signs, underscores and backslashes in an address mean themselves.", func(w *world) {
			w.enqueue(mail(to("ann@mail.example")))
			under := w.enqueue(mail(to("a_n@mail.example")))
			w.selects(store.Filter{To: "a_n@mail.example"}, under)
			for _, pattern := range []string{"@%", "@mail_example", `@\`, "@%example", "%@mail.example"} {
				w.selects(store.Filter{To: pattern})
			}
		}},
		{"outcome", "Class, Code and Relay select by the last outcome.", func(w *world) {
			first := w.leased()
			w.settle(first, queue.Failed, evidence(queue.Evidence{Class: "recipient", Code: 550, Relay: "eu"}))
			second := w.leased()
			w.settle(second, queue.Failed, evidence(queue.Evidence{Class: "message", Code: 554, Relay: "us"}))
			w.enqueue(mail())
			w.selects(store.Filter{Class: "recipient"}, first.ID)
			w.selects(store.Filter{Code: 554}, second.ID)
			w.selects(store.Filter{Relay: "eu"}, first.ID)
			w.selects(store.Filter{Relay: "eu", Code: 554})
		}},
		{"key", "Key selects by the idempotency key.", func(w *world) {
			id := w.enqueue(mail(keyed("order-1")))
			w.enqueue(mail(keyed("order-2")))
			w.selects(store.Filter{Key: "order-1"}, id)
		}},
		{"time", "Before and After bound the time of enqueueing: After takes its own instant, Before does not.", func(w *world) {
			ids := w.many(3)
			for i, at := range []string{"2001-01-01T00:00:00.000Z", "2001-01-02T00:00:00.000Z", "2001-01-03T00:00:00.000Z"} {
				w.exec("UPDATE outbox_messages SET created_at = $1 WHERE id = $2", at, string(ids[i]))
			}
			second := time.Date(2001, 1, 2, 0, 0, 0, 0, time.UTC)
			zone := time.FixedZone("east", 9*60*60)
			w.selects(store.Filter{Before: second}, ids[0])
			w.selects(store.Filter{After: second.In(zone)}, ids[1], ids[2])
			w.selects(store.Filter{After: second, Before: second.Add(time.Millisecond)}, ids[1])
		}},
		{"fields-narrow", "Fields narrow one another.", func(w *world) {
			id := w.enqueue(mail(on("a"), to("ann@mail.example"), keyed("k")))
			w.enqueue(mail(on("a"), to("bob@other.example")))
			w.enqueue(mail(on("b"), to("ann@mail.example")))
			w.selects(store.Filter{
				IDs: []outbox.ID{id}, States: []outbox.State{outbox.StateQueued}, Routes: []string{"a"}, From: "@example.com",
				To: "@mail.example", Key: "k", After: time.Unix(0, 0), Before: time.Now().Add(time.Hour),
			}, id)
			w.selects(store.Filter{Routes: []string{"a"}, To: "@mail.example"}, id)
		}},
		{"many-ids", "IDs selects any number of messages, for reading and for changing.", func(w *world) {
			ids := w.many(3)
			w.enqueue(mail())
			list := slices.Clone(ids[:2])
			for range 70_000 {
				list = append(list, outbox.ID(uuid.NewString()))
			}
			f := store.Filter{IDs: list}
			w.selects(f, ids[:2]...)
			n, err := w.store.Hold(w.Context(), f)
			w.must(err)
			want(w, "held", n, 2)
			want(w, "the state of a message that was not named", w.one(ids[2]).State, outbox.StateQueued)
		}},
		{"mistakes", "A filter that can only be a mistake is refused by everything that takes one.", func(w *world) {
			id := w.enqueue(mail())
			for word, f := range map[string]store.Filter{
				"state": {States: []outbox.State{"sleeping"}}, "from": {From: "ann"}, "to": {To: "ann@"}, "limit": {Limit: -1},
				"after": {After: time.Unix(2, 0), Before: time.Unix(1, 0)}, "not a message id": {IDs: []outbox.ID{"12"}},
				"not text": {Key: "a\x00b"},
			} {
				_, err := w.store.List(w.Context(), f)
				w.refused(err, word)
				_, err = w.store.Count(w.Context(), f)
				w.refused(err, word)
				_, err = w.store.Cancel(w.Context(), f)
				w.refused(err, word)
				_, _, err = w.store.DryRun(w.Context(), store.OpCancel, f, 1)
				w.refused(err, word)
			}
			want(w, "states", w.states(id), []outbox.State{outbox.StateQueued})
		}},
		{"hostile", "Values of a filter are data: quotes do no harm.", func(w *world) {
			id := w.enqueue(mail())
			for _, s := range []string{`' OR '1'='1`, `"; DROP TABLE outbox_messages; --`, `\'`, "$1"} {
				w.selects(store.Filter{Routes: []string{s}})
				w.selects(store.Filter{To: s + "@x"})
				w.selects(store.Filter{Class: s, Relay: s, Key: s})
			}
			w.selects(store.Filter{}, id)
		}},
	}
}

// selects wants a filter to select the given messages and no others.
func (w *world) selects(f store.Filter, ids ...outbox.ID) {
	w.Helper()
	got := listedIDs(w.list(f))
	slices.Sort(got)
	expected := slices.Sorted(slices.Values(ids))
	if !slices.Equal(got, expected) {
		w.violatedf("%+v selects %v, want %v", f, got, expected)
	}
}
