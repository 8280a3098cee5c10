package letter

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/textproto"
)

// Raw is a message that a caller brought complete, after its checks.
type Raw struct {
	From       Mailbox
	Recipients [3][]Mailbox // of To, Cc and Bcc
	MessageID  string       // empty for none
	Subject    string       // for people to read

	header textproto.Header
	body   []byte // with the blank line that separates it from the header
	dated  bool
}

// ParseRaw checks a complete message (RFC 5322): lines end in CRLF and are no longer than 998 bytes, the header is ASCII
// and parses, there is one From, and no field is there twice that may be there once. A message whose lines all end in LF
// alone, as files on Unix do, is converted; a mixture is refused, for nobody knows which of them its signature covers
// and what the next server makes of it.
func ParseRaw(data []byte, limits Limits) (*Raw, error) {
	data, err := checkLines(data)
	if err != nil {
		return nil, err
	}
	head, body := data, []byte("\r\n")
	if i := bytes.Index(data, []byte("\r\n\r\n")); i >= 0 {
		head, body = data[:i+2], data[i+2:]
	}
	if len(head) > limits.HeaderSize {
		return nil, fmt.Errorf("the header has %d bytes, more than %d", len(head), limits.HeaderSize)
	}
	if err := checkHeaderBytes(head); err != nil {
		return nil, err
	}
	// The blank line is not given to the parser, which stops at the end of its input too.
	header, err := textproto.ReadHeader(bufio.NewReader(bytes.NewReader(head)))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("the header does not parse: %w", err)
	}
	m := &Raw{header: header, body: body}
	if err := m.parseFields(limits); err != nil {
		return nil, err
	}
	return m, nil
}

// checkLines checks the lines of a message and returns it with CRLF line breaks, one of them at the end.
func checkLines(data []byte) ([]byte, error) {
	if bytes.IndexByte(data, 0) >= 0 {
		return nil, errors.New("contains a NUL byte")
	}
	lf, crlf, cr := bytes.Count(data, []byte("\n")), bytes.Count(data, []byte("\r\n")), bytes.Count(data, []byte("\r"))
	switch {
	case lf == crlf && cr == crlf:
	case cr == 0:
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	case cr > crlf:
		return nil, errors.New("contains a CR that is not followed by LF")
	default:
		return nil, errors.New("contains lines that end in CRLF and lines that end in LF alone")
	}
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		data = append(slices.Clip(data), '\r', '\n')
	}
	for n, rest := 1, data; len(rest) > 0; n++ {
		i := bytes.IndexByte(rest, '\n')
		if i-1 > MaxLine {
			return nil, fmt.Errorf("line %d is longer than %d bytes", n, MaxLine)
		}
		rest = rest[i+1:]
	}
	return data, nil
}

// checkHeaderBytes checks that the header is printable ASCII in lines that parsers agree about.
func checkHeaderBytes(head []byte) error {
	if len(head) == 0 || head[0] == '\r' {
		return errors.New("has no header")
	}
	for n, rest := 1, head; len(rest) > 0; n++ {
		var line []byte
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		for _, c := range line {
			if c >= 0x7f || c < ' ' && c != '\t' {
				return fmt.Errorf("line %d of the header contains the byte %#02x", n, c)
			}
		}
		name, _, found := bytes.Cut(line, []byte(":"))
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			return fmt.Errorf("line %d of the header has only white space", n)
		case line[0] == ' ' || line[0] == '\t':
			if n == 1 {
				return errors.New("the header begins with a continuation line")
			}
		case !found:
			return fmt.Errorf("line %d of the header has no colon", n)
		default:
			// A name with space before its colon is a field to one parser and none to the next.
			if err := checkFieldName(string(name)); err != nil {
				return fmt.Errorf("line %d of the header: field name %s %w", n, Quote(string(name)), err)
			}
		}
	}
	return nil
}

// parseFields reads the fields that matter to delivery.
func (m *Raw) parseFields(limits Limits) error {
	counts := make(map[string]int)
	for fields := m.header.Fields(); fields.Next(); {
		key := fields.Key()
		counts[key]++
		if counts[key] > 1 && isSingle(key) {
			return fmt.Errorf("the %s field is there more than once", key)
		}
		if matches(controlFields, key) && !limits.Allowed[key] {
			return fmt.Errorf("%s steers the e-mail provider: allow it by name in Config.AllowHeaders", key)
		}
	}
	from, err := m.addresses("From")
	switch {
	case err != nil:
		return err
	case len(from) == 0:
		return errors.New("the From field is missing")
	}
	sender, err := m.addresses("Sender")
	switch {
	case err != nil:
		return err
	case len(sender) > 1:
		return errors.New("the Sender field has more than one address")
	case len(from) > 1 && len(sender) == 0:
		return errors.New("the From field has several addresses and there is no Sender field (RFC 5322 §3.6.2)")
	}
	m.From = from[0]
	if len(from) > 1 {
		m.From = sender[0]
	}
	for i, name := range []string{"To", "Cc", "Bcc"} {
		if m.Recipients[i], err = m.addresses(name); err != nil {
			return err
		}
	}
	if _, err := m.addresses("Reply-To"); err != nil {
		return err
	}
	if m.dated = m.header.Has("Date"); m.dated {
		if _, err := mail.ParseDate(m.header.Get("Date")); err != nil {
			return fmt.Errorf("the date %s does not parse", Quote(m.header.Get("Date")))
		}
	}
	if m.header.Has("Message-Id") {
		m.MessageID = strings.TrimSpace(m.header.Get("Message-Id"))
		if err := checkMessageID(m.MessageID); err != nil {
			return fmt.Errorf("the Message-ID %s %w", Quote(m.MessageID), err)
		}
	}
	m.Subject = decodeSubject(m.header.Get("Subject"))
	return nil
}

// addresses parses an address field.
func (m *Raw) addresses(name string) ([]Mailbox, error) {
	value := m.header.Get(name)
	if strings.TrimSpace(value) == "" {
		return nil, nil
	}
	list, err := addressParser.ParseList(value)
	if err != nil {
		return nil, fmt.Errorf("the %s field does not parse: %w", name, err)
	}
	boxes := make([]Mailbox, len(list))
	for i, a := range list {
		// The display name stays as it is in the message.
		if boxes[i], err = ParseMailbox(a.Address); err != nil {
			return nil, fmt.Errorf("the %s field: %w", name, err)
		}
	}
	return boxes, nil
}

// addressParser reads addresses whose display names may be in any character set: the names are not used.
var addressParser = mail.AddressParser{WordDecoder: &mime.WordDecoder{
	CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil },
}}

// parseOne parses the value of a field that has one address with an optional display name.
func parseOne(value string) (Mailbox, error) {
	a, err := mail.ParseAddress(value)
	if err != nil {
		return Mailbox{}, err
	}
	return ParseAddress(*a)
}

// maxMessageID is as long as a line may be.
const maxMessageID = MaxLine

// checkMessageID checks for one msg-id (RFC 5322 §3.6.4). What is between the brackets is not taken apart: many programs
// write identifiers that the grammar does not know, and replies refer to them all the same.
func checkMessageID(s string) error {
	switch {
	case len(s) < 3 || s[0] != '<' || s[len(s)-1] != '>':
		return errors.New("is not in angle brackets")
	case len(s) > maxMessageID:
		return fmt.Errorf("is longer than %d bytes", maxMessageID)
	case strings.ContainsAny(s[1:len(s)-1], "<> \t"):
		return errors.New("is not one identifier")
	}
	return nil
}

// decodeSubject returns the subject for people to read. What it cannot decode is left as it is.
func decodeSubject(value string) string {
	var decoder mime.WordDecoder
	if s, err := decoder.DecodeHeader(value); err == nil {
		value = s
	}
	value = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(value, "\uFFFD"))
	for len(value) > MaxSubject {
		_, n := utf8.DecodeLastRuneInString(value)
		value = value[:len(value)-n]
	}
	return value
}

// Render writes the message as it came, but for Bcc fields, which are left out, and Date and Message-ID, which are put
// before it where they are missing: the order and the bytes of everything that a signature may cover stay.
func (m *Raw) Render(messageID string, date time.Time) ([]byte, error) {
	var head headerBlock
	if !m.dated {
		head.date(date)
	}
	if m.MessageID == "" {
		head.raw("Message-ID", messageID)
	}
	var out bytes.Buffer
	out.Grow(len(m.body) + 4096)
	out.Write(head.buf)
	for fields := m.header.Fields(); fields.Next(); {
		if key := fields.Key(); key == "Bcc" || key == "Resent-Bcc" {
			continue
		}
		raw, err := fields.Raw()
		if err != nil {
			return nil, fmt.Errorf("render the header: %w", err)
		}
		out.Write(raw)
	}
	out.Write(m.body)
	return out.Bytes(), nil
}
