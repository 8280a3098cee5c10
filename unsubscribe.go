package outbox

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/outboxmail/outbox/internal/letter"
)

// Unsubscribe says how a reader leaves a list (RFC 2369 §3.2). Large mailbox providers demand it in bulk mail and show it as a
// button. Give URL, Mailto or both.
type Unsubscribe struct {
	// URL is an https address that unsubscribes this recipient. It should hold a token that cannot be guessed.
	URL string
	// Mailto is a mailto address, such as "mailto:leave@example.com?subject=token".
	Mailto string
	// OneClick says that a POST to URL unsubscribes at once, without a cookie, a password or a question (RFC 8058). A GET must
	// not unsubscribe: virus scanners follow links. Providers act on OneClick only where a DKIM signature covers the
	// List-Unsubscribe fields, so the relay must sign them.
	OneClick bool
}

// maxUnsubscribe is the longest address that fits on a line with its brackets and a comma.
const maxUnsubscribe = letter.MaxLine - len("List-Unsubscribe: <>,")

// parse returns the value of the List-Unsubscribe field.
func (u Unsubscribe) parse() (string, error) {
	if u.URL == "" && u.Mailto == "" {
		return "", errors.New("give URL or Mailto")
	}
	if u.URL == "" && u.OneClick {
		return "", errors.New("OneClick needs a URL")
	}
	var places []string
	if u.URL != "" {
		if err := checkUnsubscribeURL(u.URL); err != nil {
			return "", fmt.Errorf("the URL %s %w", letter.Quote(u.URL), err)
		}
		places = append(places, "<"+u.URL+">")
	}
	if u.Mailto != "" {
		if err := checkMailto(u.Mailto); err != nil {
			return "", fmt.Errorf("the mailto address %s %w", letter.Quote(u.Mailto), err)
		}
		places = append(places, "<"+u.Mailto+">")
	}
	return strings.Join(places, ", "), nil
}

// checkURLText checks the characters of a URL in angle brackets (RFC 2369 §2). For many readers a comma would end it.
func checkURLText(s string) error {
	if len(s) > maxUnsubscribe {
		return fmt.Errorf("is longer than %d bytes", maxUnsubscribe)
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("<>,\"\\", c) >= 0 {
			r, _ := utf8.DecodeRuneInString(s[i:])
			return fmt.Errorf("contains %q, which must be percent-encoded", r)
		}
	}
	return nil
}

func checkUnsubscribeURL(s string) error {
	if err := checkURLText(s); err != nil {
		return err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("does not parse")
	case u.Scheme != "https":
		return errors.New("does not begin with the scheme https")
	case u.Hostname() == "":
		return errors.New("names no host")
	case u.User != nil:
		return errors.New("contains a user or a password")
	}
	return nil
}

// checkMailto checks for an address with header fields for the message that the reader's program writes (RFC 6068).
func checkMailto(s string) error {
	if err := checkURLText(s); err != nil {
		return err
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("does not parse")
	case u.Scheme != "mailto":
		return errors.New("does not begin with the scheme mailto")
	}
	addr, err := url.PathUnescape(u.Opaque)
	if err != nil {
		return errors.New("does not parse")
	}
	if _, err := letter.ParseMailbox(addr); err != nil {
		return fmt.Errorf("is not an address: %w", err)
	}
	return nil
}
