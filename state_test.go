package outbox

import "testing"

func TestStates(t *testing.T) {
	terminal := 0
	for _, s := range States() {
		if !s.Valid() {
			t.Errorf("%s is not valid", s)
		}
		if s.Terminal() {
			terminal++
		}
	}
	if len(States()) != 9 || terminal != 5 {
		t.Errorf("%d states, %d of them terminal", len(States()), terminal)
	}
	for _, s := range []State{"", "SENT", "scheduled", "deferred"} {
		if s.Valid() || s.Terminal() {
			t.Errorf("%q is taken for a state", s)
		}
	}
}

func TestIDs(t *testing.T) {
	id, err := newID()
	if err != nil {
		t.Fatal(err)
	}
	later, err := newID()
	if err != nil || later <= id {
		t.Errorf("%s is made after %s and does not sort after it (%v)", later, id, err)
	}
	for _, s := range []string{id.String(), "{" + string(id) + "}", "urn:uuid:" + string(id)} {
		if got, err := ParseID(s); err != nil || got != id {
			t.Errorf("ParseID(%q) = %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", string(id[1:]), string(id) + "0"} {
		if got, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q) = %q", s, got)
		}
	}
}
