package schema_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/schema"
)

// A file that another program has marked as its own is not written to by mistake; an application that marks its own files says so
// once. What the mark is stays as it is.
func TestMarkedFiles(t *testing.T) {
	t.Parallel()
	const geopackage = 0x47504b47
	for _, test := range []struct {
		name     string
		mark     int32
		migrated bool
		opts     []schema.Option
		refused  string // what the error says
	}{
		{"not marked", 0, false, nil, ""},
		{"not marked, a mark is named", 0, false, []schema.Option{schema.ApplicationID(7)}, ""},
		{"marked", geopackage, false, nil, "application_id 0x47504b47, \"GPKG\""},
		{"marked, the fix", geopackage, false, nil, "call schema.Migrate with schema.ApplicationID(1196444487)"},
		{"marked, the fix of the command", geopackage, false, nil, "outboxctl migrate up --application-id 0x47504b47"},
		{"marked and named", geopackage, false, []schema.Option{schema.ApplicationID(geopackage)}, ""},
		{"marked, another is named", geopackage, false, []schema.Option{schema.ApplicationID(7)}, "application_id is 0x47504b47, \"GPKG\", not 0x7"},
		{"a mark above 2³¹", -2, false, nil, "application_id 0xfffffffe) and has no outbox tables"},
		{"a mark above 2³¹, named", -2, false, []schema.Option{schema.ApplicationID(-2)}, ""},
		{"marked after it was migrated", geopackage, true, nil, ""},
		{"marked after it was migrated, another is named", geopackage, true, []schema.Option{schema.ApplicationID(7)}, "not 0x7"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			db, err := sql.Open("sqlite", filepath.Join(t.TempDir(), "app.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = db.Close() }()
			if test.migrated {
				migrate(t, db, schema.SQLite)
			}
			exec(t, db, fmt.Sprintf("PRAGMA application_id = %d", test.mark))
			exec(t, db, "CREATE TABLE theirs (n integer)")
			migrateErr := schema.Migrate(t.Context(), db, schema.SQLite, test.opts...)
			checkErr := schema.Check(t.Context(), db, schema.SQLite, test.opts...)
			for verb, err := range map[string]error{"Migrate": migrateErr, "Check": checkErr} {
				if test.refused == "" {
					if err != nil {
						t.Errorf("%s: %v", verb, err)
					}
					continue
				}
				var foreign *schema.ForeignFileError
				if !errors.As(err, &foreign) || foreign.Have != test.mark || !strings.Contains(err.Error(), test.refused) {
					t.Errorf("%s: %v, want a refusal that says %q", verb, err, test.refused)
				}
			}
			if test.refused != "" && !test.migrated && count(t, db, "sqlite_schema WHERE name LIKE 'outbox%'") != 0 {
				t.Error("something was written to a file that was refused")
			}
			var mark int32
			if err := db.QueryRowContext(t.Context(), "PRAGMA application_id").Scan(&mark); err != nil || mark != test.mark {
				t.Errorf("the mark is now %d (%v), it was %d", mark, err, test.mark)
			}
		})
	}
}
