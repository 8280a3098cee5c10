package storetest

import (
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

func dueRules() []rule {
	return []rule{
		{"empty", "Nothing is listed as due in an empty queue.", func(w *world) {
			want(w, "due", len(w.due()), 0)
		}},
		{"one-per-route-and-priority", "There is one entry for each route and priority that holds anything, the most urgent first.",
			func(w *world) {
				w.many(3, on("a"))
				w.many(3, on("a"), with(outbox.Bulk))
				w.many(3, on("b"), with(outbox.High))
				var got []string
				for _, d := range w.due() {
					got = append(got, d.Route+" "+string(d.Priority))
				}
				want(w, "entries", got, []string{"b high", "a normal", "a bulk"})
			}},
		{"tells-when", "An entry tells in how long its first delivery is due: zero or less for now.", func(w *world) {
			w.enqueue(mail(on("later"), later))
			w.enqueue(mail(on("now")))
			w.enqueue(mail(on("now"), later))
			for _, d := range w.due() {
				switch d.Route {
				case "now":
					if d.In > 0 {
						w.violatedf("what is due now is listed as due in %v", d.In)
					}
				case "later":
					if d.In < 50*time.Minute || d.In > 70*time.Minute {
						w.violatedf("what is due in an hour is listed as due in %v", d.In)
					}
				}
			}
			want(w, "entries", len(w.due()), 2)
		}},
		{"only-queued", "Deliveries in other states are not due.", func(w *world) {
			for _, state := range outbox.States()[1:] {
				w.finish(w.enqueue(mail()), state)
			}
			want(w, "due", len(w.due()), 0)
		}},
		{"not-overdue", "Deliveries past their deadline are not due: nothing wakes for what cannot be claimed.", func(w *world) {
			w.enqueue(mail(expiring))
			w.exec("UPDATE outbox_deliveries SET expires_at = $1", longAgo)
			want(w, "due", len(w.due()), 0)
		}},
		{"wanted-routes", "Only the wanted routes are listed.", func(w *world) {
			w.enqueue(mail(on("a")))
			w.enqueue(mail(on("b")))
			got := w.due("b", "no such route")
			if len(got) != 1 || got[0].Route != "b" {
				w.violatedf("got %v", got)
			}
		}},
		{"paused", "An entry of a paused route says so.", func(w *world) {
			w.enqueue(mail(on("a")))
			w.enqueue(mail(on("b")))
			w.must(w.store.Pause(w.Context(), "a", "incident"))
			for _, d := range w.due() {
				want(w, "paused "+d.Route, d.Paused, d.Route == "a")
			}
		}},
		{"changes-nothing", "Listing what is due changes nothing.", func(w *world) {
			w.many(3)
			w.unchanged(func() { w.due() })
		}},
	}
}

func (w *world) due(routes ...string) []queue.Due {
	w.Helper()
	list, err := w.store.Due(w.Context(), routes)
	w.must(err)
	return list
}
