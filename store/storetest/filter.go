package storetest

import (
	"fmt"
	"slices"
	"strconv"
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
		{"shown-states", "Scheduled and deferred select queued deliveries as people see them.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, inAnHour)
			due, scheduled := w.enqueue(mail()), w.enqueue(mail(later))
			w.selects(store.Filter{States: []outbox.State{store.Deferred}}, c.ID)
			w.selects(store.Filter{States: []outbox.State{store.Scheduled}}, scheduled)
			w.selects(store.Filter{States: []outbox.State{store.Scheduled, store.Deferred}}, c.ID, scheduled)
			w.selects(store.Filter{States: []outbox.State{outbox.StateQueued}}, c.ID, due, scheduled)
		}},
		{"details", "Tag, Metadata and Subject select by what the application put into the message.", func(w *world) {
			details := func(subject, tag, customer string) func(*outbox.Message) {
				return func(m *outbox.Message) {
					m.Subject, m.Tags, m.Metadata = subject, []string{tag, "all"}, map[string]string{"customer": customer, "kind": "x"}
				}
			}
			a, b := w.enqueue(mail(details("Invoice 50% off", "bill", "1"))), w.enqueue(mail(details("Reminder", "note", "it's")))
			w.enqueue(mail())
			w.selects(store.Filter{Tag: "bill"}, a)
			w.selects(store.Filter{Tag: "all"}, a, b)
			w.selects(store.Filter{Tag: "bil"})
			w.selects(store.Filter{Metadata: map[string]string{"customer": "it's", "kind": "x"}}, b)
			w.selects(store.Filter{Metadata: map[string]string{"customer": "1", "kind": "y"}})
			w.selects(store.Filter{Subject: "50% OFF"}, a)
			w.selects(store.Filter{Subject: "50_"})
		}},
		{"last-change", "Since and Until bound the last change: the end, or else the last attempt, or else the enqueueing.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, inAnHour, evidence(refusal()))
			finished := w.enqueue(mail())
			w.finish(finished, outbox.StateFailed)
			fresh := w.enqueue(mail())
			w.exec("UPDATE outbox_messages SET created_at = $1", "2001-01-01T00:00:00.000Z")
			w.exec("UPDATE outbox_deliveries SET finished_at = $1 WHERE finished_at IS NOT NULL", "2001-01-03T00:00:00.000Z")
			w.exec("UPDATE outbox_attempts SET noted_at = $1 WHERE message_id = $2", "2001-01-02T00:00:00.000Z", string(c.ID))
			day := func(n int) time.Time { return time.Date(2001, 1, n, 0, 0, 0, 0, time.UTC) }
			w.selects(store.Filter{Until: day(2)}, fresh)
			w.selects(store.Filter{Since: day(2)}, c.ID, finished)
			w.selects(store.Filter{Since: day(2), Until: day(3)}, c.ID)
			w.selects(store.Filter{Since: day(3), States: []outbox.State{outbox.StateFailed}}, finished)
			w.selects(store.Filter{Until: day(3), States: []outbox.State{outbox.StateFailed}})
		}},
		{"count-by", "Deliveries are counted by what they have in common, the largest group first.", func(w *world) {
			for i, reply := range []string{"user a1@x.example unknown, id 4f5a6b77", "user b@y.example unknown, id 99887766", "mailbox full"} {
				c := w.leased(to(fmt.Sprintf("a@%s.Example", []string{"x", "y", "x"}[i])), func(m *outbox.Message) {
					m.Tags, m.Metadata = []string{"all", "t" + strconv.Itoa(i)}, map[string]string{"customer": []string{"1", "2", "1"}[i]}
				})
				w.settle(c, queue.Failed, evidence(queue.Evidence{Class: "recipient", Code: 550, Enhanced: "5.1.1", Relay: "eu", Reply: reply}))
			}
			w.enqueue(mail(on("b")))
			failed := store.Filter{States: []outbox.State{outbox.StateFailed}}
			for _, tt := range []struct {
				by     store.Grouping
				filter store.Filter
				limit  int
				groups []store.Group
			}{
				{store.ByState, store.Filter{}, 0, []store.Group{{Value: "failed", Deliveries: 3}, {Value: "queued", Deliveries: 1}}},
				{store.ByState, store.Filter{}, 1, []store.Group{{Value: "failed", Deliveries: 3}}},
				{store.ByRelay, store.Filter{}, 0, []store.Group{{Value: "eu", Deliveries: 3}, {Value: "", Deliveries: 1}}},
				{store.ByClass, failed, 0, []store.Group{{Value: "recipient", Deliveries: 3}}},
				{store.ByCode, failed, 0, []store.Group{{Value: "550 5.1.1", Deliveries: 3}}},
				{store.ByReply, failed, 0, []store.Group{
					{Value: "550 5.1.1 user … unknown, id …", Deliveries: 2}, {Value: "550 5.1.1 mailbox full", Deliveries: 1},
				}},
				{store.ByDomain, failed, 0, []store.Group{{Value: "x.example", Deliveries: 2}, {Value: "y.example", Deliveries: 1}}},
				{store.ByTag, failed, 1, []store.Group{{Value: "all", Deliveries: 3}}},
				{store.ByMetadata("customer"), store.Filter{Relay: "eu"}, 0, []store.Group{{Value: "1", Deliveries: 2}, {Value: "2", Deliveries: 1}}},
				{store.ByMetadata("it's"), failed, 0, []store.Group{{Value: "", Deliveries: 3}}},
			} {
				groups, err := w.store.CountBy(w.Context(), tt.filter, tt.by, tt.limit)
				w.must(err)
				want(w, "by "+string(tt.by), groups, tt.groups)
			}
			for _, by := range []store.Grouping{"", "body", "metadata."} {
				_, err := w.store.CountBy(w.Context(), store.Filter{}, by, 0)
				w.refused(err, "grouped by")
			}
		}},
		{"deliveries", "Deliveries select recipients, beside IDs, which select whole messages.", func(w *world) {
			a, b := w.enqueue(mail(to("a@x.example", "b@x.example"))), w.enqueue(mail(to("a@x.example", "b@x.example")))
			one := store.DeliveryID{ID: "urn:uuid:" + a, Seq: 2}
			got := w.list(store.Filter{Deliveries: []store.DeliveryID{one, one, {ID: a, Seq: 9}}})
			want(w, "selected", len(got), 1)
			want(w, "recipient", got[0].Recipient, "b@x.example")
			want(w, "with a message", len(w.list(store.Filter{IDs: []outbox.ID{b}, Deliveries: []store.DeliveryID{one}})), 3)
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
