package letter

import (
	"io"

	"github.com/emersion/go-message/textproto"
)

// entity is one node of the MIME tree (RFC 2045 §2.4): a multipart with children, or data.
type entity struct {
	mediaType string // as written, with the parameters that are the same for every message
	boundary  string // of a multipart
	children  []entity

	encoding encoding
	data     []byte
	file     *File // nil for a text
}

// tree builds mixed( alternative( text, related( html, inline… ), calendar ), attached… ), leaving out every level that
// would have one child. The alternatives become richer towards the end (RFC 2046 §5.1.4).
func (c *Content) tree(mark string) entity {
	body := make([]entity, 0, 3+len(c.Attached))
	if c.Text != "" {
		body = append(body, textEntity("text/plain; charset=utf-8", c.Text))
	}
	if c.HTML != "" {
		html := textEntity("text/html; charset=utf-8", c.HTML)
		if len(c.Inline) > 0 {
			related := append([]entity{html}, fileEntities(c.Inline, mark)...)
			html = entity{mediaType: `multipart/related; type="text/html"`, boundary: boundary(mark, "rel"), children: related}
		}
		body = append(body, html)
	}
	if c.Calendar != "" {
		body = append(body, textEntity("text/calendar; charset=utf-8; method="+c.Method, c.Calendar))
	}
	if len(body) > 1 {
		alternative := entity{mediaType: "multipart/alternative", boundary: boundary(mark, "alt"), children: body}
		if len(c.Attached) == 0 {
			return alternative
		}
		body = []entity{alternative}
	}
	body = append(body, fileEntities(c.Attached, mark)...)
	if len(body) == 1 {
		return body[0]
	}
	return entity{mediaType: "multipart/mixed", boundary: boundary(mark, "mix"), children: body}
}

// boundary makes the boundary of one level. It contains "=_", which neither quoted-printable nor base64 can produce, and the
// mark, which nobody knew when the content was written.
func boundary(mark, level string) string { return boundaryMark + mark + "-" + level }

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
	if e.file != nil {
		e.file.typeParams(b)
	}
	b.end()
	if e.file != nil {
		e.file.describe(b)
	}
	b.raw("Content-Transfer-Encoding", string(e.encoding))
}

// write writes the body. It keeps nothing in head and uses its memory.
func (e *entity) write(w io.Writer, head *headerBlock) error {
	if e.boundary == "" {
		return e.encoding.write(w, e.data)
	}
	mw := textproto.NewMultipartWriter(w)
	if err := mw.SetBoundary(e.boundary); err != nil {
		return err
	}
	var fields textproto.Header
	for i := range e.children {
		head.reset()
		e.children[i].describe(head)
		// go-message takes a finished block for one field and writes its bytes as they are. Every block begins with Content-Type.
		fields.Del("Content-Type")
		fields.AddRaw(head.buf)
		part, err := mw.CreatePart(fields)
		if err != nil {
			return err
		}
		if err := e.children[i].write(part, head); err != nil {
			return err
		}
	}
	return mw.Close()
}

// estimate returns about the length of the body. With it, a large message is not copied while it grows.
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
