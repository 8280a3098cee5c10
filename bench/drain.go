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
	"syscall"
	"time"

	"github.com/outboxmail/outbox"
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
	for n > 0 {
		list := make([]*outbox.Message, min(n, 1000))
		for i := range list {
			list[i] = letter()
		}
		n -= len(list)
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err := outbox.EnqueueMany(ctx, tx, list); err != nil {
			_ = tx.Rollback()
			return err
		}
		if err := tx.Commit(); err != nil {
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

// drain delivers a backlog of n with so many dispatchers and returns the rate and how many leases were lost.
func (s *site) drain(ctx context.Context, n, dispatchers int, q dispatcher.Queue) (rate float64, lost int, err error) {
	if err := s.backlog(ctx, n); err != nil {
		return 0, 0, err
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		sent int
	)
	began := time.Now()
	for range dispatchers {
		d, client, err := s.dispatcher(q)
		if err != nil {
			return 0, 0, err
		}
		defer func() { _ = client.Close() }()
		wg.Go(func() {
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
	took := time.Since(began)
	if err == nil && sent != n {
		err = fmt.Errorf("%d of %d messages sent", sent, n)
	}
	return float64(n) / took.Seconds(), lost, err
}

// unfenced fences nothing before a message is sent.
type unfenced struct{ *store.Store }

// Fence writes nothing.
func (unfenced) Fence(context.Context, []queue.FencedRef) ([]queue.Ref, error) { return nil, nil }

// drained is the backlog of each round of P10 and P11.
const drained = 5000

// fence is P10.
func (b *bench) fence() error {
	dsn, drop, err := b.database()
	if err != nil {
		return err
	}
	defer drop()
	for _, engine := range []struct{ name, database string }{{"PostgreSQL", dsn}, {"SQLite", filepath.Join(b.dir, "fence.db")}} {
		s, err := b.newSite(engine.database)
		if err != nil {
			return err
		}
		var on, off []float64
		for range rounds {
			for _, side := range []struct {
				rates *[]float64
				queue dispatcher.Queue
			}{{&on, s.store}, {&off, unfenced{s.store}}} {
				rate, _, err := s.drain(b.ctx, b.share(drained), 1, side.queue)
				if err != nil {
					s.Close()
					return err
				}
				*side.rates = append(*side.rates, rate)
			}
		}
		s.Close()
		with, without := median(on), median(off)
		b.report(result{
			"P10 drain with the fence and without, " + engine.name, fmt.Sprintf("%.0f/s and %.0f/s", with, without),
			fmt.Sprintf("%.2f ×", with/without), "≥ 0.85 ×", with >= 0.85*without,
		})
	}
	return nil
}

// fleet is P11.
func (b *bench) fleet() error {
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
	sizes := []int{1, 2, 4, 8}
	rates := make([][]float64, len(sizes))
	conflicts := 0
	for range rounds {
		for i, n := range sizes {
			rate, lost, err := s.drain(b.ctx, b.share(drained), n, s.store)
			if err != nil {
				return err
			}
			rates[i] = append(rates[i], rate)
			conflicts += lost
		}
	}
	best, worst := 0.0, 0.0
	numbers := make([]string, len(sizes))
	for i, list := range rates {
		middle := median(list)
		numbers[i] = fmt.Sprintf("%d: %.0f/s", sizes[i], middle)
		best = max(best, middle)
		if i == 0 || middle < worst {
			worst = middle
		}
	}
	b.report(result{
		"P11 dispatchers on one PostgreSQL", strings.Join(numbers, ", ") + fmt.Sprintf("; %d leases lost", conflicts),
		fmt.Sprintf("%.2f × the best", worst/best), "≥ 0.9 × the best, no conflict", worst >= 0.9*best && conflicts == 0,
	})
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
	if _, _, err := s.drain(b.ctx, 1, 1, s.store); err == nil {
		return fmt.Errorf("the backlog was not there")
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
		"P9 an idle dispatcher for a minute, " + name, fmt.Sprintf("%v of CPU, %d write transactions", cpu.Round(time.Millisecond), after-before),
		fmt.Sprintf("%.2f %% of a core", 100*share), "≤ 0.3 %, 0 writes", share <= 0.003 && after == before,
	})
	return nil
}

// quiet is a queue that is not told who lives: heartbeats are writes that a dispatcher makes on purpose.
type quiet struct{ dispatcher.Queue }

// processTime is the CPU time of this process.
func processTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
