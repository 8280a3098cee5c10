package smtpx

import (
	"errors"
	"strings"
	"time"
)

// ErrClosed is found by errors.Is in the error of a [Client.Send] or [Client.Probe] that began after [Client.Close].
// Nothing was sent.
var ErrClosed = errors.New("smtpx: client closed")

// Class says what a failure means for the message and for the relay. The strings are stored by callers and never change.
type Class string

// The classes. In all of them but ClassAmbiguous it is certain that the relay did not accept the message.
const (
	// ClassTransient: try this relay again later.
	ClassTransient Class = "transient"
	// ClassRecycle: only this session is used up, stale or abandoned; the message may go at once on a new connection.
	ClassRecycle Class = "recycle"
	// ClassThrottled: too fast, too many connections or too many logins.
	ClassThrottled Class = "throttled"
	// ClassQuota: the account's allowance is used up for a period.
	ClassQuota Class = "quota"
	// ClassRecipient: this recipient will never be accepted.
	ClassRecipient Class = "recipient"
	// ClassMessage: this message will never be accepted.
	ClassMessage Class = "message"
	// ClassConfig: an operator must mend something: credentials, sender identity, TLS, EHLO name.
	ClassConfig Class = "config"
	// ClassUnreachable: no session came about. Nothing was sent.
	ClassUnreachable Class = "unreachable"
	// ClassAmbiguous: the connection was lost after the final dot; the relay may or may not have accepted the message.
	ClassAmbiguous Class = "ambiguous"
)

// Stage is a step of the SMTP dialogue. The strings are stored by callers and never change.
type Stage string

// The stages in the order in which a session goes through them.
const (
	StageDial     Stage = "dial"     // resolving the name and connecting
	StageTLS      Stage = "tls"      // handshake, implicit or after STARTTLS
	StageBanner   Stage = "banner"   // the server's greeting
	StageEHLO     Stage = "ehlo"     // EHLO, before and after STARTTLS
	StageStartTLS Stage = "starttls" // the STARTTLS command
	StageAuth     Stage = "auth"     // AUTH and its challenges
	StageMail     Stage = "mail"     // MAIL
	StageRcpt     Stage = "rcpt"     // RCPT
	StageData     Stage = "data"     // DATA and the body up to the final dot
	StageDot      Stage = "dot"      // from the moment the final dot may have left
	StageIdle     Stage = "idle"     // between messages, RSET and NOOP included
)

// Error is the reason why a message, or one recipient of it, was not accepted.
type Error struct {
	// Stage is where it was decided.
	Stage Stage
	// Class is what it means.
	Class Class
	// Rule names the classification rule that decided, "" when no reply was classified.
	Rule string
	// Reply is what the server said. Its Code is 0 when it said nothing.
	Reply Reply
	// Hint is one sentence for the operator, "" if there is none.
	Hint string
	// Err is the cause when it was not a reply: a connection, TLS, context or hook error.
	Err error
	// RetryAfter is how long it makes sense to wait before the relay is asked again, as far as the reply says it ("try again in
	// 5 minutes"), or what is known of the provider. For an allowance whose period ends nobody knows when, it is how often to
	// look: after 1 minute, 10 minutes or 1 hour, by the length of the period. At most 24 hours; 0 when nothing is known.
	RetryAfter time.Duration

	effect Effect // of the rule
	scope  Scope  // of the rule, "" for what follows from class and stage
}

// Error gives stage, cause and class on one line. Control characters in the server's words are replaced.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Stage))
	b.WriteString(": ")
	switch {
	case e.Reply.Code != 0:
		b.WriteString(e.Reply.String())
		if e.Err != nil {
			b.WriteString(": ")
			b.WriteString(printable(e.Err.Error()))
		}
	case e.Err != nil:
		b.WriteString(printable(e.Err.Error()))
	default:
		b.WriteString("failed")
	}
	b.WriteString(" (")
	b.WriteString(string(e.Class))
	b.WriteString(")")
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same message may be accepted later without anybody mending anything. It is false for
// ClassAmbiguous, where sending again may duplicate.
func (e *Error) Temporary() bool {
	switch e.Class {
	case ClassTransient, ClassRecycle, ClassThrottled, ClassQuota, ClassUnreachable:
		return true
	default:
		return false
	}
}

// printable puts hostile text on one line: control characters, also C1 and the Unicode line separators, become '?' or a space.
func printable(s string) string {
	clean := true
	for _, r := range s {
		if unprintable(r) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\r' || r == '\n' || r == '\t':
			return ' '
		case unprintable(r):
			return '?'
		default:
			return r
		}
	}, s)
}

func unprintable(r rune) bool {
	return r < 0x20 || (r >= 0x7f && r < 0xa0) || r == '\u2028' || r == '\u2029' || r == '\ufffd' ||
		(r >= 0x202a && r <= 0x202e) || (r >= 0x2066 && r <= 0x2069) // overrides of writing direction
}
