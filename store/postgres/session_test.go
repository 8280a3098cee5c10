package postgres_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/store/postgres"
)

// fillPool opens n sessions and leaves them idle. It returns the process ids of their backends.
func fillPool(t *testing.T, db *sql.DB, n int) map[int]bool {
	t.Helper()
	pids := make(map[int]bool, n)
	var conns []*sql.Conn
	for range n {
		c, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		pids[pidOf(t, c)] = true
	}
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return pids
}

func pidOf(t *testing.T, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}) (pid int) {
	t.Helper()
	if err := q.QueryRowContext(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// inTransaction runs fn in a transaction of the application.
func inTransaction(ctx context.Context, db *sql.DB, opts *sql.TxOptions, fn func(tx *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, opts)
	if err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// The sessions of a pool lead to a server that only reads now. The application's first write fails. No session of that time is used again,
// whether it was idle or at work, and whichever way the application writes.
func TestThePoolDropsWhatOnlyReads(t *testing.T) {
	t.Parallel()
	const insert = "INSERT INTO things VALUES ($1)"
	for name, write := range map[string]func(ctx context.Context, db *sql.DB) error{
		"statement": func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, insert, 1)
			return err
		},
		"rows": func(ctx context.Context, db *sql.DB) error {
			var n int
			return db.QueryRowContext(ctx, insert+" RETURNING n", 1).Scan(&n)
		},
		"prepared": func(ctx context.Context, db *sql.DB) error {
			return inTransaction(ctx, db, nil, func(tx *sql.Tx) error {
				stmt, err := tx.PrepareContext(ctx, insert)
				if err != nil {
					return err
				}
				defer func() { _ = stmt.Close() }()
				_, err = stmt.ExecContext(ctx, 1)
				return err
			})
		},
		"transaction": func(ctx context.Context, db *sql.DB) error {
			return inTransaction(ctx, db, nil, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, insert, 1)
				return err
			})
		},
		"serializable transaction": func(ctx context.Context, db *sql.DB) error {
			return inTransaction(ctx, db, &sql.TxOptions{Isolation: sql.LevelSerializable}, func(tx *sql.Tx) error {
				var level string
				if err := tx.QueryRowContext(ctx, "SHOW transaction_isolation").Scan(&level); err != nil || level != "serializable" {
					return fmt.Errorf("the level is %q: %w", level, err)
				}
				_, err := tx.ExecContext(ctx, insert, 1)
				return err
			})
		},
		"copy": func(ctx context.Context, db *sql.DB) error {
			return inTransaction(ctx, db, nil, func(tx *sql.Tx) error {
				stmt, err := tx.PrepareContext(ctx, `COPY things (n) FROM STDIN`)
				if err != nil {
					return err
				}
				defer func() { _ = stmt.Close() }()
				if _, err = stmt.ExecContext(ctx, 1); err == nil {
					_, err = stmt.ExecContext(ctx)
				}
				return err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dsn := pgtest.DSN(t)
			u, err := url.Parse(dsn)
			if err != nil {
				t.Fatal(err)
			}
			admin := opened(t, dsn)
			set := fmt.Sprintf("ALTER DATABASE %q ", strings.TrimPrefix(u.Path, "/"))
			for _, statement := range []string{"CREATE TABLE things (n integer)", set + "SET default_transaction_read_only = on"} {
				if _, err := admin.ExecContext(t.Context(), statement); err != nil {
					t.Fatal(err)
				}
			}
			db := opened(t, dsn)
			old := fillPool(t, db, 4)
			busy, err := db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := admin.ExecContext(t.Context(), set+"RESET default_transaction_read_only"); err != nil {
				t.Fatal(err)
			}
			if err := write(t.Context(), db); err == nil || !strings.Contains(err.Error(), "read-only transaction") {
				t.Fatalf("the first write: %v", err)
			}
			if err := busy.Close(); err != nil {
				t.Fatal(err)
			}
			if err := write(t.Context(), db); err != nil {
				t.Errorf("the second write: %v", err)
			}
			for pid := range fillPool(t, db, 4) {
				if old[pid] {
					t.Errorf("backend %d is still used", pid)
				}
			}
		})
	}
}

// A transaction that was begun to read only has itself to blame: the pool keeps its sessions.
func TestThePoolKeepsItsSessions(t *testing.T) {
	t.Parallel()
	db := opened(t, pgtest.DSN(t))
	before := pidOf(t, db)
	err := inTransaction(t.Context(), db, &sql.TxOptions{ReadOnly: true}, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "CREATE TABLE things (n integer)")
		return err
	})
	if err == nil {
		t.Error("a transaction that reads only has written")
	}
	if after := pidOf(t, db); after != before {
		t.Error("the session was dropped")
	}
	err = inTransaction(t.Context(), db, nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "SELECT 1/0")
		return err
	})
	if err == nil {
		t.Error("a division by zero is no error")
	}
	if after := pidOf(t, db); after != before {
		t.Error("the session was dropped")
	}
}

func opened(t *testing.T, dsn string) *sql.DB {
	t.Helper()
	db, err := postgres.Open(dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}
