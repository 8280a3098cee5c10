package deps

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
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
	for _, v := range (rules{arrows, libraries, testLibraries}).violations(graph) {
		t.Error(v)
	}
}

// TestRequirements compares go.mod with the lists: what it requires for our own packages is listed.
func TestRequirements(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	r, n := rules{arrows, libraries, testLibraries}, 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "require ")
		name, version, ok := strings.Cut(line, " ")
		if !ok || !strings.HasPrefix(version, "v") || strings.Contains(version, "// indirect") {
			continue
		}
		n++
		if !r.listed(name) {
			t.Errorf("go.mod requires %s, which is not listed in internal/deps", name)
		}
	}
	if n < 10 {
		t.Errorf("go.mod has %d requirements that are read", n)
	}
}

// load asks the go command for every package of the module, on each system that we support, and for what they import.
func load(t *testing.T) map[string]pkg {
	t.Helper()
	root := filepath.Join("..", "..")
	noteFiles(t, root)
	graph := map[string]pkg{}
	for _, system := range []string{"linux", "windows", "darwin"} {
		cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOOS="+system, "CGO_ENABLED=0")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, &stderr)
		}
		merge(t, graph, string(out))
	}
	return graph
}

// merge adds what go list printed to the graph.
func merge(t *testing.T, graph map[string]pkg, printed string) {
	t.Helper()
	for dec := json.NewDecoder(strings.NewReader(printed)); ; {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) { //nolint:musttag // the names are those of go list
			return
		} else if err != nil {
			t.Fatal(err)
		}
		known := graph[p.ImportPath]
		known.path = p.ImportPath
		known.imports = union(known.imports, p.Imports)
		known.testImports = union(known.testImports, p.TestImports, p.XTestImports)
		graph[p.ImportPath] = known
	}
}

// union returns the elements of all lists, each once, in order.
func union(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

// noteFiles looks at every folder of the module. The go command remembers what a test has looked at. Without this it would repeat an
// old result after an import has changed.
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
