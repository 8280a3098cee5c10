package outboxtest

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/outboxmail/outbox"
)

// FixedID is the id of the messages that [Render] renders.
const FixedID outbox.ID = "01234567-89ab-7cde-8f01-23456789abcd"

// FixedTime is the date of the messages that [Render] renders.
var FixedTime = time.Date(2001, time.February, 3, 4, 5, 6, 0, time.UTC)

// Render renders a message as it would be sent. It uses [FixedID] and [FixedTime], so the same message gives the same bytes in every
// run. NotBefore and Expires of the message must be fixed, too. A nil o means the defaults of [outbox.Config].
func Render(t TB, o *outbox.Outbox, msg *outbox.Message) []byte {
	t.Helper()
	render := outbox.Render
	if o != nil {
		render = o.Render
	}
	rendered, err := render(msg, FixedID, FixedTime)
	if err != nil {
		t.Fatalf("render: %v", err)
	}
	return rendered.Body
}

// updateVariable is set to 1 to write golden files.
const updateVariable = "OUTBOXTEST_UPDATE"

// Golden compares bytes, such as those of [Render], with a file. If the environment variable OUTBOXTEST_UPDATE is 1, it writes the
// file instead and makes its folders. Git must not convert the line breaks of such files: write "*.eml -text" into .gitattributes.
func Golden(t TB, path string, got []byte) {
	t.Helper()
	if os.Getenv(updateVariable) == "1" {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatalf("write the golden file: %v", err)
			return
		}
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatalf("write the golden file: %v", err)
		}
		return
	}
	want, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		t.Fatalf("there is no golden file %s: run the test with %s=1 to write it", path, updateVariable)
	case err != nil:
		t.Fatalf("read the golden file: %v", err)
	case !bytes.Equal(got, want):
		n, g, w := firstDifference(got, want)
		t.Fatalf("%s differs from line %d on:\n got %q\nwant %q\nRun the test with %s=1 to accept it.", path, n, g, w, updateVariable)
	}
}

// firstDifference returns the number of the first line that differs, and this line in a and in b.
func firstDifference(a, b []byte) (n int, inA, inB []byte) {
	for n = 1; ; n++ {
		var moreA, moreB bool
		inA, a, moreA = bytes.Cut(a, []byte("\n"))
		inB, b, moreB = bytes.Cut(b, []byte("\n"))
		if !bytes.Equal(inA, inB) || moreA != moreB || !moreA {
			return n, inA, inB
		}
	}
}
