package page_test

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/examples/integrations/internal/trial"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// right is one privilege on one table, or on one of its columns.
type right struct{ privilege, table string }

var (
	grants     = regexp.MustCompile(`(?s)GRANT (.*?) ON (.*?) TO (\w+);`)
	privileges = regexp.MustCompile(`(\w+)(?: \(([^)]*)\))?`)
)

// rights lists what the page grants to a role, each right by itself.
func rights(t *testing.T, role string) (list []right) {
	t.Helper()
	for _, grant := range grants.FindAllStringSubmatch(strings.Join(blocks(t, "Rights", "sql"), ""), -1) {
		if grant[3] != role {
			continue
		}
		for _, p := range privileges.FindAllStringSubmatch(grant[1], -1) {
			for table := range strings.SplitSeq(grant[2], ",") {
				for column := range strings.SplitSeq(p[2], ",") {
					privilege := p[1]
					if column != "" {
						privilege += " (" + strings.TrimSpace(column) + ")"
					}
					list = append(list, right{privilege, strings.TrimSpace(table)})
				}
			}
		}
	}
	if len(list) == 0 {
		t.Fatalf("the page grants nothing to %s", role)
	}
	return list
}

// Each role of the page can do its work with the rights of the page, and not with one of them less.
func TestRights(t *testing.T) {
	t.Parallel()
	for role, work := range map[string]func(ctx context.Context, db *sql.DB) error{
		"enqueuing": enqueuing, "delivering": delivering, "reading": reading,
	} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			admin := trial.Postgres(t)
			owner := trial.Open(t, "postgres", admin)
			enqueue(t, owner, "ann@example.org")
			dsn, name := pgtest.Role(t, admin)
			db := trial.Open(t, "postgres", dsn)
			change := func(format string, r right) {
				t.Helper()
				if _, err := owner.ExecContext(t.Context(), fmt.Sprintf(format, r.privilege, r.table, name)); err != nil {
					t.Fatal(err)
				}
			}
			list := rights(t, role)
			for _, r := range list {
				change("GRANT %s ON %s TO %s", r)
			}
			if err := work(t.Context(), db); err != nil {
				t.Fatalf("with the rights of the page: %v", err)
			}
			for _, r := range list {
				change("REVOKE %s ON %s FROM %s", r)
				if err := work(t.Context(), db); err == nil || !strings.Contains(err.Error(), "permission denied") {
					t.Errorf("without %s on %s it has the error %v", r.privilege, r.table, err)
				}
				change("GRANT %s ON %s TO %s", r)
			}
		})
	}
}

// note is a message with a key.
func note(key string) *outbox.Message {
	return &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "bob@example.org"}}, Text: "hi", Key: key,
	}
}

// enqueuing is an application: it enqueues, once more with the same key, and cancels.
func enqueuing(ctx context.Context, db *sql.DB) error {
	key := rand.Text()
	return outbox.Do(ctx, db, func(tx *sql.Tx) error {
		receipt, err := outbox.Enqueue(ctx, tx, note(key))
		if err != nil {
			return err
		}
		if _, err := outbox.Enqueue(ctx, tx, note(key)); err != nil {
			return err
		}
		_, err = outbox.Cancel(ctx, tx, receipt.ID)
		return err
	})
}

// reading is somebody who looks.
func reading(ctx context.Context, db *sql.DB) error {
	s, err := store.New(db, schema.Postgres)
	if err != nil {
		return err
	}
	list, err := s.List(ctx, store.Filter{Limit: 1})
	if err != nil {
		return err
	}
	return first(
		func() error { return s.Check(ctx) },
		func() error { _, err := s.Get(ctx, list[0].ID); return err },
		func() error { _, err := s.Body(ctx, list[0].ID); return err },
		func() error { _, err := s.Stats(ctx); return err },
		func() error { _, err := s.Dispatchers(ctx); return err },
		func() error { _, err := s.RelayStates(ctx); return err },
		func() error { _, _, err := s.Suppressed(ctx, "ann@example.org"); return err },
	)
}

// delivering is a dispatcher, and an operator: it does everything that there is to do.
func delivering(ctx context.Context, db *sql.DB) error {
	s, err := store.New(db, schema.Postgres)
	if err != nil {
		return err
	}
	var claimed []queue.Claimed
	beat := queue.Heartbeat{ID: "d1", Host: "host", PID: 1, Version: "1"}
	all := store.Filter{To: "bob@example.org"}
	claim := func(outcome queue.Outcome) func() error {
		return func() (err error) {
			claimed, err = s.Claim(ctx, queue.ClaimRequest{
				Owner: "d1", Limit: 10, Lease: time.Minute, Relay: "main", Rate: queue.Rate{PerSecond: 1e6, Burst: 1e6},
			})
			for _, c := range claimed {
				if err == nil {
					_, err = s.Fence(ctx, []queue.FencedRef{{Ref: c.Ref(0), Relay: "main"}})
				}
				if err == nil {
					_, err = s.Renew(ctx, []string{c.Token}, time.Minute)
				}
				if err == nil {
					_, err = s.Settle(ctx, "d1", []queue.Settlement{{
						Ref: c.Ref(0), Outcome: outcome, Evidence: queue.Evidence{Relay: "main", Class: "policy", Code: 550, Reply: "no"},
					}})
				}
			}
			return err
		}
	}
	round := func() error {
		return first(
			func() error { _, err := s.Enqueue(ctx, note("")); return err },
			func() error { return s.Pause(ctx, "x", "because") },
			func() error { return s.Pause(ctx, "x", "because of something else") },
			func() error { _, err := s.Resume(ctx, "x"); return err },
			func() error { return s.PauseRelay(ctx, "other", time.Hour, "because") },
			func() error { _, err := s.ResumeRelay(ctx, "other"); return err },
			func() error { return s.Heartbeat(ctx, beat) },
			func() error { return s.Heartbeat(ctx, beat) },
			func() error { return s.Retire(ctx, "d1") },
			func() error {
				_, err := s.Suppress(ctx, store.Suppression{Address: "eve@example.org", Reason: "no"})
				return err
			},
			claim(queue.Failed),
			func() error {
				_, err := s.RecordFeedback(ctx, queue.Feedback{
					Kind: queue.FeedbackBounced, MessageID: claimed[0].MessageID, EventID: "e", Detail: "no",
				})
				return err
			},
			func() error { _, err := s.Unsuppress(ctx, "eve@example.org"); return err },
			func() error { _, err := s.Requeue(ctx, all); return err },
			func() error { _, err := s.Hold(ctx, all); return err },
			func() error { _, err := s.Release(ctx, all); return err },
			claim(queue.Sent),
			func() error { _, err := s.Reap(ctx); return err },
			func() error { _, err := s.Clean(ctx, queue.Retention{Body: time.Nanosecond}); return err },
			func() error { _, err := s.Purge(ctx, all); return err },
			func() error { _, err := s.Stats(ctx); return err },
		)
	}
	// What an operator does to more than a thousand deliveries is noted in one row, which grows from batch to batch.
	many := func() error {
		var list []*outbox.Message
		for range 11 {
			m := note("")
			m.To = nil
			for i := range 100 {
				m.To = append(m.To, outbox.Address{Address: fmt.Sprintf("user%d@many.example.org", i)})
			}
			list = append(list, m)
		}
		if _, err := s.Enqueue(ctx, list...); err != nil {
			return err
		}
		_, err := s.Cancel(ctx, store.Filter{To: "@many.example.org"})
		return err
	}
	return first(func() error { return s.Check(ctx) }, round, round, many)
}

// first does one after the other until one fails.
func first(steps ...func() error) error {
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}
