package letter

import (
	"mime"
	"net/mail"
	"strings"
	"testing"
)

// TestTextFields reads back fields whose names and values have every length near the limits of a line.
func TestTextFields(t *testing.T) {
	for _, nameLen := range []int{1, 20, maxFieldName} {
		name := "X" + strings.Repeat("n", nameLen-1)
		for _, unit := range []string{"x", "é", "名", "🎉", "a b", "=", "?", "ab 名 "} {
			for _, n := range []int{1, 5, 11, 12, 13, 24, 25, 60, 61, 75, 76, 77, 200} {
				value := strings.TrimSpace(strings.Repeat(unit, n))
				for kind, write := range map[string]func(b *headerBlock){
					"text":   func(b *headerBlock) { b.text(name, value) },
					"opaque": func(b *headerBlock) { b.opaque(name, value) },
				} {
					var b headerBlock
					write(&b)
					m, err := mail.ReadMessage(strings.NewReader(string(b.buf) + "\r\n"))
					if err != nil {
						t.Fatalf("%s of %q ×%d: %v\n%q", kind, unit, n, err, b.buf)
					}
					got, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get(name))
					if err != nil || got != value {
						t.Errorf("%s of %q ×%d is read as %q (%v)\n%q", kind, unit, n, got, err, b.buf)
					}
					longest := 0
					for line := range strings.SplitSeq(strings.TrimSuffix(string(b.buf), "\r\n"), "\r\n") {
						longest = max(longest, len(line))
						if strings.TrimSpace(line) == "" {
							t.Errorf("%s of %q ×%d has a line of white space: %q", kind, unit, n, b.buf)
						}
					}
					if longest != b.longest || len(m.Header) != 1 {
						t.Errorf("%s of %q ×%d: longest line %d, noted %d; header %v", kind, unit, n, longest, b.longest, m.Header)
					}
					if limit := preferredLine + nameLen + 2; longest > limit && kind == "text" {
						t.Errorf("%s of %q ×%d has a line of %d bytes: %q", kind, unit, n, longest, b.buf)
					}
				}
			}
		}
	}
}

// TestParameters reads back parameters of every length near the limits of a line.
func TestParameters(t *testing.T) {
	for _, unit := range []string{"x", "é", "名", "🎉", "a b", `"`, `\`, "%", "'", "=?", "ab 名 "} {
		for _, n := range []int{1, 5, 8, 15, 16, 17, 30, 59, 60, 61, 85} {
			value := strings.TrimSpace(strings.Repeat(unit, n))
			var b headerBlock
			b.begin("Content-Disposition")
			b.buf = append(b.buf, " attachment"...)
			b.param("filename", value)
			b.end()
			m, err := mail.ReadMessage(strings.NewReader(string(b.buf) + "\r\n"))
			if err != nil {
				t.Fatalf("%q ×%d: %v\n%q", unit, n, err, b.buf)
			}
			_, params, err := mime.ParseMediaType(m.Header.Get("Content-Disposition"))
			if err != nil || params["filename"] != value {
				t.Errorf("%q ×%d is read as %q (%v)\n%q", unit, n, params["filename"], err, b.buf)
			}
			if b.longest > 2*maxPlainParam+20 || !isPlain(value) && b.longest > preferredLine {
				t.Errorf("%q ×%d has a line of %d bytes: %q", unit, n, b.longest, b.buf)
			}
		}
	}
}

func TestSubjectOfARawMessage(t *testing.T) {
	for in, want := range map[string]string{
		"":                                       "",
		"plain":                                  "plain",
		"=?utf-8?q?caf=C3=A9?=":                  "café",
		"=?utf-8?b?w7E=?= =?utf-8?q?x?=":         "ñx",
		"=?iso-8859-1?q?caf=E9?=":                "café",
		"=?gb2312?b?xOO6ww==?=":                  "=?gb2312?b?xOO6ww==?=", // a character set that is not known here
		"=?utf-8?q?a=0D=0Ab=00c=1B[1m?=":         "a  b c [1m",
		"=?utf-8?q?=FF?=":                        "\uFFFD",
		strings.Repeat("s", 1200):                strings.Repeat("s", MaxSubject),
		strings.Repeat("=?utf-8?b?5ZCN?= ", 400): strings.Repeat("名", MaxSubject/3),
	} {
		if got := decodeSubject(in); got != want {
			t.Errorf("%q is decoded to %q, want %q", in, got, want)
		}
	}
}
