package smtpx_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestProbeReports(t *testing.T) {
	_, client := newRelay(t, smtptest.Config{User: "app", Password: "s3cret"})
	report, err := client.Probe(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if report.TLSVersion != "TLS 1.3" || report.TLSCipher == "" || report.Mechanism != "PLAIN" || report.EHLO != "client.example.com" ||
		report.Banner.Code != 220 || report.Remote != report.Host {
		t.Errorf("report %+v", report)
	}
	if !slices.Contains(report.Extensions, "PIPELINING") || !slices.Contains(report.Extensions, "AUTH PLAIN LOGIN") ||
		slices.Contains(report.Extensions, "STARTTLS") {
		t.Errorf("extensions %q", report.Extensions)
	}
	var stages []smtpx.Stage
	for _, s := range report.Steps {
		stages = append(stages, s.Stage)
	}
	want := []smtpx.Stage{"dial", "banner", "ehlo", "starttls", "tls", "ehlo", "auth", "idle"}
	if !slices.Equal(stages, want) {
		t.Errorf("stages %q, want %q", stages, want)
	}
}

func TestProbeReportsHowFarItCame(t *testing.T) {
	srv, _ := newRelay(t, smtptest.Config{User: "app", Password: "s3cret"})
	client := open(t, srv.URLFor("app", "wrong-password"))
	report, err := client.Probe(testContext(t))
	e := asError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
	if e.Reply.Code != 535 || strings.Contains(err.Error(), "wrong-password") {
		t.Errorf("error %v", err)
	}
	if report.TLSVersion == "" || len(report.Extensions) == 0 || report.Steps[len(report.Steps)-1].Stage != smtpx.StageAuth {
		t.Errorf("report %+v", report)
	}
}

func TestTLSIsRequired(t *testing.T) {
	srv, _ := newRelay(t, smtptest.Config{TLS: smtptest.NoTLS, User: "app", Password: "s3cret"})
	authSeen := srv.Count()
	client := open(t, "smtp://app:s3cret@"+srv.Addr())
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	e := asError(t, err, smtpx.StageStartTLS, smtpx.ClassConfig)
	if !strings.Contains(e.Error(), "does not offer STARTTLS") || e.Hint == "" {
		t.Errorf("error %v, hint %q", e, e.Hint)
	}
	if srv.Count() != authSeen {
		t.Error("the message was sent in clear")
	}
}

func TestTLSVerifiesTheServer(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{})
	for name, tc := range map[string]struct {
		opt  smtpx.Option
		want string
	}{
		"unknown authority": {smtpx.RootCAs(x509.NewCertPool()), "authority"},
		"other name": {func(c *smtpx.Config) {
			c.TLSConfig = &tls.Config{ServerName: "other.example.com"}
		}, "other.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, srv.URL(), tc.opt).Send(testContext(t), envelope("b@example.net"), message("x"))
			e := asError(t, err, smtpx.StageTLS, smtpx.ClassConfig)
			if !strings.Contains(e.Error(), tc.want) || e.Hint == "" {
				t.Errorf("error %v, hint %q", e, e.Hint)
			}
		})
	}
}

func TestTLSModeMismatchHasAHint(t *testing.T) {
	t.Run("implicit towards a port that speaks first", func(t *testing.T) {
		srv := smtptest.New(t, smtptest.Config{})
		client := open(t, "smtps://"+srv.Addr())
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		if e := asError(t, err, smtpx.StageTLS, smtpx.ClassConfig); !strings.Contains(e.Hint, "smtp://") {
			t.Errorf("hint %q", e.Hint)
		}
	})
	t.Run("STARTTLS towards a port that does not speak SMTP", func(t *testing.T) {
		_, client := newRelay(t, smtptest.Config{Hook: smtptest.At(smtptest.StageBanner, -1,
			smtptest.Action{Raw: "\x15\x03\x01\x00\x02\x02\x0a\n", End: smtptest.Close})})
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		if e := asError(t, err, smtpx.StageBanner, smtpx.ClassUnreachable); !strings.Contains(e.Hint, "smtps://") {
			t.Errorf("hint %q", e.Hint)
		}
	})
}

func TestBytesBehindSTARTTLSAbort(t *testing.T) {
	for name, raw := range map[string]string{
		"a reply":       "220 go ahead\r\n250-evil.example\r\n250 AUTH PLAIN\r\n",
		"a single byte": "220 go ahead\r\n2",
	} {
		t.Run(name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{User: "app", Password: "s3cret",
				Hook: smtptest.At(smtptest.StageStartTLS, -1, smtptest.Action{Raw: raw})})
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			wantError(t, err, smtpx.StageStartTLS, smtpx.ClassConfig)
			if srv.Count() != 0 {
				t.Error("a message was accepted")
			}
		})
	}
}

func TestNothingFollowsAFailedHandshakeInClear(t *testing.T) {
	seen := make(chan string, 100)
	srv := smtptest.New(t, smtptest.Config{User: "app", Password: "s3cret", Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
		seen <- e.Line
		return smtptest.Action{}
	}})
	for _, mode := range []string{"tls=required", "tls=opportunistic"} {
		client := open(t, srv.URL(mode), smtpx.RootCAs(x509.NewCertPool()))
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		wantError(t, err, smtpx.StageTLS, smtpx.ClassConfig)
	}
	srv.Close()
	close(seen)
	for line := range seen {
		if strings.HasPrefix(line, "AUTH") || strings.HasPrefix(line, "MAIL") {
			t.Errorf("the client said %q", line)
		}
	}
}

func TestTLSVersionsBelow12AreRefused(t *testing.T) {
	cert := smtptest.New(t, smtptest.Config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	old := make(chan error, 1)
	go func() {
		nc, err := listener.Accept()
		if err == nil {
			defer nc.Close()
			var hello [512]byte
			_, err = nc.Read(hello[:])
			// A ServerHello that chooses TLS 1.0.
			_, _ = nc.Write(append(append([]byte{22, 3, 1, 0, 42, 2, 0, 0, 38, 3, 1}, make([]byte, 33)...), 0xc0, 0x13, 0))
		}
		old <- err
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		if err := <-old; err != nil {
			t.Error(err)
		}
	})
	base := &tls.Config{MinVersion: tls.VersionTLS10}
	client := open(t, "smtps://"+listener.Addr().String(), smtpx.RootCAs(cert.CertPool()), smtpx.TLSConfig(base))
	_, err = client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageTLS, smtpx.ClassConfig)
}

func TestNoALPNAndSessionsResume(t *testing.T) {
	srv, client := newRelay(t, smtptest.Config{}, smtpx.TLSConfig(&tls.Config{NextProtos: []string{"smtp"}}),
		func(c *smtpx.Config) { c.MaxMessages = 1 })
	for range 2 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
	}
	got := srv.Messages()
	if got[0].Session.Resumed || !got[1].Session.Resumed {
		t.Errorf("resumed: %v, %v; want only the second", got[0].Session.Resumed, got[1].Session.Resumed)
	}
}

func TestCredentialsNeverInClear(t *testing.T) {
	// The host is not loopback by its name, so the connection counts as one over the network.
	srv := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, User: "app", Password: "s3cret"})
	dial := func(c *smtpx.Config) {
		c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, srv.Addr())
		}
	}
	client := open(t, "smtp://app:s3cret@relay.example.com?tls=opportunistic", dial)
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
	if srv.Count() != 0 {
		t.Fatal("a message was accepted")
	}
	client = open(t, "smtp://app:s3cret@relay.example.com?tls=none&clear-auth=true", dial)
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Errorf("with clear-auth: %v", err)
	}
}

func TestAuthIsConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		config smtptest.Config
		url    func(*smtptest.Server) string
		want   string
	}{
		"wrong password": {smtptest.Config{User: "app", Password: "s3cret"},
			func(s *smtptest.Server) string { return s.URLFor("app", "nope") }, "535"},
		"wrong password by LOGIN": {smtptest.Config{User: "app", Password: "s3cret"},
			func(s *smtptest.Server) string { return s.URLFor("app", "nope", "auth=login") }, "535"},
		"no AUTH offered": {smtptest.Config{},
			func(s *smtptest.Server) string { return s.URLFor("app", "s3cret") }, "does not offer AUTH"},
		"pinned mechanism not offered": {smtptest.Config{User: "app", Password: "s3cret", Mechanisms: []string{"LOGIN"}},
			func(s *smtptest.Server) string { return s.URL("auth=plain") }, "does not offer AUTH PLAIN"},
		"no common mechanism": {smtptest.Config{User: "app", Password: "s3cret", Mechanisms: []string{"GSSAPI"}},
			func(s *smtptest.Server) string { return s.URL() }, "no common AUTH mechanism"},
		"NUL in the password": {smtptest.Config{User: "app", Password: "s3cret"},
			func(s *smtptest.Server) string { return s.URLFor("app", "s3\x00cret") }, "NUL"},
		"credentials in the server's words": {smtptest.Config{User: "app", Password: "s3cret", Hook: smtptest.At(smtptest.StageAuth, -1,
			smtptest.Action{Reply: "535 5.7.8 no such pair: app/topsecret AGFwcAB0b3BzZWNyZXQ="})},
			func(s *smtptest.Server) string { return s.URLFor("app", "topsecret") }, "app/***"},
		"authentication needed": {smtptest.Config{User: "app", Password: "s3cret"},
			func(s *smtptest.Server) string { return s.URLFor("", "") }, "530"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := smtptest.New(t, tc.config)
			_, err := open(t, tc.url(srv)).Send(testContext(t), envelope("b@example.net"), message("x"))
			var e *smtpx.Error
			if !errors.As(err, &e) || e.Class != smtpx.ClassConfig || !strings.Contains(e.Error(), tc.want) {
				t.Errorf("error %v, want class config and %q", err, tc.want)
			}
			for _, secret := range []string{"topsecret", "nope", "AGFwcAB0b3BzZWNyZXQ="} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("error tells the password: %v", err)
				}
			}
		})
	}
}

func TestLongInitialResponseFollowsTheChallenge(t *testing.T) {
	password := strings.Repeat("p", 600)
	var lines []string
	hook := func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageAuth {
			lines = append(lines, e.Line)
		}
		return smtptest.Action{}
	}
	srv, client := newRelay(t, smtptest.Config{User: "app", Password: password, Hook: hook})
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Fatal(err)
	}
	if srv.Count() != 1 || len(lines) != 1 || lines[0] != "AUTH PLAIN" {
		t.Errorf("commands %q", lines)
	}
}

func TestEHLOErrorIsShown(t *testing.T) {
	var verbs []string
	_, client := newRelay(t, smtptest.Config{Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage != smtptest.StageEHLO {
			return smtptest.Action{}
		}
		verbs = append(verbs, e.Line)
		return smtptest.Action{Reply: "550-5.7.1 your name\n550 5.7.1 is not welcome"}
	}})
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	e := asError(t, err, smtpx.StageEHLO, smtpx.ClassConfig)
	if got, want := e.Error(), "ehlo: 550 5.7.1 your name is not welcome (config)"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	if len(verbs) != 1 {
		t.Errorf("the client said %q", verbs)
	}
}

func TestEHLONameDefaultsToLiteral(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{})
	client, err := smtpx.Open(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Fatal(err)
	}
	if name := srv.Messages()[0].Session.EHLO; name != "[127.0.0.1]" && !strings.Contains(name, ".") {
		t.Errorf("EHLO name %q is neither an address literal nor fully qualified", name)
	}
}

func TestLocalAddressIsBound(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{})
	if _, err := open(t, srv.URL("local=127.0.0.9")).Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Fatal(err)
	}
	if remote := srv.Messages()[0].Session.Remote; !strings.HasPrefix(remote, "127.0.0.9:") {
		t.Errorf("the client came from %s", remote)
	}
}

func TestResolverIsAsked(t *testing.T) {
	asked := make(chan string, 10)
	client := open(t, "smtp://relay.example.com", func(c *smtpx.Config) {
		c.Resolver = &net.Resolver{PreferGo: true, Dial: func(_ context.Context, _, address string) (net.Conn, error) {
			asked <- address
			return nil, errors.New("no name server here")
		}}
	})
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageDial, smtpx.ClassUnreachable)
	if len(asked) == 0 {
		t.Error("the resolver was not asked")
	}
}

// If the first address does not answer, the next is tried, of either family (RFC 8305).
func TestOtherAddressIsTried(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{})
	_, port, err := net.SplitHostPort(srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	names := nameServer(t, map[string][]string{"relay.test.": {"100::1", "127.0.0.1"}})
	client := open(t, "smtp://relay.test:"+port, smtpx.RootCAs(srv.CertPool()), func(c *smtpx.Config) { c.Resolver = names })
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Fatal(err)
	}
	if srv.Count() != 1 {
		t.Errorf("%d messages arrived", srv.Count())
	}
}

// nameServer answers questions for addresses from a table, over a socket.
func nameServer(t *testing.T, table map[string][]string) *net.Resolver {
	t.Helper()
	pc, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		pc.Close()
		wg.Wait()
	})
	wg.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true}, Questions: m.Questions}
			for _, text := range table[q.Name.String()] {
				a := netip.MustParseAddr(text)
				header := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}
				switch {
				case a.Is4() && q.Type == dnsmessage.TypeA:
					answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: a.As4()}})
				case a.Is6() && q.Type == dnsmessage.TypeAAAA:
					answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
				}
			}
			if packed, err := answer.Pack(); err == nil {
				_, _ = pc.WriteTo(packed, from)
			}
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

func TestUnreachable(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, url := range map[string]string{
		"refused":      "smtp://" + closed.Addr().String(),
		"no such host": "smtp://relay.invalid",
	} {
		t.Run(name, func(t *testing.T) {
			client := open(t, url)
			result, err := client.Send(testContext(t), envelope("b@example.net", "c@example.net"), message("x"))
			wantError(t, err, smtpx.StageDial, smtpx.ClassUnreachable)
			if len(result.Outcomes) != 2 || result.Outcomes[1].Err == nil || result.Outcomes[1].Recipient != "c@example.net" {
				t.Errorf("outcomes %+v", result.Outcomes)
			}
		})
	}
}

// A relay that ends every connection at once is not dialled repeatedly. The caller gets an error.
func TestServerThatHangsUpBehindSetUp(t *testing.T) {
	for name, tc := range map[string]struct {
		ehlo  string
		class smtpx.Class
	}{
		"without a word": {"250 relay.test\r\n", smtpx.ClassTransient},
		"with a refusal": {"250 relay.test\r\n421 4.7.0 too many concurrent connections\r\n", smtpx.ClassThrottled},
		"out of turn":    {"250 relay.test\r\n250 ok\r\n", smtpx.ClassTransient},
	} {
		t.Run(name, func(t *testing.T) {
			hook := smtptest.At(smtptest.StageEHLO, -1, smtptest.Action{Raw: tc.ehlo, End: smtptest.Close})
			for range 20 { // whether the end is there before the message is a race
				srv, client := newRelay(t, smtptest.Config{TLS: smtptest.NoTLS, Hook: hook})
				_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
				e, ok := errors.AsType[*smtpx.Error](err)
				if !ok || e.Class != tc.class {
					t.Fatalf("error %v, want class %s", err, tc.class)
				}
				if n := srv.Stats().Sessions; n > 2 {
					t.Fatalf("%d connections for one message (%v)", n, e)
				}
				client.Close()
				srv.Close()
			}
		})
	}
}
