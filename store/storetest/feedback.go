package storetest

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// feedbackRules are about the reports that providers send after they have accepted a message.
func feedbackRules() []rule {
	yesterday := time.Date(2026, 1, 31, 9, 5, 0, int(250*time.Millisecond), time.FixedZone("", 3600))
	bounce := func(edits ...func(*queue.Feedback)) queue.Feedback {
		f := queue.Feedback{
			Kind: queue.FeedbackBounced, ProviderID: "p-17", At: yesterday, Code: 550, Enhanced: "5.1.1", Detail: "it's \x00 nobody",
			EventID: "e-1",
		}
		for _, e := range edits {
			e(&f)
		}
		return f
	}
	suppress := func(f *queue.Feedback) { f.Suppress = true }
	return []rule{
		{"long-names", "Names from a provider may have any length: none keeps an outcome or a report from being recorded, each is told apart " +
			"from others, and each is found again.", func(w *world) {
			w.many(3)
			long := strings.Repeat("0123456789abcdef ünï ", 400)
			names := []string{"short", long + "1", long + "2"}
			claimed := w.claim()
			var list []queue.Settlement
			for i, c := range claimed {
				list = append(list, queue.Settlement{Ref: c.Ref(0), Outcome: queue.Sent, Evidence: queue.Evidence{Relay: "r", ProviderID: names[i]}})
			}
			lost, err := w.store.Settle(w.Context(), "d1", list)
			w.must(err)
			want(w, "lost", lost, nil)
			for i, c := range claimed {
				for range 2 {
					_, err := w.store.RecordFeedback(w.Context(), queue.Feedback{
						Kind: queue.FeedbackDelivered, ProviderID: names[i], EventID: long + "a", Detail: long,
					}, queue.Feedback{Kind: queue.FeedbackDelivered, ProviderID: names[i], EventID: long + "b"})
					w.must(err)
				}
				want(w, "reports", len(w.get(c.ID).Feedback), 2)
			}
		}},
		{"kept", "Feedback is kept beside the delivery that a provider's id names, with everything that was said, and changes no state.",
			func(w *world) {
				id := w.accepted()
				w.unchanged(func() { want(w, "report", w.record(bounce()), queue.FeedbackReport{Recorded: 1}) })
				list := w.get(id).Feedback
				if len(list) != 1 {
					w.violatedf("%d reports are kept, want 1", len(list))
					return
				}
				w.near("when it was recorded", list[0].RecordedAt, w.now())
				list[0].RecordedAt = time.Time{}
				want(w, "feedback", list[0], store.Feedback{
					Seq: 1, Kind: queue.FeedbackBounced, At: yesterday.UTC(), Code: 550, Enhanced: "5.1.1", Detail: "it's \uFFFD nobody", EventID: "e-1",
				})
			}},
		{"bare", "Feedback needs no more than a kind and a name: it happened now.", func(w *world) {
			id := w.accepted()
			want(w, "report", w.record(queue.Feedback{Kind: queue.FeedbackDelivered, ProviderID: "p-17"}), queue.FeedbackReport{Recorded: 1})
			w.near("when", w.get(id).Feedback[0].At, w.now())
		}},
		{"twice", "A report that arrives twice, in one call or in two, is recorded once; another report of the same delivery is not lost.",
			func(w *world) {
				id := w.accepted()
				want(w, "report", w.record(bounce(), bounce()), queue.FeedbackReport{Recorded: 1, Known: 1})
				want(w, "second report", w.record(bounce(func(f *queue.Feedback) { f.Detail = "changed" })), queue.FeedbackReport{Known: 1})
				want(w, "another", w.record(bounce(func(f *queue.Feedback) { f.EventID = "e-2" })), queue.FeedbackReport{Recorded: 1})
				want(w, "kept", len(w.get(id).Feedback), 2)
			}},
		{"twice-unnamed", "Without the provider's name for it, a report of the same kind and time is the same one.", func(w *world) {
			w.accepted()
			unnamed := func(f *queue.Feedback) { f.EventID = "" }
			want(w, "report", w.record(bounce(unnamed)), queue.FeedbackReport{Recorded: 1})
			want(w, "second report", w.record(bounce(unnamed)), queue.FeedbackReport{Known: 1})
			want(w, "a second later", w.record(bounce(unnamed, func(f *queue.Feedback) { f.At = f.At.Add(time.Second) })),
				queue.FeedbackReport{Recorded: 1})
		}},
		{"order", "What was reported is read in the order in which it happened.", func(w *world) {
			id := w.accepted()
			at := func(kind queue.FeedbackKind, hours int) queue.Feedback {
				return queue.Feedback{Kind: kind, ProviderID: "p-17", At: yesterday.Add(time.Duration(hours) * time.Hour)}
			}
			w.record(at(queue.FeedbackComplained, 9), at(queue.FeedbackDelayed, 1), at(queue.FeedbackDelivered, 2))
			var kinds []string
			for _, f := range w.get(id).Feedback {
				kinds = append(kinds, string(f.Kind))
			}
			want(w, "kinds", strings.Join(kinds, " "), "delayed delivered complained")
		}},
		{"message-id", "A message is known by its Message-ID, with brackets or without, its own or one that it brought.", func(w *world) {
			own := w.enqueue(mail())
			brought := w.enqueue(mail(raw("Message-ID: <it's-mine@example.com>\r\nFrom: a@example.com\r\nTo: b@example.org\r\n\r\nBody.\r\n")))
			for _, id := range []outbox.ID{own, brought} {
				name := w.get(id).MessageID
				for _, n := range []string{name, strings.Trim(name, "<>")} {
					f := queue.Feedback{Kind: queue.FeedbackDelayed, MessageID: n}
					want(w, "report of "+n, w.record(f), queue.FeedbackReport{Recorded: 1})
				}
				want(w, "kept", len(w.get(id).Feedback), 2)
			}
		}},
		{"either-name", "Where the provider's id is not known the Message-ID counts.", func(w *world) {
			id := w.accepted()
			want(w, "report", w.record(queue.Feedback{
				Kind: queue.FeedbackDelayed, ProviderID: "other", MessageID: w.get(id).MessageID,
			}), queue.FeedbackReport{Recorded: 1})
		}},
		{"recipient", "A recipient narrows feedback to its delivery, whatever the letter case; without one all that were sent together have it.",
			func(w *world) {
				id := w.accepted(to("Ann@Example.org", "bob@example.org"))
				one := bounce(func(f *queue.Feedback) { f.Recipient = "aNN@example.org" })
				want(w, "report of one", w.record(one), queue.FeedbackReport{Recorded: 1})
				want(w, "place", w.get(id).Feedback[0].Seq, 1)
				want(w, "report of all", w.record(bounce(func(f *queue.Feedback) { f.EventID = "e-2" })), queue.FeedbackReport{Recorded: 2})
				none := bounce(func(f *queue.Feedback) { f.Recipient = "cy@example.org" })
				want(w, "report of another", w.record(none), queue.FeedbackReport{Unknown: []queue.Feedback{none}})
			}},
		{"recipient-form", "A recipient with an international domain is the same in either form.", func(w *world) {
			w.accepted(to("ann@bücher.example", "bob@example.org"))
			for i, address := range []string{"Ann@BÜCHER.example", "ann@xn--bcher-kva.example"} {
				f := bounce(func(f *queue.Feedback) { f.Recipient, f.EventID = address, strings.Repeat("e", i+1) })
				want(w, "report of "+address, w.record(f), queue.FeedbackReport{Recorded: 1})
			}
		}},
		{"used-again", "An id that a relay has used again names the newest message.", func(w *world) {
			old, fresh := w.accepted(), w.accepted()
			want(w, "report", w.record(bounce()), queue.FeedbackReport{Recorded: 1})
			want(w, "kept for each", [2]int{len(w.get(old).Feedback), len(w.get(fresh).Feedback)}, [2]int{0, 1})
		}},
		{"unknown", "Feedback of messages that are not known is returned, is no error, and harms no other.", func(w *world) {
			w.accepted()
			strange := []queue.Feedback{
				bounce(func(f *queue.Feedback) { f.ProviderID = "'; --" }),
				{Kind: queue.FeedbackDelayed, MessageID: "<" + uuid.NewString() + "@example.com>"},
				{Kind: queue.FeedbackDelayed, MessageID: "no Message-ID"},
			}
			got := w.record(append(strange, bounce())...)
			want(w, "report", got, queue.FeedbackReport{Recorded: 1, Unknown: strange})
		}},
		{"ambiguous", "Feedback whose Message-ID stands for several messages is returned.", func(w *world) {
			for range 2 {
				w.enqueue(mail(raw("Message-ID: <mine@example.com>\r\nFrom: a@example.com\r\nTo: b@example.org\r\n\r\nBody.\r\n")))
			}
			f := queue.Feedback{Kind: queue.FeedbackBounced, MessageID: "mine@example.com"}
			want(w, "report", w.record(f), queue.FeedbackReport{Unknown: []queue.Feedback{f}})
		}},
		{"suppress", "A bounce that is permanent, and a complaint, put their recipient on the list where that is asked for.", func(w *world) {
			id := w.accepted(to("Ann@example.org"))
			want(w, "not asked for", w.record(bounce()), queue.FeedbackReport{Recorded: 1})
			want(w, "asked for", w.record(bounce(suppress, func(f *queue.Feedback) { f.EventID = "e-2" })),
				queue.FeedbackReport{Recorded: 1, Suppressed: 1})
			e, _, err := w.store.Suppressed(w.Context(), "ann@example.org")
			w.must(err)
			e.CreatedAt = time.Time{}
			want(w, "entry", e, store.Suppression{Address: "ann@example.org", Reason: "it's \uFFFD nobody", Source: "bounce", MessageID: id})
			complaint := queue.Feedback{Kind: queue.FeedbackComplained, ProviderID: "p-17", Suppress: true}
			want(w, "on the list already", w.record(complaint), queue.FeedbackReport{Recorded: 1})
			_, err = w.store.Unsuppress(w.Context(), "ann@example.org")
			w.must(err)
			want(w, "a complaint", w.record(complaint), queue.FeedbackReport{Recorded: 1, Suppressed: 1})
			e, _, err = w.store.Suppressed(w.Context(), "ann@example.org")
			w.must(err)
			want(w, "reason and source", e.Reason+", "+e.Source, "the recipient complained, complaint")
		}},
		{"suppress-once", "A report that arrives again does not put back on the list who was taken off.", func(w *world) {
			w.accepted()
			want(w, "report", w.record(bounce(suppress)), queue.FeedbackReport{Recorded: 1, Suppressed: 1})
			_, err := w.store.Unsuppress(w.Context(), "ann@example.org")
			w.must(err)
			want(w, "second report", w.record(bounce(suppress)), queue.FeedbackReport{Known: 1})
			want(w, "entries", w.number("SELECT count(*) FROM outbox_suppressions"), 0)
		}},
		{"suppress-not-temporary", "A bounce whose codes say that it is temporary is recorded and puts nobody on the list.", func(w *world) {
			w.accepted()
			want(w, "report", w.record(
				bounce(suppress, func(f *queue.Feedback) { f.Code, f.Enhanced = 452, "" }),
				bounce(suppress, func(f *queue.Feedback) { f.EventID, f.Code, f.Enhanced = "e-2", 0, "4.2.2" }),
			), queue.FeedbackReport{Recorded: 2})
		}},
		{"suppress-not-many", "Feedback that may be about any of several recipients puts none of them on the list.", func(w *world) {
			w.accepted(to("a@example.org", "b@example.org"))
			want(w, "of both", w.record(bounce(suppress)), queue.FeedbackReport{Recorded: 2})
			want(w, "of one", w.record(bounce(suppress, func(f *queue.Feedback) { f.EventID, f.Recipient = "e-2", "b@example.org" })),
				queue.FeedbackReport{Recorded: 1, Suppressed: 1})
		}},
		{"bad", "Feedback of no known kind, of nothing, or that would suppress what was delivered is refused before anything is written.",
			func(w *world) {
				w.accepted()
				for word, f := range map[string]queue.Feedback{
					"kind":             {Kind: "opened", ProviderID: "p-17"},
					"ProviderID":       {Kind: queue.FeedbackBounced},
					"suppression list": {Kind: queue.FeedbackDelivered, ProviderID: "p-17", Suppress: true},
					"time":             {Kind: queue.FeedbackBounced, ProviderID: "p-17", At: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)},
				} {
					report, err := w.store.RecordFeedback(w.Context(), bounce(), f)
					w.refused(err, word, "report 2")
					want(w, "report", report, queue.FeedbackReport{})
				}
				want(w, "kept", w.number("SELECT count(*) FROM outbox_feedback"), 0)
			}},
		{"many", "Any number of reports is recorded in one call.", func(w *world) {
			w.accepted()
			list := make([]queue.Feedback, 250)
			for i := range list {
				list[i] = bounce(func(f *queue.Feedback) { f.EventID = uuid.NewString() })
			}
			want(w, "report", w.record(list...), queue.FeedbackReport{Recorded: 250})
		}},
		{"purged", "What is purged takes its feedback along, and that of others stays; so does retention, and so do deleted messages.",
			func(w *world) {
				kept := w.accepted()
				w.record(bounce())
				gone := w.accepted()
				w.record(bounce())
				w.changes(1, w.store.Purge, store.Filter{IDs: []outbox.ID{gone}})
				want(w, "left", w.number("SELECT count(*) FROM outbox_feedback"), 1)
				want(w, "kept", len(w.get(kept).Feedback), 1)
				w.exec("UPDATE outbox_deliveries SET finished_at = $1", longAgo)
				_, err := w.store.Clean(w.Context(), queue.Retention{Sent: time.Hour})
				w.must(err)
				want(w, "left after cleaning", w.number("SELECT count(*) FROM outbox_feedback"), 0)
				deleted := w.accepted()
				w.record(bounce())
				w.exec("DELETE FROM outbox_messages WHERE id = $1", string(deleted))
				want(w, "left after a message was deleted", w.number("SELECT count(*) FROM outbox_feedback"), 0)
			}},
	}
}

// accepted returns a message that a relay took under the id "p-17".
func (w *world) accepted(edits ...edit) outbox.ID {
	w.Helper()
	c := w.leased(edits...)
	w.settle(c, queue.Sent, evidence(queue.Evidence{Relay: "primary", Code: 250, ProviderID: "p-17"}))
	return c.ID
}

func (w *world) record(list ...queue.Feedback) queue.FeedbackReport {
	w.Helper()
	report, err := w.store.RecordFeedback(w.Context(), list...)
	w.must(err)
	return report
}
