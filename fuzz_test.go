package outbox

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/internal/letter"
)

// FuzzMessage checks that no value of a message becomes a header field, a recipient, a line or a part that the message
// did not ask for.
func FuzzMessage(f *testing.F) {
	f.Add("Shop", "shop@example.com", "Ann", "ann@example.org", "bcc@example.net", "Hello", "text", "<p>html",
		"X-Note", "value", "a.pdf", "logo", "application/pdf", "data")
	f.Add("Shöp", "a@bücher.example", `A "B" \C`, "a+b@x.example", "", "=?utf-8?q?x?=", ".\r\n.", "",
		"References", "<a@b>", "é.txt", "", "", "\r\n.\r\n")
	f.Add("a\r\nBcc: x", "a@x\r\nRCPT TO:<y>", "b\nTo: z", "c@y>\r\n", "d", "s\r\nX: y", "\x00", "\xff",
		"X: y\r\nBcc", "a\r\nb", "n\r\n", "<id>", "text/plain\r\n", "")
	f.Add("名前"+strings.Repeat("長", 60), "a@x.example", strings.Repeat("n", 200), "b@x.example", "c@x.example",
		strings.Repeat("件", 300), "--=_x", "--=_y--", "Sender", "S <s@x.example>", strings.Repeat("文", 80), "a@b",
		"text/csv; charset=x", "--=_")
	f.Add("S", "s@x.example", "T", "t@x.example", "", "", "text", "", "X-Note", "a\r\nBcc: e@x.example", "", "", "", "")
	f.Add("S", "s@x.example", "T", "t@x.example", "", "", "text", "", "", "", "a", "", "text/plain; x*=utf-8''a%0d%0aBcc:y", "")
	f.Fuzz(func(t *testing.T, fromName, from, toName, to, bcc, subject, text, html, field, value, file, cid, contentType, data string) {
		m := &Message{
			From: Address{Name: fromName, Address: from}, To: []Address{{Name: toName, Address: to}},
			Subject: subject, Text: text, HTML: html,
		}
		if bcc != "" {
			m.Bcc = []Address{{Address: bcc}}
		}
		if field != "" {
			m.Header = map[string][]string{field: {value}}
		}
		if file != "" || cid != "" {
			m.Attachments = []Attachment{{Name: file, ContentID: cid, ContentType: contentType, Data: []byte(data)}}
		}
		d := draftMended(t, m)
		checkWire(t, d.body)
		checkHeaderOf(t, m, d)
		head, _ := mail.ReadMessage(bytes.NewReader(d.body))
		want := 0
		for _, has := range []bool{m.Text != "" || letter.PlainText(m.HTML) != "", m.HTML != "", len(m.Attachments) > 0} {
			if has {
				want++
			}
		}
		if n := countParts(t, head.Header.Get("Content-Type"), head.Header.Get("Content-Transfer-Encoding"), head.Body); n != want {
			t.Fatalf("%d parts, want %d:\n%q", n, want, d.body)
		}
	})
}

// FuzzMessageFields does the same for the fields of a message that become header fields and forms of the body.
func FuzzMessageFields(f *testing.F) {
	f.Add("<p>html</p>", invitation, "<a@b>", "<c@d>", "<e@f>", "auto-replied", "https://example.com/u?x=1", "mailto:a@example.com", true)
	f.Add("", "BEGIN:VCALENDAR\nMETHOD:X\r\nBcc: y\nEND:VCALENDAR", "<a@b>\r\nBcc: y", "", "<c> <d>", "auto\r\nX: y",
		"https://example.com/>\r\nBcc: y", "mailto:a@example.com%0d%0aBcc:y", true)
	f.Add("<a href='https://x/\ny'>", "BEGIN:VCALENDAR\nMETHOD:A;x=\"y\nEND:VCALENDAR", "<>", strings.Repeat("<x>", 400), "<a@b>", "no",
		"https://user:password@example.com/", "mailto:a@example.com,b@example.com", false)
	f.Fuzz(func(t *testing.T, html, calendar, inReplyTo, ref1, ref2, auto, url, mailto string, oneClick bool) {
		m := &Message{
			From: Address{Address: "a@example.com"}, To: []Address{{Address: "b@example.org"}}, Text: "text", HTML: html,
			Calendar: calendar, InReplyTo: inReplyTo, AutoSubmitted: AutoSubmitted(auto),
			Unsubscribe: Unsubscribe{URL: url, Mailto: mailto, OneClick: oneClick},
		}
		for _, id := range []string{ref1, ref2} {
			if id != "" {
				m.References = append(m.References, id)
			}
		}
		d := draftMended(t, m)
		checkWire(t, d.body)
		checkHeaderOf(t, m, d)
		head, _ := mail.ReadMessage(bytes.NewReader(d.body))
		want := 1
		for _, has := range []bool{m.HTML != "", m.Calendar != ""} {
			if has {
				want++
			}
		}
		if n := countParts(t, head.Header.Get("Content-Type"), head.Header.Get("Content-Transfer-Encoding"), head.Body); n != want {
			t.Fatalf("%d parts, want %d:\n%q", n, want, d.body)
		}
		if got := strings.Fields(head.Header.Get("References")); len(m.References) > 0 && !slices.Equal(got, m.References) {
			t.Fatalf("references %q, want %q", got, m.References)
		}
	})
}

// draftMended drafts a message, each refused field replaced by one that is accepted, so that one bad value does not hide
// what the others do.
func draftMended(t *testing.T, m *Message) *draft {
	t.Helper()
	for range 12 {
		d, err := standard.draft(t.Context(), m, "", standard.now())
		if err == nil {
			return d
		}
		var invalid *InvalidError
		if !errors.As(err, &invalid) {
			t.Fatalf("the error is %T: %v", err, err)
		}
		switch invalid.Field {
		case "From":
			m.From = Address{Address: "mended@example.com"}
		case "To":
			m.To = []Address{{Name: "Mended, Too", Address: "too@example.org"}}
		case "Bcc":
			m.Bcc = nil
		case "Subject":
			m.Subject = ""
		case "Text":
			m.Text = "mended"
		case "HTML":
			m.HTML = ""
		case "Header":
			m.Header = nil
		case "Attachments":
			m.Attachments = nil
		case "Calendar":
			m.Calendar = ""
		case "InReplyTo":
			m.InReplyTo = ""
		case "References":
			m.References = nil
		case "AutoSubmitted":
			m.AutoSubmitted = ""
		case "Unsubscribe":
			m.Unsubscribe = Unsubscribe{}
		default:
			t.Fatalf("an error about %s: %v", invalid.Field, err)
		}
	}
	t.Fatalf("the message cannot be mended: %+v", m)
	return nil
}

// checkHeaderOf compares the header of a draft, as net/mail reads it, with the message.
func checkHeaderOf(t *testing.T, m *Message, d *draft) {
	t.Helper()
	head, err := mail.ReadMessage(bytes.NewReader(d.body))
	if err != nil {
		t.Fatalf("net/mail: %v\n%q", err, d.body)
	}
	want := []string{"Content-Type", "Date", "From", "Message-Id", "Mime-Version", "To"}
	if !strings.HasPrefix(head.Header.Get("Content-Type"), "multipart/") {
		want = append(want, "Content-Transfer-Encoding")
		if head.Header.Get("Content-Disposition") != "" {
			want = append(want, "Content-Disposition")
		}
		if len(m.Attachments) == 1 && m.Attachments[0].ContentID != "" {
			want = append(want, "Content-Id")
		}
	}
	if m.Subject != "" {
		want = append(want, "Subject")
	}
	for name := range m.Header {
		want = append(want, mailKey(name))
	}
	for name, has := range map[string]bool{
		"In-Reply-To": m.InReplyTo != "", "References": m.InReplyTo != "" || len(m.References) > 0,
		"Auto-Submitted": m.AutoSubmitted != "", "List-Unsubscribe": m.Unsubscribe != (Unsubscribe{}),
		"List-Unsubscribe-Post": m.Unsubscribe.OneClick,
	} {
		if has {
			want = append(want, name)
		}
	}
	var got []string
	for name, values := range head.Header {
		if len(values) != 1 {
			t.Fatalf("%s is there %d times:\n%q", name, len(values), d.body)
		}
		got = append(got, name)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("fields %q, want %q:\n%q", got, want, d.body)
	}
	if s, err := new(mime.WordDecoder).DecodeHeader(head.Header.Get("Subject")); err != nil || s != m.Subject {
		t.Fatalf("subject %q (%v), want %q", s, err, m.Subject)
	}
	recipients := make([]string, 0, 2)
	for _, list := range [][]Address{m.To, m.Bcc} {
		for _, a := range list {
			box, err := letter.ParseMailbox(a.Address)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(recipients, box.Addr) {
				recipients = append(recipients, box.Addr)
			}
		}
	}
	if !slices.Equal(d.recipients, recipients) {
		t.Fatalf("recipients %q, want %q", d.recipients, recipients)
	}
	for key, a := range map[string]Address{"From": m.From, "To": m.To[0]} {
		list, err := head.Header.AddressList(key)
		box, _ := letter.ParseMailbox(a.Address)
		if err != nil || len(list) != 1 || list[0].Address != box.Addr || list[0].Name != a.Name {
			t.Fatalf("%s is read as %v (%v), want %q %q:\n%q", key, list, err, a.Name, box.Addr, d.body)
		}
	}
}

// mailKey is the form in which net/mail keeps the name of a field.
func mailKey(name string) string {
	m, err := mail.ReadMessage(strings.NewReader(name + ": x\r\n\r\n"))
	if err != nil {
		return name
	}
	for key := range m.Header {
		return key
	}
	return name
}

// countParts decodes every part and counts those that are not multiparts.
func countParts(t *testing.T, contentType, encoding string, body io.Reader) (n int) {
	t.Helper()
	mediaType, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		t.Fatalf("content type %q: %v", contentType, err)
	}
	if !strings.HasPrefix(mediaType, "multipart/") {
		switch encoding {
		case "base64":
			body = base64.NewDecoder(base64.StdEncoding, body)
		case "quoted-printable":
			body = quotedprintable.NewReader(body)
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Fatalf("%s: %v", mediaType, err)
		}
		return 1
	}
	for mr := multipart.NewReader(body, params["boundary"]); ; {
		p, err := mr.NextRawPart()
		if errors.Is(err, io.EOF) {
			return n
		}
		if err != nil {
			t.Fatalf("%s: %v", mediaType, err)
		}
		n += countParts(t, p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p)
	}
}
