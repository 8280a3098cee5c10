package outbox

import (
	"context"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"
)

// valid returns a message that is accepted, for a test to spoil.
func valid() *Message {
	return &Message{
		From:    Address{Name: "Shop", Address: "shop@example.com"},
		To:      []Address{{Address: "ann@example.org"}},
		Subject: "Hello",
		Text:    "Hello.",
	}
}

// check drafts a message and returns the field that the error names, empty for none.
func check(t *testing.T, o *Outbox, m *Message) string {
	t.Helper()
	_, err := o.draft(context.Background(), m, "", o.now())
	if err == nil {
		return ""
	}
	var pointer *InvalidError
	if !errors.As(err, &pointer) {
		t.Fatalf("the error is %T %v, not an InvalidError", err, err)
	}
	var value InvalidError
	if !errors.As(err, &value) || value.Field != pointer.Field {
		t.Errorf("errors.As finds the value %+v, want %+v", value, *pointer)
	}
	if value.Unwrap() == nil || !strings.Contains(err.Error(), value.Unwrap().Error()) || !strings.Contains(err.Error(), value.Field) {
		t.Errorf("the error %q does not say what it wraps", err)
	}
	if len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\r\n\x00") {
		t.Errorf("the error is not one short line: %q", err)
	}
	return pointer.Field
}

func attachType(m *Message, contentType string) {
	m.Attachments = []Attachment{{Name: "a", ContentType: contentType}}
}

func attachMessage(m *Message, data string) {
	m.Attachments = []Attachment{{Name: "m.eml", Data: []byte(data)}}
}

func TestInvalidFields(t *testing.T) {
	now := time.Now()
	one := func(s string) []Address { return []Address{{Address: s}} }
	tests := []struct {
		name  string
		spoil func(m *Message)
		field string
	}{
		{"valid", func(*Message) {}, ""},
		{"no author", func(m *Message) { m.From = Address{} }, "From"},
		{"bad author", func(m *Message) { m.From.Address = "shop" }, "From"},
		{"line break in a name", func(m *Message) { m.From.Name = "Shop\r\nBcc: eve@example.net" }, "From"},
		{"NUL in a name", func(m *Message) { m.To[0].Name = "a\x00b" }, "To"},
		{"long name", func(m *Message) { m.From.Name = strings.Repeat("n", 256) }, "From"},
		{"no recipient", func(m *Message) { m.To = nil }, "To"},
		{"bad recipient", func(m *Message) { m.To = one("ann@") }, "To"},
		{"command in a recipient", func(m *Message) { m.To = one("ann@example.org>\r\nRCPT TO:<eve@example.net") }, "To"},
		{"bad Cc", func(m *Message) { m.Cc = one("@example.org") }, "Cc"},
		{"bad Bcc", func(m *Message) { m.Bcc = one("a b@example.org") }, "Bcc"},
		{"bad ReplyTo", func(m *Message) { m.ReplyTo = one("a@b@example.org") }, "ReplyTo"},
		{"too many recipients", func(m *Message) { m.To = manyAddresses(101) }, "To"},
		{"bad return path", func(m *Message) { m.EnvelopeFrom = "bounces" }, "EnvelopeFrom"},
		{"parameter in the return path", func(m *Message) { m.EnvelopeFrom = "a@example.org> SIZE=1" }, "EnvelopeFrom"},
		{"null return path", func(m *Message) { m.EnvelopeFrom = "<>" }, ""},
		{"LF in the subject", func(m *Message) { m.Subject = "a\nb" }, "Subject"},
		{"CR in the subject", func(m *Message) { m.Subject = "a\rb" }, "Subject"},
		{"C1 control in the subject", func(m *Message) { m.Subject = "a\u0085b" }, "Subject"},
		{"subject in Latin-1", func(m *Message) { m.Subject = "caf\xe9" }, "Subject"},
		{"long subject", func(m *Message) { m.Subject = strings.Repeat("s", 999) }, "Subject"},
		{"no body", func(m *Message) { m.Text = "" }, "Text"},
		{"NUL in the text", func(m *Message) { m.Text = "a\x00" }, "Text"},
		{"text in Latin-1", func(m *Message) { m.Text = "caf\xe9" }, "Text"},
		{"NUL in the HTML", func(m *Message) { m.HTML = "\x00" }, "HTML"},
		{"HTML in UTF-16", func(m *Message) { m.HTML = "\xff\xfe<" }, "HTML"},
		{"key with a line break", func(m *Message) { m.Key = "a\n" }, "Key"},
		{"long key", func(m *Message) { m.Key = strings.Repeat("k", 256) }, "Key"},
		{"key in Latin-1", func(m *Message) { m.Key = "\xe9" }, "Key"},
		{"route with a space", func(m *Message) { m.Route = "a b" }, "Route"},
		{"route with a NUL", func(m *Message) { m.Route = "a\x00" }, "Route"},
		{"long route", func(m *Message) { m.Route = strings.Repeat("r", 64) }, "Route"},
		{"route", func(m *Message) { m.Route = "EU.bulk_2-b" }, ""},
		{"unknown priority", func(m *Message) { m.Priority = "urgent" }, "Priority"},
		{"unknown policy", func(m *Message) { m.OnUncertain = "ask" }, "OnUncertain"},
		{"already expired", func(m *Message) { m.Expires = now.Add(-time.Second) }, "Expires"},
		{"expires before it may be sent", func(m *Message) { m.NotBefore, m.Expires = now.Add(2*time.Hour), now.Add(time.Hour) }, "Expires"},
		{"expires when it may be sent", func(m *Message) {
			m.NotBefore = now.Add(time.Hour)
			m.Expires = m.NotBefore
		}, "Expires"},
		{"expires too late", func(m *Message) { m.Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "Expires"},
		{"scheduled too early", func(m *Message) { m.NotBefore = time.Unix(math.MinInt32*4, 0) }, "NotBefore"},
		{"scheduled too late", func(m *Message) { m.NotBefore = time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC) }, "NotBefore"},
		{"empty tag", func(m *Message) { m.Tags = []string{""} }, "Tags"},
		{"tag with a line break", func(m *Message) { m.Tags = []string{"a\r\nX: y"} }, "Tags"},
		{"long tag", func(m *Message) { m.Tags = []string{strings.Repeat("t", 129)} }, "Tags"},
		{"many tags", func(m *Message) { m.Tags = strings.Split(strings.Repeat("t", 21), "") }, "Tags"},
		{"empty metadata key", func(m *Message) { m.Metadata = map[string]string{"": "v"} }, "Metadata"},
		{"control in a metadata key", func(m *Message) { m.Metadata = map[string]string{"a\tb": "v"} }, "Metadata"},
		{"NUL in a metadata value", func(m *Message) { m.Metadata = map[string]string{"k": "\x00"} }, "Metadata"},
		{"large metadata", func(m *Message) { m.Metadata = map[string]string{"k": strings.Repeat("v", 8<<10)} }, "Metadata"},
		{"much metadata", func(m *Message) {
			m.Metadata = make(map[string]string)
			for i := range 51 {
				m.Metadata[strconv.Itoa(i)] = "v"
			}
		}, "Metadata"},
		{"attachment without a name", func(m *Message) { m.Attachments = []Attachment{{}} }, "Attachments"},
		{"path as a name", func(m *Message) { m.Attachments = []Attachment{{Name: "../../etc/passwd"}} }, "Attachments"},
		{"Windows path as a name", func(m *Message) { m.Attachments = []Attachment{{Name: `a\b`}} }, "Attachments"},
		{"dots as a name", func(m *Message) { m.Attachments = []Attachment{{Name: ".."}} }, "Attachments"},
		{"line break in a file name", func(m *Message) { m.Attachments = []Attachment{{Name: "a\r\nb"}} }, "Attachments"},
		{"long file name", func(m *Message) { m.Attachments = []Attachment{{Name: strings.Repeat("n", 256)}} }, "Attachments"},
		{"bad content type", func(m *Message) { attachType(m, "text") }, "Attachments"},
		{"line break in a content type", func(m *Message) { attachType(m, "text/plain\r\nX: y") }, "Attachments"},
		{"multipart as an attachment", func(m *Message) { attachType(m, "multipart/mixed") }, ""},
		{"name and other parameters in a content type", func(m *Message) { attachType(m, `text/plain; name="x"; a=b`) }, ""},
		{"content type in UTF-8", func(m *Message) { attachType(m, `text/plain; x="é"`) }, "Attachments"},
		{"content id in brackets", func(m *Message) { m.Attachments = []Attachment{{ContentID: "<logo>"}} }, "Attachments"},
		{"content id with a line break", func(m *Message) { m.Attachments = []Attachment{{ContentID: "logo\r\nX: y"}} }, "Attachments"},
		{"content id with two @", func(m *Message) { m.Attachments = []Attachment{{ContentID: "a@b@c"}} }, "Attachments"},
		{"content id twice", func(m *Message) { m.Attachments = []Attachment{{ContentID: "a"}, {ContentID: "a"}} }, "Attachments"},
		{"forwarded message in 8 bits", func(m *Message) { attachMessage(m, "Subject: x\n\n\xe9") }, ""},
		{"forwarded message with a long line", func(m *Message) { attachMessage(m, "Subject: x\n\n"+strings.Repeat("x", 999)) }, ""},
		{"too large", func(m *Message) { m.Attachments = []Attachment{{Name: "a", Data: make([]byte, 26<<20)}} }, "Message"},
		{"too large when encoded", func(m *Message) { m.Attachments = []Attachment{{Name: "a", Data: make([]byte, 20<<20)}} }, "Message"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := valid()
			test.spoil(m)
			if got := check(t, standard, m); got != test.field {
				t.Errorf("the error names %q, want %q", got, test.field)
			}
		})
	}
	if got := check(t, standard, nil); got != "Message" {
		t.Errorf("a nil message: the error names %q", got)
	}
}

func TestHeaderFields(t *testing.T) {
	strict, err := New(Config{AllowHeaders: []string{"x-ses-configuration-set", "X-SMTPAPI"}})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		values []string
		plain  bool // accepted without permission
		strict bool // accepted with AllowHeaders
	}{
		{"X-Note", []string{"a"}, true, true},
		{"X-Note", []string{"a", "b"}, true, true},
		{"X-Note", nil, true, true},
		{"X-Note", []string{""}, true, true},
		{"X-Note", []string{"naïve ☃"}, true, true},
		{"List-Unsubscribe-Post", []string{"List-Unsubscribe=One-Click"}, true, true},
		{"Sender", []string{"Robot <robot@example.com>"}, true, true},
		{"Sender", []string{"a@example.com, b@example.com"}, false, false},
		{"Sender", []string{"a@example.com", "b@example.com"}, false, false},
		{"Sender", []string{""}, false, false},
		{"In-Reply-To", []string{"<a@b>", "<c@d>"}, false, false},
		{"X-Note", []string{"a\r\nBcc: eve@example.net"}, false, false},
		{"X-Note", []string{"a\nb"}, false, false},
		{"X-Note", []string{"a\rb"}, false, false},
		{"X-Note", []string{"a\r\n b"}, false, false},
		{"X-Note", []string{"a\x00b"}, false, false},
		{"X-Note", []string{"a\x7f"}, false, false},
		{"X-Note", []string{"\xff"}, false, false},
		{"X-Note", []string{strings.Repeat("x", 999)}, false, false},
		{"", []string{"a"}, false, false},
		{"X Note", []string{"a"}, false, false},
		{"X-Note:", []string{"a"}, false, false},
		{"X-Note\r\nBcc", []string{"a"}, false, false},
		{"X-Nöte", []string{"a"}, false, false},
		{strings.Repeat("X", 61), []string{"a"}, false, false},
		{"From", []string{"a@b.example"}, false, false},
		{"to", []string{"a@b.example"}, false, false},
		{"Cc", []string{"a@b.example"}, false, false},
		{"BCC", []string{"a@b.example"}, false, false},
		{"Reply-To", []string{"a@b.example"}, false, false},
		{"subject", []string{"a"}, false, false},
		{"DATE", []string{"a"}, false, false},
		{"message-id", []string{"<a@b>"}, false, false},
		{"MIME-Version", []string{"1.0"}, false, false},
		{"Content-Type", []string{"text/plain"}, false, false},
		{"content-language", []string{"en"}, false, false},
		{"X-Outbox-ID", []string{"a"}, false, false},
		{"Resent-To", []string{"a@b.example"}, false, false},
		{"Received", []string{"a"}, false, false},
		{"Return-Path", []string{"<>"}, false, false},
		{"DKIM-Signature", []string{"v=1"}, false, false},
		{"ARC-Seal", []string{"i=1"}, false, false},
		{"X-SMTPAPI", []string{"{}"}, false, true},
		{"x-smtpapi", []string{"{}"}, false, true},
		{"X-SES-CONFIGURATION-SET", []string{"s"}, false, true},
		{"X-SES-MESSAGE-TAGS", []string{"a=1"}, false, false},
		{"X-MSYS-API", []string{"{}"}, false, false},
		{"X-PM-Tag", []string{"a"}, false, false},
		{"X-MC-Tags", []string{"a"}, false, false},
		{"Resend-Idempotency-Key", []string{"a"}, false, false},
		{"X-Mailgun-Drop-Message", []string{"yes"}, false, false},
		{"X-MJ-CustomID", []string{"a"}, false, false},
		{"X-Mailjet-Campaign", []string{"a"}, false, false},
		{"X-Mailin-Tag", []string{"a"}, false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := valid()
			m.Header = map[string][]string{test.name: test.values}
			for _, o := range []struct {
				*Outbox
				want bool
			}{{standard, test.plain}, {strict, test.strict}} {
				switch got := check(t, o.Outbox, m); {
				case o.want && got != "":
					t.Errorf("%q is refused", test.values)
				case !o.want && got != "Header":
					t.Errorf("%q: the error names %q", test.values, got)
				}
			}
		})
	}
}

// TestFieldsOfOneKindInTwoSpellings shows that the case of a name does not get a second field past the check.
func TestFieldsOfOneKindInTwoSpellings(t *testing.T) {
	m := valid()
	m.Header = map[string][]string{"References": {"<a@b>"}, "references": {"<c@d>"}}
	if got := check(t, standard, m); got != "Header" {
		t.Errorf("the error names %q", got)
	}
}

func TestHeaderSize(t *testing.T) {
	o, err := New(Config{MaxHeaderSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	m := valid()
	m.Header = map[string][]string{"X-Note": {strings.Repeat("word ", 250)}}
	if got := check(t, o, m); got != "Header" {
		t.Errorf("one long value: the error names %q", got)
	}
	m.Header = map[string][]string{"X-Note": {strings.Repeat("word ", 90)}, "X-Other": {strings.Repeat("word ", 90)}}
	if got := check(t, o, m); got != "Message" {
		t.Errorf("a long header: the error names %q", got)
	}
}

func TestConfig(t *testing.T) {
	tests := []struct {
		config Config
		field  string
	}{
		{Config{}, ""},
		{Config{From: Address{Address: "a@example.com"}, MessageIDDomain: "Mail.Example.com", MaxSize: 1, MaxRecipients: 1}, ""},
		{Config{From: Address{Name: "nobody"}}, "From"},
		{Config{MessageIDDomain: "exa mple"}, "MessageIDDomain"},
		{Config{MessageIDDomain: "a>\r\nX: y"}, "MessageIDDomain"},
		{Config{MaxSize: -1}, "MaxSize"},
		{Config{MaxHeaderSize: -1}, "MaxHeaderSize"},
		{Config{MaxRecipients: -1}, "MaxRecipients"},
		{Config{AllowHeaders: []string{"Bcc"}}, "AllowHeaders"},
		{Config{AllowHeaders: []string{"X-Note"}}, "AllowHeaders"},
		{Config{AllowHeaders: []string{"X-PM-*:"}}, "AllowHeaders"},
	}
	for i, test := range tests {
		o, err := New(test.config)
		var invalid *InvalidError
		switch {
		case test.field == "":
			if err != nil || o == nil {
				t.Errorf("%d: %v", i, err)
			}
		case !errors.As(err, &invalid) || invalid.Field != test.field || o != nil:
			t.Errorf("%d: %v, %v, want an error about %s", i, o, err, test.field)
		}
	}
}

func TestConfigIsUsed(t *testing.T) {
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	type key struct{}
	o, err := New(Config{
		From: Address{Name: "Shop", Address: "shop@example.com"}, MessageIDDomain: "Mail.Bücher.example", MaxRecipients: 2, MaxSize: 1000,
		TraceParent: func(ctx context.Context) string { s, _ := ctx.Value(key{}).(string); return s },
	})
	if err != nil {
		t.Fatal(err)
	}
	m := valid()
	m.From = Address{}
	d, err := o.draft(context.WithValue(t.Context(), key{}, trace), m, "", o.now())
	if err != nil {
		t.Fatal(err)
	}
	if d.sender != "shop@example.com" || !strings.Contains(string(d.body), "From: \"Shop\" <shop@example.com>\r\n") {
		t.Errorf("sender %q, body %s", d.sender, d.body)
	}
	if want := "<" + string(d.id) + "@mail.xn--bcher-kva.example>"; d.messageID != want {
		t.Errorf("Message-ID %s, want %s", d.messageID, want)
	}
	if d.traceParent != trace {
		t.Errorf("traceparent %q", d.traceParent)
	}
	for _, bad := range []string{
		"", "x", trace + "0", strings.ToUpper(trace), "ff" + trace[2:], strings.ReplaceAll(trace, "-", "_"),
		"00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
	} {
		if d, err := o.draft(context.WithValue(t.Context(), key{}, bad), m, "", o.now()); err != nil || d.traceParent != "" {
			t.Errorf("traceparent %q is kept as %q (%v)", bad, d.traceParent, err)
		}
	}
	m.To = manyAddresses(3)
	if got := check(t, o, m); got != "To" {
		t.Errorf("three recipients: the error names %q", got)
	}
	m = valid()
	m.Text = strings.Repeat("x\n", 400)
	if got := check(t, o, m); got != "Message" {
		t.Errorf("a large message: the error names %q", got)
	}
}

func TestStoredForm(t *testing.T) {
	at := time.Date(2030, 5, 6, 9, 8, 9, 123_000_001, time.FixedZone("", 2*3600))
	m := valid()
	m.To = []Address{{Address: "Ann@Example.ORG"}, {Name: "Ann", Address: "Ann@example.org"}, {Address: "ann@example.org"}}
	m.Cc = []Address{{Address: "bob@example.org"}}
	m.Bcc = []Address{{Address: "bob@EXAMPLE.org"}, {Address: "eve+tag@example.org"}}
	m.NotBefore, m.Expires = at, at.Add(time.Hour)
	m.Tags, m.Metadata = []string{"a<b", "é"}, map[string]string{"b": "2", "a": "1"}
	d, err := standard.draft(t.Context(), m, "", standard.now())
	if err != nil {
		t.Fatal(err)
	}
	if err := standard.seal(d); err != nil {
		t.Fatal(err)
	}
	args, err := d.args(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(args) != columns {
		t.Fatalf("%d arguments for %d columns", len(args), columns)
	}
	want := []any{
		string(d.id), "<" + string(d.id) + "@example.com>", nil, "default", "normal", "shop@example.com",
		`["Ann@example.org","ann@example.org","bob@example.org","eve+tag@example.org"]`,
		"Hello", int64(len(d.body)), "2030-05-06T07:08:09.124Z", "2030-05-06T08:08:09.123Z", "resend",
		`["a\u003cb","é"]`, `{"a":"1","b":"2"}`, nil, nil,
	}
	for i, w := range want {
		if args[i] != w {
			t.Errorf("argument %d is %#v, want %#v", i+1, args[i], w)
		}
	}
	if body, ok := args[16].([]byte); !ok || len(body) == 0 {
		t.Errorf("the body is %T", args[16])
	}
	m.EnvelopeFrom, m.Key, m.Priority, m.OnUncertain, m.Route = "<>", "k", Bulk, Hold, "slow"
	if d, err = standard.draft(t.Context(), m, "", standard.now()); err != nil {
		t.Fatal(err)
	}
	if args, err = d.args(nil); err != nil {
		t.Fatal(err)
	}
	for i, w := range map[int]any{2: "k", 3: "slow", 4: "bulk", 5: "", 11: "hold"} {
		if args[i] != w {
			t.Errorf("argument %d is %#v, want %#v", i+1, args[i], w)
		}
	}
	for i, arg := range args {
		switch arg.(type) {
		case nil, string, int64, []byte:
		default:
			t.Errorf("argument %d is a %T, which drivers do not agree about", i+1, arg)
		}
	}
}
