package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/store/sqlite"
)

// numbers returns the rows of the table of these tests.
func numbers(t *testing.T, db *sql.DB) (n, sum int) {
	t.Helper()
	if err := db.QueryRowContext(t.Context(), "SELECT count(*), coalesce(sum(n), 0) FROM things").Scan(&n, &sum); err != nil {
		t.Fatal(err)
	}
	return n, sum
}

// filled makes a file with a table that holds one number.
func filled(t *testing.T, path, number string) {
	t.Helper()
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db, "CREATE TABLE things (n integer)")
	exec(t, db, "INSERT INTO things VALUES ("+number+")")
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// idle opens n connections and leaves them idle.
func idle(t *testing.T, db *sql.DB, n int) {
	t.Helper()
	var conns []*sql.Conn
	for range n {
		c, err := db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var sum int
		if err := c.QueryRowContext(t.Context(), "SELECT sum(n) FROM things").Scan(&sum); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	for _, c := range conns {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// A file that was replaced is used as soon as it is there, whatever became of the files beside the old one. What is committed afterwards
// is in the new file, and the new file is sound.
func TestAReplacedFileIsOpened(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(t *testing.T, path, other string){
		"the old -wal stays": func(t *testing.T, path, other string) {
			t.Helper()
			move(t, other, path)
		},
		"everything removed first": func(t *testing.T, path, other string) {
			t.Helper()
			remove(t, path, path+"-wal", path+"-shm")
			move(t, other, path)
		},
		"a new -wal comes along": func(t *testing.T, path, other string) {
			t.Helper()
			// The other file is copied while it is in use: its last commit is in its -wal.
			db := openWith(t, other)
			exec(t, db, "INSERT INTO things VALUES (10)")
			for _, ending := range []string{"", "-wal"} {
				data, err := os.ReadFile(other + ending)
				if err != nil {
					t.Fatal(err)
				}
				remove(t, path+ending)
				if err := os.WriteFile(path+ending, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			remove(t, path+"-shm")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, other := filepath.Join(dir, "app.db"), filepath.Join(dir, "other.db")
			filled(t, path, "1")
			filled(t, other, "100")
			db, beside := openWith(t, path), openWith(t, path) // two pools of one process
			idle(t, db, 4)
			idle(t, beside, 3)
			for range 50 { // so that the old -wal holds pages
				exec(t, db, "INSERT INTO things VALUES (1)")
			}
			replace(t, path, other)
			want := 100
			if strings.HasPrefix(name, "a new -wal") {
				want = 110
			}
			if _, sum := numbers(t, db); sum != want {
				t.Errorf("the sum is %d, want %d", sum, want)
			}
			exec(t, db, "INSERT INTO things VALUES (1000)")
			exec(t, beside, "INSERT INTO things VALUES (1000)")
			var sound string
			if err := beside.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&sound); err != nil || sound != "ok" {
				t.Errorf("the new file is %q: %v", sound, err)
			}
			if err := errors.Join(db.Close(), beside.Close()); err != nil {
				t.Error(err)
			}
			if _, sum := numbers(t, openWith(t, path)); sum != want+2000 {
				t.Errorf("in the end the sum is %d, want %d", sum, want+2000)
			}
		})
	}
}

// A transaction that is open when the file is replaced ends on the old file. Nobody opens the new one beside it.
func TestTheOldFileIsLeftFirst(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, other := filepath.Join(dir, "app.db"), filepath.Join(dir, "other.db")
	filled(t, path, "1")
	filled(t, other, "100")
	db := openWith(t, path)
	idle(t, db, 2)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, tx, "INSERT INTO things VALUES (1)")
	move(t, other, path)
	limited, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(limited, "INSERT INTO things VALUES (1)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("beside the old file: %v", err)
	}
	if err := tx.Commit(); err != nil {
		t.Error(err)
	}
	if _, sum := numbers(t, db); sum != 100 {
		t.Errorf("the sum is %d, want 100", sum)
	}
}

// A file that is gone is not made anew. Everything works again when it is back, and nothing that was committed is lost.
func TestAFileThatIsGone(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.db")
	filled(t, path, "1")
	db := openWith(t, path)
	idle(t, db, 3)
	exec(t, db, "INSERT INTO things VALUES (2)")
	move(t, path, path+".away")
	for range 3 {
		_, err := db.ExecContext(t.Context(), "INSERT INTO things VALUES (3)")
		var moved *queue.MovedError
		if !errors.As(err, &moved) || !moved.Gone || moved.Path != path {
			t.Fatalf("without its file: %v", err)
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("an empty file was made")
	}
	move(t, path+".away", path)
	if n, sum := numbers(t, db); n != 2 || sum != 3 {
		t.Errorf("%d rows with the sum %d came back", n, sum)
	}
	exec(t, db, "INSERT INTO things VALUES (3)")
}

// While another program reads the old file, the -wal at the path belongs to the old file. The new file is not opened with it.
func TestAForeignWALIsNotTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, other := filepath.Join(dir, "app.db"), filepath.Join(dir, "other.db")
	filled(t, path, "1")
	filled(t, other, "100")
	db := openWith(t, path)
	idle(t, db, 1)
	foreign, err := sql.Open("sqlite", path) // as another process
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = foreign.Close() }()
	reading, err := foreign.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := reading.QueryRowContext(t.Context(), "SELECT count(*) FROM things").Scan(&n); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "INSERT INTO things VALUES (2)")
	move(t, path, path+".old")
	move(t, other, path)
	limited, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = db.ExecContext(limited, "INSERT INTO things VALUES (3)")
	if err == nil || !strings.Contains(err.Error(), "another program uses the old file") {
		t.Errorf("with the -wal of the old file: %v", err)
	}
	if err := errors.Join(reading.Rollback(), foreign.Close()); err != nil {
		t.Fatal(err)
	}
	remove(t, path+"-wal", path+"-shm")
	if _, sum := numbers(t, db); sum != 100 {
		t.Errorf("the sum is %d, want 100", sum)
	}
}

// A file that was renamed has everything that was committed to it before.
func TestARenamedFileIsWhole(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, other := filepath.Join(dir, "app.db"), filepath.Join(dir, "other.db")
	filled(t, path, "1")
	filled(t, other, "100")
	db := openWith(t, path)
	idle(t, db, 3)
	exec(t, db, "INSERT INTO things VALUES (2)")
	move(t, path, path+".old")
	move(t, other, path)
	if _, sum := numbers(t, db); sum != 100 {
		t.Errorf("the sum is %d, want 100", sum)
	}
	if _, sum := numbers(t, openWith(t, path+".old")); sum != 3 {
		t.Errorf("in the renamed file the sum is %d, want 3", sum)
	}
}

// The watcher says that its file was replaced, and listens to the new one when it is called again.
func TestWatchNoticesAReplacedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, other := filepath.Join(dir, "app.db"), filepath.Join(dir, "other.db")
	filled(t, path, "1")
	filled(t, other, "100")
	db := openWith(t, path)
	began, done := make(chan struct{}, 100), make(chan error, 1)
	go func() { done <- sqlite.Watch(db)(t.Context(), func() { began <- struct{}{} }) }()
	<-began
	move(t, other, path)
	if err := <-done; !errors.Is(err, queue.ErrChanged) {
		t.Errorf("the watcher: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- sqlite.Watch(db)(ctx, func() { began <- struct{}{} }) }()
	<-began
	exec(t, openWith(t, path), "INSERT INTO things VALUES (1)")
	<-began
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// BenchmarkCheckout is what a look at the file adds to each use of a connection.
func BenchmarkCheckout(b *testing.B) {
	db, err := sqlite.Open(filepath.Join(b.TempDir(), "app.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for b.Loop() {
		c, err := db.Conn(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
