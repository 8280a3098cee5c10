package smtpx_test

import (
	"context"
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
				func(c *smtpx.Config) { c.Connections = 1 })
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

// A reply before the server hangs up counts. The first refusal is the verdict, whatever happens to the socket afterwards.
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

// RFC 5321 §4.5.3.1.10 uses 452 for one recipient too many, and wants 552 treated in the same way. Many servers give no enhanced
// code.
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

// A bare 452 or 552 that names another cause does not count as one recipient too many.
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
