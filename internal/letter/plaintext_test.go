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
		"<head><title>t</title><style>p{}</style></head>a":                                               "a\n",
		"<head><meta charset=utf-8><body>a":                                                              "a\n",
		"<head><title>t</title><p>a</p>":                                                                 "a\n",
		"<html><head><meta charset=utf-8><table><tr><td>a":                                               "a\n",
		"<head>\n<title>t</title>\n<link><base>a<b>c</b>":                                                "ac\n",
		"<head hidden><title>t</title><div>a</div>":                                                      "a\n",
		"<head><noscript><p>x</noscript><template><p>y</p></template><script>z</script></head>\n<body>a": "a\n",
		"<script>if (a<b) {}</script>a<!-- b > c -->d":                                                   "ad\n",
		"<div style='Display : none'>x<div>y</div>z</div>a":                                              "a\n",
		"<p hidden>x<p>a": "a\n",
		"<template><p>x</p></template><svg><text>y</text></svg><svg/>a": "a\n",
		// Lists.
		"<ul><li>a</li><li>b</li></ul>c":                      "- a\n- b\n\nc\n",
		"<ol><li>a<li>b</ol>":                                 "1. a\n2. b\n",
		"<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>":    "- a\n  - b\n- c\n",
		"<ul><li><p>a</p></li><li><p>b</p></li></ul><p>c</p>": "- a\n- b\n\nc\n",
		"<ol start=5><li>a<li>b</ol>":                         "5. a\n6. b\n",
		"<ol start=' 0 '><li>a<li>b</ol>":                     "0. a\n1. b\n",
		"<ol start=x><li>a<li value=9>b<li value=y>c</ol>":    "1. a\n9. b\n10. c\n",
		"<ol value=7><li start=9>a</ol>":                      "1. a\n",
		"<ul start=5><li value=9>a<li>b</ul>":                 "- a\n- b\n",
		"<ol start=-1><li>a<ul><li>b</ul><li>c</ol>":          "-1. a\n  - b\n0. c\n",
		"<ol start=99999999999999999999><li>a</ol>":           "1. a\n",
		"<details><summary>a</summary>b</details>c":           "a\nb\nc\n",
		"<fieldset><legend>a</legend>b</fieldset>":            "a\nb\n",
		"<ul><li></li></ul>a":                                 "-\n\na\n",
		// Quotations, tables, preformatted text.
		"a<blockquote>b<br>c<blockquote>d</blockquote></blockquote>e":               "a\n\n> b\n> c\n>\n> > d\n\ne\n",
		"<table><tr><td>a</td><td>b</td></tr><tr><th>c</th><td>d</td></tr></table>": "a b\nc d\n",
		"<pre>a\n  b\n\nc</pre>d": "a\n  b\n\nc\n\nd\n",
		"<pre>a <b>b</b>  <i>\tc</i>\n  <b>d </b>\n<i>e</i> <u> </u></pre>f<pre> \u00a0<b>g": "a b  \tc\n  d\ne\n\nf\n\n  g\n",
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
		`<a href="https://x.example/?t=a"><img src=l></a>Shop`:                 "https://x.example/?t=a Shop\n",
		`Go<a href="https://x.example"><img src=l></a>`:                        "Go https://x.example\n",
		`Go <a href="https://x.example"> <img src=l> </a> on`:                  "Go https://x.example on\n",
		`<a href="tel:1"><img></a><a href="tel:2"><img></a>`:                   "tel:1 tel:2\n",
		`<a href="tel:1"><img><a href="tel:2">b</a>`:                           "tel:1 b <tel:2>\n",
		`a<a href="tel:1"><b style="display:none">x</b></a>b`:                  "a tel:1 b\n",
		`a<a href="tel:1"><b style="font-size:0">x</b></a>b`:                   "a tel:1 b\n",
		`<ul><li><a href="tel:1"></a><p>a</ul>`:                                "- tel:1\na\n",
		`<p><a href="tel:1"></a></p>b<pre>c<a href="tel:2"></a>d`:              "tel:1\n\nb\n\nc tel:2 d\n",
		`<a href="https://x.example/a b">go`:                                   "go <https://x.example/a%20b>\n",
		`<p><a href="https://x.example">go</a></p><p>after</p>`:                "go <https://x.example>\n\nafter\n",
		`<a href="https://x.example/1">a</a><a href="https://y.example">b</a>`: "a <https://x.example/1>b <https://y.example>\n",
	} {
		if got := PlainText(html); got != want {
			t.Errorf("%q\ngives %q\nwant  %q", html, got, want)
		}
	}
}

func TestPlainTextLeavesOutWhatIsHidden(t *testing.T) {
	for _, style := range []string{
		"display:none", "DISPLAY : NONE !important", "display:block; display:none", "color:red;/* ; */display/**/:none;", "visibility:hidden",
		"visibility: collapse", "opacity:0", "opacity: 0.0 !important", "mso-hide:all", "max-height:0;overflow:hidden", "height:0px; overflow:hidden",
		"overflow:hidden;width:0;", "max-width:0%;overflow-x:clip", "font-size:0", "font-size:0px;line-height:1.5", "font: italic 0/0 a",
		"font: bold 0px/1 Arial", "color:transparent", "color: rgba(255, 255, 255, 0)", "color:#ffff0000; color:#fff0", "color:rgb(0 0 0 / 0%)",
		"color:rgba(0,0,0,0)", "color:rgb(0 0 0/0)", "color:rgb(0, 0, 0, 0.0)", "color:hsl(0 0% 0% / .0)", "color:hsla(1,2%,3%,00%)",
		"display:none !important; display:block",
	} {
		for _, html := range []string{
			`a<div style="%">x<div>y</div><p>z</p></div>b`, `a<span style='%'>x<b>y</b></span><br>b`, `<p>a<p style="%">x<p>b`,
			`<table><tr><td>a</td><td style="%">x<td><br>b</table>`, `<table><tr><td style="%">x<table><tr><td>y</table>z</table>a<br>b`,
			`<ul><li>a<li style="%">x<ul><li>y</ul>z<li>b</ul>`, `<div style="%"><p style="margin:0">x</p><div>y</div>z</div>a<br>b`,
			`a<table style="%"><tr><td style="padding:0"><table><tr><td>x</td></tr></table>y</td></tr></table>b`,
			`a<br>b<img style="%;display:none" alt=x>`, `a<div style="%">x<br><hr><a href="https://x.example">y</a><ul><li></ul></div>b`,
		} {
			if strings.Contains(style, "overflow") {
				html = strings.ReplaceAll(html, `<td style="%`, `<td style="display:block;%`) // a cell is not clipped
			}
			got := PlainText(strings.ReplaceAll(html, "%", style))
			if got := strings.Join(strings.Fields(strings.NewReplacer("-", "", "<https://x.example>", "").Replace(got)), ""); got != "ab" &&
				!strings.Contains(got, "https") {
				t.Errorf("%s of %s gives %q", style, html, got)
			}
		}
	}
	for html, want := range map[string]string{
		// What is seen.
		`<p aria-hidden=true>a`:                                                "a\n",
		`<p style="max-height:0">a`:                                            "a\n",
		`<p style="height:0.5px;overflow:hidden">a`:                            "a\n",
		`<p style="display:none;display:block">a`:                              "a\n",
		`<p style="opacity:0.1;color:#000;font-size:.1px">a`:                   "a\n",
		`<p style="font:0 Arial, sans-serif"></p><p style="font:400 16px x">a`: "a\n",
		`<p style="background:url(x;display:none">a`:                           "",
		`<p style="color:rgba(0,0,0,.01)">a<p style="color:#ff0000">b`:         "a\n\nb\n",
		// Colours without transparency.
		`<p style="color: rgb(0, 0, 0)">a`:                                   "a\n",
		`<p style="color:RGB(255,165,0)">a`:                                  "a\n",
		`<p style="color:rgba(255,165,0)">a`:                                 "a\n",
		`<p style="color:hsl(0,0%,0%)">a`:                                    "a\n",
		`<p style="color:hsl(0, 100%, 0.0%)">a`:                              "a\n",
		`<p style="color:rgb(0 0 0)">a`:                                      "a\n",
		`<p style="color:rgb(0 0 0 / 10%)">a`:                                "a\n",
		`<p style="color:hsla(0, 0%, 0%, 0.50)">a`:                           "a\n",
		`<p style="color:rgb(0,0,0)!important;color:transparent">a`:          "a\n",
		`<p style="color:rgb(0,0,0)">a<b style="color:rgba(0,0,0,0)">x</b>b`: "ab\n",
		`<div style="color:transparent">x<b style="color:rgb(0,0,0)">a</b>y`: "a\n",
		`<p style="color:rgb(calc(1),0,0)">a<p style="color:var(--c, 0)">b`:  "a\n\nb\n",
		// Sizes of zero that are none.
		`<table><tr><td style="max-width:0;overflow:hidden;text-overflow:ellipsis">a`: "a\n",
		`<table><tr><th style="height:0;overflow:hidden">a`:                           "a\n",
		`<table><tr><td style="display:block;height:0;overflow:hidden">x</table>a`:    "a\n",
		`<p style="height:0;min-height:20px;overflow:hidden">a`:                       "a\n",
		`<p style="width:0;min-width:100%;overflow:hidden">a`:                         "a\n",
		`<p style="height:0;padding-bottom:50%;overflow:hidden">a`:                    "a\n",
		`<p style="height:0;padding:1em 0;overflow:hidden">a`:                         "a\n",
		`<p style="width:0;padding:0 1em;overflow:hidden">a`:                          "a\n",
		`<p style="width:0;padding:1em;overflow:hidden">a`:                            "a\n",
		`<p style="height:0;min-height:0;padding:0px;overflow:hidden">x</p>a`:         "a\n",
		`<p style="height:0;padding:0 1em;min-width:9px;overflow:hidden">x</p>a`:      "a\n",
		`<p style="width:0;padding:1em 0;min-width:auto;overflow:hidden">x</p>a`:      "a\n",
		// The later one of a property and its shorthand.
		`<p style="font-size:0;font:12px a">a`:                      "a\n",
		`<p style="font:12px a;font-size:0">x</p>a`:                 "a\n",
		`<p style="font-size:12px;font:0 a">x</p>a`:                 "a\n",
		`<p style="font-size:0!important;font:12px a">x</p>a`:       "a\n",
		`<p style="font:12px a!important;font-size:0">a`:            "a\n",
		`<p style="font-size:0;font:;display:none;display:">x</p>a`: "a\n",
		// Within what is hidden.
		`<td style="font-size:0px"><div style="font-size:13px">a</div>x</td>b`:             "a\nb\n",
		`<div style="visibility:hidden">x<b style="visibility:visible">a</b></div>`:        "a\n",
		`<div style="display:none">x<b style="display:block">y</b></div>a`:                 "a\n",
		`<div style="font-size:0">x<div>y</div><div style="font-size:1em">a</div>z</div>b`: "a\nb\n",
		// What does not end hides no more than its parent.
		`<div><div style="display:none">x</div>a`:                     "a\n",
		`<table><tr><td><p style="display:none">x</td><td>a</table>b`: "a\n\nb\n",
		`<x-y style="display:none">a</x-y><o:p/>b`:                    "ab\n",
		// Outlook's comments.
		`<!--[if mso]>x<![endif]-->a<!--[if !mso]><!-->b<!--<![endif]--><![if !mso]>c<![endif]>`: "abc\n",
	} {
		if got := PlainText(html); got != want {
			t.Errorf("%s\ngives %q\nwant  %q", html, got, want)
		}
	}
}

func TestPlainTextLeavesOutFiller(t *testing.T) {
	for html, want := range map[string]string{
		"a" + strings.Repeat("&zwnj;&nbsp;", 50) + "<p>b":                                                          "a\n\nb\n",
		"a" + strings.Repeat(" &#847; &zwj; &#8199; &shy;", 50) + "<p>b":                                           "a\n\nb\n",
		strings.Repeat("\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2064\u206a\ufeff\u00ad\u034f\u061c\u180e ", 9): "",
		strings.Repeat("\u115f\u1160\u3164\uffa0\ufe0f\U000e0100\U000e0020\u2800\u2003\u3000\u17b4\ufff0", 9):      "",
		"<pre>a\u200b\u2800\n\u3164\nb</pre>":                                                                      "a\n\nb\n",
		// What changes its neighbours.
		"👩\u200d👩\u200d👧":                               "👩\u200d👩\u200d👧\n",
		"❤\ufe0f\u200d🔥 ❤\ufe0f":                        "❤\ufe0f\u200d🔥 ❤\ufe0f\n",
		"🏴\U000e0067\U000e0062\U000e007f":               "🏴\U000e0067\U000e0062\U000e007f\n",
		"می\u200cخواهم":                                 "می\u200cخواهم\n",
		"ന\u0d4d\u200d ക\u0d4d\u200cഷ":                  "ന\u0d4d\u200d ക\u0d4d\u200cഷ\n",
		"葛\U000e0100":                                   "葛\U000e0100\n",
		"\u2067שלום\u2069 a\u200e":                      "\u2067שלום\u2069 a\u200e\n",
		"\u1112\u1160\u11ab":                            "\u1112\u1160\u11ab\n",
		"\u0600\u0661 \u06dd":                           "\u0600\u0661 \u06dd\n",
		"Sil\u00adben\u200btren\u2060nung\ufeff\u034f!": "Silbentrennung!\n",
		"a\u200d\u200db\u200d":                          "a\u200db\n",
		// What changes its neighbours across tags.
		"می\u200c<b>خواهم</b>":                                    "می\u200cخواهم\n",
		"<b>می</b>\u200cخواهم":                                    "می\u200cخواهم\n",
		"می<b>\u200c</b>خواهم":                                    "می\u200cخواهم\n",
		"👩<b>\u200d</b><i>👧</i>":                                  "👩\u200d👧\n",
		"❤<b>\ufe0f\u200d</b>🔥":                                   "❤\ufe0f\u200d🔥\n",
		"<b>❤</b>\ufe0f <b>❤</b> \ufe0f a":                        "❤\ufe0f ❤ a\n",
		"<pre>می\u200c<b>خواهم\u200c</b>\n\u200c<b>a</b>\u200c b": "می\u200cخواهم\na b\n",
		"<p>a\u200c</p><p>b\u200c</p> \u200c<b>c</b>":             "a\n\nb\n\nc\n",
		"a\u200c<b> </b>b\u200d<br>c\u200d<b>\u200d</b>d\u200d":   "a b\nc\u200dd\n",
		"<a href='tel:1'>a\u200c</a>b<ul><li>\u200c\ufe0f":        "a <tel:1>b\n\n-\n",
		"⠓⠑\u2800⠇":                                               "⠓⠑ ⠇\n",
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
		"<p style=display:none>", "<div style=font-size:0>", "<td style='color:transparent'>", "</td></div>", "\u200d", "a\u200d\ufe0f",
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
	f.Add("<div style='font-size:0;display/**/:none!important'><td style='font:0/0 a;color:rgba(0,0,0,0)'>\u200d\u2003<o:p/></div>")
	f.Add("<head>x<ol start=-5><li value=' 9'>a\u200c<a href=tel:1></a>\u200d<b>\ufe0f</b><pre>a \u200c<b>b")
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
