package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// equivalent is a mutant that no test can tell from the original, with the reason. The key is made from the whole function or
// statement, so that an entry matches nothing any more when that changes. It is then stale, and has to be judged again.
type equivalent struct {
	Key    string `toml:"key"`
	In     string `toml:"in"` // file and function or statement, for the reader
	Change string `toml:"change"`
	Reason string `toml:"reason"`
}

func readEquivalents(file string) ([]equivalent, error) {
	if file == "" {
		return nil, nil
	}
	var all struct {
		Equivalent []equivalent `toml:"equivalent"`
	}
	meta, err := toml.DecodeFile(file, &all)
	if err != nil {
		return nil, fmt.Errorf("read the equivalent mutants: %w", err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("read the equivalent mutants: %s: unknown key %s", file, unknown[0])
	}
	for _, e := range all.Equivalent {
		if e.Key == "" || strings.TrimSpace(e.Reason) == "" {
			return nil, fmt.Errorf("read the equivalent mutants: %s: %q in %s has no key or no reason", file, e.Key, e.In)
		}
	}
	return all.Equivalent, nil
}

// sortOut separates the mutants that are listed as equivalent from the others.
func sortOut(ms []*mutant, listed []equivalent) (open, same []*mutant) {
	for _, m := range ms {
		if slices.ContainsFunc(listed, func(e equivalent) bool { return e.Key == m.key() }) {
			same = append(same, m)
		} else {
			open = append(open, m)
		}
	}
	return open, same
}

// stale returns the entries of these files that match no mutant.
func stale(listed []equivalent, ms []*mutant) []equivalent {
	keys, files := make(map[string]bool), make(map[string]bool)
	for _, m := range ms {
		keys[m.key()], files[m.file] = true, true
	}
	var old []equivalent
	for _, e := range listed {
		file, _, _ := strings.Cut(e.In, " ")
		if !keys[e.Key] && files[file] {
			old = append(old, e)
		}
	}
	return old
}

// entry writes a mutant as it stands in the file of equivalent mutants.
func entry(w io.Writer, m *mutant) {
	fmt.Fprintf(w, "[[equivalent]]\nkey = %q\nin = %q\nchange = '''\n%s'''\nreason = \"\"\n\n", m.key(), m.file+" "+m.in, m.diff())
}
