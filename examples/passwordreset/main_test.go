package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/keyring"
)

// wantLines checks that the lines appear in this order.
func wantLines(t *testing.T, out string, lines ...string) {
	t.Helper()
	rest := out
	for _, line := range lines {
		i := strings.Index(rest, line)
		if i < 0 {
			t.Fatalf("%q is not printed, or not in its place:\n%s", line, out)
		}
		rest = rest[i+len(line):]
	}
}

func TestStory(t *testing.T) {
	for _, engine := range []struct {
		name string
		db   func(t *testing.T) string
	}{
		{"temporary", func(*testing.T) string { return "" }},
		{"sqlite", func(t *testing.T) string { t.Helper(); return filepath.Join(t.TempDir(), "shop.db") }},
		{"postgres", func(t *testing.T) string { t.Helper(); return pgtest.DSN(t) }},
	} {
		t.Run(engine.name, func(t *testing.T) {
			tmp := t.TempDir()
			t.Setenv("TMPDIR", tmp)
			db := engine.db(t)
			for range 2 { // again in the same database
				var out bytes.Buffer
				if err := run(t.Context(), []string{"-db", db}, &out); err != nil {
					t.Fatalf("%v\n%s", err, &out)
				}
				wantLines(t, out.String(), "encrypted with key demo-", "004f4258", "subject in the database   encrypted: true",
					"the token stands there    0 times", " bytes, with the token: true", "it is not sent after      10m0s",
					"first mail                cancelled", "second mail               queued", "sent 1, held 0, failed 0",
					"has the second link       true", "has the first link        false", "state sent, body NULL, metadata NULL", "bodies removed            2")
				if db != "" && strings.HasPrefix(db, "postgres") && strings.Contains(out.String(), db) {
					t.Error("the URL of the database is printed")
				}
			}
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v (%v)", left, err)
			}
		})
	}
}

// If the transaction of a newer mail rolls back, the older mail stays queued.
func TestSupersedingIsPartOfTheTransaction(t *testing.T) {
	ctx := t.Context()
	db, err := openDatabase(ctx, filepath.Join(t.TempDir(), "shop.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.close()
	key, err := keyring.NewKey("k")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(key)
	if err != nil {
		t.Fatal(err)
	}
	r, err := newResets(db.db, keys)
	if err == nil {
		err = r.prepare(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	first, err := r.ask(ctx, user{"Ann", "ann@example.org"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ask(ctx, user{"Ann\x00", "ann@example.org"}); !errors.As(err, new(*outbox.InvalidError)) {
		t.Fatalf("a name with a NUL: %v", err)
	}
	if row, err := db.row(ctx, first.receipt.ID); err != nil || row.state != "queued" {
		t.Errorf("the first mail is %s (%v)", row.state, err)
	}
	second, err := r.ask(ctx, user{"Ann", "ann@example.org"})
	if err != nil || second.superseded.Cancelled != 1 {
		t.Fatalf("%+v, %v", second.superseded, err)
	}
	stored, err := db.queue.Get(ctx, second.receipt.ID)
	if err != nil || stored.ExpiresAt.Sub(stored.CreatedAt).Round(time.Second) > validFor {
		t.Errorf("expires %v after it was made (%v)", stored.ExpiresAt.Sub(stored.CreatedAt), err)
	}
}
