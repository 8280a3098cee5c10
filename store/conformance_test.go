package store_test

import (
	"testing"

	"github.com/outboxmail/outbox/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, e.open)
		})
	}
}

// The suite is as large as it claims, and no rule stands twice.
func TestRulesAreNamed(t *testing.T) {
	t.Parallel()
	rules := storetest.Rules()
	if len(rules) < 80 {
		t.Errorf("the suite has %d rules, fewer than 80", len(rules))
	}
	seen := make(map[string]bool)
	for _, r := range rules {
		if seen[r[0]] || seen[r[1]] {
			t.Errorf("rule %s stands twice: %s", r[0], r[1])
		}
		seen[r[0]], seen[r[1]] = true, true
	}
	t.Logf("%d rules", len(rules))
}
