package outbox_test

import (
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
		if _, err := outbox.Enqueue(t.Context(), outbox.InTx(d.db), message("")); err == nil {
			t.Error("a connection pool is taken for a transaction")
		}
		if _, err := outbox.Cancel(t.Context(), outbox.InTx(sqlx.NewDb(d.db, "x")), "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"); err == nil {
			t.Error("a connection pool of sqlx is taken for a transaction")
		}
		if _, err := outbox.Enqueue(t.Context(), outbox.InTx(nil), message("")); err == nil {
			t.Error("nil is taken for a transaction")
		}
		if n := d.count(t, `SELECT count(*) FROM outbox_messages`); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
	})
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
