package smtpx_test

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestOpenReadsURL(t *testing.T) {
	var got smtpx.Config
	spy := func(c *smtpx.Config) { got = *c }
	_, err := smtpx.Open("smtp://u%40x:p%2Fw@relay.example.com:2525?tls=opportunistic&ehlo=mx.example.org&auth=plain&conns=7&messages=9"+
		"&rate=600/m&idle=5s&age=2m&local=127.0.0.2&clear-auth=true", spy)
	if err != nil {
		t.Fatal(err)
	}
	if got.Host != "relay.example.com" || got.Port != 2525 || got.User != "u@x" || got.Password != "p/w" ||
		got.TLS != smtpx.TLSOpportunistic || got.EHLO != "mx.example.org" || got.Auth != "PLAIN" || got.Connections != 7 ||
		got.MaxMessages != 9 || got.Rate != 10 || got.Idle != 5*time.Second || got.MaxAge != 2*time.Minute ||
		!got.LocalAddr.Equal(net.IPv4(127, 0, 0, 2)) || !got.ClearAuth {
		t.Errorf("read %+v", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	const secret = "hunter2"
	for _, tc := range []struct{ url, want string }{
		{"", "scheme"},
		{"http://relay.example.com", "scheme"},
		{"relay.example.com:587", "scheme"},
		{"smtp://", "host is missing"},
		{"smtp:relay.example.com", "host is missing"},
		{"smtp://u:hunter2@relay.example.com:99999", "port"},
		{"smtp://u:hunter2@relay.example.com:0", "port"},
		{"smtp://u:hunter2@relay.example.com:abc", "cannot be parsed"},
		{"smtp://u:hunter2", "cannot be parsed"}, // the host was forgotten
		{"smtp://:hunter2@", "host is missing"},
		{"smtp://u:x@y?hunter2@relay.example.com", "percent-encoded"},
		{"smtp://u:hunter2%zz@relay.example.com", "cannot be parsed"},
		{"smtp://u:hunter2@relay.example.com/path", "nothing after the host"},
		{"smtp://relay.example.com#x", "nothing after the host"},
		{"smtp://relay.example.com?colour=blue", `unknown parameter "colour"`},
		{"smtp://relay.example.com?conns=0", "conns: must be a whole number"},
		{"smtp://relay.example.com?conns=2&conns=3", "conns must be given once"},
		{"smtp://relay.example.com?conns=", "conns must be given once"},
		{"smtp://relay.example.com?rate=NaN", "rate: must be"},
		{"smtp://relay.example.com?rate=-1", "rate: must be"},
		{"smtp://relay.example.com?rate=1/y", "rate: must be"},
		{"smtp://relay.example.com?idle=5", "idle: must be a duration"},
		{"smtp://relay.example.com?local=here", "local: must be an IP"},
		{"smtp://relay.example.com?clear-auth=maybe", "clear-auth: must be"},
		{"smtp://relay.example.com?tls=yes", "tls must be"},
		{"smtps://relay.example.com?tls=none", "smtps means implicit TLS"},
		{"smtp://relay.example.com?ca=/does/not/exist", "ca:"},
		{"smtp://relay.example.com?ca=url_test.go", "holds no PEM"},
		{"smtp://relay.example.com?cert=url_test.go", "both cert and key"},
		{"smtp://relay.example.com?cert=url_test.go&key=url_test.go", "cert:"},
		{"smtp://relay.example.com?provider=acme", "unknown provider"},
		{"smtp://relay.example.com?auth=plain", "auth needs a user"},
		{"smtp://u:hunter2@relay.example.com?tls=none", "not sent in clear"},
		{"smtp://user@relay.example.com", "no password"},
		{"smtp://user:@relay.example.com?auth=login", "no password"},
		{"smtp://user@relay.example.com?auth=xoauth2", "no password"},
		{"smtp://::1", "in brackets"},
		{"smtp://a%20b.example.com", "cannot be parsed"},
		{"smtp://a$b.example.com", "the character '$'"},
		{"smtp://relay.example.com?without=chunking,starttls", "STARTTLS"},
		{"smtp://u:hunter2@relay.example.com?without=auth", "AUTH"},
		{"smtp://relay.example.com?without=a%20b", "no name of an extension"},
		{"smtp://relay.example.com?without=size,", "no name of an extension"},
		{"smtp://relay.example.com?ehlo=localhost", "localhost"},
		{"smtp://relay.example.com?ehlo=myhost", "not fully qualified"},
		{"smtp://relay.example.com?ehlo=my_host.example.com", "underscore"},
		{"smtp://relay.example.com?ehlo=host.example.com.", "end in a dot"},
		{"smtp://relay.example.com?ehlo=a%0d%0aRSET.example.com", "EHLO name"},
		{"smtp://relay.example.com?ehlo=192.0.2.1", "literal"},
		{"smtp://relay.example.com?ehlo=[300.0.2.1]", "literal"},
	} {
		client, err := smtpx.Open(tc.url)
		if err == nil {
			t.Errorf("Open(%q) made %v, want an error about %q", tc.url, client, tc.want)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Open(%q): %v, want %q in it", tc.url, err, tc.want)
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("Open(%q) tells the password: %v", tc.url, err)
		}
		if strings.ContainsAny(err.Error(), "\r\n") {
			t.Errorf("Open(%q): error of several lines: %q", tc.url, err)
		}
	}
}

func TestOpenChoosesPortAndMode(t *testing.T) {
	for _, tc := range []struct{ url, want string }{
		{"smtp://relay.example.com", "smtp://relay.example.com:587"},
		{"smtps://relay.example.com", "smtps://relay.example.com:465"},
		{"smtp://relay.example.com:465", "smtps://relay.example.com:465"},
		{"smtp://relay.example.com:465?tls=starttls", "smtp://relay.example.com:465"},
		{"smtps://relay.example.com:2465?tls=required", "smtps://relay.example.com:2465"},
		{"smtp://user:pass@relay.example.com?tls=implicit", "smtps://user@relay.example.com:465"},
		{"smtp://localhost:25?tls=none&ehlo=localhost", "smtp://localhost:25?ehlo=localhost&tls=none"},
		{"smtp://relay.bücher.example", "smtp://relay.xn--bcher-kva.example:587"},
		{"smtp://[::1]:25?ehlo=[IPv6:2001:db8::1]", "smtp://[::1]:25?ehlo=%5BIPv6%3A2001%3Adb8%3A%3A1%5D"},
	} {
		client, err := smtpx.Open(tc.url)
		if err != nil {
			t.Errorf("Open(%q): %v", tc.url, err)
			continue
		}
		if got := client.String(); got != tc.want {
			t.Errorf("Open(%q) is %s, want %s", tc.url, got, tc.want)
		}
	}
}

func TestOpenAppliesOptionsAfterURL(t *testing.T) {
	base := &tls.Config{NextProtos: []string{"smtp"}, MinVersion: tls.VersionTLS10}
	if _, err := smtpx.Open("smtp://user@relay.example.com", smtpx.Password("p"), smtpx.TLSConfig(base)); err != nil {
		t.Fatal(err)
	}
	if base.MinVersion != tls.VersionTLS10 || len(base.NextProtos) != 1 {
		t.Error("the caller's TLS configuration was changed")
	}
	if _, err := smtpx.Open("smtp://relay.example.com", smtpx.Password("p")); err == nil {
		t.Error("a password without a user was accepted")
	}
}

// The profile of a provider completes what a URL leaves out.
func TestProfileChoosesPortAndMode(t *testing.T) {
	for raw, want := range map[string]string{
		"smtp://email-smtp.eu-west-1.amazonaws.com:2465": "smtps://email-smtp.eu-west-1.amazonaws.com:2465",
		"smtp://smtp.resend.com:2465":                    "smtps://smtp.resend.com:2465",
		"smtp://smtpdm.aliyun.com":                       "smtps://smtpdm.aliyun.com:465",
		"smtp://contoso-com.mail.protection.outlook.com": "smtp://contoso-com.mail.protection.outlook.com:25",
		"smtp://mailpit?tls=none":                        "smtp://mailpit:1025?tls=none",
		"smtp://relay.example.com?provider=163":          "smtps://relay.example.com:465?provider=163",
		"smtp://smtp.office365.com":                      "smtp://smtp.office365.com:587",
		"smtp://smtpdm.aliyun.com:587?tls=starttls":      "smtp://smtpdm.aliyun.com:587",
		"smtps://smtp.gmail.com":                         "smtps://smtp.gmail.com:465",
	} {
		if got := open(t, raw, func(c *smtpx.Config) { c.EHLO = "" }).String(); got != want {
			t.Errorf("%s is %s, want %s", raw, got, want)
		}
	}
}

// A relay that wants a real EHLO name does not hear an address.
func TestStrictEHLO(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{})
	client, err := smtpx.Open(srv.URL("provider=gmail-relay", "ehlo=[127.0.0.1]"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, err = client.Probe(testContext(t))
	if e := asError(t, err, smtpx.StageEHLO, smtpx.ClassConfig); !strings.Contains(e.Hint, "ehlo=") || e.Reply.Code != 0 {
		t.Errorf("%v, hint %q", e, e.Hint)
	}
}
