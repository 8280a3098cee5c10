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
	key         string  // canonical name, for comparing and sorting
	pieces      []piece // that write the value, none where it is written by its text
}

// NewField makes a field whose value needs no check.
func NewField(name, value string) Field {
	return Field{Name: name, Value: value, key: textproto.CanonicalMIMEHeaderKey(name)}
}

// maxFieldName is the longest name of a field that leaves room for an encoded word on its first line.
const maxFieldName = 60

// ParseFields checks the header fields that a message adds and sorts them by name. A field with a grammar must keep to it: see
// [parseValue].
func ParseFields(header map[string][]string, limits Limits) ([]Field, error) {
	if len(header) == 0 {
		return nil, nil
	}
	fields := make([]Field, 0, len(header))
	for name, values := range header {
		if err := checkFieldName(name); err != nil {
			return nil, fmt.Errorf("field name %s %w", Quote(name), err)
		}
		if len(name) > maxFieldName {
			return nil, fmt.Errorf("field name %s is longer than %d bytes", Quote(name), maxFieldName)
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		if err := limits.checkAllowed(key); err != nil {
			return nil, err
		}
		for _, value := range values {
			if err := CheckLine(value, limits.HeaderSize); err != nil {
				return nil, fmt.Errorf("the value of %s %w", name, err)
			}
			f := Field{Name: name, Value: strings.TrimSpace(value), key: key}
			var err error
			if f.pieces, err = parseValue(key, f.Value); err != nil {
				return nil, fmt.Errorf("the value of %s: %w", name, err)
			}
			fields = append(fields, f)
		}
	}
	slices.SortStableFunc(fields, func(a, b Field) int {
		return cmp.Or(strings.Compare(a.key, b.key), strings.Compare(a.Name, b.Name))
	})
	for i := 1; i < len(fields); i++ {
		if fields[i].key == fields[i-1].key && isSingle(fields[i].key) {
			return nil, fmt.Errorf("%s may be given only once", fields[i].Name)
		}
	}
	return fields, nil
}

// write writes the field.
func (f *Field) write(b *headerBlock) {
	switch _, structured := grammars[f.key]; {
	case f.pieces != nil:
		b.structured(f.Name, f.pieces)
	case structured:
		b.tokens(f.Name, f.Value)
	default:
		b.opaque(f.Name, f.Value)
	}
}

// JoinFields returns the written fields and behind them the added ones. It refuses a field that is in both.
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

// Names of fields in canonical form. One that ends in '-' stands for all that begin with it.
var (
	// ownFields are written by this package from the fields of a Message, traceFields by servers on the way and signers. A
	// caller can add neither.
	ownFields = []string{
		"From", "Reply-To", "To", "Cc", "Bcc", "Subject", "Date", "Message-Id", "Mime-Version", "Content-", "X-Outbox-",
	}
	traceFields = []string{"Return-Path", "Received", "Resent-", "Dkim-Signature", "Arc-", "Authentication-Results"}
	// controlFields change how a provider treats a message: its recipients, its template, the account that pays. Text that
	// reached a header by mistake must not steer the provider, so each must be allowed by its name.
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
	// stampFields have a name of that kind and command nothing: a provider or a filter wrote them into mail that it carried. Mail
	// that is forwarded has them. X-Mailgun-Sending-Ip is not here, for it is a stamp and a command.
	stampFields = []string{
		"X-Ses-Outgoing", "X-Ses-Receipt", "X-Ses-Spam-Verdict", "X-Ses-Virus-Verdict", "X-Ses-Dkim-Signature", // Amazon SES
		"X-Pm-Message-Id", "X-Pm-Message-Options", "X-Pm-Mta-Pool", "X-Pm-Rcpt", // Postmark
		"X-Mc-Copy", "X-Mc-Ingress-Time", "X-Mc-Loop-Signature", "X-Mc-Relay", // MailChannels
		"X-Mc-User",   // Mailchimp
		"X-Mc-Unique", // Mimecast
		"X-Mailgun-Batch-Id", "X-Mailgun-Dkim-Check-Result", "X-Mailgun-Incoming", "X-Mailgun-Sflag", "X-Mailgun-Sid",
		"X-Mailgun-Spf", "X-Mailgun-Sscore", // Mailgun
		"X-Mj-Mid", "X-Mj-Smtpguid", // Mailjet
		"X-Mailin-Client", "X-Mailin-Eid", "X-Sib-Id", // Brevo
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
	}
	return l.checkControl(key)
}

// checkControl refuses a field that steers a provider, unless it is allowed.
func (l Limits) checkControl(key string) error {
	if isControl(key) && !l.Allowed[key] {
		return fmt.Errorf("%s steers the e-mail provider: leave it out, or allow it by name in Config.AllowHeaders", key)
	}
	return nil
}

// isControl says whether a field steers a provider.
func isControl(key string) bool { return matches(controlFields, key) && !matches(stampFields, key) }

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
		if !isControl(key) {
			return nil, fmt.Errorf("%s is not a field that steers a provider: it is either accepted anyway or never", name)
		}
		allowed[key] = true
	}
	return allowed, nil
}
