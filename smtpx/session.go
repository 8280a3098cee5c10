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

// session is one connection to the relay, from the banner to the end of AUTH. It speaks in lockstep: nothing may be sent
// behind EHLO, STARTTLS or AUTH. What comes after is the business of conn.
type session struct {
	relay  *relay
	number int      // of the connection, from 1
	raw    net.Conn // the transport: closing it sends nothing
	nc     net.Conn // raw, or TLS on top of it
	br     *bufio.Reader

	name   string // what was said after EHLO
	banner Reply
	ext    map[string]string // EHLO keywords in upper case and their arguments
	tls    *tls.ConnectionState
	mech   string // mechanism of AUTH, "" for none
	token  string // the last that AUTH used
	steps  []Step
}

// Step is one stage of setting up a session and how long it took.
type Step struct {
	Stage    Stage
	Duration time.Duration
}

// openSession connects, and goes on until messages can be sent. On an error the connection is closed, and the session
// only tells how far it came.
func openSession(ctx context.Context, r *relay) (*session, *Error) {
	s := &session{relay: r, number: int(r.connections.Add(1))}
	if err := s.dial(ctx); err != nil {
		return s, err
	}
	// Closing is the one way of ending a wait that no later deadline undoes.
	stop := context.AfterFunc(ctx, func() { _ = s.raw.Close() })
	err := s.setUp(ctx)
	if !stop() && err == nil {
		err = &Error{Stage: StageAuth, Err: ctx.Err()}
	}
	if err != nil {
		_ = s.raw.Close()
		if cause := ctx.Err(); cause != nil && err.Reply.Code == 0 {
			return s, &Error{Stage: err.Stage, Class: ClassUnreachable, Err: cause}
		}
		return s, err
	}
	_ = s.raw.SetDeadline(time.Time{})
	return s, nil
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
	if s.relay.User == "" {
		return nil
	}
	return s.timed(StageAuth, func() (Reply, *Error) { return s.authenticate(ctx) })
}

// timed runs a stage, and notes how long it took and what came of it.
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
	raw, err := s.relay.Dial(ctx, "tcp", s.relay.addr)
	if err != nil {
		return &Error{Stage: StageDial, Class: ClassUnreachable, Err: err}
	}
	s.raw = raw
	s.attach(raw)
	return nil
}

// attach makes nc what is spoken over.
func (s *session) attach(nc net.Conn) {
	s.nc = nc
	s.br = bufio.NewReaderSize(nc, maxReplyLine)
}

func (s *session) greet() (Reply, *Error) {
	s.within(s.relay.Timeouts.Banner)
	r, err := readReply(s.br)
	if err != nil {
		e := s.broken(StageBanner, err)
		switch {
		case errors.Is(err, errReply):
			e.Hint = "the port does not speak SMTP in clear text; if it expects TLS from the first byte, use smtps://"
		case errors.Is(err, os.ErrDeadlineExceeded) && s.relay.TLS != TLSImplicit:
			e.Hint = "the server waits; if the port expects TLS from the first byte, use smtps://"
		}
		return Reply{}, e
	}
	s.heard(r, false)
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
		s.name = name
	}
	r, err := s.command(StageEHLO, s.relay.Timeouts.EHLO, "EHLO "+s.name)
	if err != nil {
		return r, err
	}
	if r.Code != 250 {
		// No HELO behind it: its answer would hide this one.
		return r, s.refused(StageEHLO, r)
	}
	s.ext = parseExtensions(r.Lines)
	for _, keyword := range s.relay.Without {
		delete(s.ext, strings.ToUpper(keyword))
	}
	return r, nil
}

// parseExtensions reads the lines of an EHLO reply after the first (RFC 5321 §4.1.1.1), and the old "AUTH=LOGIN".
func parseExtensions(lines []string) map[string]string {
	ext := make(map[string]string, len(lines))
	for _, line := range lines[min(1, len(lines)):] {
		keyword, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		keyword = strings.ToUpper(keyword)
		if rest, ok := strings.CutPrefix(keyword, "AUTH="); ok {
			if _, listed := ext["AUTH"]; !listed {
				ext["AUTH"] = strings.TrimSpace(rest + " " + args)
			}
			continue
		}
		if keyword != "" {
			ext[keyword] = strings.TrimSpace(args)
		}
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
			Hint: "use smtps:// if the relay expects TLS from the first byte; a relay without TLS needs tls=none"}
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
		// Bytes from before the handshake would be read as if the server had sent them under TLS (RFC 3207 §6).
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

// tlsError tells what an operator must mend from what may pass.
func tlsError(err error) *Error {
	e := &Error{Stage: StageTLS, Class: ClassUnreachable, Err: err}
	var (
		record   tls.RecordHeaderError
		verify   *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		alert    tls.AlertError
	)
	switch {
	case errors.As(err, &record):
		e.Class = ClassConfig
		e.Hint = "the server answered in clear text: this port expects STARTTLS, use smtp:// instead of smtps://"
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &hostname):
		e.Class = ClassConfig
		e.Hint = "the server's certificate cannot be verified: check the host name, the clock and the authorities (ca=FILE)"
	case errors.As(err, &alert), strings.HasPrefix(err.Error(), "tls: "):
		e.Class = ClassConfig
		e.Hint = "client and server do not agree on TLS: versions from 1.2 are supported"
	}
	return e
}

// within bounds what follows. A connection that is closed already says so at the next read.
func (s *session) within(d time.Duration) {
	_ = s.raw.SetDeadline(time.Now().Add(d))
}

// command sends one line and reads the reply to it.
func (s *session) command(stage Stage, timeout time.Duration, line string) (Reply, *Error) {
	s.within(timeout)
	if stage == StageAuth {
		s.said(redactAuth(line))
	} else {
		s.said(line)
	}
	if _, err := io.WriteString(s.nc, line+"\r\n"); err != nil {
		// The server may have said why before it hung up.
		if r, rerr := readReply(s.br); rerr == nil && r.Code >= 400 {
			return Reply{}, s.refused(stage, r)
		}
		return Reply{}, s.broken(stage, err)
	}
	r, err := readReply(s.br)
	if err != nil {
		return Reply{}, s.broken(stage, err)
	}
	s.heard(r, stage == StageAuth)
	return r, nil
}

// broken makes the error of a set-up that ended without a verdict: nothing was sent.
func (s *session) broken(stage Stage, err error) *Error {
	return &Error{Stage: stage, Class: ClassUnreachable, Err: plainIO(err)}
}

func (s *session) refused(stage Stage, r Reply) *Error {
	return refusal(s.relay.profile, stage, r)
}

// refusal classifies a reply that is not the hoped-for one.
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

// plainIO words the errors that every user of a socket meets.
func plainIO(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the server closed the connection: %w", err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, errTimeout):
		return fmt.Errorf("the server did not answer in time: %w", err)
	}
	return err
}

// sizeLimit is the limit that the server announced (RFC 1870), 0 for none.
func (s *session) sizeLimit() int {
	n, err := strconv.Atoi(s.ext["SIZE"])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

func (s *session) offers(keyword string) bool {
	_, ok := s.ext[keyword]
	return ok
}
