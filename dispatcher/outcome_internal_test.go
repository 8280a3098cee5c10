package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// idle is a queue and a sender that nothing here calls.
type idle struct {
	Queue
	Sender
}

// lanesOf returns a lane for each relay of an engine that does not run.
func lanesOf(t *testing.T, cfg Config, relays ...Relay) []*lane {
	t.Helper()
	for i := range relays {
		relays[i].Sender = idle{}
	}
	cfg.Queue, cfg.Relays, cfg.Logger = idle{}, relays, slog.New(slog.DiscardHandler)
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := newEngine(d, true)
	e.start(t.Context(), d.cfg.Relays)
	return e.lanes
}

// stops is a policy that gives every delivery up.
type stops struct{}

func (stops) Next(Attempt) (time.Duration, bool) { return time.Minute, false }

// The outcome of an attempt follows from its failure, from what is known of the delivery, and from the other relays.
func TestSettlement(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	failure := func(class smtpx.Class) *smtpx.Error {
		return &smtpx.Error{Stage: smtpx.StageRcpt, Class: class, Reply: smtpx.Reply{Code: 451, Lines: []string{"later"}}}
	}
	broken := func(class smtpx.Class) *smtpx.Error {
		return &smtpx.Error{Stage: smtpx.StageDot, Class: class, Err: fmt.Errorf("write: %w", context.Canceled)}
	}
	const first, minutes = 30 * time.Second, 15 * time.Minute
	doubt := queue.ClaimedDelivery{Attempt: 2, Class: string(smtpx.ClassAmbiguous), Relay: "b"}
	for name, tt := range map[string]struct {
		ctx       context.Context
		cfg       Config
		delivery  queue.ClaimedDelivery
		alone     bool // no other relay serves the route
		e         *smtpx.Error
		outcome   queue.Outcome
		uncounted bool
		delay     time.Duration
	}{
		"a refusal for now is waited out":        {e: failure(smtpx.ClassTransient), outcome: queue.Deferred, delay: first},
		"a second one for longer":                {e: failure(smtpx.ClassTransient), delivery: queue.ClaimedDelivery{Attempt: 2}, outcome: queue.Deferred, delay: 2 * first},
		"a refusal for good":                     {e: failure(smtpx.ClassMessage), outcome: queue.Failed},
		"of a recipient":                         {e: failure(smtpx.ClassRecipient), outcome: queue.Failed},
		"an outage is no reason to wait":         {e: failure(smtpx.ClassUnreachable), outcome: queue.Deferred, uncounted: true},
		"nor is a quota":                         {e: failure(smtpx.ClassQuota), outcome: queue.Deferred, uncounted: true},
		"nor a fault of the configuration":       {e: failure(smtpx.ClassConfig), outcome: queue.Deferred, uncounted: true},
		"but throttling is":                      {e: failure(smtpx.ClassThrottled), outcome: queue.Deferred, uncounted: true, delay: first},
		"an outage where no other relay is":      {e: failure(smtpx.ClassUnreachable), alone: true, outcome: queue.Deferred, uncounted: true, delay: first},
		"an outage that lasts":                   {e: failure(smtpx.ClassUnreachable), alone: true, delivery: queue.ClaimedDelivery{DeferredFor: 5 * time.Minute}, outcome: queue.Deferred, uncounted: true, delay: 5 * time.Minute},
		"that lasts long":                        {e: failure(smtpx.ClassUnreachable), alone: true, delivery: queue.ClaimedDelivery{DeferredFor: time.Hour}, outcome: queue.Deferred, uncounted: true, delay: minutes},
		"passed on before":                       {e: failure(smtpx.ClassUnreachable), delivery: queue.ClaimedDelivery{Class: "quota", Relay: "b"}, outcome: queue.Deferred, uncounted: true, delay: first},
		"refused elsewhere before":               {e: failure(smtpx.ClassUnreachable), delivery: queue.ClaimedDelivery{Class: "transient", Relay: "b"}, outcome: queue.Deferred, uncounted: true},
		"lapsed before, at no relay":             {e: failure(smtpx.ClassUnreachable), delivery: queue.ClaimedDelivery{Class: "unreachable"}, outcome: queue.Deferred, uncounted: true},
		"a doubt elsewhere":                      {e: failure(smtpx.ClassUnreachable), delivery: doubt, outcome: queue.Deferred, uncounted: true, delay: first},
		"a body that cannot be read":             {e: &smtpx.Error{Class: smtpx.ClassUnreachable, Err: errors.New("read")}, outcome: queue.Deferred, uncounted: true, delay: first},
		"a session that is used up":              {e: failure(smtpx.ClassRecycle), outcome: queue.Recycled},
		"used up again":                          {e: failure(smtpx.ClassRecycle), delivery: queue.ClaimedDelivery{Class: "recycle"}, outcome: queue.Deferred, uncounted: true, delay: first},
		"used up, in doubt":                      {e: failure(smtpx.ClassRecycle), delivery: doubt, outcome: queue.Deferred, uncounted: true, delay: first},
		"doubt":                                  {e: failure(smtpx.ClassAmbiguous), outcome: queue.Uncertain, delay: first},
		"doubt that the policy gives up":         {e: failure(smtpx.ClassAmbiguous), cfg: Config{Retry: stops{}}, outcome: queue.Uncertain, delay: never},
		"a refusal that the policy gives up":     {e: failure(smtpx.ClassTransient), cfg: Config{Retry: stops{}}, outcome: queue.Failed},
		"an outage that the policy gives up":     {e: failure(smtpx.ClassUnreachable), cfg: Config{Retry: stops{}}, outcome: queue.Failed},
		"a configuration that no policy ends":    {e: failure(smtpx.ClassConfig), cfg: Config{Retry: stops{}}, alone: true, outcome: queue.Deferred, uncounted: true, delay: time.Minute},
		"too old":                                {e: failure(smtpx.ClassTransient), cfg: Config{MaxAge: 59 * time.Second}, delivery: queue.ClaimedDelivery{Attempt: 2}, outcome: queue.Failed},
		"not too old":                            {e: failure(smtpx.ClassTransient), cfg: Config{MaxAge: 61 * time.Second}, delivery: queue.ClaimedDelivery{Attempt: 2}, outcome: queue.Deferred, delay: 2 * first},
		"never refused before":                   {e: failure(smtpx.ClassTransient), cfg: Config{MaxAge: time.Minute}, delivery: queue.ClaimedDelivery{Attempt: 1, DeferredFor: 31 * time.Second}, outcome: queue.Failed},
		"away for too long":                      {e: failure(smtpx.ClassUnreachable), cfg: Config{MaxOutage: 8 * time.Minute}, alone: true, delivery: queue.ClaimedDelivery{DeferredFor: 5 * time.Minute}, outcome: queue.Failed},
		"MaxAge bounds no outage":                {e: failure(smtpx.ClassUnreachable), cfg: Config{MaxAge: time.Minute}, alone: true, delivery: queue.ClaimedDelivery{DeferredFor: 5 * time.Minute}, outcome: queue.Deferred, uncounted: true, delay: 5 * time.Minute},
		"MaxOutage bounds no refusal":            {e: failure(smtpx.ClassTransient), cfg: Config{MaxOutage: time.Second}, outcome: queue.Deferred, delay: first},
		"nothing bounds a fault of the settings": {e: failure(smtpx.ClassConfig), cfg: Config{MaxOutage: time.Second, MaxAge: time.Second}, alone: true, outcome: queue.Deferred, uncounted: true, delay: first},
		"broken off by the stop":                 {ctx: stopped, e: broken(smtpx.ClassTransient), outcome: queue.Recycled},
		"doubt at the stop":                      {ctx: stopped, e: broken(smtpx.ClassAmbiguous), outcome: queue.Uncertain, delay: first},
		"refused at the stop":                    {ctx: stopped, e: failure(smtpx.ClassTransient), outcome: queue.Deferred, delay: first},
		"broken off for another reason":          {e: broken(smtpx.ClassTransient), outcome: queue.Deferred, delay: first},
		"the fence was not recorded":             {e: &smtpx.Error{Stage: smtpx.StageData, Class: smtpx.ClassTransient, Err: errFence}, outcome: queue.Deferred, uncounted: true, delay: fenceRetry},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Retry = cmp.Or(tt.cfg.Retry, RetryPolicy(Backoff{Jitter: -1}))
			lanes := lanesOf(t, tt.cfg, Relay{Name: "a"}, Relay{Name: "b", Routes: map[bool][]string{true: {"elsewhere"}}[tt.alone]})
			if tt.ctx == nil {
				tt.ctx = t.Context()
			}
			tt.delivery.Attempt = max(tt.delivery.Attempt, 1)
			j := &job{claimedAt: time.Now(), claimed: queue.Claimed{Route: "default", Deliveries: []queue.ClaimedDelivery{tt.delivery}}}
			s := lanes[0].courier.settlement(tt.ctx, j, 0, tt.e, time.Second)
			if s.Outcome != tt.outcome || s.Uncounted != tt.uncounted || s.Delay != tt.delay {
				t.Errorf("%s, uncounted %v, after %v; want %s, uncounted %v, after %v", s.Outcome, s.Uncounted, s.Delay, tt.outcome, tt.uncounted, tt.delay)
			}
			class, relay := string(tt.e.Class), "a"
			if tt.delivery == doubt { // nothing was sent: the older doubt is what counts
				class, relay = doubt.Class, doubt.Relay
			}
			if s.Outcome != queue.Recycled && (s.Evidence.Class != class || s.Evidence.Relay != relay) {
				t.Errorf("the class is %s at %s, want %s at %s", s.Evidence.Class, s.Evidence.Relay, class, relay)
			}
		})
	}
}

// What a relay asks for is waited, but never less than the policy says.
func TestSettlementWaitsAsAsked(t *testing.T) {
	t.Parallel()
	for asked, want := range map[time.Duration]time.Duration{3 * time.Hour: 3 * time.Hour, time.Second: 30 * time.Second, -time.Hour: 30 * time.Second} {
		lanes := lanesOf(t, Config{Retry: Backoff{Jitter: -1}}, Relay{Name: "a"})
		j := &job{claimedAt: time.Now(), claimed: queue.Claimed{Deliveries: []queue.ClaimedDelivery{{Attempt: 1}}}}
		e := &smtpx.Error{Stage: smtpx.StageRcpt, Class: smtpx.ClassTransient, RetryAfter: asked}
		if s := lanes[0].courier.settlement(t.Context(), j, 0, e, 0); s.Delay != want {
			t.Errorf("asked for %v, it waits %v, want %v", asked, s.Delay, want)
		}
	}
}

// Of all classes three are the relay's own fault and sent nothing.
func TestFailsOver(t *testing.T) {
	t.Parallel()
	for class, want := range map[smtpx.Class]bool{
		smtpx.ClassUnreachable: true, smtpx.ClassQuota: true, smtpx.ClassConfig: true,
		smtpx.ClassTransient: false, smtpx.ClassThrottled: false, smtpx.ClassRecycle: false, smtpx.ClassRecipient: false,
		smtpx.ClassMessage: false, smtpx.ClassAmbiguous: false, "": false,
	} {
		if got := failsOver(class); got != want {
			t.Errorf("%q: %v, want %v", class, got, want)
		}
	}
}

// A message is sent without a fence only where the relay asks for it, the message may be sent again, and the claim has promised
// no fence: a change of the relay's Fence after the claim does not break the promise.
func TestUnfenced(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fence  Fence
		policy outbox.UncertainPolicy
		fenced bool // by the claim's promise
		want   bool
	}{
		{FenceHold, outbox.Resend, false, true},
		{FenceHold, outbox.Resend, true, false},
		{FenceHold, outbox.Hold, false, false},
		{FenceAll, outbox.Resend, false, false},
		{FenceAll, outbox.Hold, true, false},
	} {
		l := lanesOf(t, Config{}, Relay{Name: "a", Fence: tt.fence})[0]
		j := &job{fenced: tt.fenced, claimed: queue.Claimed{OnUncertain: tt.policy}}
		if got := l.courier.unfenced(j); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
