package letter

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// parseMessageIDs reads Message-IDs with white space and comments between them.
func parseMessageIDs(value string) ([]piece, error) {
	s := scanner{rest: value}
	for found := false; ; found = true {
		if err := s.skip(); err != nil {
			return nil, err
		}
		switch {
		case s.rest == "" && !found:
			return nil, errors.New("has no Message-ID")
		case s.rest == "":
			return unlessPlain(value, s.pieces), nil
		}
		id, err := s.messageID()
		if err != nil {
			return nil, err
		}
		s.add(verbatim, id)
	}
}

// messageID reads one Message-ID with its angle brackets.
func (s *scanner) messageID() (string, error) {
	end := strings.IndexByte(s.rest, '>')
	if s.peek() != '<' || end < 0 {
		return "", fmt.Errorf("has %s where a Message-ID in angle brackets should stand", Quote(s.rest))
	}
	id := s.rest[:end+1]
	s.rest = s.rest[end+1:]
	if err := checkMessageID(id); err != nil {
		return "", fmt.Errorf("%s %w", Quote(id), err)
	}
	return id, nil
}

// ParseMessageID reads one Message-ID (RFC 5322 §3.6.4), with white space and comments around it, and returns it with its angle
// brackets. The text between them may be any printable ASCII without blanks: many programs write identifiers outside the
// grammar, and answers must refer to them. Blanks and comments inside of it are left out where the obsolete syntax (§4.5.4)
// allows them.
func ParseMessageID(value string) (string, error) {
	s := scanner{rest: value}
	if err := s.skip(); err != nil {
		return "", err
	}
	before := s.rest
	id, err := s.messageID()
	if err != nil {
		var obsolete error
		if id, s.rest, obsolete = parseObsoleteID(before); obsolete != nil {
			return "", err
		}
	}
	if err := s.skip(); err != nil {
		return "", err
	}
	if s.rest != "" {
		return "", fmt.Errorf("has %s after the Message-ID", Quote(s.rest))
	}
	return id, nil
}

// parseObsoleteID reads a Message-ID with blanks and comments in it. It returns the Message-ID without them and the rest.
func parseObsoleteID(value string) (id, rest string, err error) {
	r := addressReader{scanner: scanner{rest: value}, found: asFound}
	if !r.take('<') {
		return "", "", errors.New("has no angle bracket")
	}
	if err := r.angle(""); err != nil {
		return "", "", err
	}
	a := r.addresses[0]
	local := a.local
	for i := range len(local) {
		if c := local[i]; c != '.' && !isAtext(c) { // it had quotes
			if local, err = writeLocalPart(local); err != nil {
				return "", "", err
			}
			break
		}
	}
	id = "<" + local + "@" + a.domain + ">"
	return id, r.rest, checkMessageID(id)
}

// checkMessageID checks a Message-ID with its angle brackets, which are the first and the last character.
func checkMessageID(s string) error {
	switch {
	case len(s) < 3:
		return errors.New("is empty")
	case len(s) > MaxLine:
		return fmt.Errorf("is longer than %d bytes", MaxLine)
	}
	for i := 1; i < len(s)-1; i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
			r, _ := utf8.DecodeRuneInString(s[i:])
			return fmt.Errorf("contains %q, which a Message-ID must not have", r)
		}
	}
	return nil
}
