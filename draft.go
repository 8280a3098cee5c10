package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/keyring"
)

// draft is a row to insert: a message that was checked and rendered.
type draft struct {
	parsed
	id          ID
	traceParent string
	body        []byte
	size        int64  // of the rendered message
	keyID       string // of the key that sealed the body, empty for none
}

// sealed makes the row of a message. Each step takes up where the one before ended: parse, content, bytes, seal.
func (o *Outbox) sealed(ctx context.Context, msg *Message) (*draft, error) {
	d, err := o.draft(ctx, msg, "", o.now())
	if err != nil {
		return nil, err
	}
	if err := o.seal(d); err != nil {
		return nil, err
	}
	return d, nil
}

// draft parses and renders a message at a certain time. An empty id makes a new one.
func (o *Outbox) draft(ctx context.Context, msg *Message, id ID, now time.Time) (*draft, error) {
	d := &draft{id: id}
	err := o.parse(&d.parsed, msg, now)
	if err != nil {
		return nil, err
	}
	if d.id == "" {
		if d.id, err = newID(); err != nil {
			return nil, err
		}
	}
	if d.messageID == "" {
		d.messageID = o.newMessageID(d.id, d.author)
	}
	if o.traceParent != nil {
		if s := o.traceParent(ctx); isTraceParent(s) {
			d.traceParent = s
		}
	}
	if err := o.render(d, dateOf(msg, now)); err != nil {
		return nil, err
	}
	return d, nil
}

// dateOf returns the Date of a message. A scheduled one gets the date of its sending: filters distrust mail that seems to be
// days old.
func dateOf(msg *Message, now time.Time) time.Time {
	if msg.NotBefore.After(now) {
		return msg.NotBefore.UTC()
	}
	return now.UTC()
}

// newMessageID makes a Message-ID that holds the id of the message. Operators find a message by either.
func (o *Outbox) newMessageID(id ID, author letter.Mailbox) string {
	domain := o.messageIDDomain
	if domain == "" {
		domain = author.Domain
	}
	return "<" + id.String() + "@" + domain + ">"
}

// render makes the bytes of the message.
func (o *Outbox) render(d *draft, date time.Time) (err error) {
	stamp := letter.Stamp{Mark: string(d.id), MessageID: d.messageID, Date: date}
	if d.raw != nil {
		d.body, err = d.raw.Render(stamp)
	} else {
		d.body, err = d.content.Render(stamp, o.header)
	}
	switch {
	case errors.Is(err, letter.ErrHeaderSize):
		return invalid("Message", "%w", err)
	case err != nil:
		return invalid("Header", "%w", err)
	}
	d.raw, d.content = nil, letter.Content{} // the content is in the body now
	if d.size = int64(len(d.body)); d.size > o.maxSize {
		return o.tooLarge(d.size)
	}
	return nil
}

// seal encrypts the columns of a draft that the configuration asks for. Its size stays that of the rendered message.
func (o *Outbox) seal(d *draft) (err error) {
	if o.keys == nil {
		return nil
	}
	d.keyID = o.keys.Current()
	if d.body, err = o.keys.SealBody(string(d.id), d.body, o.compressFrom); err != nil {
		return err
	}
	if d.subject != "" && o.sealDetails || keyring.IsSealedSubject(d.subject) {
		if d.subject, err = o.keys.SealSubject(string(d.id), d.subject); err != nil {
			return err
		}
	}
	if d.metadata != nil && o.sealDetails {
		object, err := o.keys.SealMetadata(string(d.id), *d.metadata)
		if err != nil {
			return err
		}
		d.metadata = &object
	}
	return nil
}
