package dispatcher_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// allowance is a relay behind which several lines share a hidden limit of messages a second.
type allowance struct {
	perSecond int
	hint      time.Duration // the wait that it names, 0 for none

	mu        sync.Mutex
	window    time.Time
	inWindow  int
	tried     int
	throttled int
}

func (a *allowance) answer() *smtpx.Error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); now.Sub(a.window) >= time.Second {
		a.window, a.inWindow = now, 0
	}
	a.tried++
	if a.inWindow >= a.perSecond {
		a.throttled++
		e := reply(smtpx.StageMail, smtpx.ClassThrottled, 454, "Throttling failure: Maximum sending rate exceeded")
		e.RetryAfter = a.hint
		return e
	}
	a.inWindow++
	return nil
}

// take returns the numbers since the last call.
func (a *allowance) take() (tried, throttled int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	tried, throttled = a.tried, a.throttled
	a.tried, a.throttled = 0, 0
	return tried, throttled
}

// feed keeps some hundred messages due until the test ends. It removes those that are sent.
func feed(t *testing.T, q *shelf) {
	ctx := t.Context()
	go func() {
		for ctx.Err() == nil {
			q.mu.Lock()
			for id, r := range q.rows {
				if r.state == outbox.StateSent {
					delete(q.rows, id)
				}
			}
			due := len(q.queued)
			q.mu.Unlock()
			if due < 300 {
				q.add(300-due, nil)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
}

// A hidden limit of a relay is found within a minute. After that at most one in twenty messages is throttled, and most of what the
// relay allows is used.
// The short form leaves out half of the combinations; each value meets each other value of the two other kinds.
func TestAHiddenLimitIsFound(t *testing.T) {
	t.Parallel()
	for i, perSecond := range []int{14, 50, 80} {
		for j, dispatchers := range []int{1, 4} {
			for k, hint := range []time.Duration{0, time.Second} {
				if !campaign.On() && (i+j+k)%2 == 1 {
					continue
				}
				t.Run(fmt.Sprintf("%d a second, %d dispatchers, hint %v", perSecond, dispatchers, hint), func(t *testing.T) {
					bubbled(t, func(t *testing.T, q *shelf) {
						limit := &allowance{perSecond: perSecond, hint: hint}
						for range dispatchers {
							running(t, dispatcher.Config{Queue: q, Relays: relays(&line{takes: 100 * time.Millisecond, answer: limit.answer})})
						}
						feed(t, q)
						time.Sleep(time.Minute)
						limit.take()
						time.Sleep(time.Minute)
						tried, throttled := limit.take()
						if throttled*20 > tried || tried-throttled < perSecond*60*6/10 {
							t.Errorf("after a minute: tried %d, throttled %d (%.1f%%), accepted %.0f%% of what is allowed",
								tried, throttled, 100*float64(throttled)/float64(tried), 100*float64(tried-throttled)/float64(perSecond*60))
						}
						if dispatchers > 1 {
							return
						}
						limit.mu.Lock()
						limit.perSecond = 1000 // the provider raises it
						limit.mu.Unlock()
						time.Sleep(2 * time.Minute)
						limit.take()
						time.Sleep(10 * time.Second)
						if tried, throttled := limit.take(); throttled != 0 || tried < 700 {
							t.Errorf("two minutes after the limit was raised, %d are tried in ten seconds and %d throttled", tried, throttled)
						}
					})
				})
			}
		}
	}
}

// The first throttling slows the lane down, even if a message was accepted a moment before.
func TestThrottlingAmongSuccesses(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a := &line{takes: 50 * time.Millisecond}
		d := running(t, dispatcher.Config{Queue: q, Relays: relays(a)})
		q.add(5000, nil)
		time.Sleep(10*time.Second + 300*time.Millisecond)
		var n atomic.Int64
		a.set(func() *smtpx.Error {
			if n.Add(1)%2 == 0 {
				return reply(smtpx.StageMail, smtpx.ClassThrottled, 454, "too fast")
			}
			return nil
		})
		time.Sleep(600 * time.Millisecond)
		if h := d.Health().Relays[0]; h.Concurrency > 5 || h.PerSecond > 150 {
			t.Errorf("every second message is throttled, and the relay is %+v", h)
		}
	})
}

// A relay that names a long wait gets it: after a few messages nothing is tried before the wait is over.
func TestALongWaitOfAThrottlingRelayIsHeeded(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{10 * time.Second, 10 * time.Minute, time.Hour} {
		t.Run(wait.String(), func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				e := reply(smtpx.StageMail, smtpx.ClassThrottled, 421, "too many messages, try again later")
				e.RetryAfter = wait
				a := &line{takes: 50 * time.Millisecond, answer: always(e)}
				d := running(t, dispatcher.Config{Queue: q, Relays: relays(a), Poll: time.Minute})
				q.add(300, nil)
				time.Sleep(min(wait, 15*time.Minute) - time.Second)
				if h := d.Health().Relays[0]; a.tried() > 20 || h.State != dispatcher.RelayPaused {
					t.Errorf("it was asked %d times within the wait and is %s", a.tried(), h.State)
				}
				a.set(nil)
				time.Sleep(2*wait + time.Hour)
				if n := q.count(outbox.StateSent); n != 300 {
					t.Errorf("%d of 300 were sent once it took them", n)
				}
			})
		})
	}
}

// One odd answer that names a long wait, among messages that get through, does not stop the relay.
func TestAnOddLongWaitDoesNotStopTheRelay(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		e := reply(smtpx.StageMail, smtpx.ClassThrottled, 421, "try again in an hour")
		e.RetryAfter = time.Hour
		var n atomic.Int64
		a := &line{takes: 50 * time.Millisecond}
		a.answer = func() *smtpx.Error {
			if n.Add(1)%500 == 0 {
				return e
			}
			return nil
		}
		running(t, dispatcher.Config{Queue: q, Relays: relays(a)})
		q.add(5000, nil)
		time.Sleep(20 * time.Minute)
		if got := q.count(outbox.StateSent); got < 4900 {
			t.Errorf("%d of 5000 were sent in twenty minutes", got)
		}
	})
}

// A relay that loses the connection after every final dot is taken out of use, and each trial is one message.
func TestDoubtOpensTheBreaker(t *testing.T) {
	t.Parallel()
	for name, concurrency := range map[string]int{"one at once": 1, "ten at once": 10, "fifty at once": 50} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				doubt := lost(smtpx.StageDot, smtpx.ClassAmbiguous)
				a := &line{takes: 10 * time.Millisecond, answer: always(doubt)}
				d := running(t, dispatcher.Config{Queue: q, Relays: relays(a), Concurrency: concurrency, Poll: 10 * time.Second})
				q.add(2000, nil)
				time.Sleep(time.Second)
				first := q.count(outbox.StateUncertain)
				if h := d.Health(); first < 5 || first > concurrency+5 || h.Ready || h.Relays[0].State != dispatcher.RelayOffline {
					t.Errorf("%d messages are in doubt after a second; ready %v, the relay is %s", first, h.Ready, h.Relays[0].State)
				}
				time.Sleep(10 * time.Minute)
				if n := q.count(outbox.StateUncertain) - first; n > 8 {
					t.Errorf("%d further messages were put in doubt in ten minutes", n)
				}
				a.set(nil)
				time.Sleep(10 * time.Minute)
				if n := q.count(outbox.StateSent); n < 2000-concurrency-20 {
					t.Errorf("%d were sent once the relay answered", n)
				}
			})
		})
	}
}

// Doubt that is rare among messages that get through does not stop the relay.
func TestRareDoubtDoesNotOpenTheBreaker(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		var n atomic.Int64
		a := &line{takes: 10 * time.Millisecond}
		a.answer = func() *smtpx.Error {
			if n.Add(1)%10 == 0 {
				return lost(smtpx.StageDot, smtpx.ClassAmbiguous)
			}
			return nil
		}
		running(t, dispatcher.Config{Queue: q, Relays: relays(a)})
		q.add(5000, nil)
		time.Sleep(time.Minute)
		if got := q.count(outbox.StateSent); got != 4500 {
			t.Errorf("%d of 4500 were sent in a minute", got)
		}
	})
}

// A refused login among sessions that work is a failure like others. Five in a row take the relay offline.
func TestOddLogins(t *testing.T) {
	t.Parallel()
	for name, scope := range map[string]*smtpx.Error{
		"535": reply(smtpx.StageAuth, smtpx.ClassConfig, 535, "5.7.8 authentication failed"),
		"530": reply(smtpx.StageMail, smtpx.ClassConfig, 530, "5.7.0 authentication required"),
	} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				var n atomic.Int64
				a := &line{takes: 50 * time.Millisecond, probe: func() error { return nil }}
				a.answer = func() *smtpx.Error {
					if n.Add(1)%100 == 0 {
						return scope
					}
					return nil
				}
				d := running(t, dispatcher.Config{Queue: q, Relays: relays(prober{a})})
				feed(t, q)
				time.Sleep(time.Minute)
				if got := a.accepted(); got < 9_000 {
					t.Errorf("with 1 of 100 logins refused, %d were sent in a minute, of 12000 that are possible", got)
				}
				a.set(always(scope))
				tried := a.tried()
				time.Sleep(20 * time.Second)
				if n := a.tried() - tried; name == "535" && (n > 25 || d.Health().Relays[0].State != dispatcher.RelayOffline) {
					t.Errorf("with every login refused, %d were tried and the relay is %s", n, d.Health().Relays[0].State)
				}
			})
		})
	}
}

// Only a server's word that the address itself is gone puts it on the suppression list.
func TestSuppressionNeedsEvidence(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"550 5.1.1 no such user":                 true,
		"553 5.1.2 no such domain":               true,
		"501 5.1.3 bad address":                  true,
		"551 5.1.6 moved":                        true,
		"556 5.1.10 the domain takes no mail":    true,
		"550 5.2.1 the mailbox is disabled":      true,
		"552 5.2.2 mailbox is full":              false,
		"550 5.2.2 over quota":                   false,
		"550 5.2.3 message too large for it":     false,
		"550 5.7.1 rejected by policy":           false,
		"550 5.5.0 error of the dialogue":        false,
		"550 requested action not taken":         false,
		"550 5.1.0 address rejected":             false,
		"450 4.1.1 not now":                      false,
		"550 5.1.11 no such code means anything": false,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, openSQLite(t))
			var code int
			var words string
			if _, err := fmt.Sscanf(text, "%d", &code); err != nil {
				t.Fatal(err)
			}
			words = text[4:]
			s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
				return refuse(env, reply(smtpx.StageRcpt, smtpx.ClassRecipient, code, words))
			}}
			q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "gone@example.org" })
			if r := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Suppress: []string{"*"}}, s)); r.Failed != 1 {
				t.Fatalf("report %+v", r)
			}
			if _, got, err := q.Suppressed(t.Context(), "gone@example.org"); err != nil || got != want {
				t.Errorf("on the list %v, want %v, error %v", got, want, err)
			}
		})
	}
	t.Run("an inability of ours", func(t *testing.T) {
		t.Parallel()
		q := newQueue(t, openSQLite(t))
		s := &sender{send: func(_ context.Context, env smtpx.Envelope, _ []byte) (smtpx.Result, error) {
			e := lost(smtpx.StageRcpt, smtpx.ClassRecipient)
			e.Reply = smtpx.Reply{}
			return refuse(env, e)
		}}
		q.enqueue(1, nil)
		flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Suppress: []string{"*"}}, s))
		var n int
		if err := q.db.QueryRowContext(t.Context(), "SELECT count(*) FROM outbox_suppressions").Scan(&n); err != nil || n != 0 {
			t.Errorf("%d addresses are on the list, error %v", n, err)
		}
	})
}

// Messages in doubt with a slow relay do not fill the memory. A relay with a rate gets no more of them than the rate allows.
func TestDoubtElsewhereIsBounded(t *testing.T) {
	t.Parallel()
	for name, rate := range map[string]dispatcher.Rate{"slow": {}, "with a rate": {PerSecond: 1, Burst: 1}} {
		t.Run(name, func(t *testing.T) {
			bubbled(t, func(t *testing.T, q *shelf) {
				a, b := &line{takes: 5 * time.Second}, &line{}
				list := relays(a, b)
				list[0].Concurrency, list[1].Concurrency, list[0].Rate = 2, 10, rate
				ids := q.add(2000, nil)
				q.mu.Lock()
				for _, id := range ids {
					q.rows[id].last = queue.Evidence{Class: string(smtpx.ClassAmbiguous), Relay: "a"}
				}
				q.mu.Unlock()
				running(t, dispatcher.Config{Queue: q, Relays: list})
				time.Sleep(20 * time.Second)
				if n := q.count(outbox.StateSending); n > 8*12 {
					t.Errorf("the dispatcher holds %d messages; its bound is %d", n, 8*12)
				}
				if b.tried() != 0 {
					t.Errorf("%d messages that are in doubt with one relay were sent through another", b.tried())
				}
				minutes := 2
				if campaign.On() {
					minutes = 10
				}
				time.Sleep(time.Duration(minutes) * time.Minute)
				if n := a.accepted(); n < minutes*10 {
					t.Errorf("the relay got %d of them in %d minutes", n, minutes)
				}
			})
		})
	}
}

// A message that is put back because its domain is full is in no outage: it keeps its whole budget for one.
func TestAFullDomainIsNoOutage(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		a := &line{takes: 10 * time.Second}
		list := relays(a)
		list[0].PerDomain, list[0].Concurrency = 1, 4
		running(t, dispatcher.Config{Queue: q, Relays: list, MaxOutage: 10 * time.Minute})
		q.add(200, nil)
		time.Sleep(15 * time.Minute)
		a.set(always(refused))
		time.Sleep(time.Minute)
		if n := q.count(outbox.StateFailed); n != 0 {
			t.Errorf("after a minute of an outage %d messages were given up; MaxOutage is ten minutes", n)
		}
	})
}

// logged counts the lines of a log that hold a text.
type logged struct {
	mu    sync.Mutex
	lines []string
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(p))
	return len(p), nil
}

func (l *logged) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// Messages on a route that no relay serves are told in Health, and once in the log. An update that serves the route ends that.
func TestARouteThatNoRelayServesIsTold(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		var log logged
		list := relays(&line{})
		list[0].Routes = []string{"default"}
		d := running(t, dispatcher.Config{Queue: q, Relays: list, Logger: slog.New(slog.NewTextHandler(&log, nil)), Poll: time.Minute})
		q.add(10, func(_ int, c *queue.Claimed) { c.Route = "recipts" })
		time.Sleep(time.Hour)
		if h := d.Health(); !h.Ready || len(h.Reasons) != 1 || !strings.Contains(h.Reasons[0], "recipts") || log.count("recipts") != 1 {
			t.Errorf("health %+v, logged %d times", h, log.count("recipts"))
		}
		list[0].Routes = nil
		if err := d.Update(list); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if h := d.Health(); len(h.Reasons) != 0 || q.count(outbox.StateSent) != 10 {
			t.Errorf("once it is served: health %+v, %d sent", h, q.count(outbox.StateSent))
		}
	})
}

// Sends that do not return are told in Health, and once in the log, after SendTimeout.
func TestSendsThatDoNotReturnAreTold(t *testing.T) {
	bubbled(t, func(t *testing.T, q *shelf) {
		var log logged
		d := running(t, dispatcher.Config{
			Queue: q, Relays: relays(&line{takes: 100 * time.Hour}), Logger: slog.New(slog.NewTextHandler(&log, nil)), SendTimeout: 20 * time.Minute,
			Poll: time.Minute,
		})
		q.add(30, nil)
		time.Sleep(19 * time.Minute)
		if h := d.Health(); len(h.Reasons) != 0 {
			t.Errorf("before the time: %+v", h.Reasons)
		}
		time.Sleep(2 * time.Hour)
		if h := d.Health(); len(h.Reasons) != 1 || !strings.Contains(h.Reasons[0], "10 sends have not returned") || log.count("do not return") != 1 {
			t.Errorf("health %+v, logged %d times", h.Reasons, log.count("do not return"))
		}
	})
}

// panicking is a sender whose profile panics.
type panicking struct{ *line }

func (panicking) Profile() *smtpx.Profile { panic("no profile") }

// Panics of a profile, and of a middleware that is set up, are contained. No message is sent around such a middleware.
func TestPanicsOfForeignFunctionsAreContained(t *testing.T) {
	t.Parallel()
	t.Run("profile", func(t *testing.T) {
		bubbled(t, func(t *testing.T, q *shelf) {
			running(t, dispatcher.Config{Queue: q, Relays: relays(panicking{&line{}})})
			id := q.add(1, nil)[0]
			time.Sleep(5 * time.Second)
			if s := q.get(id).state; s != outbox.StateSent {
				t.Errorf("the message is %s", s)
			}
		})
	})
	t.Run("middleware", func(t *testing.T) {
		bubbled(t, func(t *testing.T, q *shelf) {
			broken := true
			a, b := &line{}, &line{}
			cfg := dispatcher.Config{Queue: q, Relays: relays(a), Middleware: []dispatcher.Middleware{func(next dispatcher.SendFunc) dispatcher.SendFunc {
				if broken {
					panic("not ready")
				}
				return next
			}}}
			d := running(t, cfg)
			id := q.add(1, nil)[0]
			time.Sleep(5 * time.Second)
			if r := q.get(id); a.tried() != 0 || r.state != outbox.StateQueued || r.last.Class != string(smtpx.ClassConfig) {
				t.Errorf("tried %d times; the message is %s, class %q", a.tried(), r.state, r.last.Class)
			}
			broken = false
			if err := d.Update(relays(b)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Hour)
			if s := q.get(id).state; s != outbox.StateSent {
				t.Errorf("with a middleware that works the message is %s", s)
			}
		})
	})
}
