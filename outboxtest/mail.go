package outboxtest

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/emersion/go-message"
	_ "github.com/emersion/go-message/charset" // messages that the application forwards may be in any character set
	"golang.org/x/net/html"

	"github.com/outboxmail/outbox"
)

// Mail is one message in its parts.
type Mail struct {
	// Sender is the return path in the envelope, empty for the null return path. Recipients are the addresses in the envelope, those of
	// Bcc included.
	Sender     string
	Recipients []string

	// From, ReplyTo, To and Cc are the addresses that the header shows.
	From            outbox.Address
	ReplyTo, To, Cc []outbox.Address
	// Subject is decoded.
	Subject string
	// Text, HTML and Calendar are the forms of the body, decoded, with LF line breaks. A form that the message lacks is empty.
	Text, HTML, Calendar string
	// Attachments are the other parts in their order, inline images included.
	Attachments []Attachment
	// Links are the http, https and mailto addresses in HTML and then in Text, each once. Addresses of images and styles
	// are not links.
	Links []string
	// Header is the header as it was sent. Header.Get decodes nothing.
	Header mail.Header
	// Raw is the whole message.
	Raw []byte

	// The fields below are set for an enqueued message. They are zero for one that arrived.

	ID                 outbox.ID
	Key, Route         string
	Priority           outbox.Priority
	OnUncertain        outbox.UncertainPolicy
	NotBefore, Expires time.Time
	Tags               []string
	Metadata           map[string]string
	// Deliveries say how far the message is, one for each recipient in the order of Recipients. A delivery that retention
	// purged is missing.
	Deliveries []Delivery
}

// Attachment is a file of a [Mail].
type Attachment struct {
	// Name is the file name, decoded.
	Name string
	// ContentType is the media type without parameters.
	ContentType string
	// ContentID is the name by which HTML refers to the part ("cid:"), without brackets. It is empty for a part that is not inline.
	ContentID string
	// Data is the decoded content.
	Data []byte
}

// String names the message in one line.
func (m *Mail) String() string {
	return fmt.Sprintf("%q from %s to %s", m.Subject, m.From.Address, strings.Join(m.Recipients, ", "))
}

// parse reads a message into its parts.
func parse(raw []byte, sender string, recipients []string) (*Mail, error) {
	m := &Mail{Sender: sender, Recipients: slices.Clone(recipients), Raw: raw}
	head, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	m.Header = head.Header
	words := mime.WordDecoder{CharsetReader: message.CharsetReader}
	if m.Subject, err = words.DecodeHeader(head.Header.Get("Subject")); err != nil {
		return nil, fmt.Errorf("subject: %w", err)
	}
	parser := mail.AddressParser{WordDecoder: &words}
	var from []outbox.Address
	for name, to := range map[string]*[]outbox.Address{"From": &from, "Reply-To": &m.ReplyTo, "To": &m.To, "Cc": &m.Cc} {
		value := head.Header.Get(name)
		if strings.TrimSpace(value) == "" || strings.HasPrefix(value, "undisclosed-recipients:") {
			continue
		}
		list, err := parser.ParseList(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, a := range list {
			*to = append(*to, *a)
		}
	}
	if len(from) > 0 {
		m.From = from[0]
	}
	entity, err := message.Read(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	err = entity.Walk(func(_ []int, e *message.Entity, err error) error {
		if err != nil {
			return err
		}
		return m.add(e)
	})
	if err != nil {
		return nil, err
	}
	m.Links = append(linksInHTML(m.HTML), linksInText(m.Text)...)
	seen := make(map[string]bool)
	m.Links = slices.DeleteFunc(m.Links, func(link string) bool {
		again := seen[link]
		seen[link] = true
		return again
	})
	return m, nil
}

// add adds one part.
func (m *Mail) add(e *message.Entity) error {
	if e.MultipartReader() != nil {
		return nil
	}
	kind, params, err := e.Header.ContentType()
	if err != nil {
		return err
	}
	data, err := io.ReadAll(e.Body)
	if err != nil {
		return err
	}
	disposition, dispositionParams, _ := e.Header.ContentDisposition()
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	switch body := disposition == ""; {
	case body && kind == "text/plain" && m.Text == "":
		m.Text = text
	case body && kind == "text/html" && m.HTML == "":
		m.HTML = text
	case body && kind == "text/calendar" && m.Calendar == "":
		m.Calendar = text
	default:
		name := dispositionParams["filename"]
		if name == "" {
			name = params["name"]
		}
		m.Attachments = append(m.Attachments, Attachment{
			Name: name, ContentType: kind, ContentID: strings.Trim(e.Header.Get("Content-Id"), "<> "), Data: data,
		})
	}
	return nil
}

// linksInHTML lists the addresses that the elements a and area link to.
func linksInHTML(s string) (links []string) {
	for z := html.NewTokenizer(strings.NewReader(s)); ; {
		switch z.Next() {
		case html.ErrorToken:
			return links
		case html.StartTagToken:
			if t := z.Token(); t.Data == "a" || t.Data == "area" {
				for _, a := range t.Attr {
					if a.Key == "href" && linkPattern.MatchString(strings.TrimSpace(a.Val)) {
						links = append(links, strings.TrimSpace(a.Val))
					}
				}
			}
		default:
		}
	}
}

var (
	linkPattern = regexp.MustCompile(`(?i)^(https?://|mailto:)`)
	textPattern = regexp.MustCompile(`(?i)\b(https?://|mailto:)[^\s<>"]+`)
)

// linksInText lists the addresses in plain text, without the punctuation that ends a sentence.
func linksInText(s string) (links []string) {
	for _, link := range textPattern.FindAllString(s, -1) {
		link = strings.TrimRight(link, ".,;:!?'")
		if strings.HasSuffix(link, ")") && !strings.Contains(link, "(") {
			link = strings.TrimRight(link, ")")
		}
		links = append(links, link)
	}
	return links
}
