package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

func readRules() []rule {
	return []rule{
		{"get", "Get returns a message as it was enqueued, with a delivery for each recipient.", getMessage},
		{"get-any-form", "Get takes an id in any of its usual forms.", func(w *world) {
			id := w.enqueue(mail())
			m, err := w.store.Get(w.Context(), outbox.ID("urn:uuid:"+string(id)))
			w.must(err)
			want(w, "id", m.ID, id)
		}},
		{"get-unknown", "Get of an unknown message is ErrNotFound, and of what is no id an error that says so.", func(w *world) {
			_, err := w.store.Get(w.Context(), outbox.ID(uuid.NewString()))
			want(w, "is ErrNotFound", errors.Is(err, store.ErrNotFound), true)
			_, err = w.store.Get(w.Context(), "abc")
			w.refused(err, "not a message id")
		}},
		{"body", "Body returns the bytes that were enqueued.", func(w *world) {
			id := w.enqueue(mail(raw("From: a@example.com\r\nTo: b@example.org\r\nSubject: x\r\n\r\n\x80\xff binary is kept\r\n")))
			body, err := w.store.Body(w.Context(), id)
			w.must(err)
			if !slices.Contains(body, 0xff) {
				w.violatedf("the body is %q", body)
			}
			want(w, "size", int64(len(body)), w.get(id).Size)
		}},
		{"body-in-parts", "Body returns a body of many megabytes as it was enqueued, and its bytes are the caller's.", func(w *world) {
			message := []byte("From: a@example.com\r\nTo: b@example.org\r\nSubject: x\r\n\r\n")
			for i := range 110_000 { // no two lines are equal, so that misplaced parts show
				message = fmt.Appendf(message, "line %d of a long letter, with \x80\xff in it, which is as binary as it gets\r\n", i)
			}
			for _, length := range []int{len(message), 4 << 20} { // several parts of 4 MiB with a rest, and exactly one part
				raw := bytes.Clone(message[:length])
				copy(raw[length-2:], "\r\n")
				id := w.enqueue(&outbox.Message{Raw: raw})
				body, err := w.store.Body(w.Context(), id)
				w.must(err)
				want(w, "size", int64(len(body)), w.get(id).Size)
				if _, after, _ := bytes.Cut(raw, []byte("\r\n\r\n")); !bytes.HasSuffix(body, after) {
					w.violatedf("a body of %d bytes came back as another", length)
				}
				clear(body[:cap(body)])
				again, err := w.store.Body(w.Context(), id)
				w.must(err)
				want(w, "size once more", len(again), len(body))
				want(w, "what the caller wrote is there", bytes.Equal(again, body), false)
			}
		}},
		{"no-body", "Body tells a scrubbed message from an unknown one.", func(w *world) {
			id := w.enqueue(mail())
			w.exec("UPDATE outbox_messages SET body = NULL")
			_, err := w.store.Body(w.Context(), id)
			want(w, "is ErrNoBody", errors.Is(err, queue.ErrNoBody), true)
			want(w, "scrubbed", w.get(id).Scrubbed, true)
			_, err = w.store.Body(w.Context(), outbox.ID(uuid.NewString()))
			want(w, "is ErrNotFound", errors.Is(err, store.ErrNotFound), true)
		}},
		{"list-newest-first", "Lists begin with the newest message; the recipients of one stand together.", func(w *world) {
			ids := w.enqueueAll(mail(), mail(to("a@example.org", "b@example.org")), mail())
			var order []outbox.ID
			for _, id := range w.list(store.Filter{}) {
				order = append(order, id.ID)
			}
			want(w, "order", order, []outbox.ID{ids[2], ids[1], ids[1], ids[0]})
		}},
		{"list-pages", "A list of any length has every delivery once.", func(w *world) {
			const n = 1155 // more than two pages, some of which end within a message
			w.many(n/7, to("a@x.org", "b@x.org", "c@x.org", "d@x.org", "e@x.org", "f@x.org", "g@x.org"))
			seen := make(map[queue.Ref]bool)
			list := w.list(store.Filter{})
			for _, d := range list {
				seen[queue.Ref{ID: d.ID, Seq: d.Seq}] = true
			}
			want(w, "deliveries listed", len(list), n)
			want(w, "different ones", len(seen), n)
			sorted := slices.IsSortedFunc(list, func(a, b store.Delivery) int {
				if a.ID != b.ID {
					return -compare(a.ID, b.ID)
				}
				return b.Seq - a.Seq
			})
			want(w, "in order", sorted, true)
		}},
		{"list-limit", "A list has no more entries than its limit, also over pages.", func(w *world) {
			w.many(620)
			for _, limit := range []int{1, 499, 500, 501, 620, 1000} {
				want(w, "entries", len(w.list(store.Filter{Limit: limit})), min(limit, 620))
			}
		}},
		{"stream-stops", "A reader of All may stop at any time.", func(w *world) {
			w.many(3)
			n := 0
			for _, err := range w.store.All(w.Context(), store.Filter{}) {
				w.must(err)
				n++
				break
			}
			want(w, "read", n, 1)
		}},
		{"stream-moves", "A delivery that changes its state while a list is read is not shown twice.", func(w *world) {
			w.many(1100)
			seen := make(map[outbox.ID]int)
			for d, err := range w.store.All(w.Context(), store.Filter{}) {
				w.must(err)
				if seen[d.ID]++; len(seen) == 100 {
					w.claim()
				}
			}
			want(w, "deliveries listed", len(seen), 1100)
			for id, n := range seen {
				if n != 1 {
					w.violatedf("%s was listed %d times", id, n)
				}
			}
		}},
		{"stream-error", "A list that cannot be read ends with an error.", func(w *world) {
			w.many(3)
			ctx, cancel := context.WithCancel(w.Context())
			cancel()
			var last error
			for _, err := range w.store.All(ctx, store.Filter{}) {
				last = err
			}
			want(w, "is context.Canceled", errors.Is(last, context.Canceled), true)
		}},
		{"shown-words", "People read a queued delivery as scheduled before its time, as deferred after an attempt, and else by its state.",
			func(w *world) {
				id := w.enqueue(mail())
				want(w, "due", w.shown(id), "queued")
				want(w, "for later", w.shown(w.enqueue(mail(later))), "scheduled")
				c := w.claimOne()
				want(w, "claimed", w.shown(id), "sending")
				w.settle(c, queue.Deferred, inAnHour)
				want(w, "put back", w.shown(id), "deferred")
				w.exec("UPDATE outbox_deliveries SET due_at = $1 WHERE message_id = $2", longAgo, string(id))
				w.settle(w.claimOne(), queue.Sent)
				want(w, "done", w.shown(id), "sent")
			}},
		{"count", "Count agrees with the list, its limit aside.", func(w *world) {
			w.many(7)
			w.many(3, on("b"))
			for _, f := range []store.Filter{{}, {Routes: []string{"b"}}, {Routes: []string{"b"}, Limit: 1}, {Routes: []string{"none"}}} {
				n, err := w.store.Count(w.Context(), f)
				w.must(err)
				f.Limit = 0
				want(w, "count", n, int64(len(w.list(f))))
			}
		}},
	}
}

func compare(a, b outbox.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func (w *world) list(f store.Filter) []store.Delivery {
	w.Helper()
	list, err := w.store.List(w.Context(), f)
	w.must(err)
	return list
}

func (w *world) shown(id outbox.ID) string {
	w.Helper()
	d := w.one(id)
	return d.Shown()
}

func getMessage(w *world) {
	due := time.Now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	msg := mail(to("ann@example.org", "bob@example.net"), on("orders"), with(outbox.Bulk),
		keyed("order-17"), holding, labelled("welcome", "user", "Ünï"))
	msg.NotBefore, msg.Expires = due, due.Add(time.Hour)
	id := w.enqueue(msg)
	m := w.get(id)
	want(w, "id", m.ID, id)
	want(w, "key", m.IdempotencyKey, "order-17")
	want(w, "route", m.Route, "orders")
	want(w, "priority", m.Priority, outbox.Bulk)
	want(w, "sender", m.Sender, "shop@example.com")
	want(w, "recipients", m.Recipients, []string{"ann@example.org", "bob@example.net"})
	want(w, "subject", m.Subject, "Your order")
	want(w, "not before", m.NotBefore.UTC(), due)
	want(w, "expires", m.ExpiresAt.UTC(), due.Add(time.Hour))
	want(w, "policy", m.OnUncertain, outbox.Hold)
	want(w, "tags", m.Tags, []string{"welcome"})
	want(w, "metadata", m.Metadata, map[string]string{"user": "Ünï"})
	want(w, "scrubbed", m.Scrubbed, false)
	w.near("created", m.CreatedAt, w.now())
	want(w, "deliveries", len(m.Deliveries), 2)
	for i, d := range m.Deliveries {
		want(w, "place", d.Seq, i+1)
		want(w, "recipient", d.Recipient, m.Recipients[i])
		want(w, "state", d.State, outbox.StateQueued)
		want(w, "due", d.DueAt.UTC(), due)
		want(w, "expires", d.ExpiresAt.UTC(), due.Add(time.Hour))
		want(w, "later", d.Later, true)
		want(w, "what people ask for", [6]any{d.MessageID, d.Sender, d.Subject, d.Size, d.IdempotencyKey, d.Route},
			[6]any{m.MessageID, m.Sender, m.Subject, m.Size, m.IdempotencyKey, m.Route})
	}
}

// checkUnmigrated calls every method on a database without tables.
func checkUnmigrated(w *world) {
	s, ctx := w.store, w.Context()
	id := outbox.ID(uuid.NewString())
	ref := queue.Ref{ID: id, Seq: 1, Token: uuid.NewString()}
	for name, call := range map[string]func() error{
		"Check":   func() error { return s.Check(ctx) },
		"Due":     func() error { _, err := s.Due(ctx, nil); return err },
		"Claim":   func() error { _, err := s.Claim(ctx, request()); return err },
		"Enqueue": func() error { _, err := s.Enqueue(ctx, mail()); return err },
		"Body":    func() error { _, err := s.Body(ctx, id); return err },
		"Fence":   func() error { _, err := s.Fence(ctx, []queue.FencedRef{{Ref: ref}}); return err },
		"Renew":   func() error { _, err := s.Renew(ctx, []string{ref.Token}, time.Minute); return err },
		"Settle": func() error {
			_, err := s.Settle(ctx, "d1", []queue.Settlement{{Ref: ref, Outcome: queue.Sent}})
			return err
		},
		"Reap":   func() error { _, err := s.Reap(ctx); return err },
		"Get":    func() error { _, err := s.Get(ctx, id); return err },
		"List":   func() error { _, err := s.List(ctx, store.Filter{}); return err },
		"Count":  func() error { _, err := s.Count(ctx, store.Filter{}); return err },
		"Find":   func() error { _, err := s.Find(ctx, string(id)); return err },
		"DryRun": func() error { _, _, err := s.DryRun(ctx, store.OpCancel, store.Filter{}, 1); return err },
		"Cancel": func() error { _, err := s.Cancel(ctx, store.Filter{}); return err },
		"Purge":  func() error { _, err := s.Purge(ctx, store.Filter{}); return err },
		"Suppress": func() error {
			_, err := s.Suppress(ctx, store.Suppression{Address: "a@example.org"})
			return err
		},
		"Unsuppress": func() error { _, err := s.Unsuppress(ctx, "a@example.org"); return err },
		"Suppressed": func() error { _, _, err := s.Suppressed(ctx, "a@example.org"); return err },
		"RecordFeedback": func() error {
			_, err := s.RecordFeedback(ctx, queue.Feedback{Kind: queue.FeedbackBounced, ProviderID: "x"})
			return err
		},
		"Clean":       func() error { _, err := s.Clean(ctx, queue.Retention{Sent: time.Hour}); return err },
		"Heartbeat":   func() error { return s.Heartbeat(ctx, queue.Heartbeat{ID: "d1"}) },
		"Retire":      func() error { return s.Retire(ctx, "d1") },
		"Dispatchers": func() error { _, err := s.Dispatchers(ctx); return err },
		"Stats":       func() error { _, err := s.Stats(ctx); return err },
		"Pause":       func() error { return s.Pause(ctx, "a", "") },
		"Resume":      func() error { _, err := s.Resume(ctx, "a"); return err },
		"PauseRelay":  func() error { return s.PauseRelay(ctx, "a", time.Minute, "") },
		"PauseRelayByOperator": func() error {
			_, err := s.PauseRelayByOperator(ctx, "a", time.Minute, "")
			return err
		},
		"ResumeRelay": func() error { _, err := s.ResumeRelay(ctx, "a"); return err },
		"RelayStates": func() error { _, err := s.RelayStates(ctx); return err },
	} {
		err := call()
		var version *schema.VersionError
		if !errors.As(err, &version) || version.Have != 0 {
			w.violatedf("%s: the error is %v", name, err)
			continue
		}
		w.refused(err, "outboxctl migrate up")
	}
}
