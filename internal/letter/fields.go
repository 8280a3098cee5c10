package letter

import (
	"cmp"
	"errors"
	"fmt"
	"net/textproto"
	"slices"
	"strings"
)

// Field is one header field that the caller added.
type Field struct {
	Name, Value string
	key         string // name in its canonical form, by which fields are compared and sorted
}

// NewField makes a field whose value needs no check.
func NewField(name, value string) Field {
	return Field{Name: name, Value: value, key: textproto.CanonicalMIMEHeaderKey(name)}
}

// maxFieldName is the longest name of a field that leaves room for an encoded word on its first line.
const maxFieldName = 60

// checkFields checks the header fields that a message adds and puts them into a fixed order. The values of Sender are
// returned apart, for they are addresses.
func ParseFields(header map[string][]string, limits Limits) (fields []Field, sender *Mailbox, err error) {
	if len(header) == 0 {
		return nil, nil, nil
	}
	fields = make([]Field, 0, len(header))
	for name, values := range header {
		if err := checkFieldName(name); err != nil {
			return nil, nil, fmt.Errorf("field name %s %w", Quote(name), err)
		}
		if len(name) > maxFieldName {
			return nil, nil, fmt.Errorf("field name %s is longer than %d bytes", Quote(name), maxFieldName)
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		if err := limits.checkAllowed(key); err != nil {
			return nil, nil, err
		}
		for _, value := range values {
			if err := CheckLine(value, limits.HeaderSize); err != nil {
				return nil, nil, fmt.Errorf("the value of %s %w", name, err)
			}
			if key == "Sender" {
				m, err := parseOne(value)
				if err != nil {
					return nil, nil, fmt.Errorf("the value of %s: %w", name, err)
				}
				sender = &m
			}
			fields = append(fields, Field{Name: name, Value: strings.TrimSpace(value), key: key})
		}
	}
	slices.SortStableFunc(fields, func(a, b Field) int {
		return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.Name, b.Name))
	})
	for i := 1; i < len(fields); i++ {
		if fields[i].key == fields[i-1].key && isSingle(fields[i].key) {
			return nil, nil, fmt.Errorf("%s may be given only once", fields[i].Name)
		}
	}
	return slices.DeleteFunc(fields, func(f Field) bool { return f.key == "Sender" }), sender, nil
}

// JoinFields puts the fields that a message asks for before those that it adds, and refuses what both have.
func JoinFields(written, added []Field) ([]Field, error) {
	if len(written) == 0 {
		return added, nil
	}
	for i := range added {
		if slices.ContainsFunc(written, func(f Field) bool { return f.key == added[i].key }) {
			return nil, fmt.Errorf("%s is written from the other fields of the message", added[i].Name)
		}
	}
	return append(written, added...), nil
}

// CheckReference checks for one Message-ID that can stand in a header.
func CheckReference(s string) error {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return fmt.Errorf("contains %q", rune(s[i]))
		}
	}
	return checkMessageID(s)
}

// checkFieldName checks for a token (RFC 9110 §5.6.2), which is the part of RFC 5322 §3.6.8 that every reader accepts.
func checkFieldName(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	for i := range len(s) {
		if c := s[i]; !IsAlphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return fmt.Errorf("contains %q", rune(c))
		}
	}
	return nil
}

// Fields that a caller cannot add, by canonical name. The first group is written by this package from the fields of a
// Message, the second by servers on the way or by a signer. Names that end in '-' stand for everything that begins so.
var (
	ownFields = []string{
		"From", "Reply-To", "To", "Cc", "Bcc", "Subject", "Date", "Message-Id", "Mime-Version", "Content-", "X-Outbox-",
	}
	traceFields = []string{"Return-Path", "Received", "Resent-", "Dkim-Signature", "Arc-", "Authentication-Results"}
	// controlFields change what a provider does with a message: whom it goes to, which template fills it, who pays.
	// Text that reached a header by mistake must not steer the provider, so they are allowed by name only.
	controlFields = []string{
		"X-Smtpapi",           // SendGrid
		"X-Msys-Api",          // SparkPost
		"X-Ses-",              // Amazon SES
		"X-Pm-",               // Postmark
		"X-Mc-",               // Mandrill
		"Resend-",             // Resend
		"X-Mailgun-",          // Mailgun
		"X-Mj-", "X-Mailjet-", // Mailjet
		"X-Mailin-", "X-Sib-", // Brevo
		"X-Mt-", // Mailtrap
	}
)

// matches says whether a canonical name is in a list.
func matches(list []string, key string) bool {
	for _, name := range list {
		if name == key || name[len(name)-1] == '-' && strings.HasPrefix(key, name) {
			return true
		}
	}
	return false
}

// checkAllowed says whether a caller may add a field.
func (l Limits) checkAllowed(key string) error {
	switch {
	case matches(ownFields, key):
		return fmt.Errorf("%s is written from the other fields of the message", key)
	case matches(traceFields, key):
		return fmt.Errorf("%s is written by mail servers and signers", key)
	case matches(controlFields, key) && !l.Allowed[key]:
		return fmt.Errorf("%s steers the e-mail provider: allow it by name in Config.AllowHeaders", key)
	}
	return nil
}

// isSingle says whether a message may have a field only once (RFC 5322 §3.6, RFC 2369 §2, RFC 3834 §5, RFC 8058 §3.2).
func isSingle(key string) bool {
	switch key {
	case "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Subject", "Date", "Message-Id", "In-Reply-To", "References",
		"Mime-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition", "Content-Id",
		"Auto-Submitted", "List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Subscribe",
		"List-Post", "List-Owner", "List-Archive":
		return true
	}
	return false
}

// ParseAllowed checks the names of control fields that callers may use.
func ParseAllowed(names []string) (map[string]bool, error) {
	allowed := make(map[string]bool, len(names))
	for _, name := range names {
		if err := checkFieldName(name); err != nil {
			return nil, fmt.Errorf("field name %s %w", Quote(name), err)
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		if !matches(controlFields, key) {
			return nil, fmt.Errorf("%s is not a field that steers a provider: it is either accepted anyway or never", name)
		}
		allowed[key] = true
	}
	return allowed, nil
}
