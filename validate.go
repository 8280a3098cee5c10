package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/outboxmail/outbox/queue"
)

// Limits of a [Message] that do not depend on [Config].
const (
	maxSubject       = 998 // as long as an unfolded line may be
	maxKey           = 255
	maxRoute         = 63
	maxTags          = 20
	maxTag           = 128
	maxMetadata      = 50
	maxMetadataBytes = 8 << 10
)

// checkLine checks text that stands on one line: UTF-8 without control characters, so neither a line break nor a NUL.
func checkLine(s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("is longer than %d bytes", limit)
	}
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return fmt.Errorf("contains the control character %q", rune(c))
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			return errors.New("is not valid UTF-8")
		case unicode.IsControl(r):
			return fmt.Errorf("contains the control character %q", r)
		}
		i += n
	}
	return nil
}

// checkText checks text that may have lines.
func checkText(s string) error {
	for i := range len(s) {
		if s[i] == 0 {
			return errors.New("contains a NUL byte")
		}
	}
	if !utf8.ValidString(s) {
		return errors.New("is not valid UTF-8")
	}
	return nil
}

// quote quotes a value for an error, shortened where it would drown what the error says.
func quote(s string) string {
	const most = 80
	if len(s) <= most {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:most]) + "…"
}

// options are the fields of a message that say how it is handled, in the form in which they are stored.
type options struct {
	key         string
	route       string
	priority    Priority
	notBefore   *string
	expires     *string
	onUncertain UncertainPolicy
	tags        *string
	metadata    *string
}

// checkOptions checks everything that says how a message is handled.
func checkOptions(m *Message, now time.Time) (options, error) {
	o := options{key: m.Key, route: m.Route, priority: m.Priority, onUncertain: m.OnUncertain}
	if err := checkLine(m.Key, maxKey); err != nil {
		return o, invalid("Key", "%w", err)
	}
	if o.route == "" {
		o.route = DefaultRoute
	}
	if err := checkRoute(o.route); err != nil {
		return o, invalid("Route", "%s %w", quote(o.route), err)
	}
	switch o.priority {
	case "":
		o.priority = Normal
	case High, Normal, Bulk:
	default:
		return o, invalid("Priority", "%s is not one of %q", quote(string(o.priority)), queue.Priorities())
	}
	switch o.onUncertain {
	case "":
		o.onUncertain = Resend
	case Resend, Hold:
	default:
		return o, invalid("OnUncertain", "%s is not one of %q", quote(string(o.onUncertain)), []UncertainPolicy{Resend, Hold})
	}
	if err := o.checkTimes(m, now); err != nil {
		return o, err
	}
	if err := o.checkTags(m.Tags); err != nil {
		return o, invalid("Tags", "%w", err)
	}
	if err := o.checkMetadata(m.Metadata); err != nil {
		return o, invalid("Metadata", "%w", err)
	}
	return o, nil
}

// checkRoute checks the name of a route: letters, digits, '.', '_' and '-'.
func checkRoute(s string) error {
	if len(s) > maxRoute {
		return fmt.Errorf("is longer than %d bytes", maxRoute)
	}
	for i := range len(s) {
		if c := s[i]; !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return errors.New("may contain only letters, digits, '.', '_' and '-'")
		}
	}
	return nil
}

// timeLayout is the form in which times are stored: it sorts as text and PostgreSQL reads it as a time.
const timeLayout = "2006-01-02T15:04:05.000Z"

// checkTimes checks and formats NotBefore, rounded up to a millisecond so that nothing is sent too early, and Expires,
// rounded down so that nothing is sent too late.
func (o *options) checkTimes(m *Message, now time.Time) error {
	if !m.NotBefore.IsZero() {
		t := m.NotBefore.UTC()
		if up := t.Truncate(time.Millisecond); up.Before(t) {
			t = up.Add(time.Millisecond)
		}
		if err := checkYear(t); err != nil {
			return invalid("NotBefore", "%w", err)
		}
		s := t.Format(timeLayout)
		o.notBefore = &s
	}
	if m.Expires.IsZero() {
		return nil
	}
	t := m.Expires.UTC().Truncate(time.Millisecond)
	if err := checkYear(t); err != nil {
		return invalid("Expires", "%w", err)
	}
	if !t.After(now) {
		return invalid("Expires", "%s has already passed", t.Format(timeLayout))
	}
	if !t.After(m.NotBefore) {
		return invalid("Expires", "%s is not after NotBefore", t.Format(timeLayout))
	}
	s := t.Format(timeLayout)
	o.expires = &s
	return nil
}

// checkYear keeps a time inside what both databases can store in the same form.
func checkYear(t time.Time) error {
	if y := t.Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("the year %d is not between 1970 and 9999", y)
	}
	return nil
}

func (o *options) checkTags(tags []string) error {
	if len(tags) == 0 {
		return nil
	}
	if len(tags) > maxTags {
		return fmt.Errorf("there are %d, more than %d", len(tags), maxTags)
	}
	for _, tag := range tags {
		if tag == "" {
			return errors.New("one is empty")
		}
		if err := checkLine(tag, maxTag); err != nil {
			return fmt.Errorf("%s %w", quote(tag), err)
		}
	}
	var err error
	o.tags, err = toJSON(tags)
	return err
}

func (o *options) checkMetadata(metadata map[string]string) error {
	if len(metadata) == 0 {
		return nil
	}
	if len(metadata) > maxMetadata {
		return fmt.Errorf("there are %d entries, more than %d", len(metadata), maxMetadata)
	}
	size := 0
	for k, v := range metadata {
		if k == "" {
			return errors.New("a key is empty")
		}
		if k == sealMark {
			return fmt.Errorf("the key %s is for what is encrypted", quote(k))
		}
		if err := checkLine(k, maxMetadataBytes); err != nil {
			return fmt.Errorf("key %s %w", quote(k), err)
		}
		if err := checkLine(v, maxMetadataBytes); err != nil {
			return fmt.Errorf("the value of %s %w", quote(k), err)
		}
		size += len(k) + len(v)
	}
	if size > maxMetadataBytes {
		return fmt.Errorf("keys and values have %d bytes, more than %d", size, maxMetadataBytes)
	}
	var err error
	o.metadata, err = toJSON(metadata)
	return err
}

// fromJSON reads a JSON text.
func fromJSON[T any](text []byte) (v T, err error) {
	err = json.Unmarshal(text, &v)
	return v, err
}

// toJSON returns the JSON text of a value.
func toJSON(v any) (*string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	s := string(b)
	return &s, nil
}

// envelope is who sends and who receives, apart from what the header shows.
type envelope struct {
	sender     string // empty for the null return path
	recipients []string
}

// checkSender checks the return path of a message whose author is from.
func checkSender(s, from string) (string, error) {
	switch s {
	case "":
		return from, nil
	case "<>":
		return "", nil
	}
	m, err := checkMailbox(s)
	if err != nil {
		return "", invalid("EnvelopeFrom", "%w", err)
	}
	return m.addr, nil
}

// checkAddresses checks a list of addresses.
func checkAddresses(field string, list []Address) ([]mailbox, error) {
	if len(list) == 0 {
		return nil, nil
	}
	checked := make([]mailbox, len(list))
	for i, a := range list {
		m, err := checkAddress(a)
		if err != nil {
			return nil, invalid(field, "address %d: %w", i+1, err)
		}
		checked[i] = m
	}
	return checked, nil
}

// recipients lists the mailboxes of the envelope, each once, in the order of the lists.
func (o *Outbox) recipients(lists ...[]mailbox) ([]string, error) {
	n := 0
	for _, list := range lists {
		n += len(list)
	}
	all := make([]string, 0, n)
	var seen map[string]struct{}
	if n > 1 {
		seen = make(map[string]struct{}, n)
	}
	for _, list := range lists {
		for i := range list {
			addr := list[i].addr
			if _, again := seen[addr]; again {
				continue
			}
			if seen != nil {
				seen[addr] = struct{}{}
			}
			all = append(all, addr)
		}
	}
	switch {
	case len(all) == 0:
		return nil, invalid("To", "the message has no recipient")
	case len(all) > o.maxRecipients:
		return nil, invalid("To", "the message has %d recipients, more than %d", len(all), o.maxRecipients)
	}
	return all, nil
}
