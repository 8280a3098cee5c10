package smtpx

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Limits of one reply. RFC 5321 §4.5.3.1.5 gives 512 octets a line; real servers send more.
const (
	maxReplyLine  = 4096 // octets that are kept of a line
	maxReplyLines = 256
	maxReplyBytes = 64 << 10
)

// Reply is a server's answer to one command (RFC 5321 §4.2). The zero value stands for no answer.
type Reply struct {
	// Code is the three-digit code, 0 for no reply.
	Code int
	// Enhanced is the status code of RFC 3463, such as "5.1.1", "" for none. It is read without the offer of
	// ENHANCEDSTATUSCODES, too.
	Enhanced string
	// Lines are the texts of all lines, as received, without codes and line endings. A line is cut after 4096 octets.
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

// Text joins the lines with spaces. It may hold any octets. Use String for text that is safe to print.
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

// errReply marks text that is no reply of SMTP. Its connection is out of step and must not be used again.
var errReply = errors.New("malformed reply")

// quotedError is an errReply that quotes the line.
type quotedError struct{ line []byte }

// Error quotes the line.
func (e *quotedError) Error() string { return fmt.Sprintf("%v: %q", errReply, e.line) }

// Unwrap returns errReply.
func (e *quotedError) Unwrap() error { return errReply }

// readReply reads one reply of one or several lines. Lines beyond maxReplyLine octets are cut short. An error wraps errReply
// unless it comes from the connection.
//
// On an error readReply also returns the refusal if there is one: its first code is the verdict. Such a refusal is too long,
// malformed after its first line, or cut off by the end of the stream. Lines with different codes are a refusal as well. The
// first temporary code is then the verdict, or else the first code.
func readReply(br *bufio.Reader) (Reply, error) {
	var r Reply
	size := 0
	fail := func(err error) (Reply, error) {
		if r.Code >= 400 {
			return r, err
		}
		return Reply{}, err
	}
	for n := 0; ; n++ {
		line, length, err := readLine(br, maxReplyBytes-size)
		if size += length; size > maxReplyBytes || n == maxReplyLines {
			if code, text, _, perr := parseReplyLine(line); n == 0 && perr == nil && code >= 400 {
				r.Code = code
				addLine(&r, text)
			}
			return fail(fmt.Errorf("%w: more than %d lines or %d bytes", errReply, maxReplyLines, maxReplyBytes))
		}
		if err != nil {
			if code, text, _, perr := parseReplyLine(append(slices.Clone(line), '\n')); n == 0 && perr == nil && code >= 400 {
				r.Code = code
				addLine(&r, text)
			}
			return fail(err)
		}
		code, text, last, err := parseReplyLine(line)
		if err != nil {
			return fail(err)
		}
		switch {
		case n == 0:
			r.Code = code
		case r.Code >= 500 && code >= 400 && code < 500:
			r.Code, r.Enhanced = code, ""
		case code != r.Code && (code < 400 || r.Code < 400):
			return Reply{}, fmt.Errorf("%w: code changes from %d to %d within one reply", errReply, r.Code, code)
		}
		addLine(&r, text)
		if last {
			return r, nil
		}
	}
}

// readLine reads one line of at most limit octets, its ending included, and returns its first maxReplyLine octets and its
// length.
func readLine(br *bufio.Reader, limit int) (line []byte, length int, err error) {
	line, err = br.ReadSlice('\n')
	length = len(line)
	if !errors.Is(err, bufio.ErrBufferFull) {
		return line, length, err
	}
	line = append(slices.Clone(line[:min(len(line), maxReplyLine-1)]), '\n')
	for errors.Is(err, bufio.ErrBufferFull) && length <= limit {
		var rest []byte
		rest, err = br.ReadSlice('\n')
		length += len(rest)
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil // the length tells that the line is too long
	}
	return line, length, err
}

// parseReplyLine parses one line, its ending included. A bare LF ends a line, too.
func parseReplyLine(line []byte) (code int, text string, last bool, err error) {
	line = line[:len(line)-1]
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2]) {
		return 0, "", false, &quotedError{bytes.Clone(clip(line))}
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
	return 0, "", false, &quotedError{bytes.Clone(clip(line))}
}

// cutEnhanced splits an enhanced status code (RFC 3463 §2: class "." subject "." detail, both of up to three digits) from the
// start of text. It ignores a class that contradicts the reply code.
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

// NewReply makes a reply of a code and the texts behind it, as logs have them. It takes an enhanced code from the start of
// each line.
func NewReply(code int, lines ...string) Reply {
	r := Reply{Code: code}
	for _, line := range lines {
		addLine(&r, line)
	}
	return r
}

// addLine appends a line. The first has the enhanced code, which the others usually repeat (RFC 2034 §4).
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
