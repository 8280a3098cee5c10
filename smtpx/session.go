package smtpx

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// session is one connection to the relay, from the dial to the end of AUTH. It waits for each reply: nothing may follow EHLO,
// STARTTLS or AUTH unasked. conn takes over from there.
type session struct {
	relay  *relay
	number int      // of the connection, from 1
	raw    net.Conn // the transport: closing it sends nothing
	nc     net.Conn // raw, or TLS on top of it
	br     *bufio.Reader

	address string // to dial
	name    string // the argument of EHLO
	banner  Reply
	ext     map[string]string // EHLO keywords in upper case and their arguments
	tls     *tls.ConnectionState
	mech    string // mechanism of AUTH, "" for none
	token   string // the last one of Config.Token
	secrets secrets
	steps   []Step
}

// Step is one stage of setting up a session and how long it took.
type Step struct {
	Stage    Stage
	Duration time.Duration
}

// openSession connects and sets up a session that can send messages. On an error the connection is closed, and the session only
// tells which steps it completed.
func openSession(ctx context.Context, r *relay) (*session, *Error) {
	s := &session{relay: r, number: int(r.dialled.Add(1)), address: r.addr}
	// A server may repeat in its greeting what it was told on another connection.
	s.secrets.add(r.Password)
	s.secrets.add(r.proxySecret)
	if r.userIsSecret() {
		s.secrets.add(r.User)
	}
	if r.usesToken() {
		// Fetched before the dial: the source of the token may be slow, and a server does not wait for long.
		if err := s.fetchToken(ctx, false); err != nil {
			return s, err
		}
	}
	err := s.open(ctx)
	if err == nil {
		return s, nil
	}
	if other := s.tryOthers(ctx, err); other != nil {
		return other, nil
	}
	return s, err
}

// open dials the address of a session and sets it up. On an error the connection is closed.
func (s *session) open(ctx context.Context) *Error {
	if err := s.dial(ctx); err != nil {
		return err
	}
	// Only closing ends a wait for certain: a later deadline would undo an earlier one.
	stop := context.AfterFunc(ctx, func() { _ = s.raw.Close() })
	err := s.setUp(ctx)
	if !stop() && err == nil {
		err = &Error{Stage: StageAuth, Err: ctx.Err()}
	}
	if err != nil {
		_ = s.raw.Close()
		if cause := ctx.Err(); cause != nil && err.Reply.Code == 0 {
			return &Error{Stage: err.Stage, Class: ClassUnreachable, Err: cause}
		}
		return err
	}
	_ = s.raw.SetDeadline(time.Time{})
	return nil
}

func (s *session) setUp(ctx context.Context) *Error {
	implicit := s.relay.TLS == TLSImplicit
	if implicit {
		if err := s.startTLS(ctx); err != nil {
			return err
		}
	}
	if err := s.timed(StageBanner, s.greet); err != nil {
		return err
	}
	if err := s.timed(StageEHLO, s.ehlo); err != nil {
		return err
	}
	if !implicit && s.relay.TLS != TLSNone {
		if err := s.upgrade(ctx); err != nil {
			return err
		}
	}
	if s.relay.User == "" && s.relay.Auth != external {
		return nil
	}
	return s.timed(StageAuth, func() (Reply, *Error) { return s.authenticate(ctx) })
}

// timed runs a stage and notes how long it took and how it ended.
func (s *session) timed(stage Stage, run func() (Reply, *Error)) *Error {
	start := time.Now()
	r, err := run()
	if err != nil && err.Reply.Code != 0 {
		r = err.Reply
	}
	s.steps = append(s.steps, Step{stage, time.Since(start)})
	s.observed(stage, start, r.Code, err)
	return err
}

func (s *session) dial(ctx context.Context) *Error {
	return s.timed(StageDial, func() (Reply, *Error) { return Reply{}, s.connect(ctx) })
}

func (s *session) connect(ctx context.Context) *Error {
	ctx, cancel := context.WithTimeout(ctx, s.relay.Timeouts.Dial)
	defer cancel()
	raw, err := s.relay.Dial(ctx, s.relay.network, s.address)
	if err != nil {
		e := &Error{Stage: StageDial, Class: ClassUnreachable, Err: err}
		if refused := (*proxyError)(nil); errors.As(err, &refused) && refused.refused {
			e.Class, e.Hint = ClassConfig, "the proxy refuses: check its user and password, and that it allows this relay's port"
		}
		return e
	}
	s.raw = raw
	s.attach(raw)
	return nil
}

// attach makes nc the stream of the session.
func (s *session) attach(nc net.Conn) {
	s.nc = nc
	s.br = bufio.NewReaderSize(nc, maxReplyLine)
}

func (s *session) greet() (Reply, *Error) {
	s.within(s.relay.Timeouts.Banner)
	r, err := s.readReply()
	if err != nil && r.Code == 0 {
		e := s.broken(StageBanner, err)
		switch alert := tlsAlert(err); {
		case alert != "": // TLS 1.3 refuses a client certificate after the handshake
			e.Class, e.Hint = ClassConfig, alert
		case errors.Is(err, errReply):
			e.Hint = "the port does not speak SMTP in clear text; if it expects TLS from the first byte, use smtps://"
		case errors.Is(err, os.ErrDeadlineExceeded) && s.relay.TLS != TLSImplicit:
			e.Hint = "the server waits; if the port expects TLS from the first byte, use smtps://"
		}
		return Reply{}, e
	}
	s.logReply(r, false)
	s.banner = r
	if r.Code != 220 {
		return r, s.refused(StageBanner, r)
	}
	return r, nil
}

func (s *session) ehlo() (Reply, *Error) {
	if s.name == "" {
		name, err := ehloName(s.relay.EHLO, s.raw.LocalAddr(), s.relay.loopback)
		if err != nil {
			return Reply{}, &Error{Stage: StageEHLO, Class: ClassConfig, Err: err}
		}
		if s.relay.profile.Quirk(QuirkEHLO) && (strings.HasPrefix(name, "[") || strings.EqualFold(name, "localhost")) {
			return Reply{}, &Error{Stage: StageEHLO, Class: ClassConfig, Err: fmt.Errorf("the relay refuses the EHLO name %s", name),
				Hint: "set ehlo= to the fully-qualified name of this host: " + s.relay.profile.Title + " wants a real name"}
		}
		s.name = name
	}
	r, err := s.command(StageEHLO, s.relay.Timeouts.EHLO, "EHLO "+s.name)
	if err != nil {
		return r, err
	}
	if r.Code != 250 {
		// No HELO follows: its reply would hide this one.
		return r, s.refused(StageEHLO, r)
	}
	s.ext = parseExtensions(r.Lines)
	for _, keyword := range s.relay.Without {
		delete(s.ext, strings.ToUpper(keyword))
	}
	return r, nil
}

// parseExtensions reads the lines of an EHLO reply after the first (RFC 5321 §4.1.1.1). Several lines of one keyword add up,
// as MS Exchange and proxies send them for AUTH. The old form "AUTH=LOGIN" counts as AUTH.
func parseExtensions(lines []string) map[string]string {
	ext := make(map[string]string, len(lines))
	for _, line := range lines[min(1, len(lines)):] {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		keyword, args := strings.ToUpper(words[0]), words[1:]
		if mechanism, ok := strings.CutPrefix(keyword, "AUTH="); ok {
			keyword, args = "AUTH", append([]string{mechanism}, args...)
		}
		ext[keyword] = strings.TrimSpace(ext[keyword] + " " + strings.Join(args, " "))
	}
	return ext
}

// upgrade does STARTTLS (RFC 3207) and a new EHLO.
func (s *session) upgrade(ctx context.Context) *Error {
	if _, offered := s.ext["STARTTLS"]; !offered {
		if s.relay.TLS == TLSOpportunistic {
			return nil
		}
		return &Error{Stage: StageStartTLS, Class: ClassConfig, Err: errors.New("the server does not offer STARTTLS"),
			Hint: "use smtps:// if the relay expects TLS from the first byte; a relay without TLS needs tls=none; a relay may also " +
				"hide its extensions from a host that it refuses"}
	}
	if err := s.timed(StageStartTLS, s.askTLS); err != nil {
		return err
	}
	s.ext = nil
	if err := s.startTLS(ctx); err != nil {
		return err
	}
	return s.timed(StageEHLO, s.ehlo)
}

func (s *session) askTLS() (Reply, *Error) {
	r, err := s.command(StageStartTLS, s.relay.Timeouts.EHLO, "STARTTLS")
	if err != nil {
		return r, err
	}
	if r.Code != 220 {
		return r, s.refused(StageStartTLS, r)
	}
	if s.br.Buffered() > 0 {
		// These octets would be read as if they had come under TLS (RFC 3207 §6).
		return r, &Error{Stage: StageStartTLS, Class: ClassConfig,
			Err:  errors.New("the server sent something between its reply to STARTTLS and the handshake"),
			Hint: "somebody may be tampering with the connection"}
	}
	return r, nil
}

func (s *session) startTLS(ctx context.Context) *Error {
	return s.timed(StageTLS, func() (Reply, *Error) { return Reply{}, s.handshake(ctx) })
}

func (s *session) handshake(ctx context.Context) *Error {
	s.within(s.relay.Timeouts.TLS)
	config, err := s.relay.tls.config()
	if err != nil {
		return &Error{Stage: StageTLS, Class: ClassConfig, Err: err}
	}
	tc := tls.Client(s.raw, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		return tlsError(err)
	}
	s.attach(tc)
	state := tc.ConnectionState()
	s.tls = &state
	return nil
}

// tlsError tells a fault that an operator must mend from an outage.
func tlsError(err error) *Error {
	e := &Error{Stage: StageTLS, Class: ClassUnreachable, Err: plainIO(err)}
	var (
		record   tls.RecordHeaderError
		verify   *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
	)
	switch alert := tlsAlert(err); {
	case errors.As(err, &record):
		e.Class = ClassConfig
		e.Hint = "the server answered in clear text: this port expects STARTTLS, use smtp:// instead of smtps://"
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &hostname):
		e.Class = ClassConfig
		e.Hint = "the server's certificate cannot be verified: check the host name, the clock and the authorities (ca=FILE)"
	case alert != "":
		e.Class, e.Hint = ClassConfig, alert
	case strings.HasPrefix(err.Error(), "tls: "):
		e.Class = ClassConfig
		e.Hint = hintVersions
	case errors.Is(err, io.EOF):
		e.Hint = "a server may end the handshake when it does not know a version of TLS: versions from 1.2 are supported"
	}
	return e
}

const hintVersions = "client and server do not agree on TLS: versions from 1.2 are supported"

// tlsAlert returns the hint for an alert that the server sent. It returns "" if there was none or the alert reports an outage.
// It compares texts, because crypto/tls does not export the type of an alert over TCP. The texts of crypto/tls follow RFC 8446
// §6.2.
func tlsAlert(err error) string {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return ""
	}
	text := op.Err.Error()
	switch {
	case strings.Contains(text, "internal error"), strings.Contains(text, "close notify"), strings.Contains(text, "user canceled"):
		return ""
	case strings.Contains(text, "certificate"), strings.Contains(text, "access denied"):
		return "the server wants another client certificate, or any: give one with cert= and key="
	case strings.Contains(text, "handshake failure"):
		return hintVersions + "; a server that wants a client certificate refuses alike: give one with cert= and key="
	case strings.Contains(text, "unrecognized name"):
		return "the server has no certificate for this host name: check the host in the relay's URL"
	}
	return hintVersions
}

// within limits how long the next reads and writes take. It has no effect on a closed connection, whose next read fails.
func (s *session) within(d time.Duration) {
	_ = s.raw.SetDeadline(time.Now().Add(d))
}

// command sends one line and reads the reply to it.
func (s *session) command(stage Stage, timeout time.Duration, line string) (Reply, *Error) {
	s.within(timeout)
	if stage == StageAuth {
		s.logSent(redactAuth(line))
	} else {
		s.logSent(line)
	}
	if _, err := io.WriteString(s.nc, line+"\r\n"); err != nil {
		// The server may have said why before it hung up.
		if r, _ := s.readReply(); r.Code >= 400 {
			return Reply{}, s.refused(stage, r)
		}
		return Reply{}, s.broken(stage, err)
	}
	r, err := s.readReply()
	if err != nil && r.Code == 0 {
		return Reply{}, s.broken(stage, err)
	}
	s.logReply(r, stage == StageAuth)
	return r, nil
}

// readReply reads a reply. Its errors hold no secrets. It may return a refusal together with an error, as the function readReply
// does.
func (s *session) readReply() (Reply, error) {
	r, err := readReply(s.br)
	return r, s.secrets.scrubError(err)
}

// broken is the error of a set-up that ended without a verdict. Nothing was sent.
func (s *session) broken(stage Stage, err error) *Error {
	return &Error{Stage: stage, Class: ClassUnreachable, Err: plainIO(err)}
}

// refused is the error of an unexpected reply. Its text holds no secrets.
func (s *session) refused(stage Stage, r Reply) *Error {
	e := refusal(s.relay.profile, stage, r)
	e.Reply = s.scrub(r)
	return e
}

// refusal classifies an unexpected reply.
func refusal(p *Profile, stage Stage, r Reply) *Error {
	e := &Error{Stage: stage, Reply: r}
	if r.Code < 400 {
		e.Class = ClassTransient
		e.Err = fmt.Errorf("%w: unexpected code %d", errReply, r.Code)
		return e
	}
	class, rule := p.Classify(stage, r)
	e.Class, e.Rule, e.Hint, e.effect, e.scope = class, rule.ID, rule.Hint, rule.Effect, rule.Scope
	e.RetryAfter = retryAfter(class, &rule, plainText(r.Text()))
	return e
}

// plainIO puts the common errors of sockets in plain words.
func plainIO(err error) error {
	var plain *plainError
	var op *net.OpError
	switch {
	case errors.As(err, &plain):
	case errors.As(err, &op) && op.Op == "remote error":
		return &plainError{"the server ended TLS with the alert " + strings.TrimPrefix(op.Err.Error(), "tls: "), err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &plainError{"the server closed the connection", err}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errTimeout):
		return &plainError{"the server did not answer in time", err}
	}
	return err
}

// plainError says in plain words what err means.
type plainError struct {
	text string
	err  error
}

// Error returns the plain words.
func (e *plainError) Error() string { return e.text }

// Unwrap returns the error behind them.
func (e *plainError) Unwrap() error { return e.err }

// sizeLimit returns the limit in octets that the server announced (RFC 1870), 0 for none.
func (s *session) sizeLimit() int {
	n, err := strconv.Atoi(s.ext["SIZE"])
	if err != nil || n < 0 {
		return 0
	}
	return n
}
