package letter

import (
	"errors"
	"fmt"
	"net/mail"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxAddress is the longest address in bytes. It fills a command line of 512 bytes, which every SMTP server reads (RFC 5321
// §4.5.3.1.4), beside "MAIL FROM:<>" and its line break. The smaller sizes of §4.5.3.1.1 and §4.5.3.1.3 are those that a
// server must accept, not the largest that it may: return paths and reply tokens are longer than 64 bytes.
const maxAddress = 512 - len("MAIL FROM:<>\r\n")

// Limits of the domain name system (RFC 1035 §2.3.4, without the root), and of a display name.
const (
	maxDomain      = 253
	maxDomainLabel = 63
	maxDisplayName = 255
)

// Mailbox is an address that was checked, with its display name.
type Mailbox struct {
	Name   string
	Addr   string // local@domain in canonical form: see [ParseMailbox]
	Domain string
}

// ParseAddress checks a display name and an address.
func ParseAddress(a mail.Address) (Mailbox, error) {
	m, err := ParseMailbox(a.Address)
	if err != nil {
		return Mailbox{}, err
	}
	if err := CheckLine(a.Name, maxDisplayName); err != nil {
		return Mailbox{}, fmt.Errorf("display name %w", err)
	}
	m.Name = a.Name
	return m, nil
}

// ParseMailbox checks an address without a display name and returns it in canonical form. A local part that is a dot-atom has no
// quotes there, any other has quotes and as few backslashes as possible. Its letters stay as they are, because only its own
// host may interpret them (RFC 5321 §2.3.11). The domain is in lower case and in its ASCII form.
//
// Angle brackets are refused even in quotes: SMTP parameters have been smuggled through them. Address literals are refused. A
// local part outside ASCII needs servers with SMTPUTF8 (RFC 6531).
func ParseMailbox(s string) (Mailbox, error) {
	if s == "" {
		return Mailbox{}, errors.New("is empty")
	}
	local, domain, err := cutAddress(s)
	if err != nil {
		return Mailbox{}, fmt.Errorf("%s: %w", Quote(s), err)
	}
	m, err := newMailbox(local, domain, s)
	if err != nil {
		return Mailbox{}, fmt.Errorf("%s: %w", Quote(s), err)
	}
	return m, nil
}

var (
	errNoLocalPart  = errors.New("nothing stands before the @")
	errMisplacedDot = errors.New(`the part before the @ has a misplaced dot: if the mailbox has it, write that part in quotes, ` +
		`as in "a..b"@example.org`)
)

// cutAddress separates a local part, which is returned without its quotes, from the domain.
func cutAddress(s string) (local, domain string, err error) {
	if s[0] == '"' {
		local, rest, err := unquote(s)
		domain, ok := strings.CutPrefix(rest, "@")
		switch {
		case err != nil:
			return "", "", err
		case !ok:
			return "", "", errors.New("no @ stands after the quotes")
		}
		return local, domain, nil
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return "", "", errors.New("there is no @")
	}
	local, domain = s[:at], s[at+1:]
	for i := range len(local) {
		if c := local[i]; c != '.' && c < utf8.RuneSelf && !isAtext(c) {
			return "", "", fmt.Errorf("the part before the @ contains %q and has no quotes", rune(c))
		}
	}
	if strings.HasPrefix(local, ".") || strings.HasSuffix(local, ".") || strings.Contains(local, "..") {
		return "", "", errMisplacedDot
	}
	return local, domain, nil
}

// newMailbox checks a local part without quotes and a domain. It returns whole as the address where that is canonical already.
func newMailbox(local, domain, whole string) (Mailbox, error) {
	local, err := writeLocalPart(local)
	if err != nil {
		return Mailbox{}, err
	}
	if domain, err = ParseDomain(domain); err != nil {
		return Mailbox{}, err
	}
	m := Mailbox{Addr: whole, Domain: domain}
	if at := len(local); len(whole) != at+1+len(domain) || whole[:at] != local || whole[at+1:] != domain {
		m.Addr = local + "@" + domain
	}
	if len(m.Addr) > maxAddress {
		return Mailbox{}, fmt.Errorf("the address has %d bytes, more than the %d that fit into an SMTP command", len(m.Addr), maxAddress)
	}
	return m, nil
}

// writeLocalPart checks a local part and returns it as it is written: as a dot-atom (RFC 5322 §3.2.3) where it is one, else
// in quotes. Visible characters outside ASCII are allowed (RFC 6532 §3.2).
func writeLocalPart(s string) (string, error) {
	switch {
	case s == "":
		return "", errNoLocalPart
	case !utf8.ValidString(s):
		return "", errors.New("the part before the @ is not valid UTF-8")
	}
	atom := s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
	escapes := 0
	for _, r := range s {
		switch {
		case !unicode.IsPrint(r) || r == '<' || r == '>':
			return "", fmt.Errorf("the part before the @ contains %q", r)
		case r == '"' || r == '\\':
			escapes++
			atom = false
		case r < utf8.RuneSelf && r != '.' && !isAtext(byte(r)):
			atom = false
		}
	}
	if atom {
		return s, nil
	}
	quoted := make([]byte, 0, len(s)+escapes+2)
	return string(appendQuoted(quoted, s)), nil
}

// isAtext says whether c may stand in an atom (RFC 5322 §3.2.3).
func isAtext(c byte) bool {
	return IsAlphanumeric(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// IsAlphanumeric says whether c is a letter or a digit of ASCII.
func IsAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// domains maps and checks international domain names as a resolver would (RFC 5891 §5).
var domains = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(true))

// ParseDomain returns the domain in lower case and in its ASCII form.
func ParseDomain(s string) (string, error) {
	if !utf8.ValidString(s) { // idna accepts it
		return "", errors.New("the domain is not valid UTF-8")
	}
	ascii := strings.ToLower(s)
	if !IsASCII(s) || strings.HasPrefix(ascii, "xn--") || strings.Contains(ascii, ".xn--") {
		mapped, err := domains.ToASCII(s)
		if err != nil {
			return "", fmt.Errorf("the domain is not valid: %w", err)
		}
		ascii = mapped
	}
	if len(ascii) > maxDomain {
		return "", fmt.Errorf("the domain is longer than %d bytes", maxDomain)
	}
	// The output of idna is checked as well: its tables are not trusted.
	for rest, more := ascii, true; more; {
		var label string
		label, rest, more = strings.Cut(rest, ".")
		if err := checkLabel(label); err != nil {
			return "", err
		}
		if !more && IsDigits(label) {
			return "", errors.New("the domain is a number; address literals are not supported")
		}
	}
	return ascii, nil
}

// checkLabel checks one label of a domain: letters, digits and inner hyphens (RFC 1123 §2.1).
func checkLabel(s string) error {
	switch {
	case s == "":
		return errors.New("the domain has an empty label")
	case len(s) > maxDomainLabel:
		return fmt.Errorf("the domain has a label of more than %d bytes", maxDomainLabel)
	case s[0] == '-' || s[len(s)-1] == '-':
		return errors.New("the domain has a label that begins or ends with a hyphen")
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && !IsAlphanumeric(c) {
			return fmt.Errorf("the domain contains %q", rune(c))
		}
	}
	return nil
}

// IsASCII says whether s has only ASCII characters.
func IsASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// IsDigits says whether s has only digits.
func IsDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
