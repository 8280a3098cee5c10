package smtpx

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// FuzzURL reads relay URLs: nothing that it says may hold the password, and what it takes can be used.
func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"smtp://user:hunter2secret@relay.example.com:587?tls=starttls&conns=3&rate=600/m&idle=8s&ehlo=a.example.com",
		"smtps://relay.example.com", "smtp://127.0.0.1?tls=none&local=::1", "smtp://u:hunter2secret@[::1]:25?age=1m&messages=7&provider=ses",
		"smtp://u:hunter2secret@host?nonsense=1", "smtp://u:hunter2secret@host:99999", "http://x", "smtp://%zz:hunter2secret@host", "://",
		"smtp://u:hunter2secret@host?ca=/nowhere&cert=x&key=y&auth=plain&clear-auth=yes",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		const secret = "hunter2secret"
		client, err := Open(s)
		if err != nil {
			where, _, _ := strings.Cut(s, secret)
			if strings.Count(s, secret) == 1 && strings.Contains(err.Error(), secret) && strings.Contains(where, "://") && strings.HasSuffix(where, ":") &&
				!strings.ContainsAny(where, "?@") {
				t.Fatalf("%q: the error quotes the password: %v", s, err)
			}
			if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Fatalf("%q: the error has control characters: %q", s, err)
			}
			return
		}
		defer client.Close()
		r := client.relay
		if r.Connections < 1 || r.MaxMessages < 1 || r.Idle <= 0 || r.MaxAge <= 0 || r.Port < 1 || r.Port > 65535 || r.Host == "" || r.Rate < 0 {
			t.Errorf("%q is taken as %+v", s, r.Config)
		}
		if strings.ContainsAny(r.EHLO, " \r\n\x00") {
			t.Errorf("%q has the EHLO name %q", s, r.EHLO)
		}
		shown := client.String()
		if r.Password != "" && len(r.Password) > 3 && !strings.Contains(r.User+r.Host+r.EHLO+r.Provider+string(r.TLS), r.Password) &&
			strings.Contains(shown, r.Password) {
			t.Errorf("%q is shown as %q", s, shown)
		}
		again, err := parseURL(shown)
		if err != nil || again.Host != r.Host || again.Port != r.Port || again.User != r.User {
			t.Errorf("%q is shown as %q, which is %+v, %v", s, shown, again, err)
		}
	})
}

// FuzzExtensions reads EHLO replies: what a server claims never makes the client do the impossible.
func FuzzExtensions(f *testing.F) {
	for _, s := range []string{
		"relay.test\nPIPELINING\nSIZE 1000\nAUTH PLAIN LOGIN\nLIMITS RCPTMAX=20 MAILMAX=5 RCPTDOMAINMAX=2",
		"x\nAUTH=LOGIN\nsize -1\nLIMITS RCPTMAX=0 MAILMAX=99999999999999999999 =1 RCPTDOMAINMAX=", "", "\n \n\t\nLIMITS", "a\nAUTH",
		"a\nauth scram-sha-256-plus xoauth2\nSIZE 99999999999999999999", "a\nLIMITS RCPTMAX=1 RCPTMAX=2",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ext := parseExtensions(strings.Split(s, "\n"))
		for keyword := range ext {
			if keyword == "" || keyword != strings.ToUpper(keyword) || strings.Contains(keyword, " ") {
				t.Errorf("%q has the keyword %q", s, keyword)
			}
		}
		relay, err := newRelay(Config{Host: "127.0.0.1", TLS: TLSNone, User: "u", Password: "p"})
		if err != nil {
			t.Fatal(err)
		}
		session := &session{relay: relay, ext: ext}
		if session.sizeLimit() < 0 {
			t.Errorf("%q limits the size to %d", s, session.sizeLimit())
		}
		if name, err := session.chooseMechanism(); err == nil && !slices.Contains(clearMechanisms, name) {
			t.Errorf("%q leads to AUTH %s in clear", s, name)
		}
		c := &conn{session: session, pool: newPool(relay), rcptMax: maxFlight}
		c.takeLimits()
		if c.rcptMax < 1 || c.rcptMax > maxFlight || c.messages < 1 || c.messages > relay.MaxMessages || c.maxAge <= 0 {
			t.Errorf("%q leads to %d recipients, %d messages, %v", s, c.rcptMax, c.messages, c.maxAge)
		}
	})
}

// FuzzClassify gives every refusal a meaning: for good only where the code says so, and with a wait that can be kept.
func FuzzClassify(f *testing.F) {
	f.Add(uint16(550), "5.1.1 user unknown", uint8(7))
	f.Add(uint16(421), "4.7.0 try again in 99999999999 days", uint8(2))
	f.Add(uint16(454), "Throttling failure: Daily message quota exceeded.", uint8(9))
	stages := []Stage{StageBanner, StageEHLO, StageStartTLS, StageAuth, StageMail, StageRcpt, StageData, StageDot, StageIdle, "other"}
	profiles := Profiles()
	f.Fuzz(func(t *testing.T, code uint16, text string, pick uint8) {
		r := NewReply(400+int(code)%200, strings.Split(text, "\n")...)
		p, stage := profiles[int(pick)%len(profiles)], stages[int(pick)%len(stages)]
		e := refusal(p, stage, r)
		if e.Class == "" || e.Rule == "" || e.Rule == "unknown" || e.Class == ClassAmbiguous {
			t.Errorf("%s %s %v: class %q by rule %q", p.Name, stage, r, e.Class, e.Rule)
		}
		if r.Transient() && (e.Class == ClassRecipient || e.Class == ClassMessage) {
			t.Errorf("%s %s %v: %s by rule %s", p.Name, stage, r, e.Class, e.Rule)
		}
		if e.RetryAfter < 0 || e.RetryAfter > maxRetryAfter || e.Scope() == "" {
			t.Errorf("%s %s %v: wait %v, scope %q", p.Name, stage, r, e.RetryAfter, e.Scope())
		}
		if strings.ContainsFunc(e.Error(), unprintable) {
			t.Errorf("the error is %q", e.Error())
		}
	})
}

// FuzzServer lets a client talk to a server that says anything. Whatever that is, Send returns with an outcome for each
// recipient, and nothing counts as accepted of which the end did not leave.
func FuzzServer(f *testing.F) {
	for _, s := range []string{
		"220 x\r\n|250-x\r\n250 PIPELINING\r\n|250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n|250 ok queued as 1\r\n|221 bye\r\n",
		"220 x\r\n|250-x\r\n250-PIPELINING\r\n250 CHUNKING\r\n|250 ok\r\n250 ok\r\n550 no\r\n250 ok\r\n|221 bye\r\n",
		"220 x\r\n|250 x\r\n|250 ok\r\n|250 ok\r\n|452 4.5.3 many\r\n|354 go\r\n|250 ok\r\n|250 ok\r\n|250 ok\r\n|354 go\r\n|250 ok\r\n|221 bye\r\n",
		"220 x\r\n|250-x\r\n250 AUTH PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1\r\n|334 AAAA\r\n|235 ok\r\n|250 ok\r\n|250 ok\r\n|250 ok\r\n|354\r\n|250\r\n",
		"220 x\r\n|250 x\r\n421 bye\r\n", "554 no\r\n", "220 x\r\n|250 x\r\n|421 4.7.0 too many messages in this session\r\n", "",
		"220 x\r\n|250-x\r\n250 PIPELINING\r\n|250 ok\r\n550 a\r\n550 b\r\n354 go\r\n|250 ok\r\n",
		"220 x\r\n|250-x\r\n250 LIMITS RCPTMAX=1 RCPTDOMAINMAX=1\r\n|250 ok\r\n|250 ok\r\n|354 go\r\n|250 ok\r\n|250 ok\r\n|250 ok\r\n|354 go\r\n|250 ok\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		dials := 0
		ended := false
		url := "smtp://127.0.0.1?tls=none&ehlo=client.example.com&conns=1"
		if strings.Contains(script, "AUTH") {
			url = "smtp://u:p@127.0.0.1?tls=none&ehlo=client.example.com&conns=1"
		}
		client, err := Open(url, func(c *Config) {
			c.Timeouts = Timeouts{Quit: 50 * time.Millisecond}
			c.Dial = func(context.Context, string, string) (net.Conn, error) {
				if dials++; dials > 3 {
					return nil, errors.New("no more")
				}
				return newScripted(script, &ended), nil
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		env := Envelope{From: "a@example.com", To: []string{"b@example.net", "c@example.org"}}
		for range 2 {
			ended = false
			res, err := client.Send(ctx, env, []byte("From: a\r\n\r\nthe body\r\n"))
			if ctx.Err() != nil {
				t.Fatal("Send does not return")
			}
			accepted := 0
			for _, o := range res.Outcomes {
				switch {
				case o.Accepted == (o.Err != nil):
					t.Errorf("outcome %+v", o)
				case o.Accepted:
					accepted++
				case o.Err.Class == "" || o.Err.Stage == "":
					t.Errorf("error without class or stage: %#v", o.Err)
				}
			}
			if len(res.Outcomes) != 2 || (err == nil) != (accepted == 2) {
				t.Errorf("%d outcomes, %d accepted, %v", len(res.Outcomes), accepted, err)
			}
			if accepted > 0 && !ended {
				t.Errorf("%d accepted, and the body did not leave", accepted)
			}
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
}

// silence is how long a scripted server waits for the client, which may wait for it.
const silence = 10 * time.Millisecond

// scripted is a connection to a server that says the next part of its script whenever it is spoken to, and hangs up at its end
// or when nothing happens.
type scripted struct {
	mu     sync.Mutex
	turn   *sync.Cond
	parts  []string
	ready  bytes.Buffer
	over   bool
	closed bool
	ended  *bool // the end of a body was written
}

func newScripted(script string, ended *bool) *scripted {
	s := &scripted{parts: strings.Split(script, "|"), ended: ended}
	s.turn = sync.NewCond(&s.mu)
	s.speak()
	return s
}

// speak makes the next part readable. The caller holds mu, or nobody else knows the connection.
func (s *scripted) speak() {
	if len(s.parts) == 0 || s.over {
		s.over = true
	} else {
		s.ready.WriteString(s.parts[0])
		s.parts = s.parts[1:]
		s.over = len(s.parts) == 0
	}
	s.turn.Broadcast()
}

func (s *scripted) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready.Len() == 0 && !s.over && !s.closed {
		hangUp := time.AfterFunc(silence, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.over = true
			s.turn.Broadcast()
		})
		defer hangUp.Stop()
	}
	for s.ready.Len() == 0 && !s.over && !s.closed {
		s.turn.Wait()
	}
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.ready.Len() == 0:
		return 0, io.EOF
	}
	return s.ready.Read(p)
}

func (s *scripted) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	if bytes.Contains(p, []byte("the body\r\n")) {
		*s.ended = true // it goes in one write with its end
	}
	s.speak()
	return len(p), nil
}

func (s *scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.turn.Broadcast()
	return nil
}

func (s *scripted) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (s *scripted) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 25} }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }
