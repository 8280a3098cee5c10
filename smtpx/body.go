package smtpx

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"
)

// body is a message that was checked and may be sent.
type body struct {
	data []byte // lines end in CRLF; the last line may be open
	open bool   // the last line has no CRLF of its own
	bit8 bool   // octets above 127 anywhere
	hdr8 bool   // in the header section
}

// checkBody looks at every octet once. It refuses a bare CR, a bare LF and NUL. Receivers disagree whether these end a line, so
// one message could hide another (RFC 5321 §2.3.8, §4.1.1.4). A header must be ASCII or UTF-8 (RFC 6532 §3).
func checkBody(data []byte) (body, error) {
	if len(data) == 0 {
		return body{}, errors.New("body is empty")
	}
	b := body{data: data}
	header := true
	for start, line := 0, 1; start < len(data); line++ {
		end := bytes.IndexByte(data[start:], '\n')
		text := data[start:]
		if end >= 0 {
			text = data[start : start+end]
			if end == 0 || text[end-1] != '\r' {
				return body{}, fmt.Errorf("body has a bare LF on line %d: lines must end in CRLF", line)
			}
			text = text[:end-1]
			start += end + 1
		} else {
			b.open = true
			start = len(data)
		}
		if i := bytes.IndexByte(text, '\r'); i >= 0 {
			return body{}, fmt.Errorf("body has a bare CR on line %d: lines must end in CRLF", line)
		}
		if i := bytes.IndexByte(text, 0); i >= 0 {
			return body{}, fmt.Errorf("body has a NUL on line %d", line)
		}
		if len(text) == 0 {
			header = false
		}
		if !b.bit8 || header {
			if !asciiBytes(text) {
				b.bit8 = true
				b.hdr8 = b.hdr8 || header
				if header && !utf8.Valid(text) {
					return body{}, fmt.Errorf("header has octets on line %d that are neither ASCII nor UTF-8", line)
				}
			}
		}
	}
	return b, nil
}

func asciiBytes(p []byte) bool {
	for _, c := range p {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// size returns the number of octets as SIZE counts them (RFC 1870 §5): without dot-stuffing, with every CRLF.
func (b *body) size() int {
	if b.open {
		return len(b.data) + 2
	}
	return len(b.data)
}

// endOfData is the final dot. It is a line of its own because everything before it ends in CRLF.
const endOfData = ".\r\n"

// dotReader returns the dot-stuffed body (RFC 5321 §4.5.2) in blocks, without the final dot.
type dotReader struct {
	data []byte
	pos  int
	open bool // a CRLF has yet to be added
}

func (b *body) dotReader() dotReader { return dotReader{data: b.data, open: b.open} }

// done reports that nothing is left to write.
func (r *dotReader) done() bool { return r.pos == len(r.data) && !r.open }

// appendBlock appends the next part of the body to buf until buf has about limit octets. The octet before a dot tells whether
// it begins a line, wherever the blocks are cut.
func (r *dotReader) appendBlock(buf []byte, limit int) []byte {
	for r.pos < len(r.data) && len(buf) < limit {
		if r.data[r.pos] == '.' && (r.pos == 0 || r.data[r.pos-1] == '\n') {
			buf = append(buf, '.')
		}
		part := r.data[r.pos:min(len(r.data), r.pos+max(1, limit-len(buf)))]
		if i := bytes.Index(part, []byte("\n.")); i >= 0 {
			part = part[:i+1]
		}
		buf = append(buf, part...)
		r.pos += len(part)
	}
	if r.pos == len(r.data) && r.open {
		buf = append(buf, "\r\n"...)
		r.open = false
	}
	return buf
}
