package smtpx_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

var allMechanisms = []string{
	"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "XOAUTH2", "OAUTHBEARER",
}

func TestEveryMechanism(t *testing.T) {
	for _, m := range allMechanisms {
		t.Run(m, func(t *testing.T) {
			srv := smtptest.New(t, smtptest.Config{User: "app", Password: "s3cret, =", Mechanisms: allMechanisms})
			client := open(t, srv.URL("auth="+strings.ToLower(m)))
			if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
				t.Fatal(err)
			}
			if got := srv.Messages()[0].Session; got.Mechanism != m || got.User != "app" {
				t.Errorf("session %+v", got)
			}
			_, err := open(t, srv.URLFor("app", "wrong", "auth="+m)).Send(testContext(t), envelope("b@example.net"), message("x"))
			if e := asError(t, err, smtpx.StageAuth, smtpx.ClassConfig); e.Reply.Code != 535 {
				t.Errorf("wrong password: %v", e)
			}
		})
	}
}

func TestChoiceOfMechanism(t *testing.T) {
	token := func(context.Context, bool) (string, error) { return "s3cret", nil }
	for _, tc := range []struct {
		name    string
		config  smtptest.Config
		opt     smtpx.Option
		params  string
		want    string
		refused bool
	}{
		{name: "strongest", config: smtptest.Config{Mechanisms: allMechanisms}, want: "SCRAM-SHA-256-PLUS"},
		{name: "no channel binding offered", config: smtptest.Config{Mechanisms: []string{"LOGIN", "PLAIN", "SCRAM-SHA-256"}}, want: "SCRAM-SHA-256"},
		{name: "under TLS, PLAIN before CRAM-MD5", config: smtptest.Config{Mechanisms: []string{"CRAM-MD5", "LOGIN", "PLAIN"}}, want: "PLAIN"},
		{name: "in clear, CRAM-MD5 before PLAIN", config: smtptest.Config{TLS: smtptest.NoTLS, Mechanisms: []string{"PLAIN", "LOGIN", "CRAM-MD5"}},
			want: "CRAM-MD5"},
		{name: "a token", config: smtptest.Config{Mechanisms: allMechanisms}, opt: func(c *smtpx.Config) { c.Token = token }, want: "OAUTHBEARER"},
		{name: "a token is not sent as a password", config: smtptest.Config{Mechanisms: []string{"PLAIN", "LOGIN"}},
			opt: func(c *smtpx.Config) { c.Token = token }, refused: true},
		{name: "what the profile knows to work", config: smtptest.Config{Mechanisms: allMechanisms}, params: "provider=ses", want: "PLAIN"},
		{name: "pinned", config: smtptest.Config{Mechanisms: allMechanisms}, params: "auth=login", want: "LOGIN"},
		{name: "pinned and not offered", config: smtptest.Config{Mechanisms: []string{"PLAIN"}}, params: "auth=scram-sha-256", refused: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.config.User, tc.config.Password = "app", "s3cret"
			srv := smtptest.New(t, tc.config)
			opts := []smtpx.Option{func(*smtpx.Config) {}}
			if tc.opt != nil {
				opts = append(opts, tc.opt)
			}
			var params []string
			if tc.params != "" {
				params = append(params, tc.params)
			}
			report, err := open(t, srv.URL(params...), opts...).Probe(testContext(t))
			if tc.refused {
				wantError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
				return
			}
			if err != nil || report.Mechanism != tc.want {
				t.Errorf("mechanism %q, %v; want %q", report.Mechanism, err, tc.want)
			}
		})
	}
}

// There is no silent way down: a mechanism that fails is not followed by a weaker one.
func TestNoFallbackAfterAFailedLogin(t *testing.T) {
	var seen recorder
	srv := smtptest.New(t, smtptest.Config{User: "app", Password: "s3cret", Mechanisms: allMechanisms, Hook: seen.hook})
	_, err := open(t, srv.URLFor("app", "wrong")).Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
	srv.Close()
	if n := seen.count(smtptest.StageAuth); n != 1 {
		t.Errorf("%d tries", n)
	}
}

// A stripped offer is noticed: the client says under the signature that it saw no channel binding.
func TestSCRAMNoticesAStrippedOffer(t *testing.T) {
	config := smtptest.Config{User: "app", Password: "s3cret", Mechanisms: []string{"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}}
	config.Hook = func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageEHLO && e.Session.TLS != "" {
			return smtptest.Action{Reply: "250-relay.test\n250 AUTH SCRAM-SHA-256"}
		}
		return smtptest.Action{}
	}
	_, client := newRelay(t, config)
	_, err := client.Probe(testContext(t))
	wantError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
}

// A server that says 235 without its part of SCRAM does not get a message.
func TestSCRAMServerMustProveItself(t *testing.T) {
	config := smtptest.Config{User: "app", Password: "s3cret", Mechanisms: []string{"SCRAM-SHA-256"},
		Hook: smtptest.At(smtptest.StageAuth, -1, smtptest.Action{Reply: "235 2.7.0 come in"})}
	srv, client := newRelay(t, config)
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	if e := asError(t, err, smtpx.StageAuth, smtpx.ClassConfig); !strings.Contains(e.Error(), "prove") {
		t.Errorf("error %v", e)
	}
	if srv.Count() != 0 {
		t.Error("it got a message")
	}
}

func TestTokenIsRefreshedOnce(t *testing.T) {
	for _, m := range []string{"XOAUTH2", "OAUTHBEARER"} {
		for _, second := range []string{"fresh", "stale"} {
			t.Run(fmt.Sprint(m, " then ", second), func(t *testing.T) {
				var asked []bool
				token := func(ctx context.Context, refresh bool) (string, error) {
					asked = append(asked, refresh)
					if refresh {
						return second, nil
					}
					return "stale", ctx.Err()
				}
				srv := smtptest.New(t, smtptest.Config{User: "app", Password: "fresh", Mechanisms: []string{m}})
				client := open(t, srv.URLFor("app", ""), func(c *smtpx.Config) { c.Token = token })
				_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
				if second == "fresh" && err != nil {
					t.Fatal(err)
				}
				if second == "stale" {
					wantError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
				}
				if len(asked) != 2 || asked[0] || !asked[1] {
					t.Errorf("the token was asked for with %v", asked)
				}
			})
		}
	}
}

func TestTokenErrorIsShown(t *testing.T) {
	boom := errors.New("identity provider is down")
	srv := smtptest.New(t, smtptest.Config{User: "app", Password: "x", Mechanisms: []string{"XOAUTH2"}})
	client := open(t, srv.URLFor("app", ""), func(c *smtpx.Config) {
		c.Token = func(context.Context, bool) (string, error) { return "", boom }
	})
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageAuth, smtpx.ClassUnreachable)
	if !errors.Is(err, boom) {
		t.Errorf("error %v", err)
	}
}

func TestChannelBindingNeedsTLS13(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{User: "app", Password: "s3cret", MaxTLSVersion: tls.VersionTLS12,
		Mechanisms: []string{"SCRAM-SHA-256", "PLAIN"}})
	if report, err := open(t, srv.URL()).Probe(testContext(t)); err != nil || report.Mechanism != "SCRAM-SHA-256" || report.TLSVersion != "TLS 1.2" {
		t.Errorf("%+v, %v", report, err)
	}
}

// User names and passwords are prepared as RFC 4013 has it: what people type differently is the same to the server.
func TestSCRAMPreparesUserAndPassword(t *testing.T) {
	for _, m := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256-PLUS"} {
		srv := smtptest.New(t, smtptest.Config{User: "IX", Password: "p\u00e4ss IX", Mechanisms: allMechanisms})
		client := open(t, srv.URLFor("I\u00adX", "pa\u0308ss\u00a0\u2168", "auth="+m))
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Errorf("%s: %v", m, err)
		}
		_, err := open(t, srv.URLFor("IX", "p\u0007", "auth="+m)).Send(testContext(t), envelope("b@example.net"), message("x"))
		if e := asError(t, err, smtpx.StageAuth, smtpx.ClassConfig); !strings.Contains(e.Error(), "RFC 4013") || e.Reply.Code != 0 {
			t.Errorf("%s: %v", m, e)
		}
	}
}
