package smtpx_test

import (
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// The client works with every personality, and classifies the known replies of each.
func TestPersonalities(t *testing.T) {
	for _, tc := range []struct {
		personality smtptest.Personality
		provider    string
		user        string // a@example.com unless set
		mechanism   string
		hasID       bool
	}{
		{personality: smtptest.StrictFQDN, provider: "generic", mechanism: "PLAIN", hasID: true},
		{personality: smtptest.GmailRelay, provider: "gmail-relay", mechanism: "PLAIN", hasID: true},
		{personality: smtptest.SES, provider: "ses", mechanism: "PLAIN", hasID: true},
		{personality: smtptest.SendGrid, provider: "sendgrid", user: "apikey", mechanism: "PLAIN", hasID: true},
		{personality: smtptest.Mailgun, provider: "mailgun", mechanism: "PLAIN"},
		{personality: smtptest.Postmark, provider: "postmark", mechanism: "PLAIN"},
		{personality: smtptest.M365, provider: "m365", mechanism: "LOGIN", hasID: true},
		{personality: smtptest.QQ, provider: "qq", mechanism: "PLAIN"},
		{personality: smtptest.NetEase163, provider: "163", mechanism: "PLAIN", hasID: true},
	} {
		t.Run(string(tc.personality), func(t *testing.T) {
			if tc.user == "" {
				tc.user = "a@example.com"
			}
			srv := smtptest.New(t, smtptest.Config{Personality: tc.personality, User: tc.user, Password: "s3cret"})
			client := open(t, srv.URL("provider="+tc.provider))
			for n := range 25 {
				result, err := client.Send(testContext(t), envelope("b@example.net"), message(strconv.Itoa(n)))
				if err != nil {
					t.Fatalf("message %d: %v", n, err)
				}
				if (result.ProviderID != "") != tc.hasID {
					t.Errorf("id %q of %v", result.ProviderID, result.Reply)
				}
			}
			if got := srv.Messages()[0].Session.Mechanism; srv.Count() != 25 || got != tc.mechanism {
				t.Errorf("%d messages by AUTH %s", srv.Count(), got)
			}
			_, err := open(t, srv.URLFor(tc.user, "wrong", "provider="+tc.provider)).Probe(testContext(t))
			wantError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
			_, err = open(t, srv.URLFor("", "", "provider="+tc.provider)).Send(testContext(t), envelope("b@example.net"), message("x"))
			if e := asError(t, err, smtpx.StageMail, smtpx.ClassConfig); e.Reply.Code == 0 {
				t.Errorf("without a login: %v", e)
			}
		})
	}
}

func TestPersonalitiesRefuseEHLONames(t *testing.T) {
	for personality, stage := range map[smtptest.Personality]smtpx.Stage{
		smtptest.StrictFQDN: smtpx.StageRcpt,
		smtptest.GmailRelay: smtpx.StageEHLO,
	} {
		srv := smtptest.New(t, smtptest.Config{Personality: personality})
		client := open(t, srv.URL("ehlo=localhost"))
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		if e := asError(t, err, stage, smtpx.ClassConfig); e.Hint == "" {
			t.Errorf("%s: no hint with %v", personality, e)
		}
	}
}

func TestPersonalitiesWantTheLoginAsSender(t *testing.T) {
	for _, personality := range []smtptest.Personality{smtptest.QQ, smtptest.NetEase163} {
		srv := smtptest.New(t, smtptest.Config{Personality: personality, User: "other@example.com", Password: "s3cret"})
		_, err := open(t, srv.URL("provider="+string(personality))).Send(testContext(t), envelope("b@example.net"), message("x"))
		wantError(t, err, smtpx.StageMail, smtpx.ClassConfig)
	}
}

// SES ends idle connections after 10 s. The profile says so, and the client ends them earlier.
func TestIdleLimitOfSES(t *testing.T) {
	bubble(t, smtptest.Config{Personality: smtptest.SES}, []smtpx.Option{func(c *smtpx.Config) { c.Provider = "ses" }},
		func(t *testing.T, srv *smtptest.Server, client *smtpx.Client) {
			for range 3 {
				if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
			}
			if srv.Stats().Open != 0 {
				t.Error("a connection is open")
			}
		})
}

// Microsoft 365 takes three connections. The profile has this limit, and a client that opens more is throttled.
func TestConnectionsOfM365(t *testing.T) {
	for _, params := range []string{"", "conns=8"} {
		srv := smtptest.New(t, smtptest.Config{Personality: smtptest.M365, Latency: 2 * time.Millisecond})
		client := open(t, srv.URL(strings.TrimSuffix("provider=m365&"+params, "&")))
		var mu sync.Mutex
		var wg sync.WaitGroup
		throttled := 0
		for range 60 {
			wg.Go(func() {
				_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
				if err == nil {
					return
				}
				checkClass(t, "message", err, smtpx.ClassThrottled)
				mu.Lock()
				defer mu.Unlock()
				throttled++
			})
		}
		wg.Wait()
		if srv.Count()+throttled != 60 || (params == "") != (throttled == 0) {
			t.Errorf("%q: %d messages arrived, %d throttled", params, srv.Count(), throttled)
		}
		if got := client.Stats().MaxConnections; params != "" && got >= 8 {
			t.Errorf("nothing was learnt: %d connections", got)
		}
	}
}
