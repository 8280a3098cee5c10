// Package sqlite opens an SQLite file in the way that outbox, and an application beside it, need. It is the only package
// of outbox that links modernc.org/sqlite.
package sqlite

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	driver "modernc.org/sqlite"
)

// busyTimeout is how long a writer waits for another.
const busyTimeout = 10 * time.Second

// database/sql keeps two idle connections; each further one would be opened anew for every statement, with its statements
// to compile.
const (
	idleConns = 8
	idleTime  = time.Minute
)

// Option changes how [Open] opens the file.
type Option func(*settings)

type settings struct {
	mode        string
	synchronous string
}

// Existing refuses a file that does not exist, where [Open] otherwise creates it at the first use.
func Existing() Option { return func(s *settings) { s.mode = "rw" } }

// RelaxedSync asks for PRAGMA synchronous = NORMAL: a commit no longer waits for the disk. A crash of the process loses
// nothing then, a loss of power may lose the last commits: messages and the application's rows together, but also the
// record of what was just sent, which is then sent again. Without it each commit is on the disk (FULL).
func RelaxedSync() Option { return func(s *settings) { s.synchronous = "NORMAL" } }

// Open returns a pool of connections to the SQLite file at path, set up so that an application and its dispatchers can
// write side by side, in one process or in several on one host:
//
//   - journal_mode WAL: readers and one writer do not hinder one another;
//   - writers of this process queue for the file, first come, first served, and wait for those of other processes by
//     busy_timeout, 10 s each: they fail only after that;
//   - transactions begin IMMEDIATE: one that reads first and then writes would fail at once with SQLITE_BUSY_SNAPSHOT when
//     another wrote in between, and no timeout helps against that;
//   - foreign keys are enforced.
//
// The pool keeps eight idle connections for a minute. Open does not touch the file: what is not an SQLite database is refused by the
// first statement, with an error that names it.
//
// The path is a file name, not a DSN, and must not lie on a network file system, where WAL does not work. Databases in
// memory are refused: each connection would see its own.
func Open(path string, opts ...Option) (*sql.DB, error) {
	set := settings{mode: "rwc", synchronous: "FULL"}
	for _, opt := range opts {
		opt(&set)
	}
	switch {
	case path == "":
		return nil, errors.New("open SQLite: no file name given")
	case path == ":memory:" || strings.HasPrefix(path, "file:") || strings.ContainsRune(path, 0):
		return nil, fmt.Errorf("open SQLite: %q is not a file name: give the path of a file", path)
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, fmt.Errorf("open SQLite: %s is a folder", path)
	case err != nil && set.mode == "rw":
		return nil, fmt.Errorf("open SQLite: %w", err)
	case err != nil:
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("open SQLite: no such folder: %w", err)
		}
	}
	query := url.Values{
		"mode":    {set.mode},
		"_txlock": {"immediate"},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)", "synchronous(" + set.synchronous + ")", "foreign_keys(1)",
		},
	}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}
	connector, err := driver.NewConnector(dsn.String())
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %s: %w", path, err)
	}
	db := sql.OpenDB(&gatedConnector{Connector: connector, path: path, gate: gateOf(path), wait: busyTimeout})
	db.SetMaxIdleConns(idleConns)
	db.SetConnMaxIdleTime(idleTime)
	return db, nil
}
