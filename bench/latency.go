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
	sink, err := startSink(b.ctx)
	if err != nil {
		return err
	}
	defer sink.stop()
	dsn, drop, err := b.database()
	if err != nil {
		return err
	}
	defer drop()
	for _, engine := range []struct {
		name, database string
		master         int
		bar            time.Duration // of the median
	}{
		{"SQLite", filepath.Join(b.dir, "latency.db"), 0, 3 * time.Millisecond},
		{"PostgreSQL with LISTEN", dsn, b.master, 4 * time.Millisecond},
	} {
		f := &figures{meter: meter{server: engine.master, sink: sink.pid}}
		took, err := b.latencyOn(engine.database, sink, f)
		if err != nil {
			return fmt.Errorf("%s: %w", engine.name, err)
		}
		const high = 20 * time.Millisecond
		p50, p99 := took[len(took)/2], took[len(took)*99/100]
		b.report(result{
			work: "P7 commit → accepted by the relay, one message at a time, " + engine.name, who: ours, figures: f,
			more: fmt.Sprintf("p50 %v, p99 %v, worst %v of %d", p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond),
				took[len(took)-1].Round(10*time.Microsecond), len(took)),
			bar: fmt.Sprintf("p50 ≤ %v, p99 ≤ %v", engine.bar, high), met: p50 <= engine.bar && p99 <= high,
		})
	}
	return nil
}

func (b *bench) latencyOn(database string, sink *sink, f *figures) ([]time.Duration, error) {
	s, err := b.newSite(database)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	s.url = sink.url()
	watch := sqlite.Watch(s.db)
	if strings.Contains(database, "://") {
		if err := s.store.EnableNotify(b.ctx); err != nil {
			return nil, err
		}
		watch = postgres.Watch(database)
	}
	return s.oneByOne(b.ctx, b.share(1000), watch, f)
}

// heard is a client that says when it has heard that a message was accepted.
type heard struct {
	*smtpx.Client

	accepted chan time.Time
}

// Send implements dispatcher.Sender.
func (h heard) Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	res, err := h.Client.Send(ctx, env, body)
	if err == nil {
		h.accepted <- time.Now()
	}
	return res, err
}

// oneByOne commits n messages, each when the last was accepted and a moment has passed. It returns how long each took from the end of its
// commit until the dispatcher heard that it was accepted, in order of length.
func (s *site) oneByOne(
	ctx context.Context, n int, watch func(ctx context.Context, wake func()) error, f *figures,
) ([]time.Duration, error) {
	client, err := smtpx.Open(s.url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	sender := heard{client, make(chan time.Time, 1)}
	watching := make(chan struct{}, 1)
	d, err := dispatcher.New(dispatcher.Config{
		Queue: s.store, Relays: []dispatcher.Relay{{Name: "main", Sender: sender}}, Logger: slog.New(slog.DiscardHandler),
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
	if _, err := s.sendOneByOne(ctx, 10, sender.accepted); err != nil { // they open the connection
		return nil, err
	}
	var took []time.Duration
	err = f.add(n, func() (err error) {
		took, err = s.sendOneByOne(ctx, n, sender.accepted)
		return err
	})
	slices.Sort(took)
	return took, err
}

func (s *site) sendOneByOne(ctx context.Context, n int, accepted <-chan time.Time) ([]time.Duration, error) {
	took := make([]time.Duration, 0, n)
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	for range n {
		began, err := s.commitOne(ctx)
		if err != nil {
			return nil, err
		}
		const patience = 10 * time.Second
		select {
		case at := <-accepted:
			took = append(took, at.Sub(began))
		case <-time.After(patience):
			return nil, fmt.Errorf("no message was accepted within %v", patience)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		<-pause.C
	}
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
