package smtpx

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxTurns bounds the challenges of one AUTH exchange.
const maxTurns = 8

// mechanism is the client's side of one SASL exchange (RFC 4954).
type mechanism interface {
	// start gives the initial response, nil for none.
	start() ([]byte, error)
	// next answers a challenge.
	next(challenge []byte) ([]byte, error)
}

// authenticate does AUTH.
func (s *session) authenticate() (Reply, *Error) {
	if s.tls == nil && !s.relay.loopback && !s.relay.ClearAuth {
		return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig,
			Err:  errors.New("the connection is not encrypted: credentials are not sent in clear"),
			Hint: "use TLS; clear-auth=true allows it nevertheless"}
	}
	name, err := chooseMechanism(s.relay.Auth, strings.Fields(strings.ToUpper(s.ext["AUTH"])))
	if err != nil {
		return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig, Err: err}
	}
	s.mech = name
	return s.exchange(name, newMechanism(name, s.relay.User, s.relay.Password))
}

// mechanisms in the order of preference.
var mechanisms = []string{"PLAIN", "LOGIN"}

func chooseMechanism(pinned string, offered []string) (string, error) {
	if len(offered) == 0 {
		return "", errors.New("the server does not offer AUTH on this connection")
	}
	if pinned != "" {
		if !slices.Contains(offered, pinned) {
			return "", fmt.Errorf("the server does not offer AUTH %s but %s", pinned, printable(strings.Join(offered, ", ")))
		}
		return pinned, nil
	}
	for _, m := range mechanisms {
		if slices.Contains(offered, m) {
			return m, nil
		}
	}
	return "", fmt.Errorf("no common AUTH mechanism: the server offers %s", printable(strings.Join(offered, ", ")))
}

func newMechanism(name, user, password string) mechanism {
	if name == "LOGIN" {
		return &login{answers: []string{user, password}}
	}
	return &plain{user: user, password: password}
}

// exchange runs a mechanism. No line of it may reach an error or a log.
func (s *session) exchange(name string, m mechanism) (Reply, *Error) {
	first, err := m.start()
	if err != nil {
		return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig, Err: fmt.Errorf("AUTH %s: %w", name, err)}
	}
	line := "AUTH " + name
	pending := false // the initial response has yet to be sent
	if first != nil {
		if ir := encodeResponse(first); len(line)+len(ir) < 500 {
			line += " " + ir
		} else {
			pending = true // RFC 4954 §4: too long for the command line
		}
	}
	for range maxTurns {
		r, failed := s.command(StageAuth, s.relay.Timeouts.Auth, line)
		if failed != nil {
			failed.Reply = s.scrub(failed.Reply)
			return r, failed
		}
		switch {
		case r.Positive():
			return r, nil
		case r.Code != 334:
			r = s.scrub(r)
			return r, s.refused(StageAuth, r)
		}
		var answer []byte
		if pending {
			answer, pending = first, false
		} else {
			challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Text()))
			if err != nil {
				challenge = nil // LOGIN's prompts are not trusted anyway, and some servers send them in clear
			}
			if answer, err = m.next(challenge); err != nil {
				// "*" gives the exchange up (RFC 4954 §4); the reply to it says nothing new.
				_, _ = s.command(StageAuth, s.relay.Timeouts.Auth, "*")
				return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig, Err: fmt.Errorf("AUTH %s: %w", name, err)}
			}
		}
		line = base64.StdEncoding.EncodeToString(answer)
	}
	return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig, Err: fmt.Errorf("AUTH %s: the server asks without end", name)}
}

// encodeResponse encodes an initial response, an empty one as "=" (RFC 4954 §4).
func encodeResponse(p []byte) string {
	if len(p) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(p)
}

// redactAuth leaves of a line that AUTH sends only the command and the mechanism.
func redactAuth(line string) string {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "AUTH" {
		return redacted
	}
	if len(words) > 2 {
		return words[0] + " " + words[1] + " " + redacted
	}
	return line
}

// scrub removes the credentials from a reply, should the server repeat them.
func (s *session) scrub(r Reply) Reply {
	secret := s.relay.Password
	if secret == "" {
		return r
	}
	plain := "\x00" + s.relay.User + "\x00" + secret
	replacer := strings.NewReplacer(
		base64.StdEncoding.EncodeToString([]byte(plain)), redacted,
		base64.StdEncoding.EncodeToString([]byte(secret)), redacted,
		secret, redacted)
	lines := make([]string, len(r.Lines))
	for i, line := range r.Lines {
		lines[i] = replacer.Replace(line)
	}
	r.Lines = lines
	return r
}

// plain is RFC 4616.
type plain struct{ user, password string }

func (m *plain) start() ([]byte, error) {
	if strings.ContainsRune(m.user+m.password, 0) {
		return nil, errors.New("user or password has a NUL")
	}
	return []byte("\x00" + m.user + "\x00" + m.password), nil
}

func (m *plain) next([]byte) ([]byte, error) { return nil, errors.New("unexpected challenge") }

// login is the mechanism of draft-murchison-sasl-login. It answers in order, whatever the prompts say.
type login struct{ answers []string }

func (m *login) start() ([]byte, error) { return nil, nil }

func (m *login) next([]byte) ([]byte, error) {
	if len(m.answers) == 0 {
		return nil, errors.New("unexpected challenge")
	}
	answer := m.answers[0]
	m.answers = m.answers[1:]
	return []byte(answer), nil
}
