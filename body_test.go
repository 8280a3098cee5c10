package outbox

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/mail"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"
)

// short is a message that is accepted.
func short() *Message {
	return &Message{From: Address{Address: "a@example.com"}, To: []Address{{Address: "b@example.org"}}, Text: "x"}
}

// refused drafts a message and wants an error about the field.
func refused(t *testing.T, o *Outbox, m *Message, field string) {
	t.Helper()
	_, err := o.draft(t.Context(), m, "", o.now())
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.Field != field {
		t.Errorf("the error is %v, want one about %s", err, field)
	}
}

func TestTextFromHTMLCanBeSwitchedOff(t *testing.T) {
	m := short()
	m.Text, m.HTML = "", "<p>hello</p>"
	for _, test := range []struct {
		config Config
		want   string
	}{{Config{}, "multipart/alternative"}, {Config{HTMLOnly: true}, "text/html"}} {
		o, err := New(test.config)
		if err != nil {
			t.Fatal(err)
		}
		d, err := o.draft(t.Context(), m, "", o.now())
		if err != nil {
			t.Fatal(err)
		}
		head, err := mail.ReadMessage(bytes.NewReader(d.body))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := mime.ParseMediaType(head.Header.Get("Content-Type")); got != test.want {
			t.Errorf("%+v: %s, want %s", test.config, got, test.want)
		}
	}
}

func TestInvalidWrittenFields(t *testing.T) {
	long := "<" + strings.Repeat("x", 1000) + ">"
	for _, test := range []struct {
		field string
		fill  func(m *Message)
	}{
		{"InReplyTo", func(m *Message) { m.InReplyTo = "a@b" }},
		{"InReplyTo", func(m *Message) { m.InReplyTo = "<a@b> <c@d>" }},
		{"InReplyTo", func(m *Message) { m.InReplyTo = "<a@b>\r\nBcc: x" }},
		{"InReplyTo", func(m *Message) { m.InReplyTo = "<é@b>" }},
		{"InReplyTo", func(m *Message) { m.InReplyTo = long }},
		{"References", func(m *Message) { m.References = []string{"<a@b>", ""} }},
		{"References", func(m *Message) { m.References = []string{"<a@b>\n"} }},
		{"AutoSubmitted", func(m *Message) { m.AutoSubmitted = "no" }},
		{"AutoSubmitted", func(m *Message) { m.AutoSubmitted = "auto-replied\r\nX: y" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.OneClick = true }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe = Unsubscribe{Mailto: "mailto:a@b.example", OneClick: true} }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "http://x.example/" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https:///x" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https://u:p@x.example/" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https://x.example/>, <https://y.example" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https://x.example/a,b" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https://x.example/é" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https://x.example/%zz" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https://x.example/\r\nBcc:y" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.URL = "https://x.example/" + long }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.Mailto = "a@b.example" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.Mailto = "mailto:" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.Mailto = "mailto:a@b.example%0d%0aBcc:y" }},
		{"Unsubscribe", func(m *Message) { m.Unsubscribe.Mailto = "mailto://a@b.example" }},
		{"Header", func(m *Message) {
			m.InReplyTo, m.Header = "<a@b>", map[string][]string{"references": {"<c@d>"}}
		}},
		{"Header", func(m *Message) {
			m.Unsubscribe.URL, m.Header = "https://x.example/", map[string][]string{"List-Unsubscribe": {"<https://x.example/>"}}
		}},
		{"Calendar", func(m *Message) { m.Calendar = "hello" }},
		{"Calendar", func(m *Message) { m.Calendar = "BEGIN:VCALENDAR\nEND:VCALENDAR" }},
		{"Calendar", func(m *Message) { m.Calendar = "BEGIN:VCALENDAR\nMETHOD:REQUEST\n" }},
		{"Calendar", func(m *Message) { m.Calendar = "BEGIN:VCALENDAR\nMETHOD:A\nMETHOD:B\nEND:VCALENDAR" }},
		{"Calendar", func(m *Message) { m.Calendar = "BEGIN:VCALENDAR\nMETHOD:A; x=y\nEND:VCALENDAR" }},
		{"Calendar", func(m *Message) { m.Calendar = "BEGIN:VCALENDAR\nMETHOD:\nEND:VCALENDAR" }},
		{"Calendar", func(m *Message) { m.Calendar = "BEGIN:VCALENDAR\nBEGIN:X\nMETHOD:A\nEND:X\nEND:VCALENDAR" }},
		{"Calendar", func(m *Message) { m.Calendar = strings.Replace(invitation, "Lunch", "\xff", 1) }},
		{"Raw", func(m *Message) { m.Text, m.Raw, m.Calendar = "", []byte("From: a@b.example\n\nx"), invitation }},
		{"Raw", func(m *Message) { m.Text, m.Raw, m.InReplyTo = "", []byte("From: a@b.example\n\nx"), "<a@b>" }},
		{"Raw", func(m *Message) { m.Text, m.Raw, m.AutoSubmitted = "", []byte("From: a@b.example\n\nx"), AutoReplied }},
	} {
		m := short()
		test.fill(m)
		refused(t, standard, m, test.field)
	}
}

func TestCharactersThatAURLMustEncode(t *testing.T) {
	for url, want := range map[string]string{"https://x.example/ü": "'ü'", "https://x.example/a b": "' '", "https://x.example/名": "'名'"} {
		m := short()
		m.Unsubscribe.URL = url
		if _, err := standard.draft(t.Context(), m, "", standard.now()); err == nil || !strings.Contains(err.Error(), "contains "+want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestWrittenFields(t *testing.T) {
	m := short()
	m.InReplyTo = "<3@example.org>"
	m.Unsubscribe = Unsubscribe{Mailto: "mailto:leave%2B1@example.com?subject=leave"}
	m.Header = map[string][]string{"X-Note": {"kept"}}
	m.Calendar = "BEGIN:VCALENDAR\r\nMETHOD;X=1:reply\r\nEND:VCALENDAR\r\n\r\n"
	d, err := standard.draft(t.Context(), m, "", standard.now())
	if err != nil {
		t.Fatal(err)
	}
	head, err := mail.ReadMessage(bytes.NewReader(d.body))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"In-Reply-To": "<3@example.org>", "References": "<3@example.org>", "X-Note": "kept",
		"List-Unsubscribe": "<mailto:leave%2B1@example.com?subject=leave>", "List-Unsubscribe-Post": "", "Auto-Submitted": "",
	} {
		if got := head.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !bytes.Contains(d.body, []byte("text/calendar; charset=utf-8; method=REPLY\r\n")) {
		t.Errorf("the method is not in the type of the calendar:\n%s", d.body)
	}
}

// closing records that it was closed.
type closing struct {
	io.Reader
	closed *int
}

func (c closing) Close() error {
	*c.closed++
	return nil
}

func TestAttachmentsAreReadWhenEnqueued(t *testing.T) {
	closed := 0
	m := short()
	m.Attachments = []Attachment{
		AttachFile(fstest.MapFS{"a/b.txt": {Data: []byte("from a file")}}, "a/b.txt"),
		AttachReader("c.txt", closing{strings.NewReader("from a reader"), &closed}),
		AttachReader("d.txt", strings.NewReader("")),
		{Name: "e.txt", Data: []byte("from memory")},
	}
	d, err := standard.draft(t.Context(), m, "", standard.now())
	if err != nil {
		t.Fatal(err)
	}
	if closed != 1 {
		t.Errorf("the reader was closed %d times", closed)
	}
	for _, want := range []string{"b.txt", "ZnJvbSBhIGZpbGU=", "ZnJvbSBhIHJlYWRlcg==", "ZnJvbSBtZW1vcnk="} {
		if !bytes.Contains(d.body, []byte(want)) {
			t.Errorf("%s is missing in\n%s", want, d.body)
		}
	}
	if m.Attachments[0].Data != nil {
		t.Error("the caller's attachment was changed")
	}
	// A reader cannot be read again, and the message says so instead of going out without its file.
	_, err = standard.draft(t.Context(), m, "", standard.now())
	if err == nil || errors.As(err, new(*InvalidError)) || !strings.Contains(err.Error(), "used before") {
		t.Errorf("the second use of a reader: %v", err)
	}
	// A file can.
	m.Attachments = m.Attachments[:1]
	if _, err := standard.draft(t.Context(), m, "", standard.now()); err != nil {
		t.Error(err)
	}
}

func TestAttachmentsThatCannotBeRead(t *testing.T) {
	o, err := New(Config{MaxSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		a    Attachment
		want error
	}{
		{"no such file", AttachFile(fstest.MapFS{}, "a.txt"), os.ErrNotExist},
		{"a folder", AttachFile(fstest.MapFS{"a/b": {}}, "a"), nil},
		{"a broken reader", AttachReader("a.txt", iotest.ErrReader(broken)), broken},
		{"an error of Close", Attachment{Name: "a.txt", Open: func() (io.ReadCloser, error) { return failingClose{broken}, nil }}, broken},
	} {
		m := short()
		m.Attachments = []Attachment{{Name: "first.txt"}, test.a}
		_, err := o.draft(t.Context(), m, "", o.now())
		if err == nil || errors.As(err, new(*InvalidError)) || !strings.HasPrefix(err.Error(), `attachment 2: read "`) {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v does not wrap %v", test.name, err, test.want)
		}
	}
	m := short()
	endless := &counting{}
	m.Attachments = []Attachment{AttachReader("endless", endless)}
	refused(t, o, m, "Message")
	if endless.n > 1<<20 {
		t.Errorf("%d bytes were read of a message of at most 4096", endless.n)
	}
	m.Attachments = []Attachment{{Name: "a", Data: []byte("x"), Open: func() (io.ReadCloser, error) { return nil, broken }}}
	refused(t, o, m, "Attachments")
}

// failingClose is empty and cannot be closed.
type failingClose struct{ err error }

func (failingClose) Read([]byte) (int, error) { return 0, io.EOF }
func (f failingClose) Close() error           { return f.err }

// counting has no end.
type counting struct{ n int }

func (c *counting) Read(p []byte) (int, error) {
	c.n += len(p)
	return len(p), nil
}
