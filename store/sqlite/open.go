// Package sqlite opens SQLite files for outbox and for the applications beside it. It is the only package of outbox
// that links modernc.org/sqlite.
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

// busyTimeout is how long a writer waits for another one before it fails.
const busyTimeout = 10 * time.Second

// By default database/sql keeps two idle connections. It opens every further one anew for each call, and each new
// connection compiles its statements again.
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

// Existing makes [Open] refuse a file that does not exist. By default the file is created at its first use.
func Existing() Option { return func(s *settings) { s.mode = "rw" } }

// RelaxedSync sets PRAGMA synchronous = NORMAL: a commit no longer waits for the disk. A crash of the process loses
// nothing. A loss of power may lose the last commits. Messages are then lost together with the application's rows of
// the same transaction. If the record of a send is lost, the message is sent again. Defaults to FULL: every commit is
// on the disk.
func RelaxedSync() Option { return func(s *settings) { s.synchronous = "NORMAL" } }

// Open returns a pool of connections to the SQLite file at path. An application and its dispatchers can write through
// it side by side, in one process or in several on one host:
//
//   - journal_mode is WAL: readers and a writer do not block one another.
//   - The writers of this process queue for the file, first come, first served. They wait for the writers of other
//     processes by busy_timeout. Each of the two waits lasts at most 10 s; then the writer fails.
//   - Transactions begin IMMEDIATE. A deferred transaction that reads before it writes fails at once with
//     SQLITE_BUSY_SNAPSHOT if another one wrote in between. No timeout helps against that.
//   - Foreign keys are enforced.
//
// The pool keeps eight idle connections for a minute. Open does not touch the file. If the file is no SQLite
// database, the first statement fails with an error that names the file.
//
// If the file is replaced, removed or renamed while it is open, the pool notices within 100 ms. The connections to the old
// file are closed when they return. The new file is opened after the last of them, because the -wal and -shm of the one
// must not meet the other. While there is no file, every call fails with a [*queue.MovedError]; no file is created. This
// holds for this process alone. Stop the other programs that use the file before you replace it.
//
// The path is a file name and not a DSN. It must not lie on a network file system, where WAL does not work. Databases
// in memory are refused, because each connection would see its own.
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
