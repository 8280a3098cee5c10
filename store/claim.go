package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/schema"
)

// MinLease is the shortest lease that a claim or a renewal takes, so that it outlives the statement that grants it.
const MinLease = 10 * time.Millisecond

// Due lists what is queued on the given routes, or on every route when none is given, one entry for each route and
// priority that holds anything, the most urgent first. It writes nothing, takes no lock, and costs the same whatever the
// backlog: an idle dispatcher polls with it.
func (s *Store) Due(ctx context.Context, routes []string) ([]outbox.Due, error) {
	var wanted any
	if len(routes) > 0 {
		list, err := json.Marshal(routes)
		if err != nil {
			return nil, fmt.Errorf("list what is due: %w", err)
		}
		wanted = string(list)
	}
	type row struct {
		Route    string
		Priority outbox.Priority
		DueIn    float64 `db:"due_in"`
		Paused   bool
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("due"), wanted)
	if err != nil {
		return nil, s.failed(ctx, err, "list what is due")
	}
	due := make([]outbox.Due, len(rows))
	for i, r := range rows {
		due[i] = outbox.Due{Route: r.Route, Priority: r.Priority, In: seconds(r.DueIn), Paused: r.Paused}
	}
	return due, nil
}

// Claim leases up to req.Limit deliveries that are due: queued → sending, with a fresh token and one more attempt. It
// serves the more urgent priorities first but leaves each of the others a share, and divides a priority between its
// routes. Deliveries of a paused route and those past their deadline stay. When nothing is due it writes nothing.
//
// On an error some deliveries may have been leased all the same; their leases lapse and [Store.Reap] returns them.
func (s *Store) Claim(ctx context.Context, req outbox.ClaimRequest) ([]outbox.Claimed, error) {
	switch {
	case req.Owner == "":
		return nil, errors.New("claim: no owner given")
	case req.Limit <= 0:
		return nil, fmt.Errorf("claim: the limit must be positive, not %d", req.Limit)
	case req.Lease < MinLease:
		return nil, fmt.Errorf("claim: the lease must be at least %v, not %v", MinLease, req.Lease)
	}
	due, err := s.Due(ctx, req.Routes)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	due = slices.DeleteFunc(due, func(d outbox.Due) bool { return d.Paused || d.In > 0 })
	if s.claims.Add(1)%turn == 0 {
		slices.Reverse(due)
	}
	var (
		claimed []outbox.Claimed
		left    = budget{rows: req.Limit, bytes: req.MaxBytes}
	)
	for len(due) > 0 && !left.spent(req) {
		n := 1 // ranges of the same priority share what is left
		for n < len(due) && due[n].Priority == due[0].Priority {
			n++
		}
		got, err := s.claimEvenly(ctx, req, due[:n], &left)
		claimed = append(claimed, got...)
		if err != nil {
			return claimed, s.failed(ctx, err, "claim")
		}
		due = due[n:]
	}
	return claimed, nil
}

// turn is how often a claim begins with the least urgent priority, so that a flood of urgent mail slows the rest but
// never starves it.
const turn = 16

// budget is what a claim may still take.
type budget struct {
	rows  int
	bytes int64
}

func (b *budget) spent(req outbox.ClaimRequest) bool {
	return b.rows <= 0 || req.MaxBytes > 0 && b.bytes <= 0
}

// claimEvenly divides the budget between ranges; what one leaves, the next and then those that had more to give may take.
func (s *Store) claimEvenly(ctx context.Context, req outbox.ClaimRequest, ranges []outbox.Due, left *budget) ([]outbox.Claimed, error) {
	var claimed []outbox.Claimed
	for len(ranges) > 0 && !left.spent(req) {
		var full []outbox.Due
		for i, d := range ranges {
			if left.spent(req) {
				break
			}
			waiting := len(ranges) - i
			share := (left.rows + waiting - 1) / waiting
			maxBytes := left.bytes
			if req.MaxBytes == 0 {
				maxBytes = 0
			}
			got, err := s.claimRange(ctx, req, d, share, maxBytes)
			if err != nil {
				return claimed, err
			}
			rows := 0
			for _, c := range got {
				rows += len(c.Deliveries)
				left.bytes -= c.Size
			}
			left.rows -= rows
			claimed = append(claimed, got...)
			if rows >= share {
				full = append(full, d)
			}
		}
		ranges = full
	}
	return claimed, nil
}

// leasedRow is one delivery that a claim took.
type leasedRow struct {
	ID          outbox.ID
	Seq         int
	Recipient   string
	Attempts    int
	DueAt       timestamp `db:"due_at"` // SQLite only, whose rows come in no order
	DeferredFor float64   `db:"deferred_for"`
	Class       string
	Relay       string
	ExpiresIn   float64 `db:"expires_in"`
}

// messageRow is the message of a leasedRow.
type messageRow struct {
	ID          outbox.ID
	RFCID       string `db:"rfc_id"`
	Key         string `db:"idempotency_key"`
	Route       string
	Priority    outbox.Priority
	Sender      string
	Subject     string
	Size        int64
	OnUncertain outbox.UncertainPolicy `db:"on_uncertain"`
	Tags        []byte
	Metadata    []byte
	TraceParent string `db:"trace_parent"`
	Age         float64
	Body        []byte
}

// claimRange claims from one (route, priority), whose rows are one stretch of the index.
func (s *Store) claimRange(
	ctx context.Context, req outbox.ClaimRequest, d outbox.Due, limit int, maxBytes int64,
) ([]outbox.Claimed, error) {
	token := uuid.NewString()
	args := []any{d.Route, string(d.Priority), limit, token, s.interval(req.Lease), clean(req.Owner), maxBytes}
	if s.dialect == schema.Postgres {
		type row struct {
			leasedRow
			messageRow
			ID outbox.ID // both have one
		}
		rows, err := change[row](ctx, s, "claim", append(args, req.InlineBytes)...)
		if err != nil {
			return nil, err
		}
		var group grouping
		for _, r := range rows {
			r.leasedRow.ID, r.messageRow.ID = r.ID, r.ID
			if err := group.add(token, r.leasedRow, func() messageRow { return r.messageRow }); err != nil {
				return nil, err
			}
		}
		return group.list, nil
	}

	leased, err := change[leasedRow](ctx, s, "claim", args...)
	if err != nil || len(leased) == 0 {
		return nil, err
	}
	slices.SortFunc(leased, func(a, b leasedRow) int {
		if c := a.DueAt.Compare(b.DueAt.Time); c != 0 {
			return c
		}
		if c := strings.Compare(string(a.ID), string(b.ID)); c != 0 {
			return c
		}
		return a.Seq - b.Seq
	})
	ids := make([]outbox.ID, 0, len(leased))
	seen := make(map[outbox.ID]messageRow, len(leased))
	for _, l := range leased {
		if _, ok := seen[l.ID]; !ok {
			seen[l.ID] = messageRow{}
			ids = append(ids, l.ID)
		}
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	messages, err := collect[messageRow](ctx, s.db, s.queries.get("claimed_messages"), string(list), req.InlineBytes)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		seen[m.ID] = m
	}
	var group grouping
	for _, l := range leased {
		if err := group.add(token, l, func() messageRow { return seen[l.ID] }); err != nil {
			return nil, err
		}
	}
	return group.list, nil
}

// grouping collects deliveries under their messages, in the order in which they come.
type grouping struct {
	list  []outbox.Claimed
	index map[outbox.ID]int
}

func (g *grouping) add(token string, l leasedRow, message func() messageRow) error {
	i, ok := g.index[l.ID]
	if !ok {
		c, err := claimedMessage(token, l, message())
		if err != nil {
			return err
		}
		if g.index == nil {
			g.index = make(map[outbox.ID]int)
		}
		i = len(g.list)
		g.index[l.ID] = i
		g.list = append(g.list, c)
	}
	g.list[i].Deliveries = append(g.list[i].Deliveries, outbox.ClaimedDelivery{
		Seq: l.Seq, Recipient: l.Recipient, Attempt: l.Attempts, DeferredFor: seconds(l.DeferredFor), Class: l.Class, Relay: l.Relay,
	})
	return nil
}

func claimedMessage(token string, l leasedRow, m messageRow) (outbox.Claimed, error) {
	c := outbox.Claimed{
		ID: l.ID, MessageID: m.RFCID, Key: m.Key, Route: m.Route, Priority: m.Priority, Sender: m.Sender, Subject: m.Subject,
		Size: m.Size, OnUncertain: m.OnUncertain, TraceParent: m.TraceParent, Age: seconds(m.Age), ExpiresIn: seconds(l.ExpiresIn),
		Body: m.Body, Token: token,
	}
	if err := decode(m.Tags, &c.Tags); err != nil {
		return c, fmt.Errorf("message %s: tags: %w", l.ID, err)
	}
	if err := decode(m.Metadata, &c.Metadata); err != nil {
		return c, fmt.Errorf("message %s: metadata: %w", l.ID, err)
	}
	return c, nil
}

// decode reads a JSON column that may be NULL.
func decode(column []byte, into any) error {
	if len(column) == 0 {
		return nil
	}
	return json.Unmarshal(column, into)
}
