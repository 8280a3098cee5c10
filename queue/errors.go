package queue

import "errors"

// ErrChanged says that the database is another one than before, such as an SQLite file that was replaced. Nothing was written.
var ErrChanged = errors.New("the database is another one than before")
