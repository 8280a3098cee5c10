package outbox

import (
	"net/mail"
	"time"
)

// Address is a mailbox with an optional display name (RFC 5322 §3.4).
type Address = mail.Address

// DefaultRoute is the route of a message that names none.
const DefaultRoute = "default"

// Message is an e-mail to be sent. Give From, at least one recipient, and Text, HTML, Attachments or Raw; everything
// else has a default. A Message is only read by this package and may be enqueued again; it must not be changed while a
// call runs.
//
// Every value is checked when the message is enqueued (see [InvalidError]): text must be UTF-8, and what stands in a
// header or an envelope has no control characters, so neither a line break nor a NUL. An address is a local part of up to
// 64 bytes without quotes, @, and a domain, up to 254 bytes together; an international domain is converted to its ASCII
// form. A local part outside ASCII needs a relay that offers SMTPUTF8 (RFC 6531): elsewhere that recipient fails, and where
// it is the sender's, all of them.
type Message struct {
	// From is the author shown to the reader. Defaults to Config.From.
	From Address
	// ReplyTo, when given, is where answers go instead of From.
	ReplyTo []Address
	// To, Cc and Bcc are the recipients. Bcc never appears in the message that is sent. A mailbox that is named more
	// than once gets one copy.
	To, Cc, Bcc []Address
	// Subject is the subject line, in any script, up to 998 bytes.
	Subject string
	// Text and HTML are the body. With both, the reader's program chooses (multipart/alternative). Line breaks of any
	// kind become CRLF. Text defaults to what the HTML says, unless Config.HTMLOnly is set.
	Text, HTML string
	// Calendar is an iCalendar object (RFC 5545), such as an invitation, which goes beside Text and HTML as another form of
	// the body (RFC 6047). Its METHOD property, which must be there, tells the reader's program what to do with it: REQUEST
	// invites, CANCEL calls off. Lines are sent as they are, with CRLF between them.
	Calendar string
	// Attachments are carried with the body; those with a ContentID are shown inside the HTML.
	Attachments []Attachment
	// InReplyTo is the Message-ID that this message answers, with its angle brackets, and References are those of the
	// conversation before it, the oldest first (RFC 5322 §3.6.4). References defaults to InReplyTo.
	InReplyTo  string
	References []string
	// AutoSubmitted says that no person wrote the message (RFC 3834 §5), so that absence notices do not answer it. Defaults
	// to saying nothing.
	AutoSubmitted AutoSubmitted
	// Unsubscribe says how the reader can leave a list. Defaults to nothing.
	Unsubscribe Unsubscribe
	// Header holds extra header fields, written in the order of their names. ASCII is written as it is, anything else as
	// encoded words (RFC 2047); Sender takes one address. Refused are fields that this package writes itself, trace fields
	// and, unless Config.AllowHeaders names them, fields that steer an e-mail provider.
	Header map[string][]string
	// Raw is a complete RFC 5322 message, sent as it is: everything above but From and the recipients must be empty then.
	// Only a missing Date and Message-ID are added, before everything else, and Bcc is left out. Its header is ASCII, its
	// lines end in CRLF and have at most 998 bytes; a message whose lines all end in LF is converted. The recipients are
	// To, Cc and Bcc of this struct, and when all three are empty those of Raw's own fields.
	Raw []byte

	// EnvelopeFrom is the return path (RFC 5321 §4.4), to which bounces go; "<>" asks for none. Defaults to From, and for
	// a Raw message without it to the author in its header.
	EnvelopeFrom string
	// Key makes enqueueing idempotent: while a message with the same key is kept, another is not stored. Up to 255
	// bytes of text. Defaults to none.
	Key string
	// Route names the way out, which the dispatcher maps to relays: letters, digits, '.', '_' and '-', up to 63 bytes.
	// Defaults to [DefaultRoute].
	Route string
	// Priority orders the messages of a route. Defaults to [Normal].
	Priority Priority
	// NotBefore is the earliest time of sending, to the millisecond. Defaults to now. The Date of the message is this time
	// where it is in the future, else the time of enqueueing.
	NotBefore time.Time
	// Expires is the time after which the message is no longer sent, for example because a sign-in code has lapsed.
	// Defaults to never; the dispatcher's MaxAge applies all the same.
	Expires time.Time
	// OnUncertain says what happens when the outcome cannot be known. Defaults to [Resend].
	OnUncertain UncertainPolicy
	// Tags are short labels for reporting, up to 20 of up to 128 bytes.
	Tags []string
	// Metadata is kept beside the message, up to 50 entries and 8 KiB. It is sent only through providers that take it in a header
	// field, as are Tags (see package dispatcher); Mailgun shows it to recipients. Defaults to none.
	Metadata map[string]string
}

// AutoSubmitted is a value of the Auto-Submitted header field (RFC 3834 §5).
type AutoSubmitted string

// The kinds of messages that no person wrote.
const (
	// AutoGenerated is for what a program sends of itself: reports, reminders, receipts.
	AutoGenerated AutoSubmitted = "auto-generated"
	// AutoReplied is for answers to a message that a program gives. Their EnvelopeFrom should be "<>" (RFC 3834 §3.3).
	AutoReplied AutoSubmitted = "auto-replied"
	// AutoNotified is for notices that a person asked for (RFC 5436 §2.7.1).
	AutoNotified AutoSubmitted = "auto-notified"
)

// Receipt says what became of an enqueued message.
type Receipt struct {
	// ID names the message in this library, in outboxctl and in the database.
	ID ID
	// MessageID is the Message-ID header field (RFC 5322 §3.6.4), angle brackets included. It never changes.
	MessageID string
	// Duplicate is true when a message with the same Key was stored before: nothing was written, and ID and MessageID
	// are those of the earlier message, or empty where the transaction cannot be queried (see [InTx]).
	Duplicate bool
}
