package smtpx_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// writeAt writes a file with a given modification time, so a coarse clock does not hide the change.
func writeAt(t *testing.T, path string, data []byte, changed time.Time) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, changed, changed); err != nil {
		t.Fatal(err)
	}
}

func TestFileOfAuthoritiesIsReadAgain(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{})
	file := filepath.Join(t.TempDir(), "ca.pem")
	now := time.Now()
	writeAt(t, file, otherAuthority, now)
	client := open(t, "smtp://"+srv.Addr()+"?ca="+file)
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageTLS, smtpx.ClassConfig)
	writeAt(t, file, srv.CAPEM(), now.Add(time.Second))
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Fatalf("with the right authority: %v", err)
	}
	writeAt(t, file, []byte("nonsense"), now.Add(2*time.Second))
	for range 3 { // and not only once
		_, err = client.Probe(testContext(t))
		if e := asError(t, err, smtpx.StageTLS, smtpx.ClassConfig); !strings.Contains(e.Error(), "holds no PEM") {
			t.Errorf("error %v", e)
		}
	}
	writeAt(t, file, srv.CAPEM(), now.Add(3*time.Second))
	if _, err := client.Probe(testContext(t)); err != nil {
		t.Errorf("with the right authority again: %v", err)
	}
	// A session that the server would resume is no way past the new authorities.
	writeAt(t, file, otherAuthority, now.Add(4*time.Second))
	_, err = client.Probe(testContext(t))
	wantError(t, err, smtpx.StageTLS, smtpx.ClassConfig)
}

func TestClientCertificate(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{TLS: smtptest.ImplicitTLS, ClientCertificates: true})
	_, err := open(t, srv.URL()).Send(testContext(t), envelope("b@example.net"), message("x"))
	if err == nil {
		t.Fatal("a client without a certificate got through")
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	issue := func(changed time.Time) {
		chain, _ := smtptest.Certificate(t, "client.example.com")
		for i, file := range []string{key, cert} {
			var b bytes.Buffer
			if err := pem.Encode(&b, chain[i]); err != nil {
				t.Fatal(err)
			}
			writeAt(t, file, b.Bytes(), changed)
		}
	}
	now := time.Now()
	issue(now)
	client := open(t, srv.URL("cert="+cert, "key="+key, "messages=1"))
	for n := range 3 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		issue(now.Add(time.Duration(n+1) * time.Second)) // renewed under way
	}
}

// otherAuthority is an authority that signed nothing in these tests.
var otherAuthority = []byte(`-----BEGIN CERTIFICATE-----
MIIBjzCCATWgAwIBAgIUUZ+czgQnMyHi7ov6D0T3AAMkHhAwCgYIKoZIzj0EAwIw
HDEaMBgGA1UEAwwRYW5vdGhlciBhdXRob3JpdHkwIBcNMjYxMTIwMjEyMjQwWhgP
MjEyNjEwMjcyMTIyNDBaMBwxGjAYBgNVBAMMEWFub3RoZXIgYXV0aG9yaXR5MFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAES55qglIBgFTVtG4+U7ytGr0kJIjLLhxn
WMub892cdpwHpE0yS9LZnqkodPOJPh38Vkl4QumxYMLaFXD7GHuIdqNTMFEwHQYD
VR0OBBYEFD+SGrLN8u4rPCtFq2rGXi4fnaSpMB8GA1UdIwQYMBaAFD+SGrLN8u4r
PCtFq2rGXi4fnaSpMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIg
fDz62d6cN3pz4r6QzJxWb3kYI95XRGOb+Ha6VRH+LKcCIQCP5XBjMtZTEdsOx+Sx
QS1cFDCXKvkMKBFxiI70fAQlSg==
-----END CERTIFICATE-----
`)

// An alert of the server is a fault that an operator must mend, and the hint says where. An end without an alert may be an
// outage.
func TestAlertsOfTheServer(t *testing.T) {
	chain, pem := smtptest.Certificate(t, "127.0.0.1")
	authority := x509.NewCertPool()
	authority.AppendCertsFromPEM(pem)
	var own tls.Certificate
	for _, block := range chain {
		if block.Type == "CERTIFICATE" {
			own.Certificate = append(own.Certificate, block.Bytes)
			continue
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		own.PrivateKey = key
	}
	for name, tc := range map[string]struct {
		config func(*tls.Config)
		drop   bool
		class  smtpx.Class
		hint   string
	}{
		"old version":                    {config: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }, class: smtpx.ClassConfig, hint: "versions from 1.2"},
		"client certificate, TLS 1.2":    {config: func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequireAnyClientCert, tls.VersionTLS12 }, class: smtpx.ClassConfig, hint: "cert= and key="},
		"client certificate, TLS 1.3":    {config: func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, class: smtpx.ClassConfig, hint: "cert= and key="},
		"end of stream in the handshake": {drop: true, class: smtpx.ClassUnreachable, hint: "versions from 1.2"},
	} {
		t.Run(name, func(t *testing.T) {
			addr := script(t, func(c net.Conn, r *bufio.Reader, _ int) {
				if tc.drop {
					_, _ = r.Peek(1)
					return
				}
				config := &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS10}
				tc.config(config)
				s := tls.Server(c, config)
				if s.Handshake() != nil {
					return
				}
				say(s, "220 x")
				_, _ = r.Peek(1)
			})
			client := open(t, "smtps://"+addr, smtpx.RootCAs(authority))
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			var e *smtpx.Error
			if !errors.As(err, &e) || e.Class != tc.class || !strings.Contains(e.Hint, tc.hint) {
				t.Fatalf("%v, want class %s; hint %q", err, tc.class, e.Hint)
			}
			if text := err.Error(); strings.Count(text, "tls:") > 1 || strings.Contains(text, "EOF") {
				t.Errorf("words: %s", text)
			}
		})
	}
}
