package smtpx_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// When the write that ends a message fails before the dot, the message whose head is in that write is not lost: it goes on another
// connection, or ends when its caller or the client does.
func TestEarlyHeadInALostWrite(t *testing.T) {
	long := message(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 400))
	for name, tc := range map[string]struct {
		carried int           // messages before
		delay   time.Duration // before the server hangs up
		limit   time.Duration // of the second
		close   bool          // the client, meanwhile
		first   smtpx.Class
		second  smtpx.Class
		arrived int
		early   string
	}{
		"taken":     {carried: 1, arrived: 3, early: "taken"},
		"on trial":  {carried: 17, arrived: 19, early: "untried"},
		"withdrawn": {carried: 1, delay: time.Minute, limit: 10 * time.Second, second: smtpx.ClassTransient, arrived: 2, early: "taken"},
		"closed": {carried: 1, delay: time.Minute, close: true, first: smtpx.ClassRecycle, second: smtpx.ClassRecycle, arrived: 1,
			early: "taken"},
	} {
		t.Run(name, func(t *testing.T) {
			var armed atomic.Bool
			config := smtptest.Config{Extensions: []string{"PIPELINING"}, Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
				if e.Stage != smtptest.StageBody || !armed.CompareAndSwap(true, false) {
					return smtptest.Action{}
				}
				return smtptest.Action{After: 1000, Delay: tc.delay, Reply: "421 4.4.2 timeout exceeded", End: smtptest.Close}
			}}
			opts := []smtpx.Option{func(c *smtpx.Config) { c.Connections = 1 }}
			bubble(t, config, opts, func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
				for range tc.carried {
					if _, err := client.Send(t.Context(), envelope("zero@example.net"), message("zero")); err != nil {
						t.Fatal(err)
					}
				}
				armed.Store(true)
				if tc.early == "taken" {
					smtpx.TakeEarlyHeads(client)
				}
				second := make(chan error, 1)
				env := envelope("first@example.net")
				env.Commit = func(context.Context) error {
					go func() {
						ctx, cancel := context.WithTimeout(t.Context(), cmp.Or(tc.limit, time.Hour))
						defer cancel()
						_, err := client.Send(ctx, envelope("second@example.net"), message("second"))
						second <- err
					}()
					synctest.Wait()
					if tc.close {
						go func() {
							time.Sleep(time.Second)
							client.Close()
						}()
					}
					return nil
				}
				start := time.Now()
				_, err := client.Send(t.Context(), env, long)
				checkClass(t, "first", err, tc.first)
				checkClass(t, "second", <-second, tc.second)
				if srv.Count() != tc.arrived || smtpx.EarlyHeads(client) != tc.early {
					t.Errorf("%d arrived, early heads %s; want %d, %s", srv.Count(), smtpx.EarlyHeads(client), tc.arrived, tc.early)
				}
				if took := time.Since(start); took > 2*time.Minute {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// A server may refuse the commands behind a final dot while it is busy with the message, and answer the dot last. What comes first
// is no verdict then.
func TestEarlyHeadRefusedBeforeTheDotIsAnswered(t *testing.T) {
	const turn, sync = "503 5.5.1 bad sequence of commands", "554 5.5.1 pipelining out of synchronization"
	for name, tc := range map[string]struct {
		replies []string
		class   smtpx.Class // of the message before the head
		code    int         // of its error
	}{
		"accepted":                    {replies: []string{turn, turn, turn, "250 2.0.0 ok"}},
		"accepted, mixed refusals":    {replies: []string{sync, turn, "554 5.5.1 no valid recipients", "250 2.0.0 ok"}},
		"deferred":                    {replies: []string{turn, turn, turn, "451 4.3.0 later"}, class: smtpx.ClassTransient, code: 451},
		"refused":                     {replies: []string{turn, turn, turn, "554 5.6.0 not like this"}, class: smtpx.ClassMessage, code: 554},
		"only out of turn":            {replies: []string{turn, turn, turn, turn}, class: smtpx.ClassAmbiguous, code: 503},
		"session ended":               {replies: []string{turn, turn, turn, "421 4.7.0 too many errors"}, class: smtpx.ClassAmbiguous, code: 503},
		"silence":                     {replies: []string{turn, turn, turn}, class: smtpx.ClassAmbiguous, code: 503},
		"silence behind a 250":        {replies: []string{turn, "250 2.0.0 ok"}, class: smtpx.ClassAmbiguous, code: 503},
		"dot refused, head answered":  {replies: []string{turn, "250 ok", "250 ok", "354 go on"}, class: smtpx.ClassAmbiguous, code: 503},
		"dot refused, sender refused": {replies: []string{turn, "250 ok", "550 5.1.1 unknown", turn}, class: smtpx.ClassAmbiguous, code: 503},
	} {
		t.Run(name, func(t *testing.T) {
			s := &dialogueScript{ehlo: []string{"PIPELINING"}, behind: func(sent []byte) (string, int, bool) {
				if !bytes.Contains(sent, []byte("DATA\r\n")) {
					return "", 0, false
				}
				return strings.Join(tc.replies, "\r\n"), len(sent), false
			}}
			client := open(t, "smtp://"+s.start(t)+"?tls=none&conns=1", func(c *smtpx.Config) { c.Timeouts.Dot = time.Second })
			errs, _ := many(t, client, 40)
			failed := 0
			for i, err := range errs {
				if err == nil {
					continue
				}
				failed++
				checkClass(t, fmt.Sprint("message ", i), err, tc.class)
				var e *smtpx.Error
				if errors.As(err, &e) && (e.Reply.Code != tc.code || e.Stage != smtpx.StageDot) {
					t.Errorf("message %d: %v, want code %d", i, err, tc.code)
				}
			}
			want := 0
			if tc.class != "" {
				want = 1
			}
			if sessions, bodies := s.counts(); failed != want || sessions != 2 || bodies != 40 || smtpx.EarlyHeads(client) != "refused" {
				t.Errorf("%d failed, %d sessions, %d bodies, early heads %s; want %d, 2, 40, refused", failed, sessions, bodies,
					smtpx.EarlyHeads(client), want)
			}
		})
	}
}

// Without an early head a refusal of the dialogue is the verdict.
func TestDotRefusedOutOfTurnWithoutEarlyHead(t *testing.T) {
	for _, reply := range []string{"503 5.5.1 bad sequence of commands", "554 5.5.1 pipelining out of synchronization"} {
		config := smtptest.Config{Extensions: []string{"PIPELINING"}, Hook: smtptest.At(smtptest.StageDot, 1, smtptest.Action{Reply: reply})}
		srv, client := newRelay(t, config)
		smtpx.TakeEarlyHeads(client)
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		var e *smtpx.Error
		if !errors.As(err, &e) || e.Class == smtpx.ClassAmbiguous || strconv.Itoa(e.Reply.Code) != reply[:3] || srv.Count() != 0 {
			t.Errorf("%s: %v", reply, err)
		}
		if smtpx.EarlyHeads(client) != "taken" {
			t.Errorf("early heads %s", smtpx.EarlyHeads(client))
		}
	}
}
