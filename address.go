package outbox

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Limits of a mailbox (RFC 5321 §4.5.3.1). The path of §4.5.3.1.3 is 256 bytes with its angle brackets.
const (
	maxLocalPart   = 64
	maxAddress     = 254
	maxDomainLabel = 63
	maxDisplayName = 255
)

// mailbox is an address that was checked.
type mailbox struct {
	name   string
	addr   string // local@domain, the domain in lower case and in its ASCII form
	domain string
}

// checkAddress checks a display name and an address.
func checkAddress(a Address) (mailbox, error) {
	m, err := checkMailbox(a.Address)
	if err != nil {
		return mailbox{}, err
	}
	if err := checkLine(a.Name, maxDisplayName); err != nil {
		return mailbox{}, fmt.Errorf("display name %w", err)
	}
	m.name = a.Name
	return m, nil
}

// CanonicalAddress checks an address without a display name as [Enqueue] checks recipients, and returns it in the form in which
// deliveries have it: the local part as it is, the domain in lower case and in its ASCII form.
func CanonicalAddress(s string) (string, error) {
	m, err := checkMailbox(s)
	return m.addr, err
}

// checkMailbox checks an address without a display name. The local part is kept as it is, for only its own host may
// interpret it (RFC 5321 §2.3.11); the domain is put in lower case and, where it is international, in its ASCII form.
//
// Quoted local parts and address literals are refused: nobody has such a mailbox, and their quoting is what SMTP
// parameters have been smuggled through. Local parts outside ASCII are kept as they are; every server on the way must
// offer SMTPUTF8 (RFC 6531) for them.
func checkMailbox(s string) (mailbox, error) {
	if s == "" {
		return mailbox{}, errors.New("is empty")
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return mailbox{}, fmt.Errorf("%s has no @", quote(s))
	}
	local := s[:at]
	if err := checkLocalPart(local); err != nil {
		return mailbox{}, fmt.Errorf("%s: %w", quote(s), err)
	}
	domain, err := checkDomain(s[at+1:])
	if err != nil {
		return mailbox{}, fmt.Errorf("%s: %w", quote(s), err)
	}
	addr := s
	if domain != s[at+1:] {
		addr = local + "@" + domain
	}
	if len(addr) > maxAddress {
		return mailbox{}, fmt.Errorf("%s is longer than %d bytes", quote(s), maxAddress)
	}
	return mailbox{addr: addr, domain: domain}, nil
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
	return isAlphanumeric(c) || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// domains maps and checks international domain names as a resolver would (RFC 5891 §5).
var domains = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(true))

// checkDomain returns the domain in lower case and in its ASCII form.
func checkDomain(s string) (string, error) {
	if !utf8.ValidString(s) { // idna would let it pass
		return "", errors.New("the domain is not valid UTF-8")
	}
	ascii := strings.ToLower(s)
	if !isASCII(s) || strings.HasPrefix(ascii, "xn--") || strings.Contains(ascii, ".xn--") {
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
		if !more && isDigits(label) {
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
		if c := s[i]; c != '-' && !isAlphanumeric(c) {
			return fmt.Errorf("the domain contains %q", rune(c))
		}
	}
	return nil
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
