package sqlite

import (
	"container/list"
	"context"
	"database/sql/driver"
	"errors"
)

// SQLite compiles a statement each time that it is given as text, which for an INSERT with a trigger takes as long as to
// run it. Each connection therefore keeps the statements that it ran last.

const (
	// keptStatements is how many a connection keeps, and longestKept the longest of them in bytes.
	keptStatements = 64
	longestKept    = 32 << 10
)

// statements are those of one connection, the last used first.
type statements struct {
	byText map[string]*list.Element
	order  list.List // of *statement
}

// statement is a compiled one. It is busy while rows of it are open: the same text is then compiled once more.
type statement struct {
	text string
	stmt sqliteStmt
	busy bool
}

// sqliteStmt and sqliteRows are what the driver's values can do and database/sql makes use of.
type sqliteStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type sqliteRows interface {
	driver.Rows
	driver.RowsColumnTypeDatabaseTypeName
	driver.RowsColumnTypeLength
	driver.RowsColumnTypeNullable
	driver.RowsColumnTypePrecisionScale
	driver.RowsColumnTypeScanType
}

// compiled returns the statement of a text, or nil for one that is not kept: the caller then runs the text as it is.
func (c *gatedConn) compiled(ctx context.Context, text string) (*statement, error) {
	switch firstWord(text) {
	case "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH":
	default:
		return nil, nil //nolint:nilnil // not an error
	}
	s := &c.kept
	if e, ok := s.byText[text]; ok {
		s.order.MoveToFront(e)
		if kept := e.Value.(*statement); !kept.busy { //nolint:forcetypeassert // nothing else is in the list
			return kept, nil
		}
		return nil, nil //nolint:nilnil // as above
	}
	if len(text) > longestKept {
		return nil, nil //nolint:nilnil // as above
	}
	prepared, err := c.PrepareContext(ctx, text)
	if err != nil {
		return nil, err
	}
	stmt, ok := prepared.(sqliteStmt)
	if !ok {
		return nil, prepared.Close()
	}
	if s.byText == nil {
		s.byText = make(map[string]*list.Element)
	}
	kept := &statement{text: text, stmt: stmt}
	s.byText[text] = s.order.PushFront(kept)
	s.trim()
	return kept, nil
}

// trim closes the statements that were not used for the longest time, but never the one that was just made. What closing
// one says is of no concern to the user of another.
func (s *statements) trim() {
	for e := s.order.Back(); e != s.order.Front() && s.order.Len() > keptStatements; {
		previous := e.Prev()
		if old := e.Value.(*statement); !old.busy { //nolint:forcetypeassert // nothing else is in the list
			delete(s.byText, old.text)
			s.order.Remove(e)
			_ = old.stmt.Close()
		}
		e = previous
	}
}

// close closes all of them.
func (s *statements) close() error {
	var err error
	for e := s.order.Front(); e != nil; e = e.Next() {
		err = errors.Join(err, e.Value.(*statement).stmt.Close()) //nolint:forcetypeassert // nothing else is in the list
	}
	s.order.Init()
	clear(s.byText)
	return err
}

// exec runs a statement that returns no rows.
func (c *gatedConn) exec(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.compiled(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.ExecContext(ctx, query, args)
	}
	return s.stmt.ExecContext(ctx, args)
}

// QueryContext implements driver.QueryerContext.
func (c *gatedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.compiled(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return c.sqliteConn.QueryContext(ctx, query, args)
	}
	rows, err := s.stmt.QueryContext(ctx, args)
	if err != nil {
		return nil, err
	}
	typed, ok := rows.(sqliteRows)
	if !ok {
		return rows, nil
	}
	s.busy = true
	return &keptRows{sqliteRows: typed, statement: s}, nil
}

// keptRows frees its statement when it is closed.
type keptRows struct {
	sqliteRows
	statement *statement
}

// Close implements driver.Rows.
func (r *keptRows) Close() error {
	r.statement.busy = false
	return r.sqliteRows.Close()
}
