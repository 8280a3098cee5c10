package campaign_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/outboxmail/outbox/internal/campaign"
)

func TestOn(t *testing.T) {
	for value, want := range map[string]bool{"": false, "1": true, "yes": true} {
		t.Setenv("OUTBOX_CAMPAIGN", value)
		if got := campaign.On(); got != want {
			t.Errorf("%q: %t, want %t", value, got, want)
		}
	}
}

func TestTellf(t *testing.T) {
	name := filepath.Join(t.TempDir(), "report.txt")
	t.Setenv("OUTBOX_CAMPAIGN_REPORT", name)
	campaign.Tellf(t, "%d kills", 20)
	campaign.Tellf(t, "%d lost", 0)
	text, err := os.ReadFile(name)
	if err != nil || string(text) != "TestTellf\n20 kills\n\nTestTellf\n0 lost\n\n" {
		t.Errorf("the report is %q, error %v", text, err)
	}
}
