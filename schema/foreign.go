package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ForeignFileError says that an SQLite file belongs to another application: its PRAGMA application_id is neither 0 nor the number
// given with [ApplicationID]. Nothing was written.
type ForeignFileError struct {
	// Have is the mark of the file.
	Have int32
	// Want is the number given with [ApplicationID], 0 for none.
	Want int32
}

// Error says what the file is and what to do.
func (e *ForeignFileError) Error() string {
	if e.Want != 0 {
		return fmt.Sprintf("the SQLite file is another application's: its application_id is %s, not %s: check the path",
			mark(e.Have), mark(e.Want))
	}
	return fmt.Sprintf("the SQLite file is marked as an application's own (application_id %s) and has no outbox tables: check the path; "+
		"if it is the right file, run `outboxctl migrate up --application-id %#x` or call schema.Migrate with schema.ApplicationID(%d)",
		mark(e.Have), uint32(e.Have), e.Have)
}

// mark shows an application_id as a number and, if they are printable, as four letters.
func mark(id int32) string {
	u := uint32(id)
	letters := string([]byte{byte(u >> 24), byte(u >> 16), byte(u >> 8), byte(u)})
	if strings.ContainsFunc(letters, func(r rune) bool { return r < ' ' || r > '~' }) {
		return fmt.Sprintf("%#x", u)
	}
	return fmt.Sprintf("%#x, %q", u, letters)
}

// checkMark refuses an SQLite file of another application. In a file without tables of outbox any mark but the given one counts as
// another application's. In a file with tables it counts only if a mark was given.
func checkMark(ctx context.Context, q queryer, set settings, missing bool) (err error) {
	if !set.claimed && !missing {
		return nil
	}
	rows, err := q.QueryContext(ctx, "PRAGMA application_id")
	if err != nil {
		return fmt.Errorf("read the mark of the SQLite file: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	var id int32
	for rows.Next() {
		if err := rows.Scan(&id); err != nil {
			return fmt.Errorf("read the mark of the SQLite file: %w", err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read the mark of the SQLite file: %w", err)
	}
	if id != 0 && id != set.applicationID {
		return &ForeignFileError{Have: id, Want: set.applicationID}
	}
	return nil
}
