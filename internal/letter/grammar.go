package letter

import (
	"errors"
	"fmt"
	"net/mail"
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
