package smtpx

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// maxTurns is the most challenges of one AUTH exchange.
const maxTurns = 8

// mechanism is the client's side of one SASL exchange (RFC 4954).
type mechanism interface {
	// start returns the initial response, nil for none.
	start() ([]byte, error)
	// next answers a challenge.
	next(challenge []byte) ([]byte, error)
	// done is called when the server accepts the login. Its error means that the client does not accept the server.
	done() error
}

// passwordMechanisms and tokenMechanisms stand in the order of preference. Under TLS, PLAIN goes before CRAM-MD5, which
// makes the server keep readable passwords. In clear it is the other way round.
var (
	passwordMechanisms = []string{
		"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "PLAIN", "LOGIN", "CRAM-MD5",
	}
	clearMechanisms = []string{"SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"}
	tokenMechanisms = []string{"OAUTHBEARER", "XOAUTH2"}
)

// external is the mechanism that logs in by the client's certificate. It is used only when it is pinned.
const external = "EXTERNAL"

// authenticate does AUTH. If the server refuses a mechanism that it offers, authenticate tries the next one, but only under TLS.
// It tries no other mechanism after wrong credentials.
func (s *session) authenticate(ctx context.Context) (Reply, *Error) {
	if s.tls == nil && (!s.relay.loopback || s.relay.Auth == external) && !s.relay.ClearAuth {
		return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig,
			Err:  errors.New("the connection is not encrypted: credentials are not sent in clear"),
			Hint: "use TLS; clear-auth=true allows it nevertheless"}
	}
	s.secrets.auth = true
	defer func() { s.secrets.auth = false }()
	var first *Error
	for {
		name, err := s.chooseMechanism()
		switch {
		case err != nil && first != nil:
			return first.Reply, first
		case err != nil:
			return Reply{}, &Error{Stage: StageAuth, Class: ClassConfig, Err: err}
		}
		s.mech = name
		r, failed := s.attempt(ctx, name)
		if failed == nil {
			return r, nil
		}
		failed.Mechanism = name
		if first == nil {
			first = failed
		}
		if s.relay.Auth != "" || s.tls == nil || !mechanismRefused(failed.Reply) {
			return first.Reply, first
		}
		first.Hint = "the server refuses the mechanism " + name + ", which it offers: auth= in the relay's URL chooses another"
		s.relay.disbelieved.add("AUTH " + name)
	}
}

// mechanismRefused tells whether a refusal is about the mechanism and not about the credentials (RFC 4954 §4, §6).
func mechanismRefused(r Reply) bool {
	text := strings.ToLower(r.Text())
	says := strings.Contains(text, "mechanism") || strings.Contains(text, "authentication type") || strings.Contains(text, "auth type")
	return r.Code == 504 || ((r.Code == 534 || r.Code == 535) && says)
}

// attempt runs a mechanism. If the server refuses a token, attempt fetches a new one, once: the old one may have just expired.
// If the second try brings no verdict, the verdict of the first counts.
func (s *session) attempt(ctx context.Context, name string) (Reply, *Error) {
	r, failed := s.exchange(name)
	if failed == nil || !r.Permanent() || !s.relay.usesToken() {
		return r, failed
	}
	old := s.token
	if err := s.fetchToken(ctx, true); err != nil {
		err.Reply, err.Rule = failed.Reply, failed.Rule
		return r, err
	}
	if s.token == old {
		return r, failed
	}
	again, failedAgain := s.exchange(name)
	if failedAgain != nil && failedAgain.Reply.Code == 0 {
		return r, failed
	}
	return again, failedAgain
}

// usesToken tells whether AUTH needs Config.Token.
func (r *relay) usesToken() bool {
	return r.Token != nil && (r.Auth == "" || slices.Contains(tokenMechanisms, r.Auth))
}

// fetchToken calls Config.Token and waits for at most Timeouts.Token. It does not wait longer for a call that ignores its
// context.
func (s *session) fetchToken(ctx context.Context, refresh bool) *Error {
	ctx, cancel := context.WithTimeout(ctx, s.relay.Timeouts.Token)
	defer cancel()
	type answer struct {
		token string
		err   error
	}
	got := make(chan answer, 1)
	go func() {
		token, err := s.relay.Token(ctx, refresh)
		got <- answer{token, err}
	}()
	var a answer
	select {
	case a = <-got:
	case <-ctx.Done():
		a.err = ctx.Err()
	}
	if a.err != nil {
		e := &Error{Stage: StageAuth, Class: ClassUnreachable, Err: fmt.Errorf("token: %w", a.err),
			Hint: "the source of the token did not give one: nothing was sent"}
		if errors.Is(a.err, ErrTokenRefused) {
			e.Class, e.Hint = ClassConfig, "the source of the token refuses: consent, client secret or refresh token must be renewed"
		}
		if outage := (*tokenOutageError)(nil); errors.As(a.err, &outage) {
			e.RetryAfter = outage.wait
		}
		return e
	}
	s.token = a.token
	s.secrets.add(a.token)
	return nil
}

// chooseMechanism picks the best mechanism that both sides know. A pinned one is the only choice.
func (s *session) chooseMechanism() (string, error) {
	offered := strings.Fields(strings.ToUpper(s.ext["AUTH"]))
	list := func() string { return printable(s.secrets.scrub(strings.Join(offered, ", "))) }
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
		return slices.Contains(offered, m) && (!strings.HasSuffix(m, "-PLUS") || s.channelBinding() != nil) &&
			!s.relay.disbelieved.has("AUTH "+m)
	}
	if f := s.relay.profile.Mechanisms; f.Sure() {
		// A documented mechanism works. One that is only offered may not.
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
	return slices.Contains(passwordMechanisms, name) || slices.Contains(tokenMechanisms, name) || name == external
}

func (s *session) newMechanism(name string) (mechanism, error) {
	user, password := s.relay.User, s.relay.Password
	token := password
	if s.relay.Token != nil {
		token = s.token
	}
	switch name {
	case "PLAIN":
		return &plain{user: user, password: password}, nil
	case "LOGIN":
		return &login{answers: []string{user, password}}, nil
	case external:
		return &identity{user: user}, nil
	case "CRAM-MD5":
		return &cramMD5{user: user, password: password}, nil
	case "XOAUTH2":
		return &xoauth2{user: user, token: token}, nil
	case "OAUTHBEARER":
		return &oauthBearer{user: user, token: token, host: s.relay.Host, port: s.relay.Port}, nil
	}
	b := s.channelBinding()
	if slices.Contains(strings.Fields(strings.ToUpper(s.ext["AUTH"])), name+"-PLUS") {
		b = nil // the server supports binding and the caller turned it off: this is no downgrade
	}
	return newSCRAM(name, user, password, b)
}

// exchange runs a mechanism once. No line of it reaches an error or a log.
func (s *session) exchange(name string) (Reply, *Error) {
	giveUp := func(err error) *Error {
		if text := err.Error(); s.secrets.scrub(text) != text {
			err = errors.New(s.secrets.scrub(text)) // the error quotes the server
		}
		return &Error{Stage: StageAuth, Class: ClassConfig, Err: fmt.Errorf("AUTH %s: %w", name, err)}
	}
	m, err := s.newMechanism(name)
	if err != nil {
		return Reply{}, giveUp(err)
	}
	first, err := m.start()
	if err != nil {
		return Reply{}, giveUp(err)
	}
	line := "AUTH " + name
	pending := false // the initial response has yet to be sent
	if first != nil {
		ir := encodeResponse(first)
		s.secrets.sent(first, ir, s.relay.User)
		if pending = len(line)+len(ir) >= 500; !pending { // RFC 4954 §4: a longer one does not fit the command line
			line += " " + ir
		}
	}
	for range maxTurns {
		r, failed := s.command(StageAuth, s.relay.Timeouts.Auth, line)
		if failed != nil {
			return failed.Reply, failed
		}
		switch {
		case r.Positive():
			if err := m.done(); err != nil {
				return r, giveUp(err)
			}
			return r, nil
		case r.Code != 334:
			return r, s.refused(StageAuth, r)
		}
		var answer []byte
		if pending {
			answer, pending = first, false
		} else {
			challenge, err := base64.StdEncoding.DecodeString(strings.TrimSpace(r.Text()))
			if err != nil {
				challenge = nil // no mechanism uses LOGIN's prompts, and some servers do not encode them
			}
			if answer, err = m.next(challenge); err != nil {
				// "*" gives the exchange up (RFC 4954 §4); the reply to it says nothing new.
				_, _ = s.command(StageAuth, s.relay.Timeouts.Auth, "*")
				return Reply{}, giveUp(err)
			}
		}
		line = base64.StdEncoding.EncodeToString(answer)
		s.secrets.sent(answer, line, s.relay.User)
	}
	return Reply{}, giveUp(errors.New("the server asks without end"))
}

// encodeResponse encodes an initial response, an empty one as "=" (RFC 4954 §4).
func encodeResponse(p []byte) string {
	if len(p) == 0 {
		return "="
	}
	return base64.StdEncoding.EncodeToString(p)
}

// redactAuth keeps only the command and the mechanism of a line of AUTH.
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
