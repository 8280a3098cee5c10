package main

import (
	"regexp"
	"slices"
	"strings"
)

// sqlFile collects the mutants of a file of SQL.
type sqlFile struct {
	name, src string
	in, code  string // of the statement at hand
	mutants   []*mutant
}

// sqlMutants changes guards term by term, and the clauses that order, limit and lock. A file has either statements under lines
// "-- name: x" or the statements of a migration. There the mutants are in tables, functions and triggers; an index guards nothing.
func sqlMutants(name, src string) []*mutant {
	f := &sqlFile{name: name, src: src}
	for _, part := range f.parts() {
		f.in = part.name
		f.code = hash(flat(part.tokens))[:12]
		f.walk(part.tokens, "")
	}
	return f.mutants
}

type sqlStatement struct {
	name   string
	tokens []sqlToken
}

var nameLine = regexp.MustCompile(`(?m)^-- name: (.*)$`)

func (f *sqlFile) parts() []sqlStatement {
	var parts []sqlStatement
	tokens := sqlTokens(f.src)
	if names := nameLine.FindAllStringSubmatchIndex(f.src, -1); len(names) > 0 {
		for i, n := range names {
			end := len(f.src)
			if i+1 < len(names) {
				end = names[i+1][0]
			}
			parts = append(parts, sqlStatement{strings.TrimSpace(f.src[n[2]:n[3]]), between(tokens, n[1], end)})
		}
		return parts
	}
	var starts []int
	for i, t := range tokens {
		if t.word == "CREATE" {
			starts = append(starts, i)
		}
	}
	for i, from := range starts {
		to := len(tokens)
		if i+1 < len(starts) {
			to = starts[i+1]
		}
		for j := from + 1; j < to-1; j++ {
			if slices.Contains([]string{"TABLE", "FUNCTION", "TRIGGER"}, tokens[j].word) {
				parts = append(parts, sqlStatement{tokens[j+1].text, tokens[from:to]})
				break
			}
			if tokens[j].word == "INDEX" || tokens[j].word == "VIEW" {
				break
			}
		}
	}
	return parts
}

func between(tokens []sqlToken, start, end int) []sqlToken {
	var in []sqlToken
	for _, t := range tokens {
		if t.start >= start && t.start < end {
			in = append(in, t)
		}
	}
	return in
}

// separators end a condition.
var separators = func() map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(`SELECT FROM WHERE ON HAVING WHEN THEN ELSE GROUP ORDER LIMIT OFFSET FOR RETURNING UNION EXCEPT INTERSECT
		SET VALUES AS JOIN LEFT INNER CROSS USING WITH INSERT UPDATE DELETE BEGIN END IF ELSIF LOOP EXECUTE CONFLICT DO WINDOW CONSTRAINT CHECK
		DEFAULT RETURN PERFORM RAISE BY EXCEPTION`) {
		m[w] = true
	}
	return m
}()

func separates(tokens []sqlToken, i int) bool {
	t := tokens[i]
	switch {
	case t.text == ";" || t.text == ",":
		return true
	case t.word == "FROM" && i > 0 && tokens[i-1].word == "DISTINCT" && i > 1 && tokens[i-2].word != "SELECT":
		return false // IS DISTINCT FROM
	case t.word == "LEFT" && i+1 < len(tokens) && tokens[i+1].isGroup():
		return false // a function
	}
	return separators[t.word]
}

// walk goes through the tokens of a statement or of a group. before is the word in front of the group.
func (f *sqlFile) walk(tokens []sqlToken, before string) {
	if before == "IN" {
		f.values(tokens)
	}
	if slices.Contains([]string{"GREATEST", "LEAST", "MIN", "MAX"}, before) {
		f.bounds(tokens)
	}
	joined, set := false, false
	simple := before == "CASE" && len(tokens) > 0 && tokens[0].word != "WHEN" // CASE x WHEN value
	clause := ""
	for i := 0; i < len(tokens); {
		if separates(tokens, i) {
			clause = tokens[i].word
			switch clause {
			case "JOIN":
				joined = true
			case "SET":
				set = true
			case "", "AS":
				if tokens[i].text == ";" {
					joined, set = false, false
				}
			default:
				set = false
			}
			f.clause(tokens, i)
			i++
			continue
		}
		end := i
		for end < len(tokens) && !separates(tokens, end) {
			end++
		}
		condition := tokens[i:end]
		guards := clause == "WHERE" || clause == "HAVING" || clause == "IF" || clause == "ELSIF" || clause == "ON" && joined ||
			clause == "WHEN" && !simple && (i < 2 || tokens[i-2].word != "EXCEPTION")
		if clause == "IF" && (condition[0].word == "EXISTS" || condition[0].word == "NOT") && end < len(tokens) && tokens[end].word != "THEN" {
			guards = false // CREATE TABLE IF NOT EXISTS
		}
		if set {
			condition = assigned(condition)
		}
		f.condition(condition, guards || before == "CHECK")
		if guards && clause != "WHERE" && clause != "ON" && clause != "HAVING" {
			start, stop := condition[0].start, condition[len(condition)-1].end
			f.add("branch never taken", start, edit{start, stop, "(FALSE AND (" + f.src[start:stop] + "))"}, edit{start, stop, "FALSE"})
		}
		f.inside(tokens[i:end], clause)
		i = end
	}
}

// assigned is the value in "column = value".
func assigned(tokens []sqlToken) []sqlToken {
	for i, t := range tokens {
		if t.text == "=" {
			return tokens[i+1:]
		}
	}
	return tokens
}

func (f *sqlFile) inside(tokens []sqlToken, clause string) {
	for i, t := range tokens {
		if t.group == nil {
			if duration.MatchString(t.text) {
				f.replace("duration is zero", t.start, t.end, "'0 seconds'")
			}
			continue
		}
		before := clause
		if t.isCase() {
			before = "CASE"
		} else if i > 0 {
			before = tokens[i-1].word
		}
		f.walk(t.group, before)
	}
}

var duration = regexp.MustCompile(`^'[+-]?\d+(\.\d+)? (second|minute|hour|day)s?'$`)

// condition removes the terms of a condition. Where it guards something and has one term alone, that goes, too.
func (f *sqlFile) condition(tokens []sqlToken, guards bool) {
	ors := split(tokens, "OR")
	for i, or := range ors {
		if len(ors) > 1 {
			f.term(or, ors, i, "FALSE AND")
		}
		ands := split(or, "AND")
		for j, and := range ands {
			if len(ands) > 1 || guards && len(ors) == 1 {
				f.term(and, ands, j, "TRUE OR")
			}
		}
	}
}

// term removes one of several terms of a condition.
func (f *sqlFile) term(term []sqlToken, all [][]sqlToken, i int, instead string) {
	if len(term) == 0 || len(term) == 1 && term[0].word == "TRUE" {
		return
	}
	start, end := term[0].start, term[len(term)-1].end
	shown := edit{start, end, "TRUE"}
	switch {
	case len(all) > 1 && i == 0 && len(all[1]) > 0:
		shown = edit{start, all[1][0].start, ""}
	case i > 0 && len(all[i-1]) > 0:
		shown = edit{all[i-1][len(all[i-1])-1].end, end, ""}
	}
	f.add("term removed", start, edit{start, end, "(" + instead + " (" + f.src[start:end] + "))"}, shown)
}

// values removes the values of a list one by one.
func (f *sqlFile) values(tokens []sqlToken) {
	var items []sqlToken
	for i, t := range tokens {
		if i%2 == 1 != (t.text == ",") || t.group != nil {
			return // a subquery, or more than constants
		}
		if i%2 == 0 {
			items = append(items, t)
		}
	}
	if len(items) < 2 {
		return
	}
	for i, t := range items {
		start, end := t.start, t.end
		if i == 0 {
			end = items[1].start
		} else {
			start = items[i-1].end
		}
		f.replace("value removed", start, end, "")
	}
}

// bounds drops one argument of greatest, least, or their like in SQLite.
func (f *sqlFile) bounds(tokens []sqlToken) {
	var args [][2]int
	from := 0
	for i := range len(tokens) + 1 {
		if i < len(tokens) && tokens[i].text != "," {
			continue
		}
		if i == from {
			return
		}
		args = append(args, [2]int{tokens[from].start, tokens[i-1].end})
		from = i + 1
	}
	if len(args) != 2 {
		return
	}
	start, end := args[0][0], args[1][1]
	for i := range args {
		kept, lost := f.src[args[i][0]:args[i][1]], f.src[args[1-i][0]:args[1-i][1]]
		f.add("bound removed", start, edit{start, end, "coalesce(" + kept + ", " + lost + "), coalesce(" + kept + ", " + lost + ")"}, edit{start, end, kept})
	}
}

// clause removes clauses that limit, order and lock.
func (f *sqlFile) clause(tokens []sqlToken, i int) {
	next := func(j int) string {
		if i+j < len(tokens) {
			return tokens[i+j].word
		}
		return ""
	}
	end := i + 1
	for end < len(tokens) && !separates(tokens, end) {
		end++
	}
	start, stop := tokens[i].start, tokens[end-1].end
	switch tokens[i].word {
	case "SELECT":
		if next(1) == "DISTINCT" {
			f.replace("DISTINCT removed", tokens[i+1].start, tokens[i+1].end, "")
		}
	case "LIMIT":
		if end > i+1 && tokens[i+1].text != "-" && next(1) != "ALL" {
			f.add("LIMIT removed", start, edit{start, stop, "LIMIT (1000000 + 0 * (" + f.src[tokens[i+1].start:stop] + "))"}, edit{start, stop, ""})
		}
	case "ORDER":
		for end = i + 2; end < len(tokens) && (!separates(tokens, end) || tokens[end].text == ","); end++ {
			stop = tokens[end].end
		}
		f.replace("ORDER BY removed", start, stop, "")
	case "FOR":
		f.lock(tokens, i)
	case "ON":
		if next(1) == "CONFLICT" {
			for end = i + 1; end < len(tokens) && tokens[end].text != ";" && tokens[end].word != "RETURNING"; end++ {
				stop = tokens[end].end
			}
			f.replace("ON CONFLICT removed", start, stop, "")
		}
	}
}

// lock removes FOR UPDATE and its like, and SKIP LOCKED.
func (f *sqlFile) lock(tokens []sqlToken, i int) {
	end := i + 1
	for end < len(tokens) && slices.Contains([]string{"UPDATE", "SHARE", "KEY", "NO", "SKIP", "LOCKED", "NOWAIT"}, tokens[end].word) {
		if tokens[end].word == "SKIP" {
			f.replace("SKIP LOCKED removed", tokens[end].start, tokens[end+1].end, "")
		}
		end++
	}
	if end > i+1 {
		f.replace("lock removed", tokens[i].start, tokens[end-1].end, "")
	}
}

func (f *sqlFile) add(kind string, at int, built, shown edit) {
	f.mutants = append(f.mutants, &mutant{
		file: f.name, line: lineOf(f.src, at), in: f.in, kind: kind, built: built, shown: shown, src: f.src, code: f.code,
	})
}

func (f *sqlFile) replace(kind string, start, end int, text string) {
	f.add(kind, start, edit{start, end, text}, edit{start, end, text})
}
