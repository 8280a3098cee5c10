package outbox

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

// TestReceivedMailNeverPreventsSending attaches what strangers may have sent in, under every way to give an attachment.
func TestReceivedMailNeverPreventsSending(t *testing.T) {
	const eight = "From: a@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"Content-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n"
	for _, data := range []string{
		eight, strings.ReplaceAll(eight, "\r\n", "\n"), strings.Replace(eight, "Subject: x", "Subject: ü", 1), "", "\x00", "\r", "\n", "\xff\xfe",
		"Subject: x\r\n\r\n" + strings.Repeat("\xe9", 5000), strings.Replace(eight, "\r\n\r\n", "\n\n", 1),
		"Subject: x\r\n\r\n--=_" + string(sampleID) + "-mix--\r\n",
	} {
		for _, a := range []Attachment{
			{Name: "original.eml", Data: []byte(data)},
			{Name: "original.EML", ContentType: "message/rfc822", Data: []byte(data)},
			{Name: "original.eml", ContentType: "application/octet-stream", Data: []byte(data)},
			{Name: "a.dat", ContentType: "message/delivery-status", Data: []byte(data)},
			{Name: "a.u8msg", ContentType: "message/global", Data: []byte(data)},
			{Name: "a.dat", ContentType: "multipart/mixed; boundary=x", Data: []byte(data)},
			{ContentID: "m", ContentType: "text/rfc822-headers", Data: []byte(data)},
			AttachReader("a.eml", strings.NewReader(data)),
		} {
			m := short()
			m.Attachments = []Attachment{a, {Name: "second.eml", Data: []byte(eight)}}
			d, err := standard.draft(t.Context(), m, sampleID, sampleDate)
			if err != nil {
				t.Errorf("%s of %q as %q: %v", a.Name, data, a.ContentType, err)
				continue
			}
			lint(t, d.body)
			if n := leavesWithGoMessage(t, d.body); n != 3 {
				t.Errorf("%s of %q as %q: %d parts:\n%s", a.Name, data, a.ContentType, n, d.body)
			}
			if !bytes.Contains(d.body, []byte("\r\nR3LDvMOfZQ0K\r\n")) {
				t.Errorf("the second message was not recoded:\n%s", d.body)
			}
		}
	}
}

// TestLargestMaxSize shows that no sum passes the largest number and turns negative.
func TestLargestMaxSize(t *testing.T) {
	for _, limit := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 - 100} {
		o, err := New(Config{MaxSize: limit, MaxHeaderSize: math.MaxInt})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"", "text"} {
			m := short()
			m.Text = text
			m.Attachments = []Attachment{
				AttachReader("a.bin", strings.NewReader("hello")), {Name: "b.bin", Data: []byte("there")},
				AttachReader("c.bin", io.LimitReader(&counting{}, 1<<16)),
			}
			d, err := o.draft(t.Context(), m, "", sampleDate)
			if err != nil {
				t.Fatalf("%d: %v", limit, err)
			}
			if !bytes.Contains(d.body, []byte("aGVsbG8=")) || !bytes.Contains(d.body, []byte("dGhlcmU=")) || len(d.body) < 1<<16 {
				t.Errorf("%d: an attachment is missing in %d bytes", limit, len(d.body))
			}
		}
		raw := &Message{Raw: []byte("From: a@example.org\r\nTo: b@example.org\r\n\r\nx\r\n")}
		if _, err := o.draft(t.Context(), raw, "", sampleDate); err != nil {
			t.Errorf("%d: %v", limit, err)
		}
	}
	for _, limit := range []int64{-1, math.MinInt64} {
		if _, err := New(Config{MaxSize: limit}); !errors.As(err, new(*InvalidError)) {
			t.Errorf("%d: %v", limit, err)
		}
	}
}

// TestByteOrderMarks shows that the mark of a file does not get into the parts of a message.
func TestByteOrderMarks(t *testing.T) {
	const mark = "\ufeff"
	with, without := short(), short()
	with.Text, without.Text = mark+"text", "text"
	with.HTML, without.HTML = mark+"<p>x</p>", "<p>x</p>"
	with.Calendar, without.Calendar = mark+invitation, invitation
	with.Attachments = []Attachment{{Name: "a.ics", Data: []byte(mark + invitation)}}
	without.Attachments = []Attachment{{Name: "a.ics", Data: []byte(invitation)}}
	if got, want := renderSample(t, with), renderSample(t, without); !bytes.Equal(got, want) {
		t.Errorf("with byte order marks\n%s\nwithout\n%s", got, want)
	}
	with = short()
	with.Text, with.HTML = "", mark+"<p>hello</p>"
	without.Text, without.HTML, without.Calendar, without.Attachments = "", "<p>hello</p>", "", nil
	if got, want := renderSample(t, with), renderSample(t, without); !bytes.Equal(got, want) {
		t.Errorf("HTML with a byte order mark\n%s\nwithout\n%s", got, want)
	}
	// A spreadsheet tells by its mark that a file is UTF-8.
	with.Attachments = []Attachment{{Name: "a.csv", Data: []byte(mark + "x")}}
	if got := renderSample(t, with); !bytes.Contains(got, []byte("77u/eA==")) {
		t.Errorf("the content of an attachment was changed:\n%s", got)
	}
	for _, m := range []*Message{{Text: mark}, {HTML: mark}, {Text: mark, HTML: mark}} {
		m.From, m.To = with.From, with.To
		refused(t, standard, m, "Text")
	}
	for _, text := range []string{"\xff\xfex\x00", "\xfe\xff\x00x", "x\x00y\x00", "\x00x\x00y"} {
		for field, fill := range map[string]func(*Message){
			"Text": func(m *Message) { m.Text = text }, "HTML": func(m *Message) { m.HTML = text },
			"Calendar": func(m *Message) { m.Calendar = text },
		} {
			m := short()
			fill(m)
			_, err := standard.draft(t.Context(), m, "", standard.now())
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Field != field || !strings.Contains(err.Error(), "is in UTF-16 (") {
				t.Errorf("%q as %s: %v", text, field, err)
			}
		}
	}
}
