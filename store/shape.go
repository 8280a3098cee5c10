package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/outboxmail/outbox/schema"
)

// ShapeAges are the bounds between the columns of a [Shape]. The first column counts deliveries younger than the first bound,
// the last one those older than the last bound.
var ShapeAges = [...]time.Duration{
	5 * time.Minute, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute, 80 * time.Minute, 160 * time.Minute,
	320 * time.Minute, 640 * time.Minute, 1280 * time.Minute,
}

// Shape counts the deliveries of one domain by their age since they were enqueued.
type Shape struct {
	Domain string
	Total  int64
	Ages   [len(ShapeAges) + 1]int64
}

// Shape counts the unfinished deliveries that the filter selects, by the domain of their recipient and by their age. The domain
// with the most deliveries comes first. It shows which receiver has stopped taking mail, and since when. It reads every
// delivery that it counts.
func (s *Store) Shape(ctx context.Context, f Filter) ([]Shape, error) {
	p, err := f.predicate(s.dialect)
	if err != nil {
		return nil, fmt.Errorf("shape: %w", err)
	}
	p.termf("d.finished_at IS NULL AND d.state IN ('queued', 'sending', 'uncertain', 'held')")
	domain, age := domainOf(s.dialect, "d.recipient"), "extract(epoch FROM c.now - m.created_at)"
	if s.dialect == schema.SQLite {
		age = "(julianday(c.now) - julianday(m.created_at)) * 86400.0"
	}
	var column strings.Builder
	for i, bound := range ShapeAges {
		fmt.Fprintf(&column, " WHEN %s < %d THEN %d", age, int(bound.Seconds()), i)
	}
	type row struct {
		Domain string
		Age    int
		Number int64
	}
	rows, err := collect[row](ctx, s.db, s.qualify(fmt.Sprintf(`SELECT %s AS domain, CASE%s ELSE %d END AS age, count(*) AS number
FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id CROSS JOIN outbox_clock c WHERE %s GROUP BY 1, 2`,
		domain, column.String(), len(ShapeAges), p.sql())), p.args...)
	if err != nil {
		return nil, s.failed(ctx, err, "shape")
	}
	byDomain := make(map[string]*Shape)
	for _, r := range rows {
		sh := byDomain[r.Domain]
		if sh == nil {
			sh = &Shape{Domain: r.Domain}
			byDomain[r.Domain] = sh
		}
		sh.Ages[r.Age] += r.Number
		sh.Total += r.Number
	}
	list := make([]Shape, 0, len(byDomain))
	for _, sh := range byDomain {
		list = append(list, *sh)
	}
	slices.SortFunc(list, func(a, b Shape) int {
		return cmp.Or(cmp.Compare(b.Total, a.Total), cmp.Compare(a.Domain, b.Domain))
	})
	if f.Limit > 0 && len(list) > f.Limit {
		list = list[:f.Limit]
	}
	return list, nil
}
