package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// load puts n small messages with one delivery each beside those that are there, in the given state, on so many routes.
func (s *site) load(ctx context.Context, n int, state string, routes int) error {
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
	route := "'default'"
	if routes > 1 {
		route = fmt.Sprintf("'r' || (g %% %d)", routes)
	}
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
		"CREATE TEMPORARY TABLE ids AS SELECT " + id + " AS id, " + route + " AS route FROM " + series,
		"ALTER TABLE outbox_messages DISABLE TRIGGER ALL",
		"INSERT INTO outbox_messages (id, message_id, route, sender, recipients, size, body) SELECT id, '<' || id || '@example.com>', route, 's@example.com', " +
			recipients + ", 1, " + body + " FROM ids",
		"INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, state, due_at, finished_at) SELECT id, 1, 'a@example.org', route, 'normal', '" +
			deliveryState + "', " + due + ", " + finished + " FROM ids",
		"ALTER TABLE outbox_messages ENABLE TRIGGER ALL",
		"DROP TABLE ids",
	}
	if s.store.Dialect() == schema.SQLite {
		body, recipients = "x'78'", `'["a@example.org"]'`
		steps[1], steps[4] = "SELECT 1", "SELECT 1"
		steps[2] = "INSERT INTO outbox_messages (id, message_id, route, sender, recipients, size, body) SELECT id, '<' || id || '@example.com>', route, 's@example.com', " +
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

// batch is how many deliveries a claim of P6 may take, and batches how many claims are a turn.
const batch, batches = 100, 40

// cost claims and settles so many batches and notes the numbers of a delivery. It returns the median of the batches, and how
// often a message was returned with its body.
func (s *site) cost(ctx context.Context, f *figures, batches int) (each time.Duration, bodies int, err error) {
	var (
		costs []time.Duration
		n     int
	)
	err = f.add(1, func() error {
		for range batches {
			began := time.Now()
			claimed, err := s.store.Claim(ctx, queue.ClaimRequest{Owner: "bench", Limit: batch, InlineBytes: 1 << 16, Lease: time.Minute})
			if err != nil {
				return err
			}
			var list []queue.Settlement
			for i := range claimed {
				if claimed[i].Body != nil {
					bodies++
				}
				for j := range claimed[i].Deliveries {
					list = append(list, queue.Settlement{
						Ref: claimed[i].Ref(j), Outcome: queue.Sent, Evidence: queue.Evidence{Relay: "main", Code: 250, Reply: "Ok"},
					})
				}
			}
			if len(list) == 0 {
				return fmt.Errorf("nothing was claimed after %d deliveries", n)
			}
			if lost, err := s.store.Settle(ctx, "bench", list); err != nil || len(lost) > 0 {
				return fmt.Errorf("%d lost: %w", len(lost), err)
			}
			n += len(list)
			costs = append(costs, time.Since(began)/time.Duration(len(list)))
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	f.stretches[len(f.stretches)-1].n = n
	slices.Sort(costs)
	return costs[len(costs)/2], bodies, nil
}

// side is a site whose costs are measured beside another's.
type side struct {
	*site

	figures *figures
	costs   []float64 // of a delivery, in microseconds
	bodies  int
}

// beside measures the costs of two sites in turns, because the machine is shared. refill puts back what a turn took.
func (b *bench) beside(m meter, one, other *site, refill func(s *site, deliveries int) error) (x, y *side, err error) {
	x, y = &side{site: one, figures: &figures{meter: m}}, &side{site: other, figures: &figures{meter: m}}
	for range b.rounds {
		for _, s := range []*side{x, y} {
			cost, bodies, err := s.cost(b.ctx, s.figures, max(5, b.share(batches)))
			if err != nil {
				return nil, nil, err
			}
			s.costs = append(s.costs, float64(cost)/float64(time.Microsecond))
			s.bodies += bodies
			if err := refill(s.site, s.figures.stretches[len(s.figures.stretches)-1].n); err != nil {
				return nil, nil, err
			}
		}
	}
	return x, y, nil
}

// lines are the lines of two sides for the table.
func lines(work string, x, y *side, xs, ys string, bar float64) []result {
	at, beside := median(x.costs), median(y.costs)
	return []result{
		{work: work + ": " + xs, who: ours, figures: x.figures, more: fmt.Sprintf("%.1f µs each", at),
			ratio: times(at / beside), bar: fmt.Sprintf("≤ %v ×", bar), met: at <= bar*beside},
		{work: work + ": " + ys, who: ours, figures: y.figures, more: fmt.Sprintf("%.1f µs each", beside)},
	}
}

// engine is a database of each kind and its meter.
type engine struct {
	name  string
	meter meter
	sites [2]*site
}

// engines makes two sites on each engine and calls fn with them.
func (b *bench) engines(fn func(e engine) error) error {
	for _, e := range []engine{{name: "PostgreSQL", meter: meter{server: b.master}}, {name: "SQLite"}} {
		if err := b.onEngine(e, fn); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

func (b *bench) onEngine(e engine, fn func(e engine) error) error {
	for i := range e.sites {
		b.databases++
		name := filepath.Join(b.dir, fmt.Sprintf("engine%d.db", b.databases))
		if e.name == "PostgreSQL" {
			dsn, drop, err := b.database()
			if err != nil {
				return err
			}
			defer drop()
			name = dsn
		}
		s, err := b.newSite(name)
		if err != nil {
			return err
		}
		defer s.Close()
		e.sites[i] = s
	}
	return fn(e)
}

// depth is P6. Each depth is measured beside a shallow database in the same minute.
func (b *bench) depth() error { return b.engines(b.depthOn) }

func (b *bench) depthOn(e engine) error {
	const base = 10_000
	deep, shallow := e.sites[0], e.sites[1]
	for _, step := range []struct {
		what, state string
		n           int
	}{
		{"100 k queued", "queued", 100_000}, {"1 M queued", "queued", 900_000}, {"and 1 M scheduled", "scheduled", 1_000_000},
		{"and 5 M sent kept", "sent", 5_000_000},
	} {
		if err := deep.load(b.ctx, max(base, b.share(step.n)), step.state, 1); err != nil {
			return err
		}
		if err := shallow.load(b.ctx, base, "queued", 1); err != nil {
			return err
		}
		if err := analyze(b.ctx, deep, shallow); err != nil {
			return err
		}
		x, y, err := b.beside(e.meter, deep, shallow, func(s *site, n int) error { return s.load(b.ctx, n, "queued", 1) })
		if err != nil {
			return err
		}
		b.report(lines("P6 claim + settle of a delivery, "+e.name, x, y, step.what+b.scaled(), "10 k queued", 1.15)...)
	}
	return nil
}

// breadth is P6b: many routes, and many recipients.
func (b *bench) breadth() error {
	for _, routes := range []int{100, 1000} {
		if err := b.engines(func(e engine) error { return b.routesOn(e, routes) }); err != nil {
			return err
		}
	}
	return b.engines(b.recipientsOn)
}

// routesOn measures many routes beside one.
func (b *bench) routesOn(e engine, routes int) error {
	const base = 20_000
	if err := errors.Join(e.sites[0].load(b.ctx, base, "queued", routes), e.sites[1].load(b.ctx, base, "queued", 1)); err != nil {
		return err
	}
	if err := analyze(b.ctx, e.sites[:]...); err != nil {
		return err
	}
	x, y, err := b.beside(e.meter, e.sites[0], e.sites[1], func(s *site, n int) error {
		if s == e.sites[0] {
			return s.load(b.ctx, n, "queued", routes)
		}
		return s.load(b.ctx, n, "queued", 1)
	})
	if err != nil {
		return err
	}
	b.report(lines("P6b claim + settle of a delivery, "+e.name, x, y, fmt.Sprintf("%d routes", routes), "one route", 1.5)...)
	return nil
}

// recipientsOn measures messages of 50 KB with 100 recipients beside such with one.
func (b *bench) recipientsOn(e engine) error {
	const recipients = 100
	refill := func(s *site, n int) error {
		each := 1
		if s == e.sites[0] {
			each = recipients
		}
		return s.broadcast(b.ctx, n/each, each)
	}
	for _, s := range e.sites {
		if err := refill(s, batch*max(5, b.share(batches))); err != nil { // what a turn takes
			return err
		}
	}
	if err := analyze(b.ctx, e.sites[:]...); err != nil {
		return err
	}
	x, y, err := b.beside(e.meter, e.sites[0], e.sites[1], refill)
	if err != nil {
		return err
	}
	taken := 0
	for _, s := range x.figures.stretches {
		taken += s.n
	}
	list := lines("P6b claim + settle of a delivery of 50 KB, "+e.name, x, y, fmt.Sprintf("%d recipients", recipients), "one recipient", 1.5)
	once := x.bodies*recipients == taken
	list[0].more += fmt.Sprintf(", %d bodies for %d messages", x.bodies, taken/recipients)
	list[0].bar += ", body once a message"
	list[0].met = list[0].met && once
	b.report(list...)
	return nil
}

// broadcast commits n letters of 50 KB to so many recipients each.
func (s *site) broadcast(ctx context.Context, n, recipients int) error {
	to := make([]outbox.Address, recipients)
	for i := range to {
		to[i].Address = fmt.Sprintf("reader%d@example.org", i)
	}
	for ; n > 0; n -= 100 {
		list := make([]*outbox.Message, min(n, 100))
		for i := range list {
			list[i] = &outbox.Message{
				From: outbox.Address{Address: "shop@example.com"}, To: to, Subject: "News", Text: strings.Repeat("A line of the news of the day.\n", 50<<10/31),
			}
		}
		if err := commitAll(ctx, s.db, list); err != nil {
			return err
		}
	}
	return nil
}

// analyze renews the statistics.
func analyze(ctx context.Context, sites ...*site) error {
	for _, s := range sites {
		if _, err := s.db.ExecContext(ctx, "ANALYZE"); err != nil {
			return err
		}
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
