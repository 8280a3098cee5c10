package smtpx

import (
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"a@example.com":                   "a@example.com",
		"A.B+tag@Example.COM":             "A.B+tag@example.com",
		"o'hara@example.com":              "o'hara@example.com",
		`"john doe"@example.com`:          `"john doe"@example.com`,
		`"a@b"@example.com`:               `"a@b"@example.com`,
		`"a\"b\\c"@example.com`:           `"a\"b\\c"@example.com`,
		"a@[192.0.2.1]":                   "a@[192.0.2.1]",
		"a@[IPv6:2001:db8::1]":            "a@[IPv6:2001:db8::1]",
		"a@bücher.example":                "a@xn--bcher-kva.example",
		"a@BÜCHER.example":                "a@xn--bcher-kva.example",
		"用户@例え.テスト":                       "用户@xn--r8jz45g.xn--zckzah",
		"a@localhost":                     "a@localhost",
		"a@some_host.example":             "a@some_host.example",
		"!#$%&'*+-/=?^_`{|}~@example.com": "!#$%&'*+-/=?^_`{|}~@example.com",
	} {
		a, err := parseAddress(in)
		if err != nil || a.text != want {
			t.Errorf("parseAddress(%q) is %q, %v; want %q", in, a.text, err, want)
		}
		if a.utf8 != (in == "用户@例え.テスト") {
			t.Errorf("parseAddress(%q) needs SMTPUTF8: %v", in, a.utf8)
		}
	}
}

var badAddresses = []string{
	"", "a", "@", "a@", "@example.com", "a b@example.com", "a@exa mple.com", "<a@example.com>", "a@example.com>",
	"a@example.com> SIZE=1", "a@example.com\r\nRSET", "a\r\n@example.com", "a\x00@example.com", "a@example.com\x00",
	"a\t@example.com", ".a@example.com", "a.@example.com", "a..b@example.com", `"a@example.com`, `a"b"@example.com`,
	`""@example.com`, `"a"b"@example.com`, `"a\"@example.com`, `"a<b"@example.com`, `"a>b"@example.com`, "\"a\r\nb\"@example.com",
	`"x@example.com> ORCPT=rfc822;y@example.com"@example.com`, "a@-example.com", "a@example-.com", "a@example..com",
	"a@example.com.", "a@.example.com", "a@[999.0.2.1]", "a@[192.0.2.1", "a@[IPv6:zz]", "a@exam>ple.com", "a@exa\u202emple.com",
	"a,b@example.com", "a;b@example.com", "a(c)@example.com", "a\\b@example.com", "a\u00a0b@example.com", "a@b@example.com",
	"\xff@example.com", "a@\xff.example", "a@example.com,b@example.com", "a@" + strings.Repeat("a", 64) + ".com",
	strings.Repeat("a", 487) + "@example.com", "a@ex%ample.com", "a@example.com ",
}

// TestLongAddresses shows that the size that a server must accept is not the largest one that is sent.
func TestLongAddresses(t *testing.T) {
	for _, local := range []string{strings.Repeat("a", 65), strings.Repeat("a", 255), strings.Repeat("a", 486), `"` + strings.Repeat("a ", 242) + `"`} {
		in := local + "@example.com"
		if a, err := parseAddress(in); err != nil || a.text != in {
			t.Errorf("%d octets: %q, %v", len(in), a.text, err)
		}
	}
}

func TestParseAddressRefuses(t *testing.T) {
	for _, in := range badAddresses {
		if a, err := parseAddress(in); err == nil {
			t.Errorf("parseAddress(%q) is %q", in, a.text)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range badAddresses {
		f.Add(s)
	}
	f.Add("a@example.com")
	f.Add(`"a b\"c"@bücher.example`)
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAddress(s)
		if err != nil {
			return
		}
		if strings.ContainsAny(a.text, "<>\r\n\x00\t") || len(a.text) > maxPath {
			t.Fatalf("%q is written as %q", s, a.text)
		}
		if strings.Contains(a.text, " ") && a.text[0] != '"' {
			t.Fatalf("%q has a space outside of quotes: %q", s, a.text)
		}
		if !a.utf8 && !ascii(a.text) {
			t.Fatalf("%q needs SMTPUTF8 and does not say so: %q", s, a.text)
		}
		again, err := parseAddress(a.text)
		if err != nil || again != a {
			t.Fatalf("%q is %+v, which is %+v, %v", s, a, again, err)
		}
	})
}
