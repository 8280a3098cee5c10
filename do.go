package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Beginner begins transactions. *sql.DB and *sql.Conn satisfy it, and so does *sqlx.DB.
type Beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// Do runs fn in a transaction of db, commits it, and then calls each wake. Give it the Wake of a dispatcher in the same
// process, which then delivers at once instead of at its next poll:
//
//	err := outbox.Do(ctx, db, func(tx *sql.Tx) error {
//		…
//		_, err := outbox.Enqueue(ctx, tx, msg)
//		return err
//	}, dispatcher.Wake)
//
// An error of fn rolls the transaction back and is returned unchanged. A panic of fn rolls it back and goes on. An error of the
// commit is wrapped. If that error is not the database's own answer, such as a lost connection, the transaction may have been
// committed all the same. wake is called only after a commit. fn must not commit or roll back.
//
// The transaction has the default options of the database. On SQLite it should take the write lock when it begins, because a
// transaction that reads first cannot wait for another writer. The databases of store/sqlite.Open do so, others with
// _txlock=immediate in their DSN.
//
// Do may be called concurrently. A nil wake is left out. A wake must not block.
func Do(ctx context.Context, db Beginner, fn func(tx *sql.Tx) error, wake ...func()) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	ended := false
	defer func() {
		if ended {
			return
		}
		// fn failed, panicked, or ended its goroutine.
		if rollback := tx.Rollback(); err != nil && rollback != nil && !errors.Is(rollback, sql.ErrTxDone) {
			err = errors.Join(err, fmt.Errorf("roll back: %w", rollback))
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	ended = true // a commit that fails ends the transaction, too
	if err := tx.Commit(); err != nil {
		if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil { // database/sql has rolled it back when ctx ended
			err = ctx.Err()
		}
		return fmt.Errorf("commit: %w", err)
	}
	for _, w := range wake {
		if w != nil {
			w()
		}
	}
	return nil
}
