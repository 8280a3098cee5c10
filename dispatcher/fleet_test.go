package dispatcher_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// until asks again and again, for a minute at the most.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// Three dispatchers share the rate of a relay. Together they never send more than one alone might.
func TestAFleetKeepsTheRate(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		const n = 150
		rate := queue.Rate{PerSecond: 100, Burst: 10}
		q.enqueue(n, nil)
		var sent atomic.Int64
		done := make(chan struct{})
		began := time.Now()
		s := &sender{}
		s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
			k := sent.Add(1)
			if most := float64(rate.Burst) + rate.PerSecond*time.Since(began).Seconds(); float64(k) > most*1.05 {
				t.Errorf("message %d is sent after %v, when %.0f are allowed", k, time.Since(began), most)
			}
			if k == n {
				close(done)
			}
			return s.accept(ctx, env, body)
		}
		for range 3 {
			relays := []dispatcher.Relay{{Name: "main", Sender: s, Rate: rate}}
			start(t, newDispatcher(t, dispatcher.Config{Queue: q, Relays: relays, Poll: 50 * time.Millisecond}, nil))
		}
		<-done
	})
}

// A commit wakes the dispatcher through the database. With a poll of an hour nothing else can.
func TestWatchWakes(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, openSQLite(t))
		wakes(t, q, sqlite.Watch(q.db))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		dsn := pgtest.DSN(t)
		db, err := postgres.Open(dsn)
		if err != nil {
			t.Fatal(err)
		}
		q := newQueue(t, db)
		if err := q.EnableNotify(t.Context()); err != nil {
			t.Fatal(err)
		}
		wakes(t, q, postgres.Watch(dsn))
	})
}

func wakes(t *testing.T, q *testQueue, watch func(ctx context.Context, wake func()) error) {
	t.Helper()
	arrived := make(chan struct{}, 10)
	s := &sender{}
	s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
		defer func() { arrived <- struct{}{} }()
		return s.accept(ctx, env, body)
	}
	watching := make(chan struct{})
	var once atomic.Bool
	d := newDispatcher(t, dispatcher.Config{Queue: q, Poll: time.Hour, Watch: func(ctx context.Context, wake func()) error {
		if once.CompareAndSwap(false, true) {
			close(watching)
		}
		return watch(ctx, wake)
	}}, s)
	start(t, d)
	<-watching
	for range 3 {
		q.enqueue(1, nil)
		<-arrived
	}
}

// A dispatcher is listed while it runs, and no longer once it has stopped.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		list := func() []store.Dispatcher {
			live, err := q.Dispatchers(context.WithoutCancel(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			return live
		}
		stop := start(t, newDispatcher(t, dispatcher.Config{Queue: q, Name: "one"}, &sender{}))
		until(t, "the dispatcher is seen", func() bool { return len(list()) == 1 })
		if d := list()[0]; d.ID != "one" || d.PID == 0 || d.Relays["main"].State != "unused" {
			t.Errorf("the dispatcher says %+v", d)
		}
		stop()
		if live := list(); len(live) != 0 {
			t.Errorf("after the stop %d dispatchers are seen", len(live))
		}
	})
}

// Run removes what the retention no longer keeps. A queue that cannot clean is refused.
func TestRetention(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		old := q.enqueue(1, nil)[0]
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q}, &sender{}))
		q.exec("UPDATE outbox_deliveries SET finished_at = '" + past + "'")
		recent := q.enqueue(1, nil)[0]
		keep := queue.Retention{Sent: time.Hour}
		start(t, newDispatcher(t, dispatcher.Config{Queue: q, Retention: keep}, &sender{}))
		until(t, "the old message is gone", func() bool {
			n, err := q.Count(t.Context(), store.Filter{IDs: []outbox.ID{old}})
			return err == nil && n == 0
		})
		until(t, "the recent message is sent", func() bool { return q.get(recent).Deliveries[0].State == outbox.StateSent })
	})
	q := newQueue(t, openSQLite(t))
	_, err := dispatcher.New(dispatcher.Config{
		Queue: struct{ dispatcher.Queue }{q}, Relays: []dispatcher.Relay{{Name: "main", Sender: &sender{}}}, Retention: queue.Retention{Sent: 1},
	})
	if err == nil || !strings.Contains(err.Error(), "cannot clean") {
		t.Errorf("a queue that cannot clean: %v", err)
	}
}
