package letter

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/quotedprintable"
	"strings"
	"unicode/utf8"
)

// maxEnclosedDepth is the deepest nesting of parts that is recoded.
const maxEnclosedDepth = 20

// errNotEnclosed says that data cannot be written as a message or multipart without changing what it says.
var errNotEnclosed = errors.New("cannot be enclosed")

// Enclose returns a complete message in a form that any relay carries as message/rfc822: ASCII, in lines of up to 998 bytes that
// end in CRLF. RFC 2046 §5.2.1 forbids to encode such a part as a whole.
//
// A message that is ASCII already keeps its bytes. In any other, the leaves that need it are encoded as quoted-printable or
// base64; their decoded content, the structure and all other fields stay. A signature over the encoded form (DKIM) breaks then.
// Enclose reports false for data that cannot be enclosed so: without a header, with bytes outside ASCII in a header, with mixed
// line breaks, inside a signed part, or with a structure that readers disagree about.
func Enclose(data []byte) ([]byte, bool) {
	lines, converted, err := uniformLines(data)
	if err != nil {
		return nil, false
	}
	head, _, err := splitEntity(lines)
	if err != nil || !isMessageHeader(head) {
		return nil, false
	}
	if isSevenBit(lines) {
		return lines, true
	}
	last := contentBreak
	if !bytes.HasSuffix(data, []byte("\n")) {
		last = addedBreak
	}
	out, err := recoder{converted}.message(lines, 0, last)
	if err != nil || !isSevenBit(out) {
		return nil, false
	}
	return out, true
}

// encloseLines returns text that may not be encoded, with CRLF line breaks.
func encloseLines(data []byte) ([]byte, bool) {
	lines, _, err := uniformLines(data)
	if err != nil || !isSevenBit(lines) {
		return nil, false
	}
	return lines, true
}

// uniformLines returns data with CRLF line breaks, one of them at the end, and says whether they were LF before. It refuses a
// NUL, and a mixture of line breaks: nobody knows which of them are content.
func uniformLines(data []byte) (lines []byte, converted bool, err error) {
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, false, errNotEnclosed
	}
	lf, pairs, cr := bytes.Count(data, []byte("\n")), bytes.Count(data, []byte(crlf)), bytes.Count(data, []byte("\r"))
	switch {
	case lf == pairs && cr == pairs:
	case cr == 0:
		data, converted = bytes.ReplaceAll(data, []byte("\n"), []byte(crlf)), true
	default:
		return nil, false, errNotEnclosed
	}
	if !bytes.HasSuffix(data, []byte(crlf)) {
		data = append(bytes.Clone(data), crlf...)
	}
	return data, converted, nil
}

// isSevenBit says whether lines are 7bit (RFC 2045 §2.7).
func isSevenBit(lines []byte) bool {
	length := 0
	for i, c := range lines {
		switch {
		case c == '\r' && i+1 < len(lines) && lines[i+1] == '\n':
			continue
		case c == '\n' && i > 0 && lines[i-1] == '\r':
			length = 0
			continue
		case c == 0, c == '\r', c == '\n', c >= utf8.RuneSelf:
			return false
		}
		if length++; length > MaxLine {
			return false
		}
	}
	return true
}

// splitEntity separates header and body. Each has its lines complete; the header includes the blank line, if there is one. A
// header must be ASCII fields that all readers find.
func splitEntity(lines []byte) (head, body []byte, err error) {
	for rest := lines; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte(crlf))
		rest = after
		if len(line) == 0 {
			return lines[:len(lines)-len(rest)], rest, nil
		}
		if !isASCII(line) || len(line) > MaxLine {
			return nil, nil, errNotEnclosed
		}
		name, _, found := bytes.Cut(line, []byte(":"))
		switch {
		case line[0] == ' ' || line[0] == '\t':
			if len(rest)+len(line)+len(crlf) == len(lines) || len(bytes.TrimSpace(line)) == 0 {
				return nil, nil, errNotEnclosed
			}
		case !found || checkFieldName(string(name)) != nil:
			return nil, nil, errNotEnclosed
		}
	}
	return lines, nil, nil
}

// headerField returns the unfolded value of a field and the bounds of its lines in the header. A field that is there twice is
// an error: readers disagree about which counts.
func headerField(head []byte, key string) (value string, start, end int, err error) {
	var buf []byte
	found, inside := false, false
	for at := 0; at < len(head); {
		line, _, _ := bytes.Cut(head[at:], []byte(crlf))
		next := at + len(line) + len(crlf)
		if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
			if inside {
				buf, end = append(buf, line...), next
			}
			at = next
			continue
		}
		name, v, _ := bytes.Cut(line, []byte(":"))
		if inside = strings.EqualFold(string(name), key); inside {
			if found {
				return "", 0, 0, errNotEnclosed
			}
			found, start, end, buf = true, at, next, append(buf, v...)
		}
		at = next
	}
	return strings.TrimSpace(string(buf)), start, end, nil
}

// isMessageHeader says whether a header is one of a message (RFC 2046 §5.2.1 asks for From, Subject or Date).
func isMessageHeader(head []byte) bool {
	for _, key := range [...]string{"From", "Subject", "Date"} {
		if _, _, end, err := headerField(head, key); err != nil || end > 0 {
			return true
		}
	}
	return false
}

// recoder encodes the leaves of an entity.
type recoder struct {
	converted bool // line breaks were LF
}

// lastBreak says what the last line break of an entity belongs to.
type lastBreak int

const (
	contentBreak   lastBreak = iota // the content
	delimiterBreak                  // the delimiter behind it
	addedBreak                      // nothing: the message did not have it
)

// message recodes a message.
func (r recoder) message(lines []byte, depth int, last lastBreak) ([]byte, error) {
	out, err := r.entity(lines, "text/plain", depth, last)
	if err != nil || bytes.Equal(out, lines) {
		return out, err
	}
	head, _, err := splitEntity(out)
	if err != nil {
		return nil, err
	}
	if _, _, end, err := headerField(head, "MIME-Version"); err != nil || end > 0 {
		return out, err
	}
	return append([]byte("MIME-Version: 1.0\r\n"), out...), nil
}

// entity recodes a header and its body. An entity without a Content-Type has the type given.
func (r recoder) entity(lines []byte, base string, depth int, last lastBreak) ([]byte, error) {
	head, body, err := splitEntity(lines)
	if err != nil || isSevenBit(body) {
		return lines, err
	}
	if depth > maxEnclosedDepth {
		return nil, errNotEnclosed
	}
	contentType, _, typeEnd, err := headerField(head, "Content-Type")
	if err != nil {
		return nil, err
	}
	labelled, start, end, err := headerField(head, "Content-Transfer-Encoding")
	if err != nil {
		return nil, err
	}
	var params map[string]string
	if typeEnd > 0 {
		if base, params, err = mime.ParseMediaType(withoutComments(contentType)); err != nil {
			return nil, errNotEnclosed // a reader may see a multipart in it
		}
	}
	enc, body, err := r.body(body, entityType{
		base: base, boundary: params["boundary"], encoding: strings.ToLower(strings.TrimSpace(withoutComments(labelled))),
	}, depth, last)
	if err != nil {
		return nil, err
	}
	if end == 0 {
		start, end = typeEnd, typeEnd
	}
	out := make([]byte, 0, len(head)+len(body)+64)
	out = append(out, head[:start]...)
	out = append(out, "Content-Transfer-Encoding: "+string(enc)+crlf...)
	out = append(out, head[end:]...)
	return append(out, body...), nil
}

// entityType is what the header of an entity says of its body.
type entityType struct{ base, boundary, encoding string }

// body recodes a body and returns its new encoding.
func (r recoder) body(body []byte, t entityType, depth int, last lastBreak) (encoding, []byte, error) {
	kind, sub, _ := strings.Cut(t.base, "/")
	switch {
	case kind == "multipart":
		// A signature covers the encoded form of the parts (RFC 1847 §2.1).
		if sub == "signed" || sub == "encrypted" || !isIdentity(t.encoding) || !isBoundary(t.boundary) {
			return "", nil, errNotEnclosed
		}
		part := "text/plain"
		if sub == "digest" { // RFC 2046 §5.1.5
			part = "message/rfc822"
		}
		out, err := r.multipart(body, t.boundary, part, depth, last)
		return sevenBit, out, err
	case t.base == "message/rfc822":
		if !isIdentity(t.encoding) {
			return "", nil, errNotEnclosed
		}
		out, err := r.message(body, depth+1, last)
		return sevenBit, out, err
	case kind == "message" && !isGlobal(t.base):
		return "", nil, errNotEnclosed // RFC 2045 §6.4 forbids to encode it
	}
	if last != contentBreak {
		body = bytes.TrimSuffix(body, []byte(crlf))
	}
	content, err := r.decode(body, t.encoding)
	if err != nil {
		return "", nil, err
	}
	enc := base64Encoding
	if _, _, err := uniformLines(content); err == nil && kind == "text" {
		// RFC 6522 §4 knows no base64 for returned headers.
		switch enc = textEncoding(content); {
		case t.base == "text/rfc822-headers":
			enc = quotedPrintable
		case last != delimiterBreak && !bytes.HasSuffix(content, []byte("\n")):
			enc = base64Encoding // in quoted-printable, the line break at the end would be content
		case enc == sevenBit:
			enc = quotedPrintable
		}
	}
	var out bytes.Buffer
	if err := enc.write(&out, content); err != nil {
		return "", nil, err
	}
	if !bytes.HasSuffix(out.Bytes(), []byte(crlf)) {
		out.WriteString(crlf)
	}
	return enc, out.Bytes(), nil
}

// decode returns the content of a leaf.
func (r recoder) decode(body []byte, labelled string) ([]byte, error) {
	switch {
	case labelled == "binary" && r.converted:
		return nil, errNotEnclosed // the line breaks may have been content
	case isIdentity(labelled):
		return body, nil
	case labelled == string(quotedPrintable) && isASCII(body):
		return io.ReadAll(quotedprintable.NewReader(bytes.NewReader(body)))
	case labelled == string(base64Encoding):
		content := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
		n, err := base64.StdEncoding.Decode(content, body)
		return content[:n], err
	default:
		return nil, errNotEnclosed
	}
}

// multipart recodes the parts of a multipart. Preamble, delimiters and epilogue keep their bytes. Parts without a Content-Type
// have the type given.
func (r recoder) multipart(body []byte, boundary, base string, depth int, last lastBreak) ([]byte, error) {
	delimiter := []byte("--" + boundary)
	out := make([]byte, 0, len(body)+len(body)/8)
	part, parts := 0, 0 // where the open part, or the preamble, begins
	flush := func(end int, last lastBreak) error {
		if parts == 0 {
			out = append(out, body[part:end]...)
			return nil
		}
		if end-len(crlf) < part { // no line break belongs to the delimiter
			return errNotEnclosed
		}
		recoded, err := r.entity(body[part:end], base, depth+1, last)
		out = append(out, recoded...)
		return err
	}
	for at := 0; at < len(body); {
		line, _, _ := bytes.Cut(body[at:], []byte(crlf))
		next := min(at+len(line)+len(crlf), len(body))
		rest, found := bytes.CutPrefix(line, delimiter)
		if !found {
			at = next
			continue
		}
		rest, closed := bytes.CutPrefix(rest, []byte("--"))
		if len(bytes.Trim(rest, " \t")) > 0 {
			return nil, errNotEnclosed // readers disagree whether this is the delimiter
		}
		if err := flush(at, delimiterBreak); err != nil {
			return nil, err
		}
		if closed {
			return append(out, body[at:]...), nil
		}
		out = append(out, body[at:next]...)
		part, at, parts = next, next, parts+1
	}
	if parts == 0 {
		return nil, errNotEnclosed
	}
	if last != addedBreak { // the message was cut off before a delimiter
		last = delimiterBreak
	}
	return out, flush(len(body), last)
}

// isASCII says whether all bytes are below 0x80.
func isASCII(data []byte) bool {
	for _, c := range data {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isGlobal says whether a type is one of RFC 6532 and RFC 6533, which may be encoded.
func isGlobal(base string) bool { return strings.HasPrefix(base, "message/global") }

// isIdentity says whether an encoding leaves content as it is.
func isIdentity(cte string) bool {
	switch cte {
	case "", "7bit", "8bit", "binary":
		return true
	}
	return false
}

// isBoundary says whether a boundary delimits in the same places for every reader (RFC 2046 §5.1.1).
func isBoundary(s string) bool {
	if s == "" || len(s) > 70 || strings.HasSuffix(s, " ") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !IsAlphanumeric(c) && strings.IndexByte("'()+_,-./:=? ", c) < 0 {
			return false
		}
	}
	return true
}

// withoutComments returns a structured value without the comments of RFC 5322 §3.2.2. What does not close is kept.
func withoutComments(s string) string {
	if !strings.Contains(s, "(") {
		return s
	}
	var out strings.Builder
	quoted, depth, open := false, 0, 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && (quoted || depth > 0) && i+1 < len(s):
			if depth == 0 {
				out.WriteString(s[i : i+2])
			}
			i++
			continue
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			if depth++; depth == 1 {
				open = i
			}
		case c == ')' && depth > 0:
			if depth--; depth == 0 {
				out.WriteByte(' ')
			}
			continue
		}
		if depth == 0 {
			out.WriteByte(c)
		}
	}
	if depth > 0 {
		out.WriteString(s[open:])
	}
	return out.String()
}
