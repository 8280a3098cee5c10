package letter

import (
	"errors"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"
)

// scanner reads the value of a structured field (RFC 5322 §3.2) and collects the pieces that write it anew. The value is
// UTF-8. After an error the scanner must not be used again.
type scanner struct {
	rest   string
	pieces []piece
}

// add appends a piece.
func (s *scanner) add(kind pieceKind, text string) {
	s.pieces = append(s.pieces, piece{kind: kind, text: text})
}

// addPhrase appends the phrase of words, if they have text.
func (s *scanner) addPhrase(words []word) {
	text := phraseText(words)
	if text == "" {
		return
	}
	bare := slices.ContainsFunc(words, func(w word) bool { return w.is('.') || w.is('[') || w.is(']') })
	s.pieces = append(s.pieces, piece{kind: phrase, text: text, bare: bare})
}

// glue appends ASCII text without white space before it.
func (s *scanner) glue(text string) {
	s.pieces = append(s.pieces, piece{kind: verbatim, text: text, glued: len(s.pieces) > 0})
}

// peek returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	if s.rest == "" {
		return 0
	}
	return s.rest[0]
}

// take reads c if it is the next byte.
func (s *scanner) take(c byte) bool {
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// skip reads white space and comments (RFC 5322 §3.2.2). Comments become pieces.
func (s *scanner) skip() error {
	for {
		s.rest = strings.TrimLeft(s.rest, " \t\r\n")
		if s.peek() != '(' {
			return nil
		}
		text, err := s.comment()
		if err != nil {
			return err
		}
		s.add(comment, text)
	}
}

// comment reads a comment, which may hold others. It returns the text between the outer brackets, escapes included.
func (s *scanner) comment() (string, error) {
	depth := 0
	for i := 0; i < len(s.rest); i++ {
		switch s.rest[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				text := s.rest[1:i]
				s.rest = s.rest[i+1:]
				return text, nil
			}
		}
	}
	return "", errors.New("a comment has no closing bracket")
}

// quotedString reads a quoted-string (RFC 5322 §3.2.4) and returns its content.
func (s *scanner) quotedString() (string, error) {
	text, rest, err := unquote(s.rest)
	s.rest = rest
	return text, err
}

// unquote reads the quoted-string at the beginning of s. It returns the content without escapes, and the rest.
func unquote(s string) (text, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], nil
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return "", s, errors.New("a quotation mark has no closing one")
}

// atom reads the characters of an atom. Characters outside ASCII belong to it (RFC 6532 §3.2).
func (s *scanner) atom() string {
	n := 0
	for n < len(s.rest) && (isAtext(s.rest[n]) || s.rest[n] >= utf8.RuneSelf) {
		n++
	}
	a := s.rest[:n]
	s.rest = s.rest[n:]
	return a
}

// word is a word of a phrase or of a local part, or a character between words.
type word struct {
	text   string
	quoted bool
	apart  bool // white space or a comment stands before it
}

// is says whether w is the character c outside of quotes.
func (w word) is(c byte) bool { return !w.quoted && len(w.text) == 1 && w.text[0] == c }

// words reads words, dots and square brackets up to another character. RFC 5322 §3.2.5 has no brackets in a phrase and
// dots only in the obsolete one; programs write both.
func (s *scanner) words() (list []word, err error) {
	for {
		before := len(s.rest)
		if err := s.skip(); err != nil {
			return nil, err
		}
		w := word{apart: len(s.rest) < before}
		switch c := s.peek(); c {
		case '"':
			w.quoted = true
			if w.text, err = s.quotedString(); err != nil {
				return nil, err
			}
		case '.', '[', ']':
			w.text = s.rest[:1]
			s.rest = s.rest[1:]
		default:
			if w.text = s.atom(); w.text == "" {
				return list, nil
			}
		}
		list = append(list, w)
	}
}

// phraseText returns the words of a phrase as text for people. Encoded words are decoded where their character set is known.
func phraseText(list []word) string {
	var b strings.Builder
	for i := 0; i < len(list); {
		if b.Len() > 0 && list[i].apart {
			b.WriteByte(' ')
		}
		if list[i].quoted {
			b.WriteString(list[i].text)
			i++
			continue
		}
		// Encoded words may stand in several atoms, which are decoded together.
		var run strings.Builder
		for first := i; i < len(list) && !list[i].quoted; i++ {
			if i > first && list[i].apart {
				run.WriteByte(' ')
			}
			run.WriteString(list[i].text)
		}
		if decoded, err := new(mime.WordDecoder).DecodeHeader(run.String()); err == nil {
			b.WriteString(decoded)
		} else {
			b.WriteString(run.String())
		}
	}
	return b.String()
}
