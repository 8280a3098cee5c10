package dispatcher_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

func TestMain(m *testing.M) {
	crashMain()
	workerMain()
	goleak.VerifyTestMain(m)
}

// testQueue is a real store, with functions for tests to fill and read it.
type testQueue struct {
	*store.Store
	t  *testing.T
	db *sql.DB
}

// eachQueue runs a test on SQLite and on PostgreSQL.
func eachQueue(t *testing.T, test func(t *testing.T, q *testQueue)) {
	t.Helper()
	for _, engine := range []struct {
		name string
		open func(t *testing.T) *sql.DB
	}{{"sqlite", openSQLite}, {"postgres", openPostgres}} {
		t.Run(engine.name, func(t *testing.T) {
			t.Parallel()
			test(t, newQueue(t, engine.open(t)))
		})
	}
}

func openSQLite(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "app.db"), sqlite.RelaxedSync())
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func openPostgres(t *testing.T) *sql.DB {
	t.Helper()
	db, err := postgres.Open(pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// dialectOf tells the databases of these tests apart by their drivers.
func dialectOf(db *sql.DB) schema.Dialect {
	if strings.Contains(fmt.Sprintf("%T", db.Driver()), "sqlite") {
		return schema.SQLite
	}
	return schema.Postgres
}

// texts returns the only column of a query.
func texts(t *testing.T, db *sql.DB, query string) (list []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		list = append(list, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

func newQueue(t *testing.T, db *sql.DB) *testQueue {
	t.Helper()
	t.Cleanup(func() { _ = db.Close() })
	st, err := store.New(db, dialectOf(db))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), db, st.Dialect()); err != nil {
		t.Fatal(err)
	}
	return &testQueue{Store: st, t: t, db: db}
}

// enqueue commits messages, each with the change that edit makes to a plain one.
func (q *testQueue) enqueue(n int, edit func(m *outbox.Message)) []outbox.ID {
	q.t.Helper()
	tx, err := q.db.BeginTx(q.t.Context(), nil)
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	ids := make([]outbox.ID, n)
	for i := range ids {
		m := &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ada@example.org"}},
			Subject: "Your order", Text: "Thank you.",
		}
		if edit != nil {
			edit(m)
		}
		receipt, err := outbox.Enqueue(q.t.Context(), tx, m)
		if err != nil {
			q.t.Fatal(err)
		}
		ids[i] = receipt.ID
	}
	if err := tx.Commit(); err != nil {
		q.t.Fatal(err)
	}
	return ids
}

// exec changes the database directly.
func (q *testQueue) exec(query string) {
	q.t.Helper()
	if _, err := q.db.ExecContext(context.WithoutCancel(q.t.Context()), query); err != nil {
		q.t.Fatalf("%s: %v", query, err)
	}
}

// past is a time in the past on every clock, in a form that both databases read.
const past = "2000-01-01T00:00:00.000Z"

// get reads a message.
func (q *testQueue) get(id outbox.ID) *store.Message {
	q.t.Helper()
	m, err := q.Get(context.WithoutCancel(q.t.Context()), id)
	if err != nil {
		q.t.Fatal(err)
	}
	return m
}

// wantStates fails unless the deliveries of a message are in these states, in the order of its recipients.
func (q *testQueue) wantStates(id outbox.ID, want ...outbox.State) {
	q.t.Helper()
	m := q.get(id)
	if len(m.Deliveries) != len(want) {
		q.t.Fatalf("%d deliveries, want %d", len(m.Deliveries), len(want))
	}
	for i, d := range m.Deliveries {
		if d.State != want[i] {
			q.t.Errorf("delivery %d (%s) is %s, want %s; last reply %q", d.Seq, d.Recipient, d.State, want[i], d.Reply)
		}
	}
}

// sender is a relay made of a function. It keeps what it accepted.
type sender struct {
	send func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error)

	mu   sync.Mutex
	sent []sentMessage
}

type sentMessage struct {
	to   []string
	body string
}

func (s *sender) Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	if s.send != nil {
		return s.send(ctx, env, body)
	}
	return s.accept(ctx, env, body)
}

// accept takes a message for all of its recipients, as a client would. It calls Commit first.
func (s *sender) accept(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	if env.Commit != nil {
		if err := env.Commit(ctx); err != nil {
			return refuse(env, &smtpx.Error{Stage: smtpx.StageData, Class: smtpx.ClassRecycle, Err: err})
		}
	}
	s.mu.Lock()
	s.sent = append(s.sent, sentMessage{to: env.To, body: string(body)})
	s.mu.Unlock()
	res := smtpx.Result{ProviderID: "q1", Reply: smtpx.Reply{Code: 250, Enhanced: "2.0.0", Lines: []string{"Ok: queued as q1"}}}
	for _, to := range env.To {
		res.Outcomes = append(res.Outcomes, smtpx.Outcome{Recipient: to, Accepted: true})
	}
	return res, nil
}

func (s *sender) messages() []sentMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sentMessage(nil), s.sent...)
}

// refuse gives every recipient the same verdict.
func refuse(env smtpx.Envelope, e *smtpx.Error) (smtpx.Result, error) {
	var res smtpx.Result
	for _, to := range env.To {
		res.Outcomes = append(res.Outcomes, smtpx.Outcome{Recipient: to, Err: e})
	}
	return res, e
}

// reply is a refusal by the relay.
func reply(stage smtpx.Stage, class smtpx.Class, code int, text string) *smtpx.Error {
	return &smtpx.Error{Stage: stage, Class: class, Reply: smtpx.Reply{Code: code, Lines: []string{text}}}
}

// lost is a connection that breaks.
func lost(stage smtpx.Stage, class smtpx.Class) *smtpx.Error {
	return &smtpx.Error{Stage: stage, Class: class, Err: errors.New("connection lost")}
}

// faulty is a queue whose calls fail on demand: each of its functions runs before the call and may fail it.
type faulty struct {
	dispatcher.Queue
	claim, body, fence, renew, settle func() error
}

func call(fault func() error) error {
	if fault == nil {
		return nil
	}
	return fault()
}

func (f *faulty) Claim(ctx context.Context, req queue.ClaimRequest) ([]queue.Claimed, error) {
	if err := call(f.claim); err != nil {
		return nil, err
	}
	return f.Queue.Claim(ctx, req)
}

func (f *faulty) Body(ctx context.Context, id outbox.ID) ([]byte, error) {
	if err := call(f.body); err != nil {
		return nil, err
	}
	return f.Queue.Body(ctx, id)
}

func (f *faulty) Fence(ctx context.Context, list []queue.FencedRef) ([]queue.Ref, error) {
	if err := call(f.fence); err != nil {
		return nil, err
	}
	return f.Queue.Fence(ctx, list)
}

func (f *faulty) Renew(ctx context.Context, tokens []string, lease time.Duration) ([]string, error) {
	if err := call(f.renew); err != nil {
		return nil, err
	}
	return f.Queue.Renew(ctx, tokens, lease)
}

func (f *faulty) Settle(ctx context.Context, owner string, list []queue.Settlement) ([]queue.Ref, error) {
	if err := call(f.settle); err != nil {
		return nil, err
	}
	return f.Queue.Settle(ctx, owner, list)
}

// failFirst fails the first n calls.
func failFirst(n int, err error) func() error {
	var mu sync.Mutex
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			return nil
		}
		n--
		return err
	}
}

var errDatabase = errors.New("the database is away")

// newDispatcher adds a silent logger and one relay to a configuration.
func newDispatcher(t *testing.T, cfg dispatcher.Config, s dispatcher.Sender) *dispatcher.Dispatcher {
	t.Helper()
	if cfg.Relays == nil {
		cfg.Relays = []dispatcher.Relay{{Name: "main", Sender: s}}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d, err := dispatcher.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// flush delivers what is due.
func flush(t *testing.T, d *dispatcher.Dispatcher) dispatcher.Report {
	t.Helper()
	report, err := d.Flush(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// start runs the dispatcher until the returned function stops it and waits for it.
func start(t *testing.T, d *dispatcher.Dispatcher) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}
