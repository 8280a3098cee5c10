package smtpx

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A token is replaced some minutes before its end. An outage before its end does no harm, a refusal is told at once.
func TestTokensAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fetched := 0
		var fail error
		c := newTokenCache(func(context.Context) (issued, error) {
			fetched++
			return issued{fmt.Sprint("token-", fetched), time.Hour}, fail
		})
		want := func(token string, err error, refresh bool) {
			t.Helper()
			if got, gotErr := c.get(t.Context(), refresh); got != token || !errors.Is(gotErr, err) {
				t.Errorf("%q, %v; want %q, %v", got, gotErr, token, err)
			}
		}
		outage := errors.New("outage")
		want("token-1", nil, false)
		time.Sleep(54 * time.Minute)
		want("token-1", nil, false)
		time.Sleep(2 * time.Minute)
		fail = outage
		want("token-1", nil, false)
		want("", outage, true) // the relay has refused it
		fail = ErrTokenRefused
		want("", ErrTokenRefused, false)
		fail = outage
		time.Sleep(5 * time.Minute)
		want("", outage, false)
		fail = nil
		want("token-6", nil, false)
		if fetched != 6 {
			t.Errorf("fetched %d times", fetched)
		}
	})
}

func TestEndOfJWT(t *testing.T) {
	jwt := func(claims string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
	}
	for token, want := range map[string]int64{
		jwt(`{"exp":1800000000}`): 1800000000, jwt(`{"exp":1800000000.5}`): 1800000000, jwt(`{"exp":"soon"}`): 0, jwt(`{}`): 0, jwt(`[`): 0,
		"a.b": 0, "a.!.c": 0, jwt(`{"exp":1e300}`): 0, jwt(`{"exp":-1}`): 0,
	} {
		if got, ok := endOfJWT(token); ok != (want > 0) || (ok && got != want) {
			t.Errorf("%s ends at %d, %v", token, got, ok)
		}
	}
}

// canaryForms are the forms in which a server or an identity provider may repeat a secret.
func canaryForms(secret, user string) []string {
	plain := "\x00" + user + "\x00" + secret
	bearer := "user=" + user + "\x01auth=Bearer " + secret + "\x01\x01"
	forms := []string{secret, strings.ToUpper(secret), url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), strings.ReplaceAll(secret, "", " ")[1 : 2*len(secret)]}
	for _, text := range []string{secret, plain, bearer} {
		forms = append(forms, base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text)))
	}
	return forms
}

// canaryLeak returns a part of a secret that a text holds in some form.
func canaryLeak(text, secret string) string {
	text = strings.ToLower(text)
	forms := []string{secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret))}
	for before := range 3 { // characters of base64 that hold bits of the secret only
		padded := append(make([]byte, before), secret...)
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			form := encoding.EncodeToString(padded)
			forms = append(forms, form[(before*8+5)/6:len(padded)*8/6])
		}
	}
	for _, form := range forms {
		form = strings.ToLower(form)
		const part = 12
		for at := 0; at+part <= len(form); at++ {
			if strings.Contains(text, form[at:at+part]) {
				return form[at : at+part]
			}
		}
	}
	return ""
}

const (
	canarySecret = "c4nary/s3cret+T0ken~Zx9Qw7"
	canaryUser   = "app"
)

// FuzzCanaries lets a server answer with the client's secret, in any form, wherever it wants. No part of it comes out of the client:
// in no error, result, observation or transcript. {0} to {9} in a script stand for the forms.
func FuzzCanaries(f *testing.F) {
	for _, s := range []string{
		"220 x\r\n|250-x\r\n250 AUTH PLAIN LOGIN XOAUTH2\r\n|535 5.7.8 {0} is wrong\r\n|535 {5}\r\n",
		"220 x\r\n|250-x\r\n250 AUTH LOGIN\r\n|334 {5}\r\n|334 VXNlcg==\r\n|501 {1} {2} {3}\r\n",
		"220 x\r\n|250-x\r\n250 AUTH XOAUTH2 OAUTHBEARER\r\n|334 {9}\r\n|999 {6}\r\n", "220 x\r\n|250-x\r\n250 AUTH PLAIN\r\n|{7}\r\n|{8}",
		"220 x\r\n|250-x\r\n250 AUTH PLAIN\r\n|235 ok {0}\r\n|550 5.1.8 {5} {6}\r\n|250 {0}\r\n|354 {0}\r\n|250 ok id={0}\r\n|221 {0}\r\n",
		"220 x\r\n|250-x\r\n250 AUTH CRAM-MD5\r\n|334 {0}\r\n|454-{0}\r\n454 {3}",
	} {
		for pick := range uint8(4) {
			f.Add(s, pick)
		}
	}
	f.Fuzz(func(t *testing.T, script string, pick uint8) {
		if strings.Contains(strings.ToLower(script), "c4nary") {
			return
		}
		for i, form := range canaryForms(canarySecret, canaryUser) {
			script = strings.ReplaceAll(script, fmt.Sprintf("{%d}", i), form)
		}
		var mu sync.Mutex
		var out strings.Builder
		note := func(text string) { mu.Lock(); defer mu.Unlock(); out.WriteString(text + "\n") }
		dials, ended := 0, false
		client, err := Open("smtp://"+canaryUser+"@127.0.0.1?tls=none&ehlo=client.example.com&conns=1", func(c *Config) {
			if pick%2 == 0 {
				c.Password = canarySecret
			} else {
				c.Token = func(context.Context, bool) (string, error) { return canarySecret, nil }
			}
			c.Auth = []string{"", "", "LOGIN", "XOAUTH2", "CRAM-MD5", "OAUTHBEARER"}[pick%6]
			if c.Token != nil && c.Auth == "LOGIN" || c.Password != "" && c.Auth == "OAUTHBEARER" {
				c.Auth = ""
			}
			c.Timeouts = Timeouts{Quit: 50 * time.Millisecond}
			c.Dial = func(context.Context, string, string) (net.Conn, error) {
				if dials++; dials > 2 {
					return nil, errors.New("no more")
				}
				return newScripted(script, &ended), nil
			}
			c.Transcript = func(l Line) { note(l.String()) }
			c.Observer = Observer{
				Stage:   func(d StageDone) { note(fmt.Sprintf("%+v %v", d, d.Err)) },
				Message: func(m MessageDone) { note(fmt.Sprintf("%+v", m)) },
				Learned: func(l Learned) { note(fmt.Sprintf("%+v", l)) },
				Opened:  func(o Opened) { note(fmt.Sprintf("%+v", o)) },
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		result, err := client.Send(ctx, Envelope{From: "a@example.com", To: []string{"b@example.net"}}, []byte("From: a\r\n\r\nthe body\r\n"))
		note(fmt.Sprintf("%v %+v %+v %v", err, err, result, client))
		report, err := client.Probe(ctx)
		note(fmt.Sprintf("%+v %v", report, err))
		for _, o := range result.Outcomes {
			note(fmt.Sprintf("%+v %q", o.Err, o.Err))
		}
		_ = client.Close()
		mu.Lock()
		defer mu.Unlock()
		if part := canaryLeak(out.String(), canarySecret); part != "" {
			t.Errorf("%q comes out of %q:\n%s", part, script, out.String())
		}
	})
}

// FuzzTokenAnswer gives a token endpoint's answer and a command's output: the errors quote no secret, and what is taken as a token is
// one.
func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, `{"access_token":"x","expires_in":3600}`, uint8(0))
	f.Add(401, `{"error":"invalid_client","error_description":"secret {0} is wrong"}`, uint8(1))
	f.Add(400, `{"error":"{1}","error_description":"{5}\n{6}"}`, uint8(2))
	f.Add(503, "<html>{0}", uint8(3))
	f.Add(200, `{"access_token":"a b","expires_in":"-1","expires_on":9e99}`, uint8(4))
	f.Fuzz(func(t *testing.T, status int, body string, _ uint8) {
		if strings.Contains(strings.ToLower(body), "c4nary") {
			return
		}
		for i, form := range canaryForms(canarySecret, canaryUser) {
			quoted, _ := json.Marshal(form)
			body = strings.ReplaceAll(body, fmt.Sprintf("{%d}", i), strings.Trim(string(quoted), `"`))
		}
		hide := secrets{auth: true}
		hide.add(canarySecret)
		resp := &http.Response{StatusCode: status, Header: http.Header{}, Request: &http.Request{URL: &url.URL{Host: "idp.example.com"}}}
		check := func(token string, life time.Duration, err error) {
			switch {
			case err != nil && (strings.Contains(strings.ToLower(err.Error()), "c4nary") || strings.ContainsFunc(err.Error(), unprintable)):
				t.Errorf("error %q", err)
			case err == nil && (checkToken("", token) != nil || life < 0 || life > 24*time.Hour):
				t.Errorf("%q is taken as the token %q for %v", body, token, life)
			}
		}
		a, err := readAnswer(resp, []byte(body), &hide)
		if err != nil {
			check("", 0, err)
		} else {
			check(a.AccessToken, a.issued().life, nil)
		}
		got, err := readCommandOutput([]byte(body))
		check(got.token, got.life, err)
		if words := (&lastBytes{limit: 2000}); true {
			_, _ = words.Write([]byte(body))
			check("", 0, errors.New(strings.TrimSuffix(words.quote(), "\n")))
		}
	})
}
