package storetest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// operation runs one of the verbs.
type operation struct {
	op   store.Operation
	name string
	run  func(s *store.Store, ctx context.Context, f store.Filter, opts ...store.BulkOption) (int64, error)
	// from lists the states that it starts from. to is the state that it leads to, empty if the delivery is removed.
	from []outbox.State
	to   outbox.State
}

func operations() []operation {
	resolve := func(r store.Resolution) func(*store.Store, context.Context, store.Filter, ...store.BulkOption) (int64, error) {
		return func(s *store.Store, ctx context.Context, f store.Filter, opts ...store.BulkOption) (int64, error) {
			return s.Resolve(ctx, f, r, opts...)
		}
	}
	return []operation{
		{store.OpRequeue, "requeue", (*store.Store).Requeue, []outbox.State{
			outbox.StateFailed, outbox.StateExpired,
		}, outbox.StateQueued},
		{store.OpHold, "hold", (*store.Store).Hold, []outbox.State{outbox.StateQueued}, outbox.StateHeld},
		{store.OpRelease, "release", (*store.Store).Release, []outbox.State{outbox.StateHeld}, outbox.StateQueued},
		{store.OpCancel, "cancel", (*store.Store).Cancel, []outbox.State{outbox.StateQueued, outbox.StateHeld}, outbox.StateCancelled},
		{store.OpResolve, "resolve-sent", resolve(store.ResolveSent), []outbox.State{outbox.StateUncertain}, outbox.StateSent},
		{store.OpResolve, "resolve-resend", resolve(store.ResolveResend), []outbox.State{outbox.StateUncertain}, outbox.StateQueued},
		{store.OpPurge, "purge", (*store.Store).Purge, []outbox.State{
			outbox.StateSent, outbox.StateFailed, outbox.StateExpired, outbox.StateCancelled, outbox.StateSuppressed,
		}, ""},
	}
}

func operateRules() []rule {
	var list []rule
	for _, o := range operations() {
		list = append(list,
			rule{
				o.name + "-guard", fmt.Sprintf("The verb %s changes deliveries that are %v and no others.", o.name, o.from),
				func(w *world) { operationGuard(w, o) },
			},
			rule{
				o.name + "-preview", fmt.Sprintf("A preview of %s says what it will change, and changes nothing.", o.name),
				func(w *world) { operationPreview(w, o) },
			})
	}
	return append(list, []rule{
		{"requeue-resets", "Requeueing counts attempts anew, makes due now, and lifts a deadline that has passed.", func(w *world) {
			c := w.leased(expiring)
			w.settle(c, queue.Deferred, uncounted)
			w.settle(w.claimOne(), queue.Failed, evidence(refusal()))
			w.exec("UPDATE outbox_deliveries SET expires_at = $1, deferred_since = $1, attempts = 12", longAgo)
			w.changes(1, w.store.Requeue, store.Filter{})
			d := w.one(c.ID)
			want(w, "attempts", d.Attempts, 0)
			want(w, "outage", d.DeferredSince.IsZero(), true)
			want(w, "deadline", d.ExpiresAt.IsZero(), true)
			want(w, "end", d.FinishedAt.IsZero(), true)
			want(w, "the evidence stays", d.Reply, refusal().Reply)
			want(w, "attempt", w.claimOne().Deliveries[0].Attempt, 1)
		}},
		{"requeue-keeps-deadline", "Requeueing keeps a deadline that lies ahead.", func(w *world) {
			c := w.leased(expiring)
			w.settle(c, queue.Failed)
			w.changes(1, w.store.Requeue, store.Filter{})
			w.near("deadline", w.one(c.ID).ExpiresAt, w.now().Add(time.Hour))
		}},
		{"requeue-deferred", "Requeueing makes a deferred delivery due now, and leaves one alone that is merely scheduled.",
			func(w *world) {
				c := w.leased()
				w.settle(c, queue.Deferred, inAnHour)
				scheduled := w.enqueue(mail(later))
				w.changes(1, w.store.Requeue, store.Filter{})
				want(w, "claimed", claimedIDs(w.claim()), []outbox.ID{c.ID})
				want(w, "scheduled", w.shown(scheduled), "scheduled")
			}},
		{"requeue-outage", "Requeueing makes a delivery due now that waits through an outage.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, uncounted, inAnHour)
			w.changes(1, w.store.Requeue, store.Filter{IDs: []outbox.ID{c.ID}})
			want(w, "claimed", claimedIDs(w.claim()), []outbox.ID{c.ID})
		}},
		{"requeue-sent", "What was sent is requeued only when the filter names that state.", func(w *world) {
			id := w.enqueue(mail())
			w.finish(id, outbox.StateSent)
			w.changes(0, w.store.Requeue, store.Filter{IDs: []outbox.ID{id}})
			want(w, "states", w.states(id), []outbox.State{outbox.StateSent})
			w.changes(1, w.store.Requeue, store.Filter{States: []outbox.State{outbox.StateSent}})
			want(w, "states", w.states(id), []outbox.State{outbox.StateQueued})
		}},
		{"requeue-withdrawn", "What was cancelled or suppressed is requeued only where the filter names its state or the delivery itself.",
			func(w *world) {
				for _, state := range []outbox.State{outbox.StateCancelled, outbox.StateSuppressed} {
					id := w.enqueue(mail(to("a@x.example", "b@x.example", "c@x.example")))
					w.exec("UPDATE outbox_deliveries SET state = $1, finished_at = $2 WHERE message_id = $3", string(state), longAgo, string(id))
					w.exec("UPDATE outbox_deliveries SET state = 'failed' WHERE message_id = $1 AND seq = 2", string(id))
					w.changes(1, w.store.Requeue, store.Filter{IDs: []outbox.ID{id}})
					want(w, "states by message", w.states(id), []outbox.State{state, outbox.StateQueued, state})
					w.changes(0, w.store.Requeue, store.Filter{})
					w.changes(1, w.store.Requeue, store.Filter{IDs: []outbox.ID{id}, Deliveries: []store.DeliveryID{{ID: id, Seq: 3}}})
					want(w, "states by recipient", w.states(id), []outbox.State{state, outbox.StateQueued, outbox.StateQueued})
					w.changes(1, w.store.Requeue, store.Filter{States: []outbox.State{state}})
					want(w, "states by state", w.states(id), []outbox.State{outbox.StateQueued, outbox.StateQueued, outbox.StateQueued})
				}
			}},
		{"listed-is-changed", "Deliveries that are named one by one are changed, and no other recipient of their messages.", func(w *world) {
			a, b := w.enqueue(mail(to("a@x.example", "b@x.example"))), w.enqueue(mail(to("a@x.example", "b@x.example")))
			f := store.Filter{Deliveries: []store.DeliveryID{{ID: a, Seq: 2}}}
			w.changes(1, w.store.Hold, f)
			w.changes(1, w.store.Release, f)
			w.changes(3, w.store.Cancel, store.Filter{IDs: []outbox.ID{b}, Deliveries: f.Deliveries})
			want(w, "states", w.states(a), []outbox.State{outbox.StateQueued, outbox.StateCancelled})
			w.changes(1, w.store.Purge, f)
			want(w, "left", w.number("SELECT count(*) FROM outbox_deliveries"), 3)
		}},
		{"tally", "A tally says by route and state what an operation would change, within its limit.", func(w *world) {
			w.many(3, on("a"))
			for _, id := range w.many(2, on("b")) {
				w.finish(id, outbox.StateHeld)
			}
			for limit, sum := range map[int][]store.Count{
				0: {{Route: "a", State: outbox.StateQueued, Deliveries: 3}, {Route: "b", State: outbox.StateHeld, Deliveries: 2}},
				2: {{Route: "a", State: outbox.StateQueued, Deliveries: 2}},
			} {
				counts, err := w.store.Tally(w.Context(), store.OpCancel, store.Filter{Limit: limit})
				w.must(err)
				want(w, "tally", counts, sum)
			}
		}},
		{"requeue-scrubbed", "A message without its body is not requeued.", func(w *world) {
			id := w.enqueue(mail())
			w.finish(id, outbox.StateFailed)
			w.exec("UPDATE outbox_messages SET body = NULL")
			w.changes(0, w.store.Requeue, store.Filter{})
		}},
		{"release-keeps-time", "A released delivery goes on when it is due, not before.", func(w *world) {
			id := w.enqueue(mail(later))
			w.changes(1, w.store.Hold, store.Filter{})
			w.changes(1, w.store.Release, store.Filter{})
			want(w, "shown", w.shown(id), "scheduled")
		}},
		{"resolve-unknown", "A resolution that is neither sent nor resend is refused.", func(w *world) {
			_, err := w.store.Resolve(w.Context(), store.Filter{}, "maybe")
			w.refused(err, "maybe")
		}},
		{"preview-unknown", "A preview of what is no operation is refused.", func(w *world) {
			_, _, err := w.store.DryRun(w.Context(), "destroy", store.Filter{}, 1)
			w.refused(err, "destroy")
		}},
		{"leased-are-safe", "No operation touches what a dispatcher holds.", func(w *world) {
			w.leased()
			w.unchanged(func() {
				for _, o := range operations() {
					n, err := o.run(w.store, w.Context(), store.Filter{States: outbox.States()})
					w.must(err)
					want(w, "changed by "+o.name, n, 0)
				}
			})
		}},
		{"filter-narrows", "An operation changes what its filter selects and nothing else.", func(w *world) {
			a, b := w.enqueue(mail(on("a"), to("x@one.example", "y@two.example"))), w.enqueue(mail(on("b"), to("x@one.example")))
			w.changes(1, w.store.Cancel, store.Filter{Routes: []string{"a"}, To: "@one.example"})
			want(w, "states", w.states(a), []outbox.State{outbox.StateCancelled, outbox.StateQueued})
			want(w, "states of another", w.states(b), []outbox.State{outbox.StateQueued})
		}},
		{"audit", "An operation that changes something is noted once: who, what, by which filter, how many.", func(w *world) {
			w.many(3)
			w.many(2, on("b"))
			w.store = w.newStore(store.Actor("it's ann"))
			w.changes(2, w.store.Hold, store.Filter{Routes: []string{"b"}})
			want(w, "actions", w.number("SELECT count(*) FROM outbox_actions"), 1)
			want(w, "actor", w.nullable("SELECT actor FROM outbox_actions").String, "it's ann")
			want(w, "verb", w.nullable("SELECT verb FROM outbox_actions").String, "hold")
			want(w, "affected", w.number("SELECT affected FROM outbox_actions"), 2)
			want(w, "filter", w.number(`SELECT count(*) FROM outbox_actions WHERE replace(CAST(filter AS text), ' ', '') = '{"routes":["b"]}'`), 1)
		}},
		{"changes", "Each delivery keeps who changed it, how and why; the audit has the same, the newest first.", func(w *world) {
			w.store = w.newStore(store.Actor("ann"))
			id := w.enqueue(mail(to("a@x.example", "b@x.example")))
			ctx := store.WithReason(w.Context(), "wrong address")
			_, err := w.store.Hold(w.Context(), store.Filter{})
			w.must(err)
			_, err = w.store.Cancel(ctx, store.Filter{Deliveries: []store.DeliveryID{{ID: id, Seq: 1}}})
			w.must(err)
			m, err := w.store.Get(w.Context(), id)
			w.must(err)
			var told []string
			for _, c := range m.Changes {
				w.near("time of a change", c.At, w.now())
				told = append(told, fmt.Sprint(c.Seq, " ", c.Verb, " ", c.Actor, " ", c.Reason))
			}
			slices.Sort(told)
			want(w, "changes", told, []string{"1 cancel ann wrong address", "1 hold ann ", "2 hold ann "})
			want(w, "attempts", len(m.Attempts), 0)
			actions, err := w.store.Actions(w.Context(), 5)
			w.must(err)
			want(w, "actions", len(actions), 2)
			want(w, "newest", actions[0].Verb+" "+actions[0].Actor+" "+actions[0].Reason, "cancel ann wrong address")
			want(w, "changed", actions[1].Changed, 2)
			actions, err = w.store.Actions(w.Context(), 1)
			w.must(err)
			want(w, "actions with a limit", len(actions), 1)
		}},
		{"no-audit", "An operation that changes nothing is not noted.", func(w *world) {
			w.changes(0, w.store.Hold, store.Filter{})
			want(w, "actions", w.number("SELECT count(*) FROM outbox_actions"), 0)
		}},
	}...)
}

// changes wants an operation to change n deliveries.
func (w *world) changes(n int64, run func(context.Context, store.Filter, ...store.BulkOption) (int64, error), f store.Filter) {
	w.Helper()
	got, err := run(w.Context(), f)
	w.must(err)
	want(w, "changed", got, n)
}

// everyState returns one message in each state.
func everyState(w *world) map[outbox.State]outbox.ID {
	ids := make(map[outbox.State]outbox.ID)
	for _, state := range outbox.States()[1:] {
		ids[state] = w.enqueue(mail())
		w.finish(ids[state], state)
	}
	ids[outbox.StateQueued] = w.enqueue(mail())
	return ids
}

func operationGuard(w *world, o operation) {
	ids := everyState(w)
	n, err := o.run(w.store, w.Context(), store.Filter{})
	w.must(err)
	want(w, "changed", n, int64(len(o.from)))
	expected := make(map[outbox.State]outbox.State)
	for state := range ids {
		expected[state] = state
	}
	for _, state := range o.from {
		expected[state] = o.to
	}
	for state, id := range ids {
		if expected[state] == "" {
			want(w, "rows left of a message that was "+string(state), w.number("SELECT count(*) FROM outbox_messages WHERE id = $1", string(id)), 0)
			continue
		}
		d := w.one(id)
		want(w, "state of one that was "+string(state), d.State, expected[state])
		want(w, "has an end", !d.FinishedAt.IsZero(), d.State.Terminal())
	}
}

func operationPreview(w *world, o operation) {
	everyState(w)
	everyState(w)
	for _, f := range []store.Filter{{}, {Limit: 1}, {States: o.from[:1]}, {Routes: []string{"none"}}} {
		var (
			n       int64
			samples []store.Delivery
			err     error
		)
		w.unchanged(func() { n, samples, err = w.store.DryRun(w.Context(), o.op, f, 3) })
		w.must(err)
		want(w, "samples", len(samples), int(min(n, 3)))
		changed, err := o.run(w.store, w.Context(), f)
		w.must(err)
		want(w, fmt.Sprintf("changed by %s with %+v, as previewed", o.name, f), changed, n)
		for _, d := range samples {
			switch left, err := w.store.Get(w.Context(), d.ID); {
			case err != nil && o.to != "":
				w.violatedf("sample %s: %v", d.ID, err)
			case err == nil && left.Deliveries[0].State != o.to:
				w.violatedf("sample %s is %s, want %s", d.ID, left.Deliveries[0].State, o.to)
			}
		}
	}
}
