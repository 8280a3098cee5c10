package store

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"
	"modernc.org/sqlite"

	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/schema"
)

// openForPlans returns an SQLite file with the tables.
func openForPlans(t *testing.T) (*sqlx.DB, *Store) {
	t.Helper()
	db, err := sqlx.Open("sqlite", filepath.Join(t.TempDir(), "app.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := New(db.DB, schema.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), db.DB, s.dialect); err != nil {
		t.Fatal(err)
	}
	return db, s
}

// On SQLite every statement of a dispatcher searches an index; none reads a table or sorts what it holds.
func TestPlansOnSQLite(t *testing.T) {
	t.Parallel()
	db, s := openForPlans(t)
	check := func(when string) {
		t.Helper()
		t.Log(when)
		for name, n := range map[string]int{
			"due": 2, "claim": 7, "claim_alone": 7, "claimed_messages": 2, "fence": 3, "renew": 2, "settle": 17, "settle_sent": 9, "end_claim": 1, "mark_lapsed": 0, "excuse": 0, "lapsed": 1,
			"lapsed_fences": 0, "end_lapsed": 0, "resend_uncertain": 1, "expire": 1,
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
				leased := strings.Contains(line, "INDEX outbox_deliveries_leased") || strings.Contains(line, "outbox_deliveries_uncertain")
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
	for part, n := range [...]int{sent / 100, scheduled / 100, due / 100} {
		loadSQLite(t, db, part, n)
	}
	if _, err := db.ExecContext(t.Context(), "ANALYZE"); err != nil {
		t.Fatal(err)
	}
	check("analysed")
}

// What a statement has to do with its rows themselves, as on PostgreSQL. $1 is a JSON array of references.
const (
	sqliteMessages   = `SELECT count(m.body) FROM json_each($1) AS k CROSS JOIN outbox_messages m ON m.id = k.value ->> 'id'`
	sqliteDeliveries = `SELECT count(d.due_at) FROM json_each($1) AS k CROSS JOIN outbox_deliveries d ON d.message_id = k.value ->> 'id' AND d.seq = 1`
	sqliteSuppressed = `SELECT count((SELECT reason FROM outbox_suppressions WHERE address = k.value ->> 'id')) FROM json_each($1) AS k`
	sqliteChange     = `UPDATE outbox_deliveries SET %s FROM (SELECT value ->> 'id' AS id FROM json_each($1)) AS x WHERE message_id = x.id AND seq = 1`
)

func loadSQLite(t *testing.T, db *sqlx.DB, part, n int) {
	t.Helper()
	load(t, db, part, n, func(n int) string {
		return fmt.Sprintf("FROM (WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < %d) SELECT n FROM g) AS g", n)
	}, "'0189000%d-0000-7000-8000-' || printf('%%012x', g.n)", "blob")
}

// sqlitePages counts the pages that a statement touches, in the cache or not, after prepare, and the rows that it returns or
// changes. Its changes are undone.
func sqlitePages(t *testing.T, db *sqlx.DB, prepare, query string, args ...any) (pages, rows int) {
	t.Helper()
	conn, err := db.Connx(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	exec := func(query string) {
		t.Helper()
		_, err := conn.ExecContext(t.Context(), query)
		must(err)
	}
	exec("BEGIN IMMEDIATE")
	defer exec("ROLLBACK")
	if prepare != "" {
		exec(prepare)
	}
	stmt, err := conn.PreparexContext(t.Context(), query)
	must(err)
	defer func() { _ = stmt.Close() }()
	touched := func() (n int) {
		t.Helper()
		must(conn.Raw(func(c any) error {
			for _, op := range []sqlite.DBStatusOp{sqlite.DBStatusCacheHit, sqlite.DBStatusCacheMiss} {
				count, _, err := c.(sqlite.DBStatus).Status(op, false)
				if err != nil {
					return err
				}
				n += count
			}
			return nil
		}))
		return n
	}
	changes := func() (n int) {
		t.Helper()
		must(conn.GetContext(t.Context(), &n, "SELECT total_changes()"))
		return n
	}
	changed, before := changes(), touched()
	found, err := stmt.QueryxContext(t.Context(), args...)
	must(err)
	defer func() { _ = found.Close() }()
	for found.Next() { // the last call ends the statement
		rows++
	}
	must(found.Err())
	pages = touched() - before
	return pages, max(rows, changes()-changed)
}

// In a large database with statistics (ANALYZE), the work of a dispatcher on 100 rows costs what these rows cost, and fewer
// than 100 pages more. It once read all queued rows to find those that are due.
func TestDepthOnSQLite(t *testing.T) {
	t.Parallel()
	n := 8_000 // the race detector makes SQLite slow
	if campaign.On() {
		n = scheduled
	}
	db, s := openForPlans(t)
	for part, rows := range [...]int{sent, scheduled, due} {
		loadSQLite(t, db, part, min(rows, n))
	}
	for _, state := range []string{"never analysed", "analysed"} {
		if state == "analysed" {
			if _, err := db.ExecContext(t.Context(), "ANALYZE"); err != nil {
				t.Fatal(err)
			}
		}
		t.Logf("%d sent, %d scheduled, %d due, %s:", n, n, due, state)
		sqliteDepth(t, db, s)
	}
}

func sqliteDepth(t *testing.T, db *sqlx.DB, s *Store) {
	t.Helper()
	const (
		token = "01890000-0000-7000-8000-0000000000ff"
		ago   = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 hour')"
		claim = "state = 'sending', attempts = attempts + 1, lease_token = '" + token + "'"
		back  = "state = 'queued', lease_token = NULL, due_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), class = 'transient'"
	)
	refs := make([]settlementJSON, 100)
	for i := range refs {
		refs[i] = settlementJSON{
			refJSON: refJSON{ID: testID(2, i+1), Seq: 1, Token: token}, Verb: "defer", State: "queued", Delay: "+3600.000 seconds",
			Evidence: true, Class: optional("transient"),
		}
	}
	list, err := json.Marshal(refs)
	if err != nil {
		t.Fatal(err)
	}
	one := refs[0]
	alone, err := json.Marshal(refs[:1])
	if err != nil {
		t.Fatal(err)
	}
	lease := "INSERT INTO outbox_claims (token, owner, fenced, lease_until) VALUES ('" + token + "', 'd1', 1, '2090-01-01T00:00:00.000Z'); " + strings.ReplaceAll(fmt.Sprintf(sqliteChange, claim), "$1", "'"+string(list)+"'")
	doubt := lease + "; UPDATE outbox_deliveries SET state = 'uncertain', lease_token = NULL WHERE state = 'sending'"
	overdue := strings.ReplaceAll(fmt.Sprintf(sqliteChange, "expires_at = "+ago), "$1", "'"+string(list)+"'")
	message, _ := sqlitePages(t, db, "", sqliteMessages, string(list))
	delivery, _ := sqlitePages(t, db, "", sqliteDeliveries, string(list))
	suppressed, _ := sqlitePages(t, db, "", sqliteSuppressed, string(list))
	t.Logf("pages for 100 rows by key: read a message %d, read a delivery %d, look up a suppression %d", message, delivery, suppressed)
	for _, p := range []struct {
		name, prepare string
		args          []any
		rows          int
		set           string // how it changes them
		own           int    // pages for its rows besides: a claim also looks at the deadline of each, which no index holds
	}{
		{"due", "", []any{`["default"]`, "primary"}, 0, "", 0},
		{"claim", "", []any{"default", "normal", 100, token, "primary", "d1", false}, 100, claim, 2*delivery + suppressed},
		{"claim", "", []any{"default", "bulk", 100, token, "primary", "d1", false}, 0, "", 0},
		{"claim_alone", "", []any{"default", "normal", 1, token, "primary", "d1", true}, 0, "", 0},
		{"fence", lease, []any{token, "primary", "[]"}, 1, "", 0},
		{"renew", lease, []any{token, "+60.000 seconds"}, 1, "", 0},
		{"end_claim", lease, []any{token}, 0, "", 0},
		{"mark_lapsed", lease, nil, 0, "", 0},
		{"settle", lease, []any{
			one.ID, 1, token, one.Verb, one.State, one.Delay, false, false, true, nil, one.Class, nil, nil, nil, nil, nil, 0,
		}, 1, back, 0},
		{"lapsed", lease, []any{500}, 0, "", delivery}, // it looks at what is leased
		{"reapable", lease, nil, 1, "", delivery},
		{"resend_uncertain", doubt, []any{500}, 100, "state = 'queued'", message + delivery},
		{"expire", overdue, []any{500}, 100, "state = 'expired', finished_at = " + ago, 2 * delivery},
	} {
		rows := p.own
		if p.set != "" {
			keys := list
			if p.rows == 1 {
				keys = alone
			}
			n, _ := sqlitePages(t, db, p.prepare, fmt.Sprintf(sqliteChange, p.set), string(keys))
			rows += n
		}
		touched, found := sqlitePages(t, db, p.prepare, s.queries.get(p.name), p.args...)
		if found < p.rows || p.rows == 0 && p.name == "claim" && found > 0 {
			t.Errorf("%s found %d rows, want %d", p.name, found, p.rows)
		}
		if touched-rows >= beyond {
			t.Errorf("%s touches %d pages, of which its rows account for %d: %d more, not fewer than %d", p.name, touched, rows, touched-rows, beyond)
		}
		t.Logf("%-17s %3d rows %5d pages, %5d of them for the rows themselves, %4d beyond", p.name, p.rows, touched, rows, touched-rows)
	}
}
