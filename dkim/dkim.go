// Package dkim signs messages with DKIM (RFC 6376), RSA and Ed25519 (RFC 8463), for dispatcher.Relay.Sign.
//
// Most providers sign the mail that you send through them, with their own key or with one that you gave them. Use this package
// if your relay does not sign, or does not know the domain.
//
// Signatures depend on the message and the keys alone. They contain neither a time nor an expiry: a message that is sent again
// has the same bytes.
package dkim

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/mail"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Key is a private key that signs for a domain.
type Key struct {
	// Domain is the signing domain (d=). The key signs mail whose author has an address in this domain, or in a subdomain
	// without a nearer key. An international domain may be in Unicode or in ASCII.
	Domain string
	// Selector names the key in the DNS (s=). The TXT record Selector._domainkey.Domain holds the public key.
	Selector string
	// File is the path of the private key in PEM: RSA of at least 1024 bits (2048 are recommended, RFC 8301), or Ed25519.
	// A changed file is read again.
	File string
}

// Config configures a [Signer].
type Config struct {
	// Keys lists at least one key. Several keys of one domain give several signatures, such as RSA for all receivers and
	// Ed25519 for those that support it.
	Keys []Key
	// Required refuses messages whose author's domain has no key. Defaults to leaving them unsigned.
	Required bool
	// Fields names further header fields to sign if a message has them. Defaults to none beyond those of RFC 6376 §5.4.1.
	Fields []string
	// Logger reports changed key files that cannot be read. Defaults to slog.Default().
	Logger *slog.Logger
}

// Signer signs messages. It is safe for concurrent use.
type Signer struct {
	byDomain map[string][]*keyFile
	required bool
	fields   []string
}

// The fields to sign. A signature lists each of sealedFields once more than the message has it: adding one later breaks the
// signature (RFC 6376 §8.15). Mail servers on the way add none of them to a complete message.
var (
	sealedFields = []string{
		"From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "MIME-Version", "Content-Type", "Content-Transfer-Encoding",
	}
	otherFields = []string{
		"Sender", "In-Reply-To", "References", "Auto-Submitted", "List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post",
		"List-Subscribe", "List-Post", "List-Owner", "List-Archive", "Resent-Date", "Resent-From", "Resent-To", "Resent-Cc",
		"Resent-Message-ID",
	}
)

// New reads the keys and checks the configuration.
func New(c Config) (*Signer, error) {
	if len(c.Keys) == 0 {
		return nil, errors.New("dkim: there is no key")
	}
	s := &Signer{byDomain: make(map[string][]*keyFile), required: c.Required, fields: slices.Concat(sealedFields, otherFields)}
	for _, name := range c.Fields {
		if !isFieldName(name) {
			return nil, fmt.Errorf("dkim: %q is not the name of a header field", name)
		}
		if !slices.ContainsFunc(s.fields, func(f string) bool { return strings.EqualFold(f, name) }) {
			s.fields = append(s.fields, name)
		}
	}
	log := cmp.Or(c.Logger, slog.Default())
	for i, k := range c.Keys {
		domain, err := asciiDomain(k.Domain)
		if err != nil {
			return nil, fmt.Errorf("dkim: key %d: domain %q: %w", i+1, k.Domain, err)
		}
		if !isSelector(k.Selector) {
			return nil, fmt.Errorf("dkim: key %d: %q is not a selector", i+1, k.Selector)
		}
		f := &keyFile{path: k.File, domain: domain, selector: k.Selector, log: log}
		if slices.ContainsFunc(s.byDomain[domain], func(other *keyFile) bool { return other.selector == k.Selector }) {
			return nil, fmt.Errorf("dkim: key %d: selector %s of %s is there twice", i+1, k.Selector, domain)
		}
		if _, err := f.signer(); err != nil {
			return nil, fmt.Errorf("dkim: key %d: %w", i+1, err)
		}
		s.byDomain[domain] = append(s.byDomain[domain], f)
	}
	return s, nil
}

// domains maps international domain names in the same way as Enqueue.
var domains = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(true))

// asciiDomain returns a domain in lower case and in its ASCII form.
func asciiDomain(s string) (string, error) {
	ascii := strings.ToLower(strings.TrimSuffix(s, "."))
	// An ASCII domain skips idna, which refuses some real ones, such as ab--cd.example.
	if strings.ContainsFunc(ascii, func(r rune) bool { return r >= utf8.RuneSelf }) {
		mapped, err := domains.ToASCII(ascii)
		if err != nil {
			return "", err
		}
		ascii = mapped
	}
	if !isSelector(ascii) {
		return "", errors.New("is not one")
	}
	return ascii, nil
}

// isSelector says whether s is a name in the DNS: labels of letters, digits, '-' and '_'.
func isSelector(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
				return false
			}
		}
	}
	return len(s) <= 253
}

func isFieldName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == ';' })
}

// Sign returns the message with one signature in front for each key of its author's domain. Without such a key, it returns the
// message unsigned, or an error if [Config].Required is set. The message must be complete and have CRLF line breaks. Sign does
// not change the slice. It also returns an error if the message has no single From field with an address, or a key fails.
func (s *Signer) Sign(message []byte) ([]byte, error) {
	head, body := splitMessage(message)
	fields := parseHeader(head)
	written, err := authorDomain(fields)
	if err != nil {
		return nil, fmt.Errorf("dkim: %w", err)
	}
	domain, err := asciiDomain(written)
	if err != nil { // no key can match it
		if s.required {
			return nil, fmt.Errorf("dkim: the author's domain %q: %w", written, err)
		}
		return message, nil
	}
	keys := s.keysOf(domain)
	if len(keys) == 0 {
		if s.required {
			return nil, fmt.Errorf("dkim: there is no key for %s", domain)
		}
		return message, nil
	}
	bodyHash := sha256.Sum256(relaxBody(body))
	names, signed := s.choose(fields)
	var out bytes.Buffer
	for _, k := range keys {
		signer, err := k.signer()
		if err != nil {
			return nil, fmt.Errorf("dkim: %w", err)
		}
		field, err := sign(k, signer, names, signed, bodyHash[:])
		if err != nil {
			return nil, fmt.Errorf("dkim: sign for %s with selector %s: %w", k.domain, k.selector, err)
		}
		out.WriteString(field)
	}
	out.Write(message)
	return out.Bytes(), nil
}

// keysOf returns the keys of a domain, or else of its nearest parent domain.
func (s *Signer) keysOf(domain string) []*keyFile {
	for ok := true; ok; {
		if keys := s.byDomain[domain]; len(keys) > 0 {
			return keys
		}
		_, domain, ok = strings.Cut(domain, ".")
	}
	return nil
}

// authorDomain returns the domain of the first author, as written. The message must have exactly one From field, because
// receivers disagree about the author of any other.
func authorDomain(fields []field) (string, error) {
	var from []string
	for _, f := range fields {
		if f.key == "from" {
			from = append(from, f.value())
		}
	}
	if len(from) != 1 {
		return "", fmt.Errorf("the message has %d From fields", len(from))
	}
	// The display name may have an unknown character set. It is not used.
	parser := mail.AddressParser{WordDecoder: &mime.WordDecoder{
		CharsetReader: func(_ string, r io.Reader) (io.Reader, error) { return r, nil },
	}}
	list, err := parser.ParseList(from[0])
	if err != nil {
		return "", fmt.Errorf("the From field: %w", err)
	}
	if len(list) == 0 {
		return "", errors.New("the From field has no address")
	}
	return list[0].Address[strings.LastIndexByte(list[0].Address, '@')+1:], nil
}

// choose returns the names for h= and the fields to sign. It takes fields of the same name from the bottom of the header upwards
// (RFC 6376 §5.4.2).
func (s *Signer) choose(fields []field) (names []string, signed []field) {
	for i, name := range s.fields {
		key := strings.ToLower(name)
		for _, f := range slices.Backward(fields) {
			if f.key == key {
				names = append(names, name)
				signed = append(signed, f)
			}
		}
		if i < len(sealedFields) {
			names = append(names, name)
		}
	}
	return names, signed
}

// sign makes one DKIM-Signature field.
func sign(k *keyFile, signer crypto.Signer, names []string, signed []field, bodyHash []byte) (string, error) {
	algorithm, opts := "rsa-sha256", crypto.SignerOpts(crypto.SHA256)
	if _, ok := signer.(ed25519.PrivateKey); ok {
		algorithm, opts = "ed25519-sha256", crypto.Hash(0) // Ed25519 signs the SHA-256 hash, too (RFC 8463 §3)
	}
	var b strings.Builder
	b.WriteString("DKIM-Signature: v=1; a=" + algorithm + "; c=relaxed/relaxed;\r\n\td=" + k.domain + "; s=" + k.selector + ";\r\n\th=")
	line := len("\th=")
	for i, name := range names {
		if i > 0 {
			b.WriteByte(':')
			line++
		}
		if line+len(name)+1 > foldAt {
			b.WriteString("\r\n\t ")
			line = len("\t ")
		}
		b.WriteString(name)
		line += len(name)
	}
	b.WriteString(";\r\n\tbh=" + base64.StdEncoding.EncodeToString(bodyHash) + ";\r\n\tb=")
	unsigned := b.String()
	hash := sha256.New()
	for _, f := range signed {
		hash.Write(f.relaxed())
	}
	hash.Write(bytes.TrimSuffix(parseHeader([]byte(unsigned + "\r\n"))[0].relaxed(), []byte("\r\n")))
	signature, err := signer.Sign(nil, hash.Sum(nil), opts) // neither PKCS #1 v1.5 nor Ed25519 needs randomness
	if err != nil {
		return "", err
	}
	encoded := base64.StdEncoding.EncodeToString(signature)
	for room := foldAt - len("\tb="); len(encoded) > room; room = foldAt - len("\t ") {
		b.WriteString(encoded[:room] + "\r\n\t ")
		encoded = encoded[room:]
	}
	b.WriteString(encoded + "\r\n")
	return b.String(), nil
}

// foldAt is how long a line of the signature may become.
const foldAt = 76
