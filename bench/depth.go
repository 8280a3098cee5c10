package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// load puts n small messages with one delivery each beside those that are there, in the given state.
func (s *site) load(ctx context.Context, n int, state string) error {
	due, finished := "now()", "NULL"
	series := fmt.Sprintf("generate_series(1, %d) AS g", n)
	// Like those of outbox the ids are in the order of time; random ones would lie on a page each.
	id := fmt.Sprintf("CAST('01900000-0000-7000-8000-' || lpad(to_hex(%d + g), 12, '0') AS uuid)", s.loaded)
	now, later := "now()", "now() + interval '1 day'"
	if s.store.Dialect() == schema.SQLite {
		now, later = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')", "strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+1 day')"
		series = fmt.Sprintf("(WITH RECURSIVE c(g) AS (SELECT 1 UNION ALL SELECT g + 1 FROM c WHERE g < %d) SELECT g FROM c)", n)
		id = fmt.Sprintf("printf('01900000-0000-7000-8000-%%012x', %d + g)", s.loaded)
	}
	s.loaded += n
	due = now
	deliveryState := state
	switch state {
	case "scheduled":
		due, deliveryState = later, "queued"
	case "sent":
		finished = now
	}
	// The trigger would make the deliveries; loading both tables from one list is several times as fast.
	body, recipients := "convert_to('x', 'UTF8')", `'["a@example.org"]'::jsonb`
	steps := []string{
		"CREATE TEMPORARY TABLE ids AS SELECT " + id + " AS id FROM " + series,
		"ALTER TABLE outbox_messages DISABLE TRIGGER ALL",
		"INSERT INTO outbox_messages (id, message_id, sender, recipients, size, body) SELECT id, '<' || id || '@example.com>', 's@example.com', " +
			recipients + ", 1, " + body + " FROM ids",
		"INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, state, due_at, finished_at) SELECT id, 1, 'a@example.org', 'default', 'normal', '" +
			deliveryState + "', " + due + ", " + finished + " FROM ids",
		"ALTER TABLE outbox_messages ENABLE TRIGGER ALL",
		"DROP TABLE ids",
	}
	if s.store.Dialect() == schema.SQLite {
		body, recipients = "x'78'", `'["a@example.org"]'`
		steps[1], steps[4] = "SELECT 1", "SELECT 1"
		steps[2] = "INSERT INTO outbox_messages (id, message_id, sender, recipients, size, body) SELECT id, '<' || id || '@example.com>', 's@example.com', " +
			recipients + ", 1, " + body + " FROM ids"
		// SQLite cannot switch a trigger off, so it is taken away and put back.
		var trigger string
		if err := s.db.QueryRowContext(ctx, "SELECT sql FROM sqlite_schema WHERE type = 'trigger' AND name = 'outbox_expand_recipients'").Scan(&trigger); err != nil {
			return err
		}
		steps[1], steps[4] = "DROP TRIGGER outbox_expand_recipients", trigger
	}
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, step := range steps {
		if _, err := tx.ExecContext(ctx, step); err != nil {
			return fmt.Errorf("%.60s …: %w", step, err)
		}
	}
	return tx.Commit()
}

// cost is the time that a delivery takes to be claimed and settled, in batches of 100: the median of many.
func (s *site) cost(ctx context.Context) (time.Duration, error) {
	const batch, batches = 100, 40
	costs := make([]time.Duration, 0, batches)
	for range batches {
		began := time.Now()
		claimed, err := s.store.Claim(ctx, queue.ClaimRequest{Owner: "bench", Limit: batch, InlineBytes: 1 << 16, Lease: time.Minute})
		if err != nil {
			return 0, err
		}
		if len(claimed) != batch {
			return 0, fmt.Errorf("%d of %d claimed", len(claimed), batch)
		}
		list := make([]queue.Settlement, len(claimed))
		for i := range claimed {
			list[i] = queue.Settlement{Ref: claimed[i].Ref(0), Outcome: queue.Sent, Evidence: queue.Evidence{Relay: "main", Code: 250, Reply: "Ok"}}
		}
		if lost, err := s.store.Settle(ctx, "bench", list); err != nil || len(lost) > 0 {
			return 0, fmt.Errorf("%d lost: %w", len(lost), err)
		}
		costs = append(costs, time.Since(began)/batch)
	}
	slices.Sort(costs)
	return costs[len(costs)/2], nil
}

// depth is P6. Each depth is measured beside a shallow database in the same minute.
func (b *bench) depth() error {
	dsn, drop, err := b.database()
	if err != nil {
		return err
	}
	defer drop()
	small, dropSmall, err := b.database()
	if err != nil {
		return err
	}
	defer dropSmall()
	for _, engine := range []struct{ name, deep, shallow string }{
		{"PostgreSQL", dsn, small},
		{"SQLite", filepath.Join(b.dir, "deep.db"), filepath.Join(b.dir, "shallow.db")},
	} {
		if err := b.depthOn(engine.name, engine.deep, engine.shallow); err != nil {
			return fmt.Errorf("%s: %w", engine.name, err)
		}
	}
	return nil
}

func (b *bench) depthOn(name, deepDSN, shallowDSN string) error {
	deep, err := b.newSite(deepDSN)
	if err != nil {
		return err
	}
	defer deep.Close()
	shallow, err := b.newSite(shallowDSN)
	if err != nil {
		return err
	}
	defer shallow.Close()
	const base = 10_000
	for _, step := range []struct {
		what, state string
		n           int
	}{
		{"100 k queued", "queued", 100_000}, {"1 M queued", "queued", 900_000}, {"and 1 M scheduled", "scheduled", 1_000_000},
		{"and 5 M sent kept", "sent", 5_000_000},
	} {
		if err := deep.load(b.ctx, int(float64(step.n)*b.scale), step.state); err != nil {
			return err
		}
		if err := shallow.load(b.ctx, base, "queued"); err != nil {
			return err
		}
		for _, s := range []*site{deep, shallow} {
			if _, err := s.db.ExecContext(b.ctx, "ANALYZE"); err != nil {
				return err
			}
		}
		// The depths take turns, because the machine is shared.
		var at, beside []time.Duration
		for range rounds {
			for _, side := range []struct {
				site  *site
				costs *[]time.Duration
			}{{deep, &at}, {shallow, &beside}} {
				cost, err := side.site.cost(b.ctx)
				if err != nil {
					return err
				}
				*side.costs = append(*side.costs, cost)
				if err := side.site.load(b.ctx, 4000, "queued"); err != nil { // what the measurement took
					return err
				}
			}
		}
		slices.Sort(at)
		slices.Sort(beside)
		ratio := float64(at[rounds/2]) / float64(beside[rounds/2])
		b.report(result{
			fmt.Sprintf("P6 claim + settle of a delivery, %s: %s%s", name, step.what, b.scaled()),
			fmt.Sprintf("%v, with 10 k queued %v", at[rounds/2].Round(100*time.Nanosecond), beside[rounds/2].Round(100*time.Nanosecond)),
			fmt.Sprintf("%.2f ×", ratio), "≤ 1.25 ×", ratio <= 1.25,
		})
	}
	return nil
}

// scaled says that the depths were not loaded whole.
func (b *bench) scaled() string {
	if b.scale == 1 {
		return ""
	}
	return fmt.Sprintf(" (all depths × %g)", b.scale)
}
