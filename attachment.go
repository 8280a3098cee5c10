package outbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"sync/atomic"

	"github.com/outboxmail/outbox/internal/letter"
)

// Attachment is a file that travels with a message.
type Attachment struct {
	// Name is the file name shown to the reader, in any script, without path separators or control characters.
	Name string
	// ContentType is the media type. Defaults to what the ending of Name says, else application/octet-stream.
	ContentType string
	// ContentID makes the attachment inline, to be referred to from HTML as "cid:" and this value, given without angle
	// brackets (RFC 2392). Defaults to none.
	ContentID string
	// Data is the content.
	Data []byte
	// Open gives the content instead of Data: it is called each time that the message is enqueued, and what it returns is
	// read and closed before anything is written, up to the size that a message may have. See [AttachFile] and
	// [AttachReader]. Defaults to none.
	Open func() (io.ReadCloser, error) `json:"-"`
}

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

// readAttachments reads the attachments that are still to be opened. The other parts of the message have size bytes.
func (o *Outbox) readAttachments(list []Attachment, size int64) ([]letter.Source, error) {
	sources := make([]letter.Source, len(list))
	for i := range list {
		a := &list[i]
		sources[i] = letter.Source{Name: a.Name, ContentType: a.ContentType, ContentID: a.ContentID, Data: a.Data}
		if a.Open == nil {
			continue
		}
		if a.Data != nil {
			return nil, invalid("Attachments", "attachment %d: has both Data and Open", i+1)
		}
		data, err := readAll(a.Open, o.maxSize-size)
		if err != nil {
			return nil, fmt.Errorf("attachment %d: read %s: %w", i+1, letter.Quote(a.Name), err)
		}
		if size += int64(len(data)); size > o.maxSize {
			return nil, invalid("Message", "with attachment %d it has more than %d bytes", i+1, o.maxSize)
		}
		sources[i].Data = data
	}
	return sources, nil
}

// readAll opens, reads and closes. It stops one byte behind the limit, which tells the caller that there is more.
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
	if limit < math.MaxInt64 {
		limit++
	}
	return io.ReadAll(io.LimitReader(r, limit))
}
