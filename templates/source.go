package templates

import (
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"unicode/utf8"

	"github.com/outboxmail/outbox/internal/letter"
	"github.com/outboxmail/outbox/internal/textfile"
)

// The kinds of files, by the ends of their names.
const (
	kindSubject = ".subject"
	kindText    = ".txt"
	kindHTML    = ".html"
)

var kinds = [...]string{kindSubject, kindText, kindHTML}

// The names of the page and of the layout around it. A layout includes the page by its name.
const (
	contentName = "content"
	layoutName  = "layout"
)

// source identifies a file of a template: the name of the template, the locale in lower case, and the kind.
type source struct{ name, locale, kind string }

// file is a file as found: its path, its locale as written, and its content without line breaks at the end.
type file struct{ path, locale, text string }

// sources holds the files of all templates.
type sources struct {
	config                   Config
	pages, layouts, partials map[source]file
}

// partialsFolder holds the partials.
const partialsFolder = "partials/"

// readSources reads all files of the three kinds in fsys.
func readSources(fsys fs.FS, c Config) (*sources, error) {
	if c.Locale != "" && !isLocale(c.Locale) {
		return nil, fmt.Errorf("the locale %s is not a BCP 47 tag", letter.Quote(c.Locale))
	}
	if err := checkFuncs(c.Funcs); err != nil {
		return nil, err
	}
	s := &sources{
		config: c, pages: make(map[source]file), layouts: make(map[source]file), partials: make(map[source]file),
	}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains(kinds[:], path.Ext(name)) {
			return err
		}
		return s.read(fsys, name)
	})
	if err != nil {
		return nil, fmt.Errorf("read the templates: %w", err)
	}
	return s, nil
}

// checkFuncs returns an error for functions that would make text/template panic.
func checkFuncs(funcs map[string]any) error {
	for name, fn := range funcs {
		if err := checkFunc(name, fn); err != nil {
			return fmt.Errorf("template function %s %w", letter.Quote(name), err)
		}
	}
	return nil
}

func checkFunc(name string, fn any) error {
	for i := range len(name) {
		if c := name[i]; c != '_' && (!letter.IsAlphanumeric(c) || i == 0 && letter.IsDigits(name[:1])) {
			return fmt.Errorf("contains %q", rune(c))
		}
	}
	t := reflect.TypeOf(fn)
	switch {
	case name == "":
		return errors.New("has no name")
	case t == nil || t.Kind() != reflect.Func || reflect.ValueOf(fn).IsNil():
		return errors.New("is not a function")
	case t.NumOut() == 1, t.NumOut() == 2 && t.Out(1) == reflect.TypeFor[error]():
		return nil
	default:
		return errors.New("must return one value, or one value and an error")
	}
}

// read reads one file.
func (s *sources) read(fsys fs.FS, name string) error {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return err
	}
	if data, err = textfile.Trim(data); err != nil {
		return fmt.Errorf("%s %w", name, err)
	}
	if !utf8.Valid(data) {
		return fmt.Errorf("%s is not valid UTF-8", name)
	}
	dir, base := path.Split(name)
	kind := path.Ext(base)
	base, locale, hasLocale := strings.Cut(strings.TrimSuffix(base, kind), ".")
	if hasLocale && !isLocale(locale) {
		return fmt.Errorf("%s: %s is not a BCP 47 tag, and a name has no dots", name, letter.Quote(locale))
	}
	into := s.pages
	full, partial := strings.CutPrefix(dir+base, partialsFolder)
	switch {
	case base == "", partial && (full == contentName || full == layoutName):
		return fmt.Errorf("%s has a name that cannot be used", name)
	case partial:
		into = s.partials
	case base == layoutName:
		into = s.layouts
	}
	key := source{name: full, locale: strings.ToLower(locale), kind: kind}
	if _, taken := into[key]; taken {
		return fmt.Errorf("%s: another file differs from it by case only", name)
	}
	into[key] = file{path: name, locale: locale, text: strings.TrimRight(string(data), "\r\n")}
	return nil
}

// isLocale says whether s has the form of a BCP 47 tag: subtags of up to 8 letters and digits, the first of letters only.
func isLocale(s string) bool {
	for i, tag := range strings.Split(s, "-") {
		if tag == "" || len(tag) > 8 {
			return false
		}
		for j := range len(tag) {
			if !letter.IsAlphanumeric(tag[j]) || i == 0 && letter.IsDigits(tag[j:j+1]) {
				return false
			}
		}
	}
	return true
}

// names returns the sorted names of the templates.
func (s *sources) names() []string {
	seen := make(map[string]struct{})
	for key := range s.pages {
		seen[key.name] = struct{}{}
	}
	return slices.Sorted(maps.Keys(seen))
}

// template makes one template with all its variants.
func (s *sources) template(name string) (*Template, error) {
	t := &Template{name: name, variants: make(map[string]*variant)}
	locales := map[string]string{}
	for key, f := range s.pages {
		if key.name == name {
			locales[key.locale] = f.locale
		}
	}
	if _, ok := locales[""]; !ok {
		return nil, errors.New("there are only variants: add the files without a locale, for readers of other languages")
	}
	for _, locale := range slices.Sorted(maps.Keys(locales)) {
		v, err := s.variant(name, locale)
		if err != nil {
			return nil, err
		}
		v.locale = locales[locale]
		if locale == "" {
			t.fallback = v
			if v.locale = s.config.Locale; v.locale != "" {
				t.variants[strings.ToLower(v.locale)] = v
			}
			continue
		}
		if _, taken := t.variants[locale]; taken {
			return nil, fmt.Errorf("%s is the locale of the files without one", locales[locale])
		}
		t.variants[locale] = v
	}
	return t, nil
}

// variant makes a template in one language.
func (s *sources) variant(name, locale string) (*variant, error) {
	v := new(variant)
	for _, kind := range kinds {
		f, ok := s.pages[source{name, locale, kind}]
		if _, base := s.pages[source{name, "", kind}]; base != ok {
			return nil, fmt.Errorf("the variant %s and the files without a locale do not both have a %s", locale, kind)
		}
		if !ok {
			continue
		}
		var err error
		switch kind {
		case kindSubject:
			v.subject, err = s.parseText(name, locale, kind, f)
		case kindText:
			v.text, err = s.parseText(name, locale, kind, f)
		case kindHTML:
			v.html, err = s.parseHTML(name, locale, f)
		}
		if err != nil {
			return nil, err
		}
	}
	switch {
	case v.subject == nil:
		return nil, fmt.Errorf("there is no %s", kindSubject)
	case v.text == nil && v.html == nil:
		return nil, fmt.Errorf("there is neither a %s nor a %s", kindText, kindHTML)
	}
	return v, nil
}

// piece is a file to be parsed under a name.
type piece struct {
	name string
	file file
}

// pieces returns the partials, the layout and the page, and the name of the one to execute. The page comes last and can redefine
// blocks.
func (s *sources) pieces(name, locale, kind string, page file) (list []piece, entry string) {
	seen := make(map[string]struct{})
	for key := range s.partials {
		if key.kind == kind {
			seen[key.name] = struct{}{}
		}
	}
	for _, partial := range slices.Sorted(maps.Keys(seen)) {
		if f, ok := find(s.partials, partial, locale, kind); ok {
			list = append(list, piece{partial, f})
		}
	}
	entry = contentName
	for dir := path.Dir(name); entry == contentName; dir = path.Dir(dir) {
		if f, ok := find(s.layouts, path.Join(dir, layoutName), locale, kind); ok {
			list, entry = append(list, piece{layoutName, f}), layoutName
		}
		if dir == "." {
			break
		}
	}
	return append(list, piece{contentName, page}), entry
}

// find finds the file for a locale, else for a more general locale, else without one.
func find(files map[source]file, name, locale, kind string) (file, bool) {
	for tag := range general(locale) {
		if f, ok := files[source{name, tag, kind}]; ok {
			return f, true
		}
	}
	f, ok := files[source{name, "", kind}]
	return f, ok
}

// funcs returns the functions of a variant.
func (s *sources) funcs(page file) map[string]any {
	locale := page.locale
	if locale == "" {
		locale = s.config.Locale
	}
	all := map[string]any{"locale": func() string { return locale }}
	maps.Copy(all, s.config.Funcs)
	return all
}

func (s *sources) parseText(name, locale, kind string, page file) (executor, error) {
	set := template.New(name + kind).Option("missingkey=error").Funcs(s.funcs(page))
	list, entry := s.pieces(name, locale, kind, page)
	for _, p := range list {
		if _, err := set.New(p.name).Parse(p.file.text); err != nil {
			return nil, fmt.Errorf("%s: %w", p.file.path, err)
		}
	}
	for _, t := range set.Templates() {
		if missing := undefined(t.Root, func(name string) bool { return set.Lookup(name) != nil }); missing != "" {
			return nil, fmt.Errorf("%s: %s uses the partial %s, which is not there", page.path, t.Name(), letter.Quote(missing))
		}
	}
	return set.Lookup(entry), nil
}

func (s *sources) parseHTML(name, locale string, page file) (executor, error) {
	funcs := s.funcs(page)
	comments := newComments()
	funcs[commentFunc] = comments.placeholder
	set := htmltemplate.New(name + kindHTML).Option("missingkey=error").Funcs(funcs)
	list, entry := s.pieces(name, locale, kindHTML, page)
	for _, p := range list {
		text, err := comments.keep(p.file.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.file.path, err)
		}
		if _, err := set.New(p.name).Parse(text); err != nil {
			return nil, fmt.Errorf("%s: %w", p.file.path, err)
		}
	}
	// html/template reports what it cannot escape at the first execution. Executing a copy here finds these errors early. The
	// functions of the copy do nothing, so it needs no data.
	trial, err := set.Clone()
	if err != nil {
		return nil, err
	}
	for name := range funcs {
		trial.Funcs(map[string]any{name: func(...any) (any, error) { return nil, errTrial }})
	}
	var refused *htmltemplate.Error
	if err := trial.ExecuteTemplate(io.Discard, entry, nil); errors.As(err, &refused) {
		return nil, fmt.Errorf("%s: %w", page.path, refused)
	}
	if err := comments.checkDelimiters(trial); err != nil {
		return nil, fmt.Errorf("%s: %w", page.path, err)
	}
	if len(comments.delimiters) == 0 {
		return set.Lookup(entry), nil
	}
	return &commentedHTML{template: set.Lookup(entry), comments: comments}, nil
}

// errTrial ends a trial.
var errTrial = errors.New("this is a trial without data")

// undefined returns the name of a template that a node uses and known does not know. It is empty if there is none.
func undefined(node parse.Node, known func(string) bool) (name string) {
	walk(node, func(n parse.Node) {
		if t, ok := n.(*parse.TemplateNode); ok && name == "" && !known(t.Name) {
			name = t.Name
		}
	})
	return name
}

// walk visits a node and all nodes below it, except those in pipelines.
func walk(node parse.Node, visit func(parse.Node)) {
	visit(node)
	var lists []*parse.ListNode
	switch n := node.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			walk(child, visit)
		}
	case *parse.IfNode:
		lists = []*parse.ListNode{n.List, n.ElseList}
	case *parse.RangeNode:
		lists = []*parse.ListNode{n.List, n.ElseList}
	case *parse.WithNode:
		lists = []*parse.ListNode{n.List, n.ElseList}
	}
	for _, list := range lists {
		if list != nil {
			walk(list, visit)
		}
	}
}
