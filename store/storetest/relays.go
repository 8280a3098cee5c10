package storetest

import (
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// relayRules are about the pause of a relay that dispatchers share.
func relayRules() []rule {
	through := func(relay string) func(*queue.ClaimRequest) {
		return func(r *queue.ClaimRequest) { r.Relay = relay }
	}
	fast := func(r *queue.ClaimRequest) { r.Rate = queue.Rate{PerSecond: 1000, Burst: 1000} }
	return []rule{
		{"paused", "Nothing is claimed for a relay that is paused, with a rate or without; others and claims for none go on.", func(w *world) {
			w.pauseRelay("it's primary", time.Hour, "quota")
			w.many(3)
			w.unchanged(func() {
				want(w, "claimed", len(w.claim(through("it's primary"))), 0)
				want(w, "claimed with a rate", len(w.claim(through("it's primary"), fast)), 0)
			})
			one := func(r *queue.ClaimRequest) { r.Limit = 1 }
			want(w, "claimed for another", len(w.claim(through("other"), one)), 1)
			want(w, "claimed for another with a rate", len(w.claim(through("other"), fast, one)), 1)
			want(w, "claimed for none", len(w.claim()), 1)
		}},
		{"writes-nothing", "A claim for a relay that is paused writes nothing.", func(w *world) {
			w.many(3)
			w.pauseRelay("primary", time.Hour, "quota")
			before := w.rows("SELECT name, tokens, refilled_at, paused_until, updated_at FROM outbox_relays")
			want(w, "claimed", len(w.claim(through("primary"), fast)), 0)
			want(w, "the relay", w.rows("SELECT name, tokens, refilled_at, paused_until, updated_at FROM outbox_relays"), before)
		}},
		{"ends", "A pause ends by itself, by the clock of the database, and the relay then has its whole allowance.", func(w *world) {
			w.many(30)
			w.pauseRelay("primary", time.Hour, "quota")
			w.exec("UPDATE outbox_relays SET paused_until = $1", longAgo)
			want(w, "states", w.relayStates(), []queue.RelayState{{Name: "primary"}})
			want(w, "claimed", len(w.claim(through("primary"), func(r *queue.ClaimRequest) {
				r.Rate = queue.Rate{PerSecond: 0.001, Burst: 12}
			})), 12)
		}},
		{"longer-wins", "Of two pauses the one that lasts longer stays, with its reason.", func(w *world) {
			w.pauseRelay("primary", time.Hour, "quota")
			w.pauseRelay("primary", time.Minute, "throttled")
			w.relayPaused(time.Hour, queue.RelayState{Name: "primary", Reason: "quota"})
			w.pauseRelay("primary", 2*time.Hour, "really")
			w.relayPaused(2*time.Hour, queue.RelayState{Name: "primary", Reason: "really"})
		}},
		{"after-a-pause", "A pause that is over gives way to any other.", func(w *world) {
			w.pauseRelay("primary", time.Hour, "quota")
			w.exec("UPDATE outbox_relays SET paused_until = $1", longAgo)
			w.pauseRelay("primary", time.Minute, "throttled")
			w.relayPaused(time.Minute, queue.RelayState{Name: "primary", Reason: "throttled"})
		}},
		{"keeps-allowance", "A pause takes nothing from the allowance and adds nothing to it.", func(w *world) {
			w.many(30)
			slow := func(r *queue.ClaimRequest) { r.Relay, r.Rate = "primary", queue.Rate{PerSecond: 0.001, Burst: 12} }
			want(w, "claimed", len(w.claim(slow, func(r *queue.ClaimRequest) { r.Limit = 5 })), 5)
			w.pauseRelay("primary", time.Hour, "quota")
			want(w, "claimed while paused", len(w.claim(slow)), 0)
			_, err := w.store.ResumeRelay(w.Context(), "primary")
			w.must(err)
			want(w, "claimed after it", len(w.claim(slow)), 7)
		}},
		{"resume", "Resuming ends any pause, says whether there was one, and is noted.", func(w *world) {
			resume := func(relay string) bool {
				was, err := w.store.ResumeRelay(w.Context(), relay)
				w.must(err)
				return was
			}
			w.enqueue(mail())
			w.pauseRelay("primary", time.Hour, "quota")
			want(w, "resumed another", resume("other"), false)
			want(w, "resumed", resume("primary"), true)
			want(w, "resumed again", resume("primary"), false)
			want(w, "states", w.relayStates(), []queue.RelayState{{Name: "primary"}})
			want(w, "claimed", len(w.claim(through("primary"))), 1)
			want(w, "audits", w.number("SELECT count(*) FROM outbox_actions"), 1)
			want(w, "verb", w.nullable("SELECT verb FROM outbox_actions").String, "resume-relay")
		}},
		{"by-whom", "A pause that an operator sets bears the operator's name and is noted; one that a dispatcher sets is not.",
			func(w *world) {
				w.pauseRelay("primary", time.Hour, "quota")
				want(w, "audits", w.number("SELECT count(*) FROM outbox_actions"), 0)
				ann := w.newStore(store.Actor("ann"))
				set, err := ann.PauseRelayByOperator(w.Context(), "primary", time.Minute, "shorter")
				w.must(err)
				want(w, "set a shorter one", set, false)
				want(w, "audits", w.number("SELECT count(*) FROM outbox_actions"), 0)
				set, err = ann.PauseRelayByOperator(w.Context(), "primary", 2*time.Hour, "it's \x00 broken")
				w.must(err)
				want(w, "set a longer one", set, true)
				w.relayPaused(2*time.Hour, queue.RelayState{Name: "primary", By: "ann", Reason: "it's \uFFFD broken"})
				want(w, "the audit", w.nullable("SELECT actor || ' ' || verb FROM outbox_actions").String, "ann pause-relay")
			}},
		{"under-way", "What is under way when its relay is paused goes on.", func(w *world) {
			w.enqueue(mail())
			c := w.claimOne(through("primary"))
			w.pauseRelay("primary", time.Hour, "quota")
			want(w, "lost by fencing", w.fence(refs(c)...), nil)
			w.settle(c, queue.Sent)
		}},
		{"bad-pauses", "A pause of no relay, for no time, or for more than databases can add to a date is refused.", func(w *world) {
			w.refused(w.store.PauseRelay(w.Context(), "", time.Hour, ""), "relay")
			for _, d := range []time.Duration{0, -time.Second, 200 * 365 * 24 * time.Hour} {
				w.refused(w.store.PauseRelay(w.Context(), "primary", d, ""), "time to pause")
				_, err := w.store.PauseRelayByOperator(w.Context(), "primary", d, "")
				w.refused(err, "time to pause")
			}
			want(w, "states", len(w.relayStates()), 0)
			w.pauseRelay("primary", 100*365*24*time.Hour, "") // the longest
			w.enqueue(mail())
			want(w, "claimed", len(w.claim(through("primary"))), 0)
		}},
	}
}

func (w *world) pauseRelay(name string, d time.Duration, reason string) {
	w.Helper()
	w.must(w.store.PauseRelay(w.Context(), name, d, reason))
}

func (w *world) relayStates() []queue.RelayState {
	w.Helper()
	list, err := w.store.RelayStates(w.Context())
	w.must(err)
	return list
}

// relayPaused wants exactly one relay, with a pause that began now and lasts about d.
func (w *world) relayPaused(d time.Duration, expected queue.RelayState) {
	w.Helper()
	list := w.relayStates()
	if len(list) != 1 {
		w.Fatalf("violated: %s\n%d relays are listed, want 1", w.says, len(list))
	}
	w.near("the end of the pause", w.now().Add(list[0].Paused), w.now().Add(d))
	w.near("its begin", list[0].Since, w.now())
	list[0].Paused, list[0].Since = 0, time.Time{}
	want(w, "the relay", list[0], expected)
}
