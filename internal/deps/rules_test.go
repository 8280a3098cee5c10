package deps

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const module = "github.com/outboxmail/outbox"

// arrow says which of our packages those that match from may import. The first arrow that matches a package counts.
// A pattern is a path below the module, "." for its root; with /... it takes in everything below it as well.
type arrow struct {
	from string
	may  []string
}

var arrows = []arrow{
	{from: "queue", may: nil},
	{from: "keyring", may: nil},
	{from: "dkim", may: nil},
	{from: "smtpx/...", may: []string{"smtpx/..."}},
	{from: ".", may: []string{"queue", "keyring", "internal/letter", "internal/pgschema", "internal/sqlstate"}},
	{from: "templates", may: []string{".", "internal/letter"}},
	{from: "schema", may: []string{"internal/pgschema", "internal/sqlstate"}},
	{from: "store", may: []string{".", "queue", "keyring", "schema", "internal/letter", "internal/pgschema", "internal/sqlstate"}},
	{from: "store/sqlite", may: []string{"store"}},
	{from: "store/postgres", may: []string{"store", "internal/pgschema", "internal/sqlstate"}},
	{from: "store/storetest", may: []string{".", "queue", "schema", "store", "internal/pgschema"}},
	{from: "dispatcher", may: []string{".", "queue", "keyring", "smtpx"}},
	{from: "doctor", may: []string{"queue", "smtpx"}},
	{from: "telemetry/...", may: []string{".", "queue", "smtpx", "dispatcher", "telemetry/..."}},
	{from: "logalert", may: []string{".", "queue", "smtpx", "store", "dispatcher"}},
	{from: "evidence", may: []string{".", "queue", "store"}},
	{from: "ui", may: []string{".", "queue", "store", "dispatcher", "doctor"}},
	{from: "outboxtest", may: []string{".", "queue", "keyring", "schema", "store/...", "smtpx/...", "dispatcher", "internal/pgschema"}},
	// Leaves, which everything above them may share; only a program among them uses another.
	{from: "internal/pgtest/cmd/...", may: []string{"internal/pgtest"}},
	{from: "internal/...", may: nil},
	{from: "cmd/...", may: []string{"./..."}},
	{from: "examples/...", may: []string{"./..."}},
}

// fence says that other people's packages below prefix are imported by those of ours that match importers and by no other.
type fence struct {
	prefix    string
	importers []string
}

var fences = []fence{
	{prefix: "modernc.org", importers: []string{"store/sqlite"}},
	{prefix: "github.com/lib/pq", importers: []string{"store/postgres", "internal/pgtest/..."}},
	{prefix: "github.com/jackc/pgx", importers: []string{"examples/..."}},
	{prefix: "github.com/jmoiron/sqlx", importers: []string{"store/..."}},
	{prefix: "github.com/spf13", importers: []string{"cmd/..."}},
	{prefix: "github.com/prometheus", importers: []string{"telemetry/...", "cmd/...", "examples/..."}},
	{prefix: "go.opentelemetry.io", importers: []string{"telemetry/...", "cmd/...", "examples/..."}},
}

// rootLinks is everything that a program links by importing the root package, besides the standard library.
var rootLinks = []string{
	module,
	"golang.org/x",
	"github.com/emersion/go-message",
	"github.com/google/uuid",
}

// pkg is a package in the graph of imports.
type pkg struct {
	path     string
	standard bool
	imports  []string
}

// violations lists every import that the rules forbid, as sentences in a stable order.
func violations(graph map[string]pkg) []string {
	var found []string
	for _, path := range slices.Sorted(maps.Keys(graph)) {
		p := graph[path]
		from, ours := below(path)
		if !ours {
			continue
		}
		may, ruled := allowed(from)
		if !ruled {
			found = append(found, fmt.Sprintf("%s has no arrow in internal/deps: say what it may import", from))
			continue
		}
		for _, imported := range p.imports {
			if to, ours := below(imported); ours && !matches(may, to) {
				found = append(found, fmt.Sprintf("%s imports %s, which the arrows of docs/architecture.md do not allow", from, to))
			}
			if f, fenced := fenceOf(imported); fenced && !matches(f.importers, from) {
				found = append(found, fmt.Sprintf("%s imports %s, which only %s may", from, imported, strings.Join(f.importers, " and ")))
			}
		}
	}
	return append(found, rootViolations(graph)...)
}

// rootViolations lists what the root package links and should not, with the way there.
func rootViolations(graph map[string]pkg) []string {
	var found []string
	seen := map[string]bool{}
	var visit func(path string, way []string)
	visit = func(path string, way []string) {
		if seen[path] || graph[path].standard {
			return
		}
		seen[path] = true
		way = append(slices.Clip(way), path)
		if !slices.ContainsFunc(rootLinks, func(prefix string) bool { return under(path, prefix) }) {
			found = append(found, fmt.Sprintf("the root package links %s (%s)", path, strings.Join(way, " → ")))
			return
		}
		for _, imported := range graph[path].imports {
			visit(imported, way)
		}
	}
	visit(module, nil)
	return found
}

// below returns the path of one of our packages within the module, "." for its root.
func below(path string) (rel string, ours bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func allowed(from string) (may []string, ruled bool) {
	for _, a := range arrows {
		if matches([]string{a.from}, from) {
			return a.may, true
		}
	}
	return nil, false
}

func fenceOf(path string) (fence, bool) {
	for _, f := range fences {
		if under(path, f.prefix) {
			return f, true
		}
	}
	return fence{}, false
}

func matches(patterns []string, rel string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		tree, isTree := strings.CutSuffix(pattern, "/...")
		return rel == tree || isTree && (tree == "." || under(rel, tree))
	})
}

// under says whether path is prefix or lies below it.
func under(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}
