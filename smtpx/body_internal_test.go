package smtpx

import (
	"bufio"
	"bytes"
	"io"
	"net/textproto"
	"strings"
	"testing"
)

// onWire is what the server reads for a body that is written in blocks of a size.
func onWire(t *testing.T, data []byte, block int) []byte {
	t.Helper()
	b, err := checkBody(data)
	if err != nil {
		t.Fatalf("checkBody(%q): %v", data, err)
	}
	r := b.dotReader()
	var wire []byte
	for !r.done() {
		p := r.appendBlock(nil, block)
		if len(p) == 0 {
			t.Fatalf("an empty block of %q", data)
		}
		wire = append(wire, p...)
	}
	return append(wire, endOfData...)
}

func TestDotReader(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\n":           "a\r\n.\r\n",
		"a":               "a\r\n.\r\n",
		"\r\n":            "\r\n.\r\n",
		".":               "..\r\n.\r\n",
		".\r\n":           "..\r\n.\r\n",
		"..\r\n":          "...\r\n.\r\n",
		"a\r\n.":          "a\r\n..\r\n.\r\n",
		"a\r\n.\r\nb\r\n": "a\r\n..\r\nb\r\n.\r\n",
		".a.b\r\n..c\r\n": "..a.b\r\n...c\r\n.\r\n",
		"a\r\n\r\n":       "a\r\n\r\n.\r\n",
	} {
		for block := 1; block < len(in)+4; block++ {
			if got := string(onWire(t, []byte(in), block)); got != want {
				t.Errorf("%q in blocks of %d is %q, want %q", in, block, got, want)
			}
		}
	}
}

func TestCheckBodyRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                  "empty",
		"a\n":                               "bare LF on line 1",
		"a\r\nb\nc\r\n":                     "bare LF on line 2",
		"a\rb\r\n":                          "bare CR on line 1",
		"a\r":                               "bare CR on line 1",
		"a\r\r\n":                           "bare CR on line 1",
		"\n":                                "bare LF on line 1",
		"a\x00b\r\n":                        "NUL on line 1",
		"a\r\n.\nMAIL FROM:<evil@x>\r\n":    "bare LF on line 2",
		"a\r\n.\rMAIL FROM:<evil@x>\r\n":    "bare CR on line 2",
		"a\n.\r\nMAIL FROM:<evil@x>\r\n":    "bare LF on line 1",
		"a\r.\r\nMAIL FROM:<evil@x>\r\n":    "bare CR on line 1",
		"a\n.\nMAIL FROM:<evil@x>\r\n":      "bare LF on line 1",
		"a\r\n\x00.\r\nMAIL FROM:<x@x>\r\n": "NUL on line 2",
		"a\n\r.\n\rMAIL FROM:<evil@x>\r\n":  "bare LF on line 1",
		"A: \xc3\xa9\r\nB: \xe9\r\n\r\nx":   "neither ASCII nor UTF-8",
		"A: \xe9\r\n\r\nx":                  "octets on line 1",
		"a\r\nb\r\n" + "tail without\rend":  "bare CR on line 3",
	} {
		if _, err := checkBody([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("checkBody(%q): %v, want %q", in, err, want)
		}
	}
}

func TestCheckBodyNotices8Bit(t *testing.T) {
	for in, want := range map[string][2]bool{
		"Subject: a\r\n\r\nb\r\n":          {false, false},
		"Subject: a\r\n\r\n\xc3\xa9\r\n":   {true, false},
		"Subject: \xc3\xa9\r\n\r\nb\r\n":   {true, true},
		"Subject: \xc3\xa9":                {true, true},
		"Subject: a\r\n\r\n\r\n\xff\xfe":   {true, false},
		"A: b\r\n \xc3\xa9\r\nC: \xc3\xa9": {true, true},
	} {
		b, err := checkBody([]byte(in))
		if err != nil || b.bit8 != want[0] || b.hdr8 != want[1] {
			t.Errorf("%q: 8-bit %v, in the header %v, %v; want %v", in, b.bit8, b.hdr8, err, want)
		}
	}
}

// FuzzDotReader checks the dot-writer against the reader of the standard library: what is refused could not be read back,
// and the rest arrives as it was, whatever the size of the blocks.
func FuzzDotReader(f *testing.F) {
	for _, s := range []string{"a\r\n", ".", "..\r\n.\r\n", "a\r\n.b", "\r\n\r\n", "a\n", "a\r", "\xff\x00"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, block uint8) {
		if _, err := checkBody(data); err != nil {
			return
		}
		wire := onWire(t, data, int(block)+1)
		if i := bytes.Index(wire, []byte("\r\n.\r\n")); i >= 0 && i != len(wire)-5 {
			t.Fatalf("the end of data stands inside %q", wire)
		}
		got, err := io.ReadAll(textproto.NewReader(bufio.NewReader(bytes.NewReader(wire))).DotReader())
		if err != nil {
			t.Fatalf("%q: %v", wire, err)
		}
		want := strings.ReplaceAll(string(data), "\r\n", "\n")
		if !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if string(got) != want {
			t.Errorf("%q arrives as %q", data, got)
		}
	})
}
