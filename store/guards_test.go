package store

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// A claim looks first and claims then. The claiming statement itself sees what changed in between.
func TestClaimSeesWhatChangedSinceItLooked(t *testing.T) {
	t.Parallel()
	for driver, dsn := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { t.Helper(); return filepath.Join(t.TempDir(), "app.db") },
		"postgres": func(t *testing.T) string { t.Helper(); return pgtest.DSN(t) },
	} {
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			db, err := sqlx.Open(driver, dsn(t))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			s, err := New(db.DB, dialects[driver])
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Migrate(t.Context(), db.DB, s.dialect); err != nil {
				t.Fatal(err)
			}
			_, err = db.ExecContext(t.Context(), `INSERT INTO outbox_messages (id, message_id, sender, recipients, size, body)
VALUES ($1, '<m@example.com>', 'shop@example.com', '["ann@example.org"]', 1, $2)`, string(testID(1, 1)), []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			claim := func() int {
				t.Helper()
				got, err := s.claimRange(t.Context(), db, queue.ClaimRequest{Owner: "d1", Relay: "primary", Lease: time.Minute},
					queue.Due{Route: "default", Priority: outbox.Normal}, 10, false)
				if err != nil {
					t.Fatal(err)
				}
				return got.leased
			}
			if err := s.Pause(t.Context(), "default", "test"); err != nil {
				t.Fatal(err)
			}
			if n := claim(); n != 0 {
				t.Errorf("%d deliveries of a route were claimed that has just been paused", n)
			}
			if _, err := s.Resume(t.Context(), "default"); err != nil {
				t.Fatal(err)
			}
			if err := s.PauseRelay(t.Context(), "primary", time.Hour, "test"); err != nil {
				t.Fatal(err)
			}
			if n := claim(); n != 0 {
				t.Errorf("%d deliveries were claimed for a relay that has just been paused", n)
			}
			if _, err := s.ResumeRelay(t.Context(), "primary"); err != nil {
				t.Fatal(err)
			}
			for _, set := range []string{"due_at = '2100-01-01T00:00:00.000Z'", "expires_at = '2000-01-01T00:00:00.000Z'", "state = 'held'"} {
				const undo = "UPDATE outbox_deliveries SET due_at = '2000-01-01T00:00:00.000Z', expires_at = NULL, state = 'queued'"
				for _, statement := range []string{undo, "UPDATE outbox_deliveries SET " + set} {
					if _, err := db.ExecContext(t.Context(), statement); err != nil {
						t.Fatal(err)
					}
				}
				if n := claim(); n != 0 {
					t.Errorf("a delivery was claimed after SET %s", set)
				}
				if _, err := db.ExecContext(t.Context(), undo); err != nil {
					t.Fatal(err)
				}
			}
			if n := claim(); n != 1 {
				t.Errorf("%d deliveries claimed, want 1", n)
			}
		})
	}
}
