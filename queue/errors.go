package queue

import (
	"errors"
	"fmt"
)

// ErrChanged says that the database is another one than before, such as an SQLite file that was replaced. Nothing was written.
var ErrChanged = errors.New("the database is another one than before")

// MovedError says that an SQLite file is not at its path any more, or that another file is. What was committed to the old file before stays
// there.
type MovedError struct {
	// Path is the path of the file.
	Path string
	// Gone is true if there is no file at the path, and false if there is another one.
	Gone bool
}

// Error says what happened and what follows.
func (e *MovedError) Error() string {
	if e.Gone {
		return fmt.Sprintf("the SQLite file %s is gone: it was removed or renamed while it was open: put it back; "+
			"nothing is sent until then", e.Path)
	}
	return fmt.Sprintf("the SQLite file %s was replaced while it was open: the new file is used from now on, and what was committed "+
		"to the old one meanwhile is not in it", e.Path)
}

// Unwrap returns [ErrChanged] if another file is at the path.
func (e *MovedError) Unwrap() error {
	if e.Gone {
		return nil
	}
	return ErrChanged
}
