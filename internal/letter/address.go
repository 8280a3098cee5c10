package letter

import (
	"errors"
	"fmt"
	"strings"
)

// address is an address of a header field (RFC 5322 §3.4.1). It is not yet known whether a letter can go there.
type address struct {
	name   string // for people, decoded
	local  string // without quotes
	domain string // as written, without comments
}

// mailbox checks that a letter can go to the address.
func (a address) mailbox() (Mailbox, error) { return newMailbox(a.local, a.domain, "") }

// mailboxes checks that a letter can go to each address.
func mailboxes(list []address) ([]Mailbox, error) {
	checked := make([]Mailbox, len(list))
	for i, a := range list {
		var err error
		if checked[i], err = a.mailbox(); err != nil {
			return nil, err
		}
	}
	return checked, nil
}

// syntax says which address lists are read.
type syntax int

const (
	// asWritten reads the present syntax, for fields to be written.
	asWritten syntax = iota
	// asFound also reads the obsolete syntax (RFC 5322 §4.4) and common mistakes: routes, empty places in a list, stray dots in
	// a local part, an address as a display name without quotes.
	asFound
)

// parseAddresses reads an address-list (RFC 5322 §3.4) with its groups, which may be empty, and its comments. It keeps no
// address to the limits of a Mailbox.
func parseAddresses(value string, found syntax) ([]address, []piece, error) {
	r := addressReader{scanner: scanner{rest: value}, found: found}
	if err := r.list(); err != nil {
		return nil, nil, err
	}
	return r.addresses, r.pieces, nil
}

// addressReader reads an address-list.
type addressReader struct {
	scanner
	found     syntax
	addresses []address
	inGroup   bool
}

// list reads the addresses up to the end of the value or of a group.
func (r *addressReader) list() error {
	for empty := true; ; {
		if err := r.skip(); err != nil {
			return err
		}
		switch c := r.peek(); {
		case c == 0 && r.rest == "" && r.inGroup:
			return errors.New("a group has no semicolon at its end")
		case r.rest == "", c == ';' && r.inGroup:
			if empty && !r.inGroup {
				return errors.New("has no address")
			}
			return nil
		case c == ',' && r.found == asFound:
			r.rest = r.rest[1:]
			continue
		}
		if err := r.member(); err != nil {
			return err
		}
		empty = false
		if err := r.skip(); err != nil {
			return err
		}
		switch c := r.peek(); {
		case r.rest == "", c == ';' && r.inGroup:
		case c == ',':
			r.rest = r.rest[1:]
			r.glue(",")
			if r.found != asFound {
				if err := r.another(); err != nil {
					return err
				}
			}
		default:
			return fmt.Errorf("has %s after an address", Quote(r.rest))
		}
	}
}

// another checks that something follows a comma.
func (r *addressReader) another() error {
	if err := r.skip(); err != nil {
		return err
	}
	if c := r.peek(); r.rest == "" || c == ',' || c == ';' {
		return errors.New("has no address after a comma")
	}
	return nil
}

// member reads a mailbox or a group.
func (r *addressReader) member() error {
	before := len(r.pieces)
	words, err := r.words()
	if err != nil {
		return err
	}
	comments := append([]piece(nil), r.pieces[before:]...)
	switch r.peek() {
	case '<':
		r.pieces = r.pieces[:before]
		r.name(words, comments)
		r.rest = r.rest[1:]
		return r.angle(phraseText(words))
	case '@':
		r.pieces = r.pieces[:before]
		return r.bare(words, comments)
	case ':':
		if r.inGroup {
			return errors.New("has a group inside of a group")
		}
		if len(words) == 0 {
			return errors.New("has a colon without the name of a group before it")
		}
		r.pieces = r.pieces[:before]
		r.name(words, comments)
		return r.group()
	}
	switch {
	case len(words) > 0:
		return fmt.Errorf("has %s without an address", Quote(phraseText(words)))
	default:
		return fmt.Errorf("has %s where an address should stand", Quote(r.rest))
	}
}

// name adds a display name and the comments that stood in it.
func (r *addressReader) name(words []word, comments []piece) {
	r.addPhrase(words)
	r.pieces = append(r.pieces, comments...)
}

// group reads the members of a group. Its name was read.
func (r *addressReader) group() error {
	r.rest = r.rest[1:]
	r.glue(":")
	r.inGroup = true
	if err := r.list(); err != nil {
		return err
	}
	r.inGroup = false
	r.rest = r.rest[1:]
	r.glue(";")
	return nil
}

// angle reads an address behind an opening angle bracket (RFC 5322 §3.4). With asFound, a route may stand before it.
func (r *addressReader) angle(name string) error {
	before := len(r.pieces)
	words, err := r.words()
	if err != nil {
		return err
	}
	if r.found == asFound && len(words) == 0 && (r.peek() == '@' || r.peek() == ',') {
		if err := r.route(); err != nil {
			return err
		}
		if words, err = r.words(); err != nil {
			return err
		}
	}
	a, err := r.spec(words)
	if err != nil {
		return err
	}
	a.name = name
	if !r.take('>') {
		return fmt.Errorf("has %s where an angle bracket should close", Quote(r.rest))
	}
	return r.address(a, before, "<", ">")
}

// route reads the route of an obsolete angle-addr (RFC 5322 §4.4) up to its colon.
func (r *addressReader) route() error {
	for !r.take(':') {
		if !r.take('@') && !r.take(',') {
			return errors.New("has a route that does not parse")
		}
		if _, err := r.words(); err != nil {
			return err
		}
	}
	return nil
}

// bare reads the rest of an address without angle brackets. The words of its local part were read. With asFound, an address
// before angle brackets is a display name that lacks its quotes.
func (r *addressReader) bare(words []word, comments []piece) error {
	before := len(r.pieces)
	r.pieces = append(r.pieces, comments...)
	a, err := r.spec(words)
	if err != nil {
		return err
	}
	if r.found == asFound && r.take('<') {
		return r.angle(a.local + "@" + a.domain)
	}
	return r.address(a, before, "", "")
}

// address notes an address and adds it before the comments that stood in it.
func (r *addressReader) address(a address, before int, open, closing string) error {
	r.addresses = append(r.addresses, a)
	comments := append([]piece(nil), r.pieces[before:]...)
	r.pieces = r.pieces[:before]
	if r.found == asWritten {
		m, err := a.written()
		if err != nil {
			return err
		}
		r.add(verbatim, open+m+closing)
	}
	r.pieces = append(r.pieces, comments...)
	return nil
}

// spec reads the rest of an addr-spec (RFC 5322 §3.4.1). The words of its local part were read.
func (r *addressReader) spec(words []word) (address, error) {
	var a address
	var err error
	if a.local, err = joinLocal(words, r.found); err != nil {
		return a, err
	}
	if !r.take('@') {
		return a, fmt.Errorf("%s has no @", Quote(a.local))
	}
	if err := r.skip(); err != nil {
		return a, err
	}
	if r.peek() == '[' {
		end := strings.IndexByte(r.rest, ']')
		if end < 0 {
			return a, errors.New("a domain in square brackets does not end")
		}
		a.domain = strings.Join(strings.Fields(r.rest[:end+1]), "")
		r.rest = r.rest[end+1:]
		return a, r.skip()
	}
	labels, err := r.words()
	if err != nil {
		return a, err
	}
	for i, w := range labels {
		if w.quoted || i > 0 && !w.is('.') && !labels[i-1].is('.') {
			return a, fmt.Errorf("the domain of %s@ has %s where a dot should stand", a.local, Quote(w.text))
		}
		a.domain += w.text
	}
	if a.domain == "" {
		return a, fmt.Errorf("%s@ has no domain", a.local)
	}
	return a, nil
}

// joinLocal makes a local part of its words.
func joinLocal(words []word, found syntax) (string, error) {
	var local strings.Builder
	for i, w := range words {
		switch dot := w.is('.'); {
		case w.is('[') || w.is(']'):
			return "", fmt.Errorf("has %s before an @", Quote(w.text))
		case dot && found == asWritten && (i == 0 || i == len(words)-1 || words[i-1].is('.')):
			return "", errMisplacedDot
		case !dot && i > 0 && !words[i-1].is('.'):
			return "", fmt.Errorf("%s has several words before the @: quotes or a dot are missing", Quote(phraseText(words)+"@"))
		}
		local.WriteString(w.text)
	}
	if local.Len() == 0 {
		return "", errNoLocalPart
	}
	return local.String(), nil
}

// written returns the address in its written form: that of [ParseMailbox], or with an address literal.
func (a address) written() (string, error) {
	if strings.HasPrefix(a.domain, "[") {
		local, err := writeLocalPart(a.local)
		if err != nil {
			return "", err
		}
		if !IsASCII(a.domain) || strings.ContainsAny(a.domain[1:len(a.domain)-1], "<>[]\\") {
			return "", errors.New("the address literal does not parse")
		}
		return local + "@" + a.domain, nil
	}
	m, err := a.mailbox()
	return m.Addr, err
}
