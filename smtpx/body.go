package smtpx

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"
)

// body is a message that was checked and may be sent.
type body struct {
	data   []byte // lines end in CRLF; the last line may be open
	source source // where the message is read instead, if it is large
	length int    // octets of data or source
	open   bool   // the last line has no CRLF of its own
	bit8   bool   // octets above 127 anywhere
	hdr8   bool   // in the header section
}

// checkBody looks at every octet once. It refuses a bare CR, a bare LF and NUL. Receivers disagree whether these end a line, so
// one message could hide another (RFC 5321 §2.3.8, §4.1.1.4). A header must be ASCII or UTF-8 (RFC 6532 §3).
func checkBody(data []byte) (body, error) {
	if len(data) == 0 {
		return body{}, errors.New("body is empty")
	}
	k := newBodyCheck()
	if err := k.add(data, true); err != nil {
		return body{}, err
	}
	k.data = data
	return k.body, nil
}

// bodyCheck checks a message that comes in parts.
type bodyCheck struct {
	body
	line   int  // number of the present line
	mid    bool // something of it was seen
	header bool // it belongs to the header section
}

func newBodyCheck() bodyCheck { return bodyCheck{line: 1, header: true} }

// held returns how many octets at the end of a part must wait for the next one: a CR, or the start of a character.
func held(part []byte) int {
	if n := len(part); n > 0 && part[n-1] == '\r' {
		return 1
	}
	for n := 1; n < utf8.UTFMax && n <= len(part); n++ {
		if c := part[len(part)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(part[len(part)-n:]) {
				return n
			}
			break
		}
	}
	return 0
}

// add checks the next part. A part that is not the last one must not end in the middle of a CRLF or of a character.
func (k *bodyCheck) add(data []byte, last bool) error {
	k.length += len(data)
	for start := 0; start < len(data); {
		end := bytes.IndexByte(data[start:], '\n')
		text := data[start:]
		if end >= 0 {
			text = data[start : start+end]
			if !bytes.HasSuffix(text, []byte{'\r'}) {
				return fmt.Errorf("body has a bare LF on line %d: lines must end in CRLF", k.line)
			}
			text = text[:len(text)-1]
			start += end + 1
		} else {
			k.open = last
			start = len(data)
		}
		if err := k.addText(text); err != nil {
			return err
		}
		k.mid = end < 0
		if end >= 0 {
			k.line++
		}
	}
	if last && k.mid {
		k.open = true
	}
	return nil
}

// addText checks a line, or a part of it, without its CRLF.
func (k *bodyCheck) addText(text []byte) error {
	if bytes.IndexByte(text, '\r') >= 0 {
		return fmt.Errorf("body has a bare CR on line %d: lines must end in CRLF", k.line)
	}
	if bytes.IndexByte(text, 0) >= 0 {
		return fmt.Errorf("body has a NUL on line %d", k.line)
	}
	if len(text) == 0 && !k.mid {
		k.header = false
	}
	if (!k.bit8 || k.header) && !asciiBytes(text) {
		k.bit8 = true
		k.hdr8 = k.hdr8 || k.header
		if k.header && !utf8.Valid(text) {
			return fmt.Errorf("header has octets on line %d that are neither ASCII nor UTF-8", k.line)
		}
	}
	return nil
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
		return b.length + 2
	}
	return b.length
}

// endOfData is the final dot. It is a line of its own because everything before it ends in CRLF.
const endOfData = ".\r\n"

// dotReader returns a body in memory in blocks, without the final dot. It is dot-stuffed (RFC 5321 §4.5.2) unless plain is set.
type dotReader struct {
	data  []byte
	pos   int
	open  bool // a CRLF has yet to be added
	plain bool
}

func (b *body) dotReader() dotReader { return dotReader{data: b.data, open: b.open} }

// done reports that nothing is left to write.
func (r *dotReader) done() bool { return r.pos == len(r.data) && !r.open }

// appendBlock appends the next part of the body to buf until buf has about limit octets. The octet before a dot tells whether
// it begins a line, wherever the blocks are cut.
func (r *dotReader) appendBlock(buf []byte, limit int) []byte {
	for r.pos < len(r.data) && len(buf) < limit {
		if !r.plain && r.data[r.pos] == '.' && (r.pos == 0 || r.data[r.pos-1] == '\n') {
			buf = append(buf, '.')
		}
		part := r.data[r.pos:min(len(r.data), r.pos+max(1, limit-len(buf)))]
		if i := bytes.Index(part, []byte("\n.")); !r.plain && i >= 0 {
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
