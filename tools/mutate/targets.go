package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// target is a set of files that are changed, and the tests that should notice.
type target struct {
	Name  string   `toml:"name"`
	Files []string `toml:"files"` // patterns, relative to the root of the module
	// Tests are tried in order until one fails: a package, then flags of go test. {own} stands for the tests that are declared
	// in the test files named like the changed file.
	Tests []string `toml:"tests"`
	First []first  `toml:"first"`
}

// first has tests that are tried before those of the target, where In matches what is changed.
type first struct {
	In    string   `toml:"in"`
	Tests []string `toml:"tests"`
}

func readTargets(file string) ([]target, error) {
	var all struct {
		Target []target `toml:"target"`
	}
	meta, err := toml.DecodeFile(file, &all)
	if err != nil {
		return nil, fmt.Errorf("read the targets: %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("read the targets: %s: unknown key %s", file, unknown[0])
	}
	return all.Target, nil
}

// chosen returns the targets with these names, or all of them.
func chosen(all []target, names []string) ([]target, error) {
	if len(names) == 0 {
		return all, nil
	}
	var list []target
	for _, name := range names {
		i := slices.IndexFunc(all, func(t target) bool { return t.Name == name })
		if i < 0 {
			var known []string
			for _, t := range all {
				known = append(known, t.Name)
			}
			return nil, fmt.Errorf("no target is named %s: there are %s", name, strings.Join(known, ", "))
		}
		list = append(list, all[i])
	}
	return list, nil
}

// mutants returns the mutants of a target in the order of its files.
func (t *target) mutants(root string) ([]*mutant, error) {
	files, err := t.files(root)
	if err != nil {
		return nil, err
	}
	var list []*mutant
	for _, file := range files {
		src, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(file)))
		if err != nil {
			return nil, err
		}
		ms, err := mutantsOf(file, string(src))
		if err != nil {
			return nil, err
		}
		list = append(list, ms...)
	}
	return list, nil
}

func (t *target) files(root string) ([]string, error) {
	var files []string
	for _, pattern := range t.Files {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", t.Name, err)
		}
		n := 0
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				return nil, err
			}
			if rel = filepath.ToSlash(rel); !strings.HasSuffix(rel, "_test.go") {
				files = append(files, rel)
				n++
			}
		}
		if n == 0 {
			return nil, fmt.Errorf("target %s: no file matches %s", t.Name, pattern)
		}
	}
	return files, nil
}

// test is one run of the tests of a package.
type test struct {
	pkg   string
	flags []string // of the test binary
}

// String returns the package and the flags.
func (t test) String() string { return t.pkg + " " + strings.Join(t.flags, " ") }

// tests returns the tests for a mutant, in order.
func (t *target) tests(root string, m *mutant) ([]test, error) {
	var specs []string
	for _, f := range t.First {
		matches, err := regexp.MatchString("^(?:"+f.In+")$", m.in)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", t.Name, err)
		}
		if matches {
			specs = append(specs, f.Tests...)
		}
	}
	var list []test
	for _, spec := range append(specs, t.Tests...) {
		words, err := fields(spec)
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", t.Name, err)
		}
		run := test{pkg: words[0]}
		skip := false
		for _, w := range words[1:] {
			switch {
			case w == "{own}":
				own, err := ownTests(root, m.file)
				if err != nil {
					return nil, err
				}
				skip = len(own) == 0
				run.flags = append(run.flags, "-test.run", "^("+strings.Join(own, "|")+")$")
			case strings.HasPrefix(w, "-"):
				run.flags = append(run.flags, "-test."+strings.TrimLeft(w, "-"))
			default:
				run.flags = append(run.flags, w)
			}
		}
		if !skip {
			list = append(list, run)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("target %s has no test for %s", t.Name, m.file)
	}
	return list, nil
}

// fields splits at white space, except between single quotes.
func fields(s string) ([]string, error) {
	var words []string
	for rest := strings.TrimSpace(s); rest != ""; rest = strings.TrimSpace(rest) {
		if quoted, ok := strings.CutPrefix(rest, "'"); ok {
			word, after, ok := strings.Cut(quoted, "'")
			if !ok {
				return nil, fmt.Errorf("a quote has no end: %s", s)
			}
			words, rest = append(words, word), after
			continue
		}
		word, after, _ := strings.Cut(rest, " ")
		words, rest = append(words, word), after
	}
	if len(words) == 0 {
		return nil, errors.New("a line of tests is empty")
	}
	return words, nil
}

// ownTests returns the tests in x_test.go, x_internal_test.go and x_*_test.go for x.go.
func ownTests(root, file string) ([]string, error) {
	base := strings.TrimSuffix(path.Base(file), path.Ext(file))
	dir := filepath.Join(root, filepath.FromSlash(path.Dir(file)))
	files, err := filepath.Glob(filepath.Join(dir, base+"_*test.go"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, decl := range tree.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && isTest(fn) {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names, nil
}

func isTest(fn *ast.FuncDecl) bool {
	return strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" && fn.Type.Params.NumFields() == 1
}
