package main

import (
	"regexp"
	"strings"
)

// sqlToken is a word, string, number, parameter or operator, or a group of tokens in parentheses or between CASE and END.
type sqlToken struct {
	text       string // as written; "(" or "CASE" for a group
	word       string // in capitals, if it is a word
	start, end int
	group      []sqlToken
}

func (t *sqlToken) isGroup() bool { return t.text == "(" }
func (t *sqlToken) isCase() bool  { return t.word == "CASE" }

var (
	sqlSkip = regexp.MustCompile(`^(?:\s+|--[^\n]*|/\*(?s:.*?)\*/|\$[A-Za-z_]*\$)`) // the quotes of a function's body count as space
	sqlPart = regexp.MustCompile(`^(?:'(?:[^']|'')*'|"(?:[^"]|"")*"|\$\d+|[A-Za-z_][A-Za-z0-9_]*|\d+(?:\.\d+)?|<>|<=|>=|!=|\|\||::|->>|->|#>>|.)`)
	sqlWord = regexp.MustCompile(`^[A-Za-z_]`)
)

// sqlTokens reads SQL into a tree of tokens. It never fails: what it does not know is an operator of one byte.
func sqlTokens(src string) []sqlToken {
	type open struct {
		tokens []sqlToken
		group  sqlToken
	}
	stack := []open{{}}
	last := func() *open { return &stack[len(stack)-1] }
	closeGroup := func(end int) {
		done := *last()
		stack = stack[:len(stack)-1]
		done.group.group, done.group.end = done.tokens, end
		last().tokens = append(last().tokens, done.group)
	}
	for at := 0; at < len(src); {
		if skip := sqlSkip.FindString(src[at:]); skip != "" {
			at += len(skip)
			continue
		}
		text := sqlPart.FindString(src[at:])
		if text == "" { // not UTF-8
			at++
			continue
		}
		t := sqlToken{text: text, start: at, end: at + len(text)}
		if sqlWord.MatchString(text) {
			t.word = strings.ToUpper(text)
		}
		at = t.end
		switch {
		case t.text == "(" || t.word == "CASE":
			stack = append(stack, open{group: t})
		case t.text == ")" && len(stack) > 1 && last().group.text == "(",
			t.word == "END" && len(stack) > 1 && last().group.word == "CASE":
			closeGroup(t.end)
		default:
			last().tokens = append(last().tokens, t)
		}
	}
	for len(stack) > 1 {
		closeGroup(len(src))
	}
	return stack[0].tokens
}

// flat writes tokens with one space between them, without comments.
func flat(tokens []sqlToken) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString(t.text + " ")
		if t.group != nil {
			b.WriteString(flat(t.group) + ") ")
		}
	}
	return b.String()
}

// split cuts tokens at a word, AND or OR. The AND of BETWEEN does not count.
func split(tokens []sqlToken, word string) [][]sqlToken {
	var parts [][]sqlToken
	from, between := 0, 0
	for i, t := range tokens {
		switch {
		case t.word == "BETWEEN":
			between++
		case t.word == "AND" && between > 0:
			between--
		case t.word == word:
			parts = append(parts, tokens[from:i])
			from = i + 1
		}
	}
	return append(parts, tokens[from:])
}
