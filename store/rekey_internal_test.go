package store

import (
	"path/filepath"
	"testing"

	"github.com/jmoiron/sqlx"
	_ "modernc.org/sqlite"

	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
)

// A resealed message replaces only the row that was read. It replaces neither a row with another key, nor one whose body was
// scrubbed since.
func TestRekeyWritesOverWhatWasRead(t *testing.T) {
	for _, e := range []struct{ driver, dsn string }{
		{"sqlite", filepath.Join(t.TempDir(), "app.db")}, {"postgres", ""},
	} {
		t.Run(e.driver, func(t *testing.T) {
			if e.dsn == "" {
				e.dsn = pgtest.DSN(t)
			}
			db, err := sqlx.Open(e.driver, e.dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			s, err := New(db.DB, dialects[e.driver])
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Migrate(t.Context(), db.DB, s.dialect); err != nil {
				t.Fatal(err)
			}
			const id = "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"
			exec := func(query string, args ...any) int64 {
				t.Helper()
				n, err := affected(t.Context(), db, query, args...)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			exec("INSERT INTO outbox_messages (id, message_id, sender, recipients, size, body_key_id, body) "+
				"VALUES ('"+id+"', '<a@b>', 'a@b', '[\"c@d\"]', 1, 'k1', $1)", []byte("x"))
			rekey := func(before any, scrubbed bool) int64 {
				t.Helper()
				return exec(s.queries.get("rekey"), id, []byte("y"), "s", `{"a":"b"}`, "k2", before, scrubbed)
			}
			if n := rekey("k0", false) + rekey("", false) + rekey("k1", true); n != 0 {
				t.Errorf("%d rows were written over something else", n)
			}
			if n := rekey("k1", false); n != 1 {
				t.Errorf("%d rows were written over what was read", n)
			}
			if n := rekey("k1", false); n != 0 {
				t.Error("it was written again")
			}
			exec("UPDATE outbox_messages SET body = NULL")
			if n := rekey("k2", false); n != 0 {
				t.Error("a body came back that was scrubbed")
			}
			if n := exec(s.queries.get("rekey"), id, nil, "s", nil, nil, "k2", true); n != 1 {
				t.Error("what was scrubbed keeps its key")
			}
		})
	}
}
