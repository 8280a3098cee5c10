package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
)

// Kept statements behave like new ones: while rows of the same text are open, when the table changes under them,
// after errors, and when there are more statements than a connection keeps.
func TestKeptStatements(t *testing.T) {
	t.Parallel()
	db := open(t, filepath.Join(t.TempDir(), "app.db"))
	db.SetMaxOpenConns(1) // all statements run on one connection
	ctx := t.Context()
	exec(t, db, "CREATE TABLE t (n integer PRIMARY KEY)")
	for n := range 3 {
		exec(t, db, "INSERT INTO t VALUES (?)", n)
	}
	if _, err := db.ExecContext(ctx, "INSERT INTO t VALUES (?)", 1); err == nil {
		t.Error("a duplicate is taken")
	}
	exec(t, db, "INSERT INTO t VALUES (?)", 3)

	c, err := db.Conn(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	const query = "SELECT n FROM t ORDER BY n"
	pairs := 0
	walk := func(visit func()) {
		rows, err := c.QueryContext(ctx, query)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			visit()
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	walk(func() { walk(func() { pairs++ }) })
	if pairs != 16 {
		t.Errorf("%d pairs, want 16", pairs)
	}

	if _, err := c.ExecContext(ctx, "ALTER TABLE t ADD COLUMN name text DEFAULT 'none'"); err != nil {
		t.Fatal(err)
	}
	var row struct {
		N    int
		Name string
	}
	for range 2 {
		if err := c.QueryRowContext(ctx, "SELECT n, name FROM t WHERE n = ?", 2).Scan(&row.N, &row.Name); err != nil || row.Name != "none" {
			t.Errorf("after a column was added: %+v, %v", row, err)
		}
		if _, err := c.ExecContext(ctx, "UPDATE t SET name = 'none'"); err != nil {
			t.Error(err)
		}
	}

	for i := range 200 {
		var got int
		if err := c.QueryRowContext(ctx, fmt.Sprintf("SELECT %d", i)).Scan(&got); err != nil || got != i {
			t.Fatalf("statement %d: %d, %v", i, got, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := c.ExecContext(cancelled, "UPDATE t SET name = 'never'"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
	if err := c.QueryRowContext(ctx, "SELECT n, name FROM t WHERE n = ?", 2).Scan(&row.N, &row.Name); err != nil || row.Name != "none" {
		t.Errorf("%+v, %v", row, err)
	}
}
