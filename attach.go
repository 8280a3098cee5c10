package outbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync/atomic"
)

// AttachFile attaches a file of a file system, such as an embed.FS or os.DirFS, under the last part of its path. The file
// is read each time that the message is enqueued.
func AttachFile(fsys fs.FS, name string) Attachment {
	return Attachment{Name: path.Base(name), Open: func() (io.ReadCloser, error) { return fsys.Open(name) }}
}

// AttachReader attaches what a reader gives until its end. It can be read once: a message that is enqueued again, as in a
// transaction that is repeated, must be given a new one. A reader that can be closed is closed when it was read.
func AttachReader(name string, r io.Reader) Attachment {
	var taken atomic.Bool
	return Attachment{Name: name, Open: func() (io.ReadCloser, error) {
		if taken.Swap(true) {
			return nil, errors.New("the reader was used before: a message that is enqueued again needs a new one")
		}
		if rc, ok := r.(io.ReadCloser); ok {
			return rc, nil
		}
		return io.NopCloser(r), nil
	}}
}

// readAttachments returns the list with the content of those that are still to be opened. The other parts of the message
// have size bytes.
func (o *Outbox) readAttachments(list []Attachment, size int64) ([]Attachment, error) {
	unread := func(a Attachment) bool { return a.Open != nil }
	if !slices.ContainsFunc(list, unread) {
		return list, nil
	}
	list = slices.Clone(list) // the caller's stays as it is
	for i := range list {
		a := &list[i]
		if a.Open == nil {
			continue
		}
		if a.Data != nil {
			return nil, invalid("Attachments", "attachment %d: has both Data and Open", i+1)
		}
		var err error
		if a.Data, err = readAll(a.Open, o.maxSize-size); err != nil {
			return nil, fmt.Errorf("attachment %d: read %s: %w", i+1, quote(a.Name), err)
		}
		if size += int64(len(a.Data)); size > o.maxSize {
			return nil, invalid("Message", "with attachment %d it has more than %d bytes", i+1, o.maxSize)
		}
	}
	return list, nil
}

// readAll opens, reads and closes; it stops behind limit.
func readAll(open func() (io.ReadCloser, error), limit int64) (data []byte, err error) {
	r, err := open()
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := r.Close(); err == nil && closeErr != nil {
			err = closeErr
		}
	}()
	return io.ReadAll(io.LimitReader(r, limit+1))
}
