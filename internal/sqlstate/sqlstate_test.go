package sqlstate_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/outboxmail/outbox/internal/sqlstate"
)

type coded string

func (coded) Error() string      { return "it failed" }
func (c coded) SQLState() string { return string(c) }

func TestOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("no such table"), ""},
		{coded(sqlstate.UndefinedTable), "42P01"},
		{fmt.Errorf("claim: %w", coded(sqlstate.ReadOnlyTransaction)), "25006"},
		{errors.Join(errors.New("close"), coded(sqlstate.AdminShutdown)), "57P01"},
	} {
		if got := sqlstate.Of(test.err); got != test.want {
			t.Errorf("%v has %q, want %q", test.err, got, test.want)
		}
	}
}
