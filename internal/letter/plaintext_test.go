package letter

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestPlainText(t *testing.T) {
	for html, want := range map[string]string{
		"":                               "",
		"  <p> \n </p>":                  "",
		"hello":                          "hello\n",
		"a  b\n c":                       "a b c\n",
		"<p>a</p><p>b</p>":               "a\n\nb\n",
		"<div>a</div><div>b</div>c":      "a\nb\nc\n",
		"a<br>b<br/>c<br />d":            "a\nb\nc\nd\n",
		"a<br><br><br>b":                 "a\n\nb\n",
		"a&nbsp;b &lt;i&gt; &amp; &#39;": "a b <i> & '\n",
		"<b>bo</b>ld":                    "bold\n",
		"soft\u00adhyphen":               "softhyphen\n",
		"a<hr>b":                         "a\n\n--------\n\nb\n",
		// What is not shown.
		"<head><title>t</title><style>p{}</style></head>a":  "a\n",
		"<head><meta charset=utf-8><body>a":                 "a\n",
		"<script>if (a<b) {}</script>a<!-- b > c -->d":      "ad\n",
		"<div style='Display : none'>x<div>y</div>z</div>a": "a\n",
		"<p hidden>x<p>a": "a\n",
		"<template><p>x</p></template><svg><text>y</text></svg><svg/>a": "a\n",
		// Lists.
		"<ul><li>a</li><li>b</li></ul>c":                      "- a\n- b\n\nc\n",
		"<ol><li>a<li>b</ol>":                                 "1. a\n2. b\n",
		"<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>":    "- a\n  - b\n- c\n",
		"<ul><li><p>a</p></li><li><p>b</p></li></ul><p>c</p>": "- a\n- b\n\nc\n",
		"<ul><li></li></ul>a":                                 "-\n\na\n",
		// Quotations, tables, preformatted text.
		"a<blockquote>b<br>c<blockquote>d</blockquote></blockquote>e":               "a\n\n> b\n> c\n>\n> > d\n\ne\n",
		"<table><tr><td>a</td><td>b</td></tr><tr><th>c</th><td>d</td></tr></table>": "a b\nc d\n",
		"<pre>a\n  b\n\nc</pre>d": "a\n  b\n\nc\n\nd\n",
		// Links and images.
		`<a href="https://x.example/">go</a>.`:                                 "go <https://x.example/>.\n",
		`<a href="https://x.example/?a=1&amp;b=2">go</a>`:                      "go <https://x.example/?a=1&b=2>\n",
		`<a href="https://x.example/a">https://x.example/a</a>`:                "https://x.example/a\n",
		`<a href="https://x.example/">x.example</a>`:                           "x.example\n",
		`<a href="mailto:a@x.example">a@x.example</a>`:                         "a@x.example\n",
		`<a href="mailto:a@x.example">write</a>`:                               "write <mailto:a@x.example>\n",
		`<a href="javascript:x()">go</a><a href="#x">up</a>`:                   "goup\n",
		`<a name="top">top</a> after`:                                          "top after\n",
		"<a\n href='https://x.example'>go</a> after":                           "go <https://x.example> after\n",
		`<a href="https://x.example"><img src=x alt="The shop"></a>`:           "The shop <https://x.example>\n",
		`<a href="https://x.example"><img src=x></a>`:                          "https://x.example\n",
		`<a href="https://x.example/a b">go`:                                   "go <https://x.example/a%20b>\n",
		`<p><a href="https://x.example">go</a></p><p>after</p>`:                "go <https://x.example>\n\nafter\n",
		`<a href="https://x.example/1">a</a><a href="https://y.example">b</a>`: "a <https://x.example/1>b <https://y.example>\n",
	} {
		if got := PlainText(html); got != want {
			t.Errorf("%q\ngives %q\nwant  %q", html, got, want)
		}
	}
}

// TestPlainTextIsBounded feeds what makes careless converters quadratic. The length of the text is checked; time that grew
// with the square would be minutes here.
func TestPlainTextIsBounded(t *testing.T) {
	const n = 1 << 19
	for _, unit := range []string{
		">", "<", "&", "<a>", "<a href=https://x>", "<p", "<p hidden>", "<!--", "<ul>", "<li>", "<ol><li>a", "<blockquote><br>a", "<pre>\n",
		"</p>", "<td>", " ", "\u200b", "<a href=' ", "<blockquote>", "a<br>",
	} {
		s := strings.Repeat(unit, n/len(unit))
		if got := PlainText(s); len(got) > 12*n {
			t.Errorf("%d bytes of %q give %d", len(s), unit, len(got))
		}
	}
	quotes := strings.Repeat("<blockquote>", n/24) + strings.Repeat("a<br>", n/10)
	if got := PlainText(quotes); len(got) > 12*n {
		t.Errorf("nested quotations of %d bytes give %d", len(quotes), len(got))
	}
}

func FuzzPlainText(f *testing.F) {
	f.Add(newsletter)
	f.Add("<ul><li><pre>\n\n<a href=' x'><blockquote><td hidden>")
	f.Add("a\x00<svg/>\xff&#0;&#13;&#xD800;<textarea></a>")
	f.Fuzz(func(t *testing.T, html string) {
		text := PlainText(html)
		if text == "" {
			return
		}
		if utf8.ValidString(html) && !utf8.ValidString(text) {
			t.Fatalf("%q is not UTF-8", text)
		}
		if !strings.HasSuffix(text, "\n") || strings.TrimSpace(text) == "" {
			t.Fatalf("%q gives %q", html, text)
		}
		for line := range strings.Lines(text) {
			if strings.HasSuffix(line, " \n") {
				t.Fatalf("%q gives a line with a space at its end: %q", html, text)
			}
		}
	})
}

// newsletter is HTML as mail programs write it.
const newsletter = `<!DOCTYPE html><html><head><title>March</title><style>p { color: red }</style></head><body>
<div style="display: none">A preview line &#8203;</div>
<h1>Tea in March</h1>
<p>Dear Ann,<br />we have <b>two</b> new teas &amp; a <a href="https://example.com/pots?a=1&amp;b=2">pot</a>:</p>
<ul><li>Sencha</li><li>Assam – <i>strong</i></li></ul>
<table><tr><td>Sencha</td><td>9&nbsp;€</td></tr><tr><td>Assam</td><td>7&nbsp;€</td></tr></table>
<blockquote>The best tea.</blockquote>
<img src="https://example.com/x.png" alt="A teapot">
</body></html>`
