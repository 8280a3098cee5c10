package smtpx

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
)

const redacted = "***"

const (
	// secretPart is the length of the shortest part of a secret that is hidden while AUTH is under way. A server may repeat a
	// line shortened or split.
	secretPart = 6
	// secretWord is the length of the shortest secret that is hidden in later replies. A shorter secret may occur in a reply by
	// chance.
	secretWord = 4
	// secretEdge is the length of the shortest part of a secret that is hidden at the start or the end of a line.
	secretEdge = 10
	// secretField is the length of the shortest field of a response that is a secret by itself, such as a digest.
	secretField = 16
)

// secrets are the credentials of a session, in every form in which they were sent or could come back. Every text of the server
// passes through scrub before it reaches an error, a log or a result.
type secrets struct {
	all  []string // in lower case: a server may change it
	auth bool     // AUTH is under way
}

// add notes a password, a token, or a user name that is a secret.
func (s *secrets) add(text string) {
	s.note(text)
	s.note(base64.RawStdEncoding.EncodeToString([]byte(text)))
	s.note(base64.RawURLEncoding.EncodeToString([]byte(text)))
	s.note(url.QueryEscape(text))
	s.note(hex.EncodeToString([]byte(text)))
	s.addInside(text, base64.RawStdEncoding)
	s.addInside(text, base64.RawURLEncoding)
}

// addInside notes how a secret looks within a longer text in base64. That depends on what stands before it, modulo 3. The first
// and the last character may belong to the neighbours as well.
func (s *secrets) addInside(text string, encoding *base64.Encoding) {
	if len(text) < secretWord {
		return
	}
	for before := range 3 {
		form := encoding.EncodeToString(append(make([]byte, before), text...))
		if before > 0 {
			form = form[before+1:]
		}
		if (before+len(text))%3 != 0 {
			form = form[:len(form)-1]
		}
		if len(form) >= secretPart {
			s.note(form)
		}
	}
}

// sent notes a response of a mechanism, its line, and the fields of it that do not name the user.
func (s *secrets) sent(response []byte, line, user string) {
	s.note(strings.TrimRight(line, "="))
	for field := range strings.FieldsFuncSeq(string(response), func(r rune) bool { return r <= ' ' || r == ',' }) {
		if len(field) >= secretField && !strings.Contains(field, user) {
			s.note(field)
		}
	}
}

func (s *secrets) note(text string) {
	if text != "" {
		s.all = append(s.all, lower(text))
	}
}

// lower is strings.ToLower for ASCII: every octet keeps its place.
func lower(text string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// mask tells which octets of a text are to be hidden. It is nil for none.
type mask []bool

// mark hides n octets of a text.
func (m *mask) mark(text string, from, n int) {
	if *m == nil {
		*m = make(mask, len(text))
	}
	for k := range n {
		(*m)[from+k] = true
	}
}

// markEdges hides parts of a secret at the start and the end of a text: a line may be cut, or continue another.
func (m *mask) markEdges(text, secret string) {
	for n := min(len(secret)-1, len(text)); n >= secretEdge; n-- {
		if strings.HasSuffix(text, secret[:n]) {
			m.mark(text, len(text)-n, n)
		}
		if strings.HasPrefix(text, secret[len(secret)-n:]) {
			m.mark(text, 0, n)
		}
	}
}

// scrub replaces the secrets in a text.
func (s *secrets) scrub(text string) string {
	if len(s.all) == 0 || text == "" {
		return text
	}
	if valid := strings.ToValidUTF8(text, "?"); valid != text {
		if clean := s.scrub(valid); clean != valid {
			return clean
		}
		return text
	}
	low := lower(text)
	var hide mask
	for _, secret := range s.all {
		step := len(secret)
		if s.auth {
			step = min(step, secretPart)
		} else if step < secretWord {
			continue
		}
		for at := range len(secret) - step + 1 {
			part := secret[at : at+step]
			for from := strings.Index(low, part); from >= 0; {
				hide.mark(low, from, step)
				next := strings.Index(low[from+1:], part)
				if next < 0 {
					break
				}
				from += 1 + next
			}
		}
		hide.markEdges(low, secret)
	}
	if hide == nil {
		return text
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !hide[i]:
			b.WriteByte(text[i])
		case i == 0 || !hide[i-1]:
			b.WriteString(redacted)
		}
	}
	return b.String()
}

// scrubError replaces the secrets in an error that quotes the server. While AUTH is under way the error quotes nothing.
func (s *secrets) scrubError(err error) error {
	var quoted *quotedError
	switch {
	case !errors.As(err, &quoted):
		return err
	case s.auth:
		return errReply
	}
	return &quotedError{[]byte(s.scrub(string(quoted.line)))}
}

// scrub replaces the credentials in a reply.
func (s *session) scrub(r Reply) Reply {
	var lines []string
	for i, line := range r.Lines {
		clean := s.secrets.scrub(line)
		if clean != line && lines == nil {
			lines = append(make([]string, 0, len(r.Lines)), r.Lines[:i]...)
		}
		if lines != nil {
			lines = append(lines, clean)
		}
	}
	if lines != nil {
		r.Lines = lines
	}
	return r
}
