package smtptest

import (
	"context"
	"time"
)

// TLSMode says how a server protects its sessions.
type TLSMode string

// The modes.
const (
	// StartTLS offers STARTTLS, and AUTH only behind it. It is the default.
	StartTLS TLSMode = "starttls"
	// ImplicitTLS begins with the handshake.
	ImplicitTLS TLSMode = "implicit"
	// NoTLS speaks in clear and offers AUTH in clear.
	NoTLS TLSMode = "none"
)

// DefaultExtensions are offered when Config.Extensions is nil. The server adds STARTTLS and AUTH according to the configuration.
var DefaultExtensions = []string{"PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN"}

// Config describes a server. The zero value listens on a free port of 127.0.0.1, offers STARTTLS and asks for no AUTH.
type Config struct {
	// Addr is where to listen. Defaults to 127.0.0.1:0.
	Addr string
	// NoListen makes a server that only [Server.Dial] can reach.
	NoListen bool
	// Personality makes the server behave like a provider's. Defaults to none.
	Personality Personality
	// Hostname is the name in the greeting and in the certificate. Defaults to relay.test.
	Hostname string
	// TLS is the mode. Defaults to StartTLS.
	TLS TLSMode
	// MaxTLSVersion is the highest version of TLS, such as tls.VersionTLS12. Defaults to the highest that Go has.
	MaxTLSVersion uint16
	// ClientCertificates demands a certificate of the client that the authority of the package signed.
	ClientCertificates bool
	// User and Password are required before MAIL if User is set.
	User, Password string
	// Mechanisms are those that AUTH offers: PLAIN, LOGIN, CRAM-MD5, SCRAM-SHA-1 and SCRAM-SHA-256, both also with -PLUS,
	// XOAUTH2 and OAUTHBEARER, for which Password is the token. Defaults to PLAIN and LOGIN.
	Mechanisms []string
	// Extensions are the lines of the EHLO reply. Defaults to DefaultExtensions, which do not include CHUNKING.
	Extensions []string

	// MaxRecipients is the most recipients of a message. The next recipient gets 452 4.5.3. Defaults to no limit.
	MaxRecipients int
	// MaxDomains is the most domains among the recipients of a message. A recipient of a further domain gets 452 4.5.3. Defaults
	// to no limit. A line "LIMITS" among the Extensions announces MaxDomains, MaxRecipients and MaxMessages (RFC 9422).
	MaxDomains int
	// MaxMessages is the most messages of a session. The next MAIL gets 421, and the session ends. Defaults to no limit.
	MaxMessages int
	// MaxSessions is the most sessions at a time. The next session is greeted with 421. Defaults to no limit.
	MaxSessions int
	// IdleTimeout is how long a client may say nothing before it gets 421 and the session ends. Defaults to no limit.
	IdleTimeout time.Duration
	// Latency is the wait before every flight of replies. Defaults to none.
	Latency time.Duration

	// Hook, when set, is called at every stage of every session and may change the server's behaviour. Many goroutines call it
	// at a time. It may block. ctx is done when the server closes.
	Hook func(ctx context.Context, e Event) Action
	// Discard keeps the bodies out of the ledger, for load tests. Message.Data is then nil; Size is correct.
	Discard bool
}

// Stage is a point of the dialogue at which the server calls Config.Hook.
type Stage string

// The stages. Unless a comment says otherwise, the server calls the hook after it has read the command and before it carries it
// out.
const (
	StageBanner   Stage = "banner" // before the greeting, in TLS already where it is implicit
	StageEHLO     Stage = "ehlo"
	StageStartTLS Stage = "starttls"
	StageTLS      Stage = "tls" // before the handshake; Reply and Raw are sent in clear in its place
	StageAuth     Stage = "auth"
	StageMail     Stage = "mail"
	StageRcpt     Stage = "rcpt"
	StageData     Stage = "data" // DATA, before the 354, or BDAT
	StageBody     Stage = "body" // before the first octet of the body is read; see Action.After
	StageDot      Stage = "dot"  // the body is complete; Event.Message is set
	StageIdle     Stage = "idle" // the reply to the final dot has left; Reply is sent unasked
	StageReset    Stage = "rset"
	StageNoop     Stage = "noop"
	StageQuit     Stage = "quit"
	StageOther    Stage = "other" // any other command
)

// Event describes the moment at which the hook is called.
type Event struct {
	Stage   Stage
	Session Session
	// Line is the command as received, without its line ending. It is "" at a stage without a command.
	Line string
	// Message is the message that was received, at StageDot only.
	Message *Message
}

// Session describes the connected client, as far as the server knows it at the stage.
type Session struct {
	// ID numbers the sessions of a server from 1.
	ID int
	// Remote is the client's address, host:port.
	Remote string
	// EHLO is the name that the client gave.
	EHLO string
	// TLS is the version, such as "TLS 1.3", "" in clear. Resumed tells whether the handshake was short.
	TLS     string
	Resumed bool
	// User is the user that AUTH accepted, by Mechanism.
	User, Mechanism string
	// Messages is the number of messages accepted before.
	Messages int
}

// Action changes the server's behaviour at a stage. The zero value changes nothing.
type Action struct {
	// Delay is the wait before the other fields take effect.
	Delay time.Duration
	// Reply is sent instead of the normal reply, and the command is not carried out. Lines are separated by "\n"; each must
	// have its code. At StageDot a reply that begins with 2 accepts the message.
	Reply string
	// Raw is sent unchanged instead of a reply.
	Raw string
	// Trickle sends the reply one octet at a time. It works with any reply.
	Trickle bool
	// After is the number of octets of the body that are read before the other fields take effect. At StageBody only. Without an
	// End the rest of the body is read and discarded, and gets no other reply.
	After int
	// Withhold records the message as accepted and sends no reply. At StageDot only. If End is set, the session then ends.
	Withhold bool
	// End ends the session after the other fields took effect.
	End End
}

// End is a way of ending a session.
type End int

// The ways. The zero value goes on.
const (
	_     End = iota
	Close     // end the stream in an orderly manner (FIN)
	Reset     // abort the connection (RST)
	Stall     // keep the connection, read nothing more, say nothing more
)

// acts reports whether the action replaces the normal course.
func (a Action) acts() bool { return a.Reply != "" || a.Raw != "" || a.End != 0 || a.Withhold }

// At makes a hook that takes an action the first n times that a stage is reached. It counts over all sessions. n < 0 means every
// time.
func At(stage Stage, n int, action Action) func(context.Context, Event) Action {
	var taken counter
	return func(_ context.Context, e Event) Action {
		if e.Stage != stage || !taken.below(n) {
			return Action{}
		}
		return action
	}
}

// Hooks asks several hooks in turn and takes the first action that is not zero.
func Hooks(hooks ...func(context.Context, Event) Action) func(context.Context, Event) Action {
	return func(ctx context.Context, e Event) Action {
		for _, h := range hooks {
			if a := h(ctx, e); a != (Action{}) {
				return a
			}
		}
		return Action{}
	}
}
