// Package outbox lets an application send e-mail that commits with its data.
//
//	err := outbox.Do(ctx, db, func(tx *sql.Tx) error {
//		if _, err := tx.ExecContext(ctx, "INSERT INTO orders …"); err != nil {
//			return err
//		}
//		_, err := outbox.Enqueue(ctx, tx, &outbox.Message{
//			From:    outbox.Address{Name: "Shop", Address: "shop@example.com"},
//			To:      []outbox.Address{{Address: "ann@example.org"}},
//			Subject: "Your order",
//			Text:    "Thank you. It is on its way.",
//		})
//		return err
//	})
//
// The message exists if and only if the transaction commits. A dispatcher then delivers it: package dispatcher inside the
// application, or the command outboxctl beside it.
//
// An application writes these:
//
//   - [Enqueue] and [EnqueueMany] store a [Message] in the application's transaction, [Tx].
//   - [Cancel] withdraws a message in a transaction, as far as it is not on its way.
//   - [Do] runs a transaction and wakes the dispatcher after its commit.
//   - [New] sets defaults and limits, a [Config]. Its [Outbox] has the same verbs.
//   - Package schema creates the tables, store opens them, dispatcher and smtpx deliver. Package templates fills messages from
//     files, keyring encrypts them at rest, outboxtest tests them.
//
// # Guarantees
//
// Every recipient of a committed message ends in one [State], or waits visibly. Delivery is at least once, and as close to once
// as SMTP allows. A second copy is possible only if the connection, the process or the database is lost in one moment: the end
// of the message may have reached the relay, and its answer is not recorded yet. [Message.OnUncertain] decides what happens
// then. [Resend] sends again with the same Message-ID. [Hold] waits for an operator.
//
// A message is checked and rendered before anything is written. An [InvalidError] leaves the transaction as it was.
//
// Enqueueing is one INSERT that SQLite and PostgreSQL both understand. This package needs no driver and no dialect, and a
// service in another language can enqueue with the same statement.
package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/keyring"
)

// Defaults of [Config].
const (
	defaultMaxSize       = 25 << 20
	defaultMaxHeaderSize = 64 << 10
	defaultMaxRecipients = 100
)

// Config sets the defaults and limits of an [Outbox]. The zero value is ready to use.
type Config struct {
	// From is the author of messages that name none. Defaults to none: then every message must have one.
	From Address
	// MessageIDDomain stands behind the @ of Message-IDs (RFC 5322 §3.6.4). Defaults to the domain of the author.
	MessageIDDomain string
	// MaxSize is the largest rendered message in bytes. Defaults to 25 MiB, about what large providers accept.
	MaxSize int64
	// MaxHeaderSize is the largest header of a message in bytes. Defaults to 64 KiB.
	MaxHeaderSize int
	// MaxRecipients is the largest number of recipients of a message. Defaults to 100, which every SMTP server must accept at
	// once (RFC 5321 §4.5.3.1.8).
	MaxRecipients int
	// AllowHeaders names header fields that steer an e-mail provider, such as X-SES-CONFIGURATION-SET. Other such fields are
	// refused: text that reached a header by mistake must not choose a template or another recipient. A name matches the
	// whole field name, ignoring case. Defaults to none.
	AllowHeaders []string
	// Schema is the PostgreSQL schema that holds the tables; see schema.In. Case-sensitive, at most 63 bytes. SQLite has no
	// schemas, so every call fails there. Defaults to the search path of the session.
	Schema string
	// HTMLOnly sends a message that has HTML and no Text as it is. Defaults to false: Text is derived from the HTML.
	HTMLOnly bool
	// Keys encrypts the bodies of messages before they are stored. Dispatchers need the same keys. Envelope, tags, times and
	// idempotency key stay readable. Defaults to none: bodies are stored as they are sent.
	Keys *keyring.Ring
	// SealDetails also encrypts the subject and the metadata that are stored beside the body. They can then be read only with
	// the key, and the database cannot search them. It needs Keys. Defaults to false.
	SealDetails bool
	// CompressFrom is the size in bytes from which a body is compressed before it is encrypted. The stored length then tells
	// how well the body compresses. Leave it off where a stranger chooses text beside a secret: by the lengths of many such
	// messages the secret can be found (CRIME). It needs Keys. Defaults to never.
	CompressFrom int64
	// TraceParent returns the W3C traceparent of the request that enqueues, or nothing. The delivery is linked to it. A value
	// in another form is not stored. It must be safe for concurrent use. Defaults to none.
	TraceParent func(ctx context.Context) string
}

// Outbox checks, renders and stores messages. It is made by [New] and safe for concurrent use.
type Outbox struct {
	from            Address
	messageIDDomain string
	maxSize         int64
	maxRecipients   int
	header          letter.Limits
	htmlOnly        bool
	schema          string
	statements      *statements
	keys            *keyring.Ring
	sealDetails     bool
	compressFrom    int64
	traceParent     func(context.Context) string
	now             func() time.Time
}

// standard serves the functions of the package.
var standard = &Outbox{
	maxSize:       defaultMaxSize,
	header:        letter.Limits{HeaderSize: defaultMaxHeaderSize},
	maxRecipients: defaultMaxRecipients,
	statements:    newStatements(""),
	now:           time.Now,
}

// New checks a configuration. It opens nothing and starts nothing. Its error is an [InvalidError].
func New(c Config) (*Outbox, error) {
	o := *standard
	o.traceParent = c.TraceParent
	o.htmlOnly = c.HTMLOnly
	if c.From != (Address{}) {
		if _, err := letter.ParseAddress(c.From); err != nil {
			return nil, invalid("From", "%w", err)
		}
		o.from = c.From
	}
	if c.MessageIDDomain != "" {
		domain, err := letter.ParseDomain(c.MessageIDDomain)
		if err != nil {
			return nil, invalid("MessageIDDomain", "%s: %w", letter.Quote(c.MessageIDDomain), err)
		}
		o.messageIDDomain = domain
	}
	if err := setLimit(&o.maxSize, c.MaxSize); err != nil {
		return nil, invalid("MaxSize", "%w", err)
	}
	if err := setLimit(&o.header.HeaderSize, c.MaxHeaderSize); err != nil {
		return nil, invalid("MaxHeaderSize", "%w", err)
	}
	if err := setLimit(&o.maxRecipients, c.MaxRecipients); err != nil {
		return nil, invalid("MaxRecipients", "%w", err)
	}
	if c.Schema != "" {
		if err := pgschema.Check(c.Schema); err != nil {
			return nil, invalid("Schema", "%w", err)
		}
		o.schema, o.statements = c.Schema, newStatements(c.Schema)
	}
	switch {
	case c.CompressFrom < 0:
		return nil, invalid("CompressFrom", "%d is negative", c.CompressFrom)
	case c.Keys == nil && c.SealDetails:
		return nil, invalid("SealDetails", "there are no Keys to encrypt with")
	case c.Keys == nil && c.CompressFrom > 0:
		return nil, invalid("CompressFrom", "there are no Keys: bodies are compressed only where they are encrypted")
	}
	o.keys, o.sealDetails, o.compressFrom = c.Keys, c.SealDetails, c.CompressFrom
	var err error
	if o.header.Allowed, err = letter.ParseAllowed(c.AllowHeaders); err != nil {
		return nil, invalid("AllowHeaders", "%w", err)
	}
	return &o, nil
}

// Encrypts says whether the bodies of messages are encrypted before they are stored; see Config.Keys.
func (o *Outbox) Encrypts() bool { return o.keys != nil }

// setLimit puts a limit in the place of its default.
func setLimit[N int | int64](limit *N, n N) error {
	if n < 0 {
		return fmt.Errorf("%d is negative", n)
	}
	if n > 0 {
		*limit = n
	}
	return nil
}

// Enqueue stores a message in the caller's transaction, with the defaults of [Config]. See [Outbox.Enqueue].
func Enqueue(ctx context.Context, tx Tx, msg *Message) (Receipt, error) {
	return standard.Enqueue(ctx, tx, msg)
}

// EnqueueMany stores messages in the caller's transaction, with the defaults of [Config]. See [Outbox.EnqueueMany].
func EnqueueMany(ctx context.Context, tx Tx, msgs []*Message) ([]Receipt, error) {
	return standard.EnqueueMany(ctx, tx, msgs)
}

// Cancel withdraws a message in the caller's transaction. See [Outbox.Cancel].
func Cancel(ctx context.Context, tx Tx, id ID) (CancelResult, error) {
	return standard.Cancel(ctx, tx, id)
}
