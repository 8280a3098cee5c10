package outbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Enqueue stores a message in the caller's transaction: it will be delivered if and only if the transaction commits.
// It runs one statement, and a second one only where Key was used before.
//
// The error is an [InvalidError] for a message that can never be sent: then nothing was written and the transaction can
// go on. The same holds for an error of Attachment.Open and of reading what it opened, which is wrapped. Else it is
// [ErrNotMigrated] or what the driver said: then nothing was written, and on PostgreSQL the transaction has failed and
// can only be rolled back.
func (o *Outbox) Enqueue(ctx context.Context, tx Tx, msg *Message) (Receipt, error) {
	if tx == nil {
		return Receipt{}, errNoTx
	}
	d, err := o.draft(ctx, msg)
	if err != nil {
		return Receipt{}, err
	}
	if err := o.seal(d); err != nil {
		return Receipt{}, err
	}
	var receipt [1]Receipt
	if err := o.insertRows(ctx, tx, asScanner(tx), []row{{draft: d}}, receipt[:]); err != nil {
		return Receipt{}, err
	}
	return receipt[0], nil
}

// draft is a message that was checked and rendered: a row to insert.
type draft struct {
	options
	envelope
	id          ID
	messageID   string
	subject     string
	traceParent string
	body        []byte

	size  int64  // of the rendered message, known once the draft is ready to be stored
	keyID string // of the key that sealed it, empty for none
}

// draft checks and renders a message.
func (o *Outbox) draft(ctx context.Context, msg *Message) (*draft, error) {
	return o.draftAt(ctx, msg, "", o.now())
}

// draftAt checks and renders a message at a certain time. An empty id makes a new one.
func (o *Outbox) draftAt(ctx context.Context, msg *Message, id ID, now time.Time) (*draft, error) {
	if msg == nil {
		return nil, invalid("Message", "is nil")
	}
	opts, err := checkOptions(msg, now)
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
	if int64(len(d.body)) > o.maxSize {
		return nil, o.tooLarge(int64(len(d.body)))
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
func (o *Outbox) newMessageID(id ID, author mailbox) string {
	domain := o.messageIDDomain
	if domain == "" {
		domain = author.domain
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
	c := content{subject: m.Subject, text: m.Text, html: m.HTML}
	var err error
	if c.from, err = checkAddress(author); err != nil {
		return invalid("From", "%w", err)
	}
	if c.replyTo, err = checkAddresses("ReplyTo", m.ReplyTo); err != nil {
		return err
	}
	if c.to, err = checkAddresses("To", m.To); err != nil {
		return err
	}
	if c.cc, err = checkAddresses("Cc", m.Cc); err != nil {
		return err
	}
	bcc, err := checkAddresses("Bcc", m.Bcc)
	if err != nil {
		return err
	}
	if d.recipients, err = o.recipients(c.to, c.cc, bcc); err != nil {
		return err
	}
	if d.sender, err = checkSender(m.EnvelopeFrom, c.from.addr); err != nil {
		return err
	}
	if err := checkLine(m.Subject, maxSubject); err != nil {
		return invalid("Subject", "%w", err)
	}
	d.subject = m.Subject
	if c.extra, c.sender, err = o.checkFields(m.Header); err != nil {
		return invalid("Header", "%w", err)
	}
	written, err := writtenFields(m)
	if err != nil {
		return err
	}
	if c.extra, err = joinFields(written, c.extra); err != nil {
		return invalid("Header", "%w", err)
	}
	if err := o.checkBody(m, &c); err != nil {
		return err
	}
	d.messageID = o.newMessageID(d.id, c.from)
	d.body, err = c.render(d.id, d.messageID, date, o.maxHeaderSize)
	return err
}

// checkBody checks the texts and the attachments, of which it reads those that are still to be opened.
func (o *Outbox) checkBody(m *Message, c *content) error {
	if m.Text == "" && m.HTML == "" && m.Calendar == "" && len(m.Attachments) == 0 {
		return invalid("Text", "the message is empty: give Text, HTML, Calendar, Attachments or Raw")
	}
	if err := checkText(m.Text); err != nil {
		return invalid("Text", "%w", err)
	}
	if err := checkText(m.HTML); err != nil {
		return invalid("HTML", "%w", err)
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
		method, err := checkCalendar(m.Calendar)
		if err != nil {
			return invalid("Calendar", "%w", err)
		}
		c.calendar, c.method = m.Calendar, method
	}
	attachments, err := o.readAttachments(m.Attachments, size)
	if err != nil {
		return err
	}
	if c.inline, c.attached, err = checkAttachments(attachments, m.HTML != ""); err != nil {
		return invalid("Attachments", "%w", err)
	}
	if m.Text == "" && m.HTML != "" && !o.htmlOnly {
		c.text = plainText(m.HTML)
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
	raw, err := o.parseRaw(m.Raw)
	if err != nil {
		return invalid("Raw", "%w", err)
	}
	author := raw.from
	if m.From != (Address{}) {
		if author, err = checkAddress(m.From); err != nil {
			return invalid("From", "%w", err)
		}
	}
	lists := raw.recipients
	if len(m.To)+len(m.Cc)+len(m.Bcc) > 0 {
		for i, given := range [...]struct {
			field string
			list  []Address
		}{{"To", m.To}, {"Cc", m.Cc}, {"Bcc", m.Bcc}} {
			if lists[i], err = checkAddresses(given.field, given.list); err != nil {
				return err
			}
		}
	}
	if d.recipients, err = o.recipients(lists[:]...); err != nil {
		return err
	}
	if d.sender, err = checkSender(m.EnvelopeFrom, author.addr); err != nil {
		return err
	}
	d.subject = raw.subject
	if d.messageID = raw.messageID; d.messageID == "" {
		d.messageID = o.newMessageID(d.id, raw.from)
	}
	d.body, err = raw.render(d.messageID, date)
	return err
}

// isTraceParent checks for the form of W3C Trace Context §3.2: 00-<32 hex>-<16 hex>-<2 hex>, the ids not all zero.
func isTraceParent(s string) bool {
	const zeros = "00000000000000000000000000000000"
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	for i := range len(s) {
		if i == 2 || i == 35 || i == 52 {
			continue
		}
		if strings.IndexByte("0123456789abcdef", s[i]) < 0 {
			return false
		}
	}
	return s[3:35] != zeros && s[36:52] != zeros[:16]
}

// errSwallowed says that the database took the row and stored nothing, as a rule or a trigger of the application may do.
var errSwallowed = errors.New("enqueue: the database stored nothing and reported no error: " +
	"look for a rule or a trigger on outbox_messages")

// receipt is what the caller of Enqueue gets for a stored row.
func (d *draft) receipt() Receipt { return Receipt{ID: d.id, MessageID: d.messageID} }

// execute runs a statement and returns how many rows it affected.
func execute(ctx context.Context, tx Tx, text string, args []any) (int64, error) {
	result, err := tx.ExecContext(ctx, text, args...)
	if err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("ask for the number of rows: %w", err)
	}
	return n, nil
}

// duplicate makes the receipt of a message that was stored before.
func (r Receipt) duplicate() Receipt {
	r.Duplicate = true
	return r
}
