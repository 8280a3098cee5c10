package pages

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the folder of the repository.
var root = filepath.Join("..", "..")

// block is a fenced block of a page.
type block struct {
	page     string
	line     int // of the fence
	language string
	code     string

	skipped string     // the reason why it is not tested, empty if it is
	without []omission // commands that are not run
	header  string     // the function that statements stand in
}

// omission leaves out the commands that begin with some words.
type omission struct{ words, reason string }

func (b *block) String() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// tested are the languages of blocks that are tested, and shown those of blocks that are only looked at.
var (
	tested = []string{"go", "sh"}
	shown  = []string{"text", "mermaid", "sql", "json", "toml", "yaml", "diff", "html", "python"}
)

// The comments above a block.
var (
	comment     = regexp.MustCompile(`^<!--\s*(.*?)\s*-->$`)
	notTested   = regexp.MustCompile(`^not (compiled|run): *(.*)$`)
	notAll      = regexp.MustCompile(`^not run "([^"]+)": *(.*)$`)
	inFunction  = regexp.MustCompile(`^in (func\(.*)$`)
	aboutBlocks = regexp.MustCompile(`^(not |in func)`)
)

// parsePage reads the blocks of a page. It refuses a block that would escape the tests by mistake.
func parsePage(page, text string) (blocks []*block, err error) {
	var (
		open  *block
		marks []string
		lines = strings.Split(text, "\n")
	)
	fail := func(n int, format string, args ...any) error {
		return fmt.Errorf("%s:%d: %s", page, n+1, fmt.Sprintf(format, args...))
	}
	for n, line := range lines {
		trimmed := strings.TrimSpace(line)
		switch {
		case open != nil && trimmed == "```":
			blocks, open = append(blocks, open), nil
		case open != nil:
			open.code += line + "\n"
		case strings.HasPrefix(trimmed, "```"), strings.HasPrefix(trimmed, "~~~"):
			open = &block{page: page, line: n + 1, language: strings.TrimPrefix(trimmed, "```")}
			if err := open.obey(marks); err != nil {
				return nil, fail(n, "%v", err)
			}
			marks = nil
		case comment.MatchString(trimmed):
			if mark := comment.FindStringSubmatch(trimmed)[1]; aboutBlocks.MatchString(mark) {
				marks = append(marks, mark)
			}
		case trimmed != "" && len(marks) > 0:
			return nil, fail(n, "the comment %q must stand directly above a block", marks[0])
		}
	}
	switch {
	case open != nil:
		return nil, fail(open.line-1, "the block has no end")
	case len(marks) > 0:
		return nil, fail(len(lines)-1, "the comment %q has no block below it", marks[0])
	default:
		return blocks, nil
	}
}

// obey checks the language of a block and takes in the comments above it.
func (b *block) obey(marks []string) error {
	if !slices.Contains(tested, b.language) && !slices.Contains(shown, b.language) {
		return fmt.Errorf("the language of a block is one of %s or %s, not %q", strings.Join(tested, ", "), strings.Join(shown, ", "), b.language)
	}
	for _, mark := range marks {
		var reason string
		if m := notTested.FindStringSubmatch(mark); m != nil && b.language == map[string]string{"compiled": "go", "run": "sh"}[m[1]] {
			b.skipped, reason = m[2], m[2]
		} else if m := notAll.FindStringSubmatch(mark); m != nil && b.language == "sh" {
			b.without, reason = append(b.without, omission{m[1], m[2]}), m[2]
		} else if m := inFunction.FindStringSubmatch(mark); m != nil && b.language == "go" {
			b.header, reason = m[1], m[1]
		} else {
			return fmt.Errorf("the comment %q means nothing above a block of %s", mark, b.language)
		}
		if reason == "" {
			return fmt.Errorf("the comment %q lacks a reason", mark)
		}
	}
	return nil
}

// pages returns the paths of all pages below the root, and their texts.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		rel, relErr := filepath.Rel(root, path)
		if err != nil || relErr != nil {
			return fmt.Errorf("%w, %w", err, relErr)
		}
		found[filepath.ToSlash(rel)] = string(text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"README.md", "docs/guarantees.md"} {
		if found[page] == "" {
			t.Fatalf("%s is not among the %d pages", page, len(found))
		}
	}
	return found
}

// blocksOf returns the blocks of a language on all pages, by page.
func blocksOf(t *testing.T, language string) map[string][]*block {
	t.Helper()
	found, n := map[string][]*block{}, 0
	for page, text := range pages(t) {
		blocks, err := parsePage(page, text)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, b := range blocks {
			if b.language == language {
				found[page] = append(found[page], b)
				n++
			}
		}
	}
	if n == 0 {
		t.Fatalf("no page has a block of %s", language)
	}
	return found
}

func TestParsePage(t *testing.T) {
	for _, tt := range []struct{ name, page, want string }{
		{"blocks", "# A\n```go\nx()\n```\ntext\n\n<!-- not run: because -->\n```sh\nrm -r /\n```\n<!-- anything -->\nend\n", ""},
		{"a list", "- a\n\n  <!-- in func(a int) -->\n\n  ```go\n  x(a)\n  ```\n", ""},
		{"without language", "```\nx\n```\n", `not ""`},
		{"another name of a language", "```bash\nx\n```\n", `not "bash"`},
		{"capitals", "```Go\nx\n```\n", `not "Go"`},
		{"tildes", "~~~go\nx\n~~~\n", `not "~~~go"`},
		{"without end", "a\n```go\nx\n", "a.md:2: the block has no end"},
		{"without reason", "<!-- not run: -->\n```sh\nx\n```\n", "lacks a reason"},
		{"without reason for some", "<!-- not run \"x\": -->\n```sh\nx\n```\n", "lacks a reason"},
		{"the other language", "<!-- not compiled: because -->\n```sh\nx\n```\n", "means nothing above a block of sh"},
		{"a function above commands", "<!-- in func() -->\n```sh\nx\n```\n", "means nothing above a block of sh"},
		{"a mark above what is never tested", "<!-- not run: because -->\n```text\nx\n```\n", "means nothing above a block of text"},
		{"misspelt", "<!-- not ran: because -->\n```sh\nx\n```\n", "means nothing"},
		{"away from the block", "<!-- not run: because -->\ntext\n```sh\nx\n```\n", "a.md:2: the comment"},
		{"at the end", "<!-- not run: because -->\n", "has no block below it"},
	} {
		_, err := parsePage("a.md", tt.page)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
