package smtpx

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxENVID is the length of the longest ENVID, encoded (RFC 3461 §4.4).
const maxENVID = 100

// maxORCPT is the length of the longest ORCPT, encoded (RFC 3461 §4.2).
const maxORCPT = 500

// check refuses values that must not be sent. recipients is the number of recipients.
func (d *DSN) check(recipients int) error {
	if len(d.Original) > recipients {
		return fmt.Errorf("DSN: there are %d original addresses for %d recipients", len(d.Original), recipients)
	}
	for _, o := range d.Original {
		if err := checkOriginal(o); err != nil {
			return fmt.Errorf("DSN: original address: %w", err)
		}
	}
	if len(appendXtext(nil, d.ID)) > maxENVID {
		return fmt.Errorf("DSN: the id has more than %d characters in the encoding of RFC 3461", maxENVID)
	}
	for i := range len(d.ID) {
		if d.ID[i] < ' ' || d.ID[i] > '~' {
			return errors.New("DSN: the id has characters that are not printable ASCII")
		}
	}
	if d.Return != "" && d.Return != ReturnFull && d.Return != ReturnHeader {
		return errors.New("DSN: Return must be FULL or HDRS")
	}
	for _, n := range d.Notify {
		switch n {
		case NotifySuccess, NotifyFailure, NotifyDelay:
		case NotifyNever:
			if len(d.Notify) > 1 {
				return errors.New("DSN: NEVER stands alone")
			}
		default:
			return errors.New("DSN: Notify must be of NEVER, SUCCESS, FAILURE and DELAY")
		}
	}
	return nil
}

// appendMail appends the parameters of MAIL.
func (d *DSN) appendMail(buf []byte) []byte {
	if d.Return != "" {
		buf = append(buf, " RET="...)
		buf = append(buf, d.Return...)
	}
	if d.ID != "" {
		buf = append(buf, " ENVID="...)
		buf = appendXtext(buf, d.ID)
	}
	return buf
}

// checkOriginal refuses an original address that cannot be sent.
func checkOriginal(o string) error {
	if !utf8.ValidString(o) || strings.ContainsFunc(o, unprintable) {
		return errors.New("it has control characters or is not UTF-8")
	}
	kind, address := splitOriginal(o)
	switch {
	case o != "" && (address == "" || kind == "" || strings.ContainsFunc(kind, func(r rune) bool { return !letterDigit(r) && r != '-' })):
		return errors.New("it is neither an address nor TYPE;ADDRESS")
	case !ascii(address) && !strings.EqualFold(kind, "utf-8"):
		return fmt.Errorf("it is outside ASCII, which the type %s is not", kind)
	case len(appendOriginal(nil, o)) > maxORCPT:
		return fmt.Errorf("it has more than %d characters in the encoding of RFC 3461", maxORCPT)
	}
	return nil
}

// splitOriginal returns the type and the address of an original recipient. A semicolon within a quoted local part separates
// nothing.
func splitOriginal(o string) (kind, address string) {
	kind, address, ok := strings.Cut(o, ";")
	if ok && !strings.ContainsAny(kind, "@\"") {
		return kind, address
	}
	if ascii(o) {
		return "rfc822", o
	}
	return "utf-8", o
}

// appendOriginal appends the value of ORCPT: xtext, or utf-8-addr-xtext, which a server without SMTPUTF8 takes as well (RFC 6533
// §3).
func appendOriginal(buf []byte, o string) []byte {
	kind, address := splitOriginal(o)
	buf = append(append(buf, kind...), ';')
	if !strings.EqualFold(kind, "utf-8") {
		return appendXtext(buf, address)
	}
	for _, r := range address {
		if r > ' ' && r <= '~' && r != '+' && r != '=' && r != '\\' {
			buf = append(buf, byte(r))
			continue
		}
		buf = fmt.Appendf(buf, "\\x{%X}", r)
	}
	return buf
}

// asks tells whether anything is asked for.
func (d *DSN) asks() bool {
	return d.ID != "" || d.Return != "" || len(d.Notify) > 0 || len(d.Original) > 0
}

// appendRcpt appends the parameters of the RCPT of recipient i.
func (d *DSN) appendRcpt(buf []byte, i int) []byte {
	if i < len(d.Original) && d.Original[i] != "" {
		buf = append(buf, " ORCPT="...)
		buf = appendOriginal(buf, d.Original[i])
	}
	for k, n := range slices.Compact(slices.Sorted(slices.Values(d.Notify))) {
		if k == 0 {
			buf = append(buf, " NOTIFY="...)
		} else {
			buf = append(buf, ',')
		}
		buf = append(buf, n...)
	}
	return buf
}

// appendXtext encodes a value of printable ASCII (RFC 3461 §4).
func appendXtext(buf []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c == '+' || c == '=' || c > '~' {
			buf = append(buf, '+', hex[c>>4], hex[c&15])
			continue
		}
		buf = append(buf, c)
	}
	return buf
}
