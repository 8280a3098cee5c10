package smtpx

import "context"

// Envelope says between whom a message travels. The header fields of the message are not looked at.
type Envelope struct {
	// From is the reverse-path, to which failure reports go: local@domain without angle brackets. "" is the null
	// reverse-path of RFC 5321 §4.5.5.
	From string
	// To are the recipients, at least one. A recipient whose address cannot be sent gets its own outcome; the others are
	// sent to.
	To []string
	// Commit, when set, is called once, after at least one recipient was accepted and before the first byte of the body may
	// leave. Where the server allows the whole message in one flight it is called before that flight.
	//
	// An error abandons the message: nothing of the body is sent, and [Client.Send] returns an [*Error] of
	// [ClassRecycle] in which errors.Is finds the hook's error. The hook must return when ctx, which is Send's, is done.
	Commit func(ctx context.Context) error
	// CommitAccepted, when set, is called before each transaction's body may leave, behind Commit, with the recipients that
	// the body is about to leave for, as indexes of To in their order: those that the relay has accepted, or all of the transaction
	// where everything goes in one flight. A recipient that no call has named was certainly not sent to. A message whose
	// recipients have to be split has several transactions; a recipient is named again when a kept connection was dead and
	// the transaction is repeated on another. Errors, and ctx, are as with Commit; what earlier transactions were accepted for stays.
	CommitAccepted func(ctx context.Context, accepted []int) error

	// DSN asks for delivery status notifications (RFC 3461). It is ignored where the server does not offer DSN.
	DSN DSN
	// RequireTLS demands that every further hop uses TLS with verification (RFC 8689). A server that does not offer
	// REQUIRETLS, or a session without TLS, is an error of ClassConfig, and nothing is sent.
	RequireTLS bool
}

// DSN says which notifications about a message are wanted. The zero value leaves that to the server.
type DSN struct {
	// ID comes back in notifications (ENVID). Printable ASCII, at most 100 characters.
	ID string
	// Return is how much of the message comes back with them. Defaults to the server's choice.
	Return DSNReturn
	// Notify are the occasions. NotifyNever stands alone. None means the server's choice.
	Notify []DSNNotify
}

// DSNReturn is how much of a message a notification holds.
type DSNReturn string

// The amounts.
const (
	ReturnFull   DSNReturn = "FULL"
	ReturnHeader DSNReturn = "HDRS"
)

// DSNNotify is an occasion for a notification.
type DSNNotify string

// The occasions.
const (
	NotifyNever   DSNNotify = "NEVER"
	NotifySuccess DSNNotify = "SUCCESS"
	NotifyFailure DSNNotify = "FAILURE"
	NotifyDelay   DSNNotify = "DELAY"
)

// Result is what became of a message.
type Result struct {
	// Outcomes has one entry per recipient in the order of Envelope.To, always, also when Send returns an error.
	Outcomes []Outcome
	// ProviderID is the name that the relay gave the message in its reply to the final dot, "" if it gave none.
	ProviderID string
	// Reply answers the final dot. It is zero if the dialogue did not get there.
	Reply Reply
	// Host is the host:port that was connected to, "" if there was no connection.
	Host string
}

// Outcome is what became of a message for one recipient.
type Outcome struct {
	// Recipient is the address as it stands in Envelope.To.
	Recipient string
	// Accepted is true when the relay took responsibility: the recipient and then the message were answered with 2xx.
	Accepted bool
	// Err says why not. It is nil exactly when Accepted is true.
	Err *Error
}
