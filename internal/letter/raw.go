package letter

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/textproto"

	"github.com/outboxmail/outbox/internal/textfile"
)

// Raw is a complete message of a caller after its checks.
type Raw struct {
	MessageID string // empty for none
	Subject   string // for people to read

	header textproto.Header
	body   []byte // with the blank line that separates it from the header
	dated  bool

	from, sender []address
	recipients   [3][]address // of To, Cc and Bcc
}

// ParseRaw checks a complete message (RFC 5322): its lines end in CRLF and have at most 998 bytes, its header is ASCII and
// parses, there is one From, and no field that may be there once is there twice. Addresses need only be readable: see
// [Raw.Author] and [Raw.Recipients] for those of the envelope.
//
// A message whose lines all end in LF, as in files on Unix, is converted. A mixture is refused: nobody knows which of them a
// signature covers and how the next server reads it. A byte order mark of UTF-8 at the beginning is left out.
//
// The separator line of an mbox file is refused, not left out: in such a file the body may have another ">" before each line
// that begins with "From", and nobody can tell which of them the author wrote.
func ParseRaw(data []byte, limits Limits) (*Raw, error) {
	data, err := textfile.Trim(data)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte("From ")) || bytes.HasPrefix(data, []byte(">From ")) {
		return nil, errors.New(`begins with "From ", the separator line of an mbox file: leave it out, and restore lines with ">From "`)
	}
	data, err = checkLines(data)
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
	// The parser stops at the end of its input, so it needs no blank line.
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
			switch {
			case c >= 0x80:
				return fmt.Errorf("line %d of the header contains the byte %#02x, and a header is ASCII: write words of other scripts "+
					"as encoded words (RFC 2047), or give the message by its fields instead of Raw", n, c)
			case c == 0x7f, c < ' ' && c != '\t':
				return fmt.Errorf("line %d of the header contains the control character %#02x", n, c)
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
		if err := limits.checkControl(key); err != nil {
			return err
		}
	}
	if err := m.parseAddresses(); err != nil {
		return err
	}
	if m.dated = m.header.Has("Date"); m.dated {
		if _, err := parseDate(m.header.Get("Date")); err != nil {
			return fmt.Errorf("the date %s does not parse", Quote(m.header.Get("Date")))
		}
	}
	if m.header.Has("Message-Id") {
		var err error
		if m.MessageID, err = ParseMessageID(m.header.Get("Message-Id")); err != nil {
			return fmt.Errorf("the Message-ID field: %w", err)
		}
	}
	m.Subject = decodeSubject(m.header.Get("Subject"))
	return nil
}

// parseAddresses reads the address fields.
func (m *Raw) parseAddresses() error {
	var replyTo []address
	for _, field := range [...]struct {
		name string
		list *[]address
	}{
		{"From", &m.from}, {"Sender", &m.sender}, {"Reply-To", &replyTo},
		{"To", &m.recipients[0]}, {"Cc", &m.recipients[1]}, {"Bcc", &m.recipients[2]},
	} {
		value := m.header.Get(field.name)
		if strings.TrimSpace(value) == "" {
			continue
		}
		var err error
		if *field.list, _, err = parseAddresses(value, asFound); err != nil {
			return fmt.Errorf("the %s field does not parse: %w", field.name, err)
		}
	}
	switch {
	case !m.header.Has("From"):
		return errors.New("the From field is missing")
	case len(m.from) == 0:
		return errors.New("the From field has no address")
	case len(m.sender) > 1:
		return errors.New("the Sender field has more than one address")
	case len(m.from) > 1 && len(m.sender) == 0:
		return errors.New("the From field has several addresses and there is no Sender field (RFC 5322 §3.6.2)")
	}
	return nil
}

// Author returns the mailbox of From, or of Sender where From has several. The error says that no letter can come back to it.
func (m *Raw) Author() (Mailbox, error) {
	name, a := "From", m.from[0]
	if len(m.from) > 1 {
		name, a = "Sender", m.sender[0]
	}
	box, err := a.mailbox()
	if err != nil {
		return Mailbox{}, fmt.Errorf("the %s field cannot be the return path: %w: give another author in From of the Message", name, err)
	}
	return box, nil
}

// Recipients returns the mailboxes of To, Cc and Bcc. The error says that no letter can go to one of them.
func (m *Raw) Recipients() ([3][]Mailbox, error) {
	var lists [3][]Mailbox
	for i, name := range [...]string{"To", "Cc", "Bcc"} {
		var err error
		if lists[i], err = mailboxes(m.recipients[i]); err != nil {
			return lists, fmt.Errorf("the %s field cannot be the envelope: %w: give the recipients in To, Cc or Bcc of the Message", name, err)
		}
	}
	return lists, nil
}

// decodeSubject returns the subject for people to read. An encoded word in an unknown character set stays encoded.
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

// Render writes the message and keeps the order and the bytes of everything that a signature may cover. It writes Date and
// Message-ID before the rest where they are missing. It leaves out Bcc, and Return-Path, which only the last server on
// the way writes (RFC 5321 §4.4).
func (m *Raw) Render(stamp Stamp) ([]byte, error) {
	var head headerBlock
	if !m.dated {
		head.date(stamp.Date)
	}
	if m.MessageID == "" {
		head.raw("Message-ID", stamp.MessageID)
	}
	var out bytes.Buffer
	out.Grow(len(m.body) + 4096)
	out.Write(head.buf)
	for fields := m.header.Fields(); fields.Next(); {
		switch fields.Key() {
		case "Bcc", "Resent-Bcc", "Return-Path":
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
