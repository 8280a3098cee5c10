package smtpx_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
)

func TestLint(t *testing.T) {
	ses, _ := smtpx.LookupProfile("ses")
	good := "From: a@example.com\r\nDate: x\r\nMessage-ID: <1@x>\r\n\r\n"
	many := make([]string, 51)
	for i := range many {
		many[i] = fmt.Sprintf("r%d@example.net", i)
	}
	for name, tc := range map[string]struct {
		to   []string
		body string
		want string // rules, in order
	}{
		"nothing":                      {[]string{"a@example.net", "b@example.net"}, good, ""},
		"twice":                        {[]string{"a@example.net", "a@EXAMPLE.net"}, good, "duplicate"},
		"dots at Gmail":                {[]string{"j.doe@gmail.com", "jdoe@gmail.com"}, good, "folded"},
		"tags at Gmail":                {[]string{"jdoe+a@gmail.com", "jdoe+b@googlemail.com"}, good, "folded"},
		"dots elsewhere":               {[]string{"j.doe@example.net", "jdoe@example.net"}, good, ""},
		"tags elsewhere":               {[]string{"jdoe+a@example.net", "jdoe+b@example.net"}, good, ""},
		"case":                         {[]string{"JDoe@example.net", "jdoe@example.net"}, good, "folded"},
		"dots at Outlook":              {[]string{"j.doe@outlook.com", "jdoe@outlook.com"}, good, ""},
		"tags at Outlook":              {[]string{"jdoe+a@outlook.com", "jdoe@outlook.com"}, good, "folded"},
		"invalid addresses are not it": {[]string{"nonsense", "nonsense"}, good, ""},
		"many recipients":              {many, good, "recipients"},
		"long line":                    {[]string{"a@example.net"}, good + strings.Repeat("x", 999) + "\r\n", "line"},
		"longest line":                 {[]string{"a@example.net"}, good + strings.Repeat("x", 998) + "\r\n", ""},
		"too large":                    {[]string{"a@example.net"}, good + strings.Repeat(strings.Repeat("x", 98)+"\r\n", 420_000), "size"},
		"nothing in the header":        {[]string{"a@example.net"}, "\r\ntext\r\n", strings.TrimSpace(strings.Repeat("header ", 3))},
		"header field twice":           {[]string{"a@example.net"}, "Subject: a\r\nsubject: b\r\n" + good, "header"},
		"Bcc":                          {[]string{"a@example.net"}, "Bcc: b@example.net\r\n" + good, "header"},
		"folded field":                 {[]string{"a@example.net"}, "Subject: a\r\n Subject: b\r\n" + good + "From: in the body\r\n", ""},
	} {
		var rules []string
		for _, f := range ses.Lint(smtpx.Envelope{From: "a@example.com", To: tc.to}, []byte(tc.body)) {
			rules = append(rules, f.Rule)
			if f.Text == "" {
				t.Errorf("%s: %+v", name, f)
			}
		}
		if got := strings.Join(rules, " "); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
