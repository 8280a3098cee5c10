package store

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox/schema"
)

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
