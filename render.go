package outbox

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime/quotedprintable"
	"strings"
	"time"

	"github.com/emersion/go-message/textproto"
)

// dateLayout is the date-time of RFC 5322 §3.3 with a numeric zone.
const dateLayout = "Mon, 02 Jan 2006 15:04:05 -0700"

// content is a message that was checked, ready to be rendered.
type content struct {
	from             mailbox
	sender           *mailbox
	replyTo, to, cc  []mailbox
	subject          string
	extra            []field
	text, html       string
	calendar, method string // an iCalendar object and what it asks for
	inline, attached []attachment
}

// render writes the message. The same content, id, Message-ID and date give the same bytes, so that what is retried is
// what was sent. The error is about the length of the header.
func (c *content) render(id ID, messageID string, date time.Time, maxHeader int) ([]byte, error) {
	head := headerBlock{buf: make([]byte, 0, 1024), ends: make([]int, 0, 12+len(c.extra))}
	head.raw("Date", date.Format(dateLayout))
	head.addresses("From", []mailbox{c.from})
	if c.sender != nil {
		head.addresses("Sender", []mailbox{*c.sender})
	}
	if len(c.replyTo) > 0 {
		head.addresses("Reply-To", c.replyTo)
	}
	switch {
	case len(c.to) > 0:
		head.addresses("To", c.to)
	case len(c.cc) == 0: // only Bcc: some receivers dislike a message that is to nobody
		head.raw("To", "undisclosed-recipients:;")
	}
	if len(c.cc) > 0 {
		head.addresses("Cc", c.cc)
	}
	if c.subject != "" {
		head.text("Subject", c.subject)
	}
	head.raw("Message-ID", messageID)
	for i := range c.extra {
		head.opaque(c.extra[i].name, c.extra[i].value)
	}
	head.raw("MIME-Version", "1.0")

	root := c.tree(boundaries{id: id})
	root.describe(&head)
	if len(head.buf) > maxHeader {
		return nil, invalid("Message", "the header has %d bytes, more than %d", len(head.buf), maxHeader)
	}
	if head.longest > maxLine {
		return nil, invalid("Header", "a field has a word that is longer than the %d bytes of a line", maxLine)
	}
	var out bytes.Buffer
	out.Grow(len(head.buf) + root.estimate() + 256)
	if err := textproto.WriteHeader(&out, head.header()); err != nil {
		return nil, fmt.Errorf("render the header: %w", err)
	}
	if err := root.write(&out); err != nil {
		return nil, fmt.Errorf("render the body: %w", err)
	}
	return out.Bytes(), nil
}

// entity is one node of the MIME tree (RFC 2045 §2.4): a multipart with children, or data.
type entity struct {
	mediaType string // as written, with the parameters that are the same for every message
	boundary  string // of a multipart
	children  []entity

	encoding   encoding
	data       []byte
	attachment *attachment // nil for a text
}

// tree builds mixed( alternative( text, related( html, inline… ), calendar ), attached… ), leaving out every level that
// would have one child. The alternatives become richer towards the end (RFC 2046 §5.1.4).
func (c *content) tree(b boundaries) entity {
	var body []entity
	if c.text != "" {
		body = append(body, textEntity("text/plain; charset=utf-8", c.text))
	}
	if c.html != "" {
		html := textEntity("text/html; charset=utf-8", c.html)
		if len(c.inline) > 0 {
			related := append([]entity{html}, attachmentEntities(c.inline)...)
			html = entity{mediaType: `multipart/related; type="text/html"`, boundary: b.name("rel"), children: related}
		}
		body = append(body, html)
	}
	if c.calendar != "" {
		body = append(body, textEntity("text/calendar; charset=utf-8; method="+c.method, c.calendar))
	}
	if len(body) > 1 {
		body = []entity{{mediaType: "multipart/alternative", boundary: b.name("alt"), children: body}}
	}
	body = append(body, attachmentEntities(c.attached)...)
	if len(body) == 1 {
		return body[0]
	}
	return entity{mediaType: "multipart/mixed", boundary: b.name("mix"), children: body}
}

// boundaries makes the boundaries of a message. They contain "=_", which neither quoted-printable nor base64 can
// produce, and the id, which nobody knew when the content was written.
type boundaries struct{ id ID }

func (b boundaries) name(level string) string { return boundaryMark + b.id.String() + "-" + level }

const boundaryMark = "=_"

// describe writes the Content fields.
func (e *entity) describe(b *headerBlock) {
	b.begin("Content-Type")
	b.buf = append(b.buf, ' ')
	b.buf = append(b.buf, e.mediaType...)
	if e.boundary != "" {
		b.param("boundary", e.boundary)
		b.end()
		return
	}
	if e.attachment != nil {
		e.attachment.typeParams(b)
	}
	b.end()
	if e.attachment != nil {
		e.attachment.describe(b)
	}
	b.raw("Content-Transfer-Encoding", string(e.encoding))
}

// write writes the body.
func (e *entity) write(w io.Writer) error {
	if e.boundary == "" {
		return e.encoding.write(w, e.data)
	}
	mw := textproto.NewMultipartWriter(w)
	if err := mw.SetBoundary(e.boundary); err != nil {
		return err
	}
	for i := range e.children {
		var head headerBlock
		e.children[i].describe(&head)
		part, err := mw.CreatePart(head.header())
		if err != nil {
			return err
		}
		if err := e.children[i].write(part); err != nil {
			return err
		}
	}
	return mw.Close()
}

// estimate guesses the length of what write writes, so that a large message is not copied while it grows.
func (e *entity) estimate() int {
	n := 512
	if e.encoding == base64Encoding {
		n += len(e.data)/base64Line*(base64Columns+2) + base64Columns + 4
	} else {
		n += len(e.data) + len(e.data)/8
	}
	for i := range e.children {
		n += e.children[i].estimate()
	}
	return n
}

// encoding is a content transfer encoding (RFC 2045 §6). 8bit is not used: it would need 8BITMIME on the whole way.
type encoding string

const (
	sevenBit        encoding = "7bit"
	quotedPrintable encoding = "quoted-printable"
	base64Encoding  encoding = "base64"
)

// Lines of base64 are 76 columns (RFC 2045 §6.8), 57 bytes.
const (
	base64Columns = 76
	base64Line    = base64Columns / 4 * 3
)

// write writes data in the encoding. Every body ends with a line break of its own before the one that belongs to the
// boundary: some receivers do not find a boundary that has no blank line before it.
func (enc encoding) write(w io.Writer, data []byte) error {
	switch enc {
	case quotedPrintable:
		qp := quotedprintable.NewWriter(w)
		if _, err := qp.Write(data); err != nil {
			return err
		}
		return qp.Close()
	case base64Encoding:
		return writeBase64(w, data)
	default:
		_, err := w.Write(data)
		return err
	}
}

// writeBase64 writes base64 in lines.
func writeBase64(w io.Writer, data []byte) error {
	buf := make([]byte, 0, 64*(base64Columns+2))
	for len(data) > 0 {
		line := data[:min(len(data), base64Line)]
		data = data[len(line):]
		buf = base64.StdEncoding.AppendEncode(buf, line)
		buf = append(buf, '\r', '\n')
		if len(buf)+base64Columns+2 > cap(buf) || len(data) == 0 {
			if _, err := w.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	return nil
}

// textEntity makes an entity of text, with every kind of line break as CRLF and one at the end, in the encoding that
// suits it.
func textEntity(mediaType, s string) entity {
	data := toCRLF(s)
	return entity{mediaType: mediaType, data: data, encoding: textEncoding(data)}
}

// toCRLF returns s with CRLF for every CRLF, CR and LF, and one at the end.
func toCRLF(s string) []byte {
	breaks := strings.Count(s, "\n") + strings.Count(s, "\r")
	out := make([]byte, 0, len(s)+breaks+2)
	for s != "" {
		i := strings.IndexAny(s, "\r\n")
		if i < 0 {
			out = append(out, s...)
			break
		}
		out = append(out, s[:i]...)
		out = append(out, '\r', '\n')
		if s[i] == '\r' && i+1 < len(s) && s[i+1] == '\n' {
			i++
		}
		s = s[i+1:]
	}
	if !bytes.HasSuffix(out, []byte("\r\n")) {
		out = append(out, '\r', '\n')
	}
	return out
}

// textEncoding chooses the encoding for text with CRLF line breaks: none for plain ASCII in short lines, else the
// shorter of the two.
func textEncoding(data []byte) encoding {
	special, line, longest := 0, 0, 0
	for _, c := range data {
		switch {
		case c == '\n':
			longest = max(longest, line)
			line = 0
			continue
		case c == '\r':
			continue
		case c >= 0x7f || c < ' ' && c != '\t':
			special++
		}
		line++
	}
	if special == 0 && longest <= preferredText && !bytes.Contains(data, []byte("--"+boundaryMark)) {
		return sevenBit
	}
	if len(data)+2*special > base64.StdEncoding.EncodedLen(len(data)) {
		return base64Encoding
	}
	return quotedPrintable
}

// preferredText is the longest line of text that is sent as it is (RFC 5322 §2.1.1).
const preferredText = 78
