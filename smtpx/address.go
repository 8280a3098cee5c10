package smtpx

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// maxPath is the longest address in octets. With "MAIL FROM:<>" and CRLF it fills a command line of 512 octets, which every
// server reads (RFC 5321 §4.5.3.1.4). Extensions lengthen the line by the length of their parameters (§4.1.1.11). The 64 and 256
// octets of §4.5.3.1 are the least that a server must accept. They are not an upper limit.
const maxPath = 512 - len("MAIL FROM:<>\r\n")

// address is a mailbox that was checked and may be written between angle brackets.
type address struct {
	text string // local@domain, the domain in lower case and ASCII; "" is the null reverse-path
	utf8 bool   // the local part needs SMTPUTF8 (RFC 6531)
}

// domain returns the part behind the @, in lower case and ASCII.
func (a address) domain() string { return a.text[strings.LastIndexByte(a.text, '@')+1:] }

// parseAddress parses a mailbox (RFC 5321 §4.1.2). It keeps the local part and returns the domain in lower case and ASCII. It
// refuses whatever could end the path or the line.
func parseAddress(s string) (address, error) {
	if s == "" {
		return address{}, errors.New("address is empty")
	}
	if !utf8.ValidString(s) {
		return address{}, errors.New("address is not valid UTF-8")
	}
	for _, r := range s {
		if unprintable(r) || r == '<' || r == '>' {
			return address{}, fmt.Errorf("address has the character %q", r)
		}
	}
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return address{}, errors.New("address has no @")
	}
	local, domain := s[:at], s[at+1:]
	if err := checkLocal(local); err != nil {
		return address{}, err
	}
	domain, err := asciiDomain(domain)
	if err != nil {
		return address{}, err
	}
	a := address{text: local + "@" + domain, utf8: !ascii(local)}
	if len(a.text) > maxPath {
		return address{}, fmt.Errorf("address has %d octets, more than %d", len(a.text), maxPath)
	}
	return a, nil
}

// checkLocal accepts a dot-string or a quoted string (RFC 5321 §4.1.2, with the UTF-8 of RFC 6531 §3.3).
func checkLocal(local string) error {
	if local == "" {
		return errors.New("address has no local part")
	}
	if local[0] == '"' {
		return checkQuoted(local)
	}
	if local[0] == '.' || local[len(local)-1] == '.' || strings.Contains(local, "..") {
		return errors.New("local part has a dot at its edge or two in a row and is not quoted")
	}
	for _, r := range local {
		if r < 0x80 && !letterDigit(r) && !strings.ContainsRune("!#$%&'*+-/=?^_`{|}~.", r) {
			return fmt.Errorf("local part has the character %q and is not quoted", r)
		}
		if r >= 0x80 && !printableUnicode(r) {
			return fmt.Errorf("local part has the character %q", r)
		}
	}
	return nil
}

func checkQuoted(local string) error {
	if len(local) < 3 || local[len(local)-1] != '"' {
		return errors.New("local part begins with a quote that is not closed, or is empty")
	}
	inner := local[1 : len(local)-1]
	for i := 0; i < len(inner); i++ {
		switch inner[i] {
		case '"':
			return errors.New("local part has a quote that is not escaped")
		case '\\':
			if i++; i == len(inner) || inner[i] >= 0x80 {
				return errors.New("local part ends in an open escape, or escapes a character that is not ASCII")
			}
		}
	}
	return nil
}

// asciiDomain returns the form of a domain that is sent.
func asciiDomain(domain string) (string, error) {
	if strings.HasPrefix(domain, "[") {
		if !validLiteral(domain) {
			return "", errors.New("domain is no valid address literal")
		}
		return domain, nil
	}
	if domain == "" {
		return "", errors.New("address has no domain")
	}
	if !ascii(domain) {
		a, err := idna.Lookup.ToASCII(domain)
		if err != nil {
			return "", fmt.Errorf("domain %q has no ASCII form: %w", domain, err)
		}
		domain = a
	}
	domain = strings.ToLower(domain)
	if len(domain) > 253 {
		return "", errors.New("domain is longer than 253 characters")
	}
	for label := range strings.SplitSeq(domain, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", fmt.Errorf("domain %q has an invalid label", domain)
		}
		for _, r := range label {
			if !letterDigit(r) && r != '-' && r != '_' { // some real mail domains have underscores
				return "", fmt.Errorf("domain has the character %q", r)
			}
		}
	}
	return domain, nil
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func printableUnicode(r rune) bool {
	return r != ' ' && r != '\u00a0' && r != '\u3000' && r != '\u200b' && r != '\ufeff'
}
