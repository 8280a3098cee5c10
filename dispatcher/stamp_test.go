package dispatcher

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/mail"
	"slices"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

const stampID = "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"

const stampBody = "From: a@example.com\r\nSubject: x\r\n\r\nX-SMTPAPI: in the body\r\n"

func profile(tb testing.TB, name string) *smtpx.Profile {
	tb.Helper()
	p, ok := smtpx.LookupProfile(name)
	if !ok {
		tb.Fatalf("there is no profile %s", name)
	}
	return p
}

func claimedFor(tags []string, metadata map[string]string) *queue.Claimed {
	return &queue.Claimed{
		ID: stampID, Tags: tags, Metadata: metadata, Deliveries: []queue.ClaimedDelivery{{Seq: 2}, {Seq: 1}},
	}
}

// stamped returns the added fields, unfolded, and checks that everything else is unchanged.
func stamped(tb testing.TB, p *smtpx.Profile, c *queue.Claimed, body string) []string {
	tb.Helper()
	out := stamp(p, c, []byte(body))
	if !bytes.Equal(out, stamp(p, c, []byte(body))) {
		tb.Fatalf("%s: twice is not the same", p.Name)
	}
	head, ok := strings.CutSuffix(string(out), body)
	if !ok {
		tb.Fatalf("%s: the message was changed:\n%q", p.Name, out)
	}
	for line := range strings.Lines(head) {
		if !strings.HasSuffix(line, "\r\n") || len(line) > longest+2 {
			tb.Fatalf("%s: the line %q", p.Name, line)
		}
		for _, c := range strings.TrimSuffix(line, "\r\n") {
			if c < ' ' || c > '~' {
				tb.Fatalf("%s: %q in the line %q", p.Name, c, line)
			}
		}
	}
	fields := strings.Split(strings.TrimSuffix(strings.ReplaceAll(head, "\r\n ", " "), "\r\n"), "\r\n")
	return fields
}

func TestStamp(t *testing.T) {
	tags := []string{"welcome", "new, user", "ünï"}
	metadata := map[string]string{"user": "4711", "note": "two words, \"quoted\" é 😀", "_rcpt": "eve@example.com", "a key": "x"}
	const id = "X-Outbox-ID: " + stampID
	const note = `"note": "two\u0020words,\u0020\"quoted\"\u0020\u00e9\u0020\ud83d\ude00"`
	const all = `{"outbox_id": "` + stampID + `", "_rcpt": "eve@example.com", "a\u0020key": "x", ` + note + `, "user": "4711"}`
	for name, want := range map[string][]string{
		"generic": {id},
		"brevo":   {id}, // its facts are uncertain
		"gmail":   {id}, // its Feedback-ID needs an identifier of the sender
		"ses": {id, "X-SES-MESSAGE-TAGS: outbox_id=" + stampID + ", tag=welcome, tag2=new__user, tag3=_n_, _rcpt=eve_example_com, " +
			"a_key=x, note=two_words___quoted_____, user=4711"},
		"sendgrid": {id, `X-SMTPAPI: {"unique_args": ` + all + `, "category": ["welcome", "new,\u0020user", "_n_"]}`},
		"mailgun":  {id, "X-Mailgun-Tag: welcome", "X-Mailgun-Tag: new, user", "X-Mailgun-Tag: _n_", "X-Mailgun-Variables: " + all},
		"postmark": {
			id, "X-PM-Tag: welcome", "X-PM-Metadata-outbox_id: " + stampID, "X-PM-Metadata-_rcpt: eve@example.com",
			`X-PM-Metadata-note: two words, "quoted" _ _`, "X-PM-Metadata-user: 4711", "X-PM-KeepID: true",
		},
		"sparkpost": {id, `X-MSYS-API: {"metadata": ` + all + "}"},
		"mailjet":   {id, "X-Mailjet-Campaign: welcome", "X-MJ-EventPayload: " + all},
		"mandrill": {id, "X-MC-Tags: welcome, new_ user, n_", `X-MC-Metadata: {"outbox_id": "` + stampID + `", "a\u0020key": "x", ` + note +
			`, "user": "4711"}`},
		"resend": {id, "Resend-Idempotency-Key: " + stampID + "/1/2"},
	} {
		if got := stamped(t, profile(t, name), claimedFor(tags, metadata), stampBody); !slices.Equal(got, want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Without tags and metadata only IDs are added.
func TestStampOfLittle(t *testing.T) {
	for _, p := range smtpx.Profiles() {
		for _, f := range stamped(t, p, claimedFor(nil, nil), stampBody) {
			if !strings.Contains(f, stampID) && f != "X-PM-KeepID: true" {
				t.Errorf("%s adds %q", p.Name, f)
			}
		}
	}
}

// A field is not added if the message has it or if one of its signatures covers it.
func TestStampLeavesWhatIsThere(t *testing.T) {
	c := claimedFor([]string{"welcome"}, map[string]string{"user": "1"})
	own := "X-smtpapi: {\"category\": \"mine\"}\r\n" + stampBody
	if got := stamped(t, profile(t, "sendgrid"), c, own); len(got) != 1 {
		t.Errorf("beside the message's own: %q", got)
	}
	signed := "DKIM-Signature: v=1; a=rsa-sha256; d=example.com;\r\n\th=From : Subject:\r\n\t x-pm-tag; bh=x; b=y\r\n" + stampBody
	got := stamped(t, profile(t, "postmark"), c, signed)
	if slices.ContainsFunc(got, func(f string) bool { return strings.HasPrefix(f, "X-PM-Tag") }) || len(got) != 4 {
		t.Errorf("beside a signature that covers X-PM-Tag: %q", got)
	}
}

func TestStampKeepsToLimits(t *testing.T) {
	many, long := make([]string, 20), make(map[string]string)
	for i := range many {
		many[i] = fmt.Sprint(i, strings.Repeat("t", 120))
	}
	for i := range 50 {
		long[fmt.Sprint("key", i)] = strings.Repeat("é", 60)
	}
	c := claimedFor(many, long)
	for _, p := range smtpx.Profiles() {
		fields := stamped(t, p, c, stampBody)
		tags := 0
		for _, f := range fields {
			name, value, _ := strings.Cut(f, ": ")
			switch name {
			case "X-Mailgun-Tag", "X-PM-Metadata-outbox_id":
				tags++
			case "X-MC-Metadata":
				if len(value) > mandrillBytes || !json.Valid([]byte(value)) {
					t.Errorf("%d bytes: %s", len(value), value)
				}
			case "X-SES-MESSAGE-TAGS":
				if len(value) > sesBytes || strings.Count(value, "=") > sesNames {
					t.Errorf("%d bytes: %s", len(value), value)
				}
			case "X-SMTPAPI", "X-MSYS-API", "X-MJ-EventPayload", "X-Mailgun-Variables":
				if !json.Valid([]byte(value)) || !strings.Contains(value, stampID) || len(value) > sendGridBytes+20+sendGridTags*(sendGridTag+4) {
					t.Errorf("%s: %d bytes: %s", name, len(value), value)
				}
			}
		}
		if tags > mailgunTags {
			t.Errorf("%s: %d tags", p.Name, tags)
		}
		if p.Name == postmark && len(fields) != 3+postmarkFields {
			t.Errorf("%d fields for Postmark", len(fields))
		}
	}
	// Values that do not fit on a line are left out. The rest stays.
	c = claimedFor(nil, map[string]string{"a": strings.Repeat("x", 2000), "b": "kept"})
	if got := stamped(t, profile(t, "sendgrid"), c, stampBody); len(got) != 2 || !strings.Contains(got[1], `"b": "kept"`) {
		t.Errorf("a value that is longer than a line: %q", got)
	}
}

// The provider drops a transaction with the key of another one. No two transactions may share a key, whatever their messages
// and recipients.
func TestIdempotencyKey(t *testing.T) {
	many := make([]int, 100)
	for i := range many {
		many[i] = i
	}
	key := func(id outbox.ID, k string, seqs ...int) string {
		c := &queue.Claimed{ID: id, IdempotencyKey: k}
		for _, s := range seqs {
			c.Deliveries = append(c.Deliveries, queue.ClaimedDelivery{Seq: s})
		}
		return idempotencyKey(c, resendKey)
	}
	const other = "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b12"
	if got := key(stampID, "order-1", 1); got != stampID+"/1" {
		t.Errorf("key %q", got)
	}
	seen := map[string]bool{}
	for _, k := range []string{
		key(stampID, "x", 0, 1), key(other, "x/0", 1), key(stampID, "x", 1), key(other, "x", 0, 1), key(stampID, "x", 11), key(stampID, "x", 1, 1, 1),
		key(stampID, "", many...), key(stampID, "", many[1:]...), key(other, "", many...),
	} {
		if len(k) > resendKey || strings.ContainsFunc(k, func(r rune) bool { return r <= ' ' || r > '~' }) || seen[k] {
			t.Errorf("%q is too long, not plain, or was there", k)
		}
		seen[k] = true
	}
	if key(stampID, "", 2, 1) != key(stampID, "", 1, 2) {
		t.Error("the order of the recipients counts")
	}
}

// FuzzStamp checks that no value of tags, metadata or keys becomes a field, and that JSON fields carry the given values.
func FuzzStamp(f *testing.F) {
	f.Add("welcome", "user", "4711", "order-1")
	f.Add("a\r\nBcc: eve@example.com", "x\r\n\r\nbody", "\r\n.\r\n", "k\nX: y")
	f.Add(`","to":["eve@example.com"],"x":"`, `"}`, "\\", "\x00")
	f.Add("é😀\u2028", "_rcpt", strings.Repeat("=", 2000), strings.Repeat("k", 300))
	f.Add(" , ,", " ", "a,b=c", "outbox_id")
	f.Fuzz(func(t *testing.T, tag, name, value, key string) {
		c := claimedFor([]string{tag, "second"}, map[string]string{name: value, "second": "kept"})
		c.IdempotencyKey = key
		for _, p := range smtpx.Profiles() {
			fields := stamped(t, p, c, stampBody)
			known := map[string]bool{
				"X-Outbox-ID": true, "X-SES-MESSAGE-TAGS": true, "X-SMTPAPI": true, "X-Mailgun-Tag": true, "X-Mailgun-Variables": true,
				"X-PM-Tag": true, "X-PM-KeepID": true, "X-MSYS-API": true, "X-Mailjet-Campaign": true, "X-MJ-EventPayload": true,
				"X-MC-Tags": true, "X-MC-Metadata": true, "Resend-Idempotency-Key": true,
			}
			for _, field := range fields {
				name, value, _ := strings.Cut(field, ":")
				if !known[name] && !strings.HasPrefix(name, "X-PM-Metadata-") {
					t.Fatalf("%s: the field %q", p.Name, field)
				}
				checkJSON(t, name, value)
			}
			out := stamp(p, c, []byte(stampBody))
			m, err := mail.ReadMessage(bytes.NewReader(out))
			if err != nil {
				t.Fatalf("%s: %v\n%q", p.Name, err, out)
			}
			n := 0
			for _, v := range m.Header {
				n += len(v)
			}
			if n != len(fields)+2 {
				t.Fatalf("%s: %d fields, want %d: %v", p.Name, n, len(fields)+2, slices.Sorted(maps.Keys(m.Header)))
			}
		}
	})
}

// checkJSON checks that a field with JSON has only the intended members.
func checkJSON(t *testing.T, name, value string) {
	t.Helper()
	var places []string
	switch name {
	case "X-SMTPAPI":
		places = []string{"unique_args", "category"}
	case "X-MSYS-API":
		places = []string{"metadata"}
	case "X-Mailgun-Variables", "X-MJ-EventPayload", "X-MC-Metadata":
		var flat map[string]string
		if err := json.Unmarshal([]byte(value), &flat); err != nil || flat[outboxID] != stampID {
			t.Fatalf("%s: %v: %s", name, err, value)
		}
		return
	default:
		return
	}
	var v map[string]any
	if err := json.Unmarshal([]byte(value), &v); err != nil {
		t.Fatalf("%s: %v: %s", name, err, value)
	}
	for k := range v {
		if !slices.Contains(places, k) {
			t.Fatalf("%s has %q: %s", name, k, value)
		}
	}
}

// A body with enough capacity is stamped in place, so that a large one is not in memory twice.
func TestStampCopiesNoLargeBody(t *testing.T) {
	body := append(make([]byte, 0, len(stampBody)+8<<10), stampBody...)
	out := stamp(profile(t, "sendgrid"), claimedFor([]string{"welcome"}, map[string]string{"order": "17"}), body)
	if &out[0] != &body[0] || !strings.HasSuffix(string(out), stampBody) || len(out) == len(stampBody) {
		t.Errorf("stamped elsewhere, or to %q", out)
	}
}
