package pages

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// link is a link in Markdown whose target is not a whole URL. Group 1 is the path, group 2 the heading.
var link = regexp.MustCompile(`\]\(([^)\s#:]*)(#[^)\s]*)?\)`)

// brokenLinks lists the links of a page that lead nowhere.
func brokenLinks(page, text string, all map[string]string) (broken []string) {
	for n, line := range strings.Split(text, "\n") {
		for _, m := range link.FindAllStringSubmatch(line, -1) {
			target := page
			if m[1] != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(page), m[1]))
			}
			other, isPage := all[target]
			_, err := os.Stat(filepath.Join(root, target))
			switch {
			case !isPage && err != nil:
				broken = append(broken, fmt.Sprintf("%s:%d: there is no %s", page, n+1, m[1]))
			case m[2] != "" && isPage && !slices.Contains(anchors(other), m[2]):
				broken = append(broken, fmt.Sprintf("%s:%d: %s has no heading %s", page, n+1, target, m[2]))
			}
		}
	}
	return broken
}

var (
	heading     = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the names of the headings of a page, as GitHub makes them.
func anchors(text string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		name := notInAnchor.ReplaceAllString(strings.ToLower(m[1]), "")
		names = append(names, "#"+strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

func TestLinks(t *testing.T) {
	all := pages(t)
	for page, text := range all {
		for _, broken := range brokenLinks(page, text, all) {
			t.Error(broken)
		}
	}
}

func TestBrokenLinksAreFound(t *testing.T) {
	all := map[string]string{"a.md": "# One thing\n## `code`, and more\n", "docs/b.md": ""}
	for text, want := range map[string]string{
		"[x](a.md) [y](docs/b.md#) [z](https://example.com/x)": "docs/b.md has no heading #",
		"[x](a.md) [y](README.md) [z](https://example.com/x)":  "",
		"[x](#one-thing) [y](a.md#code-and-more)":              "",
		"[x](#two-things)": "a.md has no heading #two-things",
		"text\n[x](c.md)":  "a.md:2: there is no c.md",
		"[x](../b.md)":     "there is no ../b.md",
	} {
		if got := strings.Join(brokenLinks("a.md", text, map[string]string{"a.md": all["a.md"] + text, "docs/b.md": ""}), "\n"); (got == "") != (want == "") ||
			!strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
