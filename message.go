package outbox

import (
	"net/mail"
	"time"
)

// Address is a mailbox with an optional display name (RFC 5322 §3.4).
type Address = mail.Address

// DefaultRoute is the route of a message that names none.
const DefaultRoute = "default"

// Message is an e-mail to be sent. Give From, at least one recipient, and Text, HTML or Raw; everything else has a
// default. A Message is only read by this package and may be enqueued again; it must not be changed while a call runs.
type Message struct {
	// From is the author shown to the reader. Defaults to Config.From.
	From Address
	// ReplyTo, when given, is where answers go instead of From.
	ReplyTo []Address
	// To, Cc and Bcc are the recipients. Bcc never appears in the message that is sent. A mailbox that is named more
	// than once gets one copy.
	To, Cc, Bcc []Address
	// Subject is the subject line, in any script, without line breaks.
	Subject string
	// Text and HTML are the body. With both, the reader's program chooses (multipart/alternative).
	Text, HTML string
	// Attachments are carried with the body; those with a ContentID are shown inside the HTML.
	Attachments []Attachment
	// Header holds extra header fields. Fields that this package writes itself are refused here.
	Header map[string][]string
	// Raw is a complete RFC 5322 message, used as it is instead of every field above except the recipients:
	// envelope recipients are To, Cc and Bcc, and when all three are empty those of Raw's own To, Cc and Bcc fields.
	Raw []byte

	// EnvelopeFrom is the return path (RFC 5321 §4.4), to which bounces go; "<>" asks for none. Defaults to From.
	EnvelopeFrom string
	// Key makes enqueueing idempotent: while a message with the same key is kept, another is not stored. Up to 255
	// bytes of text. Defaults to none.
	Key string
	// Route names the way out, which the dispatcher maps to relays: letters, digits, '.', '_' and '-', up to 63 bytes.
	// Defaults to [DefaultRoute].
	Route string
	// Priority orders the messages of a route. Defaults to [Normal].
	Priority Priority
	// NotBefore is the earliest time of sending. Defaults to now.
	NotBefore time.Time
	// Expires is the time after which the message is no longer sent, for example because a sign-in code has lapsed.
	// Defaults to never; the dispatcher's MaxAge applies all the same.
	Expires time.Time
	// OnUncertain says what happens when the outcome cannot be known. Defaults to [Resend].
	OnUncertain UncertainPolicy
	// Tags are short labels for reporting, up to 20 of up to 128 bytes.
	Tags []string
	// Metadata is kept beside the message, up to 50 entries and 8 KiB, and is never sent unless a relay's profile maps it.
	Metadata map[string]string
}

// Attachment is a file that travels with a message.
type Attachment struct {
	// Name is the file name shown to the reader, in any script, without path separators or control characters.
	Name string
	// ContentType is the media type. Defaults to what the ending of Name says, else application/octet-stream.
	ContentType string
	// ContentID makes the attachment inline, to be referred to from HTML as "cid:" and this value, given without angle
	// brackets (RFC 2392). Defaults to none.
	ContentID string
	// Data is the content.
	Data []byte
}

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
