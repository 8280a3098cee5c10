package dispatcher

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
)

func TestBackoffSchedule(t *testing.T) {
	t.Parallel()
	exact := Backoff{Jitter: -1}
	quick := Backoff{Jitter: -1, Base: time.Second, Factor: 3, Max: 5 * time.Second}
	for _, test := range []struct {
		name    string
		backoff Backoff
		attempt Attempt
		want    time.Duration
		again   bool
	}{
		{"first refusal", exact, Attempt{Number: 1, Class: smtpx.ClassTransient}, 30 * time.Second, true},
		{"second", exact, Attempt{Number: 2, Class: smtpx.ClassTransient}, time.Minute, true},
		{"tenth reaches the cap", exact, Attempt{Number: 10, Class: smtpx.ClassTransient}, 4 * time.Hour, true},
		{"thousandth does not overflow", exact, Attempt{Number: 1000, Class: smtpx.ClassTransient}, 4 * time.Hour, true},
		{"urgent mail has a short cap", exact, Attempt{Number: 10, Class: smtpx.ClassTransient, Priority: outbox.High}, 15 * time.Minute, true},
		{"in doubt", exact, Attempt{Number: 1, Class: smtpx.ClassAmbiguous}, 30 * time.Second, true},
		{"an outage begins", exact, Attempt{Number: 7, Class: smtpx.ClassUnreachable}, 30 * time.Second, true},
		{"an outage lasts", exact, Attempt{Number: 1, Class: smtpx.ClassUnreachable, DeferredFor: 5 * time.Minute}, 5 * time.Minute, true},
		{"a long outage", exact, Attempt{Number: 1, Class: smtpx.ClassConfig, DeferredFor: 5 * time.Hour}, 15 * time.Minute, true},
		{"the last of three", Backoff{Jitter: -1, Attempts: 3}, Attempt{Number: 3, Class: smtpx.ClassTransient}, 0, false},
		{"an outage is not a refusal", Backoff{Jitter: -1, Attempts: 3}, Attempt{Number: 3, Class: smtpx.ClassThrottled}, 30 * time.Second, true},
		{"another base", quick, Attempt{Number: 2, Class: smtpx.ClassTransient}, 3 * time.Second, true},
		{"another cap", quick, Attempt{Number: 3, Class: smtpx.ClassTransient}, 5 * time.Second, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, again := test.backoff.Next(test.attempt)
			if got != test.want || again != test.again {
				t.Errorf("Next = %v, %t; want %v, %t", got, again, test.want, test.again)
			}
		})
	}
}

// The delay depends on the attempt alone, because it is asked for again after a crash. The jitter stays within its bounds and
// spreads evenly.
func TestBackoffIsAPureFunctionWithinItsJitter(t *testing.T) {
	t.Parallel()
	exact := Backoff{Jitter: -1}
	var low, high int
	rapid.Check(t, func(t *rapid.T) {
		a := Attempt{
			ID:     outbox.ID(rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`).Draw(t, "id")),
			Seq:    rapid.IntRange(1, 100).Draw(t, "seq"),
			Number: rapid.IntRange(1, 100).Draw(t, "number"),
			Class:  rapid.SampledFrom([]smtpx.Class{smtpx.ClassTransient, smtpx.ClassUnreachable}).Draw(t, "class"),
		}
		first, _ := Backoff{}.Next(a)
		second, _ := Backoff{}.Next(a)
		if first != second {
			t.Fatalf("the same attempt waits %v and then %v", first, second)
		}
		middle, _ := exact.Next(a)
		share := float64(first) / float64(middle)
		if share < 0.8 || share > 1.2 {
			t.Fatalf("%v is %.2f of %v", first, share, middle)
		}
		if share < 1 {
			low++
		} else {
			high++
		}
	})
	if low == 0 || high == 0 {
		t.Errorf("%d delays shortened and %d lengthened: the jitter does not spread", low, high)
	}
}

func TestOneLineMakesRepliesSafe(t *testing.T) {
	t.Parallel()
	long := make([]byte, 5000)
	for i := range long {
		long[i] = 'a'
	}
	for in, want := range map[string]string{
		"plain":                   "plain",
		"two\r\nlines\tand":       "two  lines and",
		"bell\a nul\x00 esc\x1b[": "bell nul esc[",
		"bad \xff utf":            "bad ? utf",
		"turned\u202e around":     "turned around",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
	if got := oneLine(string(long)); len(got) > maxReply {
		t.Errorf("%d bytes are kept of a long reply, more than %d", len(got), maxReply)
	}
}
