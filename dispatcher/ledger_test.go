package dispatcher_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
)

// With a poll of an hour, whatever the dispatcher itself puts back wakes it again.
func TestWhatIsPutBackWakesTheDispatcher(t *testing.T) {
	t.Parallel()
	greylisted := reply(smtpx.StageRcpt, smtpx.ClassTransient, 451, "greylisted")
	for name, c := range map[string]struct {
		first *smtpx.Error // of relay a
		both  bool         // relay b serves the route, too
		most  time.Duration
	}{
		"a retry":                {greylisted, false, 45 * time.Second},
		"a failover":             {refused, true, 5 * time.Second},
		"a throttled message":    {reply(smtpx.StageMail, smtpx.ClassThrottled, 450, "slow down"), false, 45 * time.Second},
		"an outage":              {refused, false, 45 * time.Second},
		"a session that is used": {reply(smtpx.StageMail, smtpx.ClassRecycle, 421, "too many messages in this session"), false, 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				tried := false
				a, b := &line{takes: time.Second}, &line{}
				a.answer = func() *smtpx.Error {
					if tried {
						return nil
					}
					tried = true
					return c.first
				}
				list := relays(a, b)
				if !c.both {
					list = list[:1]
				}
				d := running(t, dispatcher.Config{Queue: q, Relays: list, Poll: time.Hour})
				time.Sleep(time.Second)
				id := q.add(1, nil)[0]
				d.Wake()
				time.Sleep(c.most)
				synctest.Wait()
				if s := q.get(id).state; s != outbox.StateSent {
					t.Errorf("after %v the message is %s", c.most, s)
				}
			})
		})
	}
}

// With a poll of an hour, the messages that Update hands back are sent at once by the relays that stay.
func TestWhatUpdateHandsBackWakesTheDispatcher(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a, b := &line{takes: 5 * time.Second}, &line{}
		slow := strict{shelf: q, settle: func(context.Context) error {
			time.Sleep(100 * time.Millisecond)
			return nil
		}}
		d := running(t, dispatcher.Config{Queue: slow, Relays: relays(a), Concurrency: 1, Poll: time.Hour})
		time.Sleep(time.Second)
		q.add(6, nil)
		d.Wake()
		time.Sleep(time.Second)
		list := relays(b)
		list[0].Name = "b"
		if err := d.Update(list); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := q.count(outbox.StateSent); n != 6 {
			t.Errorf("%d of 6 are sent ten seconds after the update", n)
		}
	})
}

// A claim that fails is repeated within seconds, whatever the poll is.
func TestAFailedClaimIsRepeatedSoon(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		d := running(t, dispatcher.Config{Queue: &faulty{Queue: q, claim: failFirst(3, errDatabase)}, Relays: relays(&line{}), Poll: time.Hour})
		id := q.add(1, nil)[0]
		d.Wake()
		time.Sleep(30 * time.Second)
		if s := q.get(id).state; s != outbox.StateSent {
			t.Errorf("after half a minute the message is %s", s)
		}
	})
}

// However long the queue cannot record, a known outcome is kept while the process lives.
func TestAKnownOutcomeIsKept(t *testing.T) {
	t.Parallel()
	long := 2 * time.Hour
	if campaign.On() {
		long = 26 * time.Hour
	}
	for _, away := range []time.Duration{time.Minute, 11 * time.Minute, long} {
		t.Run(away.String(), func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				back := time.Now().Add(away)
				s := strict{shelf: q, settle: func(context.Context) error {
					if time.Now().Before(back) {
						return errDatabase
					}
					return nil
				}}
				a := &line{}
				d := running(t, dispatcher.Config{Queue: s, Relays: relays(a)})
				ids := q.add(30, nil)
				time.Sleep(away - time.Second)
				if h := d.Health(); len(h.Reasons) == 0 || !strings.Contains(h.Reasons[0], "no outcome could be recorded") {
					t.Errorf("health says nothing of it: %+v", h)
				}
				time.Sleep(time.Minute)
				for _, id := range ids {
					if r := q.get(id); r.state != outbox.StateSent || r.last.Reply == "" {
						t.Fatalf("the relay said 250, and a minute after the queue came back the delivery is %s, reply %q", r.state, r.last.Reply)
					}
				}
				if a.tried() != 30 {
					t.Errorf("30 messages were sent %d times", a.tried())
				}
			})
		})
	}
}

// picky is a queue that cannot record some outcomes. Its function returns an error for each outcome that it refuses.
type picky struct {
	*shelf
	refuse func(ctx context.Context, s queue.Settlement) error
}

func (p picky) Settle(ctx context.Context, owner string, list []queue.Settlement) ([]queue.Ref, error) {
	for _, s := range list {
		if err := p.refuse(ctx, s); err != nil {
			return nil, err
		}
	}
	return p.shelf.Settle(ctx, owner, list)
}

// Outcomes that cannot be recorded hold up no others, even if the queue hangs over them.
func TestABadOutcomeHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bad  int // how many of 2000 outcomes
		hang bool
	}{
		"one fails":     {1, false},
		"seven fail":    {7, false},
		"one hangs":     {1, true},
		"several hang":  {3, true},
		"hundreds fail": {300, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				ids := q.add(2000, nil)
				bad := make(map[outbox.ID]bool)
				for i := range c.bad {
					bad[ids[i*len(ids)/c.bad]] = true
				}
				var mended sync.Map
				p := picky{q, func(ctx context.Context, s queue.Settlement) error {
					if _, ok := mended.Load(true); ok || !bad[s.Ref.ID] {
						return nil
					}
					if c.hang {
						<-ctx.Done()
						return ctx.Err()
					}
					return errors.New("this row cannot be written")
				}}
				a := &line{takes: 10 * time.Millisecond}
				d := running(t, dispatcher.Config{Queue: p, Relays: relays(a)})
				time.Sleep(5 * time.Minute)
				if n := q.count(outbox.StateSent); n != 2000-c.bad {
					t.Errorf("%d of %d good outcomes are recorded after five minutes", n, 2000-c.bad)
				}
				if h := d.Health(); len(h.Reasons) != 1 || !strings.Contains(h.Reasons[0], "cannot be recorded") {
					t.Errorf("health: %+v", h.Reasons)
				}
				rest := 30 * time.Minute // the failures are still kept after many leases
				if c.bad > 10 && !campaign.On() {
					rest = time.Minute
				}
				time.Sleep(rest)
				mended.Store(true, true)
				time.Sleep(5 * time.Minute)
				if n := q.count(outbox.StateSent); n != 2000 || a.tried() != 2000 {
					t.Errorf("once the rows can be written, %d of 2000 are sent, by %d tries", n, a.tried())
				}
				if h := d.Health(); len(h.Reasons) != 0 {
					t.Errorf("health: %+v", h.Reasons)
				}
			})
		})
	}
}

// An outcome whose words the queue does not store is recorded without them, and its state is right.
func TestAnOutcomeIsRecordedWithoutWhatCannotBeStored(t *testing.T) {
	t.Parallel()
	unstorable := errors.New("invalid byte sequence for encoding")
	for name, c := range map[string]struct {
		refuse func(s queue.Settlement) error
		keeps  func(e queue.Evidence) bool
	}{
		"the reply": {
			func(s queue.Settlement) error {
				if strings.Contains(s.Evidence.Reply, "queued as") {
					return unstorable
				}
				return nil
			},
			func(e queue.Evidence) bool { return e.Relay == "a" && e.Code == 250 && e.Reply == "" },
		},
		"the provider's id": {
			func(s queue.Settlement) error {
				if s.Evidence.ProviderID != "" {
					return unstorable
				}
				return nil
			},
			func(e queue.Evidence) bool { return e.Relay == "a" && e.Code == 250 && e.ProviderID == "" },
		},
		"any evidence": {
			func(s queue.Settlement) error {
				if s.Evidence != (queue.Evidence{}) {
					return unstorable
				}
				return nil
			},
			func(e queue.Evidence) bool { return e == queue.Evidence{} },
		},
	} {
		for _, n := range []int{1, 20} {
			t.Run(name, func(t *testing.T) {
				bubbled(t, func(t *testing.T, q *shelf) {
					ids := q.add(n, nil)
					p := picky{q, func(_ context.Context, s queue.Settlement) error {
						if s.Ref.ID == ids[0] {
							return c.refuse(s)
						}
						return nil
					}}
					running(t, dispatcher.Config{Queue: p, Relays: relays(&line{})})
					time.Sleep(time.Minute)
					if r := q.get(ids[0]); r.state != outbox.StateSent || !c.keeps(r.last) {
						t.Errorf("the outcome is %s with %+v", r.state, r.last)
					}
					for _, id := range ids[1:] {
						if r := q.get(id); r.state != outbox.StateSent || r.last.Reply == "" || r.last.ProviderID == "" {
							t.Fatalf("another outcome is %s with %+v", r.state, r.last)
						}
					}
				})
			})
		}
	}
}

// If every outcome has a part that the queue cannot store, all of them are recorded without it.
func TestManyOutcomesAreRecordedWithoutWhatCannotBeStored(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		q.add(200, nil)
		p := picky{q, func(_ context.Context, s queue.Settlement) error {
			if s.Evidence.Reply != "" {
				return errors.New("invalid byte sequence for encoding")
			}
			return nil
		}}
		a := &line{takes: 10 * time.Millisecond}
		running(t, dispatcher.Config{Queue: p, Relays: relays(a), Concurrency: 50})
		time.Sleep(2 * time.Minute)
		if n := q.count(outbox.StateSent); n != 200 || a.tried() != 200 {
			t.Errorf("%d of 200 are recorded; they were sent %d times", n, a.tried())
		}
	})
}

// locking is a queue some of whose rows another transaction has locked. It passes over them and says so.
type locking struct {
	*shelf
	locked sync.Map // IDs
}

func (l *locking) busy(refs []queue.Ref) error {
	var busy []queue.Ref
	for _, ref := range refs {
		if _, ok := l.locked.Load(ref.ID); ok {
			busy = append(busy, ref)
		}
	}
	if len(busy) == 0 {
		return nil
	}
	return &queue.BusyError{Refs: busy}
}

func (l *locking) Fence(ctx context.Context, list []queue.FencedRef) ([]queue.Ref, error) {
	refs := make([]queue.Ref, len(list))
	for i, f := range list {
		refs[i] = f.Ref
	}
	lost, err := l.shelf.Fence(ctx, list)
	return lost, errors.Join(err, l.busy(refs))
}

func (l *locking) Settle(ctx context.Context, owner string, list []queue.Settlement) ([]queue.Ref, error) {
	refs := make([]queue.Ref, len(list))
	for i, s := range list {
		refs[i] = s.Ref
	}
	err := l.busy(refs)
	var free []queue.Settlement
	for _, s := range list {
		if _, ok := l.locked.Load(s.Ref.ID); !ok {
			free = append(free, s)
		}
	}
	lost, other := l.shelf.Settle(ctx, owner, free)
	return lost, errors.Join(other, err)
}

// A locked row is passed over: others are sent and recorded at once, and it is neither lost nor sent twice.
func TestLockedRowsArePassedOver(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]time.Duration{"before the fence": 500 * time.Millisecond, "before the outcome": 1500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				l := &locking{shelf: q}
				ids := q.add(100, nil)
				s := &sender{}
				s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
					time.Sleep(time.Second)
					res, err := s.accept(ctx, env, body)
					time.Sleep(time.Second)
					return res, err
				}
				running(t, dispatcher.Config{Queue: l, Relays: relays(s), Concurrency: 100})
				time.Sleep(when)
				for i := range 3 {
					l.locked.Store(ids[i*30], true)
				}
				time.Sleep(4 * time.Second)
				if n := q.count(outbox.StateSent); n != 97 {
					t.Errorf("%d of the 97 others are recorded", n)
				}
				time.Sleep(3 * time.Minute)
				l.locked.Clear()
				time.Sleep(time.Minute)
				if n := q.count(outbox.StateSent); n != 100 || len(s.messages()) != 100 {
					t.Errorf("%d of 100 are sent, %d copies", n, len(s.messages()))
				}
			})
		})
	}
}

// hanging is a queue that hangs over some deliveries, as a database does whose rows another transaction has locked.
type hanging struct {
	*shelf
	locked  sync.Map // IDs
	renewed sync.Map // the last renewal of each message
}

func (h *hanging) wait(ctx context.Context, refs []queue.Ref) error {
	if slices.ContainsFunc(refs, func(r queue.Ref) bool { _, ok := h.locked.Load(r.ID); return ok }) {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func (h *hanging) Fence(ctx context.Context, list []queue.FencedRef) ([]queue.Ref, error) {
	refs := make([]queue.Ref, len(list))
	for i, f := range list {
		refs[i] = f.Ref
	}
	if err := h.wait(ctx, refs); err != nil {
		return nil, err
	}
	return h.shelf.Fence(ctx, list)
}

func (h *hanging) Renew(ctx context.Context, tokens []string, lease time.Duration) ([]string, error) {
	refs := make([]queue.Ref, len(tokens))
	for i, token := range tokens {
		refs[i] = queue.Ref{ID: h.held(token)}
	}
	if err := h.wait(ctx, refs); err != nil {
		return nil, err
	}
	for _, ref := range refs {
		h.renewed.Store(ref.ID, time.Now())
	}
	return h.shelf.Renew(ctx, tokens, lease)
}

// Rows over which the queue hangs keep no other message from being fenced, and no other lease from being renewed in time.
func TestALockedRowHoldsUpNoFenceAndNoLease(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"one": 1, "two": 2, "three": 3} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				h := &hanging{shelf: q}
				ids := q.add(40, nil)
				s := &sender{}
				s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
					res, err := s.accept(ctx, env, body)
					time.Sleep(5 * time.Minute)
					return res, err
				}
				const lease = time.Minute
				for i := range n {
					h.locked.Store(ids[i*13], true)
				}
				began := time.Now()
				running(t, dispatcher.Config{Queue: h, Relays: relays(s), Concurrency: 40, Lease: lease})
				time.Sleep(lease - time.Second)
				if got := len(s.messages()); got != 40-n {
					t.Errorf("%d of the %d others were fenced within a lease", got, 40-n)
				}
				for time.Since(began) < 4*time.Minute {
					time.Sleep(5 * time.Second)
					h.renewed.Range(func(id, at any) bool {
						if _, locked := h.locked.Load(id); !locked && time.Since(at.(time.Time)) > lease {
							t.Fatalf("a lease was last renewed %v ago", time.Since(at.(time.Time)))
						}
						return true
					})
				}
				renewed := 0
				h.renewed.Range(func(any, any) bool { renewed++; return true })
				if renewed < 40-n {
					t.Errorf("%d of %d leases were renewed", renewed, 40-n)
				}
			})
		})
	}
}

// A stop while the queue hangs takes Grace and a lease, however much there is to record.
func TestAStopWithAHangingQueueIsBounded(t *testing.T) {
	t.Parallel()
	for name, takes := range map[string]time.Duration{"answers before the deadline": 20 * time.Second, "answers after it": 100 * time.Second} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				var hang sync.Map
				s := strict{shelf: q, settle: func(ctx context.Context) error {
					if _, ok := hang.Load(true); ok {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				}}
				_, stop := stopping(t, dispatcher.Config{Queue: s, Concurrency: 300, Relays: relays(late{takes})})
				q.add(3000, nil)
				time.Sleep(5 * time.Second)
				hang.Store(true, true)
				if took := stop(); took > max(takes, 90*time.Second)+11*time.Second {
					t.Errorf("the stop took %v", took)
				} else if takes < 90*time.Second && took > 91*time.Second {
					t.Errorf("the stop took %v; Run promises Grace and a lease", took)
				}
			})
		})
	}
}

// A delivery that a dead dispatcher left fails over at once: it has not been at another relay.
func TestAReapedDeliveryFailsOverAtOnce(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a, b := &line{answer: always(refused)}, &line{}
		list := relays(a, b)
		list[0].Weight = 1000
		ids := q.add(20, nil)
		q.mu.Lock()
		for _, id := range ids {
			q.rows[id].last = queue.Evidence{Class: string(smtpx.ClassUnreachable)} // as Store.Reap leaves it
		}
		q.mu.Unlock()
		running(t, dispatcher.Config{Queue: q, Relays: list})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if a.tried() == 0 || b.accepted() != 20 {
			t.Errorf("the first relay was tried %d times, the second has %d of 20", a.tried(), b.accepted())
		}
	})
}

// A notice that the queue refuses is left out. The failure is recorded, and so are the notices of all others.
func TestARefusedNoticeTakesNoOtherAlong(t *testing.T) {
	t.Parallel()
	q0 := newQueue(t, openSQLite(t))
	small, err := outbox.New(outbox.Config{MaxSize: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(q0.db, schema.SQLite, store.Through(small))
	if err != nil {
		t.Fatal(err)
	}
	q := &testQueue{Store: st, t: t, db: q0.db}
	q.enqueue(1, func(m *outbox.Message) { m.Text = strings.Repeat("words and words\n", 2000) })
	q.enqueue(9, nil)
	s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
		return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassRecipient, 550, "no such user"))
	}}
	d := newDispatcher(t, dispatcher.Config{
		Queue: q, Relays: []dispatcher.Relay{{Name: "main", Sender: s, Routes: []string{"default"}}},
		Notice: dispatcher.Notice{
			From: outbox.Address{Address: "postmaster@example.com"}, To: []outbox.Address{{Address: "ops@example.com"}}, Full: true, Route: "notices",
		},
	}, s)
	flush(t, d)
	count := func(where string) (n int) {
		if err := q.db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_deliveries WHERE "+where).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if failed, notices := count("state = 'failed'"), count("route = 'notices'"); failed != 10 || notices != 9 {
		t.Errorf("%d failed and %d notices; want 10 and 9", failed, notices)
	}
}
