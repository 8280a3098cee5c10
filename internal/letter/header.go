package letter

import (
	"encoding/base64"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Lengths in bytes. MaxLine is the limit of a line without its CRLF (RFC 5322 §2.1.1). Header lines are folded at
// preferredLine, the limit of a line with an encoded word (RFC 2047 §2). An encoded word has at most one byte less.
const (
	MaxLine        = 998
	preferredLine  = 76
	maxEncodedWord = 75
)

// headerBlock collects header fields in the order of the calls that write them. Their values must have no line breaks.
// headerBlock folds the fields itself, because go-message would break words that are longer than a line.
type headerBlock struct {
	buf     []byte
	line    int // start of the current line in buf
	longest int // length of the longest line so far, without its CRLF
}

// reset empties the block and keeps its memory.
func (b *headerBlock) reset() { *b = headerBlock{buf: b.buf[:0]} }

// begin starts a field.
func (b *headerBlock) begin(name string) {
	b.line = len(b.buf)
	b.buf = append(b.buf, name...)
	b.buf = append(b.buf, ':')
}

// end finishes a field.
func (b *headerBlock) end() {
	b.longest = max(b.longest, len(b.buf)-b.line)
	b.buf = append(b.buf, '\r', '\n')
}

// space writes white space before a word of n bytes. It starts a new line if the word does not fit on the current one. The first
// word always stays on the line of the field's name.
func (b *headerBlock) space(n int) {
	if len(b.buf)-b.line+1+n > preferredLine && b.buf[len(b.buf)-1] != ':' {
		b.fold()
		return
	}
	b.buf = append(b.buf, ' ')
}

// fold starts a continuation line.
func (b *headerBlock) fold() {
	b.longest = max(b.longest, len(b.buf)-b.line)
	b.buf = append(b.buf, '\r', '\n')
	b.line = len(b.buf)
	b.buf = append(b.buf, ' ')
}

// raw writes a field with a short value and does not fold it.
func (b *headerBlock) raw(name, value string) {
	b.begin(name)
	b.buf = append(b.buf, ' ')
	b.buf = append(b.buf, value...)
	b.end()
}

// date writes the Date field.
func (b *headerBlock) date(t time.Time) {
	b.begin("Date")
	b.buf = append(b.buf, ' ')
	b.buf = t.AppendFormat(b.buf, dateLayout)
	b.end()
}

// text writes an unstructured field (RFC 5322 §2.2.1). It encodes a value that is not plain ASCII, that looks encoded, or that
// has words longer than a line.
func (b *headerBlock) text(name, value string) {
	b.begin(name)
	if isPlain(value) && !hasLongWord(value) {
		b.words(value)
	} else {
		b.buf = append(b.buf, ' ')
		b.encoded(value)
	}
	b.end()
}

// opaque writes a field of unknown syntax. It encodes a value that is not ASCII.
func (b *headerBlock) opaque(name, value string) {
	b.begin(name)
	switch {
	case value == "":
	case IsASCII(value):
		b.words(value)
	default:
		b.buf = append(b.buf, ' ')
		b.encoded(value)
	}
	b.end()
}

// tokens writes a structured field with an ASCII value, folded and not encoded.
func (b *headerBlock) tokens(name, value string) {
	b.begin(name)
	b.buf = append(b.buf, ' ')
	b.folded(value, nextFoldUnquoted)
	b.end()
}

// words writes a space and ASCII text, folded.
func (b *headerBlock) words(value string) {
	b.buf = append(b.buf, ' ')
	b.folded(value, nextFold)
}

// folded writes ASCII text, folded at the places that next finds.
func (b *headerBlock) folded(value string, next func(string) int) {
	for {
		i := next(value)
		if i < 0 {
			b.buf = append(b.buf, value...)
			return
		}
		b.buf = append(b.buf, value[:i]...)
		value = value[i+1:]
		word := next(value)
		if word < 0 {
			word = len(value)
		}
		b.space(word)
	}
}

// nextFoldUnquoted is nextFold for structured text. It skips quoted-strings, because some readers show a fold inside them.
func nextFoldUnquoted(s string) int {
	quoted, depth := false, 0
	for i := 0; i < len(s)-1; i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case c == '"' && depth == 0:
			quoted = !quoted
		case quoted:
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ' ' && i > 0 && s[i-1] != ' ' && s[i+1] != ' ':
			return i
		}
	}
	return -1
}

// nextFold returns the index of the first single space between two words in s, or -1. Readers disagree about a fold inside a run
// of spaces.
func nextFold(s string) int {
	for i := 1; i < len(s)-1; i++ {
		if s[i] == ' ' && s[i-1] != ' ' && s[i+1] != ' ' {
			return i
		}
	}
	return -1
}

// addresses writes a mailbox-list (RFC 5322 §3.4).
func (b *headerBlock) addresses(name string, list []Mailbox) {
	b.begin(name)
	for i := range list {
		if i > 0 {
			b.buf = append(b.buf, ',')
		}
		m := &list[i]
		if m.Name == "" {
			b.space(len(m.Addr) + 1)
			b.buf = append(b.buf, m.Addr...)
			continue
		}
		// A mailbox stays on one line if it fits. A name stays in one encoded word if it fits, because some readers show the
		// white space between two encoded words.
		plain, n := isPlain(m.Name), len(m.Name)+2
		if !plain || n > maxEncodedWord {
			plain = false
			n = firstWordLength(m.Name)
		}
		if whole := n + 1 + len(m.Addr) + 3; whole < preferredLine {
			n = whole
		}
		b.space(n)
		if plain {
			b.quoted(m.Name)
		} else {
			b.encoded(m.Name)
		}
		b.space(len(m.Addr) + 3) // with the brackets and the comma that may follow
		b.buf = append(b.buf, '<')
		b.buf = append(b.buf, m.Addr...)
		b.buf = append(b.buf, '>')
	}
	b.end()
}

// quoted writes a quoted-string.
func (b *headerBlock) quoted(s string) { b.buf = appendQuoted(b.buf, s) }

// appendQuoted appends a quoted-string (RFC 5322 §3.2.4).
func appendQuoted(buf []byte, s string) []byte {
	buf = append(buf, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			buf = append(buf, '\\')
		}
		buf = append(buf, s[i])
	}
	return append(buf, '"')
}

const (
	wordStartQ = "=?utf-8?q?"
	wordStartB = "=?utf-8?b?"
	wordEnd    = "?="
	// minEncodedWord has room for one character of four bytes in the Q encoding.
	minEncodedWord = len(wordStartQ) + 12 + len(wordEnd)
)

// encoded writes encoded words (RFC 2047) in the shorter of the two encodings. No character is split between two words.
func (b *headerBlock) encoded(s string) {
	if inBase64, _ := wordLength(s); inBase64 {
		b.encodedB(s)
	} else {
		b.encodedQ(s)
	}
}

// wordLength returns the shorter of the two encodings for s, and the length in bytes of s as one encoded word.
func wordLength(s string) (inBase64 bool, n int) {
	q := len(s)
	for i := range len(s) {
		if !isWordSafe(s[i]) && s[i] != ' ' {
			q += 2
		}
	}
	b := base64.StdEncoding.EncodedLen(len(s))
	return b < q, min(b, q) + len(wordStartQ) + len(wordEnd)
}

// firstWordLength returns the number of bytes that the first encoded word of s needs on a line.
func firstWordLength(s string) int {
	_, n := wordLength(s)
	return max(minEncodedWord, min(n, maxEncodedWord))
}

// room returns the number of encoded bytes that fit into an encoded word on the current line. It starts a new line if the current
// one is nearly full.
func (b *headerBlock) room() int {
	left := min(preferredLine-(len(b.buf)-b.line), maxEncodedWord)
	if left < minEncodedWord {
		b.fold()
		left = maxEncodedWord
	}
	return left - len(wordStartQ) - len(wordEnd)
}

func (b *headerBlock) encodedQ(s string) {
	for first := true; len(s) > 0; first = false {
		if !first {
			b.fold()
		}
		left := b.room()
		b.buf = append(b.buf, wordStartQ...)
		for len(s) > 0 {
			_, n := utf8.DecodeRuneInString(s)
			cost := 3 * n
			if n == 1 && (isWordSafe(s[0]) || s[0] == ' ') {
				cost = 1
			}
			if cost > left {
				break
			}
			left -= cost
			switch {
			case s[0] == ' ':
				b.buf = append(b.buf, '_')
			case cost == 1:
				b.buf = append(b.buf, s[0])
			default:
				for i := range n {
					b.buf = append(b.buf, '=', upperHex[s[i]>>4], upperHex[s[i]&15])
				}
			}
			s = s[n:]
		}
		b.buf = append(b.buf, wordEnd...)
	}
}

func (b *headerBlock) encodedB(s string) {
	for first := true; len(s) > 0; first = false {
		if !first {
			b.fold()
		}
		most := b.room() / 4 * 3
		n := 0
		for n < len(s) {
			_, size := utf8.DecodeRuneInString(s[n:])
			if n+size > most {
				break
			}
			n += size
		}
		b.buf = append(b.buf, wordStartB...)
		b.buf = base64.StdEncoding.AppendEncode(b.buf, []byte(s[:n]))
		b.buf = append(b.buf, wordEnd...)
		s = s[n:]
	}
}

const upperHex = "0123456789ABCDEF"

// isWordSafe says whether an encoded word may hold c unencoded in every place (RFC 2047 §5 (3)).
func isWordSafe(c byte) bool {
	return IsAlphanumeric(c) || c == '!' || c == '*' || c == '+' || c == '-' || c == '/'
}

// isPlain says whether readers show s unchanged if it is written without encoding.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return !strings.Contains(s, "=?") && strings.TrimSpace(s) == s
}

// hasLongWord says whether s has a part that is longer than a preferred line and has no place to fold.
func hasLongWord(s string) bool {
	for {
		i := nextFold(s)
		if i < 0 {
			return len(s) > preferredLine-1
		}
		if i > preferredLine-1 {
			return true
		}
		s = s[i+1:]
	}
}

// maxPlainParam is the longest value in bytes of a parameter in quotes.
const maxPlainParam = 60

// param writes a parameter of a structured field. Short plain ASCII is in quotes, any other value in the form of RFC 2231.
func (b *headerBlock) param(name, value string) {
	b.buf = append(b.buf, ';')
	if isPlain(value) && len(value) <= maxPlainParam {
		b.space(len(name) + len(value) + 3)
		b.buf = append(b.buf, name...)
		b.buf = append(b.buf, '=')
		b.quoted(value)
		return
	}
	b.param2231(name, value)
}

// param2231 writes a parameter in UTF-8. It splits one that is longer than a line into numbered pieces (RFC 2231 §3 and §4).
func (b *headerBlock) param2231(name, value string) {
	const charset = "utf-8''"
	const perLine = 48
	cost := 0
	for i := range len(value) {
		cost += cost2231(value[i])
	}
	if cost <= perLine {
		b.space(len(name) + len("*=") + len(charset) + cost)
		b.buf = append(b.buf, name...)
		b.buf = append(b.buf, "*="...)
		b.buf = append(b.buf, charset...)
		for i := range len(value) {
			b.byte2231(value[i])
		}
		return
	}
	for section, i := 0, 0; i < len(value); section++ {
		if section > 0 {
			b.buf = append(b.buf, ';')
		}
		b.fold()
		b.buf = append(b.buf, name...)
		b.buf = append(b.buf, '*')
		b.buf = strconv.AppendInt(b.buf, int64(section), 10)
		b.buf = append(b.buf, "*="...)
		if section == 0 {
			b.buf = append(b.buf, charset...)
		}
		for left := perLine; i < len(value); {
			_, n := utf8.DecodeRuneInString(value[i:])
			cost := 0
			for j := range n {
				cost += cost2231(value[i+j])
			}
			if cost > left {
				break
			}
			left -= cost
			for j := range n {
				b.byte2231(value[i+j])
			}
			i += n
		}
	}
}

// cost2231 returns the encoded length of a byte in an extended parameter.
func cost2231(c byte) int {
	if isAttributeChar(c) {
		return 1
	}
	return 3
}

// byte2231 writes a byte of an extended parameter.
func (b *headerBlock) byte2231(c byte) {
	if isAttributeChar(c) {
		b.buf = append(b.buf, c)
		return
	}
	b.buf = append(b.buf, '%', upperHex[c>>4], upperHex[c&15])
}

// isAttributeChar says whether an extended parameter holds c unencoded. RFC 2231 §7 allows more characters.
func isAttributeChar(c byte) bool {
	return IsAlphanumeric(c) || c == '-' || c == '.' || c == '_'
}

// encodedParam writes a parameter as encoded words in quotes. RFC 2047 §5 forbids this form, but Outlook and other old readers
// understand no other for a file name outside ASCII.
func (b *headerBlock) encodedParam(name, value string) {
	b.buf = append(b.buf, ';')
	b.fold()
	b.buf = append(b.buf, name...)
	b.buf = append(b.buf, '=', '"')
	b.encoded(value)
	b.buf = append(b.buf, '"')
}
