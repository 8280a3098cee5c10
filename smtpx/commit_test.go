package smtpx_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

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

// When the hook refuses a later transaction, recipients accepted before stay accepted.
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
