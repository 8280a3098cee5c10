package smtptest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (s *session) resetMail() {
	s.from = nil
	s.message = Message{}
	s.chunks, s.bdat, s.failed = nil, false, false
}

// sizeLimit is the argument of SIZE among the extensions, 0 for none.
func (s *session) sizeLimit() int {
	for _, e := range s.config.Extensions {
		if args, ok := strings.CutPrefix(e, "SIZE "); ok {
			n, err := strconv.Atoi(args)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

func (s *session) mail(ctx context.Context, line, args string) error {
	s.mailed = true
	if limit := s.config.MaxMessages; limit > 0 && s.info.Messages >= limit {
		s.reply("421 4.7.0 " + s.config.Hostname + " maximum message count per session reached")
		_ = s.flush(ctx)
		return errEnd
	}
	return s.do(ctx, StageMail, line, func() string {
		path, params, ok := parsePath(args, "FROM:")
		switch {
		case s.config.User != "" && s.info.User == "":
			return s.server.character.authRequired
		case s.info.EHLO == "":
			return "503 5.5.1 EHLO first"
		case s.from != nil:
			return "503 5.5.1 nested MAIL"
		case !ok:
			return "501 5.1.7 bad sender address syntax"
		}
		for param := range strings.FieldsSeq(params) {
			value, isSize := strings.CutPrefix(strings.ToUpper(param), "SIZE=")
			if n, err := strconv.Atoi(value); isSize && err == nil && s.sizeLimit() > 0 && n > s.sizeLimit() {
				return "552 5.3.4 message size exceeds fixed limit"
			}
		}
		s.from = &path
		s.message = Message{From: path, Params: params}
		return "250 2.1.0 sender ok"
	})
}

func (s *session) rcpt(ctx context.Context, line, args string) error {
	return s.do(ctx, StageRcpt, line, func() string {
		path, params, ok := parsePath(args, "TO:")
		switch {
		case s.from == nil:
			return "503 5.5.1 MAIL first"
		case !ok || path == "":
			return "501 5.1.3 bad recipient address syntax"
		}
		if limit := s.config.MaxRecipients; limit > 0 && len(s.message.To) >= limit {
			return "452 4.5.3 too many recipients"
		}
		if limit := s.config.MaxDomains; limit > 0 && !sameDomain(s.message.To, path) && countDomains(s.message.To) >= limit {
			return "452 4.5.3 too many domains"
		}
		s.message.To = append(s.message.To, path)
		s.message.RcptParams = append(s.message.RcptParams, params)
		return "250 2.1.5 recipient ok"
	})
}

// parsePath reads "FROM:<path> params" strictly: a quoted local part may hold anything but ends only at its quote.
func parsePath(args, prefix string) (path, params string, ok bool) {
	if len(args) < len(prefix) || !strings.EqualFold(args[:len(prefix)], prefix) {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(args[len(prefix):], "<")
	if !ok {
		return "", "", false
	}
	quoted := false
	for i := 0; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == '>' && !quoted:
			path, params = rest[:i], rest[i+1:]
			if params != "" && params[0] != ' ' {
				return "", "", false
			}
			if path != "" && (!strings.Contains(path, "@") || path[0] == '@') {
				return "", "", false
			}
			return path, strings.TrimSpace(params), true
		case (c <= ' ' || c == '<') && !quoted:
			return "", "", false
		}
	}
	return "", "", false
}

func (s *session) data(ctx context.Context, line string) error {
	begun := false
	err := s.do(ctx, StageData, line, func() string {
		switch {
		case s.from == nil:
			return "503 5.5.1 MAIL first"
		case len(s.message.To) == 0:
			return "554 5.5.1 no valid recipients"
		case s.bdat:
			return "503 5.5.1 BDAT has begun"
		}
		begun = true
		return "354 end with a dot"
	})
	if err != nil || !begun {
		return err
	}
	body, early, err := s.readBody(ctx, s.readDot)
	if err != nil {
		return err
	}
	if early {
		s.resetMail()
		return nil
	}
	return s.accept(ctx, body)
}

// readBody reads a body, with the fault that StageBody asks for. early tells that a reply was sent before the end of the body.
func (s *session) readBody(ctx context.Context, read func(*bytes.Buffer, int) (bool, error)) (body []byte, early bool, err error) {
	if err := s.flushIfWaited(ctx); err != nil {
		return nil, false, err
	}
	var buf bytes.Buffer
	a := s.ask(ctx, StageBody, "", nil)
	if a.acts() || a.Delay > 0 {
		done := false
		if a.After > 0 {
			if done, err = read(&buf, a.After); err != nil {
				return nil, false, err
			}
		}
		if err := s.delay(ctx, a.Delay); err != nil {
			return nil, false, err
		}
		if a.acts() {
			early = true
			if err := s.act(ctx, a); err != nil {
				return nil, true, err
			}
			if err := s.flush(ctx); err != nil {
				return nil, true, err
			}
		}
		if done {
			return buf.Bytes(), early, nil
		}
	}
	_, err = read(&buf, 0)
	return buf.Bytes(), early, err
}

// flushIfWaited flushes the replies if the client has sent nothing more meanwhile.
func (s *session) flushIfWaited(ctx context.Context) error {
	if s.br.Buffered() > 0 {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	if _, err := s.br.Peek(1); err != nil {
		return err
	}
	if s.answered {
		s.countFlight(true)
	}
	return nil
}

// readDot reads until the final dot. If limit is not 0, it stops after at least limit octets. Only CRLF ends a line.
func (s *session) readDot(buf *bytes.Buffer, limit int) (done bool, err error) {
	lineStart := buf.Len() == 0 || bytes.HasSuffix(buf.Bytes(), []byte("\r\n"))
	for limit == 0 || buf.Len() < limit {
		part, err := s.br.ReadSlice('\n')
		if err != nil && len(part) < s.br.Size() {
			return false, err
		}
		if lineStart && part[0] == '.' {
			if string(part) == ".\r\n" {
				return true, nil
			}
			part = part[1:]
		}
		buf.Write(part)
		lineStart = bytes.HasSuffix(buf.Bytes(), []byte("\r\n"))
	}
	return false, nil
}

// chunk is BDAT (RFC 3030). The octets of a chunk are read even if it is refused.
func (s *session) chunk(ctx context.Context, line, args string) error {
	sizeText, last, _ := strings.Cut(args, " ")
	size, err := strconv.Atoi(sizeText)
	if err != nil || size < 0 || size > 1<<30 || (last != "" && !strings.EqualFold(last, "LAST")) {
		s.reply("501 5.5.4 bad BDAT syntax")
		_ = s.flush(ctx)
		return errEnd // the octets that follow cannot be told from commands
	}
	a := s.ask(ctx, StageData, line, nil)
	if err := s.delay(ctx, a.Delay); err != nil {
		return err
	}
	if a.End != 0 {
		return s.act(ctx, a)
	}
	part, early, err := s.readBody(ctx, func(buf *bytes.Buffer, limit int) (bool, error) {
		n := size - buf.Len()
		if limit > 0 {
			n = min(n, limit-buf.Len())
		}
		_, err := io.CopyN(buf, s.br, int64(n))
		return buf.Len() == size, err
	})
	if err != nil {
		return err
	}
	switch {
	case early:
		s.failed = true
		return nil
	case a.acts():
		s.failed = true
		return s.act(ctx, a)
	case s.from == nil:
		return s.say(ctx, "503 5.5.1 MAIL first", a.Trickle)
	case len(s.message.To) == 0 || s.failed:
		s.failed = true
		return s.say(ctx, "554 5.5.1 no valid recipients", a.Trickle)
	}
	s.bdat = true
	s.chunks = append(s.chunks, part...)
	if last == "" {
		return s.say(ctx, fmt.Sprintf("250 2.0.0 %d octets received", size), a.Trickle)
	}
	return s.accept(ctx, s.chunks)
}

// accept adds a complete message to the ledger and sends the reply, unless the hook acts.
func (s *session) accept(ctx context.Context, body []byte) error {
	m := s.message
	m.Data, m.Size = body, len(body)
	m.MessageID = messageID(body)
	m.Session = s.info
	m.ID = fmt.Sprintf("%06X%06X", m.Session.ID, m.Session.Messages+1)
	bdat := s.bdat
	s.resetMail()
	reply := "250 2.0.0 Ok: queued as " + m.ID
	if f := s.server.character.accepted; f != nil {
		reply = f(m.ID)
	}
	if limit := s.sizeLimit(); limit > 0 && m.Size > limit {
		s.failed = bdat
		return s.say(ctx, "552 5.3.4 message size exceeds fixed limit", false)
	}
	a := s.ask(ctx, StageDot, "", &m)
	accepted := a.Withhold || (a.Raw == "" && (a.Reply == "" && a.End == 0 || strings.HasPrefix(a.Reply, "2")))
	if accepted {
		if s.config.Discard {
			m.Data = nil
		}
		m.Received = time.Now()
		m.Withheld = a.Withhold
		s.info.Messages++
		s.server.ledger.add(m)
	}
	if err := s.delay(ctx, a.Delay); err != nil {
		return err
	}
	if a.Withhold && a.End == 0 {
		return s.finish(ctx, Close)
	}
	if a.acts() {
		if err := s.act(ctx, a); err != nil {
			return err
		}
	} else if err := s.say(ctx, reply, a.Trickle); err != nil {
		return err
	}
	return s.idle(ctx)
}

// idle calls the hook behind a message.
func (s *session) idle(ctx context.Context) error {
	if s.config.Hook == nil && s.server.character.hook == nil {
		return nil
	}
	a := s.ask(ctx, StageIdle, "", nil)
	if !a.acts() && a.Delay == 0 {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.delay(ctx, a.Delay); err != nil {
		return err
	}
	if !a.acts() {
		return nil
	}
	if err := s.act(ctx, a); err != nil {
		return err
	}
	return s.flush(ctx)
}

// messageID finds the Message-ID of a message without parsing the rest.
func messageID(body []byte) string {
	for line := range bytes.Lines(body) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return ""
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("Message-ID")) {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

func domainOf(path string) string { return strings.ToLower(path[strings.LastIndexByte(path, '@')+1:]) }

func sameDomain(paths []string, path string) bool {
	return slices.ContainsFunc(paths, func(p string) bool { return domainOf(p) == domainOf(path) })
}

func countDomains(paths []string) int {
	seen := make(map[string]bool)
	for _, p := range paths {
		seen[domainOf(p)] = true
	}
	return len(seen)
}
