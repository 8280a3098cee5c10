package templates

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/outboxmail/outbox"
)

// files makes a file system of names and contents in turn.
func files(pairs ...string) fs.FS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

// load reads templates that must be accepted.
func load(t *testing.T, c Config, pairs ...string) *Set {
	t.Helper()
	ts, err := Load(files(pairs...), c)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

// preview executes a template that must be there.
func preview(t *testing.T, ts *Set, name string, data any, locales ...string) Parts {
	t.Helper()
	tmpl, err := ts.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := tmpl.Preview(data, locales...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTemplateEscapesByContext(t *testing.T) {
	ts := load(t, Config{},
		"a.subject", "For {{.}}\n", "a.txt", "Hello {{.}}", "a.html", `<p title="{{.}}">{{.}}</p><a href="https://x.example/?q={{.}}">go</a>`)
	p := preview(t, ts, "a", `<b>"&`)
	want := Parts{
		Subject: `For <b>"&`, Text: `Hello <b>"&`,
		HTML: `<p title="&lt;b&gt;&#34;&amp;">&lt;b&gt;&#34;&amp;</p><a href="https://x.example/?q=%3cb%3e%22%26">go</a>`,
	}
	if p != want {
		t.Errorf("%+v\nwant %+v", p, want)
	}
}

func TestTemplateChoosesTheLocale(t *testing.T) {
	pairs := []string{
		"a.subject", "one {{locale}}", "a.txt", "x", "a.de.subject", "eins {{locale}}", "a.de.txt", "x",
		"a.de-CH.subject", "eis {{locale}}", "a.de-CH.txt", "x", "a.zh-Hant.subject", "一 {{locale}}", "a.zh-Hant.txt", "x",
	}
	plain, english := load(t, Config{}, pairs...), load(t, Config{Locale: "en"}, pairs...)
	for _, test := range []struct{ locales, plain, english string }{
		{"", "one", "one en"},
		{"de", "eins de", "eins de"},
		{"DE_at", "eins de", "eins de"},
		{"de-ch-1996", "eis de-CH", "eis de-CH"},
		{"zh-Hant-x-private", "一 zh-Hant", "一 zh-Hant"},
		{"zh", "one", "one en"},
		{"fr,de", "eins de", "eins de"},
		{"en-GB,de", "eins de", "one en"},
		{"-,--,é\r\n,de-", "eins de", "eins de"},
	} {
		locales := strings.Split(test.locales, ",")
		if got := preview(t, plain, "a", nil, locales...); got.Subject != test.plain {
			t.Errorf("%s: %q, want %q", test.locales, got.Subject, test.plain)
		}
		if got := preview(t, english, "a", nil, locales...); got.Subject != test.english || got.Locale == "" {
			t.Errorf("%s, with English as the default: %q in %q, want %q", test.locales, got.Subject, got.Locale, test.english)
		}
	}
	tmpl, err := english.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	if got := tmpl.Locales(); !slices.Equal(got, []string{"de", "de-CH", "zh-Hant"}) || tmpl.Name() != "a" {
		t.Errorf("locales %q of %s", got, tmpl.Name())
	}
}

func TestTemplateLayoutsAndPartials(t *testing.T) {
	ts := load(t, Config{Funcs: map[string]any{"shout": strings.ToUpper}},
		"layout.html", `<i>{{template "content" .}}</i>{{block "end" .}}end{{end}}`,
		"layout.txt", `{{template "content" .}} -- {{template "sign/off" .}}`,
		"billing/layout.html", `<u>{{template "content" .}}</u>`,
		"partials/sign/off.txt", "bye", "partials/sign/off.de.txt", "tschüss",
		"a.subject", "a", "a.html", `A {{.}}{{define "end"}}fin{{end}}`,
		"b.subject", "b", "b.txt", "B {{shout .}}", "b.de-AT.subject", "b", "b.de-AT.txt", "Be {{.}}",
		"billing/c.subject", "c", "billing/c.html", "C {{.}}",
		"billing/deep/d.subject", "d", "billing/deep/d.html", "D {{.}}",
		"logo.png", "\xff", "README.md", "{{",
	)
	if got, want := ts.Names(), []string{"a", "b", "billing/c", "billing/deep/d"}; !slices.Equal(got, want) {
		t.Errorf("names %q, want %q", got, want)
	}
	for _, test := range []struct{ name, locale, html, text string }{
		{"a", "", "<i>A x</i>fin", "A xfin\n"},
		{"b", "", "", "B X -- bye"},
		{"b", "de-AT", "", "Be x -- tschüss"},
		{"billing/c", "", "<u>C x</u>", "C x\n"},
		{"billing/deep/d", "", "<u>D x</u>", "D x\n"},
	} {
		p := preview(t, ts, test.name, "x", test.locale)
		if p.HTML != test.html || p.Text != test.text {
			t.Errorf("%s in %q: %+v, want %q and %q", test.name, test.locale, p, test.html, test.text)
		}
	}
	if _, err := ts.Get("z"); err == nil || !strings.Contains(err.Error(), `no template "z", only a, b, billing/c, billing/deep/d`) {
		t.Errorf("an unknown template: %v", err)
	}
}

func TestTemplatesThatCannotBeUsed(t *testing.T) {
	for _, test := range []struct {
		says  string
		pairs []string
	}{
		{"there is no template", []string{"a.png", "x"}},
		{"there is no .subject", []string{"a.txt", "x"}},
		{"neither a .txt nor a .html", []string{"a.subject", "x"}},
		{"only variants", []string{"a.de.subject", "x", "a.de.txt", "x"}},
		{"do not both have a .html", []string{"a.subject", "x", "a.txt", "x", "a.html", "x", "a.de.subject", "x", "a.de.txt", "x"}},
		{"do not both have a .txt", []string{"a.subject", "x", "a.html", "x", "a.de.subject", "x", "a.de.html", "x", "a.de.txt", "x"}},
		{"not a BCP 47 tag", []string{"a.b c.txt", "x"}},
		{"not a BCP 47 tag", []string{"a.1de.txt", "x"}},
		{"not valid UTF-8", []string{"a.subject", "\xff"}},
		{"a.subject is in UTF-16 (little-endian): save it as UTF-8", []string{"a.subject", "\xff\xfex\x00"}},
		{"partials/p.html is in UTF-16 (big-endian)", []string{"partials/p.html", "\x00<\x00p"}},
		{"differs from it by case only", []string{"a.de.txt", "x", "a.DE.txt", "x"}},
		{"cannot be used", []string{"partials/content.txt", "x"}},
		{"cannot be used", []string{".txt", "x"}},
		{"a.txt: template: content:1: missing value for if", []string{"a.subject", "x", "a.txt", "{{if}}"}},
		{`function "nope" not defined`, []string{"a.subject", "x", "a.txt", "{{nope}}"}},
		{`the partial "nope"`, []string{"a.subject", "x", "a.txt", `{{range .}}{{if 1}}{{else}}{{template "nope"}}{{end}}{{end}}`}},
		{`"nope"`, []string{"a.subject", "x", "a.html", `{{with .}}{{template "nope"}}{{end}}`}},
		{"a.html: html/template:content:1:14: {{if}} branches", []string{"a.subject", "x", "a.html", `<a href="{{if .}}">{{else}}x{{end}}`}},
	} {
		if _, err := Load(files(test.pairs...), Config{}); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q: %v, want %q", test.pairs, err, test.says)
		}
	}
	fine := files("a.subject", "x", "a.txt", "x", "a.en.subject", "x", "a.en.txt", "x")
	for says, c := range map[string]Config{
		"not a BCP 47 tag":                  {Locale: "e n"},
		"en is the locale of the files":     {Locale: "EN"},
		`function "f" is not a function`:    {Funcs: map[string]any{"f": 1}},
		`function "g" is not a function`:    {Funcs: map[string]any{"g": nil}},
		`function "h" must return one`:      {Funcs: map[string]any{"h": func() {}}},
		`function "i" must return one`:      {Funcs: map[string]any{"i": func() (int, int) { return 1, 2 }}},
		`function "1" contains`:             {Funcs: map[string]any{"1": strings.ToUpper}},
		`function "" has no name`:           {Funcs: map[string]any{"": strings.ToUpper}},
		`function "j" is not a function`:    {Funcs: map[string]any{"j": (func() int)(nil)}},
		`template function "a-b" contains `: {Funcs: map[string]any{"a-b": strings.ToUpper}},
	} {
		if _, err := Load(fine, c); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// TestTemplateDataIsChecked shows that a message stays as it was where its data cannot be used.
func TestTemplateDataIsChecked(t *testing.T) {
	called := 0
	ts := load(t, Config{Funcs: map[string]any{"count": func() int { called++; return called }}},
		"a.subject", "{{.s}}", "a.html", `{{.h}}{{count}}`)
	if called != 0 {
		t.Errorf("loading called a function %d times", called)
	}
	tmpl, err := ts.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		data    map[string]string
		invalid bool
	}{
		{map[string]string{"s": "x"}, false},
		{map[string]string{"s": " \n ", "h": "x"}, true},
		{map[string]string{"s": "x\r\nBcc: y", "h": "x"}, true},
		{map[string]string{"s": "\xff", "h": "x"}, true},
	} {
		m := outbox.Message{Subject: "before"}
		err := tmpl.Fill(&m, test.data)
		var invalid *outbox.InvalidError
		if err == nil || errors.As(err, &invalid) != test.invalid || m.Subject != "before" || m.HTML != "" {
			t.Errorf("%q: %v, message %q", test.data, err, m.Subject)
		}
		if invalid != nil && invalid.Field != "Subject" {
			t.Errorf("%q: an error about %s", test.data, invalid.Field)
		}
	}
	m := &outbox.Message{From: outbox.Address{Address: "a@example.com"}, To: []outbox.Address{{Address: "b@example.org"}}}
	if err := tmpl.Fill(m, map[string]string{"s": "x", "h": "<"}); err != nil || !strings.HasPrefix(m.HTML, "&lt;") || m.Text != "" {
		t.Errorf("%v: %q, %q", err, m.HTML, m.Text)
	}
	if _, err := outbox.Render(m, "", time.Time{}); err != nil {
		t.Error(err)
	}
}

// TestTemplatesWithByteOrderMarks shows that the mark of no file gets into a message, wherever the file stands in another.
func TestTemplatesWithByteOrderMarks(t *testing.T) {
	const mark = "\ufeff"
	set := load(t, Config{},
		"layout.html", mark+`<body>{{template "content" .}}</body>`, "layout.txt", mark+`{{template "content" .}}--`,
		"partials/sign.html", mark+"<i>shop</i>", "partials/sign.txt", mark+"shop",
		"order.subject", mark+"Your order {{.}}\r\n", "order.txt", mark+`Hello {{.}} {{template "sign"}}`, "order.html", mark+`<p>Hello {{.}}</p>{{template "sign"}}`,
		"order.de.subject", mark+"Bestellung {{.}}", "order.de.txt", mark+"Hallo {{.}}", "order.de.html", mark+mark+"<p>Hallo {{.}}</p>",
	)
	tmpl, err := set.Get("order")
	if err != nil {
		t.Fatal(err)
	}
	want := outbox.Message{Subject: "Your order 7", Text: "Hello 7 shop--", HTML: "<body><p>Hello 7</p><i>shop</i></body>"}
	var m outbox.Message
	if err := tmpl.Fill(&m, 7); err != nil || m.Subject != want.Subject || m.Text != want.Text || m.HTML != want.HTML {
		t.Errorf("%v: %q, %q, %q", err, m.Subject, m.Text, m.HTML)
	}
	if err := tmpl.Fill(&m, 7, "de"); err != nil || strings.Contains(m.Subject+m.Text, mark) || strings.Count(m.HTML, mark) != 1 {
		t.Errorf("%v: %q, %q, %q", err, m.Subject, m.Text, m.HTML)
	}
}
