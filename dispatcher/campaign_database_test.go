package dispatcher_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

// logBook is a log that may be read while it is written.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// says whether the log holds a text.
func (l *logBook) says(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

func (l *logBook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// resumption is the longest time until work goes on by itself once the database is well again. By design it is seconds: the
// settler tries every second, the claimer at every poll, and leases of campaignLease may have to lapse. The rest allows for
// busy machines.
const resumption = 30 * time.Second

// progress waits until the relay has accepted 20 more messages, and returns how long that took.
func (k *killing) progress() time.Duration {
	k.t.Helper()
	return k.progressFrom(k.relay.Count(), 20)
}

// progressFrom waits until the relay has accepted n messages more than before.
func (k *killing) progressFrom(before, n int) time.Duration {
	k.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(k.t.Context(), resumption)
	defer cancel()
	if _, err := k.relay.WaitMessages(ctx, before+n); err != nil {
		k.t.Fatalf("the work does not go on: %v", err)
	}
	return time.Since(began)
}

// retire stops an application and records what it said.
func (k *killing) retire(app *worker) {
	k.t.Helper()
	if err := app.cmd.Process.Signal(os.Interrupt); err != nil {
		k.t.Fatal(err)
	}
	if err := app.await(nil, time.Minute); errors.Is(err, errAwait) || app.err != nil {
		k.t.Fatalf("the application: %v", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.believe(app)
}

// The server is restarted, killed, and its backends are terminated, while an application enqueues and two dispatchers deliver.
// Nothing is lost, no message with Hold goes twice, and the work goes on by itself.
func TestPostgresFailsUnderLoad(t *testing.T) {
	t.Parallel()
	// Without this a killed server forgets what it has just committed.
	cluster := pgtest.StartForTest(t, pgtest.Options{Settings: map[string]string{"synchronous_commit": "on"}})
	k := newKillingOn(t, cluster.NewDatabase(t))
	admin, err := postgres.Open(cluster.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	var log logBook
	for _, name := range []string{"one", "two"} {
		client, err := smtpx.Open(k.relay.URL(), func(c *smtpx.Config) { c.EHLO = name + ".example.com" })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		stop := start(t, newDispatcher(t, dispatcher.Config{
			Queue: k.testQueue, Name: name, Lease: campaignLease, Poll: 50 * time.Millisecond, Logger: log.logger(),
		}, client))
		defer stop()
	}
	app := employ(t, orders{Name: "app-0", Database: k.database, Pace: 20 * time.Millisecond})
	rounds := 1
	if campaign.On() {
		rounds = 20
	}
	terminate := func() error {
		_, err := admin.ExecContext(t.Context(),
			"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL")
		return err
	}
	var strikes int
	var longest time.Duration
	for range rounds {
		for _, strike := range []func() error{
			func() error { return cluster.Restart(t.Context(), pgtest.Fast) },
			terminate,
			func() error { return cluster.Restart(t.Context(), pgtest.Immediate) },
			func() error { return errors.Join(terminate(), terminate()) },
		} {
			k.progress()
			// The administrator's own connection may be one of those that the last strike ended.
			if err := strike(); err != nil {
				if err = strike(); err != nil {
					t.Fatal(err)
				}
			}
			strikes++
			longest = max(longest, k.progress())
		}
	}
	k.retire(app)
	k.drain()
	k.audit(fmt.Sprintf("the server failed %d times and 20 more messages had arrived after %v at the latest", strikes, longest.Round(time.Millisecond)))
	if !log.says("cannot claim") && !log.says("cannot record outcomes") && !log.says("cannot renew") {
		t.Errorf("nothing was said about the failures: %s", &log)
	}
}

// The server refuses connections, and the dispatcher loses those that it has. The dispatcher logs the server's words, and goes
// on once there is room again.
func TestPostgresTakesNoMoreConnections(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartForTest(t, pgtest.Options{Settings: map[string]string{"max_connections": "12", "superuser_reserved_connections": "0"}})
	k := newKillingOn(t, cluster.NewDatabase(t))
	admin, err := postgres.Open(cluster.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close() }()
	held, err := admin.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var log logBook
	d := newDispatcher(t, dispatcher.Config{Queue: k.testQueue, Lease: campaignLease, Poll: 50 * time.Millisecond, Logger: log.logger()}, openRelay(t, k.relay))
	defer start(t, d)()
	k.place(20)
	k.progressFrom(0, 20)

	// Others take every connection, those of the dispatcher included.
	others, err := postgres.Open(k.database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = others.Close() }()
	var taken []*sql.Conn
	k.await("the dispatcher finds no place", func() (bool, error) {
		_, err := held.ExecContext(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = $1"+
			" AND application_name <> 'taker'", databaseName(t, k.database))
		for err == nil {
			var c *sql.Conn
			if c, err = others.Conn(t.Context()); err == nil {
				_, err = c.ExecContext(t.Context(), "SET application_name = 'taker'")
				taken = append(taken, c)
			}
		}
		return log.says("too many clients"), nil
	})
	for _, c := range taken {
		_ = c.Close()
	}
	if err := others.Close(); err != nil {
		t.Fatal(err)
	}
	k.await("an application can enqueue again", func() (bool, error) {
		_, err := k.Count(t.Context(), store.Filter{})
		return err == nil, err
	})
	before := k.relay.Count()
	k.place(20)
	took := k.progressFrom(before, 20)
	k.drain()
	k.audit(fmt.Sprintf("with %d connections taken the dispatcher waited, and 20 messages arrived %v after there was room", len(taken),
		took.Round(time.Millisecond)))
}

// databaseName is the name of the database in a URL.
func databaseName(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.Path, "/")
}

// place commits n orders with their mail, each in a transaction of its own.
func (k *killing) place(n int) {
	k.t.Helper()
	for range n {
		if err := k.tryPlace(); err != nil {
			k.t.Fatal(err)
		}
	}
}

// tryPlace commits one.
func (k *killing) tryPlace() error {
	k.placed++
	number := fmt.Sprintf("here-%d", k.placed)
	tx, err := k.db.BeginTx(k.t.Context(), nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(k.t.Context(), "INSERT INTO campaign_orders (number) VALUES ($1)", number); err != nil {
		return err
	}
	if _, err := outbox.Enqueue(k.t.Context(), tx, orderMail(number, k.placed)); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.committed[number] = true
	return nil
}

// The application takes every connection of the pool that it shares with the dispatcher, for longer than a lease. Nothing is
// lost and nothing goes twice: a message that cannot be fenced is not sent.
func TestTheApplicationTakesThePool(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			k := newKilling(t, engine)
			k.db.SetMaxOpenConns(3)
			d := newDispatcher(t, dispatcher.Config{Queue: k.testQueue, Lease: time.Second, Poll: 20 * time.Millisecond}, openRelay(t, k.relay))
			defer start(t, d)()
			rounds := 2
			if campaign.On() {
				rounds = 20
			}
			for range rounds {
				before := k.relay.Count()
				k.place(50)
				k.progressFrom(before, 5) // at work
				var taken []*sql.Conn
				for range 3 {
					c, err := k.db.Conn(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					taken = append(taken, c)
				}
				<-time.After(1500 * time.Millisecond) // a lease and a half
				for _, c := range taken {
					_ = c.Close()
				}
			}
			k.drain()
			k.audit(fmt.Sprintf("the pool was taken %d times for a lease and a half", rounds))
		})
	}
}

// Another program writes to the same SQLite file. Its deferred transactions begin with a read, hold the lock, and never wait.
// Its own transactions fail with SQLITE_BUSY, and the mail goes out.
func TestSQLiteBusyStorm(t *testing.T) {
	t.Parallel()
	k := newKilling(t, "sqlite")
	k.exec("CREATE TABLE storm (n integer)")
	k.exec("INSERT INTO storm VALUES (0)")
	rude, err := sql.Open("sqlite", "file:"+k.database+"?_pragma=busy_timeout(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rude.Close() }()
	ctx, calm := context.WithCancel(t.Context())
	defer calm()
	var (
		wg                sync.WaitGroup
		succeeded, failed atomic.Int64
	)
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				rest := time.Duration(rand.Int64N(int64(50 * time.Millisecond)))
				if err := storm(ctx, rude); err != nil {
					failed.Add(1)
				} else {
					succeeded.Add(1)
					rest += 8 * time.Since(began) // however slow the machine is, the lock is free half of the time
				}
				select {
				case <-time.After(rest):
				case <-ctx.Done():
				}
			}
		})
	}
	d := newDispatcher(t, dispatcher.Config{Queue: k.testQueue, Lease: campaignLease, Poll: 20 * time.Millisecond}, openRelay(t, k.relay))
	defer start(t, d)()
	app := employ(t, orders{Name: "app-0", Database: k.database, Pace: 100 * time.Millisecond})
	messages := 60
	if campaign.On() {
		messages = 5000
	}
	patience, cancel := context.WithTimeout(t.Context(), 30*time.Minute) // it must go on, however slowly
	defer cancel()
	if !campaign.On() {
		patience, cancel = context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
	}
	if _, err := k.relay.WaitMessages(patience, messages); err != nil {
		t.Fatalf("the mail does not go out: %v", err)
	}
	calm()
	wg.Wait()
	k.retire(app)
	k.drain()
	k.audit(fmt.Sprintf("a storm of %d deferred transactions, of which %d failed", succeeded.Load()+failed.Load(), failed.Load()))
	if failed.Load() == 0 {
		t.Error("no transaction of the storm failed: there was none")
	}
}

// storm is one such transaction.
func storm(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	var n int
	if err := tx.QueryRowContext(ctx, "SELECT n FROM storm").Scan(&n); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE storm SET n = n + 1"); err != nil {
		return err
	}
	select { // with the lock
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
	}
	return tx.Commit()
}
