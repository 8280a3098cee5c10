package store

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/outboxmail/outbox/schema"
)

// Grouping is what [Store.CountBy] groups deliveries by.
type Grouping string

// The groupings, besides that of [ByMetadata].
const (
	ByState  Grouping = "state"
	ByRoute  Grouping = "route"
	ByRelay  Grouping = "relay"  // of the last outcome, as are the next three
	ByClass  Grouping = "class"  //
	ByCode   Grouping = "code"   // the reply code and the enhanced status code
	ByReply  Grouping = "reply"  // the codes and the words, without what differs from one message to another
	ByDomain Grouping = "domain" // of the recipient, in lower case
	ByTag    Grouping = "tag"    // a delivery with several tags counts for each
)

// metadataPrefix begins a grouping by metadata.
const metadataPrefix = "metadata."

// ByMetadata groups by the value of one name in the metadata.
func ByMetadata(name string) Grouping { return Grouping(metadataPrefix + name) }

// Valid reports whether [Store.CountBy] knows the grouping.
func (g Grouping) Valid() bool {
	_, known := groupings[g]
	name, metadata := strings.CutPrefix(string(g), metadataPrefix)
	return known || metadata && name != "" && name == clean(name)
}

// Group is a number of deliveries with a common value.
type Group struct {
	// Value is empty for deliveries without one.
	Value      string
	Deliveries int64
}

// groupings are the values over t, which has the columns of groupedColumns.
var groupings = map[Grouping]string{
	ByState: "t.state", ByRoute: "t.route", ByRelay: "coalesce(t.relay, '')", ByClass: "coalesce(t.class, '')",
	ByCode: "trim(coalesce(CAST(t.code AS text), '') || ' ' || coalesce(t.enhanced, ''))",
	ByReply: "trim(coalesce(CAST(t.code AS text), '') || ' ' || coalesce(t.enhanced, '') || ' ' || " +
		"coalesce(t.reply, t.class, ''))",
	ByDomain: "", ByTag: "h.value",
}

const groupedColumns = "d.state, d.route, d.relay, d.class, d.code, d.enhanced, d.reply, d.recipient, m.tags, m.metadata"

// CountBy counts the deliveries that the filter selects, by a common value, at most limit groups (0 means all), the largest
// first. It ignores Filter.Limit and reads every delivery that it counts. Sealed metadata have no values.
func (s *Store) CountBy(ctx context.Context, f Filter, by Grouping, limit int) ([]Group, error) {
	value := groupings[by]
	name, metadata := strings.CutPrefix(string(by), metadataPrefix)
	if !by.Valid() {
		return nil, fmt.Errorf("count: %q is not what deliveries can be grouped by", string(by))
	}
	p, err := f.predicate(s.dialect)
	if err != nil {
		return nil, fmt.Errorf("count: %w", err)
	}
	inner := fmt.Sprintf("SELECT %s FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id WHERE %s", groupedColumns, p.sql())
	join := ""
	postgres := s.dialect == schema.Postgres
	switch {
	case by == ByDomain:
		value = domainOf(s.dialect, "t.recipient")
	case by == ByTag && postgres:
		join = "CROSS JOIN LATERAL jsonb_array_elements_text(t.tags) AS h (value)"
	case by == ByTag:
		join = "CROSS JOIN json_each(t.tags) AS h"
	case metadata && postgres:
		value, join = "coalesce(h.value, '')", fmt.Sprintf("LEFT JOIN LATERAL jsonb_each_text(t.metadata) AS h ON h.key = %s", p.arg(name))
	case metadata:
		value, join = "coalesce(h.value, '')", fmt.Sprintf("LEFT JOIN json_each(t.metadata) AS h ON h.key = %s", p.arg(name))
	}
	groups, err := collect[Group](ctx, s.db, s.qualify(fmt.Sprintf(
		"SELECT CAST(%s AS text) AS value, count(*) AS deliveries FROM (%s) AS t %s GROUP BY 1", value, inner, join)), p.args...)
	if err != nil {
		return nil, s.failed(ctx, err, "count by %s", by)
	}
	if by == ByReply {
		groups = fold(groups)
	}
	slices.SortFunc(groups, func(a, b Group) int {
		return cmp.Or(cmp.Compare(b.Deliveries, a.Deliveries), cmp.Compare(a.Value, b.Value))
	})
	if limit > 0 && len(groups) > limit {
		groups = groups[:limit]
	}
	return groups, nil
}

// domainOf is the expression for the domain of an address, in lower case. The domain follows the last @.
func domainOf(d schema.Dialect, column string) string {
	if d == schema.Postgres {
		return "lower(split_part(" + column + ", '@', -1))"
	}
	// rtrim takes the characters other than @ from the end of an address: the rest ends with the last @.
	return fmt.Sprintf("lower(substr(%[1]s, length(rtrim(%[1]s, replace(%[1]s, '@', ''))) + 1))", column)
}

// particular matches what differs from one reply to another: addresses, and ids of five or more characters with a digit in them.
var particular = regexp.MustCompile(`<?[^\s<>@]+@[^\s<>@]+>?|` +
	`\b[0-9A-Za-z_-]*[0-9][0-9A-Za-z_-]{4,}\b|\b[0-9A-Za-z_-]{4,}[0-9][0-9A-Za-z_-]*\b`)

// fold joins the groups of replies that differ only in what is particular to a message.
func fold(groups []Group) []Group {
	index := make(map[string]int)
	var out []Group
	for _, g := range groups {
		value := particular.ReplaceAllString(g.Value, "…")
		i, ok := index[value]
		if !ok {
			i = len(out)
			index[value] = i
			out = append(out, Group{Value: value})
		}
		out[i].Deliveries += g.Deliveries
	}
	return out
}
