package deps

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestImports checks the packages of this module as they are.
func TestImports(t *testing.T) {
	graph := load(t)
	if _, ok := graph[module]; !ok {
		t.Fatalf("the graph of imports lacks the root package; it holds %d packages", len(graph))
	}
	for _, v := range violations(graph) {
		t.Error(v)
	}
}

// load asks the go command for every package of the module and what these import, tests aside.
func load(t *testing.T) map[string]pkg {
	t.Helper()
	root := filepath.Join("..", "..")
	noteFiles(t, root)
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports", "./...")
	cmd.Dir = root
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
	}
	graph := map[string]pkg{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Standard   bool
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) { //nolint:musttag // the names are those of go list
			return graph
		} else if err != nil {
			t.Fatal(err)
		}
		graph[p.ImportPath] = pkg{path: p.ImportPath, standard: p.Standard, imports: p.Imports}
	}
}

// noteFiles looks at every folder of the module, so that the go command, which remembers what a test has looked at, does
// not repeat an old result after an import has changed.
func noteFiles(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin") {
			return filepath.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestViolationsAreFound gives the rules graphs with one fault each.
func TestViolationsAreFound(t *testing.T) {
	for _, tt := range []struct {
		name  string
		graph string // a line per package: its path and what it imports; a leading / stands for the module
		want  []string
	}{
		{
			"as it should be",
			`
				/                fmt golang.org/x/net/idna github.com/google/uuid /queue /internal/letter
				/queue           time net/mail
				/internal/letter golang.org/x/net/html
				/smtpx           net /smtpx/profiles
				/smtpx/profiles
				/schema          embed
				/store           / /schema /queue /internal/letter github.com/jmoiron/sqlx
				/store/sqlite    /store modernc.org/sqlite github.com/jmoiron/sqlx
				/store/postgres  /store github.com/lib/pq
				/dispatcher      / /smtpx
				/internal/pgtest github.com/lib/pq
				/internal/pgtest/cmd/withpostgres /internal/pgtest
				/cmd/outboxctl   /cmd/outboxctl/internal/cli
				/cmd/outboxctl/internal/cli / /store/sqlite /dispatcher /internal/letter github.com/spf13/cobra
				/examples/pgx    / github.com/jackc/pgx/v5/stdlib`,
			nil,
		},
		{
			"root imports ours",
			"/ /schema\n/schema",
			[]string{". imports schema,"},
		},
		{
			"root links a driver through somebody else",
			`
				github.com/emersion/go-message modernc.org/sqlite
				/                              github.com/emersion/go-message`,
			[]string{"the root package links modernc.org/sqlite (" + module + " → github.com/emersion/go-message → modernc.org/sqlite)"},
		},
		{
			"root imports a driver",
			"/ github.com/lib/pq",
			[]string{". imports github.com/lib/pq, which only", "the root package links github.com/lib/pq"},
		},
		{
			"a look-alike of an allowed path",
			"/ github.com/google/uuid2",
			[]string{"the root package links github.com/google/uuid2"},
		},
		{"queue imports the root", "/queue /", []string{"queue imports .,"}},
		{"letter imports the root", "/internal/letter /", []string{"internal/letter imports .,"}},
		{"the dispatcher composes mail", "/dispatcher /internal/letter\n/internal/letter", []string{"dispatcher imports internal/letter,"}},
		{"smtpx imports the root", "/smtpx /", []string{"smtpx imports .,"}},
		{"smtpx imports an internal package", "/smtpx /internal/clock\n/internal/clock", []string{"smtpx imports internal/clock,"}},
		{"schema imports store", "/schema /store", []string{"schema imports store,"}},
		{"store imports its driver's package", "/store /store/sqlite", []string{"store imports store/sqlite,"}},
		{"store imports the dispatcher", "/store /dispatcher", []string{"store imports dispatcher,"}},
		{"the dispatcher imports store", "/dispatcher /store", []string{"dispatcher imports store,"}},
		{"an internal package imports a public one", "/internal/clock /", []string{"internal/clock imports .,"}},
		{"sqlx outside store", "/cmd/x github.com/jmoiron/sqlx", []string{"cmd/x imports github.com/jmoiron/sqlx, which only store/... may"}},
		{"modernc in store", "/store modernc.org/sqlite", []string{"store imports modernc.org/sqlite, which only store/sqlite may"}},
		{"pgx in a library", "/store github.com/jackc/pgx/v5", []string{"store imports github.com/jackc/pgx/v5, which only"}},
		{"cobra in a library", "/dispatcher github.com/spf13/cobra", []string{"dispatcher imports github.com/spf13/cobra,"}},
		{"a package that nobody thought of", "/news fmt", []string{"news has no arrow in internal/deps"}},
		{"a neighbour of a ruled package", "/storefront fmt", []string{"storefront has no arrow in internal/deps"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := violations(parse(tt.graph))
			ok := len(got) == len(tt.want)
			for i := range min(len(got), len(tt.want)) {
				ok = ok && strings.HasPrefix(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("violations:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// parse reads a graph as TestViolationsAreFound writes it. A path without a dot in its first element is of the standard
// library.
func parse(text string) map[string]pkg {
	graph := map[string]pkg{}
	full := func(s string) string {
		if strings.HasPrefix(s, "/") {
			return strings.TrimSuffix(module+s, "/")
		}
		return s
	}
	for line := range strings.Lines(text) {
		fields := slices.Collect(strings.FieldsSeq(line))
		for i := range fields {
			fields[i] = full(fields[i])
		}
		for _, path := range fields[min(1, len(fields)):] {
			if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
				graph[path] = pkg{path: path, standard: true}
			}
		}
		if len(fields) > 0 {
			graph[fields[0]] = pkg{path: fields[0], imports: fields[1:]}
		}
	}
	return graph
}
