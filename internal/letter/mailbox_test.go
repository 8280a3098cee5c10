package letter

import (
	"net/mail"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestMailboxes(t *testing.T) {
	label := strings.Repeat("d", 63) + "."
	long := label + label + label + strings.Repeat("d", 60) // 252 bytes
	tests := []struct{ in, want string }{                   // an empty want means refused
		{"ann@example.org", "ann@example.org"},
		{"Ann.B+tag@Example.ORG", "Ann.B+tag@example.org"},
		{"!#$%&'*+-/=?^_`{|}~@example.org", "!#$%&'*+-/=?^_`{|}~@example.org"},
		{"a@localhost", "a@localhost"},
		{"a@3com.example", "a@3com.example"},
		{"a@x--y.example", "a@x--y.example"},
		{"a@bücher.example", "a@xn--bcher-kva.example"},
		{"a@BÜCHER.example", "a@xn--bcher-kva.example"},
		{"a@例え。テスト", "a@xn--r8jz45g.xn--zckzah"},
		{"a@xn--bcher-kva.example", "a@xn--bcher-kva.example"},
		{strings.Repeat("l", 64) + "@example.org", strings.Repeat("l", 64) + "@example.org"},
		{"a@" + long, "a@" + long},

		{"", ""},
		{"@", ""},
		{"ann", ""},
		{"ann@", ""},
		{"@example.org", ""},
		{"ann@@example.org", ""},
		{"a@b@example.org", ""},
		{" ann@example.org", ""},
		{"ann@example.org ", ""},
		{"ann @example.org", ""},
		{"ann@exa mple.org", ""},
		{"<ann@example.org>", ""},
		{"Ann <ann@example.org>", ""},
		{"ann@example.org, bob@example.org", ""},
		{"ann(comment)@example.org", ""},
		{`ann\@example.org`, ""},
		{`ann b@example.org`, ""},
		{`"ann b"@example.org`, `"ann b"@example.org`},
		{`"ann"@Example.org`, "ann@example.org"},
		{`"a\n\n"@example.org`, "ann@example.org"},
		{`"ann.b+c"@example.org`, "ann.b+c@example.org"},
		{`"a..b"@docomo.ne.jp`, `"a..b"@docomo.ne.jp`},
		{`"a..b."@docomo.ne.jp`, `"a..b."@docomo.ne.jp`},
		{`".ann"@example.org`, `".ann"@example.org`},
		{`"very.unusual.@"@example.com`, `"very.unusual.@"@example.com`},
		{`"a@b"@example.org`, `"a@b"@example.org`},
		{`"a\"b"@example.org`, `"a\"b"@example.org`},
		{`"a\\b"@example.org`, `"a\\b"@example.org`},
		{`"\a\ \b"@example.org`, `"a b"@example.org`},
		{`" "@example.org`, `" "@example.org`},
		{`"(),:;[]"@example.org`, `"(),:;[]"@example.org`},
		{`"jörg müller"@example.org`, `"jörg müller"@example.org`},
		{`"jörg"@example.org`, "jörg@example.org"},
		{`"john doe"@bücher.example`, `"john doe"@xn--bcher-kva.example`},
		{`""@example.org`, ""},
		{`"@example.org`, ""},
		{`"a`, ""},
		{`"a"`, ""},
		{`"a"b@example.org`, ""},
		{`a"b"@example.org`, ""},
		{`"a".b@example.org`, ""},
		{`"a"b"@example.org`, ""},
		{`"a\"@example.org`, ""},
		{`"a"@`, ""},
		{`"a"@b@example.org`, ""},
		{`"a"@[192.0.2.1]`, ""},
		{`"a> SIZE=1"@example.org`, ""},
		{`"<x>"@example.org`, ""},
		{`"a\>b"@example.org`, ""},
		{`"x@example.org> ORCPT=rfc822;y@example.org"@example.org`, ""},
		{"\"a\r\nRCPT TO:<b@c>\"@example.org", ""},
		{"\"a\nb\"@example.org", ""},
		{"\"a\\\nb\"@example.org", ""},
		{"\"a\tb\"@example.org", ""},
		{"\"a\x00b\"@example.org", ""},
		{"\"a\x7fb\"@example.org", ""},
		{"\"a\u0085b\"@example.org", ""},
		{"\"a\u200bb\"@example.org", ""},
		{"\"a\u00a0b\"@example.org", ""},
		{"\"a\xffb\"@example.org", ""},
		{".ann@example.org", ""},
		{"ann.@example.org", ""},
		{"ann..b@example.org", ""},
		{"ann@.example.org", ""},
		{"ann@example.org.", ""},
		{"ann@example..org", ""},
		{"ann@-example.org", ""},
		{"ann@example-.org", ""},
		{"ann@exa_mple.org", ""},
		{"ann@exam!ple.org", ""},
		{"ann@[192.0.2.1]", ""},
		{"ann@192.0.2.1", ""},
		{"ann@[IPv6:2001:db8::1]", ""},
		{"jörg@example.org", "jörg@example.org"},
		{"用户.名@例え.テスト", "用户.名@xn--r8jz45g.xn--zckzah"},
		{"अजय+tag@example.org", "अजय+tag@example.org"},
		{strings.Repeat("é", 32) + "@example.org", strings.Repeat("é", 32) + "@example.org"},
		{strings.Repeat("é", 33) + "@example.org", strings.Repeat("é", 33) + "@example.org"},
		{"a\u00a0b@example.org", ""},
		{"a\u200bb@example.org", ""},
		{"a\u202eb@example.org", ""},
		{"a\u2028b@example.org", ""},
		{"a\ufeffb@example.org", ""},
		{"a\u0085b@example.org", ""},
		{"a\ufffdb\xc3@example.org", ""},
		{"a\xff@example.org", ""},
		{"a@\xff.org", ""},
		{"a@exa\u0000mple.org", ""},
		{"a@xn--.example", ""},
		{"a@xn--zzzzzzzzzzzz99999.example", ""},
		{"a@ex\u2024ample\r.org", ""},
		{"ann@example.org\r\nRCPT TO:<eve@example.net>", ""},
		{"ann\n@example.org", ""},
		{"ann\t@example.org", ""},
		{"ann\x00@example.org", ""},
		{"ann\x7f@example.org", ""},
		{strings.Repeat("l", 65) + "@example.org", strings.Repeat("l", 65) + "@example.org"},
		{strings.Repeat("l", 486) + "@example.org", strings.Repeat("l", 486) + "@example.org"}, // 498
		{strings.Repeat("l", 487) + "@example.org", ""},
		{`"` + strings.Repeat("l ", 242) + `"@example.org`, `"` + strings.Repeat("l ", 242) + `"@example.org`}, // 498
		{`"` + strings.Repeat("l ", 242) + `l"@example.org`, ""},
		{`"` + strings.Repeat(`\l`, 486) + `"@example.org`, strings.Repeat("l", 486) + "@example.org"},
		{"aa@" + long, "aa@" + long},
		{"a@" + long + "d", "a@" + long + "d"}, // 253
		{"a@" + strings.Repeat("d", 64) + ".org", ""},
		{"a@" + long + "dd", ""},
	}
	for _, test := range tests {
		m, err := ParseMailbox(test.in)
		switch {
		case test.want == "" && err == nil:
			t.Errorf("%q is accepted as %q", test.in, m.Addr)
		case test.want != "" && err != nil:
			t.Errorf("%q is refused: %v", test.in, err)
		case m.Addr != test.want:
			t.Errorf("%q becomes %q, want %q", test.in, m.Addr, test.want)
		}
	}
}

// TestMisplacedDots shows that the error about a dot says how to write the mailboxes that have one.
func TestMisplacedDots(t *testing.T) {
	for _, s := range []string{"a..b.@docomo.ne.jp", ".a@example.org", "a.@example.org", "a..b@example.org"} {
		if _, err := ParseMailbox(s); err == nil || !strings.Contains(err.Error(), "in quotes") {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// FuzzMailbox checks that what is accepted can stand in an SMTP command and in a header, and means the same in both.
func FuzzMailbox(f *testing.F) {
	for _, s := range []string{
		"ann@example.org", "a@bücher.example", "a@例え。テスト", `"a b"@example.org`, "a@[192.0.2.1]", "a@xn--bcher-kva.de", "用户@例え.テスト",
		"a\u202e@b.c", `"a\"b\\"@c.d`, `"a..b"@c.d`, `"a> SIZE=1"@c.d`, `"@"@c.d`, `"\a"@c.d`, `"a"@"b"@c.d`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMailbox(s)
		if err != nil {
			return
		}
		if !utf8.ValidString(m.Addr) || strings.ContainsFunc(m.Addr, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q becomes %q, which has what cannot be seen", s, m.Addr)
		}
		local, ok := strings.CutSuffix(m.Addr, "@"+m.Domain)
		if !ok || len(m.Addr) > maxAddress || !IsASCII(m.Domain) || strings.ContainsAny(m.Domain, `<>()[]\,;:"@ `) {
			t.Fatalf("%q becomes %q with the domain %q", s, m.Addr, m.Domain)
		}
		special := `<>()[]\,;:"@ `
		if content, quoted := strings.CutPrefix(local, `"`); quoted {
			special = "<>"
			// Nothing but the last quotation mark may end the quotes.
			text, rest, err := unquote(local)
			if err != nil || rest != "" || len(content) < 2 {
				t.Fatalf("%q becomes %q, whose quotes end before %q (%v)", s, m.Addr, rest, err)
			}
			if again, _ := writeLocalPart(text); again != local {
				t.Fatalf("%q becomes %q, which is not canonical: %q", s, m.Addr, again)
			}
		} else if !strings.HasPrefix(s, local+"@") && !strings.HasPrefix(s, `"`) {
			t.Fatalf("%q becomes %q: the local part has changed", s, m.Addr)
		}
		if strings.ContainsAny(local, special) {
			t.Fatalf("%q becomes %q, which has one of %s", s, m.Addr, special)
		}
		parsed, err := mail.ParseAddress("<" + m.Addr + ">")
		if err != nil || (&mail.Address{Address: parsed.Address}).String() != "<"+m.Addr+">" {
			t.Fatalf("%q becomes %q, which net/mail reads as %v (%v)", s, m.Addr, parsed, err)
		}
		again, err := ParseMailbox(m.Addr)
		if err != nil || again != m {
			t.Fatalf("%q becomes %q and then %q (%v)", s, m.Addr, again.Addr, err)
		}
	})
}
