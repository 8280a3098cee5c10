package schema_test

import (
	"strings"
	"testing"

	"github.com/outboxmail/outbox/schema"
)

// The command that an error names can be given to a shell as it is, whatever the schema is called.
func TestVersionErrorQuotesForTheShell(t *testing.T) {
	for have := range 2 {
		err := &schema.VersionError{Have: have, Want: 2, Schema: "it's; ls"}
		if want := `outboxctl migrate up --schema 'it'\''s; ls'` + "`"; !strings.Contains(err.Error(), want) {
			t.Errorf("%s; want %s in it", err, want)
		}
	}
}
