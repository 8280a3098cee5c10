package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// results is the file of what was tried: one line of JSON for each mutant, written as soon as it is known.
type results struct {
	file *os.File
	old  map[string]result // by target and key
}

// openResults opens the file. What it holds is kept if keep is set, and else removed.
func openResults(name string, keep bool) (*results, error) {
	r := &results{old: map[string]result{}}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if keep {
		if err := r.read(name); err != nil {
			return nil, err
		}
	} else {
		flags |= os.O_TRUNC
	}
	var err error
	r.file, err = os.OpenFile(name, flags, 0o644)
	return r, err
}

// read takes the last line for each mutant. A line that a killed run left half-written is skipped.
func (r *results) read(name string) error {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		var res result
		if json.Unmarshal(line, &res) == nil {
			r.old[res.Target+" "+res.Key] = res
		}
	}
}

// known returns an earlier result.
func (r *results) known(target string, m *mutant) (result, bool) {
	res, ok := r.old[target+" "+m.key()]
	return res, ok
}

func (r *results) write(res result) error {
	line, err := json.Marshal(res)
	if err != nil {
		return err
	}
	_, err = r.file.Write(append(line, '\n'))
	return err
}
