package outbox

import (
	"net/mail"
	"time"
)

// Address is a mailbox with an optional display name (RFC 5322 §3.4).
type Address = mail.Address

// DefaultRoute is the route of a message that names none.
const DefaultRoute = "default"

// Message is an e-mail to be sent. Give From, at least one recipient, and Text, HTML, Attachments or Raw. Everything
// else has a default. This package only reads a Message, and it may be enqueued again. Do not change it while a call runs.
//
// Every value is checked when the message is enqueued (see [InvalidError]). Text must be UTF-8. Values of the header and the
// envelope have no control characters, so neither a line break nor a NUL.
//
// An address is a local part, @ and a domain, up to 498 bytes together: as much as fits into an SMTP command of 512 bytes (RFC
// 5321 §4.5.3.1.4). The relay may have a shorter limit. A local part that is not a dot-atom is written in quotes, as in
// "john doe"@example.com or "a..b"@example.com. It is stored and sent in canonical form: without quotes where none are
// needed, the domain in lower case and in its ASCII form. Refused are angle brackets and control characters in quotes, and address
// literals such as a@[192.0.2.1].
//
// A local part outside ASCII needs a relay that offers SMTPUTF8 (RFC 6531). Elsewhere that recipient fails. Where the address
// is the sender's or stands in a header field, all recipients fail.
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
	// kind become CRLF. Text defaults to the text of the HTML, unless Config.HTMLOnly is set.
	Text, HTML string
	// Calendar is an iCalendar object (RFC 5545), such as an invitation. It is another form of the body beside Text and HTML
	// (RFC 6047). It must have a METHOD property, which tells the reader's program its purpose: REQUEST invites, CANCEL calls
	// off. Lines are sent as they are, with CRLF between them.
	Calendar string
	// Attachments are carried with the body; those with a ContentID are shown inside the HTML.
	Attachments []Attachment
	// InReplyTo is the Message-ID that this message answers, with its angle brackets. References are those of the conversation
	// before it, one in each string, the oldest first (RFC 5322 §3.6.4). White space and comments around a Message-ID are
	// left out. References defaults to InReplyTo.
	InReplyTo  string
	References []string
	// AutoSubmitted says that no person wrote the message (RFC 3834 §5). Absence notices do not answer it then. Defaults
	// to none.
	AutoSubmitted AutoSubmitted
	// Unsubscribe says how the reader can leave a list. Defaults to nothing.
	Unsubscribe Unsubscribe
	// Header holds extra header fields, written in the order of their names. Text outside ASCII is encoded (RFC 2047).
	//
	// A field with a grammar must keep to it: address lists (Sender, which takes one address, Disposition-Notification-To,
	// Errors-To, Mail-Followup-To and others), List-Id and the URLs of the other List fields, Message-IDs (In-Reply-To,
	// References and others), Keywords. In them only names, phrases and comments are encoded. URLs and domains get their ASCII
	// forms. In other fields too, an address or a word in angle brackets is kept out of the encoding, and refused where it is
	// not ASCII itself.
	//
	// Refused are fields that this package writes itself, trace fields and Resent fields. Fields that steer an e-mail provider
	// are refused unless Config.AllowHeaders names them.
	Header map[string][]string
	// Raw is a complete RFC 5322 message. It is stored and sent as it is, below the fields that a dispatcher puts above every
	// message (X-Outbox-ID and those of the provider). Everything above but From and the recipients must be empty then.
	// A missing Date and Message-ID are added before everything else. Bcc and Return-Path are left out, and a byte order mark.
	// The lines of Raw end in CRLF and have at most 998 bytes; a message whose lines all end in LF is converted.
	//
	// The header is ASCII: a header in UTF-8 (RFC 6532) is refused, so encode it (RFC 2047) or give the message by its fields. The
	// separator line of an mbox file is refused, because the body may then hold ">From " for "From ". Fields with which a
	// provider or a filter has marked a message that it carried, such as X-SES-Outgoing, are sent; fields that steer a
	// provider are treated as in Header.
	//
	// The recipients are To, Cc and Bcc of this struct. When all three are empty, they are those of Raw's own fields, with
	// comments, groups and the obsolete syntax understood, and each must be an address as above. Addresses of Raw that do not
	// become the envelope must only be readable.
	Raw []byte

	// EnvelopeFrom is the return path (RFC 5321 §4.4), to which bounces go. "<>" asks for none. Defaults to From, and for
	// a Raw message without From to the author in its header.
	EnvelopeFrom string
	// Key makes enqueueing idempotent: while a message with the same key is kept, another is not stored. A message of which every
	// delivery was cancelled gives its key back and is stored without it. Up to 255 bytes of text. Defaults to none.
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
	// OnUncertain chooses the action when the outcome cannot be known. Defaults to [Resend].
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
	// AutoGenerated is for mail that a program sends by itself: reports, reminders, receipts.
	AutoGenerated AutoSubmitted = "auto-generated"
	// AutoReplied is for answers to a message that a program gives. Their EnvelopeFrom should be "<>" (RFC 3834 §3.3).
	AutoReplied AutoSubmitted = "auto-replied"
	// AutoNotified is for notices that a person asked for (RFC 5436 §2.7.1).
	AutoNotified AutoSubmitted = "auto-notified"
)

// Receipt names a message that was enqueued.
type Receipt struct {
	// ID names the message in this library, in outboxctl and in the database.
	ID ID
	// MessageID is the Message-ID header field (RFC 5322 §3.6.4), angle brackets included. It never changes.
	MessageID string
	// Duplicate is true when a message with the same Key was stored before: nothing was written, and ID and MessageID
	// are those of the earlier message, or empty where the transaction cannot be queried (see [InTx]).
	Duplicate bool
	// State says where the earlier message stands if Duplicate is true. With several recipients it is the first of queued, sending,
	// uncertain, held, failed, expired, suppressed and cancelled that any delivery is in, and sent if all are. Else it is empty.
	State State
}
