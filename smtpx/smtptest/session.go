package smtptest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// maxLine is the longest command line in octets. RFC 5321 §4.5.3.1.4 allows 512, extensions add to that, and AUTH may have 12288
// (RFC 4954 §4).
const maxLine = 16 << 10

// errEnd ends a session that has nothing more to say.
var errEnd = errors.New("end of session")

// session is the server's side of one connection. One goroutine does everything.
type session struct {
	server *Server
	config *Config
	raw    net.Conn
	nc     net.Conn
	br     *bufio.Reader
	bw     *bufio.Writer

	info     Session
	answered bool // something was said since the client last spoke
	mailed   bool // there was a MAIL
	tlsDone  bool
	channel  []byte // of TLS, for mechanisms that bind to it
	left     bool   // it does not count as open any more

	from    *string // of the open transaction
	message Message
	chunks  []byte // of BDAT
	bdat    bool   // BDAT has begun
	failed  bool   // a chunk was refused, and so the others will be
}

func newSession(server *Server, nc net.Conn, id int) *session {
	s := &session{server: server, config: &server.config, raw: nc}
	s.info.ID, s.info.Remote = id, nc.RemoteAddr().String()
	s.attach(nc)
	return s
}

func (s *session) attach(nc net.Conn) {
	s.nc = nc
	s.br = bufio.NewReaderSize(nc, 32<<10)
	s.bw = bufio.NewWriter(nc)
}

// run holds the dialogue until either side ends it.
func (s *session) run(ctx context.Context, open int) {
	if s.config.TLS == ImplicitTLS {
		if err := s.handshake(ctx); err != nil {
			return
		}
	}
	if limit := s.config.MaxSessions; limit > 0 && open > limit {
		s.reply("421 4.7.0 " + s.config.Hostname + " too many connections, try again later")
		_ = s.flush(ctx)
		return
	}
	if err := s.answer(ctx, StageBanner, "", "220 "+s.config.Hostname+" "+s.server.character.banner); err != nil {
		return
	}
	for {
		line, err := s.readLine(ctx)
		if err != nil {
			return
		}
		if err := s.command(ctx, line); err != nil {
			return
		}
	}
}

// leave takes the session out of the count of open ones.
func (s *session) leave() {
	if !s.left {
		s.left = true
		s.server.stats.open.Add(-1)
	}
}

// readLine flushes the replies if the client waits for them, and reads a command.
func (s *session) readLine(ctx context.Context) (string, error) {
	waited := s.br.Buffered() == 0
	if waited {
		if err := s.flush(ctx); err != nil {
			return "", err
		}
		if limit := s.config.IdleTimeout; limit > 0 {
			_ = s.raw.SetReadDeadline(time.Now().Add(limit))
		}
	}
	line, err := s.br.ReadString('\n')
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			reply := s.server.character.idleReply
			if reply == "" {
				reply = "421 4.4.2 " + s.config.Hostname + " idle for too long"
			}
			s.reply(reply)
			_ = s.flush(ctx)
		}
		return "", err
	}
	if len(line) > maxLine {
		s.reply("500 5.5.6 line too long")
		_ = s.flush(ctx)
		return "", errEnd
	}
	line = strings.TrimRight(line, "\r\n")
	if waited && s.answered {
		s.countFlight(s.mailed || verb(line) == "MAIL")
	}
	return line, nil
}

// countFlight counts that the client spoke after it was answered.
func (s *session) countFlight(message bool) {
	s.answered = false
	s.server.stats.flights.Add(1)
	if message {
		s.server.stats.messageFlights.Add(1)
	}
}

func verb(line string) string {
	v, _, _ := strings.Cut(line, " ")
	return strings.ToUpper(v)
}

func (s *session) command(ctx context.Context, line string) error {
	v := verb(line)
	_, args, _ := strings.Cut(line, " ")
	switch v {
	case "EHLO", "HELO":
		return s.ehlo(ctx, line, v, args)
	case "STARTTLS":
		return s.startTLS(ctx, line)
	case "AUTH":
		return s.auth(ctx, line, args)
	case "MAIL":
		return s.mail(ctx, line, args)
	case "RCPT":
		return s.rcpt(ctx, line, args)
	case "DATA":
		return s.data(ctx, line)
	case "BDAT":
		return s.chunk(ctx, line, args)
	case "RSET":
		return s.do(ctx, StageReset, line, func() string {
			s.resetMail()
			return "250 2.0.0 reset"
		})
	case "NOOP":
		return s.answer(ctx, StageNoop, line, "250 2.0.0 ok")
	case "QUIT":
		if err := s.answer(ctx, StageQuit, line, "221 2.0.0 bye"); err != nil {
			return err
		}
		s.leave() // the client may come back before the socket is closed
		_ = s.flush(ctx)
		return errEnd
	}
	return s.answer(ctx, StageOther, line, "500 5.5.2 command not known")
}

// do calls the hook, and carries out the command unless the hook acts.
func (s *session) do(ctx context.Context, stage Stage, line string, normal func() string) error {
	a := s.ask(ctx, stage, line, nil)
	if err := s.delay(ctx, a.Delay); err != nil {
		return err
	}
	if a.acts() {
		return s.act(ctx, a)
	}
	return s.say(ctx, normal(), a.Trickle)
}

func (s *session) answer(ctx context.Context, stage Stage, line, reply string) error {
	return s.do(ctx, stage, line, func() string { return reply })
}

// act carries out an action that replaces the normal course.
func (s *session) act(ctx context.Context, a Action) error {
	if a.Reply != "" {
		if err := s.say(ctx, a.Reply, a.Trickle); err != nil {
			return err
		}
	}
	if a.Raw != "" {
		s.answered = true
		_, _ = s.bw.WriteString(a.Raw)
	}
	if a.End == 0 {
		return nil
	}
	if a.End != Reset || a.Reply != "" || a.Raw != "" {
		_ = s.flush(ctx)
	}
	return s.finish(ctx, a.End)
}

// finish ends the session in one of the ways.
func (s *session) finish(ctx context.Context, end End) error {
	switch end {
	case Reset:
		if t, ok := s.raw.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
	case Stall:
		<-ctx.Done()
	case Close:
		if t, ok := s.raw.(*net.TCPConn); ok {
			_ = t.CloseWrite()
			_, _ = io.Copy(io.Discard, t) // unread octets would turn the FIN into a RST
		}
	}
	return errEnd
}

// say queues a reply of one or several lines.
func (s *session) say(ctx context.Context, reply string, trickle bool) error {
	if !trickle {
		s.reply(reply)
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	s.answered = true
	for _, c := range []byte(strings.ReplaceAll(reply, "\n", "\r\n") + "\r\n") {
		if _, err := s.nc.Write([]byte{c}); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) reply(reply string) {
	s.answered = true
	_, _ = s.bw.WriteString(strings.ReplaceAll(reply, "\n", "\r\n"))
	_, _ = s.bw.WriteString("\r\n")
}

func (s *session) flush(ctx context.Context) error {
	if s.bw.Buffered() == 0 {
		return nil
	}
	if err := s.delay(ctx, s.config.Latency); err != nil {
		return err
	}
	return s.bw.Flush()
}

// delay waits, at most until the server closes.
func (s *session) delay(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *session) ehlo(ctx context.Context, line, v, name string) error {
	return s.do(ctx, StageEHLO, line, func() string {
		if strings.TrimSpace(name) == "" {
			return "501 5.5.4 " + v + " needs a name"
		}
		s.info.EHLO = name
		s.resetMail()
		if v == "HELO" {
			return "250 " + s.config.Hostname
		}
		lines := []string{s.config.Hostname + " greets you"}
		if s.config.TLS == StartTLS && !s.tlsDone {
			lines = append(lines, "STARTTLS")
		}
		if s.config.User != "" && s.authOffered() {
			lines = append(lines, "AUTH "+strings.Join(s.config.Mechanisms, " "))
		}
		lines = append(lines, s.config.Extensions...)
		if i := slices.Index(lines, "LIMITS"); i >= 0 {
			lines[i] += s.limits()
		}
		for i := range lines {
			sep := "-"
			if i == len(lines)-1 {
				sep = " "
			}
			lines[i] = "250" + sep + lines[i]
		}
		return strings.Join(lines, "\n")
	})
}

// authOffered tells whether AUTH may be used in the present state.
func (s *session) authOffered() bool { return s.tlsDone || s.config.TLS == NoTLS }

func (s *session) startTLS(ctx context.Context, line string) error {
	upgrade := false
	err := s.do(ctx, StageStartTLS, line, func() string {
		if s.config.TLS != StartTLS || s.tlsDone {
			return "503 5.5.1 TLS is not offered or active"
		}
		upgrade = true
		return "220 2.0.0 go ahead"
	})
	if err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil || !upgrade {
		return err
	}
	return s.handshake(ctx)
}

func (s *session) handshake(ctx context.Context) error {
	a := s.ask(ctx, StageTLS, "", nil)
	if err := s.delay(ctx, a.Delay); err != nil {
		return err
	}
	if a.acts() {
		if _, err := s.br.Peek(1); err != nil { // the client speaks first
			return err
		}
		if err := s.act(ctx, a); err != nil {
			return err
		}
		_ = s.flush(ctx)
		return errEnd
	}
	tc := tls.Server(s.raw, s.server.tls)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	state := tc.ConnectionState()
	s.info.TLS, s.info.Resumed = tls.VersionName(state.Version), state.DidResume
	if data, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32); err == nil {
		s.channel = data
	}
	s.info.EHLO = ""
	s.tlsDone = true
	s.answered = true
	s.attach(tc)
	return nil
}

// limits are the parameters of LIMITS (RFC 9422) that the configuration has.
func (s *session) limits() string {
	var text strings.Builder
	for _, l := range []struct {
		name  string
		value int
	}{{"MAILMAX", s.config.MaxMessages}, {"RCPTMAX", s.config.MaxRecipients}, {"RCPTDOMAINMAX", s.config.MaxDomains}} {
		if l.value > 0 {
			fmt.Fprintf(&text, " %s=%d", l.name, l.value)
		}
	}
	return text.String()
}
