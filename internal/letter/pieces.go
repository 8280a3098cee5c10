package letter

import "strings"

// piece is a part of a structured field. The writer puts white space only between pieces.
type piece struct {
	kind  pieceKind
	text  string
	glued bool // no white space stands before it
	bare  bool // a phrase that lacked the quotes that it needs
}

type pieceKind int

const (
	verbatim pieceKind = iota // ASCII, written as it is
	phrase                    // text for people, quoted or encoded where needed (RFC 2047 §5 (3))
	comment                   // the inside of a comment, encoded where needed (RFC 2047 §5 (2))
	free                      // a part of unstructured text, encoded where needed (RFC 2047 §5 (1))
)

// structured writes a field from its pieces.
func (b *headerBlock) structured(name string, pieces []piece) {
	b.begin(name)
	for i := range pieces {
		p := &pieces[i]
		switch p.kind {
		case verbatim:
			if !p.glued {
				b.space(len(p.text) + 1) // with a comma that may follow
			}
			b.buf = append(b.buf, p.text...)
		case phrase:
			b.phrase(p.text)
		case comment:
			b.comment(p.text)
		case free:
			b.free(p.text)
		}
	}
	b.end()
}

// phrase writes text that is not empty as atoms, as a quoted-string or as encoded words, the first that can hold it.
func (b *headerBlock) phrase(s string) {
	switch n := len(s) + 2; {
	case !isPlain(s) || n > maxEncodedWord:
		b.space(firstWordLength(s))
		b.encoded(s)
	case isAtoms(s):
		b.space(n)
		b.buf = append(b.buf, s...)
	default:
		b.space(n)
		b.quoted(s)
	}
}

// comment writes a comment from its inside, which has its escapes.
func (b *headerBlock) comment(s string) {
	if IsASCII(s) {
		b.space(min(len(s), maxEncodedWord) + 2)
		b.buf = append(b.buf, '(')
		b.folded(s, nextFold)
	} else {
		s = unescape(s)
		b.space(firstWordLength(s) + 2)
		b.buf = append(b.buf, '(')
		b.encoded(s)
	}
	b.buf = append(b.buf, ')')
}

// free writes a part of unstructured text, encoded where it is not plain ASCII (RFC 2047 §5 (1)).
func (b *headerBlock) free(s string) {
	if s == "" { // between two spaces: a fold would leave a line of white space only (RFC 5322 §3.2.2)
		b.buf = append(b.buf, ' ')
		return
	}
	if isPlain(s) && !hasLongWord(s) {
		first := nextFold(s)
		if first < 0 {
			first = len(s)
		}
		b.space(first)
		b.folded(s, nextFold)
		return
	}
	b.space(firstWordLength(s))
	b.encoded(s)
}

// unescape removes the backslashes of quoted-pairs (RFC 5322 §3.2.1).
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// isAtoms says whether s is atoms with single spaces between them.
func isAtoms(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isAtext(c) && (c != ' ' || i == 0 || i == len(s)-1 || s[i-1] == ' ') {
			return false
		}
	}
	return s != ""
}
