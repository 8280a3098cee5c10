package outbox_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/mail"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	gomail "github.com/emersion/go-message/mail"
	"pgregory.net/rapid"

	"github.com/outboxmail/outbox"
)

// found is what a reader finds in a message.
type found struct {
	Subject    string              `json:"subject"`
	Note       string              `json:"note"`     // of X-Note
	Keywords   string              `json:"keywords"` // with ", " between them
	Lists      map[string][]string `json:"lists"`    // names and addresses in turn, by field
	References []string            `json:"references"`
	InReplyTo  []string            `json:"in_reply_to"`
	ListURLs   []string            `json:"list_urls"` // of List-Unsubscribe
	Files      []string            `json:"files"`
}

// addressFields are those that found.Lists has. A name stands before <identifier> in List-Id as in an address.
var addressFields = []string{"From", "To", "Cc", "Reply-To", "Sender", "Errors-To", "Mail-Followup-To", "X-Owner", "List-Id"}

// reader reads a message.
type reader func(t *rapid.T, body []byte) found

// TestRoundTrip renders random messages and reads them with three parsers that others wrote: each must find what was put in.
func TestRoundTrip(t *testing.T) {
	readers := map[string]reader{"net/mail": readWithNetMail, "go-message": readWithGoMessage}
	if python := startPython(t); python != nil {
		readers["Python"] = python
	}
	rapid.Check(t, func(t *rapid.T) {
		msg, want := drawMessage(t)
		r, err := outbox.Render(msg, "", time.Time{})
		if err != nil {
			t.Fatalf("%v: %+v", err, msg)
		}
		if _, err := outbox.Render(&outbox.Message{Raw: r.Body}, "", time.Time{}); err != nil {
			t.Fatalf("as a complete message: %v\n%s", err, r.Body)
		}
		for name, read := range readers {
			if got := read(t, r.Body); !reflect.DeepEqual(got, want) {
				t.Fatalf("%s reads\n%+v, want\n%+v\n%s", name, got, want, r.Body)
			}
		}
	})
}

// TestRawRoundTrip sends random complete messages: their bytes stay, and the envelope is what the readers find in the header.
func TestRawRoundTrip(t *testing.T) {
	python := startPython(t)
	rapid.Check(t, func(t *rapid.T) {
		raw, from, to, plain := drawRaw(t)
		r, err := outbox.Render(&outbox.Message{Raw: []byte(raw)}, "", time.Time{})
		if err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		if !strings.HasSuffix(string(r.Body), strings.ReplaceAll(raw, "Bcc: hidden@example.com\r\n", "")) {
			t.Fatalf("%q becomes %q", raw, r.Body)
		}
		if r.Sender != from || !reflect.DeepEqual(r.Recipients, append(to, "hidden@example.com")) {
			t.Fatalf("from %s to %q, want %s and %q: %s", r.Sender, r.Recipients, from, to, raw)
		}
		if python != nil {
			checkEnvelope(t, "Python", python(t, r.Body), from, to)
		}
		if plain {
			checkEnvelope(t, "net/mail", readWithNetMail(t, r.Body), from, to)
			checkEnvelope(t, "go-message", readWithGoMessage(t, r.Body), from, to)
		}
	})
}

// checkEnvelope compares the addresses that a reader finds with those of the envelope.
func checkEnvelope(t *rapid.T, name string, got found, from string, to []string) {
	t.Helper()
	var addresses []string
	for i := 1; i < len(got.Lists["To"]); i += 2 {
		addresses = append(addresses, got.Lists["To"][i])
	}
	if !reflect.DeepEqual(addresses, to) || got.Lists["From"][1] != from {
		t.Fatalf("%s finds from %q to %q, want %s and %q", name, got.Lists["From"], addresses, from, to)
	}
}

// Characters of many kinds: what headers use as syntax, scripts, marks that join, and all widths of UTF-8.
var letters = []rune(`abcXYZ 019 ,;:<>()[]"\@.=?_!#$%&'*+-/^{|}~` + "äéßñÅ łžй жаλφ ע אש سل हि க 名前 長件 한글 あア é \u0301\u200d\u2026€ 🎉👩‍💻🇨🇭")

// drawText draws text without white space at its ends or twice in a row, which readers may fold.
func drawText(most int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		runes := rapid.SliceOfN(rapid.SampledFrom(letters), 1, most).Draw(t, "text")
		text := strings.Join(strings.Fields(string(runes)), " ")
		if text == "" {
			return "x"
		}
		return text
	})
}

// drawAddress draws an address in canonical form.
func drawAddress() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		local := rapid.OneOf(
			rapid.StringMatching("[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[a-zA-Z0-9+=-]{1,60}){0,3}"),
			rapid.SampledFrom([]string{`"john doe"`, `"a..b"`, `".x."`, `"a, b"`, `"(c)"`, `"a:b;c"`, `"a@b"`}),
		).Draw(t, "local part")
		return local + "@" + rapid.StringMatching("[a-z0-9]{1,20}(-[a-z0-9]{1,10})?(\\.[a-z]{2,20}){1,3}").Draw(t, "domain")
	})
}

// drawMessage draws a message and what a reader must find in it.
func drawMessage(t *rapid.T) (*outbox.Message, found) {
	want := found{Lists: map[string][]string{}}
	m := &outbox.Message{Text: "text", Header: map[string][]string{}}
	addresses := func(field string, least, most int) (list []outbox.Address) {
		for range rapid.IntRange(least, most).Draw(t, field) {
			a := outbox.Address{Address: drawAddress().Draw(t, "address")}
			if rapid.Bool().Draw(t, "named") {
				a.Name = drawText(60).Draw(t, "name")
			}
			list = append(list, a)
			want.Lists[field] = append(want.Lists[field], a.Name, a.Address)
		}
		return list
	}
	m.From = addresses("From", 1, 1)[0]
	m.To, m.Cc, m.ReplyTo = addresses("To", 1, 4), addresses("Cc", 0, 2), addresses("Reply-To", 0, 2)
	for field, most := range map[string]int{"Sender": 1, "Errors-To": 2, "Mail-Followup-To": 5, "X-Owner": 3} {
		// As a person writes it: names are quoted and in the script that they have.
		list := addresses(field, 0, most)
		written := make([]string, len(list))
		for i, a := range list {
			if written[i] = a.Address; a.Name != "" {
				written[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a.Name) + `" <` + a.Address + ">"
			}
		}
		if len(list) > 0 {
			m.Header[field] = []string{strings.Join(written, ", ")}
		}
	}
	if rapid.Bool().Draw(t, "List-Id") {
		name, id := drawText(60).Draw(t, "name"), rapid.StringMatching("[a-z_]{1,20}(\\.[a-z]{2,20}){1,3}").Draw(t, "id")
		want.Lists["List-Id"] = []string{name, id}
		m.Header["List-Id"] = []string{`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(name) + `" <` + id + ">"}
	}
	if rapid.Bool().Draw(t, "subject") {
		m.Subject = drawText(200).Draw(t, "subject")
		want.Subject = m.Subject
	}
	if rapid.Bool().Draw(t, "note") {
		// A caller may write encoded words, and what looks like an address without being ASCII is refused.
		want.Note = strings.NewReplacer("=?", "=", "@", "", "<", "").Replace(drawText(300).Draw(t, "note")) + "ü"
		want.Note = strings.Join(strings.Fields(want.Note), " ")
		if rapid.Bool().Draw(t, "with an address") {
			want.Note += " ann@example.org <b@example.org> " + drawText(5).Filter(func(s string) bool {
				return !strings.ContainsAny(s, "@<=")
			}).Draw(t, "behind it")
		}
		m.Header["X-Note"] = []string{want.Note}
	}
	if rapid.Bool().Draw(t, "keywords") {
		list := rapid.SliceOfN(rapid.StringMatching("[a-zä名]{1,10}( [a-zé件]{1,10})?"), 1, 30).Draw(t, "keywords")
		want.Keywords = strings.Join(list, ", ")
		m.Header["Keywords"] = []string{want.Keywords}
	}
	ids := rapid.StringMatching("<[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]{1,60}@[a-z0-9.-]{1,40}>")
	m.References = rapid.SliceOfN(ids, 0, 20).Draw(t, "references")
	if rapid.Bool().Draw(t, "answers") {
		m.InReplyTo = ids.Draw(t, "in reply to")
		want.InReplyTo = []string{m.InReplyTo}
	}
	if want.References = m.References; len(m.References) == 0 {
		want.References = want.InReplyTo
	}
	if rapid.Bool().Draw(t, "unsubscribe") {
		m.Unsubscribe.URL = "https://example.com/" + rapid.StringMatching("[a-zA-Z0-9?=&%_.~-]{0,200}").Filter(func(s string) bool {
			return !strings.Contains(s, "%")
		}).Draw(t, "path")
		want.ListURLs = []string{m.Unsubscribe.URL}
	}
	for range rapid.IntRange(0, 2).Draw(t, "files") {
		name := strings.NewReplacer("/", "", `\`, "", "=?", "").Replace(drawText(80).Draw(t, "file")) + ".x"
		for len(name) > 255 {
			name = name[len(name)/2:]
		}
		name = strings.ToValidUTF8(strings.TrimSpace(name), "")
		m.Attachments = append(m.Attachments, outbox.Attachment{Name: name, Data: []byte("data")})
		want.Files = append(want.Files, name)
	}
	return m, want
}

// drawRaw draws a complete message whose address fields have comments, groups, folds and quotes. plain says that net/mail knows the
// syntax, which has no comments between the parts of an address.
func drawRaw(t *rapid.T) (raw, from string, to []string, plain bool) {
	plain = rapid.Bool().Draw(t, "plain")
	space := func() string {
		options := []string{" ", "  ", "\r\n ", "\r\n\t"}
		if !plain {
			options = append(options, " (comment) ", "(a (nested \\) one))", "\r\n (=?utf-8?q?=C3=BC?=) ")
		}
		return rapid.SampledFrom(options).Draw(t, "space")
	}
	maybe := func() string {
		if rapid.Bool().Draw(t, "maybe") {
			return space()
		}
		return ""
	}
	mailbox := func() (text, addr string) {
		addr = drawAddress().Draw(t, "address")
		local, domain, _ := cutLast(addr)
		inner := addr
		if !plain {
			inner = maybe() + local + maybe() + "@" + maybe() + domain + maybe()
		}
		name := rapid.SampledFrom([]string{"", "Ann", "Ann B. C", `"Ann, B"`, `"<x@y>"`, "=?utf-8?q?J=C3=B6rg?=", `"a\"b"`}).Draw(t, "name")
		if name == "" && rapid.Bool().Draw(t, "bare") {
			return inner, addr
		}
		return name + space() + "<" + inner + ">" + maybe(), addr
	}
	list := func(least, most int) string {
		texts := make([]string, rapid.IntRange(least, most).Draw(t, "mailboxes"))
		for i := range texts {
			text, addr := mailbox()
			texts[i] = maybe() + text + maybe()
			to = append(to, addr)
		}
		return strings.Join(texts, ",")
	}
	author, from := mailbox()
	head := "From: " + author + "\r\nTo: " + list(1, 3)
	if rapid.Bool().Draw(t, "group") {
		head += ", Group: " + list(0, 3) + ";"
	}
	var unique []string
	seen := map[string]bool{}
	for _, addr := range to {
		if !seen[addr] {
			unique = append(unique, addr)
		}
		seen[addr] = true
	}
	if len(unique) < len(to) {
		t.Skip("an address is there twice")
	}
	head = blankLine.ReplaceAllString(head+"\r\n", "\r\n")
	body := strings.ReplaceAll(drawText(100).Draw(t, "body"), ".", "\r\n.")
	return head + "Bcc: hidden@example.com\r\nSubject: x\r\n\r\n" + body + "\r\n", from, to, plain
}

// blankLine is what folds beside one another leave, and a message must not have.
var blankLine = regexp.MustCompile(`\r\n([ \t]*\r\n)+`)

func cutLast(s string) (local, domain string, ok bool) {
	i := strings.LastIndexByte(s, '@')
	return s[:i], s[i+1:], i >= 0
}

// readWithNetMail reads with net/mail and mime.
func readWithNetMail(t *rapid.T, body []byte) found {
	m, err := mail.ReadMessage(bytes.NewReader(body))
	if err != nil {
		t.Fatalf("net/mail: %v", err)
	}
	decode := func(key string) string {
		s, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get(key))
		if err != nil {
			t.Fatalf("net/mail: %s: %v", key, err)
		}
		return s
	}
	got := found{
		Subject: decode("Subject"), Note: decode("X-Note"), Keywords: decode("Keywords"), Lists: map[string][]string{},
		References: fieldsOf(m.Header.Get("References")), InReplyTo: fieldsOf(m.Header.Get("In-Reply-To")),
		ListURLs: urlsOf(m.Header.Get("List-Unsubscribe")),
	}
	for _, key := range addressFields {
		value := m.Header.Get(key)
		if value == "" {
			continue
		}
		if key == "List-Id" { // an address to this reader once it has an @
			value = strings.TrimSuffix(value, ">") + "@list>"
		}
		list, err := mail.ParseAddressList(value)
		if err != nil {
			t.Fatalf("net/mail: %s: %v\n%s", key, err, body)
		}
		got.Lists[key] = flat(list, key)
	}
	got.Files = filesOf(t, body)
	return got
}

// flat lists names and addresses, in canonical form, in turn.
func flat(list []*mail.Address, key string) (all []string) {
	for _, a := range list {
		addr := strings.Trim((&mail.Address{Address: a.Address}).String(), "<>")
		if key == "List-Id" {
			addr = strings.TrimSuffix(addr, "@list")
		}
		all = append(all, a.Name, addr)
	}
	return all
}

func fieldsOf(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Fields(s)
}

func urlsOf(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.NewReplacer("<", "", ">", "").Replace(s), ", ")
}

// readWithGoMessage reads with go-message.
func readWithGoMessage(t *rapid.T, body []byte) found {
	r, err := gomail.CreateReader(bytes.NewReader(body))
	if err != nil {
		t.Fatalf("go-message: %v", err)
	}
	text := func(key string) string {
		s, err := r.Header.Text(key)
		if err != nil {
			t.Fatalf("go-message: %s: %v", key, err)
		}
		return s
	}
	ids := func(key string) (all []string) {
		list, err := r.Header.MsgIDList(key)
		if err != nil {
			t.Fatalf("go-message: %s: %v", key, err)
		}
		for _, id := range list {
			all = append(all, "<"+id+">")
		}
		return all
	}
	got := found{
		Subject: text("Subject"), Note: text("X-Note"), Keywords: text("Keywords"), Lists: map[string][]string{},
		References: ids("References"), InReplyTo: ids("In-Reply-To"), ListURLs: urlsOf(r.Header.Get("List-Unsubscribe")),
	}
	for _, key := range addressFields {
		if id := r.Header.Get("List-Id"); key == "List-Id" && id != "" {
			r.Header.Set(key, strings.TrimSuffix(id, ">")+"@list>")
		}
		list, err := r.Header.AddressList(key)
		if err != nil {
			t.Fatalf("go-message: %s: %v", key, err)
		}
		if len(list) > 0 {
			got.Lists[key] = flat(list, key)
		}
	}
	got.Files = filesOf(t, body)
	return got
}

// filesOf returns the names of the attachments as go-message reads them, the only reader in Go that knows both forms.
func filesOf(t *rapid.T, body []byte) (names []string) {
	r, err := gomail.CreateReader(bytes.NewReader(body))
	if err != nil {
		t.Fatalf("go-message: %v", err)
	}
	for {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatalf("go-message: %v", err)
		}
		if h, ok := p.Header.(*gomail.AttachmentHeader); ok {
			name, err := h.Filename()
			if err != nil {
				t.Fatalf("go-message: %v", err)
			}
			names = append(names, name)
		}
	}
}

// pythonRoundTrip reads messages from its input, each behind a line with its length, and prints what it finds as a line of JSON.
const pythonRoundTrip = `
import email, json, sys
from email.header import decode_header, make_header
from email.utils import getaddresses, collapse_rfc2231_value

def unfold(m, key):
    return "".join(m.get(key, "").splitlines())

def text(s):
    return str(make_header(decode_header(s))) if s else ""

def addresses(m, key):
    flat = []
    for name, addr in getaddresses([unfold(m, key)]):
        if addr:  # an empty group has an empty one
            flat += [text(name), addr]
    return flat

while line := sys.stdin.buffer.readline():
    m = email.message_from_bytes(sys.stdin.buffer.read(int(line)))
    lists = {key: addresses(m, key) for key in sys.argv[1:] if key in m}
    found = {
        "subject": text(unfold(m, "Subject")), "note": text(unfold(m, "X-Note")), 
        "keywords": text(unfold(m, "Keywords")).replace(" ,", ","),  # make_header puts a space behind an encoded word
        "lists": lists, "references": unfold(m, "References").split() or None, "in_reply_to": unfold(m, "In-Reply-To").split() or None,
        "list_urls": [u.strip(" <>") for u in unfold(m, "List-Unsubscribe").split(",") if u] or None,
        "files": [collapse_rfc2231_value(p.get_filename()) for p in m.walk() if p.get_content_disposition() == "attachment"] or None,
    }
    print(json.dumps(found), flush=True)
`

// startPython starts one process that reads every message. It returns nil where there is no Python.
func startPython(t *testing.T) reader {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Log("python3 is not installed: only readers in Go are asked")
		return nil
	}
	command := exec.CommandContext(t.Context(), python, append([]string{"-c", pythonRoundTrip}, addressFields...)...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	in, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = command.Wait()
	})
	lines := bufio.NewReader(out)
	return func(t *rapid.T, body []byte) found {
		if _, err := fmt.Fprintf(in, "%d\n%s", len(body), body); err != nil {
			t.Fatalf("Python: %v\n%s", err, stderr.String())
		}
		line, err := lines.ReadBytes('\n')
		if err != nil {
			t.Fatalf("Python: %v\n%s", err, stderr.String())
		}
		var got found
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("Python: %v", err)
		}
		return got
	}
}
