package letter

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// PlainText returns the text of HTML, for readers that do not show HTML and for filters that distrust mail without text.
// Paragraphs, lists, quotations and rules keep their form. The address follows the text of a link, and the alternative text
// replaces an image. Hidden elements are left out. The result is empty if the HTML has no text.
//
// The attribute hidden or the element's own style attribute hides an element: display, visibility, opacity, mso-hide, a clipped
// size of zero, a font size of zero, or a transparent colour. PlainText ignores style sheets. It also ignores conditional
// comments, whose HTML only Outlook reads.
//
// The time and the length of the result are proportional to the input.
func PlainText(s string) string {
	w := textWriter{out: make([]byte, 0, len(s)/2)}
	z := html.NewTokenizer(strings.NewReader(s))
	for {
		switch z.Next() {
		case html.ErrorToken: // the end: reading a string has no other error
			return w.text()
		case html.TextToken:
			w.content(z.Text())
		case html.StartTagToken:
			name, more := z.TagName()
			tag := atom.Lookup(name)
			w.start(tag, tagAttributes(tag, z, more))
		case html.SelfClosingTagToken: // which HTML takes for a start tag, except in a drawing or a formula
			name, more := z.TagName()
			if tag := atom.Lookup(name); tag != atom.Svg && tag != atom.Math {
				w.start(tag, tagAttributes(tag, z, more))
			}
		case html.EndTagToken:
			name, _ := z.TagName()
			w.end(atom.Lookup(name))
		case html.CommentToken, html.DoctypeToken:
		}
	}
}

// attributes holds the attributes of a tag that affect the text.
type attributes struct {
	href, alt string
	number    *int // of a list item, or the first of a list
	look      look
}

func tagAttributes(tag atom.Atom, z *html.Tokenizer, more bool) (a attributes) {
	hidden := false
	for more {
		var key, value []byte
		key, value, more = z.TagAttr()
		switch string(key) {
		case "href":
			a.href = strings.TrimSpace(string(value))
		case "alt":
			a.alt = string(value)
		case "start":
			if tag == atom.Ol {
				a.number = parseNumber(value)
			}
		case "value":
			if tag == atom.Li {
				a.number = parseNumber(value)
			}
		case "hidden":
			hidden = true
		case "style":
			a.look = parseLook(tag, string(value))
		}
	}
	a.look.hidden = a.look.hidden || hidden
	return a
}

// parseNumber reads a number of a list, nil for none.
func parseNumber(value []byte) *int {
	n, err := strconv.ParseInt(strings.TrimSpace(string(value)), 10, 32)
	if err != nil {
		return nil
	}
	number := int(n)
	return &number
}

// Bounds of the nesting that is shown: deeper levels look like the last one, so that the prefixes of lines cannot grow
// with the input.
const (
	maxQuoteDepth = 5
	maxListDepth  = 8
)

// textWriter writes text in lines. It writes white space only before a word, so that no line ends in white space.
type textWriter struct {
	out    []byte
	breaks int    // line breaks due before the next word
	space  bool   // a space is due before the next word
	lead   bool   // the next word begins a list item, whose mark was written
	joiner rune   // joins the last word to the next if they touch, 0 for none
	gap    []byte // preformatted blanks due before the next word of this line

	quotes int // open quotations
	marks  int // marks of quotation on this line
	pre    int
	lists  []list // that are open

	looks     looks
	skip      atom.Atom // element that is left out, 0 for none
	skipDepth int       // elements of that name that are open

	href   string // address of the open link, empty for none
	linkAt int    // place in out where the text of the link began
}

// list is an open list.
type list struct {
	numbered bool
	next     int // the number of the next item
}

// isSkipped says whether an element has nothing to show. A head is not one: what can stand in it has nothing to show itself, and
// the first text or element that has something begins the body, as both their tags may be left out.
func isSkipped(tag atom.Atom) bool {
	switch tag {
	case atom.Title, atom.Style, atom.Script, atom.Noscript, atom.Template, atom.Textarea, atom.Select, atom.Iframe,
		atom.Object, atom.Svg, atom.Math:
		return true
	default:
		return false
	}
}

// isVoid says whether an element has no content and no end tag.
func isVoid(tag atom.Atom) bool {
	switch tag {
	case atom.Area, atom.Base, atom.Br, atom.Col, atom.Embed, atom.Hr, atom.Img, atom.Input, atom.Link, atom.Meta, atom.Source,
		atom.Track, atom.Wbr:
		return true
	default:
		return false
	}
}

// margin returns the number of line breaks before and after an element: 0, 1 for a line, or 2 for a paragraph.
func margin(tag atom.Atom) int {
	switch tag {
	case atom.P, atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Ul, atom.Ol, atom.Dl, atom.Table, atom.Blockquote,
		atom.Pre, atom.Hr, atom.Figure, atom.Fieldset:
		return 2
	case atom.Body, atom.Div, atom.Tr, atom.Li, atom.Dt, atom.Dd, atom.Center, atom.Section, atom.Article, atom.Header,
		atom.Footer, atom.Main, atom.Nav, atom.Aside, atom.Address, atom.Caption, atom.Thead, atom.Tbody, atom.Tfoot,
		atom.Figcaption, atom.Form, atom.Details, atom.Summary, atom.Legend:
		return 1
	default:
		return 0
	}
}

// start handles a start tag.
func (w *textWriter) start(tag atom.Atom, a attributes) {
	if w.skip != 0 {
		if tag == w.skip {
			w.skipDepth++
		}
		return
	}
	if isSkipped(tag) {
		w.skip, w.skipDepth = tag, 1
		return
	}
	switch {
	case tag == 0, tag == atom.Head: // of another language, which may not have an end tag, or without what is seen
	case isVoid(tag):
		if a.look.hidden {
			return
		}
	default:
		w.looks.start(tag, a.look)
	}
	if w.looks.hidden() {
		return
	}
	w.breakLines(w.nested(margin(tag)))
	switch tag {
	case atom.Br:
		w.breaks = min(w.breaks+1, 2)
	case atom.Td, atom.Th:
		w.space = true
	case atom.Blockquote:
		w.quotes++
	case atom.Pre:
		w.pre++
	case atom.Ul:
		w.lists = append(w.lists, list{})
	case atom.Ol:
		first := 1
		if a.number != nil {
			first = *a.number
		}
		w.lists = append(w.lists, list{numbered: true, next: first})
	case atom.Li:
		w.item(a.number)
	case atom.Hr:
		w.word([]byte("--------"))
		w.breakLines(2)
	case atom.Img:
		w.content([]byte(a.alt))
	case atom.A:
		w.endLink()
		w.href, w.linkAt = a.href, len(w.out)
	default:
	}
}

// end handles an end tag.
func (w *textWriter) end(tag atom.Atom) {
	if w.skip != 0 {
		if tag == w.skip {
			if w.skipDepth--; w.skipDepth == 0 {
				w.skip = 0
			}
		}
		return
	}
	hidden := w.looks.hidden()
	if tag != 0 {
		w.looks.end(tag)
	}
	if hidden {
		return
	}
	switch tag {
	case atom.A:
		w.endLink()
	case atom.Li:
		w.lead = false
	case atom.Ul, atom.Ol:
		w.lead = false
		if len(w.lists) > 0 {
			w.lists = w.lists[:len(w.lists)-1]
		}
	case atom.Pre:
		w.pre = max(w.pre-1, 0)
	default:
	}
	w.breakLines(w.nested(margin(tag)))
	if tag == atom.Blockquote {
		w.quotes = max(w.quotes-1, 0)
	}
}

// nested limits line breaks inside a list to one, which keeps its items together.
func (w *textWriter) nested(breaks int) int {
	if len(w.lists) > 0 {
		return min(breaks, 1)
	}
	return breaks
}

// breakLines makes n line breaks due before the next word. It does nothing right after the mark of a list item.
func (w *textWriter) breakLines(n int) {
	if n > 0 {
		w.gap = w.gap[:0]
	}
	if n > 0 && !w.lead {
		w.breaks = max(w.breaks, n)
	}
}

// item begins a list item. Its number is that after the last one, unless it gives one.
func (w *textWriter) item(number *int) {
	w.lead = false
	w.breaks = max(w.breaks, 1)
	mark := "-"
	if n := len(w.lists); n > 0 && w.lists[n-1].numbered {
		l := &w.lists[n-1]
		if number != nil {
			l.next = *number
		}
		mark = strconv.Itoa(l.next) + "."
		l.next++
	}
	w.word([]byte(strings.Repeat("  ", max(min(len(w.lists), maxListDepth)-1, 0)) + mark))
	w.space, w.lead = true, true
}

// endLink writes the address after the text of a link, unless both are the same.
func (w *textWriter) endLink() {
	href := w.href
	w.href = ""
	scheme, rest, _ := strings.Cut(href, ":")
	switch strings.ToLower(scheme) {
	case "http", "https":
		rest = strings.TrimSuffix(strings.TrimPrefix(rest, "//"), "/")
	case "mailto", "tel":
	default: // an anchor, a script, or nothing
		return
	}
	// The comparison ignores white space around the text.
	shown := string(bytes.TrimSpace(w.out[min(w.linkAt, len(w.out)):]))
	switch {
	case shown == "":
	case strings.EqualFold(shown, href), strings.EqualFold(strings.TrimSuffix(shown, "/"), rest):
		return
	}
	if strings.ContainsAny(href, " \t\r\n<>") { // readers of text would cut the address here
		href = strings.NewReplacer(" ", "%20", "\t", "", "\r", "", "\n", "", "<", "%3C", ">", "%3E").Replace(href)
	}
	w.space = true
	if shown != "" {
		w.word([]byte("<" + href + ">"))
		return
	}
	w.word([]byte(href))
	w.space = true // or the next word would seem to be of the address
}

// content handles the text between two tags.
func (w *textWriter) content(s []byte) {
	if w.skip != 0 || w.looks.textHidden() {
		return
	}
	if w.pre > 0 {
		w.preformatted(s)
		return
	}
	start := -1
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRune(s[i:])
		switch {
		case isBlank(r):
			if start >= 0 {
				w.visibleWord(s[start:i])
				start = -1
			}
			w.space = true
		case start < 0:
			start = i
		}
		i += n
	}
	if start >= 0 {
		w.visibleWord(s[start:])
	}
}

// visibleWord writes what is seen of a word or a preformatted line.
func (w *textWriter) visibleWord(s []byte) {
	before := rune(0) // what it touches, perhaps across a tag
	if len(w.out) > 0 && w.breaks == 0 && !w.space && len(w.gap) == 0 {
		before, _ = utf8.DecodeLastRune(w.out)
	}
	s, joiner := visible(s, before)
	if s = bytes.TrimRightFunc(s, isBlank); len(s) > 0 {
		w.word(s)
	}
	if joiner != 0 {
		w.joiner = joiner
	}
}

// preformatted handles text and keeps its white space.
func (w *textWriter) preformatted(s []byte) {
	for first, rest := true, s; ; first = false {
		line, after, more := bytes.Cut(rest, []byte("\n"))
		if !first {
			w.breaks++
			w.gap = w.gap[:0]
		}
		w.visibleWord(line)
		if !more { // a tag follows, and perhaps more of the line
			w.gap = append(w.gap, line[len(bytes.TrimRightFunc(line, isBlank)):]...)
			return
		}
		rest = after
	}
}

// word writes the white space that is due, and then a word.
func (w *textWriter) word(s []byte) {
	switch {
	case len(w.out) == 0:
		w.prefix(w.quotes)
	case w.breaks > 0:
		for i := range w.breaks {
			w.out = append(bytes.TrimRight(w.out, " "), '\n')
			if i < w.breaks-1 { // an empty line between two quotations belongs to the outer one
				w.prefix(min(w.marks, w.quotes))
			}
		}
		w.prefix(w.quotes)
	case w.space && w.out[len(w.out)-1] != ' ':
		w.out = append(w.out, ' ')
	case w.joiner != 0 && !w.space && len(w.gap) == 0 && beginsVisibly(s):
		w.out = utf8.AppendRune(w.out, w.joiner)
	}
	for _, r := range string(w.gap) {
		if r != '\t' {
			r = ' '
		}
		w.out = append(w.out, byte(r))
	}
	w.out = append(w.out, s...)
	w.gap = w.gap[:0]
	w.breaks, w.space, w.lead, w.joiner = 0, false, false, 0
}

// prefix writes the marks of a quoted line.
func (w *textWriter) prefix(depth int) {
	w.marks = min(depth, maxQuoteDepth)
	for range w.marks {
		w.out = append(w.out, "> "...)
	}
}

// text ends an open link and returns the text.
func (w *textWriter) text() string {
	w.endLink()
	if len(w.out) == 0 {
		return ""
	}
	return string(w.out) + "\n"
}
