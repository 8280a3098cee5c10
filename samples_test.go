package outbox

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

// sampleID, sampleDate and sampleNow make rendered samples the same in every run.
const sampleID ID = "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"

var sampleDate = time.Date(2026, time.March, 1, 9, 5, 0, 0, time.UTC)

// sample is a message of a certain shape.
type sample struct {
	name string
	msg  Message
}

// scripts are texts that break careless encoders, by name.
var scripts = []struct{ name, text string }{
	{"ascii", "Your order is on its way"},
	{"latin", "Größe geändert: café, naïve, Łódź"},
	{"greek", "Η παραγγελία σας είναι καθ' οδόν"},
	{"cyrillic", "Ваш заказ уже в пути"},
	{"hebrew", "ההזמנה שלך בדרך אליך"},
	{"arabic", "طلبك في الطريق إليك"},
	{"cjk", "您的訂單已經寄出、ご注文の品を発送しました、주문이 발송되었습니다"},
	{"thai", "คำสั่งซื้อของคุณกำลังมา"},
	{"emoji", "🎉 Paid ✅ 👩‍👩‍👧‍👦 thanks"},
	{"combining", "e\u0301 a\u030a n\u0303 Z\u0351\u036b\u0343"},
	{"looks-encoded", "=?utf-8?q?not_encoded?= really"},
	{"spaces", "two  spaces   three    four"},
	{"long-word", strings.Repeat("x", 300)},
	{"long", strings.TrimSpace(strings.Repeat("a sentence that has to be folded ", 12))},
	{"long-cjk", strings.Repeat("長い件名", 40)},
	{"punctuation", `"quoted" \ back <angle> (comment), [list]; a@b: 100% = _?`},
}

// samples are messages of every shape in every script.
func samples() []sample {
	from := Address{Name: "Ann's Shop", Address: "shop@example.com"}
	to := []Address{{Address: "ann@example.org"}}
	png := []byte("\x89PNG\r\n\x1a\n\x00\x01\x02\xff")
	var all []sample
	for _, s := range scripts {
		lines := s.text + "\n\n" + s.text + "\r\n-- \r" + s.text
		html := "<p>" + s.text + "</p>\n<img src=\"cid:logo@shop\">"
		pdf := strings.NewReplacer("/", "-", `\`, "-").Replace(s.text)
		pdf = strings.ToValidUTF8(pdf[:min(len(pdf), 200)], "") + ".pdf"
		people := []Address{{Name: s.text[:nameLen(s.text)], Address: "a@example.org"}, {Address: "b@example.org"}}
		all = append(all,
			sample{"text-" + s.name, Message{From: from, To: people, Subject: s.text, Text: lines}},
			sample{"html-" + s.name, Message{From: from, To: to, Subject: s.text, HTML: html}},
			sample{"both-" + s.name, Message{From: from, To: to, Cc: people, Subject: s.text, Text: lines, HTML: html}},
			sample{"all-" + s.name, Message{
				From: from, To: to, Subject: s.text, Text: lines, HTML: html,
				Attachments: []Attachment{
					{Name: "logo.png", ContentID: "logo@shop", Data: png},
					{Name: pdf, Data: []byte(s.text)},
				},
				Header: map[string][]string{
					"X-Note": {s.text}, "List-Unsubscribe": {"<https://example.com/u/1>, <mailto:u@example.com>"},
				},
			}},
		)
	}
	simple := func(name string, fill func(m *Message)) sample {
		m := Message{From: from, To: to, Text: "hi"}
		fill(&m)
		return sample{name, m}
	}
	file := func(m *Message, a Attachment) { m.Attachments = []Attachment{a} }
	return append(all,
		simple("related", func(m *Message) {
			m.Text, m.HTML = "", "<img src=cid:logo>"
			file(m, Attachment{ContentID: "logo", ContentType: "image/png", Data: png})
		}),
		simple("attachment-only", func(m *Message) {
			m.Text, m.Subject = "", "Scan"
			file(m, Attachment{Name: "scan.tiff", Data: png})
		}),
		simple("inline-without-html", func(m *Message) { file(m, Attachment{Name: "l.png", ContentID: "l", Data: png}) }),
		simple("empty-attachment", func(m *Message) { file(m, Attachment{Name: "empty.bin"}) }),
		simple("latin1-attachment", func(m *Message) {
			file(m, Attachment{Name: "a.csv", ContentType: "text/csv; charset=iso-8859-1; header=present", Data: []byte("caf\xe9\n")})
		}),
		simple("text-attachment", func(m *Message) { file(m, Attachment{Name: "a.log", Data: []byte("a\nb\rc\r\nd")}) }),
		simple("forwarded", func(m *Message) {
			file(m, Attachment{Name: "m.eml", Data: []byte("From: a@example.org\nSubject: hi\n\nhello\n")})
		}),
		simple("bcc-only", func(m *Message) { m.To, m.Bcc = nil, to }),
		simple("reply-to", func(m *Message) { m.ReplyTo = []Address{{Name: "Help, Desk", Address: "help@example.com"}} }),
		simple("on-behalf", func(m *Message) { m.Header = map[string][]string{"sender": {"Robot <robot@example.com>"}} }),
		simple("international-domain", func(m *Message) {
			m.From = Address{Name: "Bücher", Address: "info@Bücher.example"}
			m.To = []Address{{Address: "x@例え.example"}}
		}),
		simple("boundary-in-text", func(m *Message) {
			m.Text = "--=_" + string(sampleID) + "-alt\n--=_x--\n"
			m.HTML = "<p>--=_" + string(sampleID) + "-alt--</p>"
		}),
		simple("dots", func(m *Message) { m.Text = ".\n..\n.hidden\nFrom here\n" }),
		simple("long-line", func(m *Message) {
			m.Text = strings.Repeat("0123456789", 300)
			m.HTML = "<p>" + m.Text
		}),
		simple("controls", func(m *Message) { m.Text = "bell \a, escape \x1b[1m, tab\t, form feed \f" }),
		simple("many-recipients", func(m *Message) { m.To = manyAddresses(90) }),
		simple("references", func(m *Message) {
			id := "<aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@example.org> "
			m.Header = map[string][]string{
				"In-Reply-To": {"<1@example.org>"}, "References": {strings.TrimSpace(strings.Repeat(id, 20))},
				"Auto-Submitted": {"auto-generated"}, "X-Empty": {""},
			}
		}),
		simple("invitation", func(m *Message) {
			m.HTML, m.Calendar = "<p>Lunch <img src=cid:map></p>", invitation
			m.Attachments = []Attachment{
				{ContentID: "map", ContentType: "image/png", Data: png}, {Name: "invite.ics", Data: []byte(invitation)},
			}
		}),
		simple("invitation-only", func(m *Message) { m.Text, m.Calendar = "", invitation }),
		simple("invitation-with-file", func(m *Message) {
			m.Text, m.Calendar = "", strings.ReplaceAll(invitation, "Lunch", "昼食 – "+strings.Repeat("長", 200))
			file(m, Attachment{Name: "menu.pdf", Data: png})
		}),
		simple("newsletter", func(m *Message) {
			m.Text, m.HTML = "", newsletter
			m.Unsubscribe = Unsubscribe{
				URL:      "https://example.com/leave?list=3&token=" + strings.Repeat("t", 60),
				Mailto:   "mailto:leave@example.com?subject=token",
				OneClick: true,
			}
			m.AutoSubmitted = AutoGenerated
		}),
		simple("answer", func(m *Message) {
			m.InReplyTo, m.References = "<3@example.org>", []string{"<1@example.org>", "<2@example.com>", "<3@example.org>"}
			m.AutoSubmitted, m.EnvelopeFrom = AutoReplied, "<>"
		}),
		simple("long-conversation", func(m *Message) {
			m.InReplyTo = "<" + strings.Repeat("i", 200) + "@example.org>"
			for range 30 {
				m.References = append(m.References, m.InReplyTo)
			}
		}),
		simple("from-file", func(m *Message) {
			files := fstest.MapFS{"docs/Prüfbericht 名.pdf": {Data: bytes.Repeat(png, 100)}}
			m.Attachments = []Attachment{AttachFile(files, "docs/Prüfbericht 名.pdf")}
		}),
		simple("large", func(m *Message) {
			file(m, Attachment{Name: "large.bin", Data: bytes.Repeat([]byte("\x00\x01\xfe\xffoutbox\r\n.\r\n"), 10<<20/16)})
		}),
	)
}

// invitation is an iCalendar object.
const invitation = `BEGIN:VCALENDAR
VERSION:2.0
PRODID:-//Example//Shop//EN
METHOD:REQUEST
BEGIN:VEVENT
UID:lunch-1@example.com
DTSTAMP:20260301T090500Z
DTSTART:20260302T113000Z
SUMMARY:Lunch
ORGANIZER:mailto:shop@example.com
ATTENDEE;RSVP=TRUE:mailto:ann@example.org
END:VEVENT
END:VCALENDAR
`

// newsletter is HTML as mail programs write it.
const newsletter = `<!DOCTYPE html><html><head><title>March</title><style>p { color: red }</style></head><body>
<div style="display: none">A preview line &#8203;</div>
<h1>Tea in March</h1>
<p>Dear Ann,<br />we have <b>two</b> new teas &amp; a <a href="https://example.com/pots?a=1&amp;b=2">pot</a>:</p>
<ul><li>Sencha</li><li>Assam – <i>strong</i></li></ul>
<table><tr><td>Sencha</td><td>9&nbsp;€</td></tr><tr><td>Assam</td><td>7&nbsp;€</td></tr></table>
<blockquote>The best tea.</blockquote>
<img src="https://example.com/x.png" alt="A teapot">
</body></html>`

// nameLen cuts a text to the length of a display name, between characters.
func nameLen(s string) int {
	n := 0
	for i := range s {
		if i > 255 {
			return n
		}
		n = i
	}
	return len(s)
}

func manyAddresses(n int) []Address {
	list := make([]Address, n)
	for i := range list {
		list[i] = Address{Name: strings.Repeat("N", i%40), Address: "user" + string(rune('a'+i%26)) + strings.Repeat("x", i/26) + "@example.org"}
	}
	return list
}

// renderSample checks and renders a message with the id and the date of the samples.
func renderSample(tb testing.TB, m *Message) []byte {
	tb.Helper()
	d, err := standard.draft(context.Background(), m, sampleID, sampleDate)
	if err != nil {
		tb.Fatal(err)
	}
	return d.body
}
