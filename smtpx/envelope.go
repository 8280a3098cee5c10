package smtpx

import "context"

// Envelope holds the sender and the recipients of a message. It is independent of the message's header fields.
type Envelope struct {
	// From is the reverse-path, the address for failure reports: local@domain without angle brackets. "" is the null
	// reverse-path of RFC 5321 §4.5.5.
	From string
	// To are the recipients, at least one. A recipient with an invalid address gets an error of its own; the others get the
	// message.
	To []string
	// Commit, when set, is called before the first octet of the body may leave. At least one recipient was accepted then, unless
	// the whole message goes in one flight. The commands of the message may also leave right after the final dot of the previous
	// message. Commit is then called at that moment, before any recipient is accepted and possibly while other hooks run. If the
	// body leaves more than 5 seconds later, Commit is called once more; otherwise it is called once. It has returned when Send
	// returns.
	//
	// An error abandons the message. Nothing of the body is sent, and [Client.Send] returns an [*Error] of [ClassRecycle] that
	// wraps it. After nil the message may still not be sent, when ctx is done or the connection ends. ctx is that of Send; the
	// hook must return when it is done.
	Commit func(ctx context.Context) error
	// CommitAccepted, when set, is called after Commit before the body of each transaction may leave. accepted has the
	// recipients that the body is about to leave for, as indexes of To in ascending order: those that the relay accepted, or all
	// of the transaction when it goes in one flight. A recipient that no call names certainly did not get the message.
	//
	// A message with too many recipients for the relay has several transactions. A recipient is named again if the connection
	// turned out to be dead and the transaction is repeated on another. Errors and ctx are as with Commit. Recipients accepted
	// in earlier transactions stay accepted.
	CommitAccepted func(ctx context.Context, accepted []int) error

	// DSN asks for delivery status notifications (RFC 3461). It is ignored by a server that does not offer DSN.
	DSN DSN
	// RequireTLS demands verified TLS on every further hop (RFC 8689). Without TLS here, or without the server's offer of
	// REQUIRETLS, Send fails with ClassConfig and sends nothing.
	RequireTLS bool
}

// DSN asks for notifications about a message. The zero value leaves them to the server.
type DSN struct {
	// ID is returned in notifications (ENVID). Printable ASCII, at most 100 characters in the encoding of RFC 3461 §4.
	ID string
	// Return is how much of the message a notification returns. Defaults to the server's choice.
	Return DSNReturn
	// Notify are the occasions. NotifyNever must stand alone. Defaults to the server's choice.
	Notify []DSNNotify
	// Original are the addresses that the recipients of Envelope.To had at first, in their order, "" for an unknown one
	// (ORCPT). A notification names them. An entry is an address, or TYPE;ADDRESS. TYPE defaults to rfc822, for an address
	// outside ASCII to utf-8 (RFC 6533). At most 500 characters in the encoding of RFC 3461 §4. Defaults to none.
	Original []string
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

// Result is the outcome of a message.
type Result struct {
	// Outcomes has one entry per recipient in the order of Envelope.To, even if Send returns an error.
	Outcomes []Outcome
	// ProviderID is the relay's name for the message, from its reply to the final dot, "" for none.
	ProviderID string
	// Reply is the answer to the final dot. It is zero when there was none.
	Reply Reply
	// Host is the host:port of the relay, "" when no connection took the message.
	Host string
}

// Outcome is the outcome of a message for one recipient.
type Outcome struct {
	// Recipient is the address as it stands in Envelope.To.
	Recipient string
	// Accepted is true when the relay took responsibility: it answered the recipient and then the message with 2xx.
	Accepted bool
	// Err is the reason when it did not. It is nil exactly when Accepted is true.
	Err *Error
}
