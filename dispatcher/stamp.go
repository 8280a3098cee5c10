package dispatcher

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
)

// Lengths of a line in a header (RFC 5322 §2.1.1).
const (
	foldAt  = 78
	longest = 998
)

// postmark is the profile of the provider that replaces the Message-ID unless it is asked not to.
const postmark = "postmark"

// idField carries the name of the message in this library through every provider.
const idField = "X-Outbox-ID"

// outboxID is the name under which providers report that id beside tags and metadata.
const outboxID = "outbox_id"

// stamp puts header fields before a message: its id, and tags, metadata and idempotency key in the form that the provider of
// the profile reads. Only facts that are sure are built upon. The fields stand on top, so that nothing that a signature covers
// changes; what the message has already, or what one of its signatures lists, is not added. The same arguments give the same
// bytes. Where the body has the capacity, it is moved within it and not copied.
func stamp(p *smtpx.Profile, c *queue.Claimed, body []byte) []byte {
	s := stamper{taken: fieldsOf(body)}
	s.add(idField, string(c.ID))
	var tags, metadata, idempotency string
	if p.Tags.Sure() {
		tags = p.Tags.Value
	}
	if p.Metadata.Sure() {
		metadata = p.Metadata.Value
	}
	if p.Idempotency.Sure() {
		idempotency = p.Idempotency.Value
	}
	switch {
	case tags == "X-SES-MESSAGE-TAGS":
		s.add(tags, sesTags(c))
	case tags == "X-SMTPAPI":
		s.add(tags, sendGrid(c))
	case tags == "X-Mailgun-Tag":
		s.repeat(tags, shortened(c.Tags, mailgunTags, mailgunTag))
	case tags == "X-PM-Tag" && len(c.Tags) > 0:
		s.add(tags, oneTag(c.Tags[0], postmarkTag))
	case tags == "X-Mailjet-Campaign" && len(c.Tags) > 0:
		s.add(tags, oneTag(c.Tags[0], mailjetCampaign))
	case tags == "X-MC-Tags":
		s.add(tags, mandrillTags(c.Tags))
	}
	switch metadata {
	case "X-Mailgun-Variables":
		s.add(metadata, withID(c, mailgunBytes))
	case "X-PM-Metadata-*":
		s.postmark(strings.TrimSuffix(metadata, "*"), c)
	case "X-MSYS-API":
		s.add(metadata, sparkPost(c))
	case "X-MJ-EventPayload":
		s.add(metadata, withID(c, mailjetBytes))
	case "X-MC-Metadata":
		s.add(metadata, mandrillMetadata(c))
	}
	if idempotency == "Resend-Idempotency-Key" {
		s.add(idempotency, idempotencyKey(c, resendKey))
	}
	if p.Name == postmark {
		s.add("X-PM-KeepID", "true")
	}
	return slices.Insert(body, 0, s.head.Bytes()...)
}

// The limits of providers, as their documents give them; what is over them is left out, for a provider may refuse the message.
const (
	sesText         = 256   // characters of a name or a value
	sesNames        = 30    // pairs; the documents name no limit for the field, and its value must stay one line of their API
	sesBytes        = 870   // of a field
	sendGridTags    = 10    // categories
	sendGridTag     = 255   // bytes of one
	sendGridBytes   = 10000 // of unique_args
	mailgunTags     = 10
	mailgunTag      = 128
	mailgunBytes    = 4096 // of all variables
	postmarkTag     = 1000
	postmarkFields  = 10
	postmarkName    = 20
	postmarkValue   = 80
	mandrillTag     = 50
	mandrillBytes   = 200 // of the JSON
	sparkPostBytes  = 1000
	mailjetCampaign = 255
	mailjetBytes    = 1000
	resendKey       = 256
)

// stamper collects the fields to add.
type stamper struct {
	head  bytes.Buffer
	taken fields // must not be added
}

// add adds a field, folded at its blanks, unless it has no value, a word of it is longer than a line, or the message has the
// field. Values are made here and are printable ASCII; whatever is not is dropped, so that none can begin another field.
func (s *stamper) add(name, value string) {
	if value == "" || s.taken.has(name) {
		return
	}
	s.taken.bar(name)
	s.write(name, value)
}

// repeat adds a field for each value.
func (s *stamper) repeat(name string, values []string) {
	if s.taken.has(name) {
		return
	}
	for _, v := range values {
		s.write(name, v)
	}
	s.taken.bar(name)
}

func (s *stamper) write(name, value string) {
	words := strings.Fields(printable(value))
	for _, w := range words {
		if len(name)+len(w)+3 > longest {
			return
		}
	}
	line := len(name) + 1
	s.head.WriteString(name + ":")
	for i, w := range words {
		if i > 0 && line+1+len(w) > foldAt {
			s.head.WriteString("\r\n")
			line = 0
		}
		s.head.WriteString(" " + w)
		line += 1 + len(w)
	}
	s.head.WriteString("\r\n")
}

// printable keeps what may stand in a field.
func printable(v string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, v)
}

// fields are the names that a message has in its header, those that its DKIM signatures cover, and those that were added.
type fields struct {
	there  [][]byte // within the message
	barred []string
}

// has says whether a name is one of them, in whatever case.
func (f *fields) has(name string) bool {
	return slices.ContainsFunc(f.there, func(n []byte) bool { return len(n) == len(name) && strings.EqualFold(string(n), name) }) ||
		slices.ContainsFunc(f.barred, func(n string) bool { return strings.EqualFold(n, name) })
}

// bar adds a name.
func (f *fields) bar(name string) { f.barred = append(f.barred, name) }

// fieldsOf lists the fields of a message, and those that its DKIM signatures (RFC 6376 §3.5, h=) cover, also where they are
// not there: adding one of them would break the signature.
func fieldsOf(message []byte) fields {
	f := fields{there: make([][]byte, 0, 24)}
	head := message
	if i := bytes.Index(message, []byte("\r\n\r\n")); i >= 0 {
		head = message[:i+2]
	}
	var signature []byte // the one that is being read
	for line := range bytes.Lines(head) {
		if line[0] == ' ' || line[0] == '\t' {
			if signature != nil {
				signature = append(signature, line...)
			}
			continue
		}
		f.cover(signature)
		signature = nil
		before, after, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		name := bytes.TrimRight(before, " \t")
		f.there = append(f.there, name)
		if strings.EqualFold(string(name), "DKIM-Signature") {
			signature = append([]byte{}, after...)
		}
	}
	f.cover(signature)
	return f
}

// cover bars the fields in the h= of a DKIM-Signature.
func (f *fields) cover(signature []byte) {
	for tag := range strings.SplitSeq(string(signature), ";") {
		key, list, _ := strings.Cut(tag, "=")
		if strings.TrimSpace(key) != "h" {
			continue
		}
		for name := range strings.SplitSeq(list, ":") {
			f.bar(strings.TrimSpace(name))
		}
	}
}

// sesTags are pairs of letters, digits, '_' and '-': every other character becomes '_'. The tags have no names there, so that they
// get "tag", "tag2" …; of names that become the same, the first in order counts.
func sesTags(c *queue.Claimed) string {
	pairs := []string{outboxID + "=" + sesWord(string(c.ID))}
	seen := map[string]bool{outboxID: true}
	size := len(pairs[0])
	put := func(name, value string) {
		name, value = sesWord(name), sesWord(value)
		pair := name + "=" + value
		if name == "" || value == "" || seen[name] || len(pairs) == sesNames || size+2+len(pair) > sesBytes {
			return
		}
		seen[name] = true
		size += 2 + len(pair)
		pairs = append(pairs, pair)
	}
	for i, tag := range c.Tags {
		name := "tag"
		if i > 0 {
			name += strconv.Itoa(i + 1)
		}
		put(name, tag)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Metadata)) {
		put(k, c.Metadata[k])
	}
	return strings.Join(pairs, ", ")
}

func sesWord(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '_'
	}, s)
	return s[:min(len(s), sesText)]
}

// sendGrid is the JSON of X-SMTPAPI. Addresses are not in it: they would get the message twice.
func sendGrid(c *queue.Claimed) string {
	parts := []string{`"unique_args": ` + withID(c, sendGridBytes)}
	if tags := shortened(c.Tags, sendGridTags, sendGridTag); len(tags) > 0 {
		quoted := make([]string, len(tags))
		for i, t := range tags {
			quoted[i] = quoteJSON(t)
		}
		parts = append(parts, `"category": [`+strings.Join(quoted, ", ")+`]`)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// sparkPost is the JSON of X-MSYS-API.
func sparkPost(c *queue.Claimed) string { return `{"metadata": ` + withID(c, sparkPostBytes) + `}` }

// withID is the metadata as a JSON object, the id of the message first.
func withID(c *queue.Claimed, limit int) string {
	return object(append([][2]string{{outboxID, string(c.ID)}}, pairs(c.Metadata, outboxID)...), limit)
}

// pairs are the entries of a map in the order of their keys, without one key.
func pairs(m map[string]string, without string) [][2]string {
	list := make([][2]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k != without {
			list = append(list, [2]string{k, m[k]})
		}
	}
	return list
}

// object writes a JSON object of strings, with blanks to fold at, up to a number of bytes: entries that do not fit are left out, as
// are those that would not fit on a line.
func object(entries [][2]string, limit int) string {
	const lineRoom = 900 // beside the name of the field
	var b strings.Builder
	b.WriteByte('{')
	for _, e := range entries {
		k, v := quoteJSON(e[0]), quoteJSON(e[1])
		if b.Len()+len(k)+len(v)+5 > limit || len(k) > lineRoom || len(v) > lineRoom {
			continue
		}
		if b.Len() > 1 {
			b.WriteString(", ")
		}
		b.WriteString(k + ": " + v)
	}
	b.WriteByte('}')
	return b.String()
}

// quoteJSON writes a JSON string of ASCII letters alone and without a blank, so that a fold never stands inside it.
func quoteJSON(s string) string {
	text, err := json.Marshal(s)
	if err != nil { // of a string there is none
		return `""`
	}
	var b strings.Builder
	for _, r := range string(text) {
		switch {
		case r > ' ' && r <= '~':
			b.WriteRune(r)
		case r > 0xffff:
			high, low := (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00
			writeEscape(&b, high)
			writeEscape(&b, low)
		default:
			writeEscape(&b, r)
		}
	}
	return b.String()
}

func writeEscape(b *strings.Builder, r rune) {
	const width = 4
	digits := strconv.FormatInt(int64(r), 16)
	b.WriteString(`\u` + strings.Repeat("0", width-len(digits)) + digits)
}

// shortened are the first tags, each cut to a number of bytes.
func shortened(tags []string, most, length int) []string {
	var list []string
	for _, t := range tags {
		if t = oneTag(t, length); t != "" && len(list) < most && !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list
}

// oneTag is a tag as ASCII of bounded length; what is not ASCII becomes '_'.
func oneTag(tag string, length int) string {
	tag = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == utf8.RuneError {
			return '_'
		}
		return r
	}, strings.TrimSpace(tag))
	return strings.TrimSpace(tag[:min(len(tag), length)])
}

// mandrillTags are separated by commas, and must not begin with the underscore of reserved ones.
func mandrillTags(tags []string) string {
	list := make([]string, 0, len(tags))
	for _, t := range shortened(tags, len(tags), mandrillTag) {
		if t = strings.TrimLeft(strings.ReplaceAll(t, ",", "_"), "_"); t != "" {
			list = append(list, t)
		}
	}
	return strings.Join(list, ", ")
}

// mandrillMetadata leaves out names with an underscore in front: _rcpt would address a recipient.
func mandrillMetadata(c *queue.Claimed) string {
	entries := slices.DeleteFunc(pairs(c.Metadata, outboxID), func(e [2]string) bool { return strings.HasPrefix(e[0], "_") })
	return object(append([][2]string{{outboxID, string(c.ID)}}, entries...), mandrillBytes)
}

// postmark adds a field for each entry of the metadata whose name and value it can hold.
func (s *stamper) postmark(prefix string, c *queue.Claimed) {
	s.add(prefix+outboxID, string(c.ID))
	left := postmarkFields - 1
	for _, e := range pairs(c.Metadata, outboxID) {
		name, value := e[0], oneTag(e[1], postmarkValue+1)
		if left == 0 || !token(name) || len(name) > postmarkName || value == "" || len(value) > postmarkValue ||
			s.taken.has(prefix+name) {
			continue
		}
		s.add(prefix+name, value)
		left--
	}
}

// token says whether a text can be part of the name of a field.
func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// idempotencyKey names what is sent: the message by its id, which no other message has in any database, and the recipients of this
// transaction, because those that were deferred are sent to by another. One that is too long is replaced by its hash.
func idempotencyKey(c *queue.Claimed, limit int) string {
	var b strings.Builder
	b.WriteString(string(c.ID))
	seqs := make([]int, len(c.Deliveries))
	for i, d := range c.Deliveries {
		seqs[i] = d.Seq
	}
	slices.Sort(seqs)
	for _, seq := range seqs {
		b.WriteString("/" + strconv.Itoa(seq))
	}
	key := b.String()
	if len(key) > limit {
		sum := sha256.Sum256([]byte(key))
		return hex.EncodeToString(sum[:])
	}
	return key
}
