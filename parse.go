package outbox

import (
	"time"

	"github.com/outboxmail/outbox/internal/letter"
)

// parsed is a message whose values were checked. Only the length of its header and its size can still be wrong.
type parsed struct {
	options
	envelope
	subject   string
	author    letter.Mailbox // its domain ends a new Message-ID
	messageID string         // of a message that came complete, empty for none
	content   letter.Content
	raw       *letter.Raw // a message that came complete, instead of the content
}

// parse checks every value of a message, and reads its attachments.
func (o *Outbox) parse(p *parsed, m *Message, now time.Time) (err error) {
	if m == nil {
		return invalid("Message", "is nil")
	}
	if p.options, err = parseOptions(m, now); err != nil {
		return err
	}
	if m.Raw != nil {
		return o.parseRaw(p, m)
	}
	return o.parseContent(p, m)
}

// parseContent reads a message that was given by its fields.
func (o *Outbox) parseContent(p *parsed, m *Message) error {
	author := m.From
	if author == (Address{}) {
		author = o.from
	}
	if author == (Address{}) {
		return invalid("From", "the message has no author")
	}
	c := &p.content
	c.Subject = m.Subject
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
	if p.recipients, err = o.recipients(c.To, c.Cc, bcc); err != nil {
		return err
	}
	if p.sender, err = parseSender(m.EnvelopeFrom, c.From.Addr); err != nil {
		return err
	}
	if err := letter.CheckLine(m.Subject, letter.MaxSubject); err != nil {
		return invalid("Subject", "%w", err)
	}
	p.subject = m.Subject
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
	p.author = c.From
	return o.parseBody(c, m)
}

// parseBody reads the texts and the attachments, opening those that are still to be opened.
func (o *Outbox) parseBody(c *letter.Content, m *Message) error {
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

// parseRaw reads a message that came complete.
func (o *Outbox) parseRaw(p *parsed, m *Message) error {
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
	if p.recipients, err = o.rawRecipients(m, raw); err != nil {
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
	if p.sender, err = parseSender(m.EnvelopeFrom, sender.Addr); err != nil {
		return err
	}
	p.subject, p.messageID, p.author, p.raw = raw.Subject, raw.MessageID, author, raw
	return nil
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

// tooLarge is the error of a message that passes MaxSize.
func (o *Outbox) tooLarge(size int64) error {
	return invalid("Message", "it has %d bytes, more than %d", size, o.maxSize)
}
