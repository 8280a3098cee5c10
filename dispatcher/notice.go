package dispatcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/mail"
	"os"
	"strings"
	"time"

	"github.com/emersion/go-message"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// Notice says who is told of a message that was given up, by a report in the form of RFC 3464. The report is enqueued in the
// same transaction that records the failure, so there is one for each failure and none without. It goes with the null return
// path and so never leads to another, and a message that has the null return path leads to none (RFC 3834 §2). A message that
// expired or was cancelled was not given up. A report about a message that is encrypted at rest says nothing of its subject and
// returns nothing of it, unless the queue encrypts reports as well (see store.Through). The zero value tells nobody.
type Notice struct {
	// From is the author of reports. It must be given when ToSender or To is.
	From outbox.Address
	// ToSender has reports sent to the return path of the failed message, as a mail server would. Defaults to false.
	ToSender bool
	// To are further readers, such as an operator. Defaults to none.
	To []outbox.Address
	// Route is the route of reports. Defaults to the route of the failed message.
	Route string
	// Full returns the whole message, up to 256 KiB, instead of its header. Defaults to the header.
	Full bool
}

// noticeEncrypter is a [Queue] that encrypts the notices of settlements. *store.Store says whether it does.
type noticeEncrypter interface{ EncryptsNotices() bool }

// maxReturned is the largest message that a report returns whole.
const maxReturned = 256 << 10

// on says whether anybody is told.
func (n *Notice) on() bool { return n.ToSender || len(n.To) > 0 }

func (n *Notice) check() error {
	if !n.on() {
		return nil
	}
	if n.From.Address == "" {
		return errors.New("from: no author given")
	}
	for _, a := range append([]outbox.Address{n.From}, n.To...) {
		if _, err := mail.ParseAddress("<" + a.Address + ">"); err != nil {
			return fmt.Errorf("%q is not an address: %w", a.Address, err)
		}
	}
	if n.Route == "" {
		return nil
	}
	if err := checkName(n.Route); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	return nil
}

// attach gives the first of the failures in a list the report about all of them.
func (n *Notice) attach(ctx context.Context, l *lane, j *job, list []queue.Settlement, body []byte) {
	c := &j.claimed
	if !n.on() || c.Sender == "" {
		return
	}
	var failed []int
	for i := range list {
		if list[i].Outcome == queue.Failed {
			failed = append(failed, i)
		}
	}
	if len(failed) == 0 {
		return
	}
	to := n.To
	if n.ToSender {
		to = append([]outbox.Address{{Address: c.Sender}}, to...)
	}
	subject := c.Subject
	if j.sealed {
		q, ok := l.cfg.Queue.(noticeEncrypter)
		opened, err := l.cfg.Keys.OpenSubject(string(c.ID), subject)
		if subject = opened; !ok || !q.EncryptsNotices() || err != nil {
			subject, body = "(encrypted)", nil
		}
	}
	raw, err := n.report(c, list, failed, to, subject, body)
	if err != nil {
		l.log.ErrorContext(ctx, "cannot write the notice of a failure", "id", c.ID, "error", err)
		return
	}
	route := n.Route
	if route == "" {
		route = c.Route
	}
	//nolint:contextcheck // it waits for nothing
	if _, err := outbox.Render(&outbox.Message{From: n.From, To: to, Raw: raw, EnvelopeFrom: "<>", Route: route}, c.ID, time.Now()); err != nil {
		// The failure could not be recorded with it.
		l.log.ErrorContext(ctx, "the notice of a failure cannot be sent", "id", c.ID, "error", err)
		return
	}
	list[failed[0]].Notice = &queue.Notice{From: n.From, To: to, Route: route, Raw: raw}
}

// report writes the three parts of RFC 6522: for people, for programs, and what the report is about.
func (n *Notice) report(
	c *queue.Claimed, list []queue.Settlement, failed []int, to []outbox.Address, subject string, body []byte,
) ([]byte, error) {
	var h message.Header
	h.SetContentType("multipart/report", map[string]string{"report-type": "delivery-status"})
	h.SetText("Subject", "Undelivered: "+subject)
	h.Set("Auto-Submitted", "auto-replied")
	if c.MessageID != "" {
		h.Set("In-Reply-To", c.MessageID)
		h.Set("References", c.MessageID)
	}
	addresses := make([]string, len(to))
	for i, a := range to {
		addresses[i] = a.String()
	}
	h.Set("From", n.From.String())
	h.Set("To", strings.Join(addresses, ", "))
	h.Set("MIME-Version", "1.0")

	var out bytes.Buffer
	w, err := message.CreateWriter(&out, h)
	if err != nil {
		return nil, err
	}
	if err := part(w, "text/plain", map[string]string{"charset": "utf-8"}, "quoted-printable", n.words(c, list, failed, subject)); err != nil {
		return nil, err
	}
	if err := part(w, "message/delivery-status", nil, "", n.status(c, list, failed)); err != nil {
		return nil, err
	}
	kind, returned := "text/rfc822-headers", body
	if end := bytes.Index(body, []byte("\r\n\r\n")); end >= 0 {
		returned = body[:end+2]
	}
	if n.Full && len(body) <= maxReturned {
		kind, returned = "message/rfc822", body
	}
	if len(returned) > 0 {
		encoding := ""
		if !ascii(returned) { // a part of this kind may not be encoded, but for 8bit (RFC 2046 §5.2.1)
			encoding = "8bit"
		}
		if err := part(w, kind, nil, encoding, string(returned)); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func part(w *message.Writer, kind string, params map[string]string, encoding, content string) error {
	var h message.Header
	h.SetContentType(kind, params)
	if encoding != "" {
		h.Set("Content-Transfer-Encoding", encoding)
	}
	p, err := w.CreatePart(h)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(p, content); err != nil {
		return err
	}
	return p.Close()
}

// words tell a person what happened.
func (n *Notice) words(c *queue.Claimed, list []queue.Settlement, failed []int, subject string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "A message could not be delivered, and will not be tried again.\r\n\r\n")
	fmt.Fprintf(&b, "Subject:    %s\r\nMessage-ID: %s\r\nID:         %s\r\n", subject, c.MessageID, c.ID)
	for _, i := range failed {
		ev := list[i].Evidence
		fmt.Fprintf(&b, "\r\nRecipient:  %s\r\n", c.Deliveries[i].Recipient)
		fmt.Fprintf(&b, "Reason:     %s\r\n", diagnosis(ev))
		if ev.Relay != "" {
			fmt.Fprintf(&b, "Relay:      %s\r\n", ev.Relay)
		}
		fmt.Fprintf(&b, "Attempts:   %d\r\n", c.Deliveries[i].Attempt)
	}
	return b.String()
}

// status tells a program (RFC 3464 §2).
func (n *Notice) status(c *queue.Claimed, list []queue.Settlement, failed []int) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	now := time.Now()
	var b strings.Builder
	fmt.Fprintf(&b, "Reporting-MTA: dns; %s\r\n", host)
	fmt.Fprintf(&b, "Arrival-Date: %s\r\n", now.Add(-c.Age).Format(time.RFC1123Z))
	fmt.Fprintf(&b, "X-Outbox-ID: %s\r\n", c.ID)
	for _, i := range failed {
		ev := list[i].Evidence
		fmt.Fprintf(&b, "\r\nFinal-Recipient: %s\r\nAction: failed\r\nStatus: %s\r\n", typed(c.Deliveries[i].Recipient), statusOf(ev))
		if ev.Code != 0 {
			fmt.Fprintf(&b, "Diagnostic-Code: smtp; %s\r\n", folded(diagnosis(ev)))
		}
		fmt.Fprintf(&b, "Last-Attempt-Date: %s\r\n", now.Format(time.RFC1123Z))
	}
	return b.String()
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

// statusOf is the enhanced code as one of a failure, whatever the relay's last words were (RFC 3463).
func statusOf(ev queue.Evidence) string {
	if strings.HasPrefix(ev.Enhanced, "5.") {
		return ev.Enhanced
	}
	if ev.Code >= 500 {
		return "5.0.0"
	}
	return "5.4.7" // delivery time expired
}

// folded makes words fit for a field: ASCII, in lines that are not too long.
func folded(words string) string {
	var b strings.Builder
	width := len("Diagnostic-Code: smtp; ")
	for i, w := range strings.Fields(printableASCII(words)) {
		if i > 0 {
			if width+1+len(w) > 76 {
				b.WriteString("\r\n")
				width = 0
			}
			b.WriteByte(' ')
			width++
		}
		if len(w) > 500 {
			w = w[:500]
		}
		b.WriteString(w)
		width += len(w)
	}
	return b.String()
}

func printableASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}

// typed is an address as these reports write it (RFC 3464 §2.3.2; RFC 6533 §3 outside ASCII).
func typed(address string) string {
	if ascii([]byte(address)) {
		return "rfc822; " + address
	}
	var b strings.Builder
	b.WriteString("utf-8; ")
	for _, r := range address {
		if r > '~' || r < '!' || r == '\\' || r == '+' || r == '=' {
			fmt.Fprintf(&b, `\x{%X}`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= 0x80 {
			return false
		}
	}
	return true
}
