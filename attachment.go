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

// Attachment is a file that travels with a message. Its content never decides whether the message can be sent. A received
// message (.eml) that is ASCII is attached as it is. One that is not has its parts encoded, or is attached as
// application/octet-stream where that would change what it says. Any other message/* or multipart/* that cannot be sent as what
// it is called goes as application/octet-stream too.
type Attachment struct {
	// Name is the file name that readers see. It may be in any script, without path separators and control characters.
	Name string
	// ContentType is the media type, with parameters if you like (RFC 2045 §5.1). Text without a charset gets the one that its
	// bytes show: UTF-8, or UTF-16 and UTF-32 with a byte order mark. Defaults to the type for the ending of Name, else to
	// application/octet-stream.
	ContentType string
	// ContentID makes the attachment inline. HTML refers to it as "cid:" and this value, which has no angle brackets (RFC 2392).
	// Defaults to none.
	ContentID string
	// Data is the content.
	Data []byte
	// Open gives the content instead of Data. Every Enqueue calls it, reads what it returns up to the size that a message may
	// have, and closes that, before anything is written. See [AttachFile] and [AttachReader]. Defaults to none.
	Open func() (io.ReadCloser, error) `json:"-"`
}

// AttachFile attaches a file of a file system, such as an embed.FS or os.DirFS, under the last part of its path. Every
// Enqueue reads the file.
func AttachFile(fsys fs.FS, name string) Attachment {
	return Attachment{Name: path.Base(name), Open: func() (io.ReadCloser, error) { return fsys.Open(name) }}
}

// AttachReader attaches everything that a reader gives. The reader is used once: a message that is enqueued again, as in a
// repeated transaction, needs a new one. A reader that is an io.Closer is closed after reading.
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

// readAttachments reads the attachments that have Open. The rest of the message has size bytes.
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

// readAll opens, reads and closes. It stops one byte behind the limit, so the caller sees that there is more.
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
