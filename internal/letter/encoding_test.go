package letter

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

func TestBase64Columns(t *testing.T) {
	for _, n := range []int{0, 1, 56, 57, 58, 57 * 63, 57 * 64, 57*64 + 1, 100_000} {
		data := bytes.Repeat([]byte{0xa5}, n)
		var out bytes.Buffer
		if err := writeBase64(&out, data); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(out.String(), "\r\n"), "\r\n")
		for i, line := range lines {
			if len(line) != 76 && i != len(lines)-1 || len(line) > 76 {
				t.Errorf("%d bytes: line %d has %d columns", n, i, len(line))
			}
		}
		got, err := base64.StdEncoding.DecodeString(strings.Join(lines, ""))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes do not come back: %v", n, err)
		}
	}
}

func TestTextEncodings(t *testing.T) {
	tests := []struct {
		name, text string
		want       encoding
	}{
		{"plain", "hello\nworld", sevenBit},
		{"line of 78", strings.Repeat("x", 78), sevenBit},
		{"line of 79", strings.Repeat("x", 79), quotedPrintable},
		{"tab", "a\tb", sevenBit},
		{"control", "a\x1bb", quotedPrintable},
		{"few accents", "a café on the corner of the street", quotedPrintable},
		{"mostly Chinese", "您的訂單已經寄出", base64Encoding},
		{"like a boundary", "--=_x", quotedPrintable},
	}
	for _, test := range tests {
		if got := textEntity("text/plain", test.text).encoding; got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestLineBreaksBecomeCRLF(t *testing.T) {
	for in, want := range map[string]string{
		"":           "\r\n",
		"a":          "a\r\n",
		"a\n":        "a\r\n",
		"a\r":        "a\r\n",
		"a\r\n":      "a\r\n",
		"a\n\nb":     "a\r\n\r\nb\r\n",
		"a\r\rb":     "a\r\n\r\nb\r\n",
		"a\r\r\nb":   "a\r\n\r\nb\r\n",
		"a\n\rb\r\n": "a\r\n\r\nb\r\n",
	} {
		if got := string(toCRLF(in)); got != want {
			t.Errorf("toCRLF(%q) = %q, want %q", in, got, want)
		}
	}
}
