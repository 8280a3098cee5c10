package store

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// MinLease is the shortest lease that a claim or a renewal takes, so that it outlives the statement that grants it.
const MinLease = 10 * time.Millisecond

// Due lists the queued deliveries of the given routes, or of every route if none is given: one entry for each route and
// priority that has any, the most urgent first. It writes nothing and takes no lock, and its cost does not depend on the
// backlog. An idle dispatcher polls with it.
func (s *Store) Due(ctx context.Context, routes []string) ([]queue.Due, error) {
	ranges, err := s.due(ctx, routes, "")
	if err != nil {
		return nil, err
	}
	due := make([]queue.Due, len(ranges))
	for i, r := range ranges {
		due[i] = r.Due
	}
	return due, nil
}

// dueRange is what waits on a route and a priority.
type dueRange struct {
	queue.Due

	suspects bool // some lapsed time and again, and are due
}

// due is [Store.Due] for one relay. While the relay is paused, every entry is.
func (s *Store) due(ctx context.Context, routes []string, relay string) ([]dueRange, error) {
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
		Suspects bool
		Paused   bool
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("due"), wanted, clean(relay))
	if err != nil {
		return nil, s.failed(ctx, err, "list what is due")
	}
	due := make([]dueRange, len(rows))
	for i, r := range rows {
		due[i] = dueRange{Due: queue.Due{Route: r.Route, Priority: r.Priority, In: seconds(r.DueIn), Paused: r.Paused}, suspects: r.Suspects}
	}
	return due, nil
}

// Claim leases up to req.Limit due deliveries: queued → sending, with a fresh token and one more attempt. It serves the more
// urgent priorities first, leaves each of the others a share, and divides a priority between its routes. Of the messages whose leases
// lapsed twice in a row or more, it takes one with a token of its own, unless the owner holds such a message already.
//
//   - Deliveries of a paused route stay, and so do those past their deadline. While req.Relay is paused all stay.
//   - A delivery whose recipient is on the suppression list becomes suppressed.
//   - A delivery whose message is missing or cannot be read is held, with the reason and without a counted attempt.
//   - With a req.Rate it claims no more than the allowance of req.Relay, from which all dispatchers of the database draw.
//
// If nothing is due, or nothing is allowed, it writes nothing. On an error it may have leased deliveries that it does not return.
// Their leases lapse, and [Store.Reap] puts them back.
func (s *Store) Claim(ctx context.Context, req queue.ClaimRequest) ([]queue.Claimed, error) {
	if err := checkClaim(req); err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	if req.Expect.Route != "" && s.dialect == schema.Postgres && req.Rate.PerSecond <= 0 { // elsewhere looking is cheaper than a try
		got, err := s.claimOnce(ctx, req, []dueRange{{Due: req.Expect}})
		if err != nil {
			return got.list, s.failed(ctx, err, "claim")
		}
		if len(got.list) > 0 {
			return got.list, nil
		}
	}
	due, err := s.due(ctx, req.Routes, req.Relay)
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	due = slices.DeleteFunc(due, func(d dueRange) bool { return d.Paused || d.In > 0 })
	if len(due) == 0 {
		return nil, nil
	}
	if n := s.claimCount(req); n%turn == 0 {
		due = promote(due, n/turn)
	}
	for {
		got, err := s.claimOnce(ctx, req, due)
		if err != nil {
			return got.list, s.failed(ctx, err, "claim")
		}
		// Behind the deliveries that the round suppressed or held there may be others that can be sent.
		if len(got.list) > 0 || got.passedOver < passOverAtMost {
			return got.list, nil
		}
	}
}

// passOverAtMost is how many deliveries a round of a claim may suppress or hold, so that its transaction stays short.
const passOverAtMost = 1000

// round is what one round of a claim did.
type round struct {
	list       []queue.Claimed
	passedOver int // suppressed or held
}

// claimOnce claims in one transaction. On PostgreSQL without a rate each statement is its own transaction instead. Only then
// can it return claims together with an error.
func (s *Store) claimOnce(ctx context.Context, req queue.ClaimRequest, due []dueRange) (got round, err error) {
	switch {
	case req.Rate.PerSecond > 0:
		return s.claimAllowed(ctx, req, due)
	case s.dialect == schema.Postgres:
		return s.claimDue(ctx, nil, req, due)
	}
	err = s.atomically(ctx, func(c conn) (err error) {
		got, err = s.claimDue(ctx, c, req, due)
		return err
	})
	if err != nil {
		return round{}, err
	}
	return got, nil
}

func checkClaim(req queue.ClaimRequest) error {
	switch {
	case req.Owner == "":
		return errors.New("no owner given")
	case req.Limit <= 0:
		return fmt.Errorf("the limit must be positive, not %d", req.Limit)
	case req.Lease < MinLease:
		return fmt.Errorf("the lease must be at least %v, not %v", MinLease, req.Lease)
	case req.Rate.PerSecond < 0 || req.Rate.Burst < 0:
		return fmt.Errorf("the rate must not be negative: %+v", req.Rate)
	case req.Rate.PerSecond > 0 && req.Relay == "":
		return errors.New("a rate needs the name of its relay")
	case req.Expect.Route != "" && len(req.Routes) > 0 && !slices.Contains(req.Routes, req.Expect.Route):
		return fmt.Errorf("the route %q where something is expected is none of those asked for", req.Expect.Route)
	default:
		return nil
	}
}

// turn is the number of claims after which one begins with a less urgent priority. These priorities take turns. A flood of
// urgent mail slows the others but never stops them.
const turn = 16

// claimCount counts the claims for the same relay and routes.
func (s *Store) claimCount(req queue.ClaimRequest) uint64 {
	n, _ := s.claims.LoadOrStore(strings.Join(append([]string{req.Relay}, req.Routes...), "\x00"), new(atomic.Uint64))
	return n.(*atomic.Uint64).Add(1) //nolint:forcetypeassert // nothing else is stored
}

// promote moves one of the less urgent priorities to the front.
func promote(due []dueRange, n uint64) []dueRange {
	var groups [][]dueRange
	for i, d := range due {
		if i == 0 || d.Priority != due[i-1].Priority {
			groups = append(groups, nil)
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], d)
	}
	if len(groups) < 2 {
		return due
	}
	first := 1 + int(n%uint64(len(groups)-1))
	return slices.Concat(groups[first], slices.Concat(groups[:first]...), slices.Concat(groups[first+1:]...))
}

// claimDue claims from ranges, the most urgent first. On a nil conn each statement is a transaction of its own.
func (s *Store) claimDue(ctx context.Context, c conn, req queue.ClaimRequest, due []dueRange) (round, error) {
	var (
		claimed []queue.Claimed
		left    = budget{rows: req.Limit, passedOver: passOverAtMost}
	)
	for _, d := range due {
		if !d.suspects {
			continue
		}
		got, err := s.claimRange(ctx, c, req, d.Due, 1, true)
		claimed = append(claimed, got.list...)
		if err != nil {
			return round{list: claimed}, err
		}
		left.rows -= got.leased
		left.passedOver -= got.passedOver()
		if got.leased > 0 { // one at a time
			break
		}
	}
	for len(due) > 0 && !left.spent() {
		n := 1 // ranges of the same priority share what is left
		for n < len(due) && due[n].Priority == due[0].Priority {
			n++
		}
		got, err := s.claimEvenly(ctx, c, req, due[:n], &left)
		claimed = append(claimed, got...)
		if err != nil {
			return round{list: claimed}, err
		}
		due = due[n:]
	}
	return round{list: claimed, passedOver: passOverAtMost - left.passedOver}, nil
}

// budget is the rest of what a claim may take.
type budget struct {
	rows       int
	passedOver int // how many more may be suppressed or held
}

func (b *budget) spent() bool { return b.rows <= 0 || b.passedOver <= 0 }

// claimEvenly divides the budget between ranges. What one range leaves goes to the next, and then to those that had more to give.
func (s *Store) claimEvenly(
	ctx context.Context, c conn, req queue.ClaimRequest, ranges []dueRange, left *budget,
) ([]queue.Claimed, error) {
	var claimed []queue.Claimed
	for len(ranges) > 0 && !left.spent() {
		var full []dueRange
		for i, d := range ranges {
			if left.spent() {
				break
			}
			waiting := len(ranges) - i
			share := (left.rows + waiting - 1) / waiting
			got, err := s.claimRange(ctx, c, req, d.Due, share, false)
			claimed = append(claimed, got.list...)
			if err != nil {
				return claimed, err
			}
			left.rows -= got.leased
			left.passedOver -= got.passedOver()
			if got.leased+got.passedOver() >= share {
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
	State       outbox.State // or suppressed
	Recipient   string
	Attempts    int
	DueAt       string  `db:"due_at"` // SQLite only, whose rows come in no order; a time in fixed width sorts as text
	DeferredFor float64 `db:"deferred_for"`
	Class       string
	Relay       string
	ExpiresIn   float64 `db:"expires_in"`
}

// messageRow is the message of a leasedRow.
type messageRow struct {
	ID          outbox.ID
	Missing     bool   // PostgreSQL only
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
	KeyID       string `db:"key_id"`
	Age         float64
	Body        []byte
}

// claimRange claims from one route and priority, whose rows are adjacent in the index. It holds claimed deliveries whose
// message it cannot read.
func (s *Store) claimRange(
	ctx context.Context, c conn, req queue.ClaimRequest, d queue.Due, limit int, alone bool,
) (*grouping, error) {
	group := &grouping{token: uuid.NewString(), alone: alone}
	args := []any{d.Route, string(d.Priority), limit, group.token}
	var err error
	if s.dialect == schema.Postgres {
		args = append(args, s.interval(req.Lease), clean(req.Owner), req.InlineBytes, clean(req.Relay), req.Fenced, alone)
		err = s.claimPostgres(ctx, c, group, args)
	} else {
		err = s.claimSQLite(ctx, c, group, req, append(args, clean(req.Relay), clean(req.Owner), alone))
	}
	if err != nil {
		return group, err
	}
	return group, s.holdUnread(ctx, c, req.Owner, group)
}

func (s *Store) claimPostgres(ctx context.Context, c conn, group *grouping, args []any) error {
	type row struct {
		leasedRow
		messageRow

		ID outbox.ID // both have one
	}
	var (
		rows []row
		err  error
	)
	if c == nil {
		rows, err = change[row](ctx, s, group.statement(), args...)
	} else {
		rows, err = collect[row](ctx, c, s.queries.get(group.statement()), args...)
	}
	if err != nil {
		return err
	}
	for _, r := range rows {
		r.leasedRow.ID, r.messageRow.ID = r.ID, r.ID
		m := &r.messageRow
		if m.Missing {
			m = nil
		}
		group.add(r.leasedRow, m)
	}
	return nil
}

// claimSQLite sorts the leased rows by their due time, records the claim and fetches the messages. SQLite returns rows in no order.
func (s *Store) claimSQLite(ctx context.Context, c conn, group *grouping, req queue.ClaimRequest, args []any) error {
	leased, err := collect[leasedRow](ctx, c, s.queries.get(group.statement()), args...)
	if err != nil {
		return err
	}
	slices.SortFunc(leased, func(a, b leasedRow) int {
		return cmp.Or(strings.Compare(a.DueAt, b.DueAt), compareKeys(key{a.ID, a.Seq}, key{b.ID, b.Seq}))
	})
	var ids []outbox.ID
	asked := make(map[outbox.ID]bool, len(leased))
	for _, l := range leased {
		if l.State == outbox.StateSending && !asked[l.ID] {
			asked[l.ID] = true
			ids = append(ids, l.ID)
		}
	}
	messages := make(map[outbox.ID]*messageRow, len(ids))
	if len(ids) > 0 {
		_, err := c.ExecContext(ctx, s.queries.get("begin_claim"), group.token, clean(req.Owner), clean(req.Relay), req.Fenced,
			s.interval(req.Lease), group.alone)
		if err != nil {
			return err
		}
		list, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		rows, err := collect[messageRow](ctx, c, s.queries.get("claimed_messages"), string(list), req.InlineBytes)
		if err != nil {
			return err
		}
		for i := range rows {
			messages[rows[i].ID] = &rows[i]
		}
	}
	for _, l := range leased {
		group.add(l, messages[l.ID])
	}
	return nil
}
