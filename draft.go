package outbox

import (
	"context"
	"errors"
	"time"

	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/keyring"
)

// draft is a message that was checked and rendered: a row to insert.
type draft struct {
	options
	envelope
	id          ID
	messageID   string
	subject     string
	traceParent string
	body        []byte

	size  int64  // of the rendered message
	keyID string // of the key that sealed it, empty for none
}

// sealed checks and renders a message and encrypts the columns that the configuration asks for.
func (o *Outbox) sealed(ctx context.Context, msg *Message) (*draft, error) {
	d, err := o.draft(ctx, msg, "", o.now())
	if err != nil {
		return nil, err
	}
	return d, o.seal(d)
}

// draft checks and renders a message at a certain time. An empty id makes a new one.
func (o *Outbox) draft(ctx context.Context, msg *Message, id ID, now time.Time) (*draft, error) {
	if msg == nil {
		return nil, invalid("Message", "is nil")
	}
	opts, err := parseOptions(msg, now)
	if err != nil {
		return nil, err
	}
	if id == "" {
		if id, err = newID(); err != nil {
			return nil, err
		}
	}
	d := &draft{options: opts, id: id}
	// The date of a scheduled message is that of its sending: filters distrust mail that seems to be days old.
	date := now
	if msg.NotBefore.After(now) {
		date = msg.NotBefore
	}
	if msg.Raw != nil {
		err = o.draftRaw(d, msg, date.UTC())
	} else {
		err = o.draftFields(d, msg, date.UTC())
	}
	if err != nil {
		return nil, err
	}
	if d.size = int64(len(d.body)); d.size > o.maxSize {
		return nil, o.tooLarge(d.size)
	}
	if o.traceParent != nil {
		if s := o.traceParent(ctx); isTraceParent(s) {
			d.traceParent = s
		}
	}
	return d, nil
}

// tooLarge is the error of a message that passes MaxSize.
func (o *Outbox) tooLarge(size int64) error {
	return invalid("Message", "it has %d bytes, more than %d", size, o.maxSize)
}

// newMessageID makes a Message-ID from the id of the message, so that one can be found from the other.
func (o *Outbox) newMessageID(id ID, author letter.Mailbox) string {
	domain := o.messageIDDomain
	if domain == "" {
		domain = author.Domain
	}
	return "<" + id.String() + "@" + domain + ">"
}

// draftFields checks and renders a message that was given by its fields.
func (o *Outbox) draftFields(d *draft, m *Message, date time.Time) error {
	author := m.From
	if author == (Address{}) {
		author = o.from
	}
	if author == (Address{}) {
		return invalid("From", "the message has no author")
	}
	c := letter.Content{Subject: m.Subject}
	var err error
	if c.From, err = letter.ParseAddress(author); err != nil {
		return invalid("From", "%w", err)
	}
	if c.ReplyTo, err = parseAddresses("ReplyTo", m.ReplyTo); err != nil {
		return err
	}
	if c.To, err = parseAddresses("To", m.To); err != nil {
		return err
	}
	if c.Cc, err = parseAddresses("Cc", m.Cc); err != nil {
		return err
	}
	bcc, err := parseAddresses("Bcc", m.Bcc)
	if err != nil {
		return err
	}
	if d.recipients, err = o.recipients(c.To, c.Cc, bcc); err != nil {
		return err
	}
	if d.sender, err = parseSender(m.EnvelopeFrom, c.From.Addr); err != nil {
		return err
	}
	if err := letter.CheckLine(m.Subject, letter.MaxSubject); err != nil {
		return invalid("Subject", "%w", err)
	}
	d.subject = m.Subject
	if c.Fields, err = letter.ParseFields(m.Header, o.header); err != nil {
		return invalid("Header", "%w", err)
	}
	written, err := parseFields(m)
	if err != nil {
		return err
	}
	if c.Fields, err = letter.JoinFields(written, c.Fields); err != nil {
		return invalid("Header", "%w", err)
	}
	if err := o.parseBody(m, &c); err != nil {
		return err
	}
	d.messageID = o.newMessageID(d.id, c.From)
	d.body, err = c.Render(letter.Stamp{Mark: string(d.id), MessageID: d.messageID, Date: date}, o.header)
	switch {
	case errors.Is(err, letter.ErrHeaderSize):
		return invalid("Message", "%w", err)
	case err != nil:
		return invalid("Header", "%w", err)
	}
	return nil
}

// parseBody reads the texts and the attachments, opening those that are still to be opened.
func (o *Outbox) parseBody(m *Message, c *letter.Content) error {
	var err error
	if c.Text, err = letter.ParseText(m.Text); err != nil {
		return invalid("Text", "%w", err)
	}
	if c.HTML, err = letter.ParseText(m.HTML); err != nil {
		return invalid("HTML", "%w", err)
	}
	if c.Text == "" && c.HTML == "" && m.Calendar == "" && len(m.Attachments) == 0 {
		return invalid("Text", "the message is empty: give Text, HTML, Calendar, Attachments or Raw")
	}
	// No encoding makes content shorter, so what is too large already need not be rendered to know it.
	size := int64(len(m.Text)) + int64(len(m.HTML)) + int64(len(m.Calendar))
	for i := range m.Attachments {
		size += int64(len(m.Attachments[i].Data))
	}
	if size > o.maxSize {
		return o.tooLarge(size)
	}
	if m.Calendar != "" {
		if c.Calendar, c.Method, err = letter.ParseCalendar(m.Calendar); err != nil {
			return invalid("Calendar", "%w", err)
		}
	}
	sources, err := o.readAttachments(m.Attachments, size)
	if err != nil {
		return err
	}
	if c.Inline, c.Attached, err = letter.ParseFiles(sources, c.HTML != ""); err != nil {
		return invalid("Attachments", "%w", err)
	}
	if c.Text == "" && c.HTML != "" && !o.htmlOnly {
		c.Text = letter.PlainText(c.HTML)
	}
	return nil
}

// draftRaw checks and completes a message that the caller brought complete.
func (o *Outbox) draftRaw(d *draft, m *Message, date time.Time) error {
	if m.Subject != "" || m.Text != "" || m.HTML != "" || m.Calendar != "" || m.InReplyTo != "" || m.AutoSubmitted != "" ||
		m.Unsubscribe != (Unsubscribe{}) || len(m.ReplyTo)+len(m.Attachments)+len(m.References)+len(m.Header) > 0 {
		return invalid("Raw", "it is a complete message: everything else but From and the recipients must be empty")
	}
	if int64(len(m.Raw)) > o.maxSize {
		return o.tooLarge(int64(len(m.Raw)))
	}
	raw, err := letter.ParseRaw(m.Raw, o.header)
	if err != nil {
		return invalid("Raw", "%w", err)
	}
	if d.recipients, err = o.rawRecipients(m, raw); err != nil {
		return err
	}
	author, unusable := raw.Author()
	sender := author
	if m.From != (Address{}) {
		if sender, err = letter.ParseAddress(m.From); err != nil {
			return invalid("From", "%w", err)
		}
		if unusable != nil {
			author, unusable = sender, nil
		}
	}
	if unusable != nil && (m.EnvelopeFrom == "" || raw.MessageID == "" && o.messageIDDomain == "") {
		return invalid("Raw", "%w", unusable)
	}
	if d.sender, err = parseSender(m.EnvelopeFrom, sender.Addr); err != nil {
		return err
	}
	d.subject = raw.Subject
	if d.messageID = raw.MessageID; d.messageID == "" {
		d.messageID = o.newMessageID(d.id, author)
	}
	d.body, err = raw.Render(d.messageID, date)
	return err
}

// rawRecipients returns the envelope of a complete message: the recipients that are given beside it, else those of its header.
func (o *Outbox) rawRecipients(m *Message, raw *letter.Raw) ([]string, error) {
	if len(m.To)+len(m.Cc)+len(m.Bcc) == 0 {
		lists, err := raw.Recipients()
		if err != nil {
			return nil, invalid("Raw", "%w", err)
		}
		return o.recipients(lists[:]...)
	}
	var lists [3][]letter.Mailbox
	for i, given := range [...]struct {
		field string
		list  []Address
	}{{"To", m.To}, {"Cc", m.Cc}, {"Bcc", m.Bcc}} {
		var err error
		if lists[i], err = parseAddresses(given.field, given.list); err != nil {
			return nil, err
		}
	}
	return o.recipients(lists[:]...)
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
