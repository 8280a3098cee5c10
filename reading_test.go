package outbox

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"path"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/internal/letter"
)

// reading is what a reader finds in a message.
type reading struct {
	Subject string     `json:"subject"`
	From    []string   `json:"from"` // name and address in turn
	To      []string   `json:"to"`
	Parts   []leafPart `json:"parts"`
}

// leafPart is a part that is not a multipart.
type leafPart struct {
	Type     string `json:"type"`
	File     string `json:"file"`
	ID       string `json:"id"`
	Digest   string `json:"digest"` // of the content
	Parent   string `json:"parent"` // type of the multipart around it, empty for none
	Inline   bool   `json:"inline"`
	Encoding string `json:"encoding"`
}

// digest names content: text by what it says, so that a last line break does not matter.
func digest(mediaType string, data []byte) string {
	if mediaType == "text/plain" || mediaType == "text/html" || mediaType == "text/calendar" {
		data = bytes.TrimRight(bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n")), "\n")
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// readWithStd reads a message with net/mail and mime/multipart.
func readWithStd(t *testing.T, data []byte) reading {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatalf("net/mail: %v", err)
	}
	decoder := new(mime.WordDecoder)
	var r reading
	if r.Subject, err = decoder.DecodeHeader(m.Header.Get("Subject")); err != nil {
		t.Fatalf("subject: %v", err)
	}
	r.From, r.To = readAddresses(t, m.Header, "From"), readAddresses(t, m.Header, "To")
	readPart(t, &r, textproto.MIMEHeader(m.Header), m.Body, "")
	return r
}

func readAddresses(t *testing.T, h mail.Header, key string) []string {
	t.Helper()
	if h.Get(key) == "" {
		return nil
	}
	list, err := h.AddressList(key)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	var flat []string
	for _, a := range list {
		flat = append(flat, a.Name, a.Address)
	}
	return flat
}

func readPart(t *testing.T, r *reading, h textproto.MIMEHeader, body io.Reader, parent string) {
	t.Helper()
	mediaType, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		t.Fatalf("content type %q: %v", h.Get("Content-Type"), err)
	}
	if strings.HasPrefix(mediaType, "multipart/") {
		mr := multipart.NewReader(body, params["boundary"])
		for {
			p, err := mr.NextRawPart()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", mediaType, err)
			}
			readPart(t, r, p.Header, p, mediaType)
		}
	}
	encoding := h.Get("Content-Transfer-Encoding")
	switch encoding {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	case "7bit":
	default:
		t.Fatalf("encoding %q", encoding)
	}
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("%s: %v", mediaType, err)
	}
	p := leafPart{Type: mediaType, Parent: parent, Encoding: encoding, Digest: digest(mediaType, data)}
	p.ID = strings.Trim(h.Get("Content-ID"), "<>")
	if d := h.Get("Content-Disposition"); d != "" {
		disposition, params, err := mime.ParseMediaType(d)
		if err != nil {
			t.Fatalf("disposition %q: %v", d, err)
		}
		p.File, p.Inline = params["filename"], disposition == "inline"
		// Old readers take the name from here.
		if named, err := new(mime.WordDecoder).DecodeHeader(params["name"]); err == nil && named != "" && named != p.File {
			t.Errorf("name %q differs from filename %q", named, p.File)
		}
	}
	r.Parts = append(r.Parts, p)
}

// expected is what a reader should find, taken from the message itself.
func expected(m *Message) reading {
	r := reading{Subject: m.Subject, From: flatten([]Address{m.From}), To: flatten(m.To)}
	var text, html *leafPart
	said := m.Text
	if said == "" {
		said = letter.PlainText(m.HTML)
	}
	if said != "" {
		text = &leafPart{Type: "text/plain", Digest: digest("text/plain", lines(said))}
	}
	if m.HTML != "" {
		html = &leafPart{Type: "text/html", Digest: digest("text/html", lines(m.HTML))}
	}
	var inline, attached []leafPart
	for _, a := range m.Attachments {
		p := leafPart{File: a.Name, ID: a.ContentID, Inline: a.ContentID != "", Parent: "multipart/mixed"}
		p.Type, _, _ = mime.ParseMediaType(a.ContentType)
		if a.ContentType == "" {
			p.Type = typeOf(a.Name)
		}
		data := a.Data
		if a.Open != nil {
			data, _ = readAll(a.Open, 1<<20)
		}
		if p.Type == "message/rfc822" {
			data = lines(string(data))
		}
		p.Digest = digest(p.Type, data)
		if p.Inline && html != nil {
			p.Parent = "multipart/related"
			inline = append(inline, p)
		} else {
			attached = append(attached, p)
		}
	}
	forms := 0
	for _, has := range []bool{text != nil, html != nil, m.Calendar != ""} {
		if has {
			forms++
		}
	}
	mixed := ""
	if len(attached) > 0 && (forms > 0 || len(attached) > 1) {
		mixed = "multipart/mixed"
	}
	around := mixed
	if forms > 1 {
		around = "multipart/alternative"
	}
	for i := range attached {
		attached[i].Parent = mixed
	}
	if text != nil {
		text.Parent = around
		r.Parts = append(r.Parts, *text)
	}
	if html != nil {
		html.Parent = around
		if len(inline) > 0 {
			html.Parent = "multipart/related"
		}
		r.Parts = append(r.Parts, *html)
	}
	r.Parts = append(r.Parts, inline...)
	if m.Calendar != "" {
		r.Parts = append(r.Parts, leafPart{
			Type: "text/calendar", Digest: digest("text/calendar", lines(m.Calendar)), Parent: around,
		})
	}
	r.Parts = append(r.Parts, attached...)
	return r
}

func flatten(list []Address) []string {
	var flat []string
	for _, a := range list {
		m, _ := letter.ParseAddress(a)
		flat = append(flat, a.Name, m.Addr)
	}
	return flat
}

// withoutEncodings leaves out what the sender is free to choose.
func (r reading) withoutEncodings() reading {
	r.Parts = append([]leafPart(nil), r.Parts...)
	for i := range r.Parts {
		r.Parts[i].Encoding = ""
	}
	return r
}

// typeOf is the media type of the names in the samples.
func typeOf(name string) string {
	switch path.Ext(name) {
	case ".pdf":
		return "application/pdf"
	case ".eml":
		return "message/rfc822"
	case ".txt", ".log":
		return "text/plain"
	case ".ics":
		return "text/calendar"
	case ".tif", ".tiff":
		return "image/tiff"
	case ".gif":
		return "image/gif"
	case ".png":
		return "image/png"
	default:
		return "application/octet-stream"
	}
}

// lines puts CRLF for every line break and one at the end.
func lines(s string) []byte {
	s = strings.NewReplacer("\r\n", "\r\n", "\r", "\r\n", "\n", "\r\n").Replace(s)
	return []byte(strings.TrimSuffix(s, "\r\n") + "\r\n")
}
