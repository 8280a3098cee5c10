package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// latency is P7: an application commits one message at a time and a dispatcher beside it is woken by the database alone, as
// one in another process would be.
func (b *bench) latency() error {
	dsn, drop, err := b.database()
	if err != nil {
		return err
	}
	defer drop()
	for _, engine := range []struct{ name, database string }{{"SQLite", filepath.Join(b.dir, "latency.db")}, {"PostgreSQL with LISTEN", dsn}} {
		s, err := b.newSite(engine.database)
		if err != nil {
			return err
		}
		var watch func(ctx context.Context, wake func()) error
		if strings.Contains(engine.database, "://") {
			err = s.store.EnableNotify(b.ctx)
			watch = postgres.Watch(engine.database)
		} else {
			watch = sqlite.Watch(s.db)
		}
		var took []time.Duration
		if err == nil {
			took, err = s.oneByOne(b.ctx, b.share(1000), watch)
		}
		s.Close()
		if err != nil {
			return err
		}
		p50, p99 := took[len(took)/2], took[len(took)*99/100]
		b.report(result{
			"P7 commit → accepted by the relay, one message at a time, " + engine.name,
			fmt.Sprintf("p50 %v, p99 %v, worst %v of %d", p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond),
				took[len(took)-1].Round(10*time.Microsecond), len(took)),
			"–", "p50 ≤ 5 ms, p99 ≤ 50 ms", p50 <= 5*time.Millisecond && p99 <= 50*time.Millisecond,
		})
	}
	return nil
}

// oneByOne commits n messages, each when the last was accepted and a moment has passed, and returns how long each took from
// the end of its commit, in order of length.
func (s *site) oneByOne(ctx context.Context, n int, watch func(ctx context.Context, wake func()) error) ([]time.Duration, error) {
	client, err := smtpx.Open(s.relay.URL())
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	watching := make(chan struct{}, 1)
	d, err := dispatcher.New(dispatcher.Config{
		Queue: s.store, Relays: []dispatcher.Relay{{Name: "main", Sender: client}}, Logger: slog.New(slog.DiscardHandler),
		Poll: time.Minute, // nothing but the watcher wakes it
		Watch: func(ctx context.Context, wake func()) error {
			return watch(ctx, func() {
				wake()
				select {
				case watching <- struct{}{}:
				default:
				}
			})
		},
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	defer func() {
		stop()
		<-done
	}()
	select {
	case <-watching:
	case err := <-done:
		done <- nil
		return nil, errors.Join(errors.New("the dispatcher stopped"), err)
	}
	took := make([]time.Duration, 0, n)
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for i := range n + 10 { // the first few open the connection
		began, err := s.commitOne(ctx)
		if err != nil {
			return nil, err
		}
		patience, cancel := context.WithTimeout(ctx, 10*time.Second)
		accepted, err := s.relay.WaitMessages(patience, 1)
		cancel()
		if err != nil {
			return nil, err
		}
		if i >= 10 {
			took = append(took, accepted[0].Received.Sub(began))
		}
		s.relay.Clear()
		<-pause.C
	}
	slices.Sort(took)
	return took, nil
}

// commitOne commits a letter and returns when the commit had succeeded.
func (s *site) commitOne(ctx context.Context) (time.Time, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return time.Time{}, err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := outbox.Enqueue(ctx, tx, letter()); err != nil {
		return time.Time{}, err
	}
	if err := tx.Commit(); err != nil {
		return time.Time{}, err
	}
	return time.Now(), nil
}
