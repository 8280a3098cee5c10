package outbox_test

import (
	"context"
	"database/sql"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
)

// What a transaction is, the compiler decides.
var (
	_ outbox.Tx = (*sql.Tx)(nil)
	_ outbox.Tx = (*sqlx.Tx)(nil)

	_ = func(tx pgx.Tx) outbox.Tx { return outbox.FromPgx(tx) }
	_ = func(tx *pgxpool.Tx) outbox.Tx { return outbox.FromPgx(tx) }
	_ = func(tx pgx.Tx) outbox.Tx { return outbox.FromPgx[pgconn.CommandTag](tx) }
)

// TestEnqueueOutsideATransactionDoesNotCompile builds three small programs: one that is right, to know that the test can
// tell, and two that are wrong.
func TestEnqueueOutsideATransactionDoesNotCompile(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the compiler")
	}
	for _, test := range []struct{ dir, want string }{
		{"tx", ""},
		{"db", "*sql.DB does not implement outbox.Tx"},
		{"conn", "*sql.Conn does not implement outbox.Tx"},
	} {
		out, err := exec.CommandContext(t.Context(), "go", "vet", "./testdata/compile/"+test.dir).CombinedOutput()
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s does not compile: %v\n%s", test.dir, err, out)
		case test.want != "" && err == nil:
			t.Errorf("%s compiles", test.dir)
		case !strings.Contains(string(out), test.want):
			t.Errorf("%s: the compiler says\n%s\nwant %q", test.dir, out, test.want)
		}
	}
}

func TestInTx(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		tx := d.begin(t)
		wrapped := outbox.InTx(onlyExec{tx.Tx})
		enqueue(t, wrapped, message(""))
		if wrapped.Commit() == nil || wrapped.Rollback() == nil {
			t.Error("the wrapper commits or rolls back what it does not own")
		}
		if err := tx.commit(); err != nil {
			t.Fatal(err)
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_messages`); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
	})
}

// What can begin a transaction is none, whatever the signature of its methods, and nothing is written through it.
func TestInTxRefusesWhatIsNoTransaction(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		conn, err := d.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		x := sqlx.NewDb(d.db, "x")
		connx, err := x.Connx(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = connx.Close() }()
		for name, e := range map[string]outbox.Execer{
			"nothing":                   nil,
			"a nil pointer":             (*sql.Tx)(nil),
			"a pool":                    d.db,
			"a connection":              conn,
			"a pool of sqlx":            x,
			"a connection of sqlx":      connx,
			"a pool of some library":    pool{d.db},
			"its pointer":               &pool{d.db},
			"one that embeds a pool":    struct{ *sql.DB }{d.db},
			"one that begins a *pgx.Tx": pgxPool{onlyExec{d.db}},
		} {
			tx := outbox.InTx(e)
			if _, err := outbox.Enqueue(t.Context(), tx, message("")); err == nil || strings.Contains(err.Error(), "invalid") {
				t.Errorf("%s is taken for a transaction (%v)", name, err)
			}
			if _, err := outbox.EnqueueMany(t.Context(), tx, []*outbox.Message{message("")}); err == nil {
				t.Errorf("%s is taken for a transaction by EnqueueMany", name)
			}
			if _, err := outbox.Cancel(t.Context(), tx, "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"); err == nil {
				t.Errorf("%s is taken for a transaction by Cancel", name)
			}
		}
		if _, err := outbox.Enqueue(t.Context(), (*sql.Tx)(nil), message("")); err == nil {
			t.Error("a nil pointer is taken for a transaction")
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_messages`); n != 0 {
			t.Errorf("%d messages, want 0", n)
		}
	})
}

// pool begins transactions of a type of its own, as the pools of ORMs do.
type pool struct{ outbox.Execer }

func (pool) BeginTx(context.Context, *sql.TxOptions) (int, error) { return 0, nil }

// pgxPool begins as pgxpool does.
type pgxPool struct{ outbox.Execer }

func (pgxPool) Begin(context.Context) (pgx.Tx, error) { return nil, sql.ErrTxDone }

// A transaction that begins savepoints is one.
func TestInTxTakesATransactionWithSavepoints(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		tx := d.begin(t)
		enqueue(t, outbox.InTx(withSavepoints{tx.Tx}), message(""))
		if err := tx.commit(); err != nil {
			t.Fatal(err)
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_messages`); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
	})
}

type withSavepoints struct{ outbox.Tx }

func (withSavepoints) Begin() (outbox.Tx, error) { return nil, sql.ErrTxDone }

// A transaction that formats placeholders of its own, as bun's does, sends the statement without its arguments.
func TestArgumentsThatAreLost(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		for verb, call := range map[string]func(tx outbox.Tx) error{
			"Enqueue": func(tx outbox.Tx) error { _, err := outbox.Enqueue(t.Context(), tx, message("")); return err },
			"EnqueueMany": func(tx outbox.Tx) error {
				_, err := outbox.EnqueueMany(t.Context(), tx, []*outbox.Message{message(""), message("")})
				return err
			},
			"Cancel": func(tx outbox.Tx) error {
				_, err := outbox.Cancel(t.Context(), tx, "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11")
				return err
			},
		} {
			tx := d.begin(t)
			if err := call(withoutArguments{tx.Tx}); err == nil || !strings.Contains(err.Error(), "tx.Tx") {
				t.Errorf("%s: the error is %v", verb, err)
			}
			_ = tx.rollback()
		}
	})
}

type withoutArguments struct{ outbox.Tx }

func (w withoutArguments) ExecContext(ctx context.Context, query string, _ ...any) (sql.Result, error) {
	return w.Tx.ExecContext(ctx, query)
}

// TestCommitAndRollbackOfATx shows that a Tx that owns its transaction ends it.
func TestCommitAndRollbackOfATx(t *testing.T) {
	onEngines(t, func(t *testing.T, d *database) {
		one := d.begin(t)
		enqueue(t, one.Tx, message(""))
		if err := one.Commit(); err != nil {
			t.Fatal(err)
		}
		two := d.begin(t)
		enqueue(t, two.Tx, message(""))
		if err := two.Rollback(); err != nil {
			t.Fatal(err)
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_messages`); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
	})
}
