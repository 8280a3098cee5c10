package templates

import (
	"bytes"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/template"

	"golang.org/x/net/html"

	"github.com/outboxmail/outbox"
)

// fillHTML loads one HTML template and fills it.
func fillHTML(t *testing.T, source string, data any) (string, error) {
	t.Helper()
	set := load(t, Config{Funcs: map[string]any{
		"html_": func(s string) htmltemplate.HTML { return htmltemplate.HTML(s) },
	}}, "a.subject", "x", "a.html", source)
	tmpl, err := set.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	var m outbox.Message
	err = tmpl.Fill(&m, data)
	return m.HTML, err
}

func TestConditionalCommentsAreKept(t *testing.T) {
	for _, test := range []struct{ source, want string }{
		{"<!--[if mso]><table><tr><td><![endif]-->{{.}}<!--[if mso]></td></tr></table><![endif]-->",
			"<!--[if mso]><table><tr><td><![endif]-->a&lt;b<!--[if mso]></td></tr></table><![endif]-->"},
		{"<head><!--[if mso]><style>td{font-family:Arial}</style><![endif]--></head>", "<head><!--[if mso]><style>td{font-family:Arial}</style><![endif]--></head>"},
		{"<!--[if (gte mso 9)|(IE)]>x<![endif]-->", "<!--[if (gte mso 9)|(IE)]>x<![endif]-->"},
		{"<!--[if !mso]><!--><p>{{.}}</p><!--<![endif]-->", "<!--[if !mso]><!--><p>a&lt;b</p><!--<![endif]-->"},
		{"<!--[if !mso]><!-- --><p>x</p><!-- <![endif]-->", "<!--[if !mso]><!-- --><p>x</p><!-- <![endif]-->"},
		{"<!--[if !mso]>-->x<!--<![endif]-->", "<!--[if !mso]>-->x<!--<![endif]-->"},
		{"<!--[IF MSO]>\n<p>{{- . -}}</p>\n<![EndIf]-->", "<!--[IF MSO]>\n<p>a&lt;b</p>\n<![EndIf]-->"},
		{"<![if !mso]><p>x</p><![endif]>", "<![if !mso]><p>x</p><![endif]>"},
		{"<!--[if gte mso 9]><xml><o:OfficeDocumentSettings><o:AllowPNG/></o:OfficeDocumentSettings></xml><![endif]-->",
			"<!--[if gte mso 9]><xml><o:OfficeDocumentSettings><o:AllowPNG/></o:OfficeDocumentSettings></xml><![endif]-->"},
		{`<!--[if mso]><v:rect href="https://x.example/?q={{.}}" style="width:{{len .}}px"><v:fill src="https://x.example/{{.}}.png"/><![endif]-->`,
			`<!--[if mso]><v:rect href="https://x.example/?q=a%3cb" style="width:3px"><v:fill src="https://x.example/a%3cb.png"/><![endif]-->`},
		// Ordinary comments go, wherever they stand, and text in actions is no comment.
		{"<!-- a <!--[if mso]> b -->c<!--[if mso]>d<!-- e -->f<![endif]-->", "c<!--[if mso]>df<![endif]-->"},
		{"{{/* <!--[if mso]> }} */}}{{\"<!--[if mso]>\"}}{{`<![endif]-->}}`}}", "&lt;!--[if mso]&gt;&lt;![endif]--&gt;}}"},
		{"{{if .}}<!--[if mso]>x<![endif]-->{{else}}<!--[if mso]>y<![endif]-->{{end}}", "<!--[if mso]>x<![endif]-->"},
		{"<style><!-- p{} --></style><![endif]-->a - b -- c {d}", "<style><!-- p{} --></style><![endif]-->a - b -- c {d}"},
		{"<!--[if mso]>{{html_ \"<b>x</b>\"}}<![endif]-->", "<!--[if mso]><b>x</b><![endif]-->"},
		{"{{html_ \"<!--[if mso]>\"}}x{{html_ \"<![endif]-->\"}}", "<!--[if mso]>x<![endif]-->"}, // as it had to be written before
	} {
		got, err := fillHTML(t, test.source, "a<b")
		if err != nil || got != test.want {
			t.Errorf("%s\ngives %s (%v)\nwant  %s", test.source, got, err, test.want)
		}
	}
}

func TestConditionalCommentsInPartsOfTemplates(t *testing.T) {
	set := load(t, Config{},
		"layout.html", `<!--[if mso]><table><tr><td>{{template "content" .}}</td></tr></table><![endif]-->`,
		"partials/unused.html", "<!--[if mso]>{{.}}<![endif]-->", "partials/button.html", `<a href="{{.}}">go</a>`,
		"a.subject", "a", "a.html", `<b>{{.}}</b>{{template "button" .}}`, "a.txt", "<!--[if mso]>",
		"b.subject", "b", "b.html", "<!--[if mso]>{{.}}<![endif]-->",
	)
	p := preview(t, set, "a", "x")
	if want := `<!--[if mso]><table><tr><td><b>x</b><a href="x">go</a></td></tr></table><![endif]-->`; p.HTML != want || p.Text != "<!--[if mso]>" {
		t.Errorf("%+v, want %s", p, want)
	}
	for _, layout := range []string{
		`<p title="{{template "content" .}}">`, "<p title={{template \"content\" .}}>", `<title>{{template "content" .}}</title>`,
		`<script>{{template "content" .}}</script>`,
	} {
		set, err := Load(files("layout.html", layout, "a.subject", "a", "a.html", "<!--[if mso]>{{.}}<![endif]-->"), Config{})
		if err != nil {
			continue
		}
		a, err := set.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		var m outbox.Message
		if err := a.Fill(&m, "x"); err == nil || !strings.Contains(err.Error(), "stands in a tag") && !strings.Contains(err.Error(), "taken apart") {
			t.Errorf("%s: %q, %v", layout, m.HTML, err)
		}
	}
	b, err := set.Get("b")
	if err != nil {
		t.Fatal(err)
	}
	var invalid *outbox.InvalidError
	if err := b.Fill(new(outbox.Message), "x"); !errors.As(err, &invalid) || invalid.Field != "HTML" {
		t.Errorf("a comment in a comment of the layout: %v", err)
	}
}

func TestConditionalCommentsThatCannotBeKept(t *testing.T) {
	for _, test := range []struct{ source, says string }{
		{"\n<!--[if mso]>x", `a.html: line 2: the conditional comment "<!--[if mso]>" has no <![endif]--> in this file`},
		{"<!--[if mso]>a<!--[if mso]>b<![endif]--><![endif]-->", "do not nest"},
		{"<!--[if mso]>a<!--[if !mso]><!-->b<!--<![endif]--><![endif]-->", "do not nest"},
		{"\n\n<!--[if mso]>a --> b<![endif]-->", "line 3: --> ends the conditional comment"},
		{"<!--[if mso]>a --!> b<![endif]-->", "--> ends the conditional comment"},
		{"<!--[if mso]><!--<![endif]-->", "do not nest"},
		{"<!--[if {{.}}]>x<![endif]-->", "without template actions"},
		{"<!--[if mso]x<![endif]-->", "does not begin a conditional comment"},
		{"<!--[if-mso]>x<![endif]-->", "does not begin a conditional comment"},
		{`<!--[if mso"]>x<![endif]-->`, "does not begin a conditional comment"},
		{"<style><!--[if mso]>p{}<![endif]--></style>", "stands in a tag, an attribute, a style sheet or a script"},
		{"<title><!--[if mso]>p{}<![endif]--></title>", "stands in a tag"},
		{`<p title="<!--[if mso]>x<![endif]-->">`, "stands in a tag"},
		{`<p <!--[if mso]>title="x"<![endif]-->>`, "stands in a tag"},
		{"<!--[if mso]><style>p{}<![endif]--></style>", "stands in a tag"},
		{`<!--[if mso]><p title="<![endif]-->">`, "stands in a tag"},
		{"<script>//<!--[if mso]>\n</script>", "a.html: "},
	} {
		_, err := Load(files("a.subject", "x", "a.html", test.source), Config{})
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", test.source, err, test.says)
		}
	}
}

// hostile are values that would leave a place for data if they were not escaped for it.
var hostile = []string{
	"-->", "--!>", "--", "-", "--!", "->", ">", "<![endif]-->", "<!--", "<!--[if mso]>", "<!--[if !mso]><!-->", "\"-->", "'-->", "`-->",
	"<![endif]--><script>alert(1)</script>", "\"><script>alert(1)</script>", "javascript:alert(1)//-->", "x onclick=alert(1)", "\x00-->", "-\n->",
	"</style><script>alert(1)</script>", "expression(alert(1))", "*/ --> /*", "\\-->", "{{.}}", "]]>", "{{" + commentFunc + " 0}}",
}

// places are where data stands within conditional comments.
var places = []string{
	"<!--[if mso]>%s<![endif]-->", "<!--[if mso]><p title=\"%s\">x</p><![endif]-->", "<!--[if mso]><p title='%s'>x</p><![endif]-->",
	"<!--[if mso]><p title=%s>x</p><![endif]-->", "<!--[if mso]><p title=%s ->x</p><![endif]-->", "<!--[if mso]>%s> - -><![endif]-->",
	"<!--[if mso]><a href=\"%s\">x</a><![endif]-->", "<!--[if mso]><a href=\"https://x.example/%s?%s\">x</a><![endif]-->",
	"<!--[if mso]><a href=https://x.example/%s>x</a><![endif]-->", "<!--[if mso]><v:rect style=\"width:%spx\"/><![endif]-->",
	"<!--[if mso]><style>p{color:%s}</style><![endif]-->", "<!--[if mso]><style>/* %s */</style><![endif]-->",
	"<!--[if mso]><script>var a = %s</script><![endif]-->", "<!--[if mso]><script>var a = \"%s\"</script><![endif]-->",
	"<!--[if mso]><p %s=x>x</p><![endif]-->", "<!--[if mso]><img srcset=\"%s\"><![endif]-->", "<!--[if mso]><title>%s</title><![endif]-->",
	"<!--[if !mso]><!--><p title=\"%s\">%s</p><!--<![endif]-->", "<!--[if mso]><!-- %s --><![endif]-->", "-%s<!--[if mso]>x%s<![endif]-->%s>",
}

// tokensOf is what a reader that skips comments sees, and what one that reads the conditional comments for Outlook sees, both without
// the values of attributes and the text.
func tokensOf(t *testing.T, page string) (browser, outlook string) {
	t.Helper()
	skeleton := func(page string) string {
		var b strings.Builder
		for z := html.NewTokenizer(strings.NewReader(page)); ; {
			kind := z.Next()
			if kind == html.ErrorToken {
				return b.String()
			}
			token := z.Token()
			switch kind {
			case html.StartTagToken, html.SelfClosingTagToken, html.EndTagToken:
				fmt.Fprintf(&b, "%d%s", kind, token.Data)
				for _, a := range token.Attr {
					fmt.Fprintf(&b, " %s", a.Key)
				}
				b.WriteByte('\n')
			case html.CommentToken:
				fmt.Fprintf(&b, "comment %.8s\n", token.Data)
			case html.TextToken, html.DoctypeToken, html.ErrorToken:
			}
		}
	}
	// Outlook takes the delimiters of what it reads for nothing, and skips what the others read.
	read := regexp.MustCompile(`(?s)<!--\[if !mso\]><!-->.*?<!--<!\[endif\]-->`).ReplaceAllString(page, "")
	read = strings.NewReplacer("<!--[if mso]>", "", "<![endif]-->", "").Replace(read)
	return skeleton(page), skeleton(read)
}

// TestDataStaysInItsPlace fills every place with every hostile value. Readers of both kinds must see the tags that they see for a
// harmless value, or the message is refused.
func TestDataStaysInItsPlace(t *testing.T) {
	filled := 0
	for _, place := range places {
		source := strings.ReplaceAll(place, "%s", "{{.}}")
		harmless, err := fillHTML(t, source, "ab")
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		wantBrowser, wantOutlook := tokensOf(t, harmless)
		for _, value := range hostile {
			got, err := fillHTML(t, source, value)
			var invalid *outbox.InvalidError
			if errors.As(err, &invalid) && invalid.Field == "HTML" {
				continue
			}
			if err != nil {
				t.Errorf("%s with %q: %v", source, value, err)
				continue
			}
			filled++
			browser, outlook := tokensOf(t, got)
			if strings.Contains(place, "<p %s=x>") { // the name of the attribute is data
				browser, outlook = wantBrowser, strings.Replace(outlook, "p zgotmplz", "p ab", 1)
			}
			if browser != wantBrowser || outlook != wantOutlook {
				t.Errorf("%s with %q gives %s\nseen as\n%s%swant\n%s%s", source, value, got, browser, outlook, wantBrowser, wantOutlook)
			}
		}
	}
	if filled < len(places)*len(hostile)*9/10 {
		t.Errorf("only %d of %d could be filled", filled, len(places)*len(hostile))
	}
}

// TestHTMLOfTheApplicationIsChecked gives values of type HTML, which are not escaped.
func TestHTMLOfTheApplicationIsChecked(t *testing.T) {
	for _, value := range []string{"-->", "a --!> b", "<!-- a -->", "<!--[if mso]>x<![endif]-->", "--", "<![endif]-->"} {
		_, err := fillHTML(t, "<!--[if mso]>{{html_ .}}><![endif]-->", value)
		var invalid *outbox.InvalidError
		if !errors.As(err, &invalid) || invalid.Field != "HTML" || !strings.Contains(err.Error(), "conditional comment") {
			t.Errorf("%q: %v", value, err)
		}
	}
}

// TestMJML fills pages that MJML 4 made, and compares with text/template, which changes nothing but the actions.
func TestMJML(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join("testdata", "mjml", "*.html"))
	if err != nil || len(pages) < 5 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	data := map[string]any{"Name": "Ann", "Number": "17", "Picture": "pot", "Items": []string{"Tea", "Pot"}, "Link": "https://shop.example/go"}
	ordinary := regexp.MustCompile(`(?s)<!-- .*?-->`)
	for _, page := range pages {
		source, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fillHTML(t, string(source), data)
		if err != nil {
			t.Errorf("%s: %v", page, err)
			continue
		}
		var want bytes.Buffer
		if err := template.Must(template.New("").Parse(ordinary.ReplaceAllString(string(source), ""))).Execute(&want, data); err != nil {
			t.Fatal(err)
		}
		if plain := strings.TrimSpace(want.String()); got != plain {
			for i, line := range strings.Split(got, "\n") {
				if other := strings.Split(plain, "\n"); i >= len(other) || other[i] != line {
					t.Errorf("%s: line %d is\n%s\nwant\n%s", page, i+1, line, other[min(i, len(other)-1)])
					break
				}
			}
		}
		if strings.Count(got, "<!--[if ") < 5 || strings.Count(got, "<![endif]-->") != strings.Count(string(source), "<![endif]-->") {
			t.Errorf("%s: comments are missing", page)
		}
	}
}

// endsHidden is how a comment that only Outlook reads must end.
var endsHidden = regexp.MustCompile(`(?i)<!\[endif\]\s*-->$`)

func FuzzConditionalComments(f *testing.F) {
	for _, place := range places {
		for _, value := range hostile[:4] {
			f.Add(strings.ReplaceAll(place, "%s", "{{.}}"), value)
		}
	}
	f.Fuzz(func(t *testing.T, source, value string) {
		if strings.Contains(source, "html_") || strings.Contains(value, "\x00") || strings.Contains(source, "<!--[if!") {
			return
		}
		set, err := Load(files("a.subject", "x", "a.html", source), Config{})
		if err != nil {
			return
		}
		tmpl, err := set.Get("a")
		if err != nil {
			t.Fatal(err)
		}
		var m outbox.Message
		if tmpl.Fill(&m, value) != nil || !strings.Contains(m.HTML, conditional) {
			return
		}
		for z := html.NewTokenizer(strings.NewReader(m.HTML)); ; {
			kind := z.Next()
			if kind == html.ErrorToken {
				return
			}
			text := string(z.Raw())
			if d, ok := findDelimiter(text); ok && kind == html.CommentToken && d.kind == openHidden && !endsHidden.MatchString(text) {
				t.Fatalf("%s with %q gives the comment %s", source, value, text)
			}
		}
	})
}
