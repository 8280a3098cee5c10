package smtpx_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// script runs a server on loopback for behaviour that smtptest lacks. serve gets each connection and its number, from 1.
func script(t *testing.T, serve func(c net.Conn, r *bufio.Reader, n int)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c, bufio.NewReader(c), n)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// dialogueScript is a server that answers each command by its verb. A reply of "" ends the session without a reply. A reply that
// ends in NUL is sent, and then the session ends. A verb without an entry in replies gets 250.
type dialogueScript struct {
	ehlo    []string // lines behind the first
	replies func(n int, verb, line string) (reply string, ok bool)
	// behind, when set, is called after a body with the octets that the client sent behind the final dot. It returns the reply,
	// how many of these octets to discard, and whether the server hangs up instead of replying.
	behind func(sent []byte) (reply string, discard int, hangUp bool)

	mu       sync.Mutex
	sessions int
	bodies   int
	lines    []string
}

func (s *dialogueScript) start(t *testing.T) (addr string) {
	t.Helper()
	return script(t, s.serve)
}

func (s *dialogueScript) serve(c net.Conn, r *bufio.Reader, n int) {
	s.mu.Lock()
	s.sessions++
	s.mu.Unlock()
	say(c, "220 script.test ESMTP")
	for {
		l := line(r)
		if l == "" {
			return
		}
		s.mu.Lock()
		s.lines = append(s.lines, l)
		s.mu.Unlock()
		verb, args, _ := strings.Cut(l, " ")
		reply, ok := "", false
		if s.replies != nil {
			reply, ok = s.replies(n, verb, l)
		}
		switch {
		case ok && reply == "":
			return
		case ok:
			last, ends := strings.CutSuffix(reply, "\x00")
			say(c, last)
			if ends {
				return
			}
			continue
		}
		switch verb {
		case "EHLO":
			say(c, strings.Join(append([]string{"250-script.test"}, s.ehlo...), "\r\n250-")+"\r\n250 HELP")
		case "DATA":
			say(c, "354 go on")
			if !skipBody(r) {
				return
			}
			if !s.answerBody(c, r, n) {
				return
			}
		case "BDAT":
			var size int
			_, _ = fmt.Sscan(args, &size)
			if _, err := io.CopyN(io.Discard, r, int64(size)); err != nil {
				return
			}
			if !s.answerBody(c, r, n) {
				return
			}
		case "QUIT":
			say(c, "221 bye")
			return
		default:
			say(c, "250 ok")
		}
	}
}

func (s *dialogueScript) answerBody(c net.Conn, r *bufio.Reader, n int) bool {
	reply, ok := "250 2.0.0 ok", true
	if s.replies != nil {
		if special, has := s.replies(n, ".", "."); has {
			reply, ok = special, strings.HasPrefix(special, "2")
		}
	}
	if s.behind != nil {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Millisecond)) // so that what follows the dot is there
		_, _ = r.Peek(1)
		_ = c.SetReadDeadline(time.Time{})
		sent, _ := r.Peek(r.Buffered())
		special, discard, hangUp := s.behind(sent)
		_, _ = r.Discard(discard)
		if hangUp {
			reply, special = "", ""
		}
		if special != "" {
			reply = special
		}
	}
	if ok {
		s.mu.Lock()
		s.bodies++
		s.mu.Unlock()
	}
	if reply == "" {
		return false
	}
	say(c, reply)
	return true
}

// counts returns how many sessions there were and how many bodies the server took.
func (s *dialogueScript) counts() (sessions, bodies int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions, s.bodies
}

// said tells how many commands began with prefix.
func (s *dialogueScript) said(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, l := range s.lines {
		if strings.HasPrefix(l, prefix) {
			n++
		}
	}
	return n
}

func say(c net.Conn, lines ...string) { _, _ = fmt.Fprint(c, strings.Join(lines, "\r\n")+"\r\n") }

func line(r *bufio.Reader) string {
	s, _ := r.ReadString('\n')
	return strings.TrimRight(s, "\r\n")
}

func skipBody(r *bufio.Reader) bool {
	for {
		s, err := r.ReadString('\n')
		if err != nil {
			return false
		}
		if s == ".\r\n" {
			return true
		}
	}
}
