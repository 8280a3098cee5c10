package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"sync"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
)

// file is the SQLite file as Inspect found it at its last call.
type file struct {
	sync.Mutex
	path string
	info os.FileInfo
}

// Inspect notices that the database cannot be used, or is another one than before. It reads no table and does not write. Whatever it
// finds, it drops the idle connections of the pool, which lead to the same server or file.
//
// On PostgreSQL it returns [ErrReadOnly] while the server only reads. On SQLite it compares the file at the path with the one that it
// found there at the call before. For another file it returns a [*queue.MovedError] once. While there is no file it returns one each time.
func (s *Store) Inspect(ctx context.Context) error {
	if s.dialect == schema.Postgres {
		return s.inspectServer(ctx)
	}
	return s.inspectFile(ctx)
}

// inspectServer asks the server whether it writes.
func (s *Store) inspectServer(ctx context.Context) error {
	var only bool
	if err := s.db.GetContext(ctx, &only, "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean"); err != nil {
		return s.failed(ctx, err, "inspect")
	}
	if !only {
		return nil
	}
	s.closeIdle(ctx)
	return ErrReadOnly
}

// inspectFile looks at the file.
func (s *Store) inspectFile(ctx context.Context) error {
	s.file.Lock()
	defer s.file.Unlock()
	if s.file.path == "" {
		if err := s.db.GetContext(ctx, &s.file.path, "SELECT file FROM pragma_database_list WHERE name = 'main'"); err != nil {
			return s.failed(ctx, err, "inspect")
		}
	}
	if s.file.path == "" {
		return nil // in memory
	}
	now, err := os.Stat(s.file.path)
	if errors.Is(err, fs.ErrNotExist) {
		s.closeIdle(ctx)
		return &queue.MovedError{Path: s.file.path, Gone: true}
	}
	if err != nil {
		return s.failed(ctx, err, "inspect")
	}
	before := s.file.info
	s.file.info = now
	os.SameFile(now, now) // loads the identity on Windows
	if before == nil || os.SameFile(before, now) {
		return nil
	}
	s.closeIdle(ctx)
	return &queue.MovedError{Path: s.file.path}
}
