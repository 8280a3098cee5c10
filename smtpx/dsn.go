package smtpx

import (
	"errors"
	"fmt"
	"slices"
)

// maxENVID is the length of the longest ENVID, encoded (RFC 3461 §4.4).
const maxENVID = 100

// check refuses values that must not be sent.
func (d *DSN) check() error {
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

// appendRcpt appends the parameter of RCPT.
func (d *DSN) appendRcpt(buf []byte) []byte {
	for i, n := range slices.Compact(slices.Sorted(slices.Values(d.Notify))) {
		if i == 0 {
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
