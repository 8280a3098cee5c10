package outbox_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// engine is one way to a database.
type engine struct {
	name    string
	dialect schema.Dialect
	open    func(t *testing.T) *database
}

// database is an empty database of a test.
type database struct {
	dialect schema.Dialect
	// db looks at the database from outside of the transactions under test.
	db *sql.DB
	// begin begins a transaction under test.
	begin func(t *testing.T) transaction
}

// transaction is what a test enqueues in.
type transaction struct {
	outbox.Tx
	commit, rollback func() error
}

// engines are all the ways that are supported.
func engines() []engine {
	return []engine{
		{"sqlite", schema.SQLite, openSQLite},
		{"pq", schema.Postgres, func(t *testing.T) *database { t.Helper(); return openSQL(t, "postgres", "") }},
		{"pq-binary", schema.Postgres, func(t *testing.T) *database { t.Helper(); return openSQL(t, "postgres", "binary_parameters=yes") }},
		{"pgx-stdlib", schema.Postgres, func(t *testing.T) *database { t.Helper(); return openSQL(t, "pgx", "") }},
		{"pgx", schema.Postgres, openPgx},
	}
}

// onEngines runs a test on every engine, with the tables in place.
func onEngines(t *testing.T, test func(t *testing.T, d *database)) {
	t.Helper()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			d := e.open(t)
			if err := schema.Migrate(t.Context(), d.db, e.dialect); err != nil {
				t.Fatal(err)
			}
			test(t, d)
		})
	}
}

func openSQLite(t *testing.T) *database {
	t.Helper()
	db, err := sqlite.Open(filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, db)
	return &database{dialect: schema.SQLite, db: db, begin: beginner(db)}
}

func openSQL(t *testing.T, driver, option string) *database {
	t.Helper()
	dsn := pgtest.DSN(t)
	if option != "" {
		dsn += "&" + option
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, db)
	return &database{dialect: schema.Postgres, db: db, begin: beginner(db)}
}

func openPgx(t *testing.T) *database {
	t.Helper()
	dsn := pgtest.DSN(t)
	db, err := postgres.Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, db)
	return &database{dialect: schema.Postgres, db: db, begin: func(t *testing.T) transaction {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		tx, err := conn.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return transaction{
			Tx:       outbox.FromPgx(tx),
			commit:   func() error { return tx.Commit(context.Background()) },
			rollback: func() error { return tx.Rollback(context.Background()) },
		}
	}}
}

func closeAtEnd(t *testing.T, db *sql.DB) {
	t.Helper()
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

func beginner(db *sql.DB) func(t *testing.T) transaction {
	return func(t *testing.T) transaction {
		t.Helper()
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback() }) // of a test that failed
		return transaction{Tx: tx, commit: tx.Commit, rollback: tx.Rollback}
	}
}

// within runs fn in a transaction that commits.
func (d *database) within(t *testing.T, fn func(tx outbox.Tx)) {
	t.Helper()
	tx := d.begin(t)
	fn(tx.Tx)
	if err := tx.commit(); err != nil {
		t.Fatal(err)
	}
}

// count returns the number that a query finds.
func (d *database) count(t *testing.T, query string, args ...any) (n int) {
	t.Helper()
	if err := d.db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// exec runs a statement outside of the transactions under test.
func (d *database) exec(t *testing.T, query string, args ...any) {
	t.Helper()
	if _, err := d.db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatal(err)
	}
}

// onlyExec hides everything of a transaction but ExecContext.
type onlyExec struct{ outbox.Execer }

// message returns a message that is accepted.
func message(key string) *outbox.Message {
	return &outbox.Message{
		From:    outbox.Address{Name: "Shop", Address: "shop@example.com"},
		To:      []outbox.Address{{Address: "ann@example.org"}},
		Subject: "Your order " + key,
		Text:    "Thank you.",
		Key:     key,
	}
}

// enqueue stores a message and fails the test where that fails.
func enqueue(t *testing.T, tx outbox.Tx, m *outbox.Message) outbox.Receipt {
	t.Helper()
	r, err := outbox.Enqueue(t.Context(), tx, m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
