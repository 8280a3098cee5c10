// Package textfile reads text files as editors and shells save them: in UTF-8, perhaps behind a byte order mark.
package textfile

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
)

// mark is the byte order mark in UTF-8 (RFC 3629 §6).
const mark = "\ufeff"

// EncodingError says that text is in another encoding than UTF-8.
type EncodingError struct {
	// Encoding is the name of the encoding, such as "UTF-16 (little-endian)".
	Encoding string
}

// Error names the encoding. It begins with a verb: the caller says what the text is.
func (e *EncodingError) Error() string { return "is in " + e.Encoding + ": save it as UTF-8" }

// Trim returns text without the byte order mark at its beginning. The error is an [*EncodingError], for text in UTF-16 or UTF-32.
// Trim does not check that other text is UTF-8.
func Trim(text []byte) ([]byte, error) {
	if encoding := otherEncoding(text[:min(len(text), peeked)]); encoding != "" {
		return nil, &EncodingError{Encoding: encoding}
	}
	return bytes.TrimPrefix(text, []byte(mark)), nil
}

// TrimString is [Trim] for a string.
func TrimString(text string) (string, error) {
	start := text[:min(len(text), peeked)]
	rest, err := Trim([]byte(start))
	if err != nil {
		return "", err
	}
	return text[len(start)-len(rest):], nil
}

// NewReader returns a reader of the text without the byte order mark at its beginning. Where [Trim] gives an error, so does its
// first Read.
func NewReader(r io.Reader) io.Reader { return &reader{in: bufio.NewReader(r)} }

// reader trims what in gives.
type reader struct {
	in    *bufio.Reader
	begun bool
	err   error
}

// Read gives the text behind the mark, or the error of a foreign encoding.
func (r *reader) Read(p []byte) (int, error) {
	if !r.begun {
		r.begun = true
		start, _ := r.in.Peek(peeked) // an error of r comes again with the next read
		rest, err := Trim(start)
		if r.err = err; err == nil {
			_, _ = r.in.Discard(len(start) - len(rest))
		}
	}
	if r.err != nil {
		return 0, fmt.Errorf("the text %w", r.err)
	}
	return r.in.Read(p)
}

// peeked is the number of bytes that tell an encoding.
const peeked = 4

// otherEncoding names the encoding of text that begins so, empty for UTF-8. Text in UTF-16 without a mark shows itself by the NUL of
// its first letter.
func otherEncoding(start []byte) string {
	has := func(prefix string) bool { return bytes.HasPrefix(start, []byte(prefix)) }
	zero := func(i int) bool { return i < len(start) && start[i] == 0 }
	switch {
	case has("\xff\xfe\x00\x00"), !zero(0) && zero(1) && zero(2) && zero(3):
		return "UTF-32 (little-endian)"
	case has("\x00\x00\xfe\xff"), zero(0) && zero(1) && zero(2) && len(start) > 3 && !zero(3):
		return "UTF-32 (big-endian)"
	case has("\xff\xfe"), !zero(0) && zero(1) && len(start) > 2 && !zero(2):
		return "UTF-16 (little-endian)"
	case has("\xfe\xff"), zero(0) && len(start) > 1 && !zero(1):
		return "UTF-16 (big-endian)"
	default:
		return ""
	}
}
