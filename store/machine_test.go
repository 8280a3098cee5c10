package store_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"
	"pgregory.net/rapid"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store"
)

// machine drives a store and the model.
type machine struct {
	*model

	db    *sqlx.DB
	store *store.Store
}

var routes = []string{"a", "b"}

func TestStoreAgainstModel(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *store.Store, db *sqlx.DB) {
		rapid.Check(t, func(rt *rapid.T) {
			for _, table := range []string{"messages", "deliveries", "claims", "fences", "attempts", "routes", "relays", "suppressions", "actions"} {
				if _, err := db.ExecContext(t.Context(), "DELETE FROM outbox_"+table); err != nil {
					rt.Fatal(err)
				}
			}
			m := &machine{model: &model{paused: make(map[string]bool), barred: make(map[string]bool)}, db: db, store: s}
			rt.Repeat(map[string]func(*rapid.T){
				"":        m.compare,
				"enqueue": m.enqueue,
				"claim":   m.claim,
				"commit":  m.commit,
				"renew":   m.renew,
				"settle":  m.settleSome,
				"reap":    func(rt *rapid.T) { m.reapBoth(rt) },
				"operate": m.operateSome,
				"time":    m.timePasses,
				"pause":   m.pauseOrResume,
				"relay":   m.pauseOrResumeRelay,
				"bar":     m.suppress,
			})
		})
	})
}

func (m *machine) exec(rt *rapid.T, query string, args ...any) {
	rt.Helper()
	if _, err := m.db.ExecContext(rt.Context(), query, args...); err != nil {
		rt.Fatalf("%s: %v", query, err)
	}
}

func (m *machine) enqueue(rt *rapid.T) {
	msg := &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, Text: "x",
		Route:       rapid.SampledFrom(routes).Draw(rt, "route"),
		Priority:    rapid.SampledFrom(queue.Priorities()).Draw(rt, "priority"),
		OnUncertain: rapid.SampledFrom([]outbox.UncertainPolicy{outbox.Resend, outbox.Hold}).Draw(rt, "policy"),
	}
	later := rapid.Bool().Draw(rt, "later")
	if later {
		msg.NotBefore = time.Now().Add(time.Hour)
	}
	limit := noDeadline
	if rapid.Bool().Draw(rt, "deadline") {
		limit, msg.Expires = ahead, time.Now().Add(2*time.Hour)
	}
	recipients := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a@x.org", "b@x.org", "c@y.org"}), 1, 3, rapid.ID).Draw(rt, "recipients")
	for _, r := range recipients {
		msg.To = append(msg.To, outbox.Address{Address: r})
	}
	tx, err := m.db.BeginTxx(rt.Context(), nil)
	if err != nil {
		rt.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	receipt, err := outbox.Enqueue(rt.Context(), tx, msg)
	if err != nil {
		rt.Fatal(err)
	}
	if rapid.IntRange(0, 9).Draw(rt, "roll back") == 0 {
		return
	}
	if err := tx.Commit(); err != nil {
		rt.Fatal(err)
	}
	for i, r := range recipients {
		m.deliveries = append(m.deliveries, &modelDelivery{
			id: receipt.ID, seq: i + 1, recipient: r, route: msg.Route, policy: msg.OnUncertain,
			state: outbox.StateQueued, later: later, deadline: limit,
		})
	}
}

func (m *machine) claim(rt *rapid.T) {
	limit := rapid.IntRange(1, 6).Draw(rt, "limit")
	relay := rapid.SampledFrom([]string{"", "r1", "r2"}).Draw(rt, "relay")
	stopped := relay == "r1" && m.relay
	due := 0 // that can be leased
	for _, d := range m.deliveries {
		if !stopped && d.claimable(m.model) && !m.barred[d.recipient] && d.lapses < 2 {
			due++
		}
	}
	var expect queue.Due
	if rapid.Bool().Draw(rt, "expects") {
		expect.Route = rapid.SampledFrom(routes).Draw(rt, "expected route")
		expect.Priority = rapid.SampledFrom(queue.Priorities()).Draw(rt, "expected priority")
	}
	promised := rapid.Bool().Draw(rt, "fenced")
	owner := rapid.SampledFrom([]string{"d1", "d2", "d3"}).Draw(rt, "owner")
	holds := slices.ContainsFunc(m.deliveries, func(d *modelDelivery) bool { return d.claim != nil && d.claim.alone && d.claim.owner == owner })
	claimed, err := m.store.Claim(rt.Context(), queue.ClaimRequest{
		Owner: owner, Limit: limit, Lease: time.Hour, InlineBytes: 1 << 20,
		Relay: relay, Fenced: promised, Expect: expect,
	})
	if err != nil {
		rt.Fatal(err)
	}
	if stopped && len(claimed) > 0 {
		rt.Fatalf("%d messages were claimed for a relay that is paused", len(claimed))
	}
	got := 0
	fresh := make(map[string]*modelClaim)
	for _, c := range claimed {
		if m.held(c.Token) != nil {
			rt.Fatalf("the token %s is not new", c.Token)
		}
		if fresh[c.Token] == nil {
			fresh[c.Token] = &modelClaim{token: c.Token, owner: owner, relay: relay, promised: promised}
		}
	}
	for _, c := range claimed {
		for i, cd := range c.Deliveries {
			d := m.find(c.Ref(i))
			if d == nil || !d.claimable(m.model) || m.barred[d.recipient] {
				rt.Fatalf("%s/%d was claimed and must not be: %+v", c.ID, cd.Seq, d)
			}
			if d.lapses >= 2 && !fresh[c.Token].alone {
				if holds || i > 0 {
					rt.Fatalf("%s/%d is not claimed alone: %+v", c.ID, cd.Seq, claimed)
				}
				holds, fresh[c.Token].alone = true, true
			}
			if fresh[c.Token].alone != (d.lapses >= 2) {
				rt.Fatalf("%s/%d, with %d lapses, is in a claim with others", c.ID, cd.Seq, d.lapses)
			}
			d.state, d.fenced, d.claim = outbox.StateSending, false, fresh[c.Token]
			d.attempts++
			if cd.Attempt != d.attempts || cd.Recipient != d.recipient || cd.Class != d.class || cd.Relay != d.relay || cd.DeferredFor > 0 && !d.outage {
				rt.Fatalf("claimed %+v, the model says %+v", cd, d)
			}
			got++
		}
		for _, d := range m.deliveries {
			if d.id == c.ID && d.claimable(m.model) && !m.barred[d.recipient] && fresh[c.Token].alone == (d.lapses >= 2) {
				rt.Fatalf("%s/%d was left behind by its siblings", d.id, d.seq)
			}
		}
		m.claims = append(m.claims, c)
	}
	// A claim that finds what it expects looks no further.
	if got < min(limit, due) && (got == 0 || expect.Route == "") {
		rt.Fatalf("%d deliveries were claimed, of %d due and up to %d", got, due, limit)
	}
	// The order decides which suppressed deliveries the claim met. Take those that the database names, if they may be suppressed.
	for _, d := range m.rows(rt) {
		if d.State == outbox.StateSuppressed {
			if e := m.find(queue.Ref{ID: d.ID, Seq: d.Seq}); e.state == outbox.StateQueued {
				if stopped || !m.barred[e.recipient] || !e.claimable(m.model) {
					rt.Fatalf("%s/%d was suppressed and must not be", d.ID, d.Seq)
				}
				e.state = outbox.StateSuppressed
			}
		}
	}
}

// refs draws some of the refs that were ever claimed.
func (m *machine) refs(rt *rapid.T) []queue.Ref {
	var all []queue.Ref
	for _, c := range m.claims {
		for i := range c.Deliveries {
			all = append(all, c.Ref(i))
		}
	}
	if len(all) == 0 {
		rt.Skip("nothing was claimed yet")
	}
	// One for each delivery, as a dispatcher has them.
	list := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, 5, func(r queue.Ref) string { return fmt.Sprint(r.ID, r.Seq) })
	return list.Draw(rt, "refs")
}

// lost checks the refs that a fenced verb returned as unchanged.
func (m *machine) lost(
	rt *rapid.T, verb string, may func(queue.Ref) *modelDelivery, refs, lost []queue.Ref, err error, change func(i int, d *modelDelivery) bool,
) {
	rt.Helper()
	if err != nil {
		rt.Fatalf("%s: %v", verb, err)
	}
	var expected []queue.Ref
	for i, ref := range refs {
		if d := may(ref); d == nil || !change(i, d) {
			expected = append(expected, ref)
		}
	}
	if !slices.Equal(lost, expected) {
		rt.Fatalf("%s: lost %v, the model says %v", verb, lost, expected)
	}
}

func (m *machine) commit(rt *rapid.T) {
	refs := m.refs(rt)
	relay := rapid.SampledFrom([]string{"r1", "r2"}).Draw(rt, "relay")
	list := make([]queue.FencedRef, len(refs))
	for i, ref := range refs {
		list[i] = queue.FencedRef{Ref: ref, Relay: relay}
	}
	lost, err := m.store.Fence(rt.Context(), list)
	if err != nil {
		rt.Fatalf("commit: %v", err)
	}
	var expected []queue.Ref
	for _, ref := range refs {
		if c := m.held(ref.Token); c == nil || c.lapsed {
			expected = append(expected, ref)
		} else if d := m.holds(ref); d != nil { // a fence for what was settled already is in vain
			d.fenced, d.fence = true, relay
		}
	}
	if !slices.Equal(lost, expected) {
		rt.Fatalf("commit: lost %v, the model says %v", lost, expected)
	}
}

func (m *machine) renew(rt *rapid.T) {
	var tokens, expected []string
	for _, ref := range m.refs(rt) {
		if slices.Contains(tokens, ref.Token) {
			continue
		}
		tokens = append(tokens, ref.Token)
		if c := m.held(ref.Token); c != nil {
			c.lapsed = false
		} else {
			expected = append(expected, ref.Token)
		}
	}
	lost, err := m.store.Renew(rt.Context(), tokens, time.Hour)
	if err != nil || !slices.Equal(lost, expected) {
		rt.Fatalf("renew: lost %v (%v), the model says %v", lost, err, expected)
	}
}

func (m *machine) settleSome(rt *rapid.T) {
	refs := m.refs(rt)
	list := make([]queue.Settlement, len(refs))
	for i, ref := range refs {
		list[i] = queue.Settlement{
			Ref: ref,
			Outcome: rapid.SampledFrom([]queue.Outcome{
				queue.Sent, queue.Deferred, queue.Failed, queue.Recycled, queue.Uncertain, queue.Expired, queue.Held,
			}).Draw(rt, "verb"),
			Uncounted: rapid.Bool().Draw(rt, "uncounted"),
		}
		if verb := list[i].Outcome; verb == queue.Deferred || verb == queue.Uncertain {
			list[i].Delay = rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(rt, "delay")
		}
		if list[i].Outcome == queue.Failed {
			list[i].Suppress = rapid.IntRange(0, 3).Draw(rt, "suppress") == 0
		}
		if rapid.Bool().Draw(rt, "evidence") {
			list[i].Evidence = queue.Evidence{Class: rapid.SampledFrom([]string{"transient", "message"}).Draw(rt, "class"), Relay: "r3"}
		}
	}
	lost, err := m.store.Settle(rt.Context(), "d1", list)
	m.lost(rt, "settle", m.answers, refs, lost, err, func(i int, d *modelDelivery) bool {
		d.settle(list[i])
		if list[i].Suppress {
			m.barred[d.recipient] = true
		}
		return true
	})
}

func (m *machine) reapBoth(rt *rapid.T) {
	report, err := m.store.Reap(rt.Context())
	if expected := m.reap(); err != nil || report != expected {
		rt.Fatalf("reap: %+v (%v), the model says %+v", report, err, expected)
	}
}

func (m *machine) operateSome(rt *rapid.T) {
	var f store.Filter
	f.Limit = rapid.IntRange(0, 3).Draw(rt, "limit")
	if rapid.Bool().Draw(rt, "by state") {
		f.States = rapid.SliceOfNDistinct(rapid.SampledFrom(outbox.States()), 1, 3, rapid.ID).Draw(rt, "states")
	}
	if rapid.Bool().Draw(rt, "by recipient") {
		f.To = rapid.SampledFrom([]string{"a@x.org", "@x.org", "@y.org"}).Draw(rt, "to")
	}
	if rapid.Bool().Draw(rt, "by route") {
		f.Routes = []string{rapid.SampledFrom(routes).Draw(rt, "route")}
	}
	selected := func(d *modelDelivery) bool {
		return (f.States == nil || slices.Contains(f.States, d.state)) && strings.HasSuffix(d.recipient, f.To) &&
			(f.Routes == nil || f.Routes[0] == d.route)
	}
	op := rapid.SampledFrom([]string{"requeue", "hold", "release", "cancel", "resolve-sent", "resolve-resend", "purge"}).Draw(rt, "operation")
	var (
		n   int64
		err error
		ctx = rt.Context()
	)
	switch op {
	case "requeue":
		n, err = m.store.Requeue(ctx, f)
	case "hold":
		n, err = m.store.Hold(ctx, f)
	case "release":
		n, err = m.store.Release(ctx, f)
	case "cancel":
		n, err = m.store.Cancel(ctx, f)
	case "resolve-sent":
		n, err = m.store.Resolve(ctx, f, store.ResolveSent)
	case "resolve-resend":
		n, err = m.store.Resolve(ctx, f, store.ResolveResend)
	case "purge":
		n, err = m.store.Purge(ctx, f)
	}
	if expected := m.operate(op, selected, f.States, f.Limit); err != nil || n != expected {
		rt.Fatalf("%s %+v: %d (%v), the model says %d", op, f, n, err, expected)
	}
}

// timePasses for one delivery: its lease lapses, its time comes, or its deadline passes.
func (m *machine) timePasses(rt *rapid.T) {
	if len(m.deliveries) == 0 {
		rt.Skip("nothing is stored")
	}
	d := rapid.SampledFrom(m.deliveries).Draw(rt, "delivery")
	column := ""
	switch rapid.SampledFrom([]string{"lease", "due", "deadline"}).Draw(rt, "what") {
	case "lease":
		if d.state == outbox.StateSending {
			d.claim.lapsed = true
			m.exec(rt, "UPDATE outbox_claims SET lease_until = '2000-01-01T00:00:00.000Z' WHERE token = $1", d.claim.token)
		}
	case "due":
		if d.state != outbox.StateSending && !d.state.Terminal() {
			d.later, column = false, "due_at"
		}
	case "deadline":
		if d.deadline == ahead {
			d.deadline, column = passed, "expires_at"
		}
	}
	if column != "" {
		m.exec(rt, "UPDATE outbox_deliveries SET "+column+" = '2000-01-01T00:00:00.000Z' WHERE message_id = $1 AND seq = $2", string(d.id), d.seq)
	}
}

func (m *machine) pauseOrResume(rt *rapid.T) {
	route := rapid.SampledFrom(routes).Draw(rt, "route")
	if !m.paused[route] {
		m.paused[route] = true
		if err := m.store.Pause(rt.Context(), route, "test"); err != nil {
			rt.Fatal(err)
		}
		return
	}
	m.paused[route] = false
	if was, err := m.store.Resume(rt.Context(), route); err != nil || !was {
		rt.Fatalf("resume: %v, %v", was, err)
	}
}

func (m *machine) pauseOrResumeRelay(rt *rapid.T) {
	if m.relay = !m.relay; m.relay {
		if err := m.store.PauseRelay(rt.Context(), "r1", time.Hour, "test"); err != nil {
			rt.Fatal(err)
		}
		return
	}
	if was, err := m.store.ResumeRelay(rt.Context(), "r1"); err != nil || !was {
		rt.Fatalf("resume a relay: %v, %v", was, err)
	}
}

func (m *machine) suppress(rt *rapid.T) {
	address := rapid.SampledFrom([]string{"b@x.org", "c@y.org"}).Draw(rt, "address")
	var err error
	if m.barred[address] {
		_, err = m.store.Unsuppress(rt.Context(), address)
	} else {
		_, err = m.store.Suppress(rt.Context(), store.Suppression{Address: address, Reason: "test"})
	}
	if err != nil {
		rt.Fatal(err)
	}
	m.barred[address] = !m.barred[address]
}

// row is what the database says of a delivery.
type row struct {
	ID       outbox.ID    `db:"id"`
	Seq      int          `db:"seq"`
	Attempts int          `db:"attempts"`
	Lapses   int          `db:"lapses"`
	State    outbox.State `db:"state"`
	Class    string       `db:"class"`
	Relay    string       `db:"relay"`
	Token    string       `db:"token"`
	Doubt    string       `db:"doubt"`
	Outage   bool         `db:"outage"`
	Later    bool         `db:"later"`
	Lapsed   bool         `db:"lapsed"`
	Notes    int          `db:"notes"`
}

func (m *machine) rows(rt *rapid.T) (rows []row) {
	rt.Helper()
	err := m.db.SelectContext(rt.Context(), &rows, `SELECT CAST(d.message_id AS text) AS id, d.seq, d.attempts, d.lapses, d.state,
coalesce(d.class, '') AS class, coalesce(d.relay, '') AS relay, coalesce(CAST(d.lease_token AS text), '') AS token, coalesce(CAST(d.doubt_token AS text), '') AS doubt, d.deferred_since IS NOT NULL AS outage,
d.due_at > c.now AS later, coalesce(k.lease_until <= c.now, d.state <> d.state) AS lapsed,
(SELECT count(*) FROM outbox_attempts a WHERE a.message_id = d.message_id AND a.seq = d.seq AND a.verb NOT LIKE 'operator-%') AS notes
FROM outbox_deliveries d LEFT JOIN outbox_claims k ON k.token = d.lease_token CROSS JOIN outbox_clock c ORDER BY d.message_id, d.seq`)
	if err != nil {
		rt.Fatal(err)
	}
	return rows
}

// compare is the invariant: the database says what the model says, and no message is left without a delivery.
func (m *machine) compare(rt *rapid.T) {
	rows := m.rows(rt)
	if len(rows) != len(m.deliveries) {
		rt.Fatalf("%d deliveries are stored, the model has %d", len(rows), len(m.deliveries))
	}
	for i, d := range m.deliveries {
		expected := row{
			ID: d.id, Seq: d.seq, Attempts: d.attempts, Lapses: d.lapses, State: d.state, Class: d.class, Relay: d.relay, Doubt: d.doubt,
			Outage: d.outage, Later: d.later, Notes: d.notes,
		}
		if d.claim != nil {
			expected.Token, expected.Lapsed = d.claim.token, d.claim.lapsed
		}
		got := rows[i]
		if d.state == outbox.StateSending || d.state.Terminal() { // when it was due does not matter now
			got.Later, expected.Later = false, false
		}
		if got != expected {
			rt.Fatalf("stored is\n%+v\nthe model says\n%+v", got, expected)
		}
	}
	var held int
	if err := m.db.GetContext(rt.Context(), &held, "SELECT count(*) FROM outbox_claims"); err != nil {
		rt.Fatal(err)
	}
	open := make(map[*modelClaim]bool)
	for _, d := range m.deliveries {
		if d.claim != nil {
			open[d.claim] = true
		}
	}
	if held != len(open) {
		rt.Fatalf("%d claims are stored, the model has %d", held, len(open))
	}
	var orphans int
	err := m.db.GetContext(rt.Context(), &orphans, `SELECT count(*) FROM outbox_messages m
WHERE NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = m.id)`)
	if err != nil || orphans != 0 {
		rt.Fatalf("%d messages have no delivery (%v)", orphans, err)
	}
}
