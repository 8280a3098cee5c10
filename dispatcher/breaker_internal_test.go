package dispatcher

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/outboxmail/outbox/smtpx"
)

// A breaker opens only for the reasons that it names, stays open for the time that it tells, and leads back through a trial.
// This holds for any order of events.
func TestBreakerStateMachine(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		b := newBreaker(now)
		inARow := 0 // failures since the last message that got through, as a bystander counts them
		doubts := 0 // in a row
		var opened, until, worked time.Time
		senders := []string{"a@example.com", "b@example.com"}
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			before, _, _ := b.status(now)
			switch rapid.IntRange(0, 3).Draw(rt, "step") {
			case 0:
				now = now.Add(time.Duration(rapid.IntRange(1, 400).Draw(rt, "seconds")) * time.Second)
				if after, _, _ := b.status(now); after != before && (before != RelayDegraded || after != RelayHealthy && after != RelayUnused) {
					rt.Fatalf("time alone led from %s to %s", before, after)
				}
			case 1:
				if may := b.lookAgain(now); may != ((before == RelayOffline || before == RelayPaused) && !now.Before(until)) {
					rt.Fatalf("may be looked at again: %v, while %s until %v, now %v", may, before, until, now)
				} else if may {
					b.try(now)
					if after, _, _ := b.status(now); after != RelayTrial {
						rt.Fatalf("a try led to %s", after)
					}
				}
			default:
				v := verdict{
					class: rapid.SampledFrom([]smtpx.Class{
						"", "", smtpx.ClassUnreachable, smtpx.ClassUnreachable, smtpx.ClassThrottled, smtpx.ClassAmbiguous,
						smtpx.ClassRecycle, smtpx.ClassConfig, smtpx.ClassQuota,
					}).Draw(rt, "class"),
					scope:  rapid.SampledFrom([]smtpx.Scope{smtpx.ScopeSender, smtpx.ScopeLogin, smtpx.ScopeRelay}).Draw(rt, "scope"),
					sender: rapid.SampledFrom(senders).Draw(rt, "sender"), words: "words",
				}
				inUse := before == RelayHealthy || before == RelayDegraded || before == RelayUnused
				odd := v.class == smtpx.ClassConfig && v.scope != smtpx.ScopeSender && inUse && now.Sub(worked) < worksFor
				stops := v.class == smtpx.ClassQuota || v.class == smtpx.ClassConfig && v.scope != smtpx.ScopeSender && !odd
				counts := v.class == smtpx.ClassUnreachable || v.class == smtpx.ClassConfig && !stops
				switch {
				case v.class == "":
					inARow, doubts, worked = 0, 0, now
				case v.class == smtpx.ClassAmbiguous:
					doubts++
				case counts:
					inARow++
				}
				doubted := v.class == smtpx.ClassAmbiguous && (doubts >= tripAfter || before == RelayTrial)
				b.note(now, v)
				after, since, _ := b.status(now)
				down := after == RelayOffline || after == RelayPaused
				wasDown := before == RelayOffline || before == RelayPaused
				switch {
				case down && !wasDown:
					if !stops && !doubted && (!counts || inARow < tripAfter && before != RelayTrial) {
						rt.Fatalf("%s at scope %s took the relay out after %d failures in a row", v.class, v.scope, inARow)
					}
					opened, until = now, now.Add(b.wait(now))
					if wait := until.Sub(opened); wait < outageWait || wait > longestQuota*6/5 || since != now {
						rt.Fatalf("it is out for %v since %v, now %v", wait, since, now)
					}
				case !down && wasDown:
					rt.Fatalf("%q led from %s to %s without a trial", v.class, before, after)
				case down: // what comes late may begin the next wait, and never shortens this one
					if next := now.Add(b.wait(now)); next.Before(until) {
						rt.Fatalf("the end came nearer, from %v to %v", until, next)
					} else {
						until = next
					}
				case !down && (stops || doubted):
					rt.Fatalf("%s at scope %s left the relay %s", v.class, v.scope, after)
				case before == RelayTrial && v.class == "" && after != RelayHealthy && after != RelayDegraded:
					rt.Fatalf("a message that got through led from the trial to %s", after)
				}
			}
		}
	})
}

// The waits double up to their bound. They begin anew after a message got through.
func TestBreakerWaits(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := newBreaker(now)
	down := verdict{class: smtpx.ClassUnreachable, stage: smtpx.StageDial, scope: smtpx.ScopeRelay}
	for range tripAfter {
		b.note(now, down)
	}
	for want := outageWait; ; want = min(2*want, longestOutage) {
		if wait := b.wait(now); wait < want || wait > want*6/5 {
			t.Fatalf("it is out for %v, want %v or a little more", wait, want)
		}
		if want == longestOutage {
			break
		}
		now = now.Add(b.wait(now))
		b.try(now)
		b.note(now, down)
	}
	now = now.Add(b.wait(now))
	b.try(now)
	b.note(now, verdict{})
	for range tripAfter {
		b.note(now, down)
	}
	if wait := b.wait(now); wait > outageWait*6/5 {
		t.Errorf("after it was back, the first wait is %v", wait)
	}
	b.note(now, verdict{class: smtpx.ClassQuota, reset: 24 * time.Hour})
	if state, _, _ := b.status(now); state != RelayOffline {
		t.Errorf("what came late changed the state to %s", state)
	}
}

// A pace that was halved is never faster than before, never stands still, and returns to full speed.
func TestPace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		full := rapid.IntRange(1, 64).Draw(rt, "concurrency")
		p := newPace(full, now)
		for range rapid.IntRange(1, 100).Draw(rt, "steps") {
			switch rapid.IntRange(0, 4).Draw(rt, "step") {
			case 0:
				p.throttled(now, 0)
			case 1:
				p.startSlowly()
			case 2:
				full = rapid.IntRange(1, 64).Draw(rt, "resize")
				p.resize(full)
			case 3:
				now = now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "ms")) * time.Millisecond)
			default:
				p.accepted(now)
			}
			if c := p.concurrency(); c < 1 || c > full {
				rt.Fatalf("concurrency %d of %d", c, full)
			}
			if r := p.limit; r < slowest {
				rt.Fatalf("%v messages a second", r)
			}
		}
		for range 100 * recovery {
			now = now.Add(adaptEvery)
			p.accepted(now)
		}
		if c := p.concurrency(); c != full {
			rt.Fatalf("concurrency %d of %d after a long time without throttling", c, full)
		}
	})
}
