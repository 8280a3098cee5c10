package letter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/outboxmail/outbox/internal/textfile"
)

// MaxSubject is the longest subject in bytes: as long as an unfolded line may be (RFC 5322 §2.1.1).
const MaxSubject = MaxLine

// CheckLine checks text that stands on one line: UTF-8 without control characters, so neither a line break nor a NUL.
func CheckLine(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("is longer than %d bytes", limit)
	}
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return fmt.Errorf("contains the control character %q", rune(c))
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return errors.New("is not valid UTF-8")
		case unicode.IsControl(r):
			return fmt.Errorf("contains the control character %q", r)
		}
		i += n
	}
	return nil
}

// ParseText checks text that may have lines, and returns it without the byte order mark that a file may have at its beginning.
func ParseText(s string) (string, error) {
	s, err := textfile.TrimString(s)
	switch {
	case err != nil:
		return "", err
	case strings.IndexByte(s, 0) >= 0:
		return "", errors.New("contains a NUL byte")
	case !utf8.ValidString(s):
		return "", errors.New("is not valid UTF-8")
	}
	return s, nil
}

// Quote quotes a value for an error. It cuts a long value off.
func Quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:most]) + "…"
}
