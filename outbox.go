// Package outbox stores e-mail in the transaction that gives rise to it.
//
//	tx, err := db.BeginTx(ctx, nil)
//	…
//	tx.ExecContext(ctx, "INSERT INTO orders …")
//	receipt, err := outbox.Enqueue(ctx, tx, &outbox.Message{
//		From:    outbox.Address{Name: "Shop", Address: "shop@example.com"},
//		To:      []outbox.Address{{Address: "ann@example.org"}},
//		Subject: "Your order",
//		Text:    "Thank you. It is on its way.",
//	})
//	…
//	tx.Commit()
//
// The message exists if and only if the transaction commits. From then on a dispatcher (package dispatcher, or the
// command outboxctl) delivers it, and every recipient ends in a known state. Delivery is at least once, and as close to
// once as SMTP allows: when a connection or a process is lost after the end of the message may have reached the relay
// and before its answer was recorded, nobody can know whether it was accepted. [Message.OnUncertain] says what happens
// then: it is sent again, with the same Message-ID and, through the same relay, the same bytes, or it waits for an operator.
//
// Using it takes three steps: create the tables with package schema, call [Enqueue] where the application writes its
// data, and run a dispatcher.
//
// A message is checked and rendered before anything is written, so an [InvalidError] leaves the transaction as it was.
// Enqueueing is one portable INSERT, which SQLite and PostgreSQL understand alike; this package therefore needs no
// driver and no dialect, and services in other languages can enqueue with the same statement.
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

// Config says what an [Outbox] fills in and what it accepts. The zero value is ready to use.
type Config struct {
	// From is the author of messages that name none. Defaults to none: then every message must have one.
	From Address
	// MessageIDDomain stands behind the @ of the Message-IDs (RFC 5322 §3.6.4). Defaults to the domain of the author.
	MessageIDDomain string
	// MaxSize is the largest message in bytes, as rendered. Defaults to 25 MiB, about what large providers accept.
	MaxSize int64
	// MaxHeaderSize is the largest header of a message in bytes. Defaults to 64 KiB.
	MaxHeaderSize int
	// MaxRecipients is the largest number of recipients of a message. Defaults to 100, the number that every SMTP server
	// must accept at once (RFC 5321 §4.5.3.1.8).
	MaxRecipients int
	// AllowHeaders names header fields that steer an e-mail provider, such as X-SES-CONFIGURATION-SET, which are refused
	// in messages otherwise: text that reached a header by mistake must not choose a template or another recipient.
	// Names are complete and their case does not matter. Defaults to none.
	AllowHeaders []string
	// Schema names the schema of PostgreSQL that holds the tables, as schema.In made them and with the same meaning as
	// store.Schema. It is for messages that are enqueued; one name at most 63 bytes long, taken as it is, case included. On
	// SQLite, which has no schemas, every call fails with a name. Defaults to where the search path of the session leads.
	Schema string
	// HTMLOnly sends a message that has HTML and no Text as it is. Defaults to deriving its text from the HTML.
	HTMLOnly bool
	// Keys encrypts the bodies of messages before they are stored (see [keyring.Ring]); dispatchers need the same keys. Envelope,
	// tags, times and idempotency key stay readable. Defaults to none: bodies are stored as they are sent.
	Keys *keyring.Ring
	// SealDetails encrypts the subject and the metadata that are stored beside the body, too. They can then be read only with
	// the key, and not be searched in the database. It needs Keys.
	SealDetails bool
	// CompressFrom is the size in bytes from which a body is compressed before it is encrypted. The length of what is stored
	// then tells how well it compresses: leave it off for messages in which text that a stranger chose stands beside a secret,
	// for who can see the lengths of many such messages learns about the secret (as in CRIME). It needs Keys. Defaults to never.
	CompressFrom int64
	// TraceParent returns the W3C traceparent of the request that enqueues, or nothing, so that the delivery can be linked
	// to it. A value in another form is not stored. It must be safe for concurrent use. Defaults to none.
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
