package dispatcher

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// Limits of the lines of a report in bytes. A relay chooses its words and a stored row its values, so they are cut to what fits.
const (
	maxWord    = 500 // without a blank
	maxDSNLine = 998 // RFC 5322 §2.1.1
)

// write writes the three parts of RFC 6522: for people, for programs, and the message or its header. All parts are 7bit or encoded.
func (n *Notice) write(
	c *queue.Claimed, list []queue.Settlement, failed []int, to []outbox.Address, subject string, body []byte,
) ([]byte, error) {
	subject = oneLine(subject)
	var h message.Header
	h.SetContentType("multipart/report", map[string]string{"report-type": "delivery-status"})
	h.SetText("Subject", "Undelivered: "+subject)
	h.Set("Auto-Submitted", "auto-replied")
	if isMessageID(c.MessageID) {
		h.Set("In-Reply-To", c.MessageID)
		h.Set("References", c.MessageID)
	}
	addresses := make([]string, 0, len(to))
	for i := range to {
		// A header that is not ASCII would need SMTPUTF8 on the whole way (RFC 6531).
		if a := to[i].String(); isASCII(a) {
			addresses = append(addresses, a)
		}
	}
	if len(addresses) == 0 {
		addresses = append(addresses, "undisclosed-recipients:;")
	}
	h.Set("From", n.From.String())
	h.Set("To", strings.Join(addresses, ", "))
	h.Set("MIME-Version", "1.0")

	parts := []part{{"text/plain", map[string]string{"charset": "utf-8"}, "quoted-printable", n.words(c, list, failed, subject)}}
	parts = append(parts, n.status(c, list, failed))
	if p, ok := n.returned(body); ok {
		parts = append(parts, p)
	}
	var out bytes.Buffer
	w, err := message.CreateWriter(&out, h)
	if err != nil {
		return nil, err
	}
	for i := range parts {
		if err := parts[i].write(w); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// part is a part of a report.
type part struct {
	kind     string
	params   map[string]string
	encoding string // of the content, empty for 7bit
	content  string
}

func (p *part) write(w *message.Writer) error {
	var h message.Header
	h.SetContentType(p.kind, p.params)
	if p.encoding != "" {
		h.Set("Content-Transfer-Encoding", p.encoding)
	}
	body, err := w.CreatePart(h)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(body, p.content); err != nil {
		return err
	}
	return body.Close()
}

// words tell a person what happened.
func (n *Notice) words(c *queue.Claimed, list []queue.Settlement, failed []int, subject string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "A message could not be delivered, and will not be tried again.\r\n\r\n")
	fmt.Fprintf(&b, "Subject:    %s\r\nMessage-ID: %s\r\nID:         %s\r\n", subject, oneLine(c.MessageID), c.ID)
	for _, i := range failed {
		ev := list[i].Evidence
		fmt.Fprintf(&b, "\r\nRecipient:  %s\r\n", oneLine(c.Deliveries[i].Recipient))
		fmt.Fprintf(&b, "Reason:     %s\r\n", oneLine(diagnosis(ev)))
		if ev.Relay != "" {
			fmt.Fprintf(&b, "Relay:      %s\r\n", oneLine(ev.Relay))
		}
		fmt.Fprintf(&b, "Attempts:   %d\r\n", c.Deliveries[i].Attempt)
	}
	return b.String()
}

// status tells a program (RFC 3464 §2). Where an address is not ASCII, its type is that of RFC 6533 §4.
func (n *Notice) status(c *queue.Claimed, list []queue.Settlement, failed []int) part {
	p := part{kind: "message/delivery-status"}
	for _, i := range failed {
		if !isASCII(c.Deliveries[i].Recipient) {
			p.kind, p.encoding = "message/global-delivery-status", "quoted-printable"
		}
	}
	international := p.encoding != ""
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	now := time.Now()
	var b strings.Builder
	fmt.Fprintf(&b, "Reporting-MTA: dns; %s\r\n", dsnWords(host, false))
	fmt.Fprintf(&b, "Arrival-Date: %s\r\n", now.Add(-c.Age).Format(time.RFC1123Z))
	fmt.Fprintf(&b, "X-Outbox-ID: %s\r\n", c.ID)
	for _, i := range failed {
		ev := list[i].Evidence
		fmt.Fprintf(&b, "\r\nFinal-Recipient: %s\r\nAction: failed\r\nStatus: %s\r\n", typed(c.Deliveries[i].Recipient), statusOf(ev))
		if ev.Code != 0 {
			fmt.Fprintf(&b, "Diagnostic-Code: smtp; %s\r\n", folded(diagnosis(ev), international))
		}
		fmt.Fprintf(&b, "Last-Attempt-Date: %s\r\n", now.Format(time.RFC1123Z))
	}
	p.content = b.String()
	return p
}

// returned is the message, or its header. What is not 7bit is encoded, in a type that allows it (RFC 6522 §4, RFC 6532 §3.7,
// RFC 6533 §6).
func (n *Notice) returned(body []byte) (part, bool) {
	if n.Full && len(body) > 0 && len(body) <= maxReturned {
		if isSevenBit(body) {
			return part{kind: "message/rfc822", content: string(body)}, true
		}
		return part{kind: "message/global", encoding: "base64", content: string(body)}, true
	}
	head, _, _ := bytes.Cut(body, []byte("\r\n\r\n"))
	head = bytes.TrimSuffix(head, []byte("\r\n"))
	if len(head) == 0 {
		return part{}, false
	}
	p := part{kind: "text/rfc822-headers", content: string(head) + "\r\n"}
	switch {
	case isSevenBit(head):
	case isASCII(p.content), !utf8.ValidString(p.content):
		p.encoding = "quoted-printable"
	default:
		p.kind, p.encoding = "message/global-headers", "quoted-printable"
	}
	return p, true
}

// diagnosis is the relay's answer with its codes.
func diagnosis(ev queue.Evidence) string {
	words := ev.Reply
	if ev.Enhanced != "" && !strings.HasPrefix(words, ev.Enhanced) {
		words = ev.Enhanced + " " + words
	}
	if ev.Code != 0 {
		words = fmt.Sprintf("%d %s", ev.Code, words)
	}
	return words
}

// failureCode matches the enhanced codes of failures (RFC 3463 §2).
var failureCode = regexp.MustCompile(`^5\.(?:0|[1-9][0-9]{0,2})\.(?:0|[1-9][0-9]{0,2})$`)

// statusOf is the enhanced code as one of a failure, whatever the relay's last words were (RFC 3463).
func statusOf(ev queue.Evidence) string {
	if failureCode.MatchString(ev.Enhanced) {
		return ev.Enhanced
	}
	if ev.Code >= 500 {
		return "5.0.0"
	}
	return "5.4.7" // delivery time expired
}

// dsnWords makes words fit for a field of a report. Outside an international one they are ASCII. They hold no encoded word, which a
// reader would decode (RFC 3464 §2.1.1).
func dsnWords(s string, international bool) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r > unicode.MaxASCII && !international:
			return '?'
		default:
			return r
		}
	}, oneLine(s))
	return strings.ReplaceAll(s, "=?", "= ?")
}

// folded makes words fit for the field Diagnostic-Code, in lines that are not too long.
func folded(words string, international bool) string {
	var b strings.Builder
	width := len("Diagnostic-Code: smtp; ")
	for i, w := range strings.Fields(dsnWords(words, international)) {
		w = cut(w, maxWord)
		if i > 0 {
			if width+1+len(w) > 76 {
				b.WriteString("\r\n")
				width = 0
			}
			b.WriteByte(' ')
			width++
		}
		b.WriteString(w)
		width += len(w)
	}
	return b.String()
}

// typed is an address as reports write it (RFC 3464 §2.3.2; RFC 6533 §3 outside ASCII).
func typed(address string) string {
	kind := "rfc822"
	if !isASCII(address) {
		kind = "utf-8"
	}
	return kind + "; " + cut(strings.Join(strings.Fields(dsnWords(address, true)), " "), maxWord)
}

// cut shortens text, between characters.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most]
}

// isMessageID says whether a Message-ID can stand in a header on one line.
func isMessageID(s string) bool {
	if len(s) < 3 || len(s) > maxWord || s[0] != '<' || s[len(s)-1] != '>' {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// isSevenBit says whether text is 7bit: ASCII in lines that end in CRLF and are not too long (RFC 2045 §2.7).
func isSevenBit(text []byte) bool {
	for line := range bytes.SplitSeq(text, []byte("\r\n")) {
		if len(line) > maxDSNLine || bytes.ContainsAny(line, "\r\n\x00") || !isASCII(string(line)) {
			return false
		}
	}
	return true
}
