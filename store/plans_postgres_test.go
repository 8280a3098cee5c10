package store

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/schema"
)

var (
	// buffers finds the pages that a plan of PostgreSQL touched.
	buffers = regexp.MustCompile(`Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?`)
	// discarded finds the pairs of rows that a join looked at in vain.
	discarded = regexp.MustCompile(`Rows Removed by Join Filter: (\d+)`)
)

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

// The cost of a claim of 100, and of every other statement of a dispatcher for those rows, depends on the rows alone. Scheduled
// and sent rows do not matter. Neither does it matter whether the table was ever analysed, or whether the plan knows the
// arguments.
func TestPlansOnPostgres(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("loads 400,000 rows")
	}
	db, s := openPostgresForPlans(t)
	for part, n := range [...]int{sent, scheduled, due} {
		loadPostgres(t, db, part, n)
	}
	// Clear away what the load left behind, as autovacuum would. That alone gives the planner no statistics.
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

// A queue that empties every night may be analysed while nothing waits in it. Its statistics still say so when the next backlog
// comes. The planner must not go through all waiting rows, or all leased ones, once for each row because of that.
func TestPlansOnPostgresAnalysedWhileIdle(t *testing.T) {
	t.Parallel()
	db, s := openPostgresForPlans(t)
	loadPostgres(t, db, partSent, 5000)
	if _, err := db.ExecContext(t.Context(), "VACUUM ANALYZE"); err != nil {
		t.Fatal(err)
	}
	loadPostgres(t, db, partDue, 5000)
	for _, generic := range []bool{false, true} {
		t.Logf("generic plan %v:", generic)
		postgresPlans(t, db, s, generic)
	}
}

// openPostgresForPlans opens a database with empty tables that nothing vacuums or analyses by itself.
func openPostgresForPlans(t *testing.T) (*sqlx.DB, *Store) {
	t.Helper()
	db, err := sqlx.Open("postgres", pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := New(db.DB, schema.Postgres)
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
	return db, s
}

func loadPostgres(t *testing.T, db *sqlx.DB, part, n int) {
	t.Helper()
	load(t, db, part, n, func(n int) string { return fmt.Sprintf("FROM generate_series(1, %d) AS g (n)", n) },
		"('0189000%d-0000-7000-8000-' || lpad(to_hex(g.n), 12, '0'))::uuid", "bytea")
}

// The statements below do what a statement has to do with its rows themselves, each by its key and one after the other. The
// test measures them on the same rows in the same state and subtracts their pages from those of the statement. The difference
// is the cost of finding the rows among all others. It is negative if an index smaller than that of the key finds the rows, as
// it does for leased ones. $1 is a JSON array of ids.
const (
	readMessages = `SELECT count(m.body) FROM jsonb_array_elements_text($1::jsonb) AS k (id)
CROSS JOIN LATERAL (SELECT body FROM outbox_messages WHERE id = k.id::uuid OFFSET 0) AS m`
	readDeliveries = `SELECT count(d.due_at) FROM jsonb_array_elements_text($1::jsonb) AS k (id)
CROSS JOIN LATERAL (SELECT due_at FROM outbox_deliveries WHERE message_id = k.id::uuid AND seq = 1 OFFSET 0) AS d`
	lockDeliveries = `SELECT count(d.due_at) FROM jsonb_array_elements_text($1::jsonb) AS k (id)
CROSS JOIN LATERAL (SELECT due_at FROM outbox_deliveries WHERE message_id = k.id::uuid AND seq = 1 FOR UPDATE) AS d`
	readSuppressions = `SELECT count((SELECT reason FROM outbox_suppressions WHERE address = lower(k.id))) FROM jsonb_array_elements_text($1::jsonb) AS k (id)`
	noteAttempts     = `INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, class)
SELECT k.id::uuid, 1, 1, 'defer', now(), 0, 'd1', 'transient' FROM jsonb_array_elements_text($1::jsonb) AS k (id)`
	changeDeliveries = `UPDATE outbox_deliveries d SET %s FROM jsonb_array_elements_text($1::jsonb) AS k (id)
WHERE d.message_id = k.id::uuid AND d.seq = 1`
	// byKey leaves no other way to find a row.
	byKey = `SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off`
)

// beyond is how many pages a statement for 100 rows may touch beyond its rows themselves.
const beyond = 100

// postgresProbe is a statement of a dispatcher and what it has to do with its rows.
type postgresProbe struct {
	name    string
	prepare string
	args    []any
	rows    int // that it works on
	// set is how it changes them. The others say how often it reads a message, locks a delivery, reads one again by its key and
	// locks it where it stands, looks up a suppression, or notes an attempt.
	set                                           string
	messages, locks, rereads, suppressions, notes int
}

func postgresPlans(t *testing.T, db *sqlx.DB, s *Store, generic bool) {
	t.Helper()
	const (
		first = `state = 'queued' AND due_at <= now() AND seq = 1 AND message_id IN
(SELECT message_id FROM outbox_deliveries WHERE state = 'queued' AND due_at <= now() ORDER BY message_id LIMIT 100)`
		token = `01890000-0000-7000-8000-0000000000ff`
		lease = `INSERT INTO outbox_claims (token, owner, fenced, lease_until) VALUES ('` + token + `', 'd1', TRUE, now() + interval '1 hour');
UPDATE outbox_deliveries SET state = 'sending', lease_token = '` + token + `' WHERE ` + first
		lapse = `; UPDATE outbox_claims SET lease_until = now() - interval '1 hour'`
		mark  = `; UPDATE outbox_claims SET lapsed = TRUE`
		claim = `state = 'sending', attempts = attempts + 1, lease_token = '` + token + `'`
		back  = `state = 'queued', lease_token = NULL, due_at = now() + interval '1 hour', class = 'transient'`
		done  = `state = 'sent', lease_token = NULL, finished_at = now(), relay = 'primary'`
		doubt = `; UPDATE outbox_deliveries SET state = 'uncertain', lease_token = NULL WHERE state = 'sending'`
	)
	refs, ids := make([]settlementJSON, 100), make([]outbox.ID, 100)
	for i := range refs {
		ids[i] = testID(2, i+1)
		refs[i] = settlementJSON{
			refJSON: refJSON{ID: ids[i], Seq: 1, Token: token}, Verb: "defer", State: "queued", Delay: 3600,
			Evidence: true, Class: optional("transient"),
		}
	}
	list, err := json.Marshal(refs)
	if err != nil {
		t.Fatal(err)
	}
	batch := fenceJSON{Token: token, Relay: optional("primary")}
	for _, id := range ids {
		batch.Refs = append(batch.Refs, place{ID: id, Seq: 1})
	}
	fence, err := json.Marshal([]fenceJSON{batch})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	// The probe before left its undone changes behind, which are cleared away each time.
	pages := func(prepare, query string, args ...any) (int, string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), "VACUUM (INDEX_CLEANUP ON) outbox_deliveries, outbox_attempts, outbox_claims, outbox_fences"); err != nil {
			t.Fatal(err)
		}
		return explained(t, db, generic, prepare, query, args...)
	}
	alone := func(prepare, query string) int {
		t.Helper()
		if prepare != "" {
			prepare += "; "
		}
		n, _ := pages(prepare+byKey, query, string(keys))
		return n
	}
	read := alone("", readDeliveries)
	message, lock := alone("", readMessages), alone("", lockDeliveries)-read
	suppression, note := alone("", readSuppressions), alone("", noteAttempts)
	t.Logf("pages for 100 rows by key: read a delivery %d, lock it %d, read a message %d, look up a suppression %d, note an attempt %d",
		read, lock, message, suppression, note)

	for _, p := range []postgresProbe{
		{name: "due", args: []any{`["default"]`, "primary"}},
		{
			name: "claim", args: []any{"default", "normal", 100, token, 60, "d1", 65536, "primary", true, false}, rows: 100,
			set: claim, messages: 1, locks: 1, rereads: 1, suppressions: 1,
		},
		{name: "claim", args: []any{"default", "bulk", 100, token, 60, "d1", 65536, "primary", true, false}},
		{name: "claim_alone", args: []any{"default", "normal", 1, token, 60, "d1", 65536, "primary", true, true}},
		{name: "fence", prepare: lease, args: []any{string(fence)}},
		{name: "renew", prepare: lease, args: []any{`["` + token + `"]`, 60}},
		{name: "settle", prepare: lease, args: []any{string(list), "d1"}, rows: 100, set: back, locks: 1, rereads: 1, notes: 1},
		{name: "settle_sent", prepare: lease, args: sentArrays(refs), rows: 100, set: done, locks: 1, rereads: 1},
		{name: "unsettled", prepare: lease, args: []any{string(list)}, rows: 100, rereads: 1},
		{name: "reapable", prepare: lease}, // it looks at what is leased
		{name: "mark_lapsed", prepare: lease + lapse, args: []any{500}},
		{name: "reap_lapsed", prepare: lease + mark, args: []any{500, 10}, rows: 100, set: back, locks: 1, rereads: 1, notes: 1},
		{name: "excuse", prepare: lease + mark},
		{name: "end_lapsed", prepare: lease + mark},
		{name: "resend_uncertain", prepare: lease + doubt, args: []any{500}, rows: 100, set: "state = 'queued', due_at = now()", messages: 1, locks: 1},
		{
			name: "expire", prepare: "UPDATE outbox_deliveries SET expires_at = now() - interval '1 hour' WHERE " + first, args: []any{500}, rows: 100,
			set: "state = 'expired', finished_at = now()", locks: 1,
		},
	} {
		rows := p.messages*message + p.locks*lock + p.rereads*(read+100) + p.suppressions*suppression + p.notes*note
		if p.set != "" {
			rows += alone(p.prepare, fmt.Sprintf(changeDeliveries, p.set))
		}
		touched, plan := pages(p.prepare, s.queries.get(p.name), p.args...)
		if touched-rows >= beyond {
			t.Errorf("%s of %d rows touches %d pages, of which its rows account for %d: %d more, not fewer than %d:\n%s",
				p.name, p.rows, touched, rows, touched-rows, beyond, plan)
		}
		if strings.Contains(plan, "Seq Scan on outbox_deliveries") || strings.Contains(plan, "Seq Scan on outbox_messages") {
			t.Errorf("%s reads a whole table:\n%s", p.name, plan)
		}
		for _, m := range discarded.FindAllStringSubmatch(plan, -1) {
			if n, err := strconv.Atoi(m[1]); err != nil || n > 1000 {
				t.Errorf("%s of %d rows compares each with many others:\n%s", p.name, p.rows, plan)
			}
		}
		if p.name == "claim" && strings.Count(plan, "outbox_deliveries_due") != 1 {
			t.Errorf("a claim must search what is due by its index once, and its siblings by their key:\n%s", plan)
		}
		t.Logf("%-17s %3d rows %5d pages, %5d of them for the rows themselves, %4d beyond", p.name, p.rows, touched, rows, touched-rows)
	}
}
