package letter

import (
	"errors"
	"fmt"
	"net/mail"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// grammar reads the value of a field, which is not empty, and returns the pieces that write it.
type grammar func(value string) ([]piece, error)

// grammars are those of the structured fields that a caller may add, by canonical name. See [parseUnknown] for other fields.
var grammars = map[string]grammar{
	"Sender": parseOneMailbox, // RFC 5322 §3.6.2

	"Author":                      parseAddressField, // RFC 9057 §3
	"Disposition-Notification-To": parseAddressField, // RFC 8098 §2.1
	"Errors-To":                   parseAddressField,
	"Mail-Followup-To":            parseAddressField,
	"Mail-Reply-To":               parseAddressField,
	"Original-From":               parseAddressField, // RFC 5703 §5.3
	"Return-Receipt-To":           parseAddressField,
	"X-Confirm-Reading-To":        parseAddressField,

	"In-Reply-To":         parseMessageIDs, // RFC 5322 §3.6.4
	"References":          parseMessageIDs,
	"Original-Message-Id": parseMessageIDs, // RFC 8098 §3.2.5
	"Obsoletes":           parseMessageIDs, // RFC 2156 §2.3.1.2
	"Supersedes":          parseMessageIDs,

	"Archived-At":           parseURLs, // RFC 5064 §2
	"List-Archive":          parseURLs, // RFC 2369 §3
	"List-Help":             parseURLs,
	"List-Id":               parseListID, // RFC 2919 §3
	"List-Owner":            parseURLs,
	"List-Post":             parseListPost, // RFC 2369 §3.4
	"List-Subscribe":        parseURLs,
	"List-Unsubscribe":      parseURLs,
	"List-Unsubscribe-Post": parseOneClick, // RFC 8058 §3.1

	"Keywords": parsePhrases, // RFC 5322 §3.6.5

	"Accept-Language":                  parseTokens, // RFC 3282 §3
	"Auto-Submitted":                   parseTokens, // RFC 3834 §5
	"Autoforwarded":                    parseTokens, // RFC 4021 §2.1
	"Conversion":                       parseTokens,
	"Deferred-Delivery":                parseTokens,
	"Disposition-Notification-Options": parseTokens, // RFC 8098 §2.2
	"Expires":                          parseTokens,
	"Expiry-Date":                      parseTokens,
	"Importance":                       parseTokens,
	"Incomplete-Copy":                  parseTokens,
	"Language":                         parseTokens,
	"Latest-Delivery-Time":             parseTokens,
	"Message-Context":                  parseTokens, // RFC 3458 §3
	"Message-Type":                     parseTokens,
	"Mt-Priority":                      parseTokens, // RFC 6710 §6
	"Precedence":                       parseTokens,
	"Priority":                         parseTokens,
	"Reply-By":                         parseTokens,
	"Sensitivity":                      parseTokens,
	"Tls-Required":                     parseTokens, // RFC 8689 §5
	"X-Auto-Response-Suppress":         parseTokens,
	"X-Msmail-Priority":                parseTokens,
	"X-Priority":                       parseTokens,
}

// parseValue reads the value of a field by its canonical name and returns the pieces that write it, none where it is
// written as it is.
func parseValue(key, value string) ([]piece, error) {
	parse, known := grammars[key]
	switch {
	case !known && IsASCII(value):
		return nil, nil
	case !known:
		return parseUnknown(value)
	case value == "":
		return nil, errors.New("is empty")
	}
	return parse(value)
}

// unlessPlain returns the pieces of a value that cannot be written as it is.
func unlessPlain(value string, pieces []piece) []piece {
	if IsASCII(value) && !lacksQuotes(pieces) {
		return nil
	}
	return pieces
}

// lacksQuotes says whether a phrase had specials without quotes (RFC 5322 §3.2.3). Beside an encoded word of an unknown
// character set it says no: written anew, that word would be encoded twice.
func lacksQuotes(pieces []piece) bool {
	lacks := false
	for i := range pieces {
		if p := &pieces[i]; p.kind == phrase {
			if strings.Contains(p.text, "=?") {
				return false
			}
			lacks = lacks || p.bare
		}
	}
	return lacks
}

// parseAddressField reads an address-list.
func parseAddressField(value string) ([]piece, error) {
	_, pieces, err := parseAddresses(value, asWritten)
	return unlessPlain(value, pieces), err
}

// parseOneMailbox reads one mailbox.
func parseOneMailbox(value string) ([]piece, error) {
	list, pieces, err := parseAddresses(value, asWritten)
	if err == nil && (len(list) != 1 || hasGlue(pieces)) {
		return nil, errors.New("is not one address")
	}
	return unlessPlain(value, pieces), err
}

// hasGlue says whether pieces have a comma, or a colon and a semicolon.
func hasGlue(pieces []piece) bool {
	for i := range pieces {
		if pieces[i].glued {
			return true
		}
	}
	return false
}

// parseMessageIDs reads Message-IDs with white space and comments between them.
func parseMessageIDs(value string) ([]piece, error) {
	s := scanner{rest: value}
	for found := false; ; found = true {
		if err := s.skip(); err != nil {
			return nil, err
		}
		switch {
		case s.rest == "" && !found:
			return nil, errors.New("has no Message-ID")
		case s.rest == "":
			return unlessPlain(value, s.pieces), nil
		}
		id, err := s.messageID()
		if err != nil {
			return nil, err
		}
		s.add(verbatim, id)
	}
}

// messageID reads one Message-ID with its angle brackets.
func (s *scanner) messageID() (string, error) {
	end := strings.IndexByte(s.rest, '>')
	if s.peek() != '<' || end < 0 {
		return "", fmt.Errorf("has %s where a Message-ID in angle brackets should stand", Quote(s.rest))
	}
	id := s.rest[:end+1]
	s.rest = s.rest[end+1:]
	if err := checkMessageID(id); err != nil {
		return "", fmt.Errorf("%s %w", Quote(id), err)
	}
	return id, nil
}

// ParseMessageID reads one Message-ID (RFC 5322 §3.6.4), with white space and comments around it, and returns it with its angle
// brackets. The text between them may be any printable ASCII without blanks: many programs write identifiers outside the
// grammar, and answers must refer to them. Blanks and comments inside of it are left out where the obsolete syntax (§4.5.4)
// allows them.
func ParseMessageID(value string) (string, error) {
	s := scanner{rest: value}
	if err := s.skip(); err != nil {
		return "", err
	}
	before := s.rest
	id, err := s.messageID()
	if err != nil {
		var obsolete error
		if id, s.rest, obsolete = parseObsoleteID(before); obsolete != nil {
			return "", err
		}
	}
	if err := s.skip(); err != nil {
		return "", err
	}
	if s.rest != "" {
		return "", fmt.Errorf("has %s after the Message-ID", Quote(s.rest))
	}
	return id, nil
}

// parseObsoleteID reads a Message-ID with blanks and comments in it. It returns the Message-ID without them and the rest.
func parseObsoleteID(value string) (id, rest string, err error) {
	r := addressReader{scanner: scanner{rest: value}, found: asFound}
	if !r.take('<') {
		return "", "", errors.New("has no angle bracket")
	}
	if err := r.angle(""); err != nil {
		return "", "", err
	}
	a := r.addresses[0]
	local := a.local
	for i := range len(local) {
		if c := local[i]; c != '.' && !isAtext(c) { // it had quotes
			if local, err = writeLocalPart(local); err != nil {
				return "", "", err
			}
			break
		}
	}
	id = "<" + local + "@" + a.domain + ">"
	return id, r.rest, checkMessageID(id)
}

// checkMessageID checks a Message-ID with its angle brackets, which are the first and the last character.
func checkMessageID(s string) error {
	switch {
	case len(s) < 3:
		return errors.New("is empty")
	case len(s) > MaxLine:
		return fmt.Errorf("is longer than %d bytes", MaxLine)
	}
	for i := 1; i < len(s)-1; i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '<' || c == '>' {
			r, _ := utf8.DecodeRuneInString(s[i:])
			return fmt.Errorf("contains %q, which a Message-ID must not have", r)
		}
	}
	return nil
}

// parseURLs reads URLs in angle brackets with commas between them (RFC 2369 §2).
func parseURLs(value string) ([]piece, error) {
	s := scanner{rest: value}
	for {
		if err := s.skip(); err != nil {
			return nil, err
		}
		content, err := s.angle("a URL")
		if err != nil {
			return nil, err
		}
		u, err := parseURL(content)
		if err != nil {
			return nil, fmt.Errorf("the URL %s %w", Quote(content), err)
		}
		s.add(verbatim, "<"+u+">")
		if err := s.skip(); err != nil {
			return nil, err
		}
		switch {
		case s.rest == "":
			return unlessPlain(value, s.pieces), nil
		case !s.take(','):
			return nil, fmt.Errorf("has %s after a URL: a comma separates URLs, and words stand in brackets", Quote(s.rest))
		}
		s.glue(",")
	}
}

// angle reads angle brackets and returns their content. what names the content in an error.
func (s *scanner) angle(what string) (string, error) {
	end := strings.IndexByte(s.rest, '>')
	if s.peek() != '<' || end < 0 {
		return "", fmt.Errorf("has %s where %s in angle brackets should stand", Quote(s.rest), what)
	}
	content := s.rest[1:end]
	s.rest = s.rest[end+1:]
	return content, nil
}

// parseURL checks a URL and returns it in ASCII: the host in its own ASCII form, all else percent-encoded (RFC 3987 §3.1).
func parseURL(s string) (string, error) {
	for _, r := range s {
		if r <= ' ' || r == 0x7f || r == '<' || r == '"' || r == '\\' {
			return "", fmt.Errorf("contains %q, which must be percent-encoded", r)
		}
	}
	if IsASCII(s) {
		u, err := url.Parse(s)
		switch {
		case err != nil:
			return "", errors.New("does not parse")
		case u.Scheme == "":
			return "", errors.New("has no scheme such as https or mailto")
		}
		return s, nil
	}
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || !IsASCII(scheme) {
		return "", errors.New("has no scheme such as https or mailto")
	}
	if strings.EqualFold(scheme, "mailto") {
		return parseMailtoURL(scheme, rest)
	}
	// The host begins after two slashes.
	before, host, after := "", "", rest
	if slashed, ok := strings.CutPrefix(rest, "//"); ok {
		end := strings.IndexAny(slashed, "/?#")
		if end < 0 {
			end = len(slashed)
		}
		start := strings.LastIndexByte(slashed[:end], '@') + 1
		stop := end
		if port := strings.IndexByte(slashed[start:end], ':'); port >= 0 {
			stop = start + port
		}
		before, host, after = "//"+slashed[:start], slashed[start:stop], slashed[stop:]
	}
	if !IsASCII(host) {
		domain, err := ParseDomain(host)
		if err != nil {
			return "", err
		}
		host = domain
	}
	return parseURL(scheme + ":" + percentEncode(before) + host + percentEncode(after))
}

// parseMailtoURL returns a mailto URL in ASCII. It may have several addresses with commas between them (RFC 6068 §2), each with a
// host at its end.
func parseMailtoURL(scheme, rest string) (string, error) {
	end := strings.IndexByte(rest, '?')
	if end < 0 {
		end = len(rest)
	}
	addresses := strings.Split(rest[:end], ",")
	for i, a := range addresses {
		local, host, _ := strings.Cut(a, "@")
		if IsASCII(host) || strings.Contains(host, "@") {
			addresses[i] = percentEncode(a)
			continue
		}
		domain, err := ParseDomain(host)
		if err != nil {
			return "", err
		}
		addresses[i] = percentEncode(local) + "@" + domain
	}
	return parseURL(scheme + ":" + strings.Join(addresses, ",") + percentEncode(rest[end:]))
}

// percentEncode encodes all bytes outside ASCII (RFC 3986 §2.1).
func percentEncode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// parseListPost reads URLs, or the word NO where nobody may write to a list.
func parseListPost(value string) ([]piece, error) {
	s := scanner{rest: value}
	if err := s.skip(); err != nil {
		return nil, err
	}
	if !strings.EqualFold(s.atom(), "NO") {
		return parseURLs(value)
	}
	s.add(verbatim, "NO")
	if err := s.skip(); err != nil {
		return nil, err
	}
	if s.rest != "" {
		return nil, fmt.Errorf("has %s after NO: words stand in brackets", Quote(s.rest))
	}
	return unlessPlain(value, s.pieces), nil
}

// oneClick is the only value of List-Unsubscribe-Post.
const oneClick = "List-Unsubscribe=One-Click"

// parseOneClick checks for the value that mailbox providers compare with.
func parseOneClick(value string) ([]piece, error) {
	if value != oneClick {
		return nil, fmt.Errorf("is not %s", oneClick)
	}
	return nil, nil
}

// parseListID reads the identifier of a list in angle brackets, with an optional phrase before it.
func parseListID(value string) ([]piece, error) {
	s := scanner{rest: value}
	words, err := s.words()
	if err != nil {
		return nil, err
	}
	comments := s.pieces
	s.pieces = nil
	s.addPhrase(words)
	s.pieces = append(s.pieces, comments...)
	id, err := s.angle("the identifier of a list")
	if err != nil {
		return nil, err
	}
	if !IsASCII(id) {
		domain, err := ParseDomain(id)
		if err != nil {
			return nil, fmt.Errorf("the identifier %s: %w", Quote(id), err)
		}
		id = domain
	}
	for i := range len(id) {
		if c := id[i]; c != '.' && !isAtext(c) {
			return nil, fmt.Errorf("the identifier %s contains %q", Quote(id), rune(c))
		}
	}
	if id == "" || id[0] == '.' || id[len(id)-1] == '.' || strings.Contains(id, "..") {
		return nil, fmt.Errorf("the identifier %s is not words with dots between them", Quote(id))
	}
	s.add(verbatim, "<"+id+">")
	if err := s.skip(); err != nil {
		return nil, err
	}
	if s.rest != "" {
		return nil, fmt.Errorf("has %s after the identifier", Quote(s.rest))
	}
	return unlessPlain(value, s.pieces), nil
}

// parsePhrases reads phrases with commas between them.
func parsePhrases(value string) ([]piece, error) {
	s := scanner{rest: value}
	for {
		before := len(s.pieces)
		words, err := s.words()
		if err != nil {
			return nil, err
		}
		comments := append([]piece(nil), s.pieces[before:]...)
		s.pieces = s.pieces[:before]
		if s.addPhrase(words); len(s.pieces) == before {
			return nil, errors.New("has an empty place between commas")
		}
		s.pieces = append(s.pieces, comments...)
		switch {
		case s.rest == "":
			return unlessPlain(value, s.pieces), nil
		case !s.take(','):
			return nil, fmt.Errorf("has %s after a phrase: quotes are missing", Quote(s.rest))
		}
		s.glue(",")
	}
}

// parseTokens reads ASCII text. Its comments may be in any script.
func parseTokens(value string) ([]piece, error) {
	if IsASCII(value) {
		return nil, nil
	}
	s := scanner{rest: value}
	for {
		if err := s.skip(); err != nil {
			return nil, err
		}
		if s.rest == "" {
			return s.pieces, nil
		}
		end := strings.IndexAny(s.rest, " (")
		if end < 0 {
			end = len(s.rest)
		}
		token := s.rest[:end]
		if !IsASCII(token) {
			return nil, fmt.Errorf("has %s, and its words are ASCII", Quote(token))
		}
		s.add(verbatim, token)
		s.rest = s.rest[end:]
	}
}

// parseUnknown reads a value that is not ASCII, of a field without a known grammar. An address, a URL or another word in angle
// brackets stays readable for programs: only the words around it are encoded.
func parseUnknown(value string) ([]piece, error) {
	if !hasTarget(value) {
		return nil, nil
	}
	if list, pieces, err := parseAddresses(value, asWritten); err == nil {
		for _, a := range list {
			if !IsASCII(a.local) {
				return nil, errForeignTarget(a.local + "@" + a.domain)
			}
		}
		return pieces, nil
	}
	if pieces, err := parseURLs(value); err == nil {
		return pieces, nil
	}
	var pieces []piece
	run, open := "", false
	flush := func() {
		if open {
			pieces = append(pieces, piece{kind: free, text: run})
		}
		run, open = "", false
	}
	for w := range strings.SplitSeq(value, " ") {
		switch {
		case !hasTarget(w):
			if open {
				run += " "
			}
			run += w
			open = true
		case !IsASCII(w):
			return nil, errForeignTarget(w)
		default:
			flush()
			pieces = append(pieces, piece{kind: verbatim, text: w})
		}
	}
	flush()
	return pieces, nil
}

// errForeignTarget is the error of an address or of a word in angle brackets that no encoding keeps readable.
func errForeignTarget(s string) error {
	return fmt.Errorf("has %s, an address or a word in angle brackets that is not ASCII: encoded, programs would not find it", Quote(s))
}

// hasTarget says whether a value has angle brackets around a word, or an @ between two words.
func hasTarget(s string) bool {
	for i := range len(s) {
		switch s[i] {
		case '<':
			if end := strings.IndexAny(s[i+1:], "<> "); end > 0 && s[i+1+end] == '>' {
				return true
			}
		case '@':
			if i > 0 && i < len(s)-1 && isNameByte(s[i-1]) && isNameByte(s[i+1]) {
				return true
			}
		}
	}
	return false
}

// isNameByte says whether c may stand beside the @ of an address.
func isNameByte(c byte) bool { return c == '"' || c == '[' || isAtext(c) || c >= utf8.RuneSelf }

// parseDate reads a date-time (RFC 5322 §3.3) with its comments, also in the obsolete syntax (§4.3).
func parseDate(value string) (time.Time, error) {
	s := scanner{rest: value}
	var parts []string
	for {
		if err := s.skip(); err != nil {
			return time.Time{}, err
		}
		if s.rest == "" {
			break
		}
		end := strings.IndexAny(s.rest, " \t\r\n(")
		if end < 0 {
			end = len(s.rest)
		}
		parts = append(parts, s.rest[:end])
		s.rest = s.rest[end:]
	}
	text := strings.Join(parts, " ")
	text = strings.NewReplacer(" : ", ":", " :", ":", ": ", ":", " ,", ",").Replace(text)
	// A leap second (RFC 5322 §3.3), which net/mail does not know.
	before, after, ok := strings.Cut(text, ":60 ")
	if day := strings.LastIndexByte(before, ' '); ok && strings.Contains(before[day+1:], ":") {
		date, err := mail.ParseDate(before + ":59 " + after)
		return date.Add(time.Second), err
	}
	return mail.ParseDate(text)
}
