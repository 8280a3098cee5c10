package schema_test

import (
	"database/sql"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox/schema"
)

// typed inserts a message that was typed by hand, with some columns replaced by literals.
func typed(t *testing.T, db *sql.DB, columns map[string]string) error {
	t.Helper()
	id := uuid.NewString()
	row := map[string]string{
		"id": "'" + id + "'", "message_id": "'<" + id + "@example.com>'", "sender": "'shop@example.com'",
		"recipients": `'["ann@example.org"]'`, "size": "3",
	}
	maps.Copy(row, columns)
	names := slices.Sorted(maps.Keys(row))
	values := make([]string, len(names))
	for i, name := range names {
		values[i] = row[name]
	}
	_, err := db.ExecContext(t.Context(), "INSERT INTO outbox_messages ("+strings.Join(names, ", ")+") VALUES ("+strings.Join(values, ", ")+")")
	return err
}

// A row that nobody could read or send is refused where it is inserted, by whatever program.
func TestUnsoundMessagesAreRefused(t *testing.T) {
	t.Parallel()
	times := []string{
		`2026-11-31T10:00:00.000Z`, `2026-02-29T10:00:00.000Z`, `2026-01-01T25:00:00.000Z`, `soon`, ``,
		`1969-12-31T23:59:59.999Z`, `10000-01-01T00:00:00.000Z`, `-0001-01-01T00:00:00.000Z`,
	}
	bad := map[string][]string{
		"id":              {`12`, ``, `0190-0000000000000000000000000000000000`, `zzzzzzzz-0000-7000-8000-000000000001`},
		"recipients":      {`[]`, `{"to":"a@example.com"}`, `"a@example.com"`, `["a@example.com",]`, `[1]`, `["a@example.com",null]`, `[""]`, `[["a@example.com"]]`, `["` + strings.Repeat("x", 1001) + `"]`},
		"route":           {``},
		"priority":        {`urgent`, `High`, ``},
		"on_uncertain":    {`drop`, ``},
		"size":            {`0`, `-1`, `2147483648`, `9223372036854775807`},
		"idempotency_key": {``},
		"tags":            {`{}`, `"a"`, `[1]`, `["a",null]`, `[["a"]]`, `['a']`, `[`},
		"metadata":        {`[]`, `"a"`, `{"order":42}`, `{"a":null}`, `{"a":["x"]}`, `{"a":{"b":"c"}}`, `{a:"x"}`, `{`},
		"not_before":      times,
		"expires_at":      times,
		"created_at":      times,
	}
	only := map[schema.Dialect]map[string][]string{
		schema.SQLite: {
			"id":         {`01890000-0000-7000-8000-00000000000A`, `{01890000-0000-7000-8000-0000000000}`, `018900000000-7000-8000-000000000001-`},
			"not_before": {`2026-01-01 10:00:00`, `2026-01-01T10:00:00Z`, `2026-01-01T10:00:00.000+00:00`, `2451545`},
			// PostgreSQL reads these as the next minute and the next day.
			"created_at": {`2026-11-30T10:00:60.000Z`, `2026-01-01T24:00:00.000Z`},
			"expires_at": {`2026-01-01T10:00:00.0000Z`, `2026-1-1T10:00:00.000Z`, `2026-11-30T10:00:60.000Z`},
		},
		schema.Postgres: {
			"not_before": {`infinity`, `-infinity`},
			"expires_at": {`infinity`, `-infinity`},
			"created_at": {`infinity`, `-infinity`},
		},
	}
	good := map[string][]string{
		"not_before":      {`1970-01-01T00:00:00.000Z`, `9999-12-31T23:59:59.999Z`, `2028-02-29T12:30:15.123Z`},
		"expires_at":      {`9999-12-31T23:59:59.999Z`},
		"created_at":      {`2001-01-01T00:00:00.000Z`},
		"tags":            {`[]`, `["a","\u00e9"]`, `["1","null"]`},
		"metadata":        {`{}`, `{"a":"x","b":"{}"}`},
		"recipients":      {`["a@example.com","b@example.com"]`, `["` + strings.Repeat("x", 1000) + `"]`},
		"size":            {`1`, `2147483647`},
		"idempotency_key": {`k`},
		"priority":        {`high`, `bulk`},
		"on_uncertain":    {`hold`},
	}
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		migrate(t, db, d)
		for _, table := range []map[string][]string{bad, only[d]} {
			for column, values := range table {
				for _, v := range values {
					err := typed(t, db, map[string]string{column: "'" + strings.ReplaceAll(v, "'", "''") + "'"})
					if err == nil {
						t.Errorf("%s = %q is taken", column, v)
					}
				}
			}
		}
		for column, values := range good {
			for _, v := range values {
				if err := typed(t, db, map[string]string{column: "'" + v + "'"}); err != nil {
					t.Errorf("%s = %q is refused: %v", column, v, err)
				}
			}
		}
		var n int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_messages m WHERE NOT EXISTS "+
			"(SELECT 1 FROM outbox_deliveries d WHERE d.message_id = m.id)").Scan(&n); err != nil || n != 0 {
			t.Errorf("%d messages have no delivery (%v)", n, err)
		}
	})
}

// One statement inserts many messages: each is expanded, and one that is refused refuses all.
func TestManyMessagesInAStatement(t *testing.T) {
	t.Parallel()
	const text = `INSERT INTO outbox_messages (id, message_id, sender, recipients, size, metadata)
SELECT '01890000-0000-7000-8000-00000000000' || n, '<m>', 's@example.com', '["a@example.com","b@example.com"]', 3, CASE WHEN n = $1 THEN '{"a":1}' END`
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		migrate(t, db, d)
		query := text + " FROM (SELECT 1 AS n UNION ALL SELECT 2 UNION ALL SELECT 3) AS x"
		if d == schema.Postgres {
			query = strings.NewReplacer("|| n,", "|| n)::uuid,", "SELECT '0189", "SELECT ('0189", "'[", "jsonb '[", "END FROM", "END::jsonb FROM", "$1", "$1::integer").Replace(query)
		}
		if _, err := db.ExecContext(t.Context(), query, 2); err == nil || !strings.Contains(err.Error(), "metadata must be an object of strings") {
			t.Errorf("the error is %v", err)
		}
		exec(t, db, query, 0)
		var n int
		if err := db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_deliveries").Scan(&n); err != nil || n != 6 {
			t.Errorf("%d deliveries (%v), want 6", n, err)
		}
	})
}

// A session whose triggers are off cannot enqueue: the message would have no delivery.
func TestSessionWithoutTriggers(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		if d != schema.Postgres {
			t.Skip("SQLite has no such setting of a session")
		}
		db := connect()
		migrate(t, db, d)
		db.SetMaxOpenConns(1)
		exec(t, db, "SET session_replication_role = replica")
		if err := typed(t, db, nil); err == nil || !strings.Contains(err.Error(), "triggers are off in this session") {
			t.Errorf("the error is %v", err)
		}
		// Replication and restoring give every column, and bring the deliveries themselves.
		if err := typed(t, db, map[string]string{"created_at": "'2026-01-01T00:00:00.000Z'"}); err != nil {
			t.Error(err)
		}
		exec(t, db, "SET session_replication_role = origin")
		if err := typed(t, db, nil); err != nil {
			t.Error(err)
		}
	})
}

// The migrations are ASCII, so that a database of any encoding takes them.
func TestMigrationsAreASCII(t *testing.T) {
	t.Parallel()
	for _, d := range []schema.Dialect{schema.SQLite, schema.Postgres} {
		for i, r := range schema.SQL(d) {
			if r > 127 {
				t.Errorf("%s: byte %d is %q", d, i, r)
			}
		}
	}
}
