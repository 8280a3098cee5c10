package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/keyring"
)

func TestSealing(t *testing.T) {
	r := testRing(t)
	m := valid()
	m.Subject, m.Metadata, m.Tags = "Reset", map[string]string{"user": "ann"}, []string{"reset"}
	for _, details := range []bool{false, true} {
		o, err := New(Config{Keys: r, SealDetails: details})
		if err != nil {
			t.Fatal(err)
		}
		d, err := o.draft(t.Context(), m, "", o.now())
		if err != nil {
			t.Fatal(err)
		}
		plainBody := bytes.Clone(d.body)
		if err := o.seal(d); err != nil {
			t.Fatal(err)
		}
		if d.size != int64(len(plainBody)) || d.keyID != "k1" {
			t.Errorf("size %d of %d, key %q", d.size, len(plainBody), d.keyID)
		}
		if body, err := r.OpenBody(string(d.id), d.body); err != nil || !bytes.Equal(body, plainBody) || bytes.Contains(d.body, []byte("Subject")) {
			t.Errorf("the body does not come back: %v", err)
		}
		if keyring.IsSealedSubject(d.subject) != details || strings.Contains(d.subject, "Reset") == details {
			t.Errorf("details %v: the subject is stored as %q", details, d.subject)
		}
		if s, err := r.OpenSubject(string(d.id), d.subject); err != nil || s != "Reset" {
			t.Errorf("the subject comes back as %q (%v)", s, err)
		}
		var stored map[string]string
		err = json.Unmarshal([]byte(*d.metadata), &stored)
		if err != nil || keyring.IsSealedMetadata(stored) != details || strings.Contains(*d.metadata, "ann") == details {
			t.Errorf("details %v: metadata is stored as %s (%v)", details, *d.metadata, err)
		}
		if meta, err := r.OpenMetadata(string(d.id), stored); err != nil || meta["user"] != "ann" || len(meta) != 1 {
			t.Errorf("metadata comes back as %v (%v)", meta, err)
		}
	}
	// A subject that looks sealed is sealed, so that nobody takes it for what it is not.
	o, err := New(Config{Keys: r})
	if err != nil {
		t.Fatal(err)
	}
	m.Subject = keyring.MetadataMark + "AAAA"
	d, err := o.draft(t.Context(), m, "", o.now())
	if err == nil {
		err = o.seal(d)
	}
	if s, openErr := r.OpenSubject(string(d.id), d.subject); err != nil || openErr != nil || s != m.Subject {
		t.Errorf("a subject that looks sealed comes back as %q (%v, %v)", s, err, openErr)
	}
	m.Metadata = map[string]string{keyring.MetadataMark: "AAAA"}
	if got := check(t, o, m); got != "Metadata" {
		t.Errorf("metadata that looks sealed: the error names %q", got)
	}
	for field, c := range map[string]Config{
		"SealDetails": {SealDetails: true}, "CompressFrom": {CompressFrom: 1},
	} {
		var invalid *InvalidError
		if _, err := New(c); !errors.As(err, &invalid) || invalid.Field != field {
			t.Errorf("%s without keys: %v", field, err)
		}
	}
	if _, err := New(Config{Keys: r, CompressFrom: -1}); err == nil {
		t.Error("a negative size is accepted")
	}
}

// testRing is a key ring whose key is k1.
func testRing(tb testing.TB) *keyring.Ring {
	tb.Helper()
	r, err := keyring.New(keyring.Key{ID: "k1", Secret: bytes.Repeat([]byte("1"), 32)})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}
