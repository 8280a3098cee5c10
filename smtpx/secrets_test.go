package smtpx_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

// A user name that is a credential by itself is not shown.
func TestStringHidesSecretUsers(t *testing.T) {
	for _, tc := range []struct{ url, user string }{
		{"smtp://S3cr3tServerToken:S3cr3tServerToken@smtp.postmarkapp.com:587", ""},
		{"smtp://S3cr3tAccessKey:S3cr3tSecretKey@smtp-broadcasts.postmarkapp.com", ""},
		{"smtp://S3cr3tServerToken:S3cr3tServerToken@relay.example.com", ""},
		{"smtp://S3cr3tServerToken:other@relay.example.com?provider=postmark", ""},
		{"smtp://app:S3cr3t@relay.example.com", "app@"},
		{"smtp://apikey:S3cr3t@smtp.sendgrid.net", "apikey@"},
	} {
		client := open(t, tc.url)
		if s := client.String(); strings.Contains(s, "S3cr3t") || !strings.Contains(s, "//"+tc.user) {
			t.Errorf("%s is shown as %s", tc.url, s)
		}
		for _, format := range []string{"%v", "%+v", "%s"} {
			if s := fmt.Sprintf(format, client); strings.Contains(s, "S3cr3t") {
				t.Errorf("%s gives %s", format, s)
			}
		}
	}
}

// echoes are the ways in which a server repeats what it was sent.
var echoes = map[string]func(line string) string{
	"in a refusal":        func(l string) string { return "501 5.5.4 Invalid argument: " + l },
	"as a temporary one":  func(l string) string { return "454 4.7.0 cannot check " + l },
	"malformed":           func(l string) string { return l },
	"behind a wrong code": func(l string) string { return "999 " + l },
	"over several lines": func(l string) string {
		return "535-5.7.8 " + l[:len(l)/2] + "\r\n535 5.7.8 " + l[len(l)/2:]
	},
	"cut short":          func(l string) string { return "535 5.7.8 bad line: " + l[:min(len(l), 40)] },
	"without its start":  func(l string) string { return "535 5.7.8 bad line: …" + l[len(l)/3:] },
	"in upper case":      func(l string) string { return "501 5.5.4 " + strings.ToUpper(l) },
	"in quotes":          func(l string) string { return `501 5.5.4 "` + l + `"` },
	"decoded":            func(l string) string { return "535 5.7.8 " + printableBase64(l) },
	"as hexadecimal":     func(string) string { return "535 5.7.8 " + hex.EncodeToString([]byte(canary)) },
	"percent-encoded":    func(string) string { return "535 5.7.8 " + url.QueryEscape(canary) },
	"then hangs up":      func(l string) string { return "535-5.7.8 " + l + "\x00" },
	"as URL-safe base64": func(string) string { return "535 5.7.8 " + base64.URLEncoding.EncodeToString([]byte(canary)) },
}

const canary = "sup3r/s3cr3t+c4nary?~"

// printableBase64 decodes the last word of a line.
func printableBase64(l string) string {
	words := strings.Fields(l)
	p, err := base64.StdEncoding.DecodeString(words[len(words)-1])
	if err != nil {
		return l
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, string(p))
}

// leaks finds parts of the canary, or of a line that holds it, in a text.
func leaks(text string, sent []string) string {
	low := strings.ToLower(text)
	forms := []string{canary, base64.RawStdEncoding.EncodeToString([]byte(canary)), base64.RawURLEncoding.EncodeToString([]byte(canary)),
		url.QueryEscape(canary), hex.EncodeToString([]byte(canary))}
	for _, l := range sent {
		words := strings.Fields(strings.TrimRight(l, "="))
		if last := words[len(words)-1]; len(last) > 20 {
			forms = append(forms, last)
		}
	}
	for _, form := range forms {
		form = strings.ToLower(form)
		const part = 8
		for i := 0; i+part <= len(form); i++ {
			if strings.Contains(low, form[i:i+part]) {
				return form[i : i+part]
			}
		}
	}
	return ""
}

// If a server repeats data of AUTH in any way, no part of a credential reaches an error, an observer or a transcript.
func TestServerThatRepeatsCredentials(t *testing.T) {
	for _, mechanism := range []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256", "XOAUTH2", "OAUTHBEARER"} {
		for name, echo := range echoes {
			t.Run(mechanism+" "+name, func(t *testing.T) {
				var mu sync.Mutex
				var sent []string
				turns := 0
				s := &dialogueScript{ehlo: []string{"AUTH " + mechanism}}
				s.replies = func(_ int, verb, l string) (string, bool) {
					mu.Lock()
					defer mu.Unlock()
					switch {
					case verb == "EHLO" || verb == "QUIT":
						return "", false
					case verb == "AUTH" && (mechanism == "LOGIN" || mechanism == "CRAM-MD5"):
						return "334 " + base64.StdEncoding.EncodeToString([]byte("<1@challenge>")), true
					case mechanism == "LOGIN" && turns == 0:
						turns++
						sent = append(sent, l)
						return "334 UGFzc3dvcmQ6", true
					}
					sent = append(sent, l)
					return echo(l), true
				}
				var out strings.Builder
				note := func(text string) { mu.Lock(); defer mu.Unlock(); out.WriteString(text + "\n") }
				client := open(t, "smtp://app@"+s.start(t)+"?tls=none", func(c *smtpx.Config) {
					c.Password, c.Auth = canary, mechanism
					c.Transcript = func(l smtpx.Line) { note(l.String()) }
					c.Observer.Stage = func(d smtpx.StageDone) {
						if d.Err != nil {
							note(fmt.Sprintf("%+v %q", *d.Err, d.Err.Reply.Lines))
						}
					}
				})
				result, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
				if err == nil {
					t.Fatal("no error")
				}
				note(fmt.Sprintf("%v %+v %+v", err, err, result))
				mu.Lock()
				defer mu.Unlock()
				if part := leaks(out.String(), sent); part != "" {
					t.Errorf("%q of a credential is shown:\n%s", part, out.String())
				}
				if len(sent) == 0 {
					t.Error("nothing was sent")
				}
			})
		}
	}
}

// Credentials are also hidden in later replies, including replies to the final dot.
func TestServerThatRepeatsCredentialsLater(t *testing.T) {
	for _, verb := range []string{"MAIL", "RCPT", "DATA", "."} {
		var mu sync.Mutex
		var out strings.Builder
		s := &dialogueScript{ehlo: []string{"AUTH XOAUTH2"}}
		s.replies = func(_ int, v, _ string) (string, bool) { return "451 4.3.0 debug: token=" + canary, v == verb }
		client := open(t, "smtp://app@"+s.start(t)+"?tls=none", func(c *smtpx.Config) {
			c.Token = func(context.Context, bool) (string, error) { return canary, nil }
			c.Transcript = func(l smtpx.Line) { mu.Lock(); defer mu.Unlock(); out.WriteString(l.String() + "\n") }
		})
		result, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
		if err == nil {
			t.Fatal("no error")
		}
		client.Close()
		if all := fmt.Sprintf("%v %+v %s", err, result, out.String()); leaks(all, nil) != "" {
			t.Errorf("%s: a credential is shown: %s", verb, all)
		}
	}
}
