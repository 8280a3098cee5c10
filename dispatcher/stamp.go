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

// The preferred and the largest length of a line in a header, in bytes (RFC 5322 §2.1.1).
const (
	foldAt  = 78
	longest = 998
)

// postmark names the profile of Postmark, which replaces the Message-ID unless a field asks it not to.
const postmark = "postmark"

// idField carries the message's ID through every provider.
const idField = "X-Outbox-ID"

// outboxID is the name of the ID among the metadata that providers report.
const outboxID = "outbox_id"

// stamp adds header fields on top of a message: its ID, and tags, metadata and idempotency key in the fields that the provider
// reads. It uses only facts of the profile that are sure. It adds no field that the message has, or that one of its signatures
// covers, so signatures stay valid. The same arguments give the same bytes. The body is moved within its capacity if that is large
// enough.
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

// The limits of providers, from their documents. Values over a limit are left out, because the provider may refuse the message.
const (
	sesText         = 256   // characters of a name or a value
	sesNames        = 30    // pairs; our own limit, the documents give none
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
	taken fields // fields that must not be added
}

// add adds a field and folds it at blanks. It adds nothing if the value is empty, if a word is longer than a line, or if the field is
// taken. Characters outside printable ASCII are dropped, so no value can begin another field.
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

// printable returns v without the characters outside printable ASCII.
func printable(v string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, v)
}

// fields holds the names of the header fields of a message, of those that its DKIM signatures cover, and of those that were added.
type fields struct {
	there  [][]byte // within the message
	barred []string
}

// has says whether a name is among them, ignoring case.
func (f *fields) has(name string) bool {
	return slices.ContainsFunc(f.there, func(n []byte) bool { return len(n) == len(name) && strings.EqualFold(string(n), name) }) ||
		slices.ContainsFunc(f.barred, func(n string) bool { return strings.EqualFold(n, name) })
}

// bar adds a name.
func (f *fields) bar(name string) { f.barred = append(f.barred, name) }

// fieldsOf lists the fields of a message and those that its DKIM signatures cover (RFC 6376 §3.5, h=). A covered field need not be
// there, and adding it would break the signature.
func fieldsOf(message []byte) fields {
	f := fields{there: make([][]byte, 0, 24)}
	head := message
	if i := bytes.Index(message, []byte("\r\n\r\n")); i >= 0 {
		head = message[:i+2]
	}
	var signature []byte // the signature that is being read
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

// cover adds the names in the h= tag of a DKIM-Signature.
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

// sesTags returns tags and metadata as pairs for SES. Every character except ASCII letters, digits, '_' and '-' becomes '_'. Tags are
// named "tag", "tag2" and so on. If two names become the same, the first counts.
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

// sendGrid returns the JSON of X-SMTPAPI. It must not contain addresses, or they would get the message twice.
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

// sparkPost returns the JSON of X-MSYS-API.
func sparkPost(c *queue.Claimed) string { return `{"metadata": ` + withID(c, sparkPostBytes) + `}` }

// withID returns the metadata as a JSON object of at most limit bytes, with the message's ID first.
func withID(c *queue.Claimed, limit int) string {
	return object(append([][2]string{{outboxID, string(c.ID)}}, pairs(c.Metadata, outboxID)...), limit)
}

// pairs returns the entries of a map in the order of their keys, without one key.
func pairs(m map[string]string, without string) [][2]string {
	list := make([][2]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k != without {
			list = append(list, [2]string{k, m[k]})
		}
	}
	return list
}

// object returns a JSON object of strings, with blanks to fold at. It leaves out entries that do not fit into limit bytes or on a line.
func object(entries [][2]string, limit int) string {
	const lineRoom = 900 // bytes of a line after the name of the field
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

// quoteJSON returns a JSON string of printable ASCII without blanks, so that it is never folded.
func quoteJSON(s string) string {
	text, err := json.Marshal(s)
	if err != nil { // impossible for a string
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

// shortened returns different tags, no more than most, each cut to length bytes.
func shortened(tags []string, most, length int) []string {
	var list []string
	for _, t := range tags {
		if t = oneTag(t, length); t != "" && len(list) < most && !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	return list
}

// oneTag returns a tag cut to length bytes. Characters outside printable ASCII become '_'.
func oneTag(tag string, length int) string {
	tag = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == utf8.RuneError {
			return '_'
		}
		return r
	}, strings.TrimSpace(tag))
	return strings.TrimSpace(tag[:min(len(tag), length)])
}

// mandrillTags returns tags separated by commas. Tags that begin with an underscore are reserved, so it is removed.
func mandrillTags(tags []string) string {
	list := make([]string, 0, len(tags))
	for _, t := range shortened(tags, len(tags), mandrillTag) {
		if t = strings.TrimLeft(strings.ReplaceAll(t, ",", "_"), "_"); t != "" {
			list = append(list, t)
		}
	}
	return strings.Join(list, ", ")
}

// mandrillMetadata returns the metadata without names that begin with an underscore: _rcpt would address a recipient.
func mandrillMetadata(c *queue.Claimed) string {
	entries := slices.DeleteFunc(pairs(c.Metadata, outboxID), func(e [2]string) bool { return strings.HasPrefix(e[0], "_") })
	return object(append([][2]string{{outboxID, string(c.ID)}}, entries...), mandrillBytes)
}

// postmark adds a field for each entry of the metadata that fits Postmark's limits.
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

// token says whether s has only characters for the name of a field.
func token(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// idempotencyKey returns a key for this message and the recipients of this transaction. Deferred recipients get another key later. A
// key longer than limit is replaced by its hash.
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
