package outbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
)

// Limits of a [Message] that do not depend on [Config].
const (
	maxKey           = 255
	maxRoute         = 63
	maxTags          = 20
	maxTag           = 128
	maxMetadata      = 50
	maxMetadataBytes = 8 << 10
)

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

// parseOptions reads everything that says how a message is handled.
func parseOptions(m *Message, now time.Time) (options, error) {
	o := options{key: m.Key, route: m.Route, priority: m.Priority, onUncertain: m.OnUncertain}
	if err := letter.CheckLine(m.Key, maxKey); err != nil {
		return o, invalid("Key", "%w", err)
	}
	if o.route == "" {
		o.route = DefaultRoute
	}
	if err := checkRoute(o.route); err != nil {
		return o, invalid("Route", "%s %w", letter.Quote(o.route), err)
	}
	switch o.priority {
	case "":
		o.priority = Normal
	case High, Normal, Bulk:
	default:
		return o, invalid("Priority", "%s is not one of %q", letter.Quote(string(o.priority)), queue.Priorities())
	}
	switch o.onUncertain {
	case "":
		o.onUncertain = Resend
	case Resend, Hold:
	default:
		return o, invalid("OnUncertain", "%s is not one of %q", letter.Quote(string(o.onUncertain)), []UncertainPolicy{Resend, Hold})
	}
	if err := o.parseTimes(m, now); err != nil {
		return o, err
	}
	if err := o.parseTags(m.Tags); err != nil {
		return o, invalid("Tags", "%w", err)
	}
	if err := o.parseMetadata(m.Metadata); err != nil {
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
		if c := s[i]; !letter.IsAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return errors.New("may contain only letters, digits, '.', '_' and '-'")
		}
	}
	return nil
}

// timeLayout is the form in which times are stored: it sorts as text and PostgreSQL reads it as a time.
const timeLayout = "2006-01-02T15:04:05.000Z"

// parseTimes reads NotBefore and Expires. It rounds NotBefore up to a millisecond and Expires down: nothing is sent too early
// or too late.
func (o *options) parseTimes(m *Message, now time.Time) error {
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

// checkYear checks that both databases store the time in the same form.
func checkYear(t time.Time) error {
	if y := t.Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("the year %d is not between 1970 and 9999", y)
	}
	return nil
}

func (o *options) parseTags(tags []string) error {
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
		if err := letter.CheckLine(tag, maxTag); err != nil {
			return fmt.Errorf("%s %w", letter.Quote(tag), err)
		}
	}
	var err error
	o.tags, err = toJSON(tags)
	return err
}

func (o *options) parseMetadata(metadata map[string]string) error {
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
		if k == keyring.MetadataMark {
			return fmt.Errorf("the key %s is for what is encrypted", letter.Quote(k))
		}
		if err := letter.CheckLine(k, maxMetadataBytes); err != nil {
			return fmt.Errorf("key %s %w", letter.Quote(k), err)
		}
		if err := letter.CheckLine(v, maxMetadataBytes); err != nil {
			return fmt.Errorf("the value of %s %w", letter.Quote(k), err)
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

// toJSON returns the JSON text of a value.
func toJSON(v any) (*string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	s := string(b)
	return &s, nil
}

// isTraceParent checks for the form of W3C Trace Context §3.2: 00-<32 hex>-<16 hex>-<2 hex>, the ids not all zero.
func isTraceParent(s string) bool {
	const zeros = "00000000000000000000000000000000"
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' || s[:2] == "ff" {
		return false
	}
	for i := range len(s) {
		if i == 2 || i == 35 || i == 52 {
			continue
		}
		if strings.IndexByte("0123456789abcdef", s[i]) < 0 {
			return false
		}
	}
	return s[3:35] != zeros && s[36:52] != zeros[:16]
}
