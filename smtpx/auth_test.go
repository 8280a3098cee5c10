package smtpx_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

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

// A token that is refused for good is fetched anew whatever the code is, and the first refusal stays the verdict when the second
// try brings none.
func TestRefusedTokens(t *testing.T) {
	outage := errors.New("dial tcp: lookup login.example.com: i/o timeout")
	for name, tc := range map[string]struct {
		reply    string // to the first AUTH
		hangUp   bool
		second   error // of the second call of Token
		class    smtpx.Class
		code     int
		accepted bool
	}{
		"535":                        {reply: "535 5.7.3 Authentication unsuccessful", accepted: true},
		"501":                        {reply: "501 5.5.127 Invalid XOAUTH2 auth data - Token will expire soon", accepted: true},
		"534":                        {reply: "534 5.7.14 please log in", accepted: true},
		"535 and hang-up":            {reply: "535 5.7.3 Authentication unsuccessful", hangUp: true, class: smtpx.ClassConfig, code: 535},
		"535, then an outage":        {reply: "535 5.7.3 Authentication unsuccessful", second: outage, class: smtpx.ClassUnreachable, code: 535},
		"535, then no more consent":  {reply: "535 5.7.3 no", second: fmt.Errorf("invalid_grant: %w", smtpx.ErrTokenRefused), class: smtpx.ClassConfig, code: 535},
		"454 is no refusal for good": {reply: "454 4.7.0 Temporary authentication failure", class: smtpx.ClassTransient, code: 454},
	} {
		t.Run(name, func(t *testing.T) {
			s := &dialogueScript{ehlo: []string{"AUTH XOAUTH2"}}
			tries, asked := 0, 0
			s.replies = func(_ int, verb, _ string) (string, bool) {
				if verb != "AUTH" {
					return "", false
				}
				switch tries++; {
				case tries == 1:
					return tc.reply, true
				case tc.hangUp:
					return "", true
				}
				return "235 2.7.0 ok", true
			}
			client := open(t, "smtp://u@"+s.start(t)+"?tls=none", func(c *smtpx.Config) {
				c.Token = func(_ context.Context, refresh bool) (string, error) {
					asked++
					if refresh {
						return "fresh", tc.second
					}
					return "old", nil
				}
			})
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			if tc.accepted {
				if err != nil || asked != 2 {
					t.Errorf("error %v, token asked %d times", err, asked)
				}
				return
			}
			e := asError(t, err, smtpx.StageAuth, tc.class)
			if e.Reply.Code != tc.code || (tc.second != nil && !errors.Is(err, tc.second)) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// The source of a token is asked before the dial and not for longer than its limit, also when it does not heed its context.
func TestTokenIsBounded(t *testing.T) {
	stuck := make(chan struct{})
	for name, wait := range map[string]func(context.Context) error{
		"heeds its context": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"does not":          func(context.Context) error { <-stuck; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := &dialogueScript{ehlo: []string{"AUTH XOAUTH2"}}
			client := open(t, "smtp://u@"+s.start(t)+"?tls=none", func(c *smtpx.Config) {
				c.Timeouts.Auth = 50 * time.Millisecond
				c.Token = func(ctx context.Context, _ bool) (string, error) { return "", wait(ctx) }
			})
			start := time.Now()
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			wantError(t, err, smtpx.StageAuth, smtpx.ClassUnreachable)
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			if sessions, _ := s.counts(); sessions != 0 {
				t.Errorf("%d sessions without a token", sessions)
			}
		})
	}
	close(stuck)
}

// A server may list its mechanisms over several lines, in the old form, and with other white space.
func TestAuthLinesAddUp(t *testing.T) {
	for _, lines := range [][]string{
		{"AUTH LOGIN PLAIN", "AUTH GSSAPI NTLM"},
		{"AUTH GSSAPI NTLM", "AUTH LOGIN PLAIN"},
		{"AUTH LOGIN", "AUTH=LOGIN PLAIN", "AUTH"},
		{"AUTH=OAUTHBEARER XOAUTH2", "AUTH PLAIN LOGIN"},
		{"AUTH OAUTHBEARER XOAUTH2", "AUTH=PLAIN LOGIN"},
		{"AUTH\tPLAIN\tLOGIN", "SIZE 1000"},
		{"auth  login   plain "},
		{"AUTH=PLAIN"},
		{"AUTH", "AUTH PLAIN"},
	} {
		s := &dialogueScript{ehlo: lines}
		s.replies = func(_ int, verb, l string) (string, bool) {
			return "235 2.7.0 ok", verb == "AUTH" && strings.HasPrefix(l, "AUTH PLAIN ")
		}
		client := open(t, "smtp://app:secret@"+s.start(t)+"?tls=none")
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil || s.said("AUTH PLAIN") != 1 {
			t.Errorf("%q: %v", lines, err)
		}
	}
}

// A mechanism that is offered and then refused as such is followed by the next, under TLS; wrong credentials are not. Every
// refusal names the mechanism.
func TestRefusedMechanisms(t *testing.T) {
	for reply, goesOn := range map[string]bool{
		"504 5.5.4 Unrecognized authentication type":                                  true,
		"534 5.7.9 Authentication mechanism is too weak":                              true,
		"535 5.7.8 Error: authentication failed: Invalid authentication mechanism":    true,
		"535 5.7.8 authentication failed: no secret in database":                      false,
		"534-5.7.9 Application-specific password required.\n534 5.7.9 see the manual": false,
		"454 4.7.0 Temporary authentication failure":                                  false,
	} {
		for _, mode := range []smtptest.TLSMode{smtptest.StartTLS, smtptest.NoTLS} {
			config := smtptest.Config{TLS: mode, User: "app", Password: "s3cret", Mechanisms: []string{"SCRAM-SHA-256", "PLAIN"}}
			config.Hook = func(_ context.Context, e smtptest.Event) smtptest.Action {
				if e.Stage == smtptest.StageAuth && strings.Contains(e.Line, "SCRAM") {
					return smtptest.Action{Reply: reply}
				}
				return smtptest.Action{}
			}
			srv := smtptest.New(t, config)
			client := open(t, srv.URL())
			report, err := client.Probe(testContext(t))
			if goesOn && mode == smtptest.StartTLS {
				if err != nil || report.Mechanism != "PLAIN" {
					t.Errorf("%s: by %s, %v", reply, report.Mechanism, err)
				}
				continue
			}
			var e *smtpx.Error
			if !errors.As(err, &e) || e.Mechanism != "SCRAM-SHA-256" || !strings.Contains(err.Error(), "SCRAM-SHA-256") {
				t.Errorf("%s: error %v", reply, err)
			}
		}
	}
}

// EXTERNAL logs in by the certificate, with or without a user, and needs one.
func TestExternal(t *testing.T) {
	chain, _ := smtptest.Certificate(t, "client.example.com")
	cert, err := tls.X509KeyPair(pem.EncodeToMemory(chain[1]), pem.EncodeToMemory(chain[0]))
	if err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]string{"": "AUTH EXTERNAL =", "app": "AUTH EXTERNAL YXBw"} {
		var mu sync.Mutex
		var said string
		srv := smtptest.New(t, smtptest.Config{TLS: smtptest.ImplicitTLS, ClientCertificates: true, Extensions: []string{"AUTH EXTERNAL PLAIN"},
			Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
				if !strings.HasPrefix(e.Line, "AUTH") {
					return smtptest.Action{}
				}
				mu.Lock()
				defer mu.Unlock()
				said = e.Line
				return smtptest.Action{Reply: "235 2.7.0 ok"}
			}})
		client := open(t, srv.URLFor(user, "", "auth=external"), func(c *smtpx.Config) {
			c.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		})
		report, err := client.Probe(testContext(t))
		mu.Lock()
		if err != nil || report.Mechanism != "EXTERNAL" || said != want {
			t.Errorf("%q: %+v, %v; said %q", user, report, err, said)
		}
		mu.Unlock()
	}
	for _, url := range []string{"smtps://relay.example.com?auth=external", "smtps://u:p@relay.example.com?auth=external",
		"smtp://relay.example.com?auth=external&tls=none"} {
		if client, err := smtpx.Open(url); err == nil {
			client.Close()
			t.Errorf("%s was opened", url)
		}
	}
}
