package textfile

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf16"
)

// inUTF16 encodes text.
func inUTF16(s string, order binary.AppendByteOrder) string {
	var out []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		out = order.AppendUint16(out, unit)
	}
	return string(out)
}

// inUTF32 encodes text.
func inUTF32(s string, order binary.AppendByteOrder) string {
	var out []byte
	for _, r := range s {
		out = order.AppendUint32(out, uint32(r))
	}
	return string(out)
}

func TestTrim(t *testing.T) {
	const text = "abc é"
	for _, test := range []struct{ in, want, encoding string }{
		{text, text, ""},
		{mark + text, text, ""},
		{mark + mark + text, mark + text, ""},
		{mark, "", ""},
		{"", "", ""},
		{"a", "a", ""},
		{"\xef\xbb", "\xef\xbb", ""},
		{"é" + mark, "é" + mark, ""},
		{"Gr\xfc\xdfe", "Gr\xfc\xdfe", ""}, // other checks refuse it
		{inUTF16(mark+text, binary.LittleEndian), "", "UTF-16 (little-endian)"},
		{inUTF16(mark+text, binary.BigEndian), "", "UTF-16 (big-endian)"},
		{inUTF16(mark, binary.LittleEndian), "", "UTF-16 (little-endian)"},
		{inUTF16(text, binary.LittleEndian), "", "UTF-16 (little-endian)"},
		{inUTF16(text, binary.BigEndian), "", "UTF-16 (big-endian)"},
		{inUTF16(mark+"語", binary.BigEndian), "", "UTF-16 (big-endian)"},
		{inUTF32(mark+text, binary.LittleEndian), "", "UTF-32 (little-endian)"},
		{inUTF32(mark+text, binary.BigEndian), "", "UTF-32 (big-endian)"},
		{inUTF32(text, binary.LittleEndian), "", "UTF-32 (little-endian)"},
		{inUTF32(text, binary.BigEndian), "", "UTF-32 (big-endian)"},
	} {
		fromBytes, err := Trim([]byte(test.in))
		fromString, errString := TrimString(test.in)
		fromReader, errReader := io.ReadAll(NewReader(iotest.OneByteReader(strings.NewReader(test.in))))
		for _, got := range []struct {
			text string
			err  error
		}{{string(fromBytes), err}, {fromString, errString}, {string(fromReader), errReader}} {
			var other *EncodingError
			if errors.As(got.err, &other) != (test.encoding != "") || other == nil && (got.err != nil || got.text != test.want) {
				t.Errorf("%q: %q (%v), want %q %s", test.in, got.text, got.err, test.want, test.encoding)
			}
			if other != nil && (other.Encoding != test.encoding || !strings.Contains(other.Error(), "is in "+test.encoding+": save it as UTF-8")) {
				t.Errorf("%q: %v, want %s", test.in, got.err, test.encoding)
			}
		}
	}
}

func TestReaderKeepsErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, start := range []string{"", "a", mark + "abc"} {
		got, err := io.ReadAll(NewReader(io.MultiReader(strings.NewReader(start), iotest.ErrReader(broken))))
		if !errors.Is(err, broken) || string(got) != strings.TrimPrefix(start, mark) {
			t.Errorf("%q: %q, %v", start, got, err)
		}
	}
	r := NewReader(strings.NewReader("\xff\xfea\x00"))
	for range 2 {
		if n, err := r.Read(make([]byte, 9)); n != 0 || !errors.As(err, new(*EncodingError)) {
			t.Errorf("%d, %v", n, err)
		}
	}
}
