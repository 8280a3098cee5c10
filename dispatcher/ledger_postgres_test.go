package dispatcher_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store/postgres"
)

// An open transaction holds one row for longer than a lease. Messages that the relay has accepted are recorded meanwhile, and
// another dispatcher sends no second copy. The lease of the locked message is renewed all the time, so there is no doubt about it that
// might be resolved later. It is recorded once the row is free.
func TestALockedRowOnPostgres(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	for name, when := range map[string]bool{"before the fence": false, "before the outcome": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, openPostgres(t))
			ids := q.enqueue(21, nil)
			s := &sender{}
			var seen sync.Map
			held, release := make(chan struct{}), make(chan struct{})
			var once sync.Once
			s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
				if when { // the row is locked between the final dot and the recorded reply
					res, err := s.accept(ctx, env, body)
					if _, again := seen.LoadOrStore(string(body), true); !again {
						<-release
					}
					return res, err
				}
				once.Do(func() { close(held) })
				<-release
				return s.accept(ctx, env, body)
			}
			cfg := dispatcher.Config{Queue: q, Lease: lease, Concurrency: 30}
			start(t, newDispatcher(t, cfg, s))
			if when {
				until(t, "all are sent", func() bool { return len(s.messages()) == 21 })
			} else {
				<-held
			}
			tx, err := q.db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback() }()
			if _, err := tx.Exec("SELECT 1 FROM outbox_deliveries WHERE message_id = $1 FOR UPDATE", string(ids[0])); err != nil {
				t.Fatal(err)
			}
			close(release)
			start(t, newDispatcher(t, cfg, s))
			sent := func() (n int) {
				if err := q.db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_deliveries WHERE state = 'sent'").Scan(&n); err != nil {
					t.Error(err)
				}
				return n
			}
			locked := time.Now()
			until(t, "the 20 others are recorded", func() bool { return sent() == 20 })
			if took := time.Since(locked); took > 10*lease {
				t.Errorf("the 20 others were recorded after %v", took)
			}
			time.Sleep(time.Until(locked.Add(5 * lease / 2)))
			d := q.get(ids[0]).Deliveries[0]
			if d.State != outbox.StateSending || !d.LeaseUntil.After(locked.Add(2*lease)) {
				t.Errorf("the locked delivery is %s and leased until %v, %v after it was locked", d.State, d.LeaseUntil, d.LeaseUntil.Sub(locked))
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			until(t, "all are recorded", func() bool { return sent() == 21 })
			copies := make(map[string]int)
			for _, m := range s.messages() {
				copies[m.body]++
			}
			for _, n := range copies {
				if n > 1 {
					t.Errorf("a message with a known 250 was sent %d times", n)
				}
			}
		})
	}
}

// PostgreSQL tells a listening dispatcher of new messages only. It must remember by itself when a retry is due.
func TestARetryBesideListen(t *testing.T) {
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
	first := failFirst(1, errDatabase)
	s := &sender{}
	s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
		if first() != nil {
			return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassTransient, 451, "greylisted"))
		}
		return s.accept(ctx, env, body)
	}
	start(t, newDispatcher(t, dispatcher.Config{
		Queue: q, Poll: time.Hour, Retry: dispatcher.Backoff{Base: time.Second}, Watch: postgres.Watch(dsn),
	}, s))
	q.enqueue(1, nil)
	began := time.Now()
	until(t, "the message is sent", func() bool { return len(s.messages()) == 1 })
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("a retry that was due after a second went after %v", took)
	}
}
