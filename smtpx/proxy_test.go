package smtpx_test

import (
	"bufio"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

const proxyUser, proxyPassword = "pr0xy user", "p:r0xy/s3cret@c4nary"

// testProxy is a proxy for tests. It leads every connection to target and notes the addresses that were asked for.
type testProxy struct {
	target string
	login  bool
	answer string // instead of a connection

	mu    sync.Mutex
	asked []string
}

func (p *testProxy) note(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, address)
}

// relay joins a connection to the target. first was read from the client already.
func (p *testProxy) relay(c net.Conn, first io.Reader) {
	up, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(up, first)
		_ = up.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(c, up)
}

// socks5 speaks RFC 1928 and RFC 1929.
func (p *testProxy) socks5(c net.Conn, r *bufio.Reader, _ int) {
	head := make([]byte, 2)
	if _, err := io.ReadFull(r, head); err != nil {
		return
	}
	methods := make([]byte, head[1])
	_, _ = io.ReadFull(r, methods)
	text := func() string {
		n, _ := r.ReadByte()
		b := make([]byte, n)
		_, _ = io.ReadFull(r, b)
		return string(b)
	}
	if p.login {
		if !strings.Contains(string(methods), "\x02") {
			_, _ = c.Write([]byte{5, 0xff})
			return
		}
		_, _ = c.Write([]byte{5, 2})
		_, _ = r.ReadByte()
		if user, password := text(), text(); user != proxyUser || password != proxyPassword {
			_, _ = c.Write([]byte{1, 1})
			return
		}
		_, _ = c.Write([]byte{1, 0})
	} else {
		_, _ = c.Write([]byte{5, 0})
	}
	request := make([]byte, 4)
	_, _ = io.ReadFull(r, request)
	host := ""
	switch request[3] {
	case 1:
		b := make([]byte, 4)
		_, _ = io.ReadFull(r, b)
		host = net.IP(b).String()
	case 3:
		host = text()
	}
	var port uint16
	_ = binary.Read(r, binary.BigEndian, &port)
	p.note(net.JoinHostPort(host, strconv.Itoa(int(port))))
	if p.answer != "" {
		_, _ = c.Write([]byte(p.answer))
		return
	}
	_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	p.relay(c, r)
}

// connect speaks HTTP.
func (p *testProxy) connect(c net.Conn, r *bufio.Reader, _ int) {
	req, err := http.ReadRequest(r)
	if err != nil || req.Method != http.MethodConnect {
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(proxyUser+":"+proxyPassword))
	p.note(req.Host)
	switch {
	case p.login && req.Header.Get("Proxy-Authorization") != want:
		say(c, "HTTP/1.1 407 Authentication required for "+req.Header.Get("Proxy-Authorization"), "Proxy-Authenticate: Basic", "")
		return
	case p.answer != "":
		_, _ = io.WriteString(c, p.answer)
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
	p.relay(c, r)
}

func (p *testProxy) start(t *testing.T, scheme string) (addr string) {
	t.Helper()
	if scheme == "socks5" {
		return script(t, p.socks5)
	}
	return script(t, p.connect)
}

// A message goes through a proxy, with TLS that is verified for the relay's name. The proxy resolves the name.
func TestProxy(t *testing.T) {
	for _, scheme := range []string{"socks5", "http"} {
		for _, login := range []bool{false, true} {
			for _, mode := range []smtptest.TLSMode{smtptest.StartTLS, smtptest.ImplicitTLS} {
				srv := smtptest.New(t, smtptest.Config{TLS: mode, User: "app", Password: "s3cret"})
				u, err := url.Parse(srv.URL())
				if err != nil {
					t.Fatal(err)
				}
				p := &testProxy{target: u.Host, login: login}
				proxy := url.URL{Scheme: scheme, Host: p.start(t, scheme)}
				if login {
					proxy.User = url.UserPassword(proxyUser, proxyPassword)
				}
				ca := u.Query().Get("ca")
				scheme := "smtp"
				if mode == smtptest.ImplicitTLS {
					scheme = "smtps"
				}
				open := func(host string) *smtpx.Client {
					return open(t, scheme+"://app:s3cret@"+host+"?ca="+url.QueryEscape(ca)+"&proxy="+url.QueryEscape(proxy.String()))
				}
				client := open("relay.test:2525")
				if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
					t.Fatalf("%s: %v", proxy.Redacted(), err)
				}
				if p.asked[0] != "relay.test:2525" {
					t.Errorf("asked for %v", p.asked)
				}
				if s := client.String(); strings.Contains(s, "c4nary") {
					t.Errorf("shown as %s", s)
				}
				_, err = open("other.test:2525").Probe(testContext(t))
				wantError(t, err, smtpx.StageTLS, smtpx.ClassConfig)
			}
		}
	}
}

func TestProxyFails(t *testing.T) {
	for _, tc := range []struct {
		scheme, answer string
		login          bool
		class          smtpx.Class
		text           string
	}{
		{"http", "", true, "config", "407"},
		{"http", "HTTP/1.1 403 Forbidden port\r\n\r\n", false, "config", "403 Forbidden port"},
		{"http", "HTTP/1.1 503 no route\x1b[2J\r\n\r\n", false, "unreachable", "503 no route"},
		{"http", "220 mail.example.com ESMTP\r\n\r\n", false, "unreachable", "not HTTP"},
		{"http", "HTTP/1.1 200 ok\r\n" + strings.Repeat("X: y\r\n", 4000), false, "unreachable", "no end"},
		{"http", "HTTP/1.1 200 ok\r\n", false, "unreachable", "closed the connection"},
		{"socks5", "", true, "config", "authentication"},
		{"socks5", "\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00", false, "config", "not allowed"},
		{"socks5", "\x05\x04\x00\x01\x00\x00\x00\x00\x00\x00", false, "unreachable", "host unreachable"},
		{"socks5", "HTTP/1.1 400\r\n", false, "unreachable", "SOCKS5"},
	} {
		p := &testProxy{answer: tc.answer, login: tc.login}
		proxy := url.URL{Scheme: tc.scheme, Host: p.start(t, tc.scheme), User: url.UserPassword("u", "wr0ng-c4nary")}
		client := open(t, "smtp://relay.test:2525?proxy="+url.QueryEscape(proxy.String()))
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		e := asError(t, err, smtpx.StageDial, tc.class)
		if text := e.Error(); !strings.Contains(text, tc.text) || strings.Contains(text, "c4nary") || strings.Contains(text, "\x1b") ||
			strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("u:wr0ng"))[:8]) || (e.Hint == "") != (tc.class != "config") {
			t.Errorf("%+v: %v, hint %q", tc, e, e.Hint)
		}
	}
	client := open(t, "smtp://relay.test:2525?proxy=http://127.0.0.1:"+freePort(t))
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageDial, smtpx.ClassUnreachable)
}

// A proxy that never answers is given up after the limit of the dial.
func TestProxyIsBounded(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	addr := script(t, func(net.Conn, *bufio.Reader, int) { <-hang })
	for _, scheme := range []string{"http", "https", "socks5"} {
		client := open(t, "smtp://relay.test:2525?proxy="+scheme+"://"+addr, func(c *smtpx.Config) { c.Timeouts.Dial = 50 * time.Millisecond })
		start := time.Now()
		_, err := client.Probe(testContext(t))
		wantError(t, err, smtpx.StageDial, smtpx.ClassUnreachable)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: %v", scheme, took)
		}
	}
}

func TestUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "smtpx") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, mode := range []smtptest.TLSMode{smtptest.NoTLS, smtptest.StartTLS} {
		srv := smtptest.New(t, smtptest.Config{TLS: mode, User: "app", Password: "s3cret", Hostname: "localhost"})
		path := filepath.Join(dir, string(mode))
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		u, err := url.Parse(srv.URL())
		if err != nil {
			t.Fatal(err)
		}
		p := &testProxy{target: u.Host}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); p.relay(c, c) }()
			}
		}()
		params := ""
		if mode == smtptest.StartTLS {
			params = "?tls=starttls&ca=" + url.QueryEscape(u.Query().Get("ca"))
		}
		client, err := smtpx.Open("smtp+unix://app:s3cret@" + path + params)
		if err != nil {
			t.Fatal(err)
		}
		result, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		if err != nil || result.Host != path || !strings.HasPrefix(client.String(), "smtp+unix://app@"+path) {
			t.Errorf("%s: %v, host %s", client, err, result.Host)
		}
		client.Close()
		if got := srv.Messages(); len(got) != 1 || (got[0].Session.TLS != "") != (mode == smtptest.StartTLS) {
			t.Errorf("%d messages", len(got))
		}
	}
	client := open(t, "smtp+unix://"+filepath.Join(dir, "nobody"))
	_, err = client.Send(testContext(t), envelope("b@example.net"), message("x"))
	wantError(t, err, smtpx.StageDial, smtpx.ClassUnreachable)
}

func TestOpenRefusesWays(t *testing.T) {
	for raw, want := range map[string]string{
		"smtp://h.example?proxy=ftp://p":                                                   "socks5, http or https",
		"smtp://h.example?proxy=p.example:1080":                                            "must be",
		"smtp://h.example?proxy=http://p.example/c4nary":                                   "such as",
		"smtp://h.example?proxy=http://:c4nary@p.example":                                  "cannot be sent",
		"smtp://h.example?proxy=http://a%250d:c4nary@p.example":                            "cannot be sent",
		"smtp://h.example?proxy=http://a%253a:c4nary@p.example":                            "cannot be sent",
		"smtp://h.example?proxy=socks5://a@p.example":                                      "no password",
		"smtp://h.example?proxy=socks5://a:" + strings.Repeat("c4nary", 50) + "@p.example": "255",
		"smtp+unix://host/run/x":                                                           "wants the path",
		"smtp+unix:run/x":                                                                  "wants the path",
		"smtp+unix:///":                                                                    "wants the path",
		"smtp+unix:///run/x?proxy=http://p.example":                                        "no proxy",
		"smtp+unix:///run/x?local=127.0.0.1":                                               "no local",
		"smtp://u:p@127.0.0.1?tls=none&proxy=http://p.example":                             "not sent in clear",
	} {
		client, err := smtpx.Open(raw)
		if err == nil {
			t.Errorf("%s makes %v", raw, client)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "c4nary") {
			t.Errorf("%s: %v, want %q", raw, err, want)
		}
	}
}

// A file of authorities is read whole or not at all, whatever stands before its first certificate.
func TestFilesOfCertificates(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{TLS: smtptest.ImplicitTLS, ClientCertificates: true})
	_, other := smtptest.Certificate(t, "other.example.com")
	u, err := url.Parse(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.ReadFile(u.Query().Get("ca"))
	if err != nil {
		t.Fatal(err)
	}
	chain, _ := smtptest.Certificate(t, "client.example.com")
	dir := t.TempDir()
	write := func(name string, parts ...string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.Join(parts, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const mark = "\xef\xbb\xbf"
	cert := write("cert", mark, string(pem.EncodeToMemory(chain[1])))
	key := write("key", mark, string(pem.EncodeToMemory(chain[0])))
	pair := "&cert=" + url.QueryEscape(cert) + "&key=" + url.QueryEscape(key)
	for name, text := range map[string]string{
		"own": string(own), "behind a mark": mark + string(own), "with other text": "# ours\r\n" + string(own), "first of two": mark + string(own) + string(other),
		"Windows": mark + strings.ReplaceAll(string(own), "\n", "\r\n"),
	} {
		client := open(t, "smtps://"+u.Host+"?ca="+url.QueryEscape(write("ca", text))+pair)
		if _, err := client.Probe(testContext(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	half := string(own[:len(own)/2])
	for name, text := range map[string]string{
		"cut": string(other) + half, "cut first": half + "\n" + string(other), "broken": strings.Replace(string(own), "M", "!", 1) + string(other),
		"no certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "empty": "", "UTF-16": "\xff\xfe-\x00-\x00",
	} {
		if client, err := smtpx.Open("smtps://" + u.Host + "?ca=" + url.QueryEscape(write("bad", text))); err == nil {
			t.Errorf("%s: %v was opened", name, client)
		}
	}
	// A file that breaks says so each time, and works again when it is mended.
	file := write("changes", string(own))
	client := open(t, "smtps://"+u.Host+"?ca="+url.QueryEscape(file)+pair)
	for i, text := range []string{string(own), half, half, string(own)} {
		write("changes", text)
		changed := time.Now().Add(time.Duration(i) * time.Second)
		if err := os.Chtimes(file, changed, changed); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err := client.Probe(testContext(t))
			if good := len(text) == len(own); good && err != nil || !good && err == nil {
				t.Errorf("%d: %v", i, err)
			} else if !good {
				wantError(t, err, smtpx.StageTLS, smtpx.ClassConfig)
			}
		}
	}
}
