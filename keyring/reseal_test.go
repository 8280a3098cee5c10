package keyring

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

func TestReseal(t *testing.T) {
	older, newer := ring(t, "k1"), ring(t, "k2", "k1")
	body := bytes.Repeat([]byte("From: a@b\r\n"), 500)
	sealed := func(from int64) []byte {
		b, err := older.SealBody(idA, body, from)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	subject, err := older.SealSubject(idA, "Reset")
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := older.SealMetadata(idA, `{"user":"ann"}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		row   Row
		plain bool
		key   string // the key id after resealing
	}{
		"body":                    {Row{KeyID: "k1", Body: sealed(0), Subject: "S", Metadata: `{"a":"b"}`}, false, "k2"},
		"compressed":              {Row{KeyID: "k1", Body: sealed(1)}, false, "k2"},
		"everything":              {Row{KeyID: "k1", Body: sealed(0), Subject: subject, Metadata: metadata}, false, "k2"},
		"scrubbed":                {Row{KeyID: "k1", Subject: "S"}, false, ""},
		"scrubbed, subject left":  {Row{KeyID: "k1", Subject: subject}, false, "k2"},
		"in clear":                {Row{Body: body, Subject: "S"}, false, ""},
		"in clear, to be sealed":  {Row{Body: body, Subject: "S", Metadata: `{"a":"b"}`}, true, "k2"},
		"in clear, looks sealed":  {Row{Body: body, Subject: MetadataMark + "x"}, true, "k2"},
		"nothing to seal, either": {Row{Subject: "S"}, true, ""},
	} {
		test.row.ID = idA
		next, err := newer.Reseal(test.row, test.plain)
		if err != nil || next.KeyID != test.key || next.ID != idA || (next.Body == nil) != (test.row.Body == nil) {
			t.Errorf("%s: %q, %v", name, next.KeyID, err)
			continue
		}
		if next.Body != nil {
			if got, err := newer.OpenBody(idA, next.Body); err != nil || !bytes.Equal(got, body) || sealedKey(next.Body) != test.key {
				t.Errorf("%s: the body comes back as %d bytes, key %q (%v)", name, len(got), sealedKey(next.Body), err)
			}
			if name == "compressed" && len(next.Body) > len(body)/4 {
				t.Errorf("%s: it is not compressed any more", name)
			}
		}
		want := test.row.Subject
		if want == subject {
			want = "Reset"
		}
		if got, err := ring(t, "k2").OpenSubject(idA, next.Subject); err != nil || got != want {
			t.Errorf("%s: the subject comes back as %q (%v)", name, got, err)
		}
		if test.row.Metadata == metadata {
			var stored map[string]string
			err := json.Unmarshal([]byte(next.Metadata), &stored)
			if meta, openErr := ring(t, "k2").OpenMetadata(idA, stored); err != nil || openErr != nil || meta["user"] != "ann" {
				t.Errorf("%s: metadata comes back as %v (%v, %v)", name, meta, err, openErr)
			}
		} else if next.Metadata != test.row.Metadata {
			t.Errorf("%s: metadata becomes %s", name, next.Metadata)
		}
	}
	row := Row{ID: idA, KeyID: "k1", Body: sealed(0), Subject: subject}
	if next, err := ring(t, "k2").Reseal(row, false); !errors.Is(err, ErrNoKey) || !bytes.Equal(next.Body, row.Body) || next.KeyID != "k1" {
		t.Errorf("without the key: %q, %v", next.KeyID, err)
	}
	if _, err := (*Ring)(nil).Reseal(row, false); !errors.Is(err, ErrNoKey) {
		t.Errorf("without keys: %v", err)
	}
}

// What cannot be read leaves the row as it was, whichever value it is.
func TestResealIsAllOrNothing(t *testing.T) {
	older, newer, other := ring(t, "k1"), ring(t, "k2", "k1"), ring(t, "k3")
	body, err := older.SealBody(idA, []byte("From: a@b\r\n\r\nhi\r\n"), 0)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := other.SealSubject(idA, "Reset")
	if err != nil {
		t.Fatal(err)
	}
	metadata, err := other.SealMetadata(idA, `{"user":"ann"}`)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		row  Row
		want error // nil for any
	}{
		"the subject has a key that is lost":   {Row{KeyID: "k1", Body: body, Subject: subject}, ErrNoKey},
		"the subject is broken":                {Row{KeyID: "k1", Body: body, Subject: subjectMark + "!"}, ErrEnvelope},
		"the metadata have a key that is lost": {Row{KeyID: "k1", Body: body, Metadata: metadata}, ErrNoKey},
		"the metadata are no JSON":             {Row{KeyID: "k1", Body: body, Metadata: "{"}, nil},
		"the body has a key that is lost":      {Row{KeyID: "k1", Body: append([]byte(sealMagic), "\x01\x00\x02k3"...)}, ErrNoKey},
	} {
		test.row.ID = idA
		next, err := newer.Reseal(test.row, false)
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		if !bytes.Equal(next.Body, test.row.Body) || next.Subject != test.row.Subject || next.Metadata != test.row.Metadata || next.KeyID != test.row.KeyID {
			t.Errorf("%s: the row has changed to %+v", name, next)
		}
	}
	if _, err := (*Ring)(nil).Reseal(Row{ID: idA, Body: []byte("x")}, true); !errors.Is(err, ErrNoKey) {
		t.Errorf("a plain body without keys: %v", err)
	}
	// Without a key id nothing is sealed, whatever it looks like.
	plain := Row{ID: idA, Subject: subject, Metadata: metadata}
	if next, err := newer.Reseal(plain, true); err != nil || next.Subject != subject || next.Metadata != metadata || next.KeyID != "" {
		t.Errorf("a plain row that looks sealed becomes %+v (%v)", next, err)
	}
}
