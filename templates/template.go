package templates

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/letter"
)

// Set holds the templates of an application's messages. It is read by [Load], does not change, and is safe for concurrent use.
type Set struct{ byName map[string]*Template }

// Template makes the subject and the body of a message from data, in the languages that it has. It does not change and
// is safe for concurrent use.
type Template struct {
	name     string
	fallback *variant            // of the files that name no locale
	variants map[string]*variant // by locale in lower case
}

// variant is a template in one language.
type variant struct {
	locale              string // as in the names of the files
	subject, text, html executor
}

// executor is a template of text/template or html/template.
type executor interface {
	Execute(w io.Writer, data any) error
}

// Config says how [Load] reads templates. The zero value is ready to use.
type Config struct {
	// Locale is the language of the files that name none, as a BCP 47 tag such as "en". Defaults to none: then they serve
	// where no other language fits.
	Locale string
	// Funcs are functions for the templates, beside those of text/template. They must be safe for concurrent use. Defaults
	// to none; "locale", which gives the locale of the variant, is always there.
	Funcs map[string]any
}

// Load reads the templates of a folder, such as an embed.FS, and checks them: it refuses what could not be
// rendered with any data. A template is up to three files with one name:
//
//	reset.subject   the subject line (text/template)
//	reset.txt       the text (text/template)
//	reset.html      the HTML (html/template, which escapes data by its context)
//
// The subject and one of the others must be there. A locale before the ending makes a variant, which has the same files:
// reset.de.subject, reset.de.txt. Folders are part of the name: billing/invoice.
//
// A file of the folder partials is for use by others of its ending: partials/button.html is {{template "button" .}}. A
// layout (layout.html, layout.txt) stands around the templates of its folder and of those below that have none; they
// appear where it says {{template "content" .}}. Partials and layouts are found for the locale of the variant first, then
// for the more general one, then without. Files with other endings are not looked at.
//
// A key that a map does not have is an error.
//
// Outlook's conditional comments stay in HTML, such as <!--[if mso]>…<![endif]--> and <!--[if !mso]><!-->…<!--<![endif]-->, so
// the output of MJML can be used as it is. Data within them is escaped by its context. Their conditions may not contain actions,
// and a comment must end in the file in which it begins. Other comments are left out.
func Load(fsys fs.FS, c Config) (*Set, error) {
	sources, err := readSources(fsys, c)
	if err != nil {
		return nil, err
	}
	s := &Set{byName: make(map[string]*Template)}
	for _, name := range sources.names() {
		t, err := sources.template(name)
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", name, err)
		}
		s.byName[name] = t
	}
	if len(s.byName) == 0 {
		return nil, fmt.Errorf("there is no template: no file ends in %s", strings.Join(kinds[:], " or "))
	}
	return s, nil
}

// Names returns the names of the templates in their order.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.byName)) }

// Get returns a template. The error of an unknown name lists those that there are.
func (s *Set) Get(name string) (*Template, error) {
	if t, ok := s.byName[name]; ok {
		return t, nil
	}
	return nil, fmt.Errorf("there is no template %s, only %s", letter.Quote(name), strings.Join(s.Names(), ", "))
}

// Name returns the name of the template.
func (t *Template) Name() string { return t.name }

// Locales returns the languages of the template in their order, without that of the files that name none.
func (t *Template) Locales() []string {
	var locales []string
	for _, v := range t.variants {
		if v != t.fallback {
			locales = append(locales, v.locale)
		}
	}
	slices.Sort(locales)
	return locales
}

// Parts is what a template makes of data.
type Parts struct {
	// Locale is the language that was chosen, empty for the files that name none where Config.Locale is not set.
	Locale string
	// Subject, Text and HTML are the parts. A template without text shows the text that is derived from its HTML.
	Subject, Text, HTML string
}

// Preview shows what a message would say, for a page that designers look at or a test. See [Template.Fill].
func (t *Template) Preview(data any, locales ...string) (Parts, error) {
	p, err := t.execute(data, locales)
	if err == nil && t.fallback.text == nil {
		p.Text = letter.PlainText(p.HTML)
	}
	return p, err
}

// Fill sets Subject, Text and HTML of a message from data. The locales are BCP 47 tags in the order in which the reader
// prefers them. The first that the template has counts, each tried in full and then more generally, de-CH before de
// (RFC 4647 §3.4); without any the files that name no locale are used.
//
// The error is that of the execution, or an [outbox.InvalidError] about a subject that is empty or has more than one line, or about
// HTML whose data ends a conditional comment. On error, the message is unchanged.
func (t *Template) Fill(m *outbox.Message, data any, locales ...string) error {
	p, err := t.execute(data, locales)
	if err != nil {
		return err
	}
	m.Subject, m.Text, m.HTML = p.Subject, p.Text, p.HTML
	return nil
}

func (t *Template) execute(data any, locales []string) (Parts, error) {
	v := t.choose(locales)
	p := Parts{Locale: v.locale}
	for _, part := range []struct {
		kind string
		from executor
		to   *string
	}{{kindSubject, v.subject, &p.Subject}, {kindText, v.text, &p.Text}, {kindHTML, v.html, &p.HTML}} {
		if part.from == nil {
			continue
		}
		var out bytes.Buffer
		if err := part.from.Execute(&out, data); err != nil {
			return Parts{}, fmt.Errorf("template %s%s: %w", t.name, part.kind, err)
		}
		*part.to = strings.TrimSpace(out.String())
	}
	if p.Subject == "" {
		return Parts{}, &outbox.InvalidError{Field: "Subject", Err: fmt.Errorf("template %s gives an empty one", t.name)}
	}
	if err := letter.CheckLine(p.Subject, letter.MaxSubject); err != nil {
		return Parts{}, &outbox.InvalidError{Field: "Subject", Err: fmt.Errorf("template %s gives one that %w", t.name, err)}
	}
	return p, nil
}

// choose returns the variant for a reader.
func (t *Template) choose(locales []string) *variant {
	for _, locale := range locales {
		for tag := range general(locale) {
			if v, ok := t.variants[tag]; ok {
				return v
			}
		}
	}
	return t.fallback
}

// general yields a tag in lower case and then the more general ones, as RFC 4647 §3.4 shortens them.
func general(locale string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		tag := strings.ToLower(strings.ReplaceAll(locale, "_", "-"))
		for tag != "" && yield(tag) {
			tag = tag[:max(strings.LastIndexByte(tag, '-'), 0)]
			if i := strings.LastIndexByte(tag, '-'); i >= 0 && i == len(tag)-2 { // a single letter only introduces the next
				tag = tag[:i]
			}
		}
	}
}
