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
		{`"ann b"@example.org`, ""},
		{`"ann"@example.org`, ""},
		{`ann\@example.org`, ""},
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
		{strings.Repeat("é", 33) + "@example.org", ""},
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
		{strings.Repeat("l", 65) + "@example.org", ""},
		{"a@" + strings.Repeat("d", 64) + ".org", ""},
		{"aa@" + long, ""},
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

// FuzzMailbox checks that what is accepted can stand in an SMTP command and in a header, and means the same in both.
func FuzzMailbox(f *testing.F) {
	for _, s := range []string{"ann@example.org", "a@bücher.example", "a@例え。テスト", `"a b"@example.org`, "a@[192.0.2.1]", "a@xn--bcher-kva.de", "用户@例え.テスト", "a\u202e@b.c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMailbox(s)
		if err != nil {
			return
		}
		if !utf8.ValidString(m.Addr) || strings.ContainsFunc(m.Addr, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
			t.Fatalf("%q becomes %q, which has what cannot be seen", s, m.Addr)
		}
		for i := range len(m.Addr) {
			if c := m.Addr[i]; c <= ' ' || c == 0x7f || c > 0x7f && i > strings.IndexByte(m.Addr, '@') || strings.IndexByte(`<>()[]\,;:"`, c) >= 0 {
				t.Fatalf("%q becomes %q, which contains %q", s, m.Addr, c)
			}
		}
		if len(m.Addr) > 254 || strings.Count(m.Addr, "@") != 1 || !strings.HasSuffix(m.Addr, "@"+m.Domain) {
			t.Fatalf("%q becomes %q with the domain %q", s, m.Addr, m.Domain)
		}
		if !strings.HasPrefix(s, m.Addr[:strings.IndexByte(m.Addr, '@')]+"@") {
			t.Fatalf("%q becomes %q: the local part has changed", s, m.Addr)
		}
		parsed, err := mail.ParseAddress(m.Addr)
		if err != nil || parsed.Address != m.Addr {
			t.Fatalf("%q becomes %q, which net/mail reads as %v (%v)", s, m.Addr, parsed, err)
		}
		again, err := ParseMailbox(m.Addr)
		if err != nil || again.Addr != m.Addr {
			t.Fatalf("%q becomes %q and then %q (%v)", s, m.Addr, again.Addr, err)
		}
	})
}
