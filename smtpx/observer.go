package smtpx

import (
	"fmt"
	"strings"
	"time"
)

// Observer has functions that the client calls. A nil one is not called. Each is called by many goroutines at a time and must
// return soon.
type Observer struct {
	// Opened is called when a connection is ready for messages: TLS, EHLO and AUTH are done.
	Opened func(Opened)
	// Closed is called when a connection that was opened has ended.
	Closed func(Closed)
	// Stage is called when a stage of a session has ended, with or without success.
	Stage func(StageDone)
	// Message is called when the outcome of a message is known, by Send before it returns.
	Message func(MessageDone)
	// Learned is called when a reply changed what the pool knows of the relay.
	Learned func(Learned)
}

// Opened describes a new connection.
type Opened struct {
	// Host is the host:port of the configuration. Connection numbers the connections of a client from 1.
	Host       string
	Connection int
	// TLS is the version, "" in clear. Resumed tells whether a session was resumed. Mechanism is that of AUTH, "" for none.
	TLS       string
	Resumed   bool
	Mechanism string
	// Duration is the time since dialling began.
	Duration time.Duration
}

// Closed describes the end of a connection.
type Closed struct {
	Host       string
	Connection int
	// Messages is how many were begun on it. Duration is how long it lived.
	Messages int
	Duration time.Duration
	// Lost is true when it was out of step or cut off, false when QUIT ended it.
	Lost bool
}

// StageDone describes one stage of a session.
type StageDone struct {
	Host       string
	Connection int
	Stage      Stage
	// Duration is the time from the flight that asked to the reply.
	Duration time.Duration
	// Code is that of the reply, 0 if there was none.
	Code int
	// Err is the failure, nil for success.
	Err *Error
}

// MessageDone describes one call of Send.
type MessageDone struct {
	Host string
	// Recipients is how many there were, Accepted how many of them were accepted.
	Recipients, Accepted int
	// Size is the number of octets of the message.
	Size int
	// Duration is the time since the call began, Waited the part of it before a connection took the message.
	Duration, Waited time.Duration
	// Err is what Send returns.
	Err error
}

// Learned describes a change of the limits that the pool keeps.
type Learned struct {
	Host string
	// Effect is the kind of limit. Value is the limit: messages, connections, or seconds.
	Effect Effect
	Value  int
	// Extension is the extension that is no longer used. It is set with EffectFalseOffer only.
	Extension string
	// Reply is the reason. Its Code is 0 when there was no reply.
	Reply Reply
}

// Line is one line of a transcript. It holds no secrets. The data of AUTH is replaced in both directions. Credentials are
// replaced wherever a server repeats them. A body is replaced by its size.
type Line struct {
	Connection int
	Time       time.Time
	// Client is true for a line of the client.
	Client bool
	// Text is the line without its ending, control characters replaced.
	Text string
}

// String returns the line for a log: the number of the connection, C or S, and the text.
func (l Line) String() string {
	side := 'S'
	if l.Client {
		side = 'C'
	}
	return fmt.Sprintf("#%d %c: %s", l.Connection, side, l.Text)
}

// logSent notes lines of the client.
func (s *session) logSent(text string) {
	if s.relay.Transcript == nil {
		return
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\r\n"), "\r\n") {
		s.log(true, line)
	}
}

// logFlight notes the commands of a flight.
func (s *session) logFlight(p []byte) {
	if s.relay.Transcript != nil {
		s.logSent(string(p))
	}
}

// logBody notes that a body of n octets was sent.
func (s *session) logBody(n int) {
	if s.relay.Transcript != nil {
		s.log(true, fmt.Sprintf("[%d octets of body]", n))
	}
}

// logReply notes a reply. It hides a challenge of AUTH.
func (s *session) logReply(r Reply, auth bool) {
	if s.relay.Transcript == nil {
		return
	}
	if auth && r.Code == 334 {
		s.log(false, "334 "+redacted)
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
		s.log(false, fmt.Sprintf("%03d%s%s%s", r.Code, sep, enhanced, line))
	}
}

func (s *session) log(client bool, text string) {
	s.relay.Transcript(Line{Connection: s.number, Time: time.Now(), Client: client, Text: printable(text)})
}

// observed reports a stage that has ended.
func (s *session) observed(stage Stage, start time.Time, code int, err *Error) {
	if f := s.relay.Observer.Stage; f != nil {
		f(StageDone{Host: s.relay.addr, Connection: s.number, Stage: stage, Duration: time.Since(start), Code: code, Err: err})
	}
}
