package smtpx_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// refuseRcpt answers RCPT for addresses that begin with a digit with the reply of that name.
func refuseRcpt(replies map[string]string) func(context.Context, smtptest.Event) smtptest.Action {
	return func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage != smtptest.StageRcpt {
			return smtptest.Action{}
		}
		_, local, _ := strings.Cut(e.Line, "<")
		local, _, _ = strings.Cut(local, "@")
		return smtptest.Action{Reply: replies[local]}
	}
}

func TestEveryRecipientHasItsOwnOutcome(t *testing.T) {
	replies := map[string]string{
		"gone": "550 5.1.1 no such user",
		"busy": "450 4.2.1 mailbox busy",
		"full": "452 4.2.2 mailbox full",
	}
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions, Hook: refuseRcpt(replies)})
			to := []string{"gone@example.net", "a@example.net", "bad address@example.net", "busy@example.net", "full@example.net", "b@example.net"}
			result, err := client.Send(testContext(t), envelope(to...), message("x"))
			if e := asError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient); e.Reply.Enhanced != "5.1.1" {
				t.Errorf("Send's error is not that of the first recipient: %v", e)
			}
			wantClass := []smtpx.Class{smtpx.ClassRecipient, "", smtpx.ClassRecipient, smtpx.ClassTransient, smtpx.ClassTransient, ""}
			for i, o := range result.Outcomes {
				if o.Recipient != to[i] || o.Accepted != (wantClass[i] == "") || (o.Err == nil) != o.Accepted {
					t.Errorf("outcome %d: %+v", i, o)
					continue
				}
				if o.Err != nil && o.Err.Class != wantClass[i] {
					t.Errorf("outcome %d: %v, want class %s", i, o.Err, wantClass[i])
				}
			}
			got := srv.Messages()
			if len(got) != 1 || !slices.Equal(got[0].To, []string{"a@example.net", "b@example.net"}) {
				t.Errorf("arrived: %+v", got)
			}
		})
	}
}

func TestNoRecipientAccepted(t *testing.T) {
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions,
				Hook: refuseRcpt(map[string]string{"x": "550 5.1.1 no such user", "y": "550 5.1.1 nor this"})},
				func(c *smtpx.Config) { c.Conns = 1 })
			committed := false
			env := envelope("x@example.net", "y@example.net")
			env.Commit = func(context.Context) error { committed = true; return nil }
			_, err := client.Send(testContext(t), env, message("x"))
			wantError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient)
			if committed && !d.flight {
				t.Error("the hook was called for a message that no recipient was accepted for")
			}
			// The session is in step: the next message goes over it.
			if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
				t.Fatal(err)
			}
			if srv.Count() != 1 || srv.Stats().Sessions != 1 {
				t.Errorf("%d messages in %d sessions, want 1 in 1", srv.Count(), srv.Stats().Sessions)
			}
		})
	}
}

// What a server says before it hangs up counts: the first refusal is the verdict, whatever the socket does then.
func TestFirstRefusalIsTheVerdictOfALostConnection(t *testing.T) {
	for _, d := range dialogues {
		for _, end := range []smtptest.End{smtptest.Close, smtptest.Stall} {
			t.Run(fmt.Sprint(d.name, end), func(t *testing.T) {
				short := []smtpx.Option{func(c *smtpx.Config) {
					c.Timeouts = smtpx.Timeouts{Mail: time.Second, Rcpt: time.Second, Data: time.Second, Dot: time.Second}
				}}
				bubble(t, smtptest.Config{Extensions: d.extensions,
					Hook: smtptest.At(smtptest.StageMail, 1, smtptest.Action{Reply: "553 5.1.8 sender address rejected", End: end})}, short,
					func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
						_, err := client.Send(testContext(t), envelope("b@example.net", "c@example.net"), message("x"))
						if e := asError(t, err, smtpx.StageMail, smtpx.ClassConfig); e.Reply.Code != 553 {
							t.Errorf("verdict %v", e)
						}
						if srv.Count() != 0 {
							t.Error("it arrived")
						}
					})
				bubble(t, smtptest.Config{Extensions: d.extensions,
					Hook: smtptest.At(smtptest.StageRcpt, 1, smtptest.Action{Reply: "550 5.1.1 no such user", End: end})}, short,
					func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
						result, err := client.Send(testContext(t), envelope("b@example.net", "c@example.net"), message("x"))
						if e := asError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient); e.Reply.Code != 550 {
							t.Errorf("verdict %v", e)
						}
						other := smtpx.ClassTransient
						if d.flight {
							other = smtpx.ClassAmbiguous // the body has left
						}
						if e := result.Outcomes[1].Err; e == nil || e.Class != other {
							t.Errorf("the other recipient: %v, want class %s", e, other)
						}
					})
			})
		}
	}
}

// RFC 5321 §4.5.3.1.10 has 452 for one recipient too many, and wants 552 taken the same way; many servers give no enhanced code.
func TestOneRecipientTooManyWithoutEnhancedCode(t *testing.T) {
	for _, reply := range []string{"452 too much", "552 too much", "452 4.5.3 no more", "550 5.5.3 no more"} {
		for _, d := range dialogues {
			t.Run(reply[:3]+d.name, func(t *testing.T) {
				n := 0 // recipients of the transaction; there is one connection
				var mu sync.Mutex
				hook := func(_ context.Context, e smtptest.Event) smtptest.Action {
					mu.Lock()
					defer mu.Unlock()
					if e.Stage == smtptest.StageMail {
						n = 0
					}
					if e.Stage == smtptest.StageRcpt {
						if n++; n > 2 {
							return smtptest.Action{Reply: reply}
						}
					}
					return smtptest.Action{}
				}
				srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions, Hook: hook})
				to := []string{"a@example.net", "b@example.net", "c@example.net", "d@example.net", "e@example.net"}
				if _, err := client.Send(testContext(t), envelope(to...), message("x")); err != nil {
					t.Fatal(err)
				}
				var all []string
				for _, m := range srv.Messages() {
					all = append(all, m.To...)
				}
				if srv.Count() != 3 || !slices.Equal(all, to) {
					t.Errorf("%d transactions to %q", srv.Count(), all)
				}
			})
		}
	}
}

// A bare 452 or 552 that says what it is about is not taken for one recipient too many in the end.
func TestBareReplyKeepsItsMeaning(t *testing.T) {
	for reply, class := range map[string]smtpx.Class{
		"452 Too many emails received this hour": smtpx.ClassThrottled,
		"452 daily sending quota exceeded":       smtpx.ClassQuota,
		"552 mailbox is full":                    smtpx.ClassRecipient,
		"452 mailbox is full":                    smtpx.ClassTransient,
		"552 relaying denied":                    smtpx.ClassConfig,
		"452 4.5.3 too many recipients":          smtpx.ClassTransient,
		"552 no":                                 smtpx.ClassTransient,
	} {
		for _, d := range dialogues {
			t.Run(reply+d.name, func(t *testing.T) {
				srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions, Hook: refuseRcpt(map[string]string{"x": reply})})
				result, err := client.Send(testContext(t), envelope("a@example.net", "x@example.net", "b@example.net"), message("x"))
				wantError(t, err, smtpx.StageRcpt, class)
				if o := result.Outcomes; !o[0].Accepted || o[1].Accepted || !o[2].Accepted {
					t.Errorf("outcomes %+v, %d transactions", o, srv.Count())
				}
			})
		}
	}
}

// A server that asks for the body although it refused all recipients gets none.
func TestDataIsOpenWithoutRecipients(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{Hook: smtptest.Hooks(
		smtptest.At(smtptest.StageRcpt, 1, smtptest.Action{Reply: "550 5.1.1 no such user"}),
		smtptest.At(smtptest.StageData, 1, smtptest.Action{Reply: "354 go on nevertheless"}))})
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient)
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Fatal(err)
	}
	if srv.Count() != 1 || srv.Stats().Sessions != 2 {
		t.Errorf("%d messages in %d sessions, want 1 in 2", srv.Count(), srv.Stats().Sessions)
	}
}

func TestTooManyRecipientsAreSplit(t *testing.T) {
	for _, d := range dialogues {
		for _, limits := range []bool{false, true} {
			t.Run(fmt.Sprint(d.name, ", announced: ", limits), func(t *testing.T) {
				extensions := d.extensions
				if limits {
					extensions = append([]string{"LIMITS"}, extensions...)
				}
				var seen recorder
				srv, client := newRelay(t, smtptest.Config{Extensions: extensions, MaxRecipients: 10, Hook: seen.hook})
				env := envelope()
				for i := range 35 {
					env.To = append(env.To, fmt.Sprintf("r%02d@example.net", i))
				}
				commits := 0
				env.Commit = func(context.Context) error { commits++; return nil }
				result, err := client.Send(testContext(t), env, message("x"))
				if err != nil {
					t.Fatal(err)
				}
				var all []string
				for _, m := range srv.Messages() {
					all = append(all, m.To...)
				}
				if !slices.Equal(all, env.To) || srv.Count() != 4 || srv.Stats().Sessions != 1 {
					t.Errorf("%d messages in %d sessions to %q", srv.Count(), srv.Stats().Sessions, all)
				}
				if commits != 1 {
					t.Errorf("the hook was called %d times", commits)
				}
				if n := seen.count(smtptest.StageRcpt); limits && n != 35 {
					t.Errorf("%d recipients were tried, want 35: the limit was announced", n)
				}
				for i, o := range result.Outcomes {
					if !o.Accepted {
						t.Errorf("outcome %d: %+v", i, o)
					}
				}
			})
		}
	}
}

// A server may limit how many domains the recipients of one transaction have (RFC 9422 §4.3).
func TestRecipientsAreSplitByDomain(t *testing.T) {
	to := []string{"a@one.example", "b@two.example", "c@three.example", "d@ONE.example", "e@four.example", "f@two.example", "g@five.example"}
	for _, tc := range []struct {
		name   string
		limits smtptest.Config
		want   [][]int // which of the recipients each transaction has
	}{
		{"two domains", smtptest.Config{MaxDomains: 2}, [][]int{{0, 1, 3, 5}, {2, 4}, {6}}},
		{"one domain", smtptest.Config{MaxDomains: 1}, [][]int{{0, 3}, {1, 5}, {2}, {4}, {6}}},
		{"many domains", smtptest.Config{MaxDomains: 10}, [][]int{{0, 1, 2, 3, 4, 5, 6}}},
		{"two domains, three recipients", smtptest.Config{MaxDomains: 2, MaxRecipients: 3}, [][]int{{0, 1, 3}, {2, 4}, {5, 6}}},
		{"two domains, one message a session", smtptest.Config{MaxDomains: 2, MaxMessages: 1}, [][]int{{0, 1, 3, 5}, {2, 4}, {6}}},
	} {
		for _, d := range dialogues {
			t.Run(tc.name+", "+d.name, func(t *testing.T) {
				var seen recorder
				config := tc.limits
				config.Extensions, config.Hook = append([]string{"LIMITS"}, d.extensions...), seen.hook
				srv, client := newRelay(t, config)
				result, err := client.Send(testContext(t), envelope(to...), message("x"))
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range result.Outcomes {
					if !o.Accepted {
						t.Errorf("%+v", o)
					}
				}
				messages := srv.Messages()
				if len(messages) != len(tc.want) || seen.count(smtptest.StageRcpt) != len(to) {
					t.Fatalf("%d transactions with %d recipients, want %d with %d", len(messages), seen.count(smtptest.StageRcpt),
						len(tc.want), len(to))
				}
				for n, m := range messages {
					for k, i := range tc.want[n] {
						if k >= len(m.To) || !strings.EqualFold(m.To[k], to[i]) || len(m.To) != len(tc.want[n]) {
							t.Errorf("transaction %d is to %q, want those of %v", n, m.To, tc.want[n])
							break
						}
					}
				}
				if limit := tc.limits.MaxMessages; limit > 0 && (srv.Stats().Sessions != len(tc.want) || seen.count(smtptest.StageMail) != len(tc.want)) {
					t.Errorf("%d MAILs in %d sessions, want one in each of %d", seen.count(smtptest.StageMail), srv.Stats().Sessions, len(tc.want))
				}
			})
		}
	}
}

// Where the limit on domains is not announced, the recipients that are one too many follow in further transactions.
func TestDomainLimitThatIsNotAnnounced(t *testing.T) {
	to := []string{"a@one.example", "b@two.example", "c@three.example", "d@one.example", "e@four.example"}
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{MaxDomains: 2, Extensions: d.extensions})
			if _, err := client.Send(testContext(t), envelope(to...), message("x")); err != nil {
				t.Fatal(err)
			}
			var all []string
			for _, m := range srv.Messages() {
				domains := map[string]bool{}
				for _, r := range m.To {
					_, domain, _ := strings.Cut(r, "@")
					domains[domain] = true
				}
				if len(domains) > 2 {
					t.Errorf("the server took %q in one transaction", m.To)
				}
				all = append(all, m.To...)
			}
			slices.Sort(all)
			if want := slices.Sorted(slices.Values(to)); !slices.Equal(all, want) {
				t.Errorf("sent to %q, want %q", all, want)
			}
		})
	}
}

// A refusal of one recipient that speaks of the whole session does not undo the others, where the body has left already.
func TestSessionRefusalInTheMiddleOfAFlight(t *testing.T) {
	for _, reply := range []string{"421 4.4.2 idle for too long", "450 too many messages on this connection"} {
		for _, d := range dialogues {
			t.Run(d.name+" "+reply, func(t *testing.T) {
				hook := func(_ context.Context, e smtptest.Event) smtptest.Action {
					if e.Stage == smtptest.StageRcpt && strings.Contains(e.Line, "<c@") && e.Session.ID == 1 {
						return smtptest.Action{Reply: reply}
					}
					return smtptest.Action{}
				}
				srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions, Hook: hook})
				if _, err := client.Send(testContext(t), envelope("a@example.net"), message("x")); err != nil {
					t.Fatal(err)
				}
				result, _ := client.Send(testContext(t), envelope("b@example.net", "c@example.net"), message("x"))
				copies := map[string]int{}
				for _, m := range srv.Messages() {
					for _, to := range m.To {
						copies[to]++
					}
				}
				for _, o := range result.Outcomes {
					if n := copies[o.Recipient]; o.Accepted && n != 1 || !o.Accepted && n != 0 {
						t.Errorf("%s got %d copies, outcome %+v", o.Recipient, n, o)
					}
				}
			})
		}
	}
}

// A server that wants fewer than one recipient is not asked for ever.
func TestTooManyRecipientsAtTheFirst(t *testing.T) {
	for _, reply := range []string{"452 4.5.3 too many recipients", "452 try later", "552 too many"} {
		srv, client := newRelay(t, smtptest.Config{Hook: smtptest.At(smtptest.StageRcpt, -1, smtptest.Action{Reply: reply})})
		_, err := client.Send(testContext(t), envelope("b@example.net", "c@example.net"), message("x"))
		var e *smtpx.Error
		if !errors.As(err, &e) || e.Class == smtpx.ClassRecycle || srv.Stats().Sessions != 1 {
			t.Errorf("%s: %v in %d sessions", reply, err, srv.Stats().Sessions)
		}
	}
}

// More than a hundred recipients are sent a hundred at a time: that is what every server must take.
func TestManyRecipients(t *testing.T) {
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions})
			env := envelope()
			for i := range 1001 {
				env.To = append(env.To, fmt.Sprintf("recipient.number.%04d@example.net", i))
			}
			if _, err := client.Send(testContext(t), env, message("x")); err != nil {
				t.Fatal(err)
			}
			seen := map[string]bool{}
			for _, m := range srv.Messages() {
				for _, to := range m.To {
					if seen[to] {
						t.Errorf("%s got it twice", to)
					}
					seen[to] = true
				}
			}
			if len(seen) != 1001 || srv.Count() != 11 {
				t.Errorf("%d messages to %d recipients", srv.Count(), len(seen))
			}
		})
	}
}

// When the connection is lost between two transactions of one message, those that were accepted stay accepted, and the rest
// goes over a new connection.
func TestSplitMessageSurvivesTheConnection(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{MaxRecipients: 2, MaxMessages: 1})
	env := envelope("a@example.net", "b@example.net", "c@example.net", "d@example.net", "e@example.net")
	if _, err := client.Send(testContext(t), env, message("x")); err != nil {
		t.Fatal(err)
	}
	if srv.Count() != 3 || srv.Stats().Sessions != 3 {
		t.Errorf("%d messages in %d sessions, want 3 in 3", srv.Count(), srv.Stats().Sessions)
	}
}

func TestCommitHook(t *testing.T) {
	boom := errors.New("lease lost")
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			var seen recorder
			srv, client := newRelay(t, smtptest.Config{Extensions: d.extensions, Hook: seen.hook})
			env := envelope("b@example.net")
			env.Commit = func(context.Context) error { return boom }
			result, err := client.Send(testContext(t), env, message("x"))
			wantError(t, err, smtpx.StageData, smtpx.ClassRecycle)
			if !errors.Is(err, boom) || result.Outcomes[0].Accepted {
				t.Errorf("error %v, outcome %+v", err, result.Outcomes[0])
			}
			calls := 0
			env.Commit = func(context.Context) error {
				calls++
				if srv.Count() != 0 {
					t.Error("the message arrived before the hook agreed")
				}
				return nil
			}
			if _, err := client.Send(testContext(t), env, message("x")); err != nil {
				t.Fatal(err)
			}
			if calls != 1 || srv.Count() != 1 {
				t.Errorf("the hook was called %d times, %d messages arrived", calls, srv.Count())
			}
			client.Close()
			srv.Close()
			if d.name == "lockstep" && seen.count(smtptest.StageReset) != 1 {
				t.Error("the transaction was not reset")
			}
		})
	}
}

// A message that a kept connection lost before it was sent is committed once, though it is begun twice.
// The hook hears for whom the body is about to leave, transaction by transaction.
func TestCommitAcceptedNamesTheRecipients(t *testing.T) {
	replies := map[string]string{"gone": "550 5.1.1 no such user", "busy": "450 4.2.1 mailbox busy"}
	to := []string{"a@one.example", "gone@one.example", "b@two.example", "not an address", "busy@one.example", "c@three.example"}
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{MaxDomains: 2, Extensions: append([]string{"LIMITS"}, d.extensions...),
				Hook: refuseRcpt(replies)})
			env := envelope(to...)
			var calls [][]int
			var bodies []int // how many had arrived at each call
			env.CommitAccepted = func(_ context.Context, accepted []int) error {
				calls, bodies = append(calls, accepted), append(bodies, srv.Count())
				return nil
			}
			result, err := client.Send(testContext(t), env, message("x"))
			wantError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient)
			want := [][]int{{0, 2}, {5}}
			if d.flight {
				want = [][]int{{0, 1, 2, 4}, {5}} // nobody knows yet
			}
			if fmt.Sprint(calls) != fmt.Sprint(want) || !slices.Equal(bodies, []int{0, 1}) {
				t.Errorf("calls %v when %v had arrived, want %v", calls, bodies, want)
			}
			named := slices.Concat(calls...)
			for i, o := range result.Outcomes {
				if o.Accepted && !slices.Contains(named, i) {
					t.Errorf("%s was sent to without a call", o.Recipient)
				}
			}
		})
	}
}

// When the hook refuses a later transaction, what was accepted before stays so.
func TestCommitAcceptedAbandonsTheRest(t *testing.T) {
	stop := errors.New("lease lost")
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{MaxRecipients: 1, Extensions: append([]string{"LIMITS"}, d.extensions...)})
			env := envelope("a@example.net", "b@example.net", "c@example.net")
			calls := 0
			env.CommitAccepted = func(context.Context, []int) error {
				if calls++; calls == 2 {
					return stop
				}
				return nil
			}
			result, err := client.Send(testContext(t), env, message("x"))
			if e := asError(t, err, smtpx.StageData, smtpx.ClassRecycle); !errors.Is(e, stop) {
				t.Errorf("error %v", e)
			}
			if srv.Count() != 1 || !result.Outcomes[0].Accepted || result.Outcomes[1].Accepted || result.Outcomes[2].Accepted || calls != 2 {
				t.Errorf("%d arrived, %d calls, outcomes %+v", srv.Count(), calls, result.Outcomes)
			}
		})
	}
}

func TestCommitIsCalledOnceOverTwoConnections(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{Hook: second(smtptest.StageMail, smtptest.Action{End: smtptest.Close})})
	commits := 0
	env := envelope("b@example.net")
	env.Commit = func(context.Context) error { commits++; return nil }
	for range 2 {
		if _, err := client.Send(testContext(t), env, message("x")); err != nil {
			t.Fatal(err)
		}
	}
	if commits != 2 || srv.Count() != 2 {
		t.Errorf("%d commits, %d messages", commits, srv.Count())
	}
}

func TestBadInputIsRefusedBeforeConnecting(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{})
	good := message("x")
	for name, tc := range map[string]struct {
		env   smtpx.Envelope
		body  []byte
		stage smtpx.Stage
		class smtpx.Class
	}{
		"no recipients":      {smtpx.Envelope{From: "a@example.com"}, good, smtpx.StageRcpt, smtpx.ClassMessage},
		"empty body":         {envelope("b@example.net"), nil, smtpx.StageData, smtpx.ClassMessage},
		"bare LF":            {envelope("b@example.net"), []byte("a\nb\r\n"), smtpx.StageData, smtpx.ClassMessage},
		"bare CR":            {envelope("b@example.net"), []byte("a\rb\r\n"), smtpx.StageData, smtpx.ClassMessage},
		"NUL":                {envelope("b@example.net"), []byte("a\x00\r\n"), smtpx.StageData, smtpx.ClassMessage},
		"smuggled message":   {envelope("b@example.net"), []byte("a\r\n.\nMAIL FROM:<x@y>\r\n"), smtpx.StageData, smtpx.ClassMessage},
		"sender with CRLF":   {smtpx.Envelope{From: "a@example.com>\r\nRSET", To: []string{"b@example.net"}}, good, smtpx.StageMail, smtpx.ClassMessage},
		"sender with params": {smtpx.Envelope{From: "a@example.com> SIZE=1", To: []string{"b@example.net"}}, good, smtpx.StageMail, smtpx.ClassMessage},
		"recipient":          {envelope("b@example.net>\r\nRCPT TO:<c@example.net"), good, smtpx.StageRcpt, smtpx.ClassRecipient},
	} {
		t.Run(name, func(t *testing.T) {
			result, err := client.Send(testContext(t), tc.env, tc.body)
			wantError(t, err, tc.stage, tc.class)
			if strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Errorf("error of several lines: %q", err)
			}
			if len(result.Outcomes) != len(tc.env.To) || result.Host != "" {
				t.Errorf("result %+v", result)
			}
		})
	}
	if srv.Stats().Sessions != 0 {
		t.Errorf("%d sessions were opened for it", srv.Stats().Sessions)
	}
}

func TestNullSender(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{})
	if _, err := client.Send(testContext(t), smtpx.Envelope{To: []string{"b@example.net"}}, message("x")); err != nil {
		t.Fatal(err)
	}
	if m := srv.Messages()[0]; m.From != "" {
		t.Errorf("sender %q", m.From)
	}
}

func TestDSN(t *testing.T) {
	dsn := smtpx.DSN{ID: "a+b=c d", Return: smtpx.ReturnHeader, Notify: []smtpx.DSNNotify{smtpx.NotifyFailure, smtpx.NotifyDelay}}
	for _, offered := range []bool{true, false} {
		extensions := []string{}
		wantParams, wantRcpt := "", ""
		if offered {
			extensions = []string{"DSN"}
			wantParams, wantRcpt = "RET=HDRS ENVID=a+2Bb+3Dc+20d", "NOTIFY=DELAY,FAILURE"
		}
		srv, client := newRelay(t, smtptest.Config{Extensions: extensions})
		env := envelope("b@example.net")
		env.DSN = dsn
		if _, err := client.Send(testContext(t), env, message("x")); err != nil {
			t.Fatal(err)
		}
		if m := srv.Messages()[0]; m.Params != wantParams || m.RcptParams[0] != wantRcpt {
			t.Errorf("MAIL had %q, RCPT %q; want %q and %q", m.Params, m.RcptParams[0], wantParams, wantRcpt)
		}
	}
	_, client := newRelay(t, smtptest.Config{})
	for name, dsn := range map[string]smtpx.DSN{
		"CRLF in the id":  {ID: "a\r\nRSET"},
		"long id":         {ID: strings.Repeat("x", 101)},
		"return":          {Return: "SOME SIZE=1"},
		"notify":          {Notify: []smtpx.DSNNotify{"ALWAYS"}},
		"never and delay": {Notify: []smtpx.DSNNotify{smtpx.NotifyNever, smtpx.NotifyDelay}},
	} {
		env := envelope("b@example.net")
		env.DSN = dsn
		_, err := client.Send(testContext(t), env, message("x"))
		if e := asError(t, err, smtpx.StageMail, smtpx.ClassMessage); !strings.Contains(e.Error(), "DSN") {
			t.Errorf("%s: %v", name, e)
		}
	}
}

func TestRequireTLS(t *testing.T) {
	env := envelope("b@example.net")
	env.RequireTLS = true
	srv, client := newRelay(t, smtptest.Config{Extensions: []string{"REQUIRETLS"}})
	if _, err := client.Send(testContext(t), env, message("x")); err != nil {
		t.Fatal(err)
	}
	if m := srv.Messages()[0]; m.Params != "REQUIRETLS" {
		t.Errorf("MAIL had %q", m.Params)
	}
	for name, config := range map[string]smtptest.Config{
		"not offered": {},
		"in clear":    {TLS: smtptest.NoTLS, Extensions: []string{"REQUIRETLS"}},
	} {
		srv, client := newRelay(t, config)
		_, err := client.Send(testContext(t), env, message("x"))
		wantError(t, err, smtpx.StageMail, smtpx.ClassConfig)
		if srv.Count() != 0 {
			t.Errorf("%s: it arrived", name)
		}
	}
}

// What a server did not offer is not used, and what needs it is refused with one clear sentence.
func TestExtensions(t *testing.T) {
	eight := message("caf\xc3\xa9")
	utf8Header := []byte("Subject: caf\xc3\xa9\r\n\r\nx\r\n")
	for name, tc := range map[string]struct {
		extensions []string
		env        smtpx.Envelope
		body       []byte
		params     string // of MAIL
		class      smtpx.Class
	}{
		"nothing needed":                    {[]string{"8BITMIME", "SMTPUTF8"}, envelope("b@example.net"), message("x"), "", ""},
		"size":                              {[]string{"SIZE 1000"}, envelope("b@example.net"), message("x"), "SIZE=", ""},
		"too large":                         {[]string{"SIZE 50"}, envelope("b@example.net"), message("x"), "", smtpx.ClassMessage},
		"no limit":                          {[]string{"SIZE 0"}, envelope("b@example.net"), message("x"), "SIZE=", ""},
		"8-bit":                             {[]string{"8BITMIME"}, envelope("b@example.net"), eight, "BODY=8BITMIME", ""},
		"8-bit not offered":                 {[]string{}, envelope("b@example.net"), eight, "", smtpx.ClassMessage},
		"UTF-8 header":                      {[]string{"8BITMIME", "SMTPUTF8"}, envelope("b@example.net"), utf8Header, "BODY=8BITMIME SMTPUTF8", ""},
		"UTF-8 header not offered":          {[]string{"8BITMIME"}, envelope("b@example.net"), utf8Header, "", smtpx.ClassMessage},
		"UTF-8 sender":                      {[]string{"SMTPUTF8"}, smtpx.Envelope{From: "用户@example.com", To: []string{"b@example.net"}}, message("x"), "SMTPUTF8", ""},
		"header neither ASCII nor UTF-8":    {[]string{"8BITMIME", "SMTPUTF8"}, envelope("b@example.net"), []byte("Subject: caf\xe9\r\n\r\nx\r\n"), "", smtpx.ClassMessage},
		"body neither ASCII nor UTF-8":      {[]string{"8BITMIME"}, envelope("b@example.net"), message("caf\xe9"), "BODY=8BITMIME", ""},
		"UTF-8 recipient":                   {[]string{"8BITMIME", "SMTPUTF8"}, envelope("用户@example.net"), message("x"), "SMTPUTF8", ""},
		"UTF-8 recipient not offered":       {[]string{"8BITMIME"}, envelope("用户@example.net"), message("x"), "", smtpx.ClassRecipient},
		"UTF-8 sender not offered":          {[]string{}, smtpx.Envelope{From: "用户@example.com", To: []string{"b@example.net"}}, message("x"), "", smtpx.ClassMessage},
		"international domain needs it not": {[]string{}, envelope("b@bücher.example"), message("x"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: tc.extensions})
			_, err := client.Send(testContext(t), tc.env, tc.body)
			if tc.class != "" {
				var e *smtpx.Error
				if !errors.As(err, &e) || e.Class != tc.class || e.Reply.Code != 0 {
					t.Errorf("error %v, want class %s without a reply", err, tc.class)
				}
				if srv.Count() != 0 {
					t.Error("it arrived")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m := srv.Messages()[0]; !strings.Contains(m.Params, tc.params) || (tc.params == "" && m.Params != "") {
				t.Errorf("MAIL had %q, want %q", m.Params, tc.params)
			}
		})
	}
}

// What the operator rules out is not used, whatever the server offers.
func TestExtensionsCanBeLeftOut(t *testing.T) {
	var seen recorder
	srv := smtptest.New(t, smtptest.Config{Extensions: []string{"PIPELINING", "CHUNKING", "SIZE 100000", "8BITMIME"}, Hook: seen.hook})
	client := open(t, srv.URL("without=chunking,Pipelining,SIZE"))
	for range 3 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, e := range seen.events {
		if strings.HasPrefix(e.Line, "BDAT") || strings.Contains(e.Line, "SIZE=") {
			t.Errorf("the client said %q", e.Line)
		}
	}
	if s := srv.Stats(); s.MessageFlights < 3*4 {
		t.Errorf("%d flights for 3 messages, want those of lockstep", s.MessageFlights)
	}
}

// Recipients that need SMTPUTF8 do not put it on the others, and where it is not offered only they fail.
func TestInternationalRecipientsGoApart(t *testing.T) {
	to := []string{"a@example.net", "用户@example.net", "b@example.net", "\"ü\"@bücher.example"}
	for _, d := range dialogues {
		t.Run(d.name+", offered", func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: append([]string{"SMTPUTF8"}, d.extensions...)})
			if _, err := client.Send(testContext(t), envelope(to...), message("x")); err != nil {
				t.Fatal(err)
			}
			got := srv.Messages()
			if len(got) != 2 || !slices.Equal(got[0].To, []string{to[0], to[2]}) || strings.Contains(got[0].Params, "SMTPUTF8") ||
				!slices.Equal(got[1].To, []string{to[1], "\"ü\"@xn--bcher-kva.example"}) || !strings.Contains(got[1].Params, "SMTPUTF8") {
				t.Errorf("arrived: %+v", got)
			}
		})
		t.Run(d.name+", not offered", func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: slices.DeleteFunc(slices.Clone(d.extensions), func(e string) bool { return e == "SMTPUTF8" })})
			result, err := client.Send(testContext(t), envelope(to...), message("x"))
			wantError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient)
			for i, o := range result.Outcomes {
				if o.Accepted != (i%2 == 0) || (o.Err != nil && o.Err.Class != smtpx.ClassRecipient) {
					t.Errorf("outcome %+v", o)
				}
			}
			if got := srv.Messages(); len(got) != 1 || !slices.Equal(got[0].To, []string{to[0], to[2]}) {
				t.Errorf("arrived: %+v", got)
			}
		})
	}
	t.Run("with a header that needs it too", func(t *testing.T) {
		srv, client := newRelay(t, smtptest.Config{})
		if _, err := client.Send(testContext(t), envelope(to...), []byte("Subject: ü\r\n\r\nx\r\n")); err != nil {
			t.Fatal(err)
		}
		if n := srv.Count(); n != 1 {
			t.Errorf("%d transactions, want one", n)
		}
	})
}
