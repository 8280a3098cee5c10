package deps

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

const module = "github.com/outboxmail/outbox"

// pkg is a package in the graph of imports.
type pkg struct {
	path        string
	imports     []string
	testImports []string // of a package of ours, also by its external tests
}

// rules are what the graph is checked against.
type rules struct {
	arrows        []arrow
	libraries     []library
	testLibraries map[string]string
}

// violations lists every import that the rules forbid, and every rule that no import needs. They are sentences in a stable order.
func (r rules) violations(graph map[string]pkg) []string {
	list := ours(graph)
	return slices.Concat(r.forbidden(list), r.unusedArrows(list), r.unusedLibraries(list), rootViolations(graph))
}

// ours returns our packages in the order of their paths.
func ours(graph map[string]pkg) (list []pkg) {
	for _, path := range slices.Sorted(maps.Keys(graph)) {
		if _, is := below(path); is {
			list = append(list, graph[path])
		}
	}
	return list
}

// forbidden lists the imports that no rule allows.
func (r rules) forbidden(list []pkg) (found []string) {
	for _, p := range list {
		from, _ := below(p.path)
		i := r.arrowOf(from)
		if i < 0 {
			found = append(found, fmt.Sprintf("%s has no arrow in internal/deps: say what it may import", from))
			continue
		}
		for _, imported := range p.imports {
			to, isOurs := below(imported)
			switch {
			case isOurs && !matches(r.arrows[i].may, to):
				found = append(found, fmt.Sprintf("%s imports %s, which the arrows of docs/architecture.md do not allow", from, to))
			case !isOurs && !standard(imported):
				found = append(found, r.forbiddenLibrary(from, imported)...)
			}
		}
		for _, imported := range p.testImports {
			if _, isOurs := below(imported); isOurs || standard(imported) || r.listed(imported) {
				continue
			}
			found = append(found, fmt.Sprintf("a test of %s imports %s, which is not in testLibraries: list it with a reason", from, imported))
		}
	}
	return found
}

func (r rules) forbiddenLibrary(from, imported string) []string {
	i := r.libraryOf(imported)
	switch {
	case i < 0:
		return []string{fmt.Sprintf("%s imports %s, which is not in libraries: list it with a reason", from, imported)}
	case !matches(r.libraries[i].importers, from):
		return []string{fmt.Sprintf("%s imports %s, which only %s may", from, imported, strings.Join(r.libraries[i].importers, " and "))}
	default:
		return nil
	}
}

// unusedArrows lists the arrows, and the patterns in them, that no import needs.
func (r rules) unusedArrows(list []pkg) (found []string) {
	for i, a := range r.arrows {
		exists, imported := false, []string(nil)
		for _, p := range list {
			if from, _ := below(p.path); r.arrowOf(from) == i {
				exists = true
				imported = append(imported, p.imports...)
			}
		}
		switch {
		case !exists && !a.planned:
			found = append(found, fmt.Sprintf("no package needs the arrow from %s: remove it, or mark it as planned", a.from))
		case exists && a.planned:
			found = append(found, fmt.Sprintf("%s exists: its arrow is not planned any more", a.from))
		case exists:
			for _, pattern := range a.may {
				used := slices.ContainsFunc(imported, func(path string) bool {
					to, isOurs := below(path)
					return isOurs && matches([]string{pattern}, to)
				})
				if !used {
					found = append(found, fmt.Sprintf("%s may import %s but does not", a.from, pattern))
				}
			}
		}
	}
	return found
}

// unusedLibraries lists the libraries that nobody imports, the importers that do not import, and what lacks a reason.
func (r rules) unusedLibraries(list []pkg) (found []string) {
	for _, l := range r.libraries {
		if l.why == "" {
			found = append(found, l.module+" is listed without a reason")
		}
		for _, importer := range l.importers {
			exists, used := false, false
			for _, p := range list {
				if from, _ := below(p.path); matches([]string{importer}, from) {
					exists = true
					used = used || anyUnder(p.imports, l.module)
				}
			}
			switch {
			case l.planned && exists:
				found = append(found, fmt.Sprintf("%s exists: %s is not planned any more", importer, l.module))
			case !l.planned && !used:
				found = append(found, fmt.Sprintf("%s may import %s but does not", importer, l.module))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.testLibraries)) {
		if r.testLibraries[name] == "" {
			found = append(found, name+" is listed without a reason")
		}
		if !slices.ContainsFunc(list, func(p pkg) bool { return anyUnder(p.testImports, name) }) {
			found = append(found, "no test imports "+name)
		}
	}
	return found
}

// rootViolations lists what the root package links and should not, with the way there.
func rootViolations(graph map[string]pkg) []string {
	var found []string
	seen := map[string]bool{}
	var visit func(path string, way []string)
	visit = func(path string, way []string) {
		if seen[path] || standard(path) {
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

// standard says whether a path is of the standard library. The first element of every other path has a dot.
func standard(path string) bool {
	first, _, _ := strings.Cut(path, "/")
	return !strings.Contains(first, ".")
}

// arrowOf returns the index of the arrow that counts for a package, or -1.
func (r rules) arrowOf(from string) int {
	return slices.IndexFunc(r.arrows, func(a arrow) bool { return matches([]string{a.from}, from) })
}

// libraryOf returns the index of the library that a path belongs to, or -1.
func (r rules) libraryOf(path string) int {
	return slices.IndexFunc(r.libraries, func(l library) bool { return under(path, l.module) })
}

// listed says whether a path belongs to a library of either list.
func (r rules) listed(path string) bool {
	forTests := slices.ContainsFunc(slices.Collect(maps.Keys(r.testLibraries)), func(name string) bool { return under(path, name) })
	return forTests || r.libraryOf(path) >= 0
}

// matches says whether one of the patterns matches a path.
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

// anyUnder says whether one of the paths is prefix or lies below it.
func anyUnder(paths []string, prefix string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return under(path, prefix) })
}
