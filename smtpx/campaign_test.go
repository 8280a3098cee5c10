package smtpx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// dialogue is one of the ways in which a message can travel.
type dialogue struct {
	name       string
	extensions []string
	flight     bool // the whole message leaves before the first verdict
}

var dialogues = []dialogue{
	{"lockstep", []string{"8BITMIME"}, false},
	{"pipelining", []string{"PIPELINING", "8BITMIME"}, false},
	{"chunking", []string{"CHUNKING", "8BITMIME"}, false},
	{"one flight", []string{"PIPELINING", "CHUNKING", "8BITMIME"}, true},
}

// fault is what a server does at a stage.
type fault struct {
	name   string
	action smtptest.Action
	socket bool // it means the same on a socket, where no clock can be turned
}

var faults = []fault{
	{"4xx", smtptest.Action{Reply: "451 4.3.0 try again later"}, true},
	{"5xx", smtptest.Action{Reply: "554 5.3.0 refused"}, true},
	{"421 and close", smtptest.Action{Reply: "421 4.3.2 closing", End: smtptest.Close}, true},
	{"FIN", smtptest.Action{End: smtptest.Close}, true},
	{"RST", smtptest.Action{End: smtptest.Reset}, true},
	{"stall", smtptest.Action{End: smtptest.Stall}, false},
	{"garbage", smtptest.Action{Raw: "\x00\xffwhat is this\r\n"}, true},
	{"split reply", smtptest.Action{Trickle: true}, true},
	{"over-long reply", smtptest.Action{Raw: "250 " + strings.Repeat("x", 100_000) + "\r\n"}, true},
	{"endless reply", smtptest.Action{Raw: strings.Repeat("250-x\r\n", 10_000)}, true},
	{"late reply", smtptest.Action{Delay: 100 * time.Second}, false},
}

// verdict is the required result of a cell. A zero class means that the message is accepted.
type verdict struct {
	stage smtpx.Stage
	class smtpx.Class
	reset bool // the stage may also be an earlier one
}

// want returns the verdict that a fault at a stage must have: the classification table, cell by cell.
func want(d dialogue, stage smtptest.Stage, f fault) verdict {
	s := smtpx.Stage(stage)
	if f.action.Trickle {
		return verdict{}
	}
	setUp := slices.Contains([]smtptest.Stage{"banner", "tls", "ehlo", "starttls", "auth"}, stage)
	switch f.name {
	case "late reply":
		if stage == smtptest.StageBanner || stage == smtptest.StageTLS {
			return verdict{stage: s, class: smtpx.ClassUnreachable} // both have 30 s
		}
		return verdict{}
	case "4xx", "421 and close":
		switch {
		case stage == smtptest.StageTLS:
			return verdict{stage: s, class: smtpx.ClassConfig} // a reply in clear text is no handshake
		case setUp && stage != smtptest.StageAuth:
			return verdict{stage: s, class: smtpx.ClassUnreachable}
		}
		return verdict{stage: answered(d, s), class: smtpx.ClassTransient}
	case "5xx":
		class := map[smtptest.Stage]smtpx.Class{
			"banner": smtpx.ClassUnreachable, "tls": smtpx.ClassConfig, "ehlo": smtpx.ClassUnreachable, "starttls": smtpx.ClassConfig,
			"auth": smtpx.ClassConfig, "mail": smtpx.ClassMessage, "rcpt": smtpx.ClassMessage, "data": smtpx.ClassMessage, "dot": smtpx.ClassMessage,
		}[stage]
		return verdict{stage: answered(d, s), class: class}
	}
	// The connection is lost or out of step.
	switch {
	case stage == smtptest.StageTLS && f.action.Raw != "":
		return verdict{stage: s, class: smtpx.ClassConfig}
	case stage == smtptest.StageStartTLS && strings.HasPrefix(f.action.Raw, "250"):
		return verdict{stage: s, class: smtpx.ClassUnreachable}
	case setUp:
		return verdict{stage: s, class: smtpx.ClassUnreachable}
	case stage == smtptest.StageDot || d.flight:
		return verdict{stage: smtpx.StageDot, class: smtpx.ClassAmbiguous}
	}
	return verdict{stage: answered(d, s), class: smtpx.ClassTransient}
}

// answered is the stage at which the client hears an answer: BDAT is command and body at once.
func answered(d dialogue, s smtpx.Stage) smtpx.Stage {
	if s == smtpx.StageData && slices.Contains(d.extensions, "CHUNKING") {
		return smtpx.StageDot
	}
	return s
}

func TestStageByFault(t *testing.T) {
	stages := []smtptest.Stage{"banner", "tls", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "dot"}
	for _, d := range dialogues {
		for _, stage := range stages {
			for _, f := range faults {
				name := fmt.Sprintf("%s/%s/%s", d.name, stage, f.name)
				want := want(d, stage, f)
				want.reset = f.action.End == smtptest.Reset
				if f.name != "4xx" && stage == "data" && want.class == smtpx.ClassTransient && slices.Contains(d.extensions, "CHUNKING") &&
					f.name != "421 and close" {
					want.stage, want.class = smtpx.StageDot, smtpx.ClassAmbiguous // the chunk has left with its command
				}
				config := func() smtptest.Config {
					return smtptest.Config{User: "app", Password: "s3cret", Extensions: d.extensions, Hook: smtptest.At(stage, 1, f.action)}
				}
				t.Run(name, func(t *testing.T) {
					bubble(t, config(), nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
						checkCell(t, srv, client, want)
					})
				})
				if !f.socket {
					continue
				}
				t.Run(name+" on a socket", func(t *testing.T) {
					before := descriptors(t)
					srv := smtptest.New(t, config())
					client := open(t, srv.URL())
					checkCell(t, srv, client, want)
					client.Close()
					srv.Close()
					// If two goroutines close a connection at once, it is gone when the first close is done. That one may return
					// last.
					deadline := time.Now().Add(10 * time.Second)
					for len(descriptors(t)) > len(before) && time.Now().Before(deadline) {
						runtime.Gosched()
					}
					if after := descriptors(t); len(after) > len(before) {
						t.Errorf("%d descriptors are left: %v, before %v", len(after)-len(before), after, before)
					}
				})
			}
		}
	}
}

// checkCell sends two messages: the first meets the fault, the second must get through.
func checkCell(t *testing.T, srv *smtptest.Server, client *smtpx.Client, want verdict) {
	t.Helper()
	ctx := t.Context()
	body := message("first")
	result, err := client.Send(ctx, envelope("b@example.net"), body)
	if len(result.Outcomes) != 1 {
		t.Fatalf("outcomes %+v", result.Outcomes)
	}
	accepted := 0
	if want.class == "" {
		if err != nil || !result.Outcomes[0].Accepted {
			t.Fatalf("not accepted: %v", err)
		}
		accepted = 1
	} else {
		var e *smtpx.Error
		if !errors.As(err, &e) || result.Outcomes[0].Accepted || result.Outcomes[0].Err != e {
			t.Fatalf("accepted %v, error %v; want %v", result.Outcomes[0].Accepted, err, want)
		}
		// A reset also discards replies that are under way. An earlier stage then seems to have failed.
		if e.Class != want.class || (e.Stage != want.stage && !want.reset) {
			t.Fatalf("stage %s, class %s: %v; want %v", e.Stage, e.Class, e, want)
		}
	}
	if _, err := client.Send(ctx, envelope("c@example.net"), message("second")); err != nil {
		t.Fatalf("the next message: %v", err)
	}
	got := srv.Messages()
	if want.class == smtpx.ClassAmbiguous {
		accepted = len(got) - 1 // 0 or 1: that is what the word means
	}
	if len(got) != accepted+1 || got[len(got)-1].To[0] != "c@example.net" {
		t.Fatalf("%d messages arrived: %+v", len(got), got)
	}
	if accepted == 1 && !bytes.Equal(got[0].Data, body) {
		t.Errorf("arrived as %q", got[0].Data)
	}
}

// descriptors returns the open descriptors of this process. A first socket makes sure that those of Go's poller are already
// open.
func descriptors(t *testing.T) []string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("descriptors cannot be counted here")
	}
	open := make([]string, len(entries))
	for i, e := range entries {
		link, _ := os.Readlink("/proc/self/fd/" + e.Name()) // empty for the folder that is being read
		open[i] = e.Name() + " " + link
	}
	return open
}

// The body has faults of its own: it may be cut, or answered before its end.
func TestBodyByFault(t *testing.T) {
	large := message(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 8000))
	for _, d := range dialogues {
		for _, f := range []struct {
			name   string
			action smtptest.Action
			class  smtpx.Class
		}{
			{"cut, FIN", smtptest.Action{After: 1000, End: smtptest.Close}, smtpx.ClassTransient},
			{"cut, RST", smtptest.Action{After: 1000, End: smtptest.Reset}, smtpx.ClassTransient},
			{"cut at the start", smtptest.Action{End: smtptest.Close}, smtpx.ClassTransient},
			{"stall", smtptest.Action{After: 1000, End: smtptest.Stall}, smtpx.ClassTransient},
			{"early 4xx", smtptest.Action{After: 1000, Reply: "452 4.3.1 disk full"}, smtpx.ClassTransient},
			{"early 5xx and close", smtptest.Action{After: 1000, Reply: "552 5.3.4 too big", End: smtptest.Close}, smtpx.ClassMessage},
			{"early 250", smtptest.Action{After: 1000, Reply: "250 2.0.0 accepted already"}, smtpx.ClassTransient},
			{"garbage", smtptest.Action{After: 1000, Raw: "?!\r\n"}, smtpx.ClassTransient},
		} {
			t.Run(d.name+"/"+f.name, func(t *testing.T) {
				config := smtptest.Config{Extensions: d.extensions, Hook: smtptest.At(smtptest.StageBody, 1, f.action)}
				bubble(t, config, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
					result, err := client.Send(t.Context(), envelope("b@example.net"), large)
					if e := asError(t, err, smtpx.StageData, f.class); e.Class == smtpx.ClassMessage && e.Reply.Code != 552 {
						t.Errorf("the server's words are lost: %v", e)
					}
					if result.Outcomes[0].Accepted || srv.Count() != 0 {
						t.Fatalf("%d messages arrived, outcome %+v", srv.Count(), result.Outcomes[0])
					}
					if _, err := client.Send(t.Context(), envelope("b@example.net"), large); err != nil {
						t.Fatalf("the next message: %v", err)
					}
					if got := srv.Messages(); len(got) != 1 || !bytes.Equal(got[0].Data, large) {
						t.Errorf("%d messages arrived", len(got))
					}
				})
			})
		}
	}
}

// After a body that was given up nothing follows on the wire: no dot, no command.
func TestGivenUpBodyIsNeverCompleted(t *testing.T) {
	large := message(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 8000))
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			hook := func(_ context.Context, e smtptest.Event) smtptest.Action {
				if e.Stage == smtptest.StageBody {
					cancel()
				}
				return smtptest.Action{}
			}
			bubble(t, smtptest.Config{Extensions: d.extensions, Hook: hook}, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
				_, err := client.Send(ctx, envelope("b@example.net"), large)
				wantError(t, err, smtpx.StageData, smtpx.ClassRecycle)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error %v, want the context's", err)
				}
				synctest.Wait()
				if srv.Count() != 0 || srv.Stats().Open != 0 {
					t.Errorf("%d messages arrived, %d sessions are open", srv.Count(), srv.Stats().Open)
				}
			})
		})
	}
}

// Between the final dot and the reply only the reply counts.
func TestDotByFault(t *testing.T) {
	for _, d := range dialogues {
		for _, f := range []struct {
			name     string
			action   smtptest.Action
			class    smtpx.Class
			recorded int
		}{
			{"accepted, then FIN", smtptest.Action{Withhold: true, End: smtptest.Close}, smtpx.ClassAmbiguous, 1},
			{"accepted, then RST", smtptest.Action{Withhold: true, End: smtptest.Reset}, smtpx.ClassAmbiguous, 1},
			{"accepted, then silence", smtptest.Action{Withhold: true, End: smtptest.Stall}, smtpx.ClassAmbiguous, 1},
			{"not accepted, FIN", smtptest.Action{End: smtptest.Close}, smtpx.ClassAmbiguous, 0},
			{"250 after 9 minutes", smtptest.Action{Delay: 9 * time.Minute}, "", 1},
			{"250 after 11 minutes", smtptest.Action{Delay: 11 * time.Minute}, smtpx.ClassAmbiguous, 1},
			{"421 and close", smtptest.Action{Reply: "421 4.3.2 going down", End: smtptest.Close}, smtpx.ClassTransient, 0},
			{"354 again", smtptest.Action{Reply: "354 go on"}, smtpx.ClassAmbiguous, 0},
			{"other 2xx", smtptest.Action{Reply: "251 2.1.5 will forward"}, "", 1},
			{"250 and RST", smtptest.Action{Reply: "250 2.0.0 Ok: queued as X1", End: smtptest.Close}, "", 1},
		} {
			t.Run(d.name+"/"+f.name, func(t *testing.T) {
				config := smtptest.Config{Extensions: d.extensions, Hook: smtptest.At(smtptest.StageDot, 1, f.action)}
				bubble(t, config, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
					result, err := client.Send(t.Context(), envelope("b@example.net"), message("x"))
					if f.class == "" {
						if err != nil || !result.Outcomes[0].Accepted {
							t.Fatalf("not accepted: %v", err)
						}
					} else {
						wantError(t, err, smtpx.StageDot, f.class)
					}
					if srv.Count() != f.recorded {
						t.Errorf("the server accepted %d messages, want %d", srv.Count(), f.recorded)
					}
				})
			})
		}
	}
}

// A context that is done does not cut the wait for the reply to the final dot short.
func TestContextDoesNotCutTheWaitAfterTheDot(t *testing.T) {
	for _, d := range dialogues {
		t.Run(d.name, func(t *testing.T) {
			config := smtptest.Config{Extensions: d.extensions, Hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Delay: 5 * time.Minute})}
			bubble(t, config, nil, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				start := time.Now()
				if _, err := client.Send(ctx, envelope("b@example.net"), message("x")); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took != 5*time.Minute {
					t.Errorf("Send took %v", took)
				}
			})
		})
	}
}

// Before the dot it does, at every stage.
func TestContextEndsEveryWaitBeforeTheDot(t *testing.T) {
	for _, stage := range []smtptest.Stage{"mail", "rcpt", "data", "body"} {
		for _, d := range dialogues[:2] {
			t.Run(fmt.Sprint(d.name, "/", stage), func(t *testing.T) {
				config := smtptest.Config{Extensions: d.extensions, Hook: smtptest.At(stage, 1, smtptest.Action{End: smtptest.Stall})}
				bubble(t, config, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					start := time.Now()
					_, err := client.Send(ctx, envelope("b@example.net"), message(strings.Repeat("x\r\n", 50_000)))
					if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
						t.Errorf("error %v after %v", err, time.Since(start))
					}
					var e *smtpx.Error
					if !errors.As(err, &e) || e.Class != smtpx.ClassTransient {
						t.Errorf("error %v, want class transient", err)
					}
					if srv.Count() != 0 {
						t.Error("a message arrived")
					}
				})
			})
		}
	}
}

// QUIT is best effort. Whether it succeeds or not, the messages before it were sent, and Close returns soon.
func TestQuitByFault(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			config := smtptest.Config{Hook: smtptest.At(smtptest.StageQuit, 1, f.action)}
			bubble(t, config, nil, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
				if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				if err := client.Close(); err != nil || time.Since(start) > 3*time.Second {
					t.Errorf("Close took %v: %v", time.Since(start), err)
				}
				if srv.Count() != 1 {
					t.Errorf("%d messages arrived", srv.Count())
				}
			})
		})
	}
}
