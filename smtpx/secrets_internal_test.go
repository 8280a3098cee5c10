package smtpx

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"testing"
)

// No part of a secret is left, in any form and between any other text. Other text is kept where possible.
func FuzzScrub(f *testing.F) {
	f.Add("hunter2-hunter2", "535 bad password ", " for user", true)
	f.Add("töken/+==", "501 5.5.4 \xff\xfe", "\x00", true)
	f.Add("AAAAAAAA", "AAAA", "AAAAAAAAAAAA", false)
	f.Add("abc", "abcabc", "abc", true)
	f.Fuzz(func(t *testing.T, secret, before, after string, auth bool) {
		if len(secret) < 8 || len(secret) > 200 || strings.ToValidUTF8(secret, "?") != secret {
			return
		}
		s := secrets{auth: auth}
		s.add(secret)
		line := base64.StdEncoding.EncodeToString([]byte("\x00user\x00" + secret))
		s.sent([]byte("\x00user\x00"+secret), line, "user")
		for _, form := range []string{
			secret, strings.ToUpper(secret), line, strings.TrimRight(line, "="), url.QueryEscape(secret), hex.EncodeToString([]byte(secret)),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			if form == strings.ToUpper(secret) && lower(form) != lower(secret) {
				continue // only ASCII is compared without case
			}
			clean := s.scrub(before + form + after)
			if strings.Contains(lower(clean), strings.TrimRight(lower(form), "=")) && !strings.Contains(redacted, form) {
				t.Errorf("%q is left in %q", form, clean)
			}
			if auth {
				if cut := s.scrub(form[:len(form)/2+1]); len(form) >= 2*secretPart && strings.Contains(lower(cut), lower(form[:secretPart])) {
					t.Errorf("the start of %q is left in %q", form, cut)
				}
			}
		}
		err := s.scrubError(&quotedError{[]byte(before + secret + after)})
		if !errors.Is(err, errReply) {
			t.Errorf("error %v", err)
		}
		if auth && strings.Contains(err.Error(), secret) {
			t.Errorf("the error quotes: %v", err)
		}
	})
}

func TestScrubKeepsTheRest(t *testing.T) {
	s := secrets{}
	s.add("hunter2")
	for text, want := range map[string]string{
		"535 5.7.8 wrong password hunter2 for app": "535 5.7.8 wrong password *** for app",
		"HUNTER2hunter2":      "***",
		"hunter":              "hunter",
		"nothing to hide":     "nothing to hide",
		"\xffhunter2\xfe end": "?***? end",
		"\xff nothing":        "\xff nothing",
	} {
		if got := s.scrub(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	short := secrets{}
	short.add("ok")
	if got := short.scrub("250 ok"); got != "250 ok" {
		t.Errorf("a short password spoils a reply: %q", got)
	}
	if none := (&secrets{}); none.scrub("250 ok") != "250 ok" {
		t.Error("without secrets the text changes")
	}
}
