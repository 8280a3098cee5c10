package letter

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"strings"
)

// crlf ends a line.
const crlf = "\r\n"

// encoding is a content transfer encoding (RFC 2045 §6). 8bit is not used: every server would need 8BITMIME.
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
		buf = append(buf, crlf...)
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
