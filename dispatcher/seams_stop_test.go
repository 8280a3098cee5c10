package dispatcher_test

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// strict is a shelf that fails when the context has ended, as a database does. It can also hang or fail on demand.
type strict struct {
	*shelf
	settle func(ctx context.Context) error
}

func (s strict) Settle(ctx context.Context, owner string, list []queue.Settlement) ([]queue.Ref, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.settle != nil {
		if err := s.settle(ctx); err != nil {
			return nil, err
		}
	}
	return s.shelf.Settle(ctx, owner, list)
}

// late is a relay whose answer comes long after the final dot. Nothing cuts it off.
type late struct{ takes time.Duration }

func (s late) Send(ctx context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
	if err := env.Commit(ctx); err != nil {
		return refuse(env, &smtpx.Error{Stage: smtpx.StageData, Class: smtpx.ClassRecycle, Err: err})
	}
	time.Sleep(s.takes)
	return smtpx.Result{Reply: smtpx.Reply{Code: 250}, Outcomes: []smtpx.Outcome{{Accepted: true}}}, nil
}

// stopping runs a dispatcher until stop is called. stop returns how long that took.
func stopping(t *testing.T, cfg dispatcher.Config) (d *dispatcher.Dispatcher, stop func() time.Duration) {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	d, err := dispatcher.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	return d, func() time.Duration {
		began := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		return time.Since(began)
	}
}

// An answer that comes long after the stop began is still recorded, because the queue works.
func TestALateAnswerIsRecorded(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		_, stop := stopping(t, dispatcher.Config{Queue: strict{shelf: q}, Relays: relays(late{2 * time.Minute})})
		id := q.add(1, nil)[0]
		time.Sleep(5 * time.Second)
		stop()
		if s := q.get(id).state; s != outbox.StateSent {
			t.Errorf("the relay said 250, and the delivery is %s", s)
		}
	})
}

// A stop while the queue is away takes Grace and a lease, however much there is to record.
func TestAStopIsBounded(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		away := make(chan struct{})
		s := strict{shelf: q, settle: func(context.Context) error {
			select {
			case <-away:
				return errDatabase
			default:
				return nil
			}
		}}
		_, stop := stopping(t, dispatcher.Config{Queue: s, Concurrency: 300, Relays: relays(late{20 * time.Second})})
		q.add(3000, nil)
		time.Sleep(5 * time.Second)
		close(away)
		if took := stop(); took > 95*time.Second {
			t.Errorf("the stop took %v", took)
		}
	})
}

// A stop and an Update at once, with a queue that is slow.
func TestUpdateAgainstAStop(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		slow := strict{shelf: q, settle: func(context.Context) error {
			time.Sleep(5 * time.Second)
			return nil
		}}
		list := relays(late{2 * time.Second}, &line{})
		list[0].Concurrency = 400
		d, stop := stopping(t, dispatcher.Config{Queue: slow, Relays: list[:1]})
		q.add(3000, nil)
		time.Sleep(1100 * time.Millisecond)
		updated := make(chan error, 1)
		go func() { updated <- d.Update(list[1:]) }()
		time.Sleep(time.Millisecond)
		stop()
		if err := <-updated; err != nil {
			t.Error(err)
		}
		if n := q.count(outbox.StateSending); n != 0 {
			t.Errorf("%d are still leased", n)
		}
	})
}

// A relay that Update adds takes its share from now on and does not catch up.
func TestARelayThatIsAddedTakesItsShare(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a, b := &line{takes: 10 * time.Millisecond}, &line{takes: 10 * time.Millisecond}
		d := running(t, dispatcher.Config{Queue: q, Relays: relays(a)})
		q.add(5000, nil)
		time.Sleep(time.Minute)
		before := a.accepted()
		if err := d.Update(relays(a, b)); err != nil {
			t.Fatal(err)
		}
		q.add(1000, nil)
		time.Sleep(30 * time.Second)
		if got := a.accepted() - before; before != 5000 || got < 400 || got > 600 || got+b.accepted() != 1000 {
			t.Errorf("before %d; then the first sent %d and the added one %d of 1000", before, got, b.accepted())
		}
	})
}

// A message that no relay takes does not go round among many relays without a pause.
func TestFailoverDoesNotGoRound(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]*smtpx.Error{
		"sender":      reply(smtpx.StageMail, smtpx.ClassConfig, 550, "sender not allowed"),
		"unreachable": refused,
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a, b, c := &line{answer: always(e)}, &line{answer: always(e)}, &line{answer: always(e)}
				running(t, dispatcher.Config{Queue: q, Relays: relays(a, b, c)})
				q.add(50, nil)
				time.Sleep(20 * time.Second)
				synctest.Wait()
				if n := a.tried() + b.tried() + c.tried(); n > 120 {
					t.Errorf("50 messages were tried %d times in 20 s", n)
				}
			})
		})
	}
}

// pausing is a shelf that shares the pauses of relays.
type pausing struct {
	*shelf
	paused map[string]time.Time
}

func (p *pausing) PauseRelay(_ context.Context, name string, d time.Duration, _ string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.paused[name] = time.Now().Add(d)
	return nil
}

func (p *pausing) RelayStates(context.Context) ([]queue.RelayState, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var states []queue.RelayState
	for name, until := range p.paused {
		states = append(states, queue.RelayState{Name: name, Paused: max(0, time.Until(until))})
	}
	return states, nil
}

func (p *pausing) Heartbeat(context.Context, queue.Heartbeat) error { return nil }
func (p *pausing) Retire(context.Context, string) error             { return nil }

// A pause that an operator lifts ends for running dispatchers. A pause that an operator sets begins for them.
func TestAPauseIsLifted(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		p := &pausing{shelf: q, paused: make(map[string]time.Time)}
		e := reply(smtpx.StageMail, smtpx.ClassQuota, 550, "daily limit exceeded")
		e.RetryAfter = 10 * time.Hour
		a := &line{answer: always(e)}
		d := running(t, dispatcher.Config{Queue: p, Relays: relays(a), Concurrency: 1})
		q.add(3, nil)
		time.Sleep(5 * time.Minute)
		if s := d.Health().Relays[0].State; s != dispatcher.RelayPaused {
			t.Fatalf("the relay is %s", s)
		}
		a.set(nil)
		p.mu.Lock()
		delete(p.paused, "a")
		p.mu.Unlock()
		q.add(3, nil)
		time.Sleep(2 * time.Minute)
		if n := q.count(outbox.StateSent); n < 3 {
			t.Errorf("%d were sent after the pause was lifted; the relay is %+v", n, d.Health().Relays[0])
		}
		if err := p.PauseRelay(t.Context(), "a", time.Hour, "maintenance"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if s := d.Health().Relays[0].State; s != dispatcher.RelayPaused {
			t.Errorf("an operator paused the relay, and it is %s", s)
		}
	})
}
