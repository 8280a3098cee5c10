package letter

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode/utf8"
)

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
