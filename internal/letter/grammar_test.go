package letter

import (
	"mime"
	"net/mail"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// writeField returns the value of a field as it stands in the message, unfolded.
func writeField(name, value string) (string, error) {
	fields, err := ParseFields(map[string][]string{name: {value}}, Limits{HeaderSize: 64 << 10})
	if err != nil {
		return "", err
	}
	var b headerBlock
	fields[0].write(&b)
	written := strings.ReplaceAll(string(b.buf), "\r\n ", " ")
	return strings.TrimSuffix(strings.TrimPrefix(written, name+": "), "\r\n"), nil
}

var encodedWord = regexp.MustCompile(`=\?utf-8\?[qb]\?[^?]*\?=`)

// showEncoded puts the text of encoded words between guillemets.
func showEncoded(t *testing.T, s string) string {
	t.Helper()
	return encodedWord.ReplaceAllStringFunc(s, func(word string) string {
		text, err := new(mime.WordDecoder).Decode(word)
		if err != nil {
			t.Errorf("%s: %v", word, err)
		}
		return "«" + text + "»"
	})
}

func TestStructuredFields(t *testing.T) {
	const same = "=" // written as it was given
	for _, test := range []struct{ name, value, want string }{
		// Address lists. The addresses stay readable and only the names are encoded.
		{"Disposition-Notification-To", "Jörg Müller <joerg@Example.com>", "«Jörg Müller» <joerg@example.com>"},
		{"Errors-To", "Büro <errors@example.com>", "«Büro» <errors@example.com>"},
		{"Return-Receipt-To", `"Müller, Jörg" <j@example.com>`, "«Müller, Jörg» <j@example.com>"},
		{"Mail-Followup-To", "Jörg <j@example.com>, ann@example.org, Bob <b@example.org>",
			"«Jörg» <j@example.com>, ann@example.org, Bob <b@example.org>"},
		{"Mail-Reply-To", "Büro: Jörg <j@example.com>, ann@example.org;", "«Büro»: «Jörg» <j@example.com>, ann@example.org;"},
		{"X-Confirm-Reading-To", "j@example.com (Jörg (Büro))", "j@example.com («Jörg (Büro)»)"},
		{"Sender", "Jürgen <j@example.com>", "«Jürgen» <j@example.com>"},
		{"Sender", `"Jürgen \"J\" K." <j@example.com>`, `«Jürgen "J" K.» <j@example.com>`},
		{"Author", "(Büro) Ann <ann@example.com>", "(«Büro») Ann <ann@example.com>"},
		{"Errors-To", "errors@bücher.example", "errors@xn--bcher-kva.example"},
		{"Errors-To", "<jörg@example.com>", "<jörg@example.com>"}, // as in To: it needs SMTPUTF8
		{"Errors-To", `"a b"@example.com (Büro)`, `"a b"@example.com («Büro»)`},
		{"Errors-To", "Büro <a@[192.0.2.1]>", "«Büro» <a@[192.0.2.1]>"},
		{"Errors-To", "Dr. Jörg K. Müller <j@example.com>", "«Dr. Jörg K. Müller» <j@example.com>"},
		{"Errors-To", "Jörg [Büro] <j@example.com>", "«Jörg [Büro]» <j@example.com>"},
		{"Errors-To", "=?utf-8?q?J=C3=B6rg?= Müller <j@example.com>", "«Jörg Müller» <j@example.com>"},
		{"Sender", "=?iso-2022-jp?b?GyRCP0AbKEI=?= <j@example.com>", same},
		{"Sender", `"Robot" (a) <robot@example.com> (b)`, same},
		{"Errors-To", "Team: a@example.com, B <b@example.com>;, c@example.com", same},
		{"Mail-Followup-To", "undisclosed:;", same},
		{"Errors-To", "a(x)@(y)example(z).com", same},
		// Specials of a phrase stand in quotes (RFC 5322 §3.2.3).
		{"Sender", "Arnt [x] <a@b.example>", `"Arnt [x]" <a@b.example>`},
		{"Sender", "[List] a (b) <a@b.example>", `"[List] a" (b) <a@b.example>`},
		{"Errors-To", "A. [\"B\"] <a@b.example>, Ann <ann@example.org>", `"A. [B]" <a@b.example>, Ann <ann@example.org>`},
		{"Errors-To", "Team [x]: a@b.example;", `"Team [x]": a@b.example;`},
		{"Errors-To", "=?utf-8?q?J=C3=B6rg?= [x] <a@b.example>", "«Jörg [x]» <a@b.example>"},
		{"Errors-To", "[x] <a@b.example>, =?iso-2022-jp?b?GyRCP0AbKEI=?= <j@example.com>", same}, // encoded twice, it would be lost
		{"List-Id", "[Books] <books.example.com>", `"[Books]" <books.example.com>`},
		{"Errors-To", "", ""},
		{"Errors-To", "Büro", ""},
		{"Errors-To", "Büro <>", ""},
		{"Errors-To", "Büro <errors@example.com", ""},
		{"Errors-To", "Büro errors@example.com>", ""},
		{"Errors-To", "Büro <a..b@docomo.ne.jp>", ""},
		{"Errors-To", `"Büro <errors@example.com>`, ""},
		{"Errors-To", "(Büro <errors@example.com>", ""},
		{"Errors-To", "Büro <errors@example.com> Büro", ""},
		{"Errors-To", "a@example.com b@example.com", ""},
		{"Errors-To", "a@example.com,", ""},
		{"Errors-To", "a@example.com,, b@example.com", ""},
		{"Errors-To", "Team: a@example.com", ""},
		{"Errors-To", "Team: Inner: a@example.com;;", ""},
		{"Errors-To", "a@example.com;", ""},
		{"Errors-To", "Büro <a b@example.com>", ""},
		{"Errors-To", `Büro <"a> SIZE=1"@example.com>`, ""},
		{"Errors-To", "Büro <@a.example:b@example.com>", ""},
		{"Sender", "Jürgen <j@example.com>, ann@example.com", ""},
		{"Sender", "Büro: j@example.com;", ""},

		// Lists (RFC 2369, RFC 2919).
		{"List-Id", "Bücher & Mehr <buecher.example.com>", "«Bücher & Mehr» <buecher.example.com>"},
		{"List-Id", `"Bücher" (neu) <buecher.example.com> (ende)`, "«Bücher» (neu) <buecher.example.com> (ende)"},
		{"List-Id", "<bücher.example.com>", "<xn--bcher-kva.example.com>"},
		{"List-Id", "名前 <a_b.example.com>", "«名前» <a_b.example.com>"},
		{"List-Id", "Books <books.example.com>", same},
		{"List-Id", "Bücher", ""},
		{"List-Id", "buecher.example.com", ""},
		{"List-Id", "Bücher <buecher example.com>", ""},
		{"List-Id", "Bücher <buecher.example.com", ""},
		{"List-Id", "Bücher <.example.com>", ""},
		{"List-Id", "Bücher <a.example> <b.example>", ""},
		{"List-Post", "<mailto:büro@example.com> (Büro)", "<mailto:b%C3%BCro@example.com> («Büro»)"},
		{"List-Post", "NO (Büro geschlossen)", "NO («Büro geschlossen»)"},
		{"List-Post", "NO", same},
		{"List-Post", "NO (closed)", same},
		{"List-Post", "NO way", ""},
		{"List-Unsubscribe", "<https://bücher.example/ä?x=ö#ü>, <mailto:a@bücher.example?subject=ü>",
			"<https://xn--bcher-kva.example/%C3%A4?x=%C3%B6#%C3%BC>, <mailto:a@xn--bcher-kva.example?subject=%C3%BC>"},
		{"List-Unsubscribe", "(Büro) <https://user@bücher.example:8080>", "(«Büro») <https://user@xn--bcher-kva.example:8080>"},
		{"List-Unsubscribe", "<mailto:a@example.com?subject=a,b>, <https://example.com/>", same},
		{"List-Unsubscribe", "<mailto:a@example.com,ü@bücher.example?subject=a,ü@ü>",
			"<mailto:a@example.com,%C3%BC@xn--bcher-kva.example?subject=a,%C3%BC@%C3%BC>"},
		{"List-Help", "<https://example.com/>, (Büro) <ftp://example.com/x>", "<https://example.com/>, («Büro») <ftp://example.com/x>"},
		{"List-Owner", "<mailto:a@example.com> Büro", ""},
		{"List-Owner", "mailto:a@example.com", ""},
		{"List-Owner", "Büro <mailto:a@example.com>", ""},
		{"List-Subscribe", "<a@example.com>", ""},
		{"List-Subscribe", "<mailto:a b@example.com>", ""},
		{"List-Subscribe", "<mailto:a@example.com>,", ""},
		{"List-Archive", "<https://ex ample.com/ä>", ""},
		{"List-Archive", "<https://-ü-.example/>", ""},
		{"Archived-At", "<https://example.com/ä>", "<https://example.com/%C3%A4>"},
		{"List-Unsubscribe-Post", "List-Unsubscribe=One-Click", same},
		{"List-Unsubscribe-Post", "One-Click", ""},

		// Message-IDs.
		{"References", "<a@b> (Büro) <c@d>", "<a@b> («Büro») <c@d>"},
		{"References", "<a@b>  (c)<c@d>", same},
		{"In-Reply-To", "(Antwort für (Ann)) <a@b>", "(«Antwort für (Ann)») <a@b>"},
		{"In-Reply-To", "<a.b-c$d=e@[192.0.2.1]>", same},
		{"Supersedes", "<odd id@x>", ""},
		{"References", "<é@b>", ""},
		{"References", "<a@b> Büro", ""},
		{"References", "<a@b>, <c@d>", ""},
		{"References", "a@b", ""},
		{"References", "(only a comment)", ""},
		{"References", "<>", ""},
		{"Original-Message-ID", "<a@b", ""},

		// Phrases and tokens.
		{"Keywords", "Bücher, plain words, Käse", "«Bücher», plain words, «Käse»"},
		{"Keywords", `"a, b", Käse (neu), "x"`, `"a, b", «Käse» (neu), x`},
		{"Keywords", "a, b", same},
		{"Keywords", "ä,, b", ""},
		{"Keywords", "ä; b", ""},
		{"X-Priority", "1 (Höchste)", "1 («Höchste»)"},
		{"X-Priority", "1 (Highest)", same},
		{"Importance", "höchste", ""},
		{"Auto-Submitted", "auto-generated; x=ü", ""},
		{"Accept-Language", "de-DE, en", same},

		// Fields without a known grammar.
		{"X-Note", "naïve", "«naïve»"},
		{"X-Note", "größer als <3 und @home @ 5 > 4", "«größer als <3 und @home @ 5 > 4»"},
		{"X-Note", "Jörg <a b>", "«Jörg <a b>»"},
		{"X-Original-To", "Jörg <joerg@example.com>", "«Jörg» <joerg@example.com>"},
		{"X-Owner", "Jörg <joerg@example.com>, Ann <ann@example.com>", "«Jörg» <joerg@example.com>, Ann <ann@example.com>"},
		{"X-Owner", "ann@bücher.example", "ann@xn--bcher-kva.example"},
		{"X-List-Id", "Bücher <buecher.example.com>", "«Bücher» <buecher.example.com>"},
		{"X-Ids", "für <a@b> und <c@d>", "«für» <a@b> und <c@d>"},
		{"X-Url", "<https://bücher.example/> (Büro)", "<https://xn--bcher-kva.example/> («Büro»)"},
		{"X-Note", "Grüße an ann@example.org, und  bob@example.org!", "«Grüße an» ann@example.org, «und » bob@example.org!"},
		{"X-Note", "jörg@example.com", ""},
		{"X-Note", "Büro <jörg@example.com>", ""},
		{"X-Note", "Grüße an jörg@example.com", ""},
		{"X-Note", "der <größte> hier", ""},
		{"X-Note", "a <b@c> plain", same},
	} {
		got, err := writeField(test.name, test.value)
		want := test.want
		if want == same {
			want = test.value
		}
		switch {
		case want == "" && err == nil:
			t.Errorf("%s: %s is accepted as %s", test.name, test.value, got)
		case want == "":
			if s := err.Error(); !strings.Contains(s, test.name) || len(s) > 300 {
				t.Errorf("%s: %s: the error is %q", test.name, test.value, s)
			}
		case err != nil:
			t.Errorf("%s: %s: %v", test.name, test.value, err)
		case test.want == same && got != want, test.want != same && showEncoded(t, got) != want:
			t.Errorf("%s: %s is written as\n%s, want\n%s", test.name, test.value, got, want)
		}
	}
}

// TestLongStructuredFields shows that long lists are folded between their parts.
func TestLongStructuredFields(t *testing.T) {
	long := strings.Repeat("名前 ", 60)
	for name, value := range map[string]string{
		"Mail-Followup-To": strings.TrimSuffix(strings.Repeat("Jörg Müller <joerg.mueller@example.com>, ", 40), ", "),
		"References":       "(ü)" + strings.Repeat(" <0123456789.0123456789.0123456789@mail.example.com>", 60),
		"List-Id":          long + "<names.example.com>",
		"List-Owner":       "<mailto:a@example.com> (" + long + ")",
		"Keywords":         strings.TrimSuffix(strings.Repeat("Käse, ", 100), ", "),
		"X-Note":           long + "ann@example.com " + long + strings.Repeat("plain words ", 30) + "<b@example.com>",
	} {
		fields, err := ParseFields(map[string][]string{name: {value}}, Limits{HeaderSize: 64 << 10})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var b headerBlock
		fields[0].write(&b)
		if b.longest > preferredLine+2 {
			t.Errorf("%s has a line of %d bytes:\n%s", name, b.longest, b.buf)
		}
		m, err := mail.ReadMessage(strings.NewReader(string(b.buf) + "\r\n"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get(name))
		if want := strings.TrimSpace(value); err != nil || strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("%s is read as\n%s, want\n%s (%v)", name, got, want, err)
		}
	}
}

// TestRunsOfSpaces shows that two spaces between long words leave no line of white space only (RFC 5322 §3.2.2).
func TestRunsOfSpaces(t *testing.T) {
	long := strings.Repeat
	for _, value := range []string{
		"é " + long("c", 65) + "@b.example  <" + long("b", 68) + "@b.example>",
		"<" + long("d", 66) + "@e.example>  <" + long("d", 66) + "@e.example> é é",
		"<" + long("d", 66) + "@e.example>   <" + long("d", 66) + "@e.example> é é",
	} {
		for _, name := range []string{"X-Odd", "Comments"} {
			fields, err := ParseFields(map[string][]string{name: {value}}, Limits{HeaderSize: 64 << 10})
			if err != nil {
				t.Fatalf("%s: %q: %v", name, value, err)
			}
			var b headerBlock
			fields[0].write(&b)
			if err := checkHeaderBytes(b.buf); err != nil {
				t.Errorf("%s: %q is written as %q: %v", name, value, b.buf, err)
			}
			got, err := writeField(name, value)
			if got = showEncoded(t, got); err != nil || strings.NewReplacer("«", "", "»", "").Replace(got) != value && !strings.Contains(got, "« »") {
				t.Errorf("%s: %q is read as %q (%v)", name, value, got, err)
			}
		}
	}
}

func TestDates(t *testing.T) {
	for value, want := range map[string]string{
		"Sat, 28 Feb 2026 10:00:00 +0100":                                    "2026-02-28T09:00:00Z",
		"Thu, 13 Feb 1969 23:32 -0330 (Newfoundland Time)":                   "1969-02-14T03:02:00Z",
		"Thu, 13 Feb 1969 23:32:54 -0330 (Newfoundland (summer \\) ) Time) ": "1969-02-14T03:02:54Z",
		"Fri, 21 Nov 1997 09(comment):   55  :  06 -0600":                    "1997-11-21T15:55:06Z",
		"(a) Fri (b) , (c) 21 (d) Nov (e) 1997 (f) 09:55:06 (g) -0600 (h)":   "1997-11-21T15:55:06Z",
		"21 Nov 97 09:55:06 GMT":                                             "1997-11-21T09:55:06Z",
		"Thu, 1 Jan 2026 9:05:06 +0000":                                      "2026-01-01T09:05:06Z",
		"Sat, 31 Dec 2016 23:59:60 +0000":                                    "2017-01-01T00:00:00Z",
		"Sun, 1 Jan 2017 05:29(a): 60 (b) +0530":                             "2017-01-01T00:00:00Z",
		"1 Jan 2017 05:29 : 60 +0530":                                        "2017-01-01T00:00:00Z",
		"Sat, 31 Dec 2016 23:60 +0000":                                       "",
		"Sat, 31 Dec 2016 23:59:61 +0000":                                    "",
		"yesterday":                                                          "",
		"Sat, 28 Feb 2026 10:00:00 +0100 (":                                  "",
		"Sat, 28 Feb 2026":                                                   "",
		"":                                                                   "",
		"(Sat, 28 Feb 2026 10:00:00 +0100)":                                  "",
	} {
		got, err := parseDate(value)
		switch {
		case want == "" && err == nil:
			t.Errorf("%s is read as %s", value, got)
		case want != "" && (err != nil || got.UTC().Format("2006-01-02T15:04:05Z") != want):
			t.Errorf("%s is read as %s (%v), want %s", value, got.UTC(), err, want)
		}
	}
}

// FuzzFields checks that no value of a field breaks out of its line, and that what is accepted is accepted again as it was written.
func FuzzFields(f *testing.F) {
	for _, s := range [][2]string{
		{"Errors-To", "Büro: \"a b\" (ü) <a(c)@b.example>, =?utf-8?q?x?= <\"y z\"@é.example>;"},
		{"List-Unsubscribe", "<https://ü.example/ü>, (ü) <mailto:ü@ü.example?x=ü> (\\))"},
		{"List-Id", "ü (ü) \"ü\" <a.b>"}, {"List-Post", "NO (ü)"}, {"References", "<a@b>(ü)<c@d>"}, {"Keywords", "ü, \"ü,\", a"},
		{"Sender", "A. [B] (c) <a@b.example>"}, {"X-Note", "<" + strings.Repeat("d", 66) + "@e>  <" + strings.Repeat("d", 66) + "@e> é é"},
		{"X-Priority", "1 (ü)"}, {"X-Note", "ü <a@b>  ü c@d ü <e>"}, {"X-Note", "ü =?utf-8?q?=41?= <a@b>"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		fields, err := ParseFields(map[string][]string{name: {value}}, Limits{HeaderSize: 64 << 10})
		if err != nil {
			if !utf8.ValidString(err.Error()) || strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Fatalf("the error is %q", err)
			}
			return
		}
		var b headerBlock
		fields[0].write(&b)
		m, err := mail.ReadMessage(strings.NewReader(string(b.buf) + "\r\n"))
		if err != nil || len(m.Header) != 1 {
			t.Fatalf("%s: %q is written as %q: %v, %v", name, value, b.buf, m, err)
		}
		// A complete message with the field is accepted, if no address in it needs SMTPUTF8 and no word is longer than a line.
		if isASCII(b.buf) && b.longest <= MaxLine {
			raw := append([]byte("From: a@b.example\r\n"), b.buf...)
			if _, err := ParseRaw(append(raw, "\r\nx\r\n"...), Limits{HeaderSize: 1 << 20}); err != nil {
				t.Fatalf("%s: %q is written as %q, which is refused as a complete message: %v", name, value, b.buf, err)
			}
		}
		written := m.Header.Get(name)
		if fields[0].pieces == nil && IsASCII(value) {
			if strings.TrimSpace(strings.ReplaceAll(string(b.buf)[len(name)+1:], "\r\n", "")) != strings.TrimSpace(value) {
				t.Fatalf("%s: %q is written as %q", name, value, b.buf)
			}
			return
		}
		if _, err := ParseFields(map[string][]string{name: {written}}, Limits{HeaderSize: 64 << 10}); err != nil {
			t.Fatalf("%s: %q is written as %q, which is refused: %v", name, value, written, err)
		}
	})
}
