package smtpx

import (
	"context"
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
	// done is asked when the server says that it is satisfied: so may the client have to be.
	done() error
}

// authenticate does AUTH.
func (s *session) authenticate(ctx context.Context) (Reply, *Error) {
	if s.tls == nil && !s.relay.loopback && !s.relay.ClearAuth {
		return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig,
			Err:  errors.New("the connection is not encrypted: credentials are not sent in clear"),
			Hint: "use TLS; clear-auth=true allows it nevertheless"}
	}
	name, err := s.chooseMechanism()
	if err != nil {
		return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig, Err: err}
	}
	s.mech = name
	r, failed := s.attempt(ctx, name, false)
	if r.Code == 535 && s.relay.Token != nil {
		r, failed = s.attempt(ctx, name, true) // the token may have expired a moment ago
	}
	return r, failed
}

// attempt runs a mechanism once.
func (s *session) attempt(ctx context.Context, name string, refresh bool) (Reply, *Error) {
	m, err := s.newMechanism(ctx, name, refresh)
	if err != nil {
		return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig, Err: fmt.Errorf("AUTH %s: %w", name, err)}
	}
	return s.exchange(name, m)
}

// passwordMechanisms and tokenMechanisms stand in the order of preference. Under TLS, PLAIN stands before CRAM-MD5, which
// makes the server keep passwords readable; in clear it is the other way round.
var (
	passwordMechanisms = []string{
		"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5",
	}
	clearMechanisms = []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"}
	tokenMechanisms = []string{"OAUTHBEARER", "XOAUTH2"}
)

// chooseMechanism picks the best mechanism that both sides know. One that is pinned is taken or nothing.
func (s *session) chooseMechanism() (string, error) {
	offered := strings.Fields(strings.ToUpper(s.ext["AUTH"]))
	list := func() string { return printable(strings.Join(offered, ", ")) }
	if len(offered) == 0 {
		return "", errors.New("the server does not offer AUTH on this connection")
	}
	if pinned := s.relay.Auth; pinned != "" {
		if !slices.Contains(offered, pinned) {
			return "", fmt.Errorf("the server does not offer AUTH %s but %s", pinned, list())
		}
		return pinned, nil
	}
	known := passwordMechanisms
	switch {
	case s.relay.Token != nil:
		known = tokenMechanisms
	case s.tls == nil:
		known = clearMechanisms
	}
	usable := func(m string) bool {
		return slices.Contains(offered, m) && (!strings.HasSuffix(m, "-PLUS") || s.channelBinding() != nil)
	}
	if f := s.relay.profile.Mechanisms; f.Sure() {
		// What the provider documents works; what it merely offers may not.
		if i := slices.IndexFunc(known, func(m string) bool { return usable(m) && slices.Contains(f.Value, m) }); i >= 0 {
			return known[i], nil
		}
	}
	if i := slices.IndexFunc(known, usable); i >= 0 {
		return known[i], nil
	}
	return "", fmt.Errorf("no common AUTH mechanism: the server offers %s", list())
}

// knownMechanism tells whether name can be pinned.
func knownMechanism(name string) bool {
	return slices.Contains(passwordMechanisms, name) || slices.Contains(tokenMechanisms, name)
}

func (s *session) newMechanism(ctx context.Context, name string, refresh bool) (mechanism, error) {
	user, password := s.relay.User, s.relay.Password
	switch name {
	case "PLAIN":
		return &plain{user: user, password: password}, nil
	case "LOGIN":
		return &login{answers: []string{user, password}}, nil
	case "CRAM-MD5":
		return &cramMD5{user: user, password: password}, nil
	case "XOAUTH2", "OAUTHBEARER":
		token := password
		if s.relay.Token != nil {
			var err error
			if token, err = s.relay.Token(ctx, refresh); err != nil {
				return nil, fmt.Errorf("token: %w", err)
			}
			s.token = token
		}
		if name == "XOAUTH2" {
			return &xoauth2{user: user, token: token}, nil
		}
		return &oauthBearer{user: user, token: token, host: s.relay.Host, port: s.relay.Port}, nil
	}
	b := s.channelBinding()
	if slices.Contains(strings.Fields(strings.ToUpper(s.ext["AUTH"])), name+"-PLUS") {
		b = nil // the server can bind and we were told not to: that is no downgrade to warn of
	}
	return newSCRAM(name, user, password, b)
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
			if err := m.done(); err != nil {
				return r, &Error{Stage: StageAuth, Class: ClassConfig, Err: fmt.Errorf("AUTH %s: %w", name, err)}
			}
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
	var pairs []string
	for _, secret := range []string{s.relay.Password, s.token} {
		if secret != "" {
			pairs = append(pairs,
				base64.StdEncoding.EncodeToString([]byte("\x00"+s.relay.User+"\x00"+secret)), redacted,
				base64.StdEncoding.EncodeToString([]byte(secret)), redacted,
				secret, redacted)
		}
	}
	if pairs == nil {
		return r
	}
	replacer := strings.NewReplacer(pairs...)
	lines := make([]string, len(r.Lines))
	for i, line := range r.Lines {
		lines[i] = replacer.Replace(line)
	}
	r.Lines = lines
	return r
}
