package store

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
)

// These tests load a database in which what is due is a small part of what is there, and look at what the statements of a
// dispatcher read. The sizes are those of an outbox that keeps a history and has a large campaign scheduled.
const (
	scheduled = 200_000
	sent      = 200_000
	due       = 1000
)

// load fills the tables with plain SQL; rows is "FROM generate_series(1, n) AS g (n)" in the dialect.
func load(t *testing.T, db *sqlx.DB, rows func(n int) string, id, blob string) {
	t.Helper()
	exec := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	for i, part := range []struct {
		n         int
		notBefore string
	}{{sent, "'2026-01-01T00:00:00.000Z'"}, {scheduled, "'2090-01-01T00:00:00.000Z'"}, {due, "NULL"}} {
		exec(fmt.Sprintf(`INSERT INTO outbox_messages (id, message_id, sender, recipients, size, not_before, body)
SELECT %s, '<m@example.com>', 'shop@example.com', '["ann@example.org"]', 2048, %s, CAST('x' AS %s) %s`,
			fmt.Sprintf(id, i), part.notBefore, blob, rows(part.n)))
		if i == 0 {
			exec(`UPDATE outbox_deliveries SET state = 'sent', finished_at = '2026-01-01T00:00:00.000Z', relay = 'primary', code = 250`)
		}
	}
}

// buffers finds the pages that a plan of PostgreSQL touched.
var buffers = regexp.MustCompile(`Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?`)

// explained is what EXPLAIN (ANALYZE, BUFFERS) says of a statement, whose changes are undone.
func explained(t *testing.T, db *sqlx.DB, generic bool, prepare, query string, args ...any) (pages int, plan string) {
	t.Helper()
	tx, err := db.BeginTxx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	statements := []string{"SET LOCAL plan_cache_mode = force_custom_plan"}
	if generic {
		statements[0] = "SET LOCAL plan_cache_mode = force_generic_plan"
	}
	if prepare != "" {
		statements = append(statements, prepare)
	}
	types := make([]string, len(args))
	values := make([]string, len(args))
	for i, a := range args {
		types[i], values[i] = "unknown", "'"+strings.ReplaceAll(fmt.Sprint(a), "'", "''")+"'"
	}
	declared := ""
	if len(args) > 0 {
		declared = "(" + strings.Join(types, ", ") + ")"
		values[0] = "(" + values[0]
		values[len(values)-1] += ")"
	}
	statements = append(statements, "PREPARE probe "+declared+" AS "+query)
	for _, s := range statements {
		if _, err := tx.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	var lines []string
	if err := tx.SelectContext(t.Context(), &lines,
		"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, COSTS OFF) EXECUTE probe "+strings.Join(values, ", ")); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), "DEALLOCATE probe"); err != nil {
		t.Fatal(err)
	}
	plan = strings.Join(lines, "\n")
	m := buffers.FindStringSubmatch(plan) // the first stands at the top and counts everything below it
	if m == nil {
		t.Fatalf("the plan does not say what it touched:\n%s", plan)
	}
	for _, n := range m[1:] {
		if n != "" {
			k, err := strconv.Atoi(n)
			if err != nil {
				t.Fatal(err)
			}
			pages += k
		}
	}
	return pages, plan
}

// A claim of 100, and everything else that a dispatcher does with what it claimed, costs what its rows cost: neither the
// scheduled nor the sent rows matter, whether the table was ever analysed or not, and whether the plan knows the arguments or
// not.
func TestPlansOnPostgres(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("loads 400,000 rows")
	}
	db, err := sqlx.Open("postgres", pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := New(db)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), db.DB, s.dialect); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"outbox_deliveries", "outbox_messages"} {
		if _, err := db.ExecContext(t.Context(), "ALTER TABLE "+table+" SET (autovacuum_enabled = false)"); err != nil {
			t.Fatal(err)
		}
	}
	load(t, db, func(n int) string { return fmt.Sprintf("FROM generate_series(1, %d) AS g (n)", n) },
		"('0189000%d-0000-7000-8000-' || lpad(to_hex(g.n), 12, '0'))::uuid", "bytea")
	// What the load left behind is cleared away, as autovacuum would; that alone gives the planner no statistics.
	if _, err := db.ExecContext(t.Context(), "VACUUM outbox_deliveries"); err != nil {
		t.Fatal(err)
	}
	for _, state := range []string{"never analysed", "analysed"} {
		if state == "analysed" {
			if _, err := db.ExecContext(t.Context(), "ANALYZE"); err != nil {
				t.Fatal(err)
			}
		}
		for _, generic := range []bool{false, true} {
			t.Logf("%s, generic plan %v:", state, generic)
			postgresPlans(t, db, s, generic)
		}
	}
}

// What a row itself costs at the most, in pages that are mostly the same few: it is read where it is due (1) and locked (1),
// its siblings are found by their key and locked (4 and 2), looked up in the suppression list (2), it is found for its change
// (4), written with six indexes (20), and its message found twice (4 each). What a statement costs beyond its rows is less
// than 100 pages.
const pagesPerRow = 42

func postgresPlans(t *testing.T, db *sqlx.DB, s *Store, generic bool) {
	t.Helper()
	const (
		first = `state = 'queued' AND due_at <= now() AND seq = 1 AND message_id IN
(SELECT message_id FROM outbox_deliveries WHERE state = 'queued' AND due_at <= now() ORDER BY message_id LIMIT 100)`
		lease = `UPDATE outbox_deliveries SET state = 'sending', lease_token = '01890000-0000-7000-8000-0000000000ff',
lease_until = now() + interval '1 hour', lease_owner = 'd1' WHERE ` + first + `
`
		lapse = `; UPDATE outbox_deliveries SET lease_until = now() - interval '1 hour' WHERE state = 'sending'`
	)
	ids := make([]settlementJSON, 100)
	for i := range ids {
		ids[i] = settlementJSON{
			refJSON: refJSON{ID: "", Seq: 1, Token: "01890000-0000-7000-8000-0000000000ff"}, Verb: "defer", State: "queued", Delay: 3600,
			Evidence: true, Class: optional("transient"),
		}
		ids[i].ID = testID(2, i+1)
	}
	list, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		prepare string
		args    []any
		rows    int
	}{
		{"due", "", []any{`["default"]`, "primary"}, 0},
		{"claim", "", []any{"default", "normal", 100, "01890000-0000-7000-8000-000000000001", 60, "d1", 0, 65536, "primary"}, 100},
		{"claim", "", []any{"default", "normal", 100, "01890000-0000-7000-8000-000000000001", 60, "d1", 10_000_000, 65536, "primary"}, 100},
		{"claim", "", []any{"default", "bulk", 100, "01890000-0000-7000-8000-000000000001", 60, "d1", 0, 65536, "primary"}, 0},
		{"commit_stage", lease, []any{string(list)}, 100},
		{"renew", lease, []any{string(list), 60}, 100},
		{"settle", lease, []any{string(list), "d1"}, 100},
		{"reapable", lease, nil, 100}, // it looks at what is leased
		{"reap_lapsed", lease + lapse, []any{500, 10}, 100},
		{"resend_uncertain", lease + `; UPDATE outbox_deliveries SET state = 'uncertain', lease_token = NULL, lease_until = NULL,
lease_owner = NULL WHERE state = 'sending'`, []any{500}, 100},
		{"deliveries_by_provider", "", []any{"p-17", ""}, 0},
		{"deliveries_of", "", []any{string(testID(0, 1)), "ann@example.org"}, 1},
		{"expire", "UPDATE outbox_deliveries SET expires_at = now() - interval '1 hour' WHERE " + first, []any{500}, 100},
	} {
		// The probe before this one left its undone changes behind.
		if _, err := db.ExecContext(t.Context(), "VACUUM outbox_deliveries"); err != nil {
			t.Fatal(err)
		}
		pages, plan := explained(t, db, generic, test.prepare, s.queries.get(test.name), test.args...)
		if most := test.rows*pagesPerRow + 100; pages > most {
			t.Errorf("%s of %d rows touches %d pages, more than %d:\n%s", test.name, test.rows, pages, most, plan)
		}
		if strings.Contains(plan, "Seq Scan on outbox_deliveries") || strings.Contains(plan, "Seq Scan on outbox_messages") {
			t.Errorf("%s reads a whole table:\n%s", test.name, plan)
		}
		if test.name == "claim" && strings.Count(plan, "outbox_deliveries_due") != 1 {
			t.Errorf("a claim must search what is due by its index once, and its siblings by their key:\n%s", plan)
		}
		t.Logf("%-17s %3d rows %5d pages", test.name, test.rows, pages)
	}
}

// testID is an id as load makes it.
func testID(part, n int) outbox.ID {
	return outbox.ID(fmt.Sprintf("0189000%d-0000-7000-8000-%012x", part, n))
}

// On SQLite every statement of a dispatcher searches an index; none reads a table or sorts what it holds.
func TestPlansOnSQLite(t *testing.T) {
	t.Parallel()
	db, err := sqlx.Open("sqlite", filepath.Join(t.TempDir(), "app.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := New(db)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), db.DB, s.dialect); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		t.Log(when)
		for name, n := range map[string]int{
			"due": 2, "claim": 8, "claimed_messages": 2, "commit_stage": 1, "renew": 2, "settle": 1, "lapsed": 1, "resend_uncertain": 1, "expire": 1,
			"deliveries_by_provider": 2, "deliveries_of": 2, "record_feedback": 1, "suppress_bounced": 1, "feedback": 1, "forget_feedback": 1,
			"reapable": 0, "is_old": 2, "purge_old": 3, "finished": 6, "scrub": 2,
		} {
			args := make([]any, n)
			for i := range args {
				args[i] = "[]"
			}
			var plan []struct {
				ID      int    `db:"id"`
				Parent  int    `db:"parent"`
				NotUsed int    `db:"notused"`
				Detail  string `db:"detail"`
			}
			if err := db.SelectContext(t.Context(), &plan, "EXPLAIN QUERY PLAN "+s.queries.get(name), args...); err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var lines []string
			for _, p := range plan {
				lines = append(lines, p.Detail)
			}
			all := strings.Join(lines, "\n")
			for _, line := range lines {
				whole := regexp.MustCompile(`^SCAN (d|m|outbox_deliveries|outbox_messages)\b`).MatchString(line)
				leased := strings.Contains(line, "USING INDEX outbox_deliveries_leased") || strings.Contains(line, "outbox_deliveries_uncertain")
				if whole && !leased { // what is leased or uncertain is little
					t.Errorf("%s reads a whole table:\n%s", name, all)
				}
			}
			if name == "claim" && (!strings.Contains(all, "outbox_deliveries_due (route=? AND priority=? AND due_at<?)") ||
				strings.Count(all, "outbox_deliveries_due") != 1) {
				t.Errorf("a claim must search what is due by its index once, and its siblings by their key:\n%s", all)
			}
		}
	}
	check("never analysed")
	load(t, db, func(n int) string {
		return fmt.Sprintf("FROM (WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < %d) SELECT n FROM g) AS g", n/100)
	}, "'0189000%d-0000-7000-8000-' || printf('%%012x', g.n)", "blob")
	if _, err := db.ExecContext(t.Context(), "ANALYZE"); err != nil {
		t.Fatal(err)
	}
	check("analysed")
}
