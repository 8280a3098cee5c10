package dispatcher_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// shelf is a queue in memory. Tests in synctest bubbles use it, because a database cannot be in one. It keeps the rules of a
// store as far as a dispatcher sees them.
type shelf struct {
	mu     sync.Mutex
	rows   map[outbox.ID]*row
	queued []*row // in the order of their coming
	next   int
	asked  []queue.ClaimRequest
}

type row struct {
	id      outbox.ID
	claimed queue.Claimed
	state   outbox.State
	token   string
	due     time.Time
	attempt int
	since   time.Time // of being deferred
	last    queue.Evidence
	history []queue.Settlement
}

func newShelf() *shelf { return &shelf{rows: make(map[outbox.ID]*row)} }

// add enqueues messages with one recipient each.
func (q *shelf) add(n int, edit func(i int, c *queue.Claimed)) []outbox.ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids := make([]outbox.ID, n)
	for i := range ids {
		q.next++
		id := outbox.ID(fmt.Sprintf("%08d", q.next))
		c := queue.Claimed{
			ID: id, Route: "default", Priority: outbox.Normal, Sender: "shop@example.com", Size: 5, Body: []byte("hello"),
			Deliveries: []queue.ClaimedDelivery{{Seq: 1, Recipient: "ada@example.org"}},
		}
		if edit != nil {
			edit(i, &c)
		}
		r := &row{id: id, claimed: c, state: outbox.StateQueued, due: time.Now()}
		q.rows[id] = r
		q.queued = append(q.queued, r)
		ids[i] = id
	}
	return ids
}

func (q *shelf) get(id outbox.ID) row {
	q.mu.Lock()
	defer q.mu.Unlock()
	return *q.rows[id]
}

// count says how many messages are in a state.
func (q *shelf) count(state outbox.State) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, r := range q.rows {
		if r.state == state {
			n++
		}
	}
	return n
}

// waiting calls do for each queued delivery on the routes, by priority and then by age, until do returns false.
func (q *shelf) waiting(routes []string, do func(r *row) bool) {
	for _, p := range []outbox.Priority{outbox.High, outbox.Normal, outbox.Bulk} {
		for _, r := range q.queued {
			if r.claimed.Priority == p && (len(routes) == 0 || slices.Contains(routes, r.claimed.Route)) && !do(r) {
				return
			}
		}
	}
}

func (q *shelf) Due(_ context.Context, routes []string) ([]queue.Due, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	soonest := make(map[[2]string]queue.Due)
	q.waiting(routes, func(r *row) bool {
		key := [2]string{r.claimed.Route, string(r.claimed.Priority)}
		in := time.Until(r.due)
		if d, ok := soonest[key]; !ok || in < d.In {
			soonest[key] = queue.Due{Route: r.claimed.Route, Priority: r.claimed.Priority, In: in}
		}
		return true
	})
	return slices.Collect(maps.Values(soonest)), nil
}

func (q *shelf) Claim(_ context.Context, req queue.ClaimRequest) ([]queue.Claimed, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked = append(q.asked, req)
	out := q.claim(req, func(r *row) bool {
		return r.claimed.Route == req.Expect.Route && r.claimed.Priority == req.Expect.Priority
	})
	if len(out) == 0 { // what was expected is not there
		out = q.claim(req, func(*row) bool { return true })
	}
	return out, nil
}

func (q *shelf) claim(req queue.ClaimRequest, from func(r *row) bool) []queue.Claimed {
	var out []queue.Claimed
	taken := make(map[*row]bool)
	q.waiting(req.Routes, func(r *row) bool {
		if r.due.After(time.Now()) || !from(r) {
			return true
		}
		taken[r] = true
		q.next++
		r.attempt++
		r.state, r.token = outbox.StateSending, strconv.Itoa(q.next)
		c := r.claimed
		c.Token = r.token
		if c.Size > req.InlineBytes {
			c.Body = nil
		}
		c.Deliveries = slices.Clone(c.Deliveries)
		d := &c.Deliveries[0]
		d.Attempt, d.Class, d.Relay = r.attempt, r.last.Class, r.last.Relay
		if !r.since.IsZero() {
			d.DeferredFor = time.Since(r.since)
		}
		out = append(out, c)
		return len(out) < req.Limit
	})
	if len(taken) > 0 {
		q.queued = slices.DeleteFunc(q.queued, func(r *row) bool { return taken[r] })
	}
	return out
}

func (q *shelf) Body(_ context.Context, id outbox.ID) ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return bytes.Clone(q.rows[id].claimed.Body), nil
}

func (q *shelf) holds(ref queue.Ref) bool {
	r := q.rows[ref.ID]
	return r.state == outbox.StateSending && r.token == ref.Token
}

func (q *shelf) Fence(_ context.Context, list []queue.FencedRef) (lost []queue.Ref, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range list {
		if !q.holds(s.Ref) {
			lost = append(lost, s.Ref)
		}
	}
	return lost, nil
}

// held returns the message that a token holds, empty for none.
func (q *shelf) held(token string) outbox.ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, r := range q.rows {
		if r.state == outbox.StateSending && r.token == token {
			return id
		}
	}
	return ""
}

func (q *shelf) Renew(_ context.Context, tokens []string, _ time.Duration) (lost []string, err error) {
	for _, token := range tokens {
		if q.held(token) == "" {
			lost = append(lost, token)
		}
	}
	return lost, nil
}

func (q *shelf) Settle(_ context.Context, _ string, list []queue.Settlement) (lost []queue.Ref, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range list {
		if !q.holds(s.Ref) {
			lost = append(lost, s.Ref)
			continue
		}
		r := q.rows[s.Ref.ID]
		r.history = append(r.history, s)
		if s.Uncounted || s.Outcome == queue.Recycled {
			r.attempt--
		}
		if s.Evidence != (queue.Evidence{}) {
			r.last = s.Evidence
		}
		switch s.Outcome {
		case queue.Sent:
			r.state = outbox.StateSent
		case queue.Failed:
			r.state = outbox.StateFailed
		case queue.Uncertain:
			r.state = outbox.StateUncertain
		case queue.Expired:
			r.state = outbox.StateExpired
		case queue.Held:
			r.state = outbox.StateHeld
		default:
			r.state, r.due = outbox.StateQueued, time.Now().Add(s.Delay)
			q.queued = append(q.queued, r)
			if s.Outcome == queue.Deferred && s.Uncounted && r.since.IsZero() {
				r.since = time.Now()
			}
		}
	}
	return lost, nil
}

func (q *shelf) Reap(context.Context) (queue.ReapReport, error) { return queue.ReapReport{}, nil }

// bubbled runs a test in a synctest bubble, with fake time.
func bubbled(t *testing.T, test func(t *testing.T, q *shelf)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { test(t, newShelf()) })
}

// running starts a dispatcher, stops it at the end of the bubble, and returns it.
func running(t *testing.T, cfg dispatcher.Config) *dispatcher.Dispatcher {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d, err := dispatcher.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	start(t, d)
	return d
}

// line is a sender with programmed answers. Each takes a while, and it counts them.
type line struct {
	sender
	takes  time.Duration
	answer func() *smtpx.Error // nil accepts
	probe  func() error        // nil for one that cannot probe

	mu     sync.Mutex
	calls  []time.Time
	now    int
	most   int
	probes []time.Time
}

func (s *line) Send(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
	s.mu.Lock()
	s.calls = append(s.calls, time.Now())
	s.now++
	s.most = max(s.most, s.now)
	answer := s.answer
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.now--
		s.mu.Unlock()
	}()
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return refuse(env, &smtpx.Error{Stage: smtpx.StageMail, Class: smtpx.ClassUnreachable, Err: ctx.Err()})
		}
	}
	if answer != nil {
		if e := answer(); e != nil {
			return refuse(env, e)
		}
	}
	return s.accept(ctx, env, body)
}

func (s *line) set(answer func() *smtpx.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *line) tried() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func (s *line) mostAtOnce() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

func (s *line) accepted() int { return len(s.messages()) }

// prober is a line that can be probed.
type prober struct{ *line }

func (p prober) Probe(context.Context) (smtpx.Report, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.probes = append(p.probes, time.Now())
	return smtpx.Report{}, p.probe()
}

// always returns a function that gives the same answer to every message.
func always(e *smtpx.Error) func() *smtpx.Error { return func() *smtpx.Error { return e } }

// relays returns a relay for each sender, in order, named a, b, c and so on.
func relays(senders ...dispatcher.Sender) []dispatcher.Relay {
	list := make([]dispatcher.Relay, len(senders))
	for i, s := range senders {
		list[i] = dispatcher.Relay{Name: string(rune('a' + i)), Sender: s}
	}
	return list
}
