package smtpx_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// identityProvider is a token endpoint. answer gets the form of each request and its number, from 1.
type identityProvider struct {
	answer func(n int, form url.Values, r *http.Request) (status int, body string)

	mu    sync.Mutex
	forms []url.Values
}

func (p *identityProvider) start(t *testing.T) (endpoint string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		p.forms = append(p.forms, r.PostForm)
		n := len(p.forms)
		p.mu.Unlock()
		status, body := p.answer(n, r.PostForm, r)
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/token"
}

func (p *identityProvider) requests() []url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forms
}

// tokenRelay is a server that takes one token.
func tokenRelay(t *testing.T, token string) *smtptest.Server {
	t.Helper()
	return smtptest.New(t, smtptest.Config{User: "app", Password: token, Mechanisms: []string{"XOAUTH2", "OAUTHBEARER"}})
}

const goodToken = `{"access_token":"t0ken-one","token_type":"Bearer","expires_in":3600}`

func TestGrants(t *testing.T) {
	for _, tc := range []struct {
		name   string
		params []string
		want   map[string]string
	}{
		{"client credentials", []string{"client-id=id", "client-secret=s3cret%2B", "scope=a+b"},
			map[string]string{"grant_type": "client_credentials", "client_id": "id", "client_secret": "s3cret+", "scope": "a b"}},
		{"client credentials, scope of the profile", []string{"client-id=id", "client-secret=x", "provider=m365", "tenant=contoso.com"},
			map[string]string{"grant_type": "client_credentials", "scope": "https://outlook.office365.com/.default"}},
		{"refresh token", []string{"client-id=id", "client-secret=x", "refresh-token=r3fresh", "provider=gmail"},
			map[string]string{"grant_type": "refresh_token", "refresh_token": "r3fresh", "client_secret": "x", "scope": ""}},
		{"refresh token of a public client", []string{"client-id=id", "refresh-token=r3fresh", "scope=mail"},
			map[string]string{"grant_type": "refresh_token", "client_id": "id", "client_secret": "", "scope": "mail"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &identityProvider{answer: func(int, url.Values, *http.Request) (int, string) { return 200, goodToken }}
			params := slices.Concat(tc.params, []string{"token-url=" + url.QueryEscape(p.start(t)), "conns=1"})
			client := open(t, tokenRelay(t, "t0ken-one").URLFor("app", "", params...))
			for range 3 {
				if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := client.Probe(testContext(t)); err != nil {
				t.Error(err)
			}
			forms := p.requests()
			if len(forms) != 1 {
				t.Fatalf("%d requests for two connections", len(forms))
			}
			for name, want := range tc.want {
				if got := forms[0].Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
}

// serviceAccount writes a key file whose token_uri is the endpoint.
func serviceAccount(t *testing.T, endpoint string) (file string, key *rsa.PrivateKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "robot@project.iam.example.com", "private_key_id": "k1", "token_uri": endpoint,
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(file, append([]byte("\xef\xbb\xbf"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, key
}

func TestServiceAccount(t *testing.T) {
	p := &identityProvider{answer: func(int, url.Values, *http.Request) (int, string) { return 200, goodToken }}
	endpoint := p.start(t)
	file, key := serviceAccount(t, endpoint)
	client := open(t, tokenRelay(t, "t0ken-one").URLFor("app", "", "provider=workspace", "service-account="+url.QueryEscape(file)))
	if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
		t.Fatal(err)
	}
	form := p.requests()[0]
	parts := strings.Split(form.Get("assertion"), ".")
	if form.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || len(parts) != 3 {
		t.Fatalf("form %v", form)
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	signature, _ := base64.RawURLEncoding.DecodeString(parts[2])
	if err := rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest[:], signature); err != nil {
		t.Error(err)
	}
	var claims struct {
		Iss   string `json:"iss"`
		Sub   string `json:"sub"`
		Scope string `json:"scope"`
		Aud   string `json:"aud"`
		Iat   int64  `json:"iat"`
		Exp   int64  `json:"exp"`
	}
	data, _ := base64.RawURLEncoding.DecodeString(parts[1])
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	life := time.Duration(claims.Exp-claims.Iat) * time.Second
	if claims.Iss != "robot@project.iam.example.com" || claims.Sub != "app" || claims.Scope != "https://mail.google.com/" || claims.Aud != endpoint ||
		life <= 0 || life > time.Hour || time.Since(time.Unix(claims.Iat, 0)).Abs() > time.Minute {
		t.Errorf("claims %s", data)
	}
}

// What an identity provider refuses is config. What ends by itself is unreachable. Neither shows a secret.
func TestTokenEndpointFails(t *testing.T) {
	const secret = "cl13nt-s3cret-c4nary"
	for _, tc := range []struct {
		name, body string
		status     int
		class      smtpx.Class
		text       string
	}{
		{"wrong secret", `{"error":"invalid_client","error_description":"AADSTS7000215: Invalid client secret provided: ` + secret + `"}`, 401, "config", "AADSTS7000215"},
		{"no consent", `{"error":"invalid_grant","error_description":"line\r\nsecond line"}`, 400, "config", "invalid_grant"},
		{"refused with 200", `{"error":"access_denied"}`, 200, "config", "access_denied"},
		{"wrong URL", "<html>" + secret, 404, "config", "404"},
		{"outage", "", 503, "unreachable", "503"},
		{"outage that has a name", `{"error":"temporarily_unavailable"}`, 400, "unreachable", "temporarily_unavailable"},
		{"too many requests", `{"error":"too_many"}`, 429, "unreachable", "429"},
		{"a proxy", "<html>", 403, "unreachable", "403"},
		{"a redirect", "", 302, "unreachable", "302"},
		{"no token", `{"token_type":"Bearer"}`, 200, "unreachable", "no token"},
		{"no JSON", "<html>" + secret, 200, "unreachable", "no token"},
		{"larger than a token", `{"access_token":"` + strings.Repeat("x", 70<<10) + `"}`, 200, "unreachable", "no token"},
		{"control characters", `{"access_token":"a\u0001b"}`, 200, "unreachable", "control characters"},
		{"the secret as a name", `{"error":"` + secret + `"}`, 400, "config", "400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &identityProvider{answer: func(int, url.Values, *http.Request) (int, string) { return tc.status, tc.body }}
			srv := tokenRelay(t, "x")
			client := open(t, srv.URLFor("app", "", "client-id=id", "client-secret="+secret, "scope=s", "token-url="+url.QueryEscape(p.start(t))))
			_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
			e := asError(t, err, smtpx.StageAuth, tc.class)
			if !strings.Contains(e.Error(), tc.text) || strings.Contains(e.Error(), secret[:8]) || strings.Contains(e.Error(), "second line") || e.Hint == "" {
				t.Errorf("error %v, hint %q", e, e.Hint)
			}
			if s := fmt.Sprintf("%v %+v %v", client, client, srv.Count()); strings.Contains(s, secret[:8]) {
				t.Errorf("shown as %s", s)
			}
		})
	}
	t.Run("nothing listens", func(t *testing.T) {
		client := open(t, tokenRelay(t, "x").URLFor("app", "", "client-id=id", "client-secret="+secret, "scope=s",
			"token-url="+url.QueryEscape("http://127.0.0.1:"+freePort(t)+"/token")))
		_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		wantError(t, err, smtpx.StageAuth, smtpx.ClassUnreachable)
	})
}

func TestTokenEndpointAsksToWait(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	defer srv.Close()
	client := open(t, tokenRelay(t, "x").URLFor("app", "", "client-id=id", "client-secret=s", "scope=s", "token-url="+url.QueryEscape(srv.URL)))
	_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
	if e := asError(t, err, smtpx.StageAuth, smtpx.ClassUnreachable); e.RetryAfter != 2*time.Minute {
		t.Errorf("wait %v", e.RetryAfter)
	}
}

// A token that the relay refuses is fetched anew although it is in the cache.
func TestRefusedTokenIsFetchedAnew(t *testing.T) {
	p := &identityProvider{answer: func(n int, _ url.Values, _ *http.Request) (int, string) {
		return 200, fmt.Sprintf(`{"access_token":"token-%d","expires_in":"3600"}`, n)
	}}
	client := open(t, tokenRelay(t, "token-2").URLFor("app", "", "client-id=id", "client-secret=s", "scope=s", "token-url="+url.QueryEscape(p.start(t))))
	for range 2 {
		if _, err := client.Probe(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.requests()); n != 2 {
		t.Errorf("%d requests", n)
	}
}

// An endpoint that wants the secret in the Authorization header gets it there.
func TestClientInTheHeader(t *testing.T) {
	p := &identityProvider{answer: func(_ int, form url.Values, r *http.Request) (int, string) {
		if id, secret, ok := r.BasicAuth(); !ok || id != "id" || secret != "a%2Fb" || form.Has("client_secret") {
			return 401, `{"error":"invalid_client"}`
		}
		return 200, goodToken
	}}
	client := open(t, tokenRelay(t, "t0ken-one").URLFor("app", "", "client-id=id", "client-secret=a/b", "scope=s", "token-url="+url.QueryEscape(p.start(t))))
	if _, err := client.Probe(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// A refresh token that is replaced is used and told. A new one in the file goes before it.
func TestRefreshTokenRotates(t *testing.T) {
	file := filepath.Join(t.TempDir(), "refresh")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\xef\xbb\xbfr1\n")
	p := &identityProvider{answer: func(n int, _ url.Values, _ *http.Request) (int, string) {
		return 200, fmt.Sprintf(`{"access_token":"t0ken-one","expires_in":0,"refresh_token":"r%d"}`, n+1)
	}}
	var told []string
	client := open(t, tokenRelay(t, "t0ken-one").URLFor("app", "", "client-id=id", "refresh-token-file="+url.QueryEscape(file),
		"token-url="+url.QueryEscape(p.start(t))), func(c *smtpx.Config) {
		c.OAuth2.Rotated = func(token string) { told = append(told, token) }
	})
	for i := range 3 {
		if i == 2 {
			write("new\n")
		}
		if _, err := client.Probe(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	var used []string
	for _, form := range p.requests() {
		used = append(used, form.Get("refresh_token"))
	}
	if strings.Join(used, " ") != "r1 r2 new" || strings.Join(told, " ") != "r2 r3 r4" {
		t.Errorf("used %v, told %v", used, told)
	}
}

func TestTokenCommand(t *testing.T) {
	count := filepath.Join(t.TempDir(), "count")
	for name, tc := range map[string]struct {
		command string
		class   smtpx.Class
		text    string
		runs    int
	}{
		"a word":         {command: "echo t0ken-one", runs: 1},
		"JSON":           {command: `echo '{"access_token": "t0ken-one", "expires_in": 3600}'`, runs: 1},
		"JSON of az":     {command: `echo '{"accessToken": "t0ken-one", "expiresOn": "2026-11-27 15:00:00.000000"}'`, runs: 1},
		"no life":        {command: `echo '{"token": "t0ken-one", "expires_on": 1}'`, runs: 2},
		"not for now":    {command: "echo try later >&2; exit 1", class: smtpx.ClassUnreachable, text: "exit status 1: try later"},
		"not configured": {command: "exit 78", class: smtpx.ClassConfig, text: "exit status 78"},
		"not found":      {command: "no-such-program-here", class: smtpx.ClassConfig, text: "127"},
		"secret words":   {command: "echo password=hunter2 t0ken-one-c4nary-t0ken-one-c4nary >&2; exit 1", class: smtpx.ClassUnreachable, text: "password=*** ***"},
		"nothing":        {command: "true", class: smtpx.ClassUnreachable, text: "no output"},
		"two words":      {command: "echo t0ken-one c4nary", class: smtpx.ClassUnreachable, text: "more than one word"},
		"broken JSON":    {command: "echo '{c4nary'", class: smtpx.ClassUnreachable, text: "neither"},
		"no end":         {command: "yes t0ken-one-c4nary | head -c 100000", class: smtpx.ClassUnreachable, text: "larger"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(count)
			client := open(t, tokenRelay(t, "t0ken-one").URLFor("app", "", "token-command="+url.QueryEscape("echo >>"+count+"; "+tc.command)))
			_, err := client.Probe(testContext(t))
			if tc.class != "" {
				e := asError(t, err, smtpx.StageAuth, tc.class)
				if text := e.Error(); !strings.Contains(text, tc.text) || strings.Contains(text, "c4nary") || strings.Contains(text, "hunter2") {
					t.Errorf("error %v", e)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err = client.Probe(testContext(t)); err != nil {
				t.Fatal(err)
			}
			if runs, _ := os.ReadFile(count); len(runs) != tc.runs {
				t.Errorf("%d runs, want %d", len(runs), tc.runs)
			}
		})
	}
}

// A command that does not end, or leaves something behind that holds its output open, does not hold Send.
func TestTokenCommandIsBounded(t *testing.T) {
	for _, command := range []string{"sleep 20", "sleep 20 & echo t0ken-one; exit 1"} {
		client := open(t, tokenRelay(t, "t0ken-one").URLFor("app", ""), func(c *smtpx.Config) {
			c.TokenCommand, c.Timeouts.Token = command, 100*time.Millisecond
		})
		start := time.Now()
		_, err := client.Probe(testContext(t))
		wantError(t, err, smtpx.StageAuth, smtpx.ClassUnreachable)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s: %v", command, took)
		}
	}
}

// A source asks once for all who wait, and serves a token that is still good through an outage.
func TestTokensAreShared(t *testing.T) {
	ask := make(chan struct{})
	p := &identityProvider{answer: func(n int, _ url.Values, _ *http.Request) (int, string) {
		<-ask
		return 200, fmt.Sprintf(`{"access_token":"token-%d","expires_in":3600}`, n)
	}}
	client := open(t, tokenRelay(t, "x").URLFor("app", "", "client-id=id", "client-secret=s", "scope=s", "token-url="+url.QueryEscape(p.start(t))))
	source := smtpx.TokenOf(client)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if token, err := source(testContext(t), false); err != nil || token != "token-1" {
				t.Errorf("%q, %v", token, err)
			}
		})
	}
	close(ask)
	wg.Wait()
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := source(ctx, true); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context: %v", err)
	}
}

func TestOpenRefusesTokenSources(t *testing.T) {
	account, _ := serviceAccount(t, "http://idp.example.com/token")
	account = url.QueryEscape(account)
	for params, want := range map[string]string{
		"token-command=x&client-id=y":                                               "two sources",
		"client-id=y":                                                               "secret is missing",
		"client-secret=c4nary":                                                      "client-id is missing",
		"client-id=y&client-secret=c4nary":                                          "scope is missing",
		"client-id=y&client-secret=c4nary&scope=s":                                  "token-url is missing",
		"client-id=y&client-secret=c4nary&provider=m365":                            "tenant is missing",
		"client-id=y&client-secret=c4nary&provider=m365&tenant=../x":                "tenant must be",
		"client-id=y&client-secret=c4nary&client-secret-file=f&provider=gmail":      "both as a value and as a file",
		"client-id=y&refresh-token-file=/does/not/exist&provider=gmail":             "refresh-token-file",
		"client-id=y&client-secret-file=/dev/null&provider=gmail":                   "one line",
		"client-id=y&client-secret=c&scope=s&token-url=http://idp.example.com":      "https://",
		"client-id=y&client-secret=c&scope=s&token-url=https://a:b@idp.example.com": "without a user",
		"client-id=y&client-secret=c&scope=s&token-url=x":                           "https",
		"service-account=" + account:                                                "scope is missing",
		"service-account=" + account + "&provider=gmail":                            "https://",
		"service-account=" + account + "&provider=gmail&client-id=x":                "no client",
		"service-account=oauth_test.go&provider=gmail":                              "not JSON",
		"service-account=../docs/providers.json&provider=gmail":                     "larger than any secret",
		"token-command=x&auth=plain":                                                "does not use a token",
	} {
		client, err := smtpx.Open("smtp://app@relay.example.com?" + params)
		if err == nil {
			t.Errorf("%s makes %v", params, client)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "c4nary") {
			t.Errorf("%s: %v, want %q", params, err, want)
		}
	}
	if _, err := smtpx.Open("smtp://relay.example.com?token-command=x"); err == nil || !strings.Contains(err.Error(), "needs a user") {
		t.Errorf("without a user: %v", err)
	}
}
