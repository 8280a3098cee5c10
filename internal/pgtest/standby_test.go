package pgtest_test

import (
	"database/sql"
	"testing"

	"github.com/outboxmail/outbox/internal/pgtest"
)

// A standby has the rows of its primary and refuses to write. Once promoted it writes. A primary that is demoted only reads.
func TestStandby(t *testing.T) {
	t.Parallel()
	primary := pgtest.StartForTest(t, pgtest.Options{})
	open := func(c *pgtest.Cluster) *sql.DB {
		db, err := sql.Open("postgres", c.DSN())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	old := open(primary)
	if _, err := old.ExecContext(t.Context(), "CREATE TABLE things (n integer)"); err != nil {
		t.Fatal(err)
	}
	standby := primary.StandbyForTest(t)
	db := open(standby)
	const write = "INSERT INTO things VALUES (1)"
	if _, err := db.ExecContext(t.Context(), write); err == nil {
		t.Error("a standby writes")
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), write); err != nil {
		t.Errorf("a promoted standby does not write: %v", err)
	}
	if err := primary.Down(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	if err := primary.Demote(); err != nil {
		t.Fatal(err)
	}
	if err := primary.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := open(primary).ExecContext(t.Context(), write); err == nil {
		t.Error("a demoted primary writes")
	}
}
