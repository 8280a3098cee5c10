package letter

import (
	"net/mail"
	"slices"
	"strings"
	"testing"
)

// FuzzAddresses reads address lists in both syntaxes. The stricter reading must find what the looser one finds, and net/mail,
// where it reads the value too, the same addresses.
func FuzzAddresses(f *testing.F) {
	for _, s := range []string{
		"ann@example.org", "Ann <ann@example.org>, bob@example.net", "Team: a@b.c, D <d@e.f>;, x@y.z", "undisclosed:;",
		`"a, b" <"c d"@e.f> (g (h) \) i)`, "a(x)@(y)b(z).c", "<@a,@b:c@d.e>", ",, a@b.c,", "a..b.@docomo.ne.jp", "a@[192.0.2.1]", "a.\"b\".c@d.e",
		"=?utf-8?q?=C3=BC?= <a@b.c>", "a@b <c@d>", "A. [B] <c@d>", "ü <ü@ü.de>",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		loose, _, err := parseAddresses(value, asFound)
		if err != nil {
			if _, _, err := parseAddresses(value, asWritten); err == nil {
				t.Fatalf("%q is refused by the looser reading only", value)
			}
			return
		}
		found := make([]string, len(loose))
		for i, a := range loose {
			if a.local == "" || a.domain == "" {
				t.Fatalf("%q has the address %+v", value, a)
			}
			found[i] = a.local + "@" + a.domain
			if m, err := a.mailbox(); err == nil {
				if again, err := ParseMailbox(m.Addr); err != nil || again.Addr != m.Addr {
					t.Fatalf("%q has %q, which is read as %q (%v)", value, m.Addr, again.Addr, err)
				}
			}
		}
		if strict, _, err := parseAddresses(value, asWritten); err == nil {
			if len(strict) != len(loose) || !slices.Equal(strict, loose) {
				t.Fatalf("%q is read as %+v and as %+v", value, strict, loose)
			}
		}
		list, err := mail.ParseAddressList(value)
		if err != nil || strings.Contains(value, "[") {
			return
		}
		read := make([]string, len(list))
		for i, a := range list {
			read[i] = a.Address
		}
		if !slices.Equal(read, found) {
			t.Fatalf("%q is read as %q, and by net/mail as %q", value, found, read)
		}
	})
}

func TestObsoleteMessageIDs(t *testing.T) {
	for value, want := range map[string]string{
		`<"a@b" @ c>`:             `<"a@b"@c>`,
		`<"a@b"@c>`:               `<"a@b"@c>`,
		`< "a\"\b" (x) @ c . d >`: `<"a\"b"@c.d>`,
		"<a . b @ c>":             "<a.b@c>",
		"<a..b @ c>":              "<a..b@c>",
		"<a @ [192.0.2.1]>":       "<a@[192.0.2.1]>",
		`<"a b" @ c>`:             "",
		`<"a<b" @ c>`:             "",
	} {
		if got, err := ParseMessageID(value); got != want || (err == nil) != (want != "") {
			t.Errorf("%s is read as %s (%v), want %s", value, got, err, want)
		}
	}
}

// FuzzMessageID checks that a Message-ID can stand in a header, and is read again as it is.
func FuzzMessageID(f *testing.F) {
	for _, s := range []string{"<a@b>", " (x) <a@b> (y (z)) ", "<1234   @   local(blah)  .machine .example>", "<odd-id?>", "<a@[192.0.2.1]>", "<\"a b\"@c>", "<\"a@b\" @ c>", "<a><b>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		id, err := ParseMessageID(value)
		if err != nil {
			return
		}
		if id[0] != '<' || id[len(id)-1] != '>' || strings.ContainsAny(id[1:len(id)-1], "<> \t\r\n\x00") || !IsASCII(id) || len(id) > MaxLine {
			t.Fatalf("%q is read as %q", value, id)
		}
		if again, err := ParseMessageID(id); err != nil || again != id {
			t.Fatalf("%q is read as %q and then as %q (%v)", value, id, again, err)
		}
	})
}
