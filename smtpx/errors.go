package smtpx

import (
	"errors"
	"strings"
	"time"
)

// ErrClosed is the cause of an error of [Client.Send] or [Client.Probe] after [Client.Close]. Nothing was sent.
var ErrClosed = errors.New("smtpx: client closed")

// ErrTokenRefused means that the identity provider refuses the client, the refresh token or the consent, and that asking again
// is useless. Wrap it in errors of Config.Token. Send then fails with ClassConfig instead of ClassUnreachable. Nothing was sent.
var ErrTokenRefused = errors.New("smtpx: token refused")

// Class says what a failure means for the message and for the relay. The strings are stored by callers and never change.
type Class string

// The classes. The relay certainly did not accept the message in any of them but ClassAmbiguous.
const (
	// ClassTransient: try this relay again later.
	ClassTransient Class = "transient"
	// ClassRecycle: nothing is wrong with message or relay. This session is used up, stale or out of step, or the caller's hook
	// or context gave the message up. The message may be sent at once on a new connection.
	ClassRecycle Class = "recycle"
	// ClassThrottled: too fast, too many connections or too many logins.
	ClassThrottled Class = "throttled"
	// ClassQuota: the account's allowance is used up for a period.
	ClassQuota Class = "quota"
	// ClassRecipient: this recipient will never be accepted.
	ClassRecipient Class = "recipient"
	// ClassMessage: this message will never be accepted.
	ClassMessage Class = "message"
	// ClassConfig: an operator must mend something, such as credentials, sender identity, TLS or the EHLO name.
	ClassConfig Class = "config"
	// ClassUnreachable: no session was set up. Nothing was sent.
	ClassUnreachable Class = "unreachable"
	// ClassAmbiguous: no valid reply to the final dot came. The relay may have accepted the message.
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
	// Stage is the step that failed.
	Stage Stage
	// Class is what the failure means.
	Class Class
	// Rule names the classification rule that decided, "" when no reply was classified.
	Rule string
	// Reply is the server's answer, credentials replaced. Its Code is 0 for no answer.
	Reply Reply
	// Mechanism is that of AUTH, at StageAuth only.
	Mechanism string
	// Hint is one sentence for the operator, "" if there is none.
	Hint string
	// Err is the cause when it was not a reply: a connection, TLS, context or hook error.
	Err error
	// RetryAfter is how long to wait before the next try. It comes from the reply ("try again in 5 minutes") or from the profile
	// of the provider. For an allowance whose period ends at an unknown time it is 1 minute, 10 minutes or 1 hour, by the length
	// of the period. At most 24 hours, 0 if unknown.
	RetryAfter time.Duration

	effect Effect // of the rule
	scope  Scope  // of the rule, "" for what follows from class and stage
}

// Error returns stage, cause and class on one line. Control characters in the server's words are replaced.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(string(e.Stage))
	if e.Mechanism != "" {
		b.WriteByte(' ')
		b.WriteString(e.Mechanism)
	}
	b.WriteString(": ")
	switch {
	case e.Reply.Code != 0:
		b.WriteString(e.Reply.String())
		if e.Err != nil {
			b.WriteString(": ")
			b.WriteString(e.cause())
		}
	case e.Err != nil:
		b.WriteString(e.cause())
	default:
		b.WriteString("failed")
	}
	b.WriteString(" (")
	b.WriteString(string(e.Class))
	b.WriteString(")")
	return b.String()
}

// cause returns the words of Err without those of the stage, which net and crypto/tls repeat.
func (e *Error) cause() string {
	text := printable(e.Err.Error())
	for _, prefix := range []string{": ", " "} {
		text = strings.TrimPrefix(text, string(e.Stage)+prefix)
	}
	return text
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether the same message may be accepted later without any repair. It is false for ClassAmbiguous: sending
// again may duplicate.
func (e *Error) Temporary() bool {
	switch e.Class {
	case ClassTransient, ClassRecycle, ClassThrottled, ClassQuota, ClassUnreachable:
		return true
	default:
		return false
	}
}

// printable puts hostile text on one line. Control characters, C1 and the Unicode line separators included, become '?' or a
// space.
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
