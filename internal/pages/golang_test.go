package pages

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// workspace is a module that blocks are compiled in: which package a name means, and what a package exports.
type workspace struct {
	dir   string
	names map[string]string // of a package → its path
	files map[string]string // path → file with its export data
}

// preferred are the packages of the standard library that a name means where it means several.
var preferred = map[string]string{
	"template": "html/template", "rand": "crypto/rand", "sql": "database/sql", "slog": "log/slog", "mail": "net/mail", "embed": "embed",
}

// openWorkspace asks the go command for the names of the packages of a module and of everything that they import, also in tests.
func openWorkspace(t *testing.T, dir string, patterns ...string) *workspace {
	t.Helper()
	w := &workspace{dir: dir, names: map[string]string{}, files: map[string]string{}}
	list := w.list(t, append([]string{"-e", "-deps", "-test", "-f", "{{.ImportPath}}\t{{.Name}}"}, patterns...)...)
	for line := range strings.Lines(list) {
		path, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		hidden := strings.Contains("/"+path+"/", "/internal/") || strings.HasPrefix(path, "vendor/") || name == "main" ||
			strings.Contains(path, " ") || name == "" || strings.HasSuffix(path, ".test") || // variants for tests
			strings.Contains(path, "/examples/integrations/") // named after the libraries that they show
		known, again := w.names[name]
		switch {
		case hidden:
		case !again, rank(path) < rank(known), rank(path) == rank(known) && len(path) < len(known):
			w.names[name] = path
		}
	}
	maps.Copy(w.names, preferred)
	return w
}

// list runs go list.
func (w *workspace) list(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list"}, args...)...)
	cmd.Dir = w.dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v in %s: %v\n%s", cmd, w.dir, err, &stderr)
	}
	return string(out)
}

// load compiles the packages that blocks import, which the compiler of Go keeps.
func (w *workspace) load(t *testing.T, blocks []*block) {
	t.Helper()
	paths, known := map[string]bool{}, slices.Collect(maps.Values(w.names))
	files, _ := w.parse(token.NewFileSet(), blocks) // check tells of failures
	for _, f := range files {
		for _, spec := range f.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); slices.Contains(known, path) {
				paths[path] = true
			}
		}
	}
	if len(paths) == 0 {
		return
	}
	args := append([]string{"-export", "-deps", "-f", "{{.ImportPath}}\t{{.Export}}"}, slices.Sorted(maps.Keys(paths))...)
	for line := range strings.Lines(w.list(t, args...)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "\t")
		w.files[path] = file
	}
}

// rank orders packages of one name: ours, those of the standard library, and others.
func rank(path string) int {
	first, _, _ := strings.Cut(path, "/")
	switch {
	case strings.HasPrefix(path, "github.com/outboxmail/outbox"):
		return 0
	case !strings.Contains(first, "."):
		return 1
	default:
		return 2
	}
}

// open opens the export data of a package.
func (w *workspace) open(path string) (io.ReadCloser, error) {
	file, ok := w.files[path]
	if !ok {
		return nil, fmt.Errorf("there is no package %s here", path)
	}
	return os.Open(file)
}

// check compiles the blocks of a page and returns what the compiler says.
func (w *workspace) check(blocks []*block) (failures []string) {
	fset := token.NewFileSet()
	files, failures := w.parse(fset, blocks)
	for _, f := range files {
		failures = append(failures, w.compile(fset, f)...)
	}
	return failures
}

// parse makes files of the blocks of a page: one of all declarations and statements, and one of each block that is a whole file. It
// adds the imports that they lack, and returns what the parser says.
func (w *workspace) parse(fset *token.FileSet, blocks []*block) (files []*ast.File, failures []string) {
	var (
		imports, bodies strings.Builder
		seen            = map[string]bool{}
		sources         []string
	)
	for _, b := range blocks {
		if b.skipped != "" {
			continue
		}
		if strings.HasPrefix(strings.TrimSpace(b.code), "package ") {
			sources = append(sources, position(b, 1)+b.code)
			continue
		}
		head, body := cutImports(b.code)
		first := strings.Count(head, "\n") + 1
		for _, spec := range importSpecs(head) {
			if !seen[spec] {
				fmt.Fprintf(&imports, "%simport %s\n", position(b, 1), spec)
				seen[spec] = true
			}
		}
		if _, err := parser.ParseFile(token.NewFileSet(), "", "package page\n"+body, 0); err != nil {
			header := b.header
			if header == "" {
				header = "func() error"
			}
			body += "panic(1)\n}\n"
			fmt.Fprintf(&bodies, "func _%s {\n", strings.TrimPrefix(header, "func"))
		}
		bodies.WriteString(position(b, first) + body)
	}
	for _, source := range append(sources, "package page\n"+imports.String()+bodies.String()) {
		f, err := parser.ParseFile(fset, "block", source, parser.SkipObjectResolution)
		resolved, _ := parser.ParseFile(token.NewFileSet(), "block", source, 0)
		if err != nil {
			failures = append(failures, err.Error())
			continue
		}
		w.addImports(f, resolved)
		files = append(files, f)
	}
	return files, failures
}

// importSpecs returns what import declarations import, each with its name if it has one.
func importSpecs(declarations string) (specs []string) {
	f, err := parser.ParseFile(token.NewFileSet(), "", "package page\n"+declarations, 0)
	if err != nil {
		return nil
	}
	for _, spec := range f.Imports {
		name := ""
		if spec.Name != nil {
			name = spec.Name.Name + " "
		}
		specs = append(specs, name+spec.Path.Value)
	}
	return specs
}

// position is a comment that gives the line of a block to the compiler.
func position(b *block, line int) string { return fmt.Sprintf("//line %s:%d\n", b.page, b.line+line) }

// cutImports divides statements from the imports above them.
func cutImports(code string) (imports, rest string) {
	for {
		trimmed := strings.TrimLeft(code, "\n")
		end := 0
		switch {
		case strings.HasPrefix(trimmed, "import ("):
			end = strings.Index(trimmed, ")\n") + 2
		case strings.HasPrefix(trimmed, "import "):
			end = strings.Index(trimmed, "\n") + 1
		}
		if end < 2 {
			return imports, code
		}
		imports, code = imports+trimmed[:end], trimmed[end:]
	}
}

// addImports imports the packages whose names a file uses without declaring them.
func (w *workspace) addImports(f, resolved *ast.File) {
	imported := map[string]bool{}
	for _, spec := range f.Imports {
		imported[strings.Trim(spec.Path.Value, `"`)] = true
	}
	wanted := map[string]bool{}
	free := map[string]bool{}
	for _, id := range resolved.Unresolved {
		free[id.Name] = true
	}
	ast.Inspect(resolved, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := s.X.(*ast.Ident); ok && free[id.Name] {
				if path := w.names[id.Name]; path != "" && !imported[path] && !named(f, id.Name) {
					wanted[path] = true
				}
			}
		}
		return true
	})
	for _, path := range slices.Sorted(maps.Keys(wanted)) {
		spec := &ast.ImportSpec{Path: &ast.BasicLit{Kind: token.STRING, Value: `"` + path + `"`}}
		f.Imports = append(f.Imports, spec)
		f.Decls = slices.Insert(f.Decls, 0, ast.Decl(&ast.GenDecl{Tok: token.IMPORT, Specs: []ast.Spec{spec}}))
	}
}

// named says whether a file imports something under a name.
func named(f *ast.File, name string) bool {
	return slices.ContainsFunc(f.Imports, func(s *ast.ImportSpec) bool {
		return s.Name != nil && s.Name.Name == name || s.Name == nil && strings.HasSuffix(strings.Trim(s.Path.Value, `"`), "/"+name)
	})
}

// compile checks the types of a file. A variable that is declared and not used is well where it is shown.
func (w *workspace) compile(fset *token.FileSet, file *ast.File) (failures []string) {
	config := types.Config{
		Importer: importer.ForCompiler(fset, "gc", w.open),
		Error: func(err error) {
			if e, ok := err.(types.Error); !ok || !strings.HasPrefix(e.Msg, "declared and not used") { //nolint:errorlint // it is never wrapped
				failures = append(failures, err.Error())
			}
		},
	}
	_, _ = config.Check("page", fset, []*ast.File{file}, nil) // the errors are collected above
	return failures
}

// TestGo compiles every block of Go on every page.
func TestGo(t *testing.T) {
	byPage := blocksOf(t, "go")
	ours := openWorkspace(t, root, "./...", "std")
	var elsewhere []string // pages that need other modules
	for page, blocks := range byPage {
		ours.load(t, blocks)
		if len(ours.check(blocks)) > 0 {
			elsewhere = append(elsewhere, page)
		}
	}
	if len(elsewhere) == 0 {
		return
	}
	theirs := openWorkspace(t, filepath.Join(root, "examples", "integrations"), "./...", "github.com/outboxmail/outbox/...", "std")
	for _, page := range elsewhere {
		theirs.load(t, byPage[page])
		for _, failure := range theirs.check(byPage[page]) {
			t.Errorf("this does not compile: %s", failure)
		}
	}
}

func TestGoThatDoesNotCompileIsFound(t *testing.T) {
	w := openWorkspace(t, root, "./...", "std")
	const enqueue = "_, err := outbox.Enqueue(ctx, tx, &outbox.Message{Subject: \"hi\"})\nreturn err\n"
	for _, tt := range []struct{ name, page, want string }{
		{"declarations", "```go\nfunc hello(name string) { fmt.Println(name) }\n```\n", ""},
		{"statements that see declarations", "```go\nhello(\"you\")\nx := 1\n```\n```go\nfunc hello(name string) { fmt.Println(name) }\n```\n", ""},
		{"a function given", "<!-- in func(ctx context.Context, tx *sql.Tx) error -->\n```go\n" + enqueue + "```\n", ""},
		{"imports and statements", "```go\nimport \"fmt\"\n\nfmt.Println(1)\nreturn nil\n```\n", ""},
		{"imports for the blocks below", "```go\nimport (\n\t\"context\"\n\n\t\"fmt\"\n)\n\nvar _ context.Context\n```\n```go\nimport \"fmt\"\n\nfunc a() { fmt.Println() }\n```\n", ""},
		{"a whole file", "```go\npackage main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(1) }\n```\n", ""},
		{"left out", "<!-- not compiled: because -->\n```go\nx(…)\n```\n", ""},

		{"an unknown variable", "```go\n" + enqueue + "```\n", "a.md:2: undefined: ctx"},
		{"an unknown field", "```go\nvar m = outbox.Message{Title: \"hi\"}\n```\n", "a.md:2: unknown field Title"},
		{"an unknown name of a package", "\n```go\noutbox.Engueue()\n```\n", "a.md:3: undefined: outbox.Engueue"},
		{"an unknown package", "```go\noutpost.Enqueue()\n```\n", "undefined: outpost"},
		{"dots", "```go\nf(…)\n```\n", "a.md:2: illegal character"},
		{"a wrong type", "```go\nvar db *sql.DB\n\n_, err := outbox.Enqueue(context.Background(), db, nil)\nreturn err\n```\n", "a.md:4: cannot use db"},
		{"an import that is not used", "```go\npackage main\n\nimport \"fmt\"\n\nfunc main() {}\n```\n", `a.md:4: "fmt" imported and not used`},
		{"a wrong result", "```go\nreturn 1\n```\n", "cannot use 1"},
		{"a declaration twice", "```go\nfunc a() {}\n```\n\n```go\nfunc a() {}\n```\n", "a.md:6: a redeclared"},
	} {
		blocks, err := parsePage("a.md", tt.page)
		if err != nil {
			t.Fatal(err)
		}
		w.load(t, blocks)
		got := strings.Join(w.check(blocks), "\n")
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
