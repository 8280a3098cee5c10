package storetest

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// unfenced promises no fences.
func unfenced(r *queue.ClaimRequest) { r.Fenced = false }

// forRelay claims for a relay.
func forRelay(name string) func(*queue.ClaimRequest) {
	return func(r *queue.ClaimRequest) { r.Relay = name }
}

// claimsRules are about the rows of claims and fences: what they say of a doubt, and when they go.
func claimsRules() []rule {
	return []rule{
		{"one-row", "A claim is one row, whatever it holds.", func(w *world) {
			w.many(20, to("a@example.org", "b@example.org"))
			w.claim(forRelay("primary"))
			want(w, "claims", w.claims(), 1)
			want(w, "row", w.rows("SELECT owner, relay, fenced, lapsed FROM outbox_claims"), "d1|primary|"+w.bool(true)+"|"+w.bool(false)+"|\n")
		}},
		{"nothing-due", "A claim that leases nothing leaves no row.", func(w *world) {
			w.enqueue(mail(later))
			w.enqueue(mail(to("barred@example.org")))
			_, err := w.store.Suppress(w.Context(), store.Suppression{Address: "barred@example.org", Reason: "test"})
			w.must(err)
			want(w, "claimed", len(w.claim()), 0)
			want(w, "claims", w.claims(), 0)
		}},
		{"ends", "A claim goes with its last delivery, and takes its fences along.", func(w *world) {
			w.many(3)
			claimed := w.claim()
			for i, c := range claimed {
				w.fence(refs(c)...)
				want(w, "claims", w.claims(), 1)
				want(w, "fences", w.fences(), i+1)
				w.settle(c, queue.Sent)
			}
			want(w, "claims at the end", w.claims(), 0)
			want(w, "fences at the end", w.fences(), 0)
		}},
		{"handed-back", "What a holder hands back leaves the claim, which holds the rest on.", func(w *world) {
			w.many(3)
			claimed := w.claim()
			w.settle(claimed[0], queue.Recycled)
			w.settle(claimed[2], queue.Deferred, inAnHour)
			want(w, "claims", w.claims(), 1)
			want(w, "lost", w.renew(time.Hour, claimed[1].Token), nil)
			want(w, "lost", w.fence(refs(claimed[1])...), nil)
			w.lapse(claimed[1].ID)
			want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
			want(w, "claims at the end", w.claims(), 0)
		}},
		{"reaped", "A claim that was taken back goes, with its fences.", func(w *world) {
			w.many(4)
			claimed := w.claim()
			w.fence(refs(claimed[1])...)
			w.lapse(claimed[0].ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 3, Uncertain: 1})
			want(w, "claims and fences", w.claims()+w.fences(), 0)
		}},
		{"emptied-by-hand", "A claim whose deliveries somebody removed goes when its lease has lapsed.", func(w *world) {
			c := w.leased()
			w.fence(refs(c)...)
			w.exec("DELETE FROM outbox_deliveries")
			w.unchanged(func() { want(w, "report before", w.reap(), queue.ReapReport{}) })
			want(w, "claims before", w.claims(), 1)
			w.exec("UPDATE outbox_claims SET lease_until = $1", longAgo)
			want(w, "report", w.reap(), queue.ReapReport{})
			want(w, "claims and fences", w.claims()+w.fences(), 0)
		}},
		{"removed-by-hand", "If somebody removes a claim, nothing is known of its deliveries: they are in doubt, with no relay.", func(w *world) {
			resend, hold := w.enqueue(mail()), w.enqueue(mail(holding))
			claimed := w.claim(forRelay("primary"))
			w.exec("DELETE FROM outbox_claims")
			for _, c := range claimed {
				want(w, "lost by fencing", w.fence(refs(c)...), refs(c))
			}
			want(w, "lost by renewing", w.renew(time.Hour, claimed[0].Token), []string{claimed[0].Token})
			want(w, "report", w.reap(), queue.ReapReport{Uncertain: 2})
			for _, id := range []outbox.ID{resend, hold} {
				d := w.one(id)
				want(w, "doubt", [3]any{d.State, d.Class, d.Relay}, [3]any{outbox.StateUncertain, "ambiguous", ""})
			}
			want(w, "report after the delay", w.reapDoubt(), queue.ReapReport{Resent: 1})
		}},
		{"removed-and-known", "The holder of a claim that somebody removed still says what it knows.", func(w *world) {
			c := w.leased()
			w.exec("DELETE FROM outbox_claims")
			w.reap()
			w.settle(c, queue.Sent)
			want(w, "state", w.one(c.ID).State, outbox.StateSent)
		}},
		{"odd-fences", "A fence that somebody typed and that names nothing harms nobody.", func(w *world) {
			c := w.leased()
			for _, refs := range []string{`[]`, `[1, "x", null, {"id": 7}, {"seq": "x"}]`, `[{"id": "x", "seq": 1.5}]`} {
				w.exec("INSERT INTO outbox_fences (token, relay, refs) VALUES ($1, 'x', $2)", c.Token, refs)
			}
			w.lapse(c.ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1})
		}},
		{"unfenced", "Without the promise of fences what lapses is in doubt with the relay that it was claimed for. Its attempt counts.",
			func(w *world) {
				c := w.leased()
				w.settle(c, queue.Deferred, evidence(queue.Evidence{Relay: "other", Class: "transient"}))
				w.claimOne(unfenced, forRelay("backup"))
				w.lapse(c.ID)
				want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
				d := w.one(c.ID)
				want(w, "doubt", [3]any{d.Class, d.Relay, d.Attempts}, [3]any{"ambiguous", "backup", 2})
				want(w, "report after the delay", w.reapDoubt(), queue.ReapReport{Resent: 1})
				again := w.claimOne()
				want(w, "class and relay", [2]string{again.Deliveries[0].Class, again.Deliveries[0].Relay}, [2]string{"ambiguous", "backup"})
			}},
		{"unfenced-hold", "Without that promise a message with Hold is fenced all the same: without a fence it was not sent.", func(w *world) {
			waiting, sent := w.enqueue(mail(holding)), w.enqueue(mail(holding))
			for _, c := range w.claim(unfenced, forRelay("backup")) {
				if c.ID == sent {
					w.fence(refs(c)...)
				}
			}
			w.lapse(waiting)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1, Uncertain: 1})
			want(w, "state of the one", w.one(waiting).State, outbox.StateQueued)
			want(w, "relay of the other", w.one(sent).Relay, "primary")
		}},
		{"unfenced-late", "What is in doubt without a fence is settled by a late answer as any other doubt.", func(w *world) {
			w.enqueue(mail())
			c := w.claimOne(unfenced)
			w.lapse(c.ID)
			w.reap()
			w.settle(c, queue.Sent)
			want(w, "state", w.one(c.ID).State, outbox.StateSent)
		}},
	}
}

// meetingRules are about claims that several callers want at once.
func meetingRules() []rule {
	return []rule{
		{"against-the-reaper", "A delivery is either fenced or handed to the next claim, however a fence and the reaper meet.", func(w *world) {
			for range 20 {
				w.many(3)
				claimed := w.claim(func(r *queue.ClaimRequest) { r.Lease = 10 * time.Millisecond })
				var (
					wg     sync.WaitGroup
					lost   = make([][]queue.Ref, len(claimed))
					errs   = make([]error, len(claimed))
					report queue.ReapReport
				)
				for i, c := range claimed {
					wg.Go(func() {
						lost[i], errs[i] = w.store.Fence(w.Context(), []queue.FencedRef{{Ref: c.Ref(0), Relay: "primary"}})
					})
				}
				wg.Go(func() {
					for report.Requeued+report.Uncertain < 3 {
						r := w.reap()
						report.Requeued, report.Uncertain = report.Requeued+r.Requeued, report.Uncertain+r.Uncertain
					}
				})
				wg.Wait()
				for i, c := range claimed {
					state := w.one(c.ID).State
					if errs[i] == nil && len(lost[i]) == 0 && state != outbox.StateUncertain {
						w.violatedf("a fenced delivery is %s after its claim was taken back", state)
					}
				}
				w.exec("DELETE FROM outbox_messages")
				want(w, "claims and fences", w.claims()+w.fences(), 0)
			}
		}},
	}
}

// lockedRules are about rows that another transaction has locked. SQLite locks the whole file.
func lockedRules() []rule {
	return []rule{
		{"locked-delivery", "A delivery that another transaction has locked delays no fence and no renewal of its claim. The reaper takes back " +
			"the others, and from then on the claim is lost for its holder.", func(w *world) {
			if w.dialect == schema.SQLite { // which locks the whole file
				return
			}
			w.many(3)
			claimed := w.claim()
			free := w.locked("outbox_deliveries WHERE message_id = $1", string(claimed[1].ID))
			want(w, "lost by fencing", w.fence(claimed[1].Ref(0), claimed[2].Ref(0)), nil)
			want(w, "lost by renewing", w.renew(time.Hour, claimed[1].Token), nil)
			w.lapse(claimed[0].ID)
			want(w, "report", w.reap(), queue.ReapReport{Requeued: 1, Uncertain: 1})
			want(w, "claims", w.claims(), 1)
			want(w, "lost by fencing", w.fence(claimed[0].Ref(0)), refs(claimed[0]))
			want(w, "lost by renewing", w.renew(time.Hour, claimed[1].Token), []string{claimed[1].Token})
			free()
			want(w, "report afterwards", w.reap(), queue.ReapReport{Uncertain: 1})
			want(w, "claims and fences", w.claims()+w.fences(), 0)
		}},
		{"locked-claim", "A claim that another transaction has locked is busy, neither fenced nor lost, and harms no other.", func(w *world) {
			if w.dialect == schema.SQLite {
				return
			}
			claimed := w.each(3)
			gone := queue.Ref{ID: claimed[0].ID, Seq: 1, Token: uuid.NewString()}
			free := w.locked("outbox_claims WHERE token = $1", claimed[1].Token)
			lost, err := w.store.Fence(w.Context(), []queue.FencedRef{
				{Ref: claimed[0].Ref(0)}, {Ref: claimed[1].Ref(0)}, {Ref: claimed[2].Ref(0)}, {Ref: gone},
			})
			want(w, "lost", lost, []queue.Ref{gone})
			busy, ok := errors.AsType[*queue.BusyError](err)
			if !ok || !slices.Equal(busy.Refs, refs(claimed[1])) {
				w.violatedf("the error of the fence is %v", err)
			}
			want(w, "marked", w.marked(), 2)
			away, err := w.store.Renew(w.Context(), []string{claimed[0].Token, claimed[1].Token, gone.Token}, time.Hour)
			want(w, "lost by renewing", away, []string{gone.Token})
			busy, ok = errors.AsType[*queue.BusyError](err)
			if !ok || !slices.Equal(busy.Tokens, []string{claimed[1].Token}) {
				w.violatedf("the error of the renewal is %v", err)
			}
			w.settle(claimed[0], queue.Sent)
			w.settle(claimed[1], queue.Sent)
			want(w, "claims", w.claims(), 2) // the locked one is removed when its lease has lapsed
			free()
			w.exec("UPDATE outbox_claims SET lease_until = $1", longAgo)
			want(w, "report", w.reap(), queue.ReapReport{Uncertain: 1})
			want(w, "claims afterwards", w.claims(), 0)
		}},
		{"locked-outcome", "A delivery that another transaction has locked is busy for its outcome, neither recorded nor lost. The others are " +
			"recorded, and it is as soon as it is free.", func(w *world) {
			if w.dialect == schema.SQLite {
				return
			}
			w.many(6)
			claimed := w.claim()
			outcomes := []queue.Settlement{
				{Outcome: queue.Sent, Evidence: queue.Evidence{Relay: "primary", Code: 250}},
				{Outcome: queue.Sent, Evidence: queue.Evidence{Relay: "primary", Code: 250}},
				{Outcome: queue.Deferred, Delay: time.Hour, Evidence: refusal()}, {Outcome: queue.Failed, Evidence: refusal()}, {Outcome: queue.Sent},
			}
			for i := range outcomes {
				outcomes[i].Ref = claimed[i].Ref(0)
			}
			gone := queue.Settlement{Ref: claimed[5].Ref(0), Outcome: queue.Sent, Evidence: refusal()}
			gone.Ref.Token = uuid.NewString()
			free := w.locked("outbox_deliveries WHERE message_id IN ($1, $2)", string(claimed[0].ID), string(claimed[3].ID))
			lost, err := w.store.Settle(w.Context(), "d1", append(outcomes, gone))
			want(w, "lost", lost, []queue.Ref{gone.Ref})
			busy, ok := errors.AsType[*queue.BusyError](err)
			if !ok || !slices.Equal(busy.Refs, []queue.Ref{claimed[0].Ref(0), claimed[3].Ref(0)}) {
				w.violatedf("the error is %v", err)
			}
			var states []outbox.State
			for _, c := range claimed {
				states = append(states, w.one(c.ID).State)
			}
			want(w, "states", states, []outbox.State{
				outbox.StateSending, outbox.StateSent, outbox.StateQueued, outbox.StateSending, outbox.StateSent, outbox.StateSending,
			})
			free()
			lost, err = w.store.Settle(w.Context(), "d1", []queue.Settlement{outcomes[0], outcomes[3]})
			w.must(err)
			want(w, "lost afterwards", lost, nil)
			want(w, "states afterwards", []outbox.State{w.one(claimed[0].ID).State, w.one(claimed[3].ID).State},
				[]outbox.State{outbox.StateSent, outbox.StateFailed})
		}},
		{"odd-words", "What a relay said is stored as it was, quotes, backslashes, braces and line ends included.", func(w *world) {
			for _, reply := range []string{`250 "a\b" {NULL,""} '`, "250-a\n250 \tb", "NULL", "{}", "ü\u2028\U0001F4EE", `\`, `"`} {
				c := w.leased()
				e := queue.Evidence{Relay: reply, Stage: "dot", Code: 250, Enhanced: reply, Reply: reply, ProviderID: reply, Class: reply}
				w.settle(c, queue.Sent, evidence(e))
				d := w.one(c.ID)
				want(w, "stored", [6]any{d.Relay, d.Class, d.Code, d.Enhanced, d.Reply, d.ProviderID},
					[6]any{reply, reply, 250, reply, reply, reply})
			}
		}},
	}
}

// locked locks rows in a transaction of its own until the returned function is called.
func (w *world) locked(rows string, args ...any) (free func()) {
	w.Helper()
	tx, err := w.db.BeginTxx(w.Context(), nil)
	w.must(err)
	var n int
	w.must(tx.GetContext(w.Context(), &n, w.in("SELECT count(*) FROM (SELECT 1 FROM "+rows+" FOR UPDATE) AS x"), args...))
	if n == 0 {
		w.Fatal("nothing was locked")
	}
	return func() { w.must(tx.Rollback()) }
}

// bool is a truth value as rows shows it.
func (w *world) bool(v bool) string {
	switch {
	case w.dialect == schema.Postgres && v:
		return "true"
	case w.dialect == schema.Postgres:
		return "false"
	case v:
		return "1"
	default:
		return "0"
	}
}
