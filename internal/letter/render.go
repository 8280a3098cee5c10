package letter

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// dateLayout is the date-time of RFC 5322 §3.3 with a numeric zone.
const dateLayout = "Mon, 02 Jan 2006 15:04:05 -0700"

// Limits bound a header.
type Limits struct {
	// HeaderSize is the largest header in bytes.
	HeaderSize int
	// Allowed are the control fields that may be there, by canonical name; see [ParseAllowed].
	Allowed map[string]bool
}

// ErrHeaderSize says that a header is larger than [Limits] allow.
var ErrHeaderSize = errors.New("the header is too large")

// Content is a message that was checked, ready to be rendered.
type Content struct {
	From             Mailbox
	ReplyTo, To, Cc  []Mailbox
	Subject          string
	Fields           []Field
	Text, HTML       string
	Calendar, Method string // an iCalendar object and its method
	Inline, Attached []File
}

// Stamp makes the bytes of a message its own. Mark becomes a part of the boundaries. It should be a text that nobody knew when the
// content was written.
type Stamp struct {
	Mark, MessageID string
	Date            time.Time
}

// Render writes the message. The same content and stamp give the same bytes. The error is about the header: [ErrHeaderSize],
// or a word that no line can hold.
func (c *Content) Render(stamp Stamp, limits Limits) ([]byte, error) {
	root := c.tree(stamp.Mark)
	var w struct { // in one piece of memory
		head  headerBlock
		out   bytes.Buffer
		first [1024]byte // as much of a header as most messages have
	}
	head, out := &w.head, &w.out
	head.buf = w.first[:0]
	c.header(head, stamp)
	root.describe(head)
	if len(head.buf) > limits.HeaderSize {
		return nil, fmt.Errorf("%w: it has %d bytes, more than %d", ErrHeaderSize, len(head.buf), limits.HeaderSize)
	}
	if head.longest > MaxLine {
		return nil, fmt.Errorf("a field has a word that is longer than the %d bytes of a line", MaxLine)
	}
	out.Grow(len(head.buf) + root.estimate() + 256)
	out.Write(head.buf)
	out.WriteString(crlf)
	if err := root.write(out, head); err != nil {
		return nil, fmt.Errorf("write the body: %w", err)
	}
	return out.Bytes(), nil
}

// header writes every field but those that describe the body.
func (c *Content) header(head *headerBlock, stamp Stamp) {
	head.date(stamp.Date)
	head.addresses("From", []Mailbox{c.From})
	if len(c.ReplyTo) > 0 {
		head.addresses("Reply-To", c.ReplyTo)
	}
	switch {
	case len(c.To) > 0:
		head.addresses("To", c.To)
	case len(c.Cc) == 0: // only Bcc: some receivers dislike a message that is to nobody
		head.raw("To", "undisclosed-recipients:;")
	}
	if len(c.Cc) > 0 {
		head.addresses("Cc", c.Cc)
	}
	if c.Subject != "" {
		head.text("Subject", c.Subject)
	}
	head.raw("Message-ID", stamp.MessageID)
	for i := range c.Fields {
		c.Fields[i].write(head)
	}
	head.raw("MIME-Version", "1.0")
}
