package storetest

import (
	"strings"
	"time"
	"unicode/utf8"

	"github.com/outboxmail/outbox/queue"
)

// evidenceRules are about the evidence that is kept of an attempt.
func evidenceRules() []rule {
	return []rule{
		{"kept", "What the relay said is kept with the delivery.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, evidence(refusal()))
			d := w.one(c.ID)
			want(w, "relay and class", d.Relay+" "+d.Class, "primary transient")
			want(w, "code", d.Code, 451)
			want(w, "enhanced code", d.Enhanced, "4.7.1")
			want(w, "reply", d.Reply, "451 4.7.1 greylisted, try again")
			want(w, "provider's id", d.ProviderID, "p-17")
		}},
		{"replaced", "The evidence of an attempt replaces that of the one before, also where it says nothing.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, evidence(refusal()))
			w.settle(w.claimOne(), queue.Sent, evidence(queue.Evidence{Relay: "second", Reply: "250 ok"}))
			d := w.one(c.ID)
			want(w, "relay", d.Relay, "second")
			want(w, "reply", d.Reply, "250 ok")
			want(w, "code", d.Code, 0)
			want(w, "class, enhanced code and provider's id", d.Class+d.Enhanced+d.ProviderID, "")
		}},
		{"left-alone", "A settlement without evidence leaves that of the last attempt as it is.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, evidence(refusal()))
			w.settle(w.claimOne(), queue.Recycled)
			want(w, "reply", w.one(c.ID).Reply, refusal().Reply)
			want(w, "attempts noted", len(w.get(c.ID).Attempts), 1)
		}},
		{"provider-id", "The provider's id of a sent message is kept.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Sent, evidence(queue.Evidence{Relay: "primary", Code: 250, ProviderID: "0100-abc"}))
			want(w, "provider's id", w.one(c.ID).ProviderID, "0100-abc")
		}},
		{"attempt-noted", "An attempt that was not simply sent leaves a row with everything that is known of it.", func(w *world) {
			c := w.leased(to("a@example.org", "b@example.org"))
			second := queue.Settlement{Ref: c.Ref(1), Outcome: queue.Deferred, Evidence: refusal()}
			lost, err := w.store.Settle(w.Context(), "dispatcher 7", []queue.Settlement{second})
			w.must(err)
			want(w, "lost", lost, nil)
			attempts := w.get(c.ID).Attempts
			if len(attempts) != 1 {
				w.violatedf("%d attempts are noted, want 1", len(attempts))
				return
			}
			a := attempts[0]
			w.near("start", a.StartedAt, w.now())
			if !a.StartedAt.Before(w.now()) {
				w.violatedf("the attempt began at %v, after it ended", a.StartedAt)
			}
			a.StartedAt = time.Time{}
			want(w, "owner", a.Owner, "dispatcher 7")
			want(w, "place, number and verb", [3]any{a.Seq, a.Attempt, a.Verb}, [3]any{2, 1, queue.Deferred})
			want(w, "duration", a.Duration, 1500*time.Millisecond)
			want(w, "relay, stage and class", a.Relay+" "+a.Stage+" "+a.Class, "primary rcpt transient")
			want(w, "code", a.Code, 451)
			want(w, "enhanced code and reply", a.Enhanced+" "+a.Reply, "4.7.1 "+refusal().Reply)
		}},
		{"sent-not-noted", "A delivery that was sent leaves no such row: the delivery says it all.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Sent, evidence(refusal()))
			want(w, "attempts noted", len(w.get(c.ID).Attempts), 0)
		}},
		{"number-of-uncounted", "An attempt that is not counted is noted under the number that it had.", func(w *world) {
			c := w.leased()
			w.settle(c, queue.Deferred, evidence(refusal()))
			w.settle(w.claimOne(), queue.Deferred, uncounted, evidence(refusal()))
			w.settle(w.claimOne(), queue.Failed, evidence(refusal()))
			var numbers []int
			for _, a := range w.get(c.ID).Attempts {
				numbers = append(numbers, a.Attempt)
			}
			want(w, "numbers, the oldest first", numbers, []int{1, 2, 2})
		}},
		{"hostile-reply", "A reply is kept whatever it holds: quotes, backslashes, NUL and broken UTF-8.", hostileReply},
	}
}

func hostileReply(w *world) {
	for _, reply := range []string{
		`550 it's "quoted" \ 'twice' $1 %s; DROP TABLE outbox_messages; --`,
		"550 nul \x00 in the middle", "550 broken \xff\xfe UTF-8", "550 escaped \\u0000 and \\x00", "550 \u2028 \u202e 🎉 \x01\x1b[31m\x7f",
		strings.Repeat("550 long ", 500), "\x00", `{"json":["]"]}`, "\u0080\ufffe",
	} {
		c := w.leased()
		e := queue.Evidence{
			Relay: "r" + reply, Stage: "s" + reply, Class: "c" + reply, Enhanced: "e" + reply, Reply: reply, ProviderID: "p" + reply,
		}
		w.settle(c, queue.Failed, evidence(e))
		m := w.get(c.ID)
		kept := strings.ReplaceAll(strings.ToValidUTF8(reply, "\uFFFD"), "\x00", "\uFFFD")
		d := m.Deliveries[0]
		want(w, "reply", d.Reply, kept)
		want(w, "relay", d.Relay, "r"+kept)
		want(w, "class", d.Class, "c"+kept)
		want(w, "enhanced code", d.Enhanced, "e"+kept)
		if len(kept) < 400 {
			want(w, "provider's id", d.ProviderID, "p"+kept)
		} else if len(d.ProviderID) > 400 || !strings.HasPrefix(d.ProviderID, "p"+kept[:300]) { // it is indexed
			w.violatedf("the provider's id of %d bytes became %q", len(kept)+1, d.ProviderID)
		}
		if len(m.Attempts) != 1 || m.Attempts[0].Reply != kept || m.Attempts[0].Stage != "s"+kept {
			w.violatedf("the attempt is noted as %+v", m.Attempts)
		}
		if !utf8.ValidString(d.Reply) {
			w.violatedf("the reply %q is not valid UTF-8", d.Reply)
		}
	}
}
