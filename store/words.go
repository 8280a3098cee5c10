package store

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/outboxmail/outbox/internal/sqlstate"
)

// clean makes text from outside storable: PostgreSQL takes neither NUL nor invalid UTF-8.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// optional stores a zero value as NULL.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// words is an optional text from outside.
func words(s string) *string { return optional(clean(s)) }

// maxName is the longest name from outside that is stored as it is, in bytes. Names are indexed, and an index entry of
// PostgreSQL has room for some 2,700 bytes.
const maxName = 400

// bounded is a name from outside that is indexed, such as the id that a provider gives a message. A longer one keeps its
// beginning and is told apart by its SHA-256. The same name always becomes the same text.
func bounded(s string) string {
	s = clean(s)
	if len(s) <= maxName {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	cut := maxName - 2*len(sum) - 1
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "~" + hex.EncodeToString(sum[:])
}

// unstorable reports whether a statement failed because the encoding of the server's database lacks a character. Nothing was
// changed then.
func unstorable(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.UntranslatableCharacter, sqlstate.CharacterNotInRepertoire:
		return true
	case sqlstate.FeatureNotSupported: // an escape of JSON in SQL_ASCII
		return true
	default:
		return false
	}
}

// ascii writes the characters outside of ASCII as \uXXXX, which every encoding can store.
func ascii(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
		return s
	}
	quoted := strconv.QuoteToASCII(s)
	return strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(quoted[1 : len(quoted)-1])
}

// asciiAll replaces optional texts by their ASCII form.
func asciiAll(texts ...**string) {
	for _, t := range texts {
		if *t != nil {
			*t = optional(ascii(**t))
		}
	}
}
