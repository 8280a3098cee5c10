package smtpx

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
)

// Limits on what a server may answer. RFC 5321 §4.5.3.1.5 gives 512 octets per line; real servers pass it.
const (
	maxReplyLine  = 4096
	maxReplyLines = 256
	maxReplyBytes = 64 << 10
)

// Reply is a server's answer to one command (RFC 5321 §4.2). The zero value means that there was none.
type Reply struct {
	// Code is the three-digit code, 0 for no reply.
	Code int
	// Enhanced is the status code of RFC 3463, such as "5.1.1", read also when ENHANCEDSTATUSCODES was not offered; "" for none.
	Enhanced string
	// Lines are the texts of all lines without codes, as received apart from the line endings.
	Lines []string
}

// Positive reports a 2xx code.
func (r Reply) Positive() bool { return r.Code >= 200 && r.Code < 300 }

// Intermediate reports a 3xx code.
func (r Reply) Intermediate() bool { return r.Code >= 300 && r.Code < 400 }

// Transient reports a 4xx code.
func (r Reply) Transient() bool { return r.Code >= 400 && r.Code < 500 }

// Permanent reports a 5xx code.
func (r Reply) Permanent() bool { return r.Code >= 500 && r.Code < 600 }

// Text joins the lines with spaces. It may hold whatever the server sent; see String for what is safe to print.
func (r Reply) Text() string {
	if len(r.Lines) == 1 {
		return r.Lines[0]
	}
	return strings.Join(r.Lines, " ")
}

// String gives code, enhanced code and text on one line with control characters replaced, "" for no reply.
func (r Reply) String() string {
	if r.Code == 0 {
		return ""
	}
	s := fmt.Sprintf("%03d", r.Code)
	if r.Enhanced != "" {
		s += " " + r.Enhanced
	}
	if text := printable(r.Text()); text != "" {
		s += " " + text
	}
	return s
}

// errReply marks replies that are not SMTP. The connection that gave one is out of step and must not be used again.
var errReply = errors.New("malformed reply")

// readReply reads one reply of one or several lines. An error that is not of the connection wraps errReply.
func readReply(br *bufio.Reader) (Reply, error) {
	var r Reply
	size := 0
	for n := 0; ; n++ {
		line, err := br.ReadSlice('\n')
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				return Reply{}, fmt.Errorf("%w: line of more than %d bytes", errReply, br.Size())
			}
			return Reply{}, err
		}
		if size += len(line); size > maxReplyBytes || n == maxReplyLines {
			return Reply{}, fmt.Errorf("%w: more than %d lines or %d bytes", errReply, maxReplyLines, maxReplyBytes)
		}
		code, text, last, err := parseReplyLine(line)
		if err != nil {
			return Reply{}, err
		}
		if n > 0 && code != r.Code {
			return Reply{}, fmt.Errorf("%w: code changes from %d to %d within one reply", errReply, r.Code, code)
		}
		r.Code = code
		addLine(&r, text)
		if last {
			return r, nil
		}
	}
}

// parseReplyLine takes one line apart, its line ending included. Bare LF is taken as a line ending: refusing a verdict
// for it would help nobody.
func parseReplyLine(line []byte) (code int, text string, last bool, err error) {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) {
		return 0, "", false, fmt.Errorf("%w: %q", errReply, clip(line))
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, "", true, nil
	}
	switch line[3] {
	case ' ':
		return code, string(line[4:]), true, nil
	case '-':
		return code, string(line[4:]), false, nil
	}
	return 0, "", false, fmt.Errorf("%w: %q", errReply, clip(line))
}

// cutEnhanced splits an enhanced status code (RFC 3463 §2: class "." subject "." detail, the latter of up to three
// digits) from the start of text. A class that contradicts the reply code is not believed.
func cutEnhanced(code int, text string) (enhanced, rest string) {
	end := strings.IndexByte(text, ' ')
	if end < 0 {
		end = len(text)
	}
	if word := text[:end]; validEnhanced(word) && int(word[0]-'0') == code/100 {
		return word, strings.TrimLeft(text[end:], " ")
	}
	return "", text
}

func validEnhanced(s string) bool {
	if len(s) < 5 || len(s) > 9 || (s[0] != '2' && s[0] != '4' && s[0] != '5') || s[1] != '.' {
		return false
	}
	subject, detail, ok := strings.Cut(s[2:], ".")
	return ok && number(subject) && number(detail)
}

func number(s string) bool {
	if s == "" || len(s) > 3 {
		return false
	}
	for i := range len(s) {
		if !digit(s[i]) {
			return false
		}
	}
	return true
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func clip(b []byte) []byte { return b[:min(len(b), 80)] }

// NewReply makes a reply of a code and the lines behind it, as they stand in a log: an enhanced code at the start of a line
// is taken from it.
func NewReply(code int, lines ...string) Reply {
	r := Reply{Code: code}
	for _, line := range lines {
		addLine(&r, line)
	}
	return r
}

// addLine appends a line. The first says the enhanced code; it is usually repeated on the others (RFC 2034 §4).
func addLine(r *Reply, text string) {
	enhanced, rest := cutEnhanced(r.Code, text)
	if len(r.Lines) == 0 {
		r.Enhanced = enhanced
	}
	if enhanced != "" && enhanced == r.Enhanced {
		text = rest
	}
	r.Lines = append(r.Lines, text)
}
