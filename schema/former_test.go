package schema_test

import (
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// Before the first release the lease stood in each delivery. A database of that form is refused with a sentence, by the migration, by
// the check, and by a claim that runs into it unchecked. Nothing in it is changed.
func TestAFormerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	checksums := map[schema.Dialect]string{
		schema.Postgres: "72a0439c076e52deb74b5b1f4b8260a232149fd758fbefe246712bb9ea0ae9b7",
		schema.SQLite:   "705b9b415f68c03d5f40cddc8fcba0dfe56e6f0787c344fff052d491aeec12ab",
	}
	each(t, func(t *testing.T, d schema.Dialect, connect func() *sql.DB) {
		db := connect()
		migrate(t, db, d)
		exec(t, db, insert, first, "<m@example.com>", nil, `["a@example.com"]`, nil, []byte("abc"))
		for _, statement := range []string{
			"DROP TABLE outbox_fences",
			"DROP TABLE outbox_claims",
			"ALTER TABLE outbox_deliveries ADD COLUMN fenced integer NOT NULL DEFAULT 0",
			"ALTER TABLE outbox_deliveries ADD COLUMN lease_until text",
			"ALTER TABLE outbox_deliveries ADD COLUMN lease_owner text",
		} {
			exec(t, db, statement)
		}
		exec(t, db, "UPDATE outbox_migrations SET checksum = $1 WHERE version = 1", checksums[d])
		s, err := store.New(db, d)
		if err != nil {
			t.Fatal(err)
		}
		for name, refused := range map[string]func() error{
			"Migrate": func() error { return schema.Migrate(t.Context(), db, d) },
			"Check":   func() error { return schema.Check(t.Context(), db, d) },
			"Claim": func() error {
				_, err := s.Claim(t.Context(), queue.ClaimRequest{Owner: "d1", Limit: 1, Lease: time.Minute})
				return err
			},
		} {
			var former *schema.ChecksumError
			if err := refused(); !errors.As(err, &former) || former.Version != 1 || !strings.Contains(err.Error(), "applied in another form") {
				t.Errorf("%s: %v", name, err)
			}
		}
		var state string
		if err := db.QueryRowContext(t.Context(), "SELECT state FROM outbox_deliveries").Scan(&state); err != nil || state != "queued" {
			t.Errorf("the delivery is %s (%v)", state, err)
		}
	})
}
