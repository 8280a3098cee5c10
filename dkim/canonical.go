package dkim

import (
	"bytes"
	"strings"
)

// splitMessage cuts a message at its blank line. Neither part contains that line.
func splitMessage(message []byte) (head, body []byte) {
	if i := bytes.Index(message, []byte("\r\n\r\n")); i >= 0 {
		return message[:i+2], message[i+4:]
	}
	return message, nil
}

// field is one header field.
type field struct {
	key string // the name in lower case
	raw []byte // with its folds and its line break
}

// parseHeader splits a header into its fields. It skips lines that belong to no field.
func parseHeader(head []byte) []field {
	var fields []field
	start, at := 0, 0 // offsets of the last field and of the line
	for line := range bytes.Lines(head) {
		end := at + len(line)
		if len(fields) > 0 && (line[0] == ' ' || line[0] == '\t') {
			fields[len(fields)-1].raw = head[start:end]
		} else if name, _, ok := bytes.Cut(line, []byte(":")); ok {
			fields = append(fields, field{key: strings.ToLower(strings.TrimRight(string(name), " \t")), raw: line})
			start = at
		}
		at = end
	}
	return fields
}

// value returns the text after the colon, unfolded.
func (f field) value() string {
	_, value, _ := strings.Cut(string(f.raw), ":")
	return strings.TrimSpace(strings.ReplaceAll(value, "\r\n", ""))
}

// relaxed returns the field in its relaxed form (RFC 6376 §3.4.2).
func (f field) relaxed() []byte {
	out := make([]byte, 0, len(f.raw))
	out = append(out, f.key...)
	out = append(out, ':')
	_, value, _ := bytes.Cut(f.raw, []byte(":"))
	value = bytes.ReplaceAll(value, []byte("\r\n"), nil)
	out = append(out, bytes.Trim(relaxLine(nil, value), " ")...)
	return append(out, '\r', '\n')
}

// relaxLine appends a line and reduces each run of blanks to one space.
func relaxLine(to, line []byte) []byte {
	blank := false
	for _, c := range line {
		if c == ' ' || c == '\t' {
			blank = true
			continue
		}
		if blank {
			to = append(to, ' ')
			blank = false
		}
		to = append(to, c)
	}
	if blank {
		to = append(to, ' ')
	}
	return to
}

// relaxBody returns a body in its relaxed form (RFC 6376 §3.4.4). It reduces runs of blanks, and removes blanks at the ends of
// lines and empty lines at the end of the body.
func relaxBody(body []byte) []byte {
	out := make([]byte, 0, len(body)+2)
	end := 0 // end of the last line that is not empty
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, []byte("\r\n"))
		body = rest
		before := len(out)
		out = relaxLine(out, line)
		if len(out) > before && out[len(out)-1] == ' ' {
			out = out[:len(out)-1]
		}
		empty := len(out) == before
		out = append(out, '\r', '\n')
		if !empty {
			end = len(out)
		}
	}
	return out[:end]
}
