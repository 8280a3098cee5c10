package smtpx_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

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

// If the limit on domains is not announced, surplus recipients follow in further transactions.
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

// A refusal of one recipient may concern the whole session. If the body has already left, it does not undo the other recipients.
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

// A server that takes fewer than one recipient is not tried forever.
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

// More than a hundred recipients are sent a hundred at a time. Every server must take that many.
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
