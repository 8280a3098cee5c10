package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

var errCut = errors.New("the connection is cut")

// cutTx is a transaction whose connection is cut at some point. Its zero value is sound.
type cutTx struct {
	*sql.Tx
	exec  string // fails for statements that begin with it
	rows  bool   // the number of rows does not arrive
	query bool   // queries fail
	other string // is asked in place of each query
}

func (c *cutTx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if c.exec != "" && strings.HasPrefix(strings.TrimSpace(query), c.exec) {
		return nil, errCut
	}
	result, err := c.Tx.ExecContext(ctx, query, args...)
	if c.rows && err == nil {
		return noRows{result}, nil
	}
	return result, err
}

func (c *cutTx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	switch {
	case c.query:
		return nil, errCut
	case c.other != "":
		return c.Tx.QueryContext(ctx, c.other)
	default:
		return c.Tx.QueryContext(ctx, query, args...)
	}
}

type noRows struct{ sql.Result }

func (noRows) RowsAffected() (int64, error) { return 0, errCut }

// No error of the transaction is taken for success, whichever statement it comes from.
func TestEveryErrorOfTheTransactionIsReturned(t *testing.T) {
	d := openSQLite(t)
	if err := schema.Migrate(t.Context(), d.db, schema.SQLite); err != nil {
		t.Fatal(err)
	}
	var id outbox.ID
	d.within(t, func(tx outbox.Tx) { id = enqueue(t, tx, message("taken")).ID })
	broken := "SELECT json('{') UNION ALL SELECT 1" // fails when a row is read
	for name, tt := range map[string]struct {
		tx  cutTx
		key string
		// Whether each call must fail.
		enqueue, cancel bool
	}{
		"sound":                  {cutTx{}, "taken", false, false},
		"the insert fails":       {cutTx{exec: "INSERT"}, "", true, false},
		"the update fails":       {cutTx{exec: "UPDATE outbox_deliveries"}, "", false, true},
		"the key is not freed":   {cutTx{exec: "UPDATE outbox_messages"}, "", false, true},
		"the rows are not told":  {cutTx{rows: true}, "", true, true},
		"the query fails":        {cutTx{query: true}, "taken", true, true},
		"a row cannot be read":   {cutTx{other: "SELECT 1"}, "taken", true, true},
		"the rows end too early": {cutTx{other: broken}, "taken", true, true},
	} {
		for _, many := range []bool{false, true} {
			tx, err := d.db.BeginTx(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			tt.tx.Tx = tx
			if many {
				_, err = outbox.EnqueueMany(t.Context(), &tt.tx, []*outbox.Message{message(tt.key)})
			} else {
				_, err = outbox.Enqueue(t.Context(), &tt.tx, message(tt.key))
			}
			if (err != nil) != tt.enqueue {
				t.Errorf("%s, many %v: Enqueue returns %v", name, many, err)
			}
			if _, err := outbox.Cancel(t.Context(), &tt.tx, id); (err != nil) != tt.cancel {
				t.Errorf("%s: Cancel returns %v", name, err)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestNoTransaction(t *testing.T) {
	var none *sql.Tx
	for _, tx := range []outbox.Tx{nil, none} {
		_, enqueued := outbox.Enqueue(t.Context(), tx, message(""))
		_, many := outbox.EnqueueMany(t.Context(), tx, []*outbox.Message{message("")})
		_, cancelled := outbox.Cancel(t.Context(), tx, "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11")
		for _, err := range []error{enqueued, many, cancelled} {
			if err == nil || !strings.Contains(err.Error(), "there is no transaction") {
				t.Errorf("%T: %v", tx, err)
			}
		}
	}
}

// cutPgx is a native transaction of pgx whose connection is cut.
type cutPgx struct{ pgx.Tx }

func (cutPgx) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, errCut
}

func (cutPgx) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, errCut }

func TestFromPgxReturnsErrors(t *testing.T) {
	tx := outbox.FromPgx(pgx.Tx(cutPgx{}))
	if _, err := outbox.Enqueue(t.Context(), tx, message("k")); !errors.Is(err, errCut) {
		t.Errorf("Enqueue returns %v", err)
	}
	if _, err := outbox.Cancel(t.Context(), tx, "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"); !errors.Is(err, errCut) {
		t.Errorf("Cancel returns %v", err)
	}
}
