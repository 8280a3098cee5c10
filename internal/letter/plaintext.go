package letter

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// PlainText returns what HTML says as plain text, for readers that do not show HTML and for filters that distrust mail
// without text. Paragraphs, lists, quotations and rules keep their form, links are followed by their address, images
// give their alternative text, and what is not shown is left out. It is empty where the HTML has no text.
//
// Elements are hidden by the attribute hidden or by their own style attribute: display, visibility, opacity, mso-hide, a size of
// zero that is clipped, a font size of zero, a transparent colour. The rules of style sheets are not read. HTML that only Outlook
// reads, in conditional comments, is a comment here too.
//
// The time and the length of the result are proportional to the input, whatever that is.
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

// attributes are those of a tag that matter to text.
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

// textWriter writes text in lines. White space is written when the word after it is, so that none is left at an end.
type textWriter struct {
	out    []byte
	breaks int  // line breaks due before the next word
	space  bool // a space is due before the next word
	lead   bool // the next word begins a list item, whose mark was written
	joiner rune // joins the last word to the next if they touch, 0 for none

	quotes int // open quotations
	marks  int // of quotation on this line
	pre    int
	lists  []list // that are open

	looks     looks
	skip      atom.Atom // element that is left out, 0 for none
	skipDepth int       // elements of that name that are open

	href   string // of the open link, empty for none
	linkAt int    // where its text began
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

// margin returns how many line breaks stand before and after an element: none, one for a line, two for a paragraph.
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

// start takes in a start tag.
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

// end takes in an end tag.
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

// nested keeps the items of lists together: inside one nothing stands apart by more than a line.
func (w *textWriter) nested(breaks int) int {
	if len(w.lists) > 0 {
		return min(breaks, 1)
	}
	return breaks
}

// breakLines makes line breaks due. What begins an item stays beside its mark.
func (w *textWriter) breakLines(n int) {
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

// endLink writes the address behind the text of a link, unless it is that text.
func (w *textWriter) endLink() {
	href := w.href
	w.href = ""
	scheme, rest, _ := strings.Cut(href, ":")
	switch strings.ToLower(scheme) {
	case "http", "https":
		rest = strings.TrimSuffix(strings.TrimPrefix(rest, "//"), "/")
	case "mailto", "tel":
	default: // a place in this page, a script, or nothing
		return
	}
	// The text is read without what quotes, indents or ends a line.
	shown := string(bytes.TrimSpace(w.out[min(w.linkAt, len(w.out)):]))
	switch {
	case shown == "":
	case strings.EqualFold(shown, href), strings.EqualFold(strings.TrimSuffix(shown, "/"), rest):
		return
	}
	if strings.ContainsAny(href, " \t\r\n<>") { // browsers mend it, a reader of text would cut it
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

// content takes in the text between two tags.
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
	if len(w.out) > 0 && w.breaks == 0 && !w.space {
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

// preformatted takes in text whose white space counts.
func (w *textWriter) preformatted(s []byte) {
	for first, rest := true, s; ; first = false {
		line, after, more := bytes.Cut(rest, []byte("\n"))
		if !first {
			w.breaks++
		}
		w.visibleWord(line)
		if !more {
			return
		}
		rest = after
	}
}

// word writes a word and the white space that is due before it.
func (w *textWriter) word(s []byte) {
	switch {
	case len(w.out) == 0:
		w.prefix(w.quotes)
	case w.breaks > 0:
		for i := range w.breaks {
			w.out = append(bytes.TrimRight(w.out, " "), '\n')
			if i < w.breaks-1 { // an empty line between two quotations is in the outer one
				w.prefix(min(w.marks, w.quotes))
			}
		}
		w.prefix(w.quotes)
	case w.space && w.out[len(w.out)-1] != ' ':
		w.out = append(w.out, ' ')
	case w.joiner != 0 && !w.space && beginsVisibly(s):
		w.out = utf8.AppendRune(w.out, w.joiner)
	}
	w.out = append(w.out, s...)
	w.breaks, w.space, w.lead, w.joiner = 0, false, false, 0
}

// prefix marks a line as quoted.
func (w *textWriter) prefix(depth int) {
	w.marks = min(depth, maxQuoteDepth)
	for range w.marks {
		w.out = append(w.out, "> "...)
	}
}

// text returns what was written.
func (w *textWriter) text() string {
	w.endLink()
	if len(w.out) == 0 {
		return ""
	}
	return string(w.out) + "\n"
}
