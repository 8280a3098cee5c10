package deps

import (
	"slices"
	"strings"
	"testing"
)

// TestForbiddenImportsAreFound gives the real rules graphs with one forbidden import each.
func TestForbiddenImportsAreFound(t *testing.T) {
	r := rules{arrows, libraries, testLibraries}
	for _, tt := range []struct {
		name  string
		graph string // as parse reads it
		want  []string
	}{
		{
			"as it should be",
			`
				/                fmt github.com/google/uuid /queue /internal/letter
				/queue           time net/mail
				/internal/letter golang.org/x/net/html
				/smtpx           net
				/schema          embed
				/store           / /schema /queue /internal/letter github.com/jmoiron/sqlx
				/store/sqlite    modernc.org/sqlite
				/store/postgres  github.com/lib/pq
				/dispatcher      / /smtpx | go.uber.org/goleak modernc.org/sqlite
				/internal/pgtest github.com/lib/pq
				/internal/pgtest/cmd/withpostgres /internal/pgtest
				/cmd/outboxctl   /cmd/outboxctl/internal/cli
				/cmd/outboxctl/internal/cli / /store/sqlite /dispatcher /internal/letter github.com/spf13/cobra`,
			nil,
		},
		{"root imports ours", "/ /schema\n/schema", []string{". imports schema,"}},
		{
			"root links a driver through somebody else",
			`
				github.com/emersion/go-message modernc.org/sqlite
				/internal/letter               github.com/emersion/go-message
				/                              /internal/letter`,
			[]string{"the root package links modernc.org/sqlite (" + module + " → " + module + "/internal/letter → github.com/emersion/go-message → modernc.org/sqlite)"},
		},
		{"root imports a driver", "/ github.com/lib/pq", []string{". imports github.com/lib/pq, which only", "the root package links github.com/lib/pq"}},
		{"queue imports the root", "/queue /", []string{"queue imports .,"}},
		{"queue imports a library", "/queue golang.org/x/net/idna", []string{"queue imports golang.org/x/net/idna, which only"}},
		{"letter imports the root", "/internal/letter /", []string{"internal/letter imports .,"}},
		{"the dispatcher composes mail", "/dispatcher /internal/letter\n/internal/letter", []string{"dispatcher imports internal/letter,"}},
		{"smtpx imports the root", "/smtpx /", []string{"smtpx imports .,"}},
		{"smtpx imports an internal package", "/smtpx /internal/clock\n/internal/clock", []string{"smtpx imports internal/clock,"}},
		{"schema imports store", "/schema /store\n/store", []string{"schema imports store,"}},
		{"store imports its driver's package", "/store /store/sqlite", []string{"store imports store/sqlite,"}},
		{"store imports the dispatcher", "/store /dispatcher", []string{"store imports dispatcher,"}},
		{"the dispatcher imports store", "/dispatcher /store", []string{"dispatcher imports store,"}},
		{"an internal package imports a public one", "/internal/clock /", []string{"internal/clock imports .,"}},
		{"a program imports the test kit", "/cmd/outboxctl /outboxtest", []string{"cmd/outboxctl imports outboxtest,"}},
		{"an example imports an internal package", "/examples/x /internal/letter", []string{"examples/x imports internal/letter,"}},
		{"sqlx outside store", "/cmd/outboxctl github.com/jmoiron/sqlx", []string{"cmd/outboxctl imports github.com/jmoiron/sqlx, which only store"}},
		{"modernc in store", "/store modernc.org/sqlite", []string{"store imports modernc.org/sqlite, which only store/sqlite may"}},
		{"cobra in a library", "/dispatcher github.com/spf13/cobra", []string{"dispatcher imports github.com/spf13/cobra,"}},
		{"crypto outside keyring", "/dkim golang.org/x/crypto/ssh", []string{"dkim imports golang.org/x/crypto/ssh, which only keyring may"}},
		{"a library for tests in a package", "/store pgregory.net/rapid", []string{"store imports pgregory.net/rapid, which is not in libraries"}},
		{"a library that nobody listed", "/store github.com/news/news", []string{"store imports github.com/news/news, which is not in libraries"}},
		{"a look-alike of a listed library", "/store github.com/google/uuid2", []string{"store imports github.com/google/uuid2, which is not in libraries"}},
		{
			"a library that nobody listed, in a test", "/store | github.com/stretchr/testify/assert",
			[]string{"a test of store imports github.com/stretchr/testify/assert, which is not in testLibraries"},
		},
		{"a package that nobody thought of", "/news fmt", []string{"news has no arrow in internal/deps"}},
		{"a neighbour of a ruled package", "/storefront fmt", []string{"storefront has no arrow in internal/deps"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			graph := parse(tt.graph)
			compare(t, append(r.forbidden(ours(graph)), rootViolations(graph)...), tt.want)
		})
	}
}

// TestUnusedRulesAreFound gives small rules graphs that do not need all of them.
func TestUnusedRulesAreFound(t *testing.T) {
	const graph = `
		/store     /queue github.com/lib/pq | go.uber.org/goleak
		/queue
		/cmd/tool  /store
		/cmd/other`
	needed := rules{
		arrows: []arrow{
			{from: "queue"},
			{from: "store", may: []string{"queue"}},
			{from: "cmd/...", may: []string{"store"}}, // by one of the two
			{from: "doctor", may: []string{"queue", "news"}, planned: true},
		},
		libraries: []library{
			{module: "github.com/lib/pq", importers: []string{"store"}, why: "PostgreSQL"},
			{module: "github.com/prometheus/client_golang", importers: []string{"doctor"}, why: "metrics", planned: true},
		},
		testLibraries: map[string]string{"go.uber.org/goleak": "goroutines"},
	}
	for _, tt := range []struct {
		name   string
		change func(r *rules)
		want   []string
	}{
		{"everything is needed", func(*rules) {}, nil},
		{"an arrow that nobody uses", func(r *rules) { r.arrows[0].may = []string{"store"} }, []string{"queue may import store but does not"}},
		{
			"a wide arrow that nobody uses", func(r *rules) { r.arrows[2].may = []string{"store/...", "cmd/..."} },
			[]string{"cmd/... may import cmd/... but does not"},
		},
		{
			"an arrow to a package that does not exist", func(r *rules) { r.arrows[1].may = []string{"queue", "news"} },
			[]string{"store may import news but does not"},
		},
		{
			"an arrow from a package that does not exist", func(r *rules) { r.arrows[3].planned = false },
			[]string{"no package needs the arrow from doctor"},
		},
		{"an arrow behind another", func(r *rules) {
			r.arrows = append(r.arrows, arrow{from: "cmd/tool", may: []string{"store"}})
		}, []string{"no package needs the arrow from cmd/tool"}},
		{"a plan that has come true", func(r *rules) { r.arrows[1].planned = true }, []string{"store exists: its arrow is not planned any more"}},
		{
			"an importer that does not import", func(r *rules) { r.libraries[0].importers = []string{"store", "queue"} },
			[]string{"queue may import github.com/lib/pq but does not"},
		},
		{
			"an importer that does not exist", func(r *rules) { r.libraries[0].importers = []string{"store", "news"} },
			[]string{"news may import github.com/lib/pq but does not"},
		},
		{
			"a library that nobody imports", func(r *rules) { r.libraries[1].planned = false },
			[]string{"doctor may import github.com/prometheus/client_golang but does not"},
		},
		{
			"a planned library whose importer exists", func(r *rules) { r.libraries[1].importers = []string{"cmd/..."} },
			[]string{"cmd/... exists: github.com/prometheus/client_golang is not planned any more"},
		},
		{"a library without a reason", func(r *rules) { r.libraries[0].why = "" }, []string{"github.com/lib/pq is listed without a reason"}},
		{
			"a library for tests without a reason", func(r *rules) { r.testLibraries = map[string]string{"go.uber.org/goleak": ""} },
			[]string{"go.uber.org/goleak is listed without a reason"},
		},
		{
			"a library that no test imports", func(r *rules) {
				r.testLibraries = map[string]string{"go.uber.org/goleak": "goroutines", "pgregory.net/rapid": "properties"}
			},
			[]string{"no test imports pgregory.net/rapid"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changed := rules{slices.Clone(needed.arrows), slices.Clone(needed.libraries), needed.testLibraries}
			tt.change(&changed)
			g := ours(parse(graph))
			compare(t, append(changed.unusedArrows(g), changed.unusedLibraries(g)...), tt.want)
		})
	}
}

// compare wants sentences that begin as given.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("violations:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// parse reads a graph: on each line a package, what it imports, and behind a bar what its tests import. A leading / stands for the
// module.
func parse(text string) map[string]pkg {
	graph := map[string]pkg{}
	for line := range strings.Lines(text) {
		line, tests, _ := strings.Cut(line, "|")
		if paths := full(line); len(paths) > 0 {
			graph[paths[0]] = pkg{path: paths[0], imports: paths[1:], testImports: full(tests)}
		}
	}
	return graph
}

// full returns the whole paths of a list.
func full(list string) (paths []string) {
	for path := range strings.FieldsSeq(list) {
		if strings.HasPrefix(path, "/") {
			path = strings.TrimSuffix(module+path, "/")
		}
		paths = append(paths, path)
	}
	return paths
}
