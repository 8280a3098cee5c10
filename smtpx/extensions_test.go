package smtpx_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestDSN(t *testing.T) {
	dsn := smtpx.DSN{ID: "a+b=c d", Return: smtpx.ReturnHeader, Notify: []smtpx.DSNNotify{smtpx.NotifyFailure, smtpx.NotifyDelay}}
	for _, offered := range []bool{true, false} {
		extensions := []string{}
		wantParams, wantRcpt := "", ""
		if offered {
			extensions = []string{"DSN"}
			wantParams, wantRcpt = "RET=HDRS ENVID=a+2Bb+3Dc+20d", "NOTIFY=DELAY,FAILURE"
		}
		srv, client := newRelay(t, smtptest.Config{Extensions: extensions})
		env := envelope("b@example.net")
		env.DSN = dsn
		if _, err := client.Send(testContext(t), env, message("x")); err != nil {
			t.Fatal(err)
		}
		if m := srv.Messages()[0]; m.Params != wantParams || m.RcptParams[0] != wantRcpt {
			t.Errorf("MAIL had %q, RCPT %q; want %q and %q", m.Params, m.RcptParams[0], wantParams, wantRcpt)
		}
	}
	_, client := newRelay(t, smtptest.Config{})
	for name, dsn := range map[string]smtpx.DSN{
		"CRLF in the id":     {ID: "a\r\nRSET"},
		"long id":            {ID: strings.Repeat("x", 101)},
		"return":             {Return: "SOME SIZE=1"},
		"original with CRLF": {Original: []string{"a@example.net\r\nRSET"}},
		"long original":      {Original: []string{strings.Repeat("+", 200) + "@example.net"}},
		"too many originals": {Original: []string{"", "a@example.net"}},
		"original, no type":  {Original: []string{";a@example.net"}},
		"original, not so":   {Original: []string{"rfc822;\u00fc@example.net"}},
		"notify":             {Notify: []smtpx.DSNNotify{"ALWAYS"}},
		"never and delay":    {Notify: []smtpx.DSNNotify{smtpx.NotifyNever, smtpx.NotifyDelay}},
	} {
		env := envelope("b@example.net")
		env.DSN = dsn
		_, err := client.Send(testContext(t), env, message("x"))
		if e := asError(t, err, smtpx.StageMail, smtpx.ClassMessage); !strings.Contains(e.Error(), "DSN") {
			t.Errorf("%s: %v", name, e)
		}
	}
}

// The original recipients go with their recipients, also when the message is sent in parts.
func TestOriginalRecipients(t *testing.T) {
	env := envelope("b@example.net", "c@example.net", "d@example.net", "e@example.net", "f@example.net")
	env.DSN.Original = []string{"Alias+1=x@Example.com", "", "x400;/PN=Smith", "\u00fc+\\@b\u00fccher.example", `"a;b"@example.com`}
	srv, client := newRelay(t, smtptest.Config{Extensions: []string{"DSN", "PIPELINING"}, MaxRecipients: 2})
	if _, err := client.Send(testContext(t), env, message("x")); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range srv.Messages() {
		for i, to := range m.To {
			got[to] = m.RcptParams[i]
		}
	}
	for to, want := range map[string]string{
		"b@example.net": "ORCPT=rfc822;Alias+2B1+3Dx@Example.com", "c@example.net": "", "d@example.net": "ORCPT=x400;/PN+3DSmith",
		"e@example.net": `ORCPT=utf-8;\x{FC}\x{2B}\x{5C}@b\x{FC}cher.example`, "f@example.net": `ORCPT=rfc822;"a;b"@example.com`,
	} {
		if got[to] != want {
			t.Errorf("%s has %q, want %q", to, got[to], want)
		}
	}
}

func TestRequireTLS(t *testing.T) {
	env := envelope("b@example.net")
	env.RequireTLS = true
	srv, client := newRelay(t, smtptest.Config{Extensions: []string{"REQUIRETLS"}})
	if _, err := client.Send(testContext(t), env, message("x")); err != nil {
		t.Fatal(err)
	}
	if m := srv.Messages()[0]; m.Params != "REQUIRETLS" {
		t.Errorf("MAIL had %q", m.Params)
	}
	for name, config := range map[string]smtptest.Config{
		"not offered": {},
		"in clear":    {TLS: smtptest.NoTLS, Extensions: []string{"REQUIRETLS"}},
	} {
		srv, client := newRelay(t, config)
		_, err := client.Send(testContext(t), env, message("x"))
		wantError(t, err, smtpx.StageMail, smtpx.ClassConfig)
		if srv.Count() != 0 {
			t.Errorf("%s: it arrived", name)
		}
	}
}

// An extension that the server does not offer is not used. A message that needs it is refused with one clear sentence.
func TestExtensions(t *testing.T) {
	eight := message("caf\xc3\xa9")
	utf8Header := []byte("Subject: caf\xc3\xa9\r\n\r\nx\r\n")
	for name, tc := range map[string]struct {
		extensions []string
		env        smtpx.Envelope
		body       []byte
		params     string // of MAIL
		class      smtpx.Class
	}{
		"nothing needed":                    {[]string{"8BITMIME", "SMTPUTF8"}, envelope("b@example.net"), message("x"), "", ""},
		"size":                              {[]string{"SIZE 1000"}, envelope("b@example.net"), message("x"), "SIZE=", ""},
		"too large":                         {[]string{"SIZE 50"}, envelope("b@example.net"), message("x"), "", smtpx.ClassMessage},
		"no limit":                          {[]string{"SIZE 0"}, envelope("b@example.net"), message("x"), "SIZE=", ""},
		"8-bit":                             {[]string{"8BITMIME"}, envelope("b@example.net"), eight, "BODY=8BITMIME", ""},
		"8-bit not offered":                 {[]string{}, envelope("b@example.net"), eight, "", smtpx.ClassMessage},
		"UTF-8 header":                      {[]string{"8BITMIME", "SMTPUTF8"}, envelope("b@example.net"), utf8Header, "BODY=8BITMIME SMTPUTF8", ""},
		"UTF-8 header not offered":          {[]string{"8BITMIME"}, envelope("b@example.net"), utf8Header, "", smtpx.ClassMessage},
		"UTF-8 sender":                      {[]string{"SMTPUTF8"}, smtpx.Envelope{From: "用户@example.com", To: []string{"b@example.net"}}, message("x"), "SMTPUTF8", ""},
		"header neither ASCII nor UTF-8":    {[]string{"8BITMIME", "SMTPUTF8"}, envelope("b@example.net"), []byte("Subject: caf\xe9\r\n\r\nx\r\n"), "", smtpx.ClassMessage},
		"body neither ASCII nor UTF-8":      {[]string{"8BITMIME"}, envelope("b@example.net"), message("caf\xe9"), "BODY=8BITMIME", ""},
		"UTF-8 recipient":                   {[]string{"8BITMIME", "SMTPUTF8"}, envelope("用户@example.net"), message("x"), "SMTPUTF8", ""},
		"UTF-8 recipient not offered":       {[]string{"8BITMIME"}, envelope("用户@example.net"), message("x"), "", smtpx.ClassRecipient},
		"UTF-8 sender not offered":          {[]string{}, smtpx.Envelope{From: "用户@example.com", To: []string{"b@example.net"}}, message("x"), "", smtpx.ClassMessage},
		"international domain needs it not": {[]string{}, envelope("b@bücher.example"), message("x"), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: tc.extensions})
			_, err := client.Send(testContext(t), tc.env, tc.body)
			if tc.class != "" {
				var e *smtpx.Error
				if !errors.As(err, &e) || e.Class != tc.class || e.Reply.Code != 0 {
					t.Errorf("error %v, want class %s without a reply", err, tc.class)
				}
				if srv.Count() != 0 {
					t.Error("it arrived")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if m := srv.Messages()[0]; !strings.Contains(m.Params, tc.params) || (tc.params == "" && m.Params != "") {
				t.Errorf("MAIL had %q, want %q", m.Params, tc.params)
			}
		})
	}
}

// An extension that the operator rules out is not used even if the server offers it.
func TestExtensionsCanBeLeftOut(t *testing.T) {
	var seen recorder
	srv := smtptest.New(t, smtptest.Config{Extensions: []string{"PIPELINING", "CHUNKING", "SIZE 100000", "8BITMIME"}, Hook: seen.hook})
	client := open(t, srv.URL("without=chunking,Pipelining,SIZE"))
	for range 3 {
		if _, err := client.Send(testContext(t), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
	}
	seen.mu.Lock()
	defer seen.mu.Unlock()
	for _, e := range seen.events {
		if strings.HasPrefix(e.Line, "BDAT") || strings.Contains(e.Line, "SIZE=") {
			t.Errorf("the client said %q", e.Line)
		}
	}
	if s := srv.Stats(); s.MessageFlights < 3*4 {
		t.Errorf("%d flights for 3 messages, want those of lockstep", s.MessageFlights)
	}
}

// Recipients that need SMTPUTF8 do not make the others need it. If it is not offered, only they fail.
func TestInternationalRecipientsGoApart(t *testing.T) {
	to := []string{"a@example.net", "用户@example.net", "b@example.net", "\"ü\"@bücher.example"}
	for _, d := range dialogues {
		t.Run(d.name+", offered", func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: append([]string{"SMTPUTF8"}, d.extensions...)})
			if _, err := client.Send(testContext(t), envelope(to...), message("x")); err != nil {
				t.Fatal(err)
			}
			got := srv.Messages()
			if len(got) != 2 || !slices.Equal(got[0].To, []string{to[0], to[2]}) || strings.Contains(got[0].Params, "SMTPUTF8") ||
				!slices.Equal(got[1].To, []string{to[1], "\"ü\"@xn--bcher-kva.example"}) || !strings.Contains(got[1].Params, "SMTPUTF8") {
				t.Errorf("arrived: %+v", got)
			}
		})
		t.Run(d.name+", not offered", func(t *testing.T) {
			srv, client := newRelay(t, smtptest.Config{Extensions: slices.DeleteFunc(slices.Clone(d.extensions), func(e string) bool { return e == "SMTPUTF8" })})
			result, err := client.Send(testContext(t), envelope(to...), message("x"))
			wantError(t, err, smtpx.StageRcpt, smtpx.ClassRecipient)
			for i, o := range result.Outcomes {
				if o.Accepted != (i%2 == 0) || (o.Err != nil && o.Err.Class != smtpx.ClassRecipient) {
					t.Errorf("outcome %+v", o)
				}
			}
			if got := srv.Messages(); len(got) != 1 || !slices.Equal(got[0].To, []string{to[0], to[2]}) {
				t.Errorf("arrived: %+v", got)
			}
		})
	}
	t.Run("with a header that needs it too", func(t *testing.T) {
		srv, client := newRelay(t, smtptest.Config{})
		if _, err := client.Send(testContext(t), envelope(to...), []byte("Subject: ü\r\n\r\nx\r\n")); err != nil {
			t.Fatal(err)
		}
		if n := srv.Count(); n != 1 {
			t.Errorf("%d transactions, want one", n)
		}
	})
}
