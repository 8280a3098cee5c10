package sqlite

import (
	"container/list"
	"context"
	"database/sql/driver"
	"errors"
)

// SQLite compiles a statement every time it is given as text. For an INSERT with a trigger, compiling takes as long
// as running. Each connection therefore keeps the statements that it ran last.

const (
	// keptStatements is how many statements a connection keeps. longestKept is the longest text that it keeps, in bytes.
	keptStatements = 64
	longestKept    = 32 << 10
)

// statements holds the statements of one connection, the last used first.
type statements struct {
	byText map[string]*list.Element
	order  list.List // of *statement
}

// statement is a compiled statement. It is busy while its rows are open. Meanwhile the same text is compiled once
// more.
type statement struct {
	text string
	stmt sqliteStmt
	busy bool
}

// sqliteStmt and sqliteRows have the methods of the driver's values that database/sql uses.
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

// compiled returns the kept statement of a text, and compiles it if it is new. It returns nil for a text that is not
// kept or whose statement is busy. The caller then runs the text itself.
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

// trim closes the statements that were not used for the longest time, but never the newest one. It drops the errors
// of closing, because the caller uses another statement.
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

// close closes all statements.
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
