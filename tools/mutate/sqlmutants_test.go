package main

import (
	"slices"
	"strings"
	"testing"
)

func TestSQLMutants(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, sql string
		want      []string
	}{
		{"terms", `UPDATE t SET a = 1 WHERE b = 2 AND (c IS NULL OR d BETWEEN 1 AND 2) AND NOT EXISTS (SELECT 1 FROM u WHERE u.e = 3);`, []string{
			"term removed: b = 2",
			"term removed: (c IS NULL OR d BETWEEN 1 AND 2)",
			"term removed: NOT EXISTS (SELECT 1 FROM u WHERE u.e = 3)",
			"term removed: c IS NULL",
			"term removed: d BETWEEN 1 AND 2",
			"term removed: u.e = 3",
		}},
		{"clauses", `SELECT DISTINCT a FROM t ORDER BY b, c DESC LIMIT $1 FOR UPDATE SKIP LOCKED;`, []string{
			"DISTINCT removed: DISTINCT",
			"ORDER BY removed: ORDER BY b, c DESC",
			"LIMIT removed: $1",
			"SKIP LOCKED removed: SKIP LOCKED",
			"lock removed: FOR UPDATE SKIP LOCKED",
		}},
		{"no limit", `SELECT a FROM t LIMIT -1;`, nil},
		{"lists and bounds", `UPDATE t SET a = greatest(0, b) WHERE c IN ('x', 'y') AND d < now() - interval '1 minute';`, []string{
			"bound removed: 0, b",
			"bound removed: 0, b",
			"term removed: c IN ('x', 'y')",
			"term removed: d < now() - interval '1 minute'",
			"value removed: 'x',",
			"value removed: , 'y'",
			"duration is zero: '1 minute'",
		}},
		{"aggregates stay", `SELECT max(a), min(b) FROM t GROUP BY c;`, nil},
		{"cases", `SELECT CASE WHEN a = 1 THEN 2 ELSE 3 END, CASE a WHEN 1 THEN 2 END FROM t;`, []string{
			"term removed: a = 1",
			"branch never taken: a = 1",
		}},
		{"joins", `SELECT 1 FROM t JOIN u ON t.a = u.a AND u.b WHERE TRUE;`, []string{
			"term removed: t.a = u.a",
			"term removed: u.b",
		}},
		{"values of columns", `UPDATE t SET a = b OR c, d = e;`, []string{"term removed: b", "term removed: c"}},
		{"conflicts", `INSERT INTO t SELECT 1 WHERE TRUE ON CONFLICT (a) DO UPDATE SET b = 1 WHERE t.b IS NULL RETURNING a;`, []string{
			"ON CONFLICT removed: ON CONFLICT (a) DO UPDATE SET b = 1 WHERE t.b IS NULL",
			"term removed: t.b IS NULL",
		}},
		{"distinct from", `SELECT 1 FROM t WHERE a IS DISTINCT FROM b AND c;`, []string{
			"term removed: a IS DISTINCT FROM b",
			"term removed: c",
		}},
		{"comments and strings", "SELECT 1 FROM t -- WHERE no AND way\nWHERE a = 'x AND y' /* OR */ AND b;", []string{
			"term removed: a = 'x AND y'",
			"term removed: b",
		}},
		{"checks", `CREATE TABLE t (a int CHECK (a > 0), b int NOT NULL DEFAULT 1, CHECK (a = 1 OR b = 2));`, []string{
			"term removed: a > 0",
			"term removed: a = 1",
			"term removed: b = 2",
		}},
		{"triggers", `CREATE TRIGGER x AFTER INSERT ON t WHEN NEW.a = 1 BEGIN DELETE FROM u WHERE b = 2; END;`, []string{
			"term removed: NEW.a = 1",
			"branch never taken: NEW.a = 1",
			"term removed: b = 2",
		}},
		{"functions", `CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN IF NEW.a AND NEW.b THEN RETURN NULL; END IF; END $$;`, []string{
			"term removed: NEW.a",
			"term removed: NEW.b",
			"branch never taken: NEW.a AND NEW.b",
		}},
		{"an index guards nothing", `CREATE UNIQUE INDEX i ON t (a) WHERE a IS NOT NULL AND b;`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			src := "-- name: x\n" + tt.sql
			if strings.HasPrefix(tt.sql, "CREATE") {
				src = tt.sql
			}
			var got []string
			for _, m := range sqlMutants("x.sql", src) {
				old := m.src[m.built.start:m.built.end]
				if m.kind == "LIMIT removed" {
					old = strings.TrimPrefix(old, "LIMIT ")
				}
				got = append(got, m.kind+": "+squeeze(old))
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// A database gets a statement with all its parameters, and a reader sees what is left.
func TestSQLMutantIsBuiltAndShown(t *testing.T) {
	t.Parallel()
	const src = "-- name: one\nSELECT 1;\n\n-- name: two\n-- $1 $2\nDELETE FROM t WHERE a = $1\n  AND (b = $2 OR c);\n"
	type change struct{ built, shown string }
	want := []change{
		{"(TRUE OR (a = $1))\n  AND (b = $2 OR c)", "-DELETE FROM t WHERE a = $1\n-  AND (b = $2 OR c);\n+DELETE FROM t WHERE (b = $2 OR c);\n"},
		{"a = $1\n  AND (TRUE OR ((b = $2 OR c)))", "-DELETE FROM t WHERE a = $1\n-  AND (b = $2 OR c);\n+DELETE FROM t WHERE a = $1;\n"},
		{"a = $1\n  AND ((FALSE AND (b = $2)) OR c)", "-  AND (b = $2 OR c);\n+  AND (c);\n"},
		{"a = $1\n  AND (b = $2 OR (FALSE AND (c)))", "-  AND (b = $2 OR c);\n+  AND (b = $2);\n"},
	}
	ms := sqlMutants("x.sql", src)
	if len(ms) != len(want) {
		t.Fatalf("%d mutants, want %d", len(ms), len(want))
	}
	for i, m := range ms {
		if m.in != "two" {
			t.Errorf("the mutant is in %q", m.in)
		}
		built := strings.TrimSuffix(m.built.apply(src)[strings.Index(src, "a = $1"):], ";\n")
		if got := (change{built, m.diff()}); got != want[i] {
			t.Errorf("got %q\nwant %q", got, want[i])
		}
	}
}
