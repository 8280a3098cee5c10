package smtpx

import (
	"fmt"
	"strings"
	"time"
)

// Observer hears what a client does. Functions that are nil are not called; the others are called by the goroutines of the
// client, many at a time, and must return soon.
type Observer struct {
	// Opened is called when a connection is ready for messages: TLS, EHLO and AUTH are done.
	Opened func(Opened)
	// Closed is called when a connection that was opened has ended.
	Closed func(Closed)
	// Stage is called when a stage of a session has ended, with or without success.
	Stage func(StageDone)
	// Message is called when the outcome of a message is known, by Send before it returns.
	Message func(MessageDone)
	// Learned is called when a reply taught the pool a limit.
	Learned func(Learned)
}

// Opened tells of a new connection.
type Opened struct {
	// Host is the host:port of the configuration, Connection the number of the connection, from 1 for each client.
	Host       string
	Connection int
	// TLS is the version, "" in clear; Resumed tells whether a session was resumed. Mechanism is that of AUTH, "" for none.
	TLS       string
	Resumed   bool
	Mechanism string
	// Duration is the time from dialling on.
	Duration time.Duration
}

// Closed tells of the end of a connection.
type Closed struct {
	Host       string
	Connection int
	// Messages is how many were begun on it, Duration how long it lived.
	Messages int
	Duration time.Duration
	// Lost tells that it was out of step or cut off: otherwise it was ended with QUIT.
	Lost bool
}

// StageDone tells of one stage of a session.
type StageDone struct {
	Host       string
	Connection int
	Stage      Stage
	// Duration is the time from the flight that asked to the reply.
	Duration time.Duration
	// Code is that of the reply, 0 if there was none.
	Code int
	// Err says what went wrong, nil if nothing did.
	Err *Error
}

// MessageDone tells of one call of Send.
type MessageDone struct {
	Host string
	// Recipients is how many there were, Accepted how many of them were accepted.
	Recipients, Accepted int
	// Size is the number of octets of the message.
	Size int
	// Duration is the time from the call on, Waited the part of it before a connection took the message.
	Duration, Waited time.Duration
	// Err is what Send returns.
	Err error
}

// Learned tells of a limit that the pool keeps from now on.
type Learned struct {
	Host string
	// Effect is what kind of limit it is, and Value the limit: messages, connections, or seconds.
	Effect Effect
	Value  int
	// Reply is what taught it.
	Reply Reply
}

// Line is one line of a transcript. Secrets are replaced: what AUTH exchanges, in both directions, and the password wherever
// a server repeats it. Bodies are replaced by their size.
type Line struct {
	Connection int
	Time       time.Time
	// Client is true for what the client said.
	Client bool
	// Text is the line without its ending, control characters replaced.
	Text string
}

// String gives the line as logs have it: the number of the connection, C or S, and the text.
func (l Line) String() string {
	side := 'S'
	if l.Client {
		side = 'C'
	}
	return fmt.Sprintf("#%d %c: %s", l.Connection, side, l.Text)
}

const redacted = "***"

// said notes lines of the client.
func (s *session) said(text string) {
	if s.relay.Transcript == nil {
		return
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n"), "\r\n") {
		s.note(true, line)
	}
}

// saidFlight notes the commands of a flight.
func (s *session) saidFlight(p []byte) {
	if s.relay.Transcript != nil {
		s.said(string(p))
	}
}

// saidBody notes that a body of n octets was sent.
func (s *session) saidBody(n int) {
	if s.relay.Transcript != nil {
		s.note(true, fmt.Sprintf("[%d octets of body]", n))
	}
}

// heard notes a reply. A challenge of AUTH is not shown.
func (s *session) heard(r Reply, secret bool) {
	if s.relay.Transcript == nil {
		return
	}
	if secret && r.Code == 334 {
		s.note(false, "334 "+redacted)
		return
	}
	r = s.scrub(r)
	for i, line := range r.Lines {
		sep := "-"
		if i == len(r.Lines)-1 {
			sep = " "
		}
		enhanced := ""
		if r.Enhanced != "" {
			enhanced = r.Enhanced + " "
		}
		s.note(false, fmt.Sprintf("%03d%s%s%s", r.Code, sep, enhanced, line))
	}
}

func (s *session) note(client bool, text string) {
	s.relay.Transcript(Line{Connection: s.number, Time: time.Now(), Client: client, Text: printable(text)})
}

// observed reports a stage that has ended.
func (s *session) observed(stage Stage, start time.Time, code int, err *Error) {
	if f := s.relay.Observer.Stage; f != nil {
		f(StageDone{Host: s.relay.addr, Connection: s.number, Stage: stage, Duration: time.Since(start), Code: code, Err: err})
	}
}
