// Package campaign tells tests whether to run their long forms, and collects what these count. `make campaign` sets the variables that
// it reads.
package campaign

import (
	"errors"
	"fmt"
	"os"
	"testing"
)

// On says whether the long forms of the tests run: OUTBOX_CAMPAIGN is set and not empty.
func On() bool { return os.Getenv("OUTBOX_CAMPAIGN") != "" }

// Tellf logs a result. It also appends it to the file that OUTBOX_CAMPAIGN_REPORT names, because go test shows nothing of a test that
// passes. It is safe for concurrent use.
func Tellf(t *testing.T, format string, args ...any) {
	t.Helper()
	text := fmt.Sprintf(format, args...)
	t.Log(text)
	name := os.Getenv("OUTBOX_CAMPAIGN_REPORT")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(t.Name() + "\n" + text + "\n\n")
	if err = errors.Join(err, f.Close()); err != nil {
		t.Error(err)
	}
}
