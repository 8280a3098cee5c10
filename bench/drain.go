package main

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// Connections to the relay, and messages that a dispatcher sends at once: those without a connection have theirs begin behind the
// final dot of another.
const (
	drainConns = 50
	atOnce     = 3 * drainConns
)

// site is a database with a backlog and a relay that takes everything.
type site struct {
	db    *sql.DB
	store *store.Store
	relay *smtptest.Server
	url   string // of the relay that the dispatchers send to
	close []func()

	loaded int // messages that load made
}

// openStore opens a database; a DSN is PostgreSQL, a file name SQLite.
func openStore(name string) (*sql.DB, *store.Store, error) {
	db, d, err := (*sql.DB)(nil), schema.Postgres, error(nil)
	if strings.Contains(name, "://") {
		db, err = postgres.Open(name)
	} else {
		d = schema.SQLite
		db, err = sqlite.Open(name, sqlite.RelaxedSync())
	}
	if err != nil {
		return nil, nil, err
	}
	st, err := store.New(db, d)
	if err != nil {
		_ = db.Close()
		return nil, nil, err
	}
	return db, st, nil
}

// newSite makes a site; a DSN is PostgreSQL, a file name SQLite.
func (b *bench) newSite(name string) (*site, error) {
	s := &site{}
	var err error
	if s.db, s.store, err = openStore(name); err != nil {
		return nil, err
	}
	s.close = append(s.close, func() { _ = s.db.Close() })
	if err := schema.Migrate(b.ctx, s.db, s.store.Dialect()); err != nil {
		return nil, err
	}
	if s.relay, err = smtptest.Start(smtptest.Config{TLS: smtptest.NoTLS, Discard: true}); err != nil {
		return nil, err
	}
	s.close = append(s.close, func() { _ = s.relay.Close() })
	s.url = s.relay.URL(fmt.Sprintf("conns=%d", drainConns))
	return s, nil
}

// Close stops the relay and closes the database.
func (s *site) Close() {
	for _, f := range slices.Backward(s.close) {
		f()
	}
}

// backlog commits n letters.
func (s *site) backlog(ctx context.Context, n int) error {
	for ; n > 0; n -= 1000 {
		if err := enqueueAll(ctx, s.db, min(n, 1000)); err != nil {
			return err
		}
	}
	return nil
}

// dispatcher makes one with its own client.
func (s *site) dispatcher(q dispatcher.Queue) (*dispatcher.Dispatcher, *smtpx.Client, error) {
	client, err := smtpx.Open(s.url)
	if err != nil {
		return nil, nil, err
	}
	d, err := dispatcher.New(dispatcher.Config{
		Queue: q, Relays: []dispatcher.Relay{{Name: "main", Sender: client}}, Concurrency: atOnce, Logger: slog.New(slog.DiscardHandler),
	})
	return d, client, err
}

// drain delivers a backlog of n with so many dispatchers, notes the numbers, and returns how many leases were lost.
func (s *site) drain(ctx context.Context, f *figures, n, dispatchers int, q dispatcher.Queue) (lost int, err error) {
	if err := s.backlog(ctx, n); err != nil {
		return 0, err
	}
	err = f.add(n, func() error {
		sent, gone, err := s.flush(ctx, dispatchers, q)
		if lost = gone; err == nil && sent != n {
			err = fmt.Errorf("%d of %d messages sent", sent, n)
		}
		return err
	})
	return lost, err
}

// flush delivers what is due with so many dispatchers.
func (s *site) flush(ctx context.Context, dispatchers int, q dispatcher.Queue) (sent, lost int, err error) {
	var (
		wg sync.WaitGroup
		mu sync.Mutex
	)
	defer wg.Wait()
	for range dispatchers {
		d, client, openErr := s.dispatcher(q)
		if openErr != nil {
			return 0, 0, openErr
		}
		wg.Go(func() {
			defer func() { _ = client.Close() }()
			var (
				report   dispatcher.Report
				flushErr error
			)
			pprof.Do(ctx, pprof.Labels("drain", "outbox"), func(ctx context.Context) { report, flushErr = d.Flush(ctx) })
			mu.Lock()
			defer mu.Unlock()
			sent += report.Sent
			lost += report.Lost
			if flushErr != nil {
				err = flushErr
			}
		})
	}
	wg.Wait()
	return sent, lost, err
}

// unfenced fences nothing before a message is sent.
type unfenced struct{ *store.Store }

// Fence writes nothing.
func (unfenced) Fence(context.Context, []queue.FencedRef) ([]queue.Ref, error) { return nil, nil }

// drained is the backlog of each round of P10 and P11.
const drained = 5000

// fence is P10.
func (b *bench) fence() error {
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
	}{{"PostgreSQL", dsn, b.master}, {"SQLite", filepath.Join(b.dir, "fence.db"), 0}} {
		if err := b.fenceOn(engine.name, engine.database, sink, meter{server: engine.master, sink: sink.pid}); err != nil {
			return fmt.Errorf("%s: %w", engine.name, err)
		}
	}
	return nil
}

func (b *bench) fenceOn(name, database string, sink *sink, m meter) error {
	s, err := b.newSite(database)
	if err != nil {
		return err
	}
	defer s.Close()
	s.url = sink.url()
	on, off := &figures{meter: m}, &figures{meter: m}
	for range b.rounds {
		if _, err := s.drain(b.ctx, on, b.share(drained), 1, s.store); err != nil {
			return err
		}
		if _, err := s.drain(b.ctx, off, b.share(drained), 1, unfenced{s.store}); err != nil {
			return err
		}
	}
	ratio := on.rate() / off.rate()
	b.report(
		result{work: "P10 drain with the fence, " + name, who: ours, figures: on, ratio: times(ratio), bar: "≥ 0.8 ×", met: ratio >= 0.8},
		result{work: "P10 drain without the fence, " + name, who: ours, figures: off},
	)
	return nil
}

// fleet is P11.
func (b *bench) fleet() error {
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
	s, err := b.newSite(dsn)
	if err != nil {
		return err
	}
	defer s.Close()
	s.url = sink.url()
	sizes := []int{1, 2, 4, 8}
	all := make([]*figures, len(sizes))
	lost := make([]int, len(sizes))
	for round := range b.rounds {
		for i, n := range sizes {
			if round == 0 {
				all[i] = &figures{meter: meter{server: b.master, sink: sink.pid}}
			}
			conflicts, err := s.drain(b.ctx, all[i], b.share(drained), n, s.store)
			if err != nil {
				return err
			}
			lost[i] += conflicts
		}
	}
	best := 0.0
	for _, f := range all {
		best = max(best, f.rate())
	}
	for i, f := range all {
		ratio := f.rate() / best
		b.report(result{
			work: fmt.Sprintf("P11 dispatchers on one PostgreSQL: %d", sizes[i]), who: ours, figures: f, more: fmt.Sprintf("%d leases lost", lost[i]),
			ratio: times(ratio) + " the best", bar: "≥ 0.95 ×, no conflict", met: ratio >= 0.95 && lost[i] == 0,
		})
	}
	return nil
}

// idle is P9: a minute of a dispatcher that has nothing to do.
func (b *bench) idle() error {
	dsn, drop, err := b.database()
	if err != nil {
		return err
	}
	defer drop()
	for _, engine := range []struct{ name, database, writes string }{
		{"PostgreSQL", dsn, "SELECT txid_snapshot_xmax(txid_current_snapshot())"},
		{"SQLite", filepath.Join(b.dir, "idle.db"), "PRAGMA data_version"},
	} {
		s, err := b.newSite(engine.database)
		if err != nil {
			return err
		}
		err = b.idleOn(s, engine.name, engine.writes)
		s.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) idleOn(s *site, name, writes string) error {
	if err := s.backlog(b.ctx, 1000); err != nil {
		return err
	}
	// A queue that was used and is empty, with the statistics that a database would have by then.
	if sent, _, err := s.flush(b.ctx, 1, s.store); err != nil || sent != 1000 {
		return fmt.Errorf("%d of 1000 messages sent: %w", sent, err)
	}
	if _, err := s.db.ExecContext(b.ctx, "ANALYZE"); err != nil {
		return err
	}
	watch, err := s.db.Conn(b.ctx)
	if err != nil {
		return err
	}
	defer func() { _ = watch.Close() }()
	d, client, err := s.dispatcher(quiet{s.store})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	var before, after int64
	if err := watch.QueryRowContext(b.ctx, writes).Scan(&before); err != nil {
		return err
	}
	runtime.GC()
	cpu := processTime()
	if err := d.Run(ctx); err != nil {
		return err
	}
	cpu = processTime() - cpu
	if err := watch.QueryRowContext(b.ctx, writes).Scan(&after); err != nil {
		return err
	}
	share := cpu.Seconds() / 60
	b.report(result{
		work: "P9 an idle dispatcher for a minute, " + name, who: ours,
		more:  fmt.Sprintf("%v of CPU, %d write transactions", cpu.Round(time.Millisecond), after-before),
		ratio: fmt.Sprintf("%.2f %% of a core", 100*share), bar: "≤ 0.1 %, 0 writes", met: share <= 0.001 && after == before,
	})
	return nil
}

// quiet is a queue that is not told who lives: heartbeats are writes that a dispatcher makes on purpose.
type quiet struct{ dispatcher.Queue }
