package letter

import (
	"errors"
	"fmt"
	"strings"
)

// maxMethod is longer than every method of RFC 5546.
const maxMethod = 32

// ParseCalendar checks the frame of an iCalendar object (RFC 5545 §3.4). It returns the object without a byte order mark, and its
// method, which RFC 6047 §2.4 wants in the Content-Type as well. The content of the object is not checked.
func ParseCalendar(s string) (object, method string, err error) {
	object, err = ParseText(s)
	if err != nil {
		return "", "", err
	}
	var first, last string
	depth := 0
	for line := range strings.SplitSeq(unfoldLines.Replace(string(toCRLF(object))), crlf) {
		if line = strings.TrimRight(line, " \t"); line == "" {
			continue
		}
		if first == "" {
			first = line
		}
		last = line
		name, value := cutProperty(line)
		switch strings.ToUpper(name) {
		case "BEGIN":
			depth++
		case "END":
			depth--
		case "METHOD":
			if depth != 1 {
				continue
			}
			if method != "" {
				return "", "", errors.New("has more than one METHOD")
			}
			method = strings.ToUpper(strings.TrimSpace(value))
			if err := checkMethod(method); err != nil {
				return "", "", fmt.Errorf("METHOD %s %w", Quote(value), err)
			}
		}
	}
	switch {
	case !strings.EqualFold(first, "BEGIN:VCALENDAR") || !strings.EqualFold(last, "END:VCALENDAR") || depth != 0:
		return "", "", errors.New("is not an iCalendar object: BEGIN:VCALENDAR and END:VCALENDAR must enclose it")
	case method == "":
		return "", "", errors.New("has no METHOD: an object that asks for no answer goes into Attachments")
	}
	return object, method, nil
}

// unfoldLines joins the lines of each property (RFC 5545 §3.1).
var unfoldLines = strings.NewReplacer(crlf+" ", "", crlf+"\t", "")

// cutProperty returns the name of a property and its value, which begins behind the first colon outside of quotes (RFC 5545 §3.1).
func cutProperty(line string) (name, value string) {
	name, value = line, ""
	quoted := false
	for i := range len(line) {
		if line[i] == '"' {
			quoted = !quoted
		}
		if line[i] == ':' && !quoted {
			name, value = line[:i], line[i+1:]
			break
		}
	}
	name, _, _ = strings.Cut(name, ";")
	return name, value
}

// checkMethod checks for a token.
func checkMethod(s string) error {
	if s == "" || len(s) > maxMethod {
		return fmt.Errorf("does not have 1 to %d bytes", maxMethod)
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && !IsAlphanumeric(c) {
			return fmt.Errorf("contains %q", rune(c))
		}
	}
	return nil
}
