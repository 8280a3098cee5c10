package templates

import (
	"crypto/rand"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"regexp"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/letter"
)

// html/template leaves comments out, and Outlook's conditional comments with them. Each delimiter of one is therefore turned into an
// action that writes a placeholder, before html/template reads the file. It then sees the HTML between two delimiters as any
// other HTML, and escapes data there by its context, as Outlook will read it. Other readers skip that HTML, or read it in the
// same context: checkDelimiters makes sure that every delimiter stands in text. When the template was executed, the delimiters
// take the place of the placeholders, unless data ends a comment early.

// comments are the delimiters of the conditional comments in a page and what stands around it.
type comments struct {
	nonce      string // of the placeholders; data cannot know it
	delimiters []delimiter
}

// delimiter is one as it stands in a file.
type delimiter struct {
	kind delimiterKind
	text string
}

// delimiterKind says what a delimiter begins or ends.
type delimiterKind int

const (
	markOnly    delimiterKind = iota // a comment by itself: all readers read on
	openHidden                       // only Outlook reads what follows
	closeHidden                      // ends openHidden
)

// delimiterForms are the forms of delimiters. The first that matches counts.
var delimiterForms = []struct {
	kind delimiterKind
	form *regexp.Regexp
}{
	{markOnly, regexp.MustCompile(`(?i)^<!--\[if\s[\w\s.()&|!]*\]>\s*(?:<!)?(?:--\s*)?-->`)}, // Outlook does not read what follows
	{markOnly, regexp.MustCompile(`(?i)^<!--\s*<!\[endif\]\s*-->`)},
	{openHidden, regexp.MustCompile(`(?i)^<!--\[if\s[\w\s.()&|!]*\]>`)},
	{closeHidden, regexp.MustCompile(`(?i)^<!\[endif\]\s*-->`)},
	{markOnly, regexp.MustCompile(`(?i)^<!\[(?:if\s[\w\s.()&|!]*|endif)\]>`)},
}

// conditional is how every conditional comment begins, in lower case.
const conditional = "<!--[if"

// commentFunc is the function that writes a placeholder. Functions of an application have names in ASCII, so none is called so.
const commentFunc = "ªcomment"

// newComments makes an empty list.
func newComments() *comments { return &comments{nonce: rand.Text()} }

// placeholder is the text that stands for a delimiter. Only in text does it stay as it is: elsewhere html/template changes or
// removes the part that looks like a tag, and the rest of it is found.
func (c *comments) placeholder(n int) htmltemplate.HTML {
	return htmltemplate.HTML(c.nonce + "<" + c.nonce + strconv.Itoa(n) + ">") //nolint:gosec // it holds no data
}

// commentScanner turns delimiters into actions.
type commentScanner struct {
	*comments
	src     string
	at      int // of what is still to be read
	out     strings.Builder
	line    int    // of at
	hidden  string // the open comment that only Outlook reads, empty for none
	begins  int    // line of hidden
	endless bool   // no comment ends behind at
}

// keep returns the source of an HTML template whose conditional comments html/template keeps.
func (c *comments) keep(src string) (string, error) {
	s := commentScanner{comments: c, src: src, line: 1}
	for {
		rest := s.src[s.at:]
		i := strings.IndexAny(rest, "{<-")
		if i < 0 {
			s.copy(len(rest))
			break
		}
		s.copy(i)
		if err := s.step(rest[i:]); err != nil {
			return "", fmt.Errorf("line %d: %w", s.line, err)
		}
	}
	if s.hidden != "" {
		return "", fmt.Errorf("line %d: the conditional comment %s has no <![endif]--> in this file", s.begins, letter.Quote(s.hidden))
	}
	return s.out.String(), nil
}

// step takes in what begins with one of the characters that may mean something.
func (s *commentScanner) step(rest string) error {
	if strings.HasPrefix(rest, "{{") {
		s.copy(actionLength(rest))
		return nil
	}
	if d, ok := findDelimiter(rest); ok {
		return s.delimiter(d)
	}
	switch {
	case s.hidden != "" && (strings.HasPrefix(rest, "-->") || strings.HasPrefix(rest, "--!>")):
		return fmt.Errorf("--> ends the conditional comment %s before its <![endif]-->", letter.Quote(s.hidden))
	case len(rest) >= len(conditional) && strings.EqualFold(rest[:len(conditional)], conditional):
		text, _, _ := strings.Cut(rest, "\n")
		return fmt.Errorf("%s does not begin a conditional comment: write it as <!--[if mso]>, without template actions", letter.Quote(text))
	case strings.HasPrefix(rest, "<!--"): // html/template leaves it out
		n := len("<!--")
		if i := s.findEnd(rest[n:]); i >= 0 {
			n += i + len("-->")
		}
		s.copy(n)
	default:
		s.copy(1)
	}
	return nil
}

// findEnd returns where the next comment ends in rest, and -1 if none does. It searches the rest of the file once in vain.
func (s *commentScanner) findEnd(rest string) int {
	if s.endless {
		return -1
	}
	i := strings.Index(rest, "-->")
	s.endless = i < 0
	return i
}

// findDelimiter returns the delimiter that s begins with.
func findDelimiter(s string) (delimiter, bool) {
	if strings.HasPrefix(s, "<!") {
		for _, f := range delimiterForms {
			if text := f.form.FindString(s); text != "" {
				return delimiter{kind: f.kind, text: text}, true
			}
		}
	}
	return delimiter{}, false
}

// delimiter puts an action in the place of a delimiter.
func (s *commentScanner) delimiter(d delimiter) error {
	switch {
	case s.hidden != "" && d.kind != closeHidden && strings.HasPrefix(d.text, "<!--"):
		return errNested(s.hidden)
	case d.kind == openHidden:
		s.hidden, s.begins = d.text, s.line
	case d.kind == closeHidden && s.hidden == "":
		d.kind = markOnly
	case d.kind == closeHidden:
		s.hidden = ""
	}
	// The line breaks keep the numbers of lines in errors.
	breaks := strings.Count(d.text, "\n")
	fmt.Fprintf(&s.out, "{{%s %d%s}}", commentFunc, len(s.delimiters), strings.Repeat("\n", breaks))
	s.delimiters = append(s.delimiters, d)
	s.at += len(d.text)
	s.line += breaks
	return nil
}

// copy copies n bytes as they are.
func (s *commentScanner) copy(n int) {
	text := s.src[s.at : s.at+n]
	s.out.WriteString(text)
	s.line += strings.Count(text, "\n")
	s.at += n
}

// actionLength returns the length of the template action at the beginning of s. Braces in its strings and comments do not end it.
func actionLength(s string) int {
	inner := strings.TrimLeft(strings.TrimPrefix(s[2:], "-"), " \t\r\n")
	if strings.HasPrefix(inner, "/*") {
		if i := strings.Index(s, "*/"); i >= 0 {
			if j := strings.Index(s[i:], "}}"); j >= 0 {
				return i + j + 2
			}
		}
		return len(s) // the parser says what is wrong
	}
	for i := 2; i < len(s); i++ {
		switch c := s[i]; c {
		case '}':
			if strings.HasPrefix(s[i:], "}}") {
				return i + 2
			}
		case '"', '\'', '`':
			for i++; i < len(s) && s[i] != c; i++ {
				if s[i] == '\\' && c != '`' {
					i++
				}
			}
		}
	}
	return len(s)
}

// textEscaper is the escaper that html/template adds to an action that stands in text, and to no other.
const textEscaper = "_html_template_htmlescaper"

// checkDelimiters checks a set that html/template has escaped: each delimiter must stand in text. Elsewhere, as in a tag or in a
// style sheet, no reader takes it for one.
func (c *comments) checkDelimiters(set *htmltemplate.Template) (err error) {
	for _, t := range set.Templates() {
		if t.Tree == nil || t.Tree.Root == nil {
			continue
		}
		walk(t.Tree.Root, func(node parse.Node) {
			action, ok := node.(*parse.ActionNode)
			if !ok || err != nil {
				return
			}
			cmds := action.Pipe.Cmds
			if name, ok := cmds[0].Args[0].(*parse.IdentifierNode); !ok || name.Ident != commentFunc {
				return
			}
			// A file that is not used has no escapers.
			if len(cmds) > 2 || len(cmds) == 2 && cmds[1].String() != textEscaper {
				err = c.errMisplaced(cmds[0].Args[1].String())
			}
		})
	}
	return err
}

// errMisplaced is the error of a delimiter that no reader takes for one.
func (c *comments) errMisplaced(number string) error {
	text := "a conditional comment"
	if n, err := strconv.Atoi(number); err == nil && n < len(c.delimiters) {
		text = "the conditional comment " + letter.Quote(c.delimiters[n].text)
	}
	return fmt.Errorf("%s stands in a tag, an attribute, a style sheet or a script", text)
}

// errNested is the error of a conditional comment in another.
func errNested(outer string) error {
	return fmt.Errorf("a conditional comment stands within %s: HTML comments do not nest", letter.Quote(outer))
}

// commentedHTML is a template with conditional comments.
type commentedHTML struct {
	template *htmltemplate.Template
	comments *comments
}

// Execute writes the page with its conditional comments. It returns an [outbox.InvalidError] where data ends one of them early.
func (c *commentedHTML) Execute(w io.Writer, data any) error {
	var out strings.Builder
	if err := c.template.Execute(&out, data); err != nil {
		return err
	}
	page, err := c.comments.restore(out.String())
	if err != nil {
		return &outbox.InvalidError{Field: "HTML", Err: err}
	}
	_, err = io.WriteString(w, page)
	return err
}

// commentEnd is how a comment ends, to one reader or another (HTML, 13.2.5.51 and 13.2.5.52).
var commentEnd = regexp.MustCompile(`--!?>`)

// restore puts the delimiters into a page. Data that is escaped has no '>', but the file may have one behind data without quotes,
// and a value of type HTML anywhere: neither may end a comment.
func (c *comments) restore(page string) (string, error) {
	pieces := strings.Split(page, c.nonce+"<"+c.nonce)
	var out strings.Builder
	var open *delimiter
	for i, text := range pieces {
		if i > 0 {
			number, rest, _ := strings.Cut(text, ">")
			n, err := strconv.Atoi(number)
			if err != nil || n >= len(c.delimiters) {
				return "", errors.New("a conditional comment was taken apart")
			}
			d := &c.delimiters[n]
			switch {
			case d.kind == openHidden && open != nil:
				return "", errNested(open.text)
			case d.kind == openHidden:
				open = d
			case d.kind == closeHidden:
				open = nil
			}
			out.WriteString(d.text)
			text = rest
		}
		switch {
		case strings.Contains(text, c.nonce):
			return "", c.errMisplaced("")
		case open != nil && commentEnd.MatchString(text):
			return "", fmt.Errorf("--> in the data, or behind data without quotes, ends the conditional comment %s", letter.Quote(open.text))
		}
		out.WriteString(text)
	}
	if open != nil {
		return "", fmt.Errorf("the conditional comment %s has no <![endif]-->", letter.Quote(open.text))
	}
	return out.String(), nil
}
