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

// Limits of a Mailbox (RFC 5321 §4.5.3.1). The path of §4.5.3.1.3 is 256 bytes with its angle brackets.
const (
	maxLocalPart   = 64
	maxAddress     = 254
	maxDomainLabel = 63
	maxDisplayName = 255
)

// Mailbox is an address that was checked, with its display name.
type Mailbox struct {
	Name   string
	Addr   string // local@domain, the domain in lower case and in its ASCII form
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

// ParseMailbox checks an address without a display name. The local part is kept as it is, for only its own host may
// interpret it (RFC 5321 §2.3.11); the domain is put in lower case and, where it is international, in its ASCII form.
//
// Quoted local parts and address literals are refused: nobody has such a Mailbox, and their quoting is what SMTP
// parameters have been smuggled through. Local parts outside ASCII are kept as they are; every server on the way must
// offer SMTPUTF8 (RFC 6531) for them.
func ParseMailbox(s string) (Mailbox, error) {
	if s == "" {
		return Mailbox{}, errors.New("is empty")
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return Mailbox{}, fmt.Errorf("%s has no @", Quote(s))
	}
	local := s[:at]
	if err := checkLocalPart(local); err != nil {
		return Mailbox{}, fmt.Errorf("%s: %w", Quote(s), err)
	}
	domain, err := ParseDomain(s[at+1:])
	if err != nil {
		return Mailbox{}, fmt.Errorf("%s: %w", Quote(s), err)
	}
	addr := s
	if domain != s[at+1:] {
		addr = local + "@" + domain
	}
	if len(addr) > maxAddress {
		return Mailbox{}, fmt.Errorf("%s is longer than %d bytes", Quote(s), maxAddress)
	}
	return Mailbox{Addr: addr, Domain: domain}, nil
}

// checkLocalPart checks for a dot-atom (RFC 5322 §3.2.3), in which what is not ASCII stands for itself (RFC 6532 §3.2) as
// long as it can be seen: no blanks, control or format characters.
func checkLocalPart(s string) error {
	switch {
	case s == "":
		return errors.New("nothing stands before the @")
	case len(s) > maxLocalPart:
		return fmt.Errorf("the part before the @ is longer than %d bytes", maxLocalPart)
	case s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, ".."):
		return errors.New("the part before the @ has a misplaced dot")
	case !utf8.ValidString(s):
		return errors.New("the part before the @ is not valid UTF-8")
	}
	for _, r := range s {
		if ascii := r < utf8.RuneSelf; ascii && r != '.' && !isAtext(byte(r)) || !ascii && !unicode.IsPrint(r) {
			return fmt.Errorf("the part before the @ contains %q", r)
		}
	}
	return nil
}

// isAtext says whether c may stand in an atom (RFC 5322 §3.2.3).
func isAtext(c byte) bool {
	return IsAlphanumeric(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func IsAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// domains maps and checks international domain names as a resolver would (RFC 5891 §5).
var domains = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(true))

// ParseDomain returns the domain in lower case and in its ASCII form.
func ParseDomain(s string) (string, error) {
	if !utf8.ValidString(s) { // idna would let it pass
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
	// What idna mapped is checked like everything else: its tables are not what keeps a space out of an address.
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

func IsASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func IsDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
