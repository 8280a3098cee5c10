package keyring

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
)

// Values that were sealed with testKey("k1") for idA when the format was made. They must open for ever.
const (
	goldenBody       = "AE9CWAEAAmsxDay0DJOWIwXDtW27+9z7HeKkVZjgHkvSjmomnSLNg7jnpafLRGmKGN/NcNmBlAMOEpap8N7HGAHa"
	goldenCompressed = "AE9CWAEBAmsxzetpCkUhjK+MGOVUo3EKbql8AJ/FE1yxRQdIC3cEazjCKQcrblSsT3jcwXwltS8lwjFujRk9ZoraMSEmsR65JRfQmjWyP44LUA=="
	goldenSubject    = "outbox-sealed:AE9CWAEAAmsx+p0MApc1OieEiwKigr/8QFNb18n14EDuXXjN0tLuNWTm6BOSWU978O5uOiM"
	goldenMetadata   = "AE9CWAEAAmsxeb/SJX7evvXPUZohi7dfG2FEGJk/GG5Cf5BLqKYfv2ew6iPKOLzO6ObZ3J8L/OLaytXBsvEY"
)

func golden(t *testing.T, text string) []byte {
	t.Helper()
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// The format is stored for years: a change of it would lose mail.
func TestStoredFormatOpens(t *testing.T) {
	r := ring(t, "k2", "k1")
	if got, err := r.OpenBody(idA, golden(t, goldenBody)); err != nil || string(got) != "From: a@b\r\n\r\nhi\r\n" {
		t.Errorf("the body is %q (%v)", got, err)
	}
	want := strings.Repeat("the same words again\r\n", 10)
	if got, err := r.OpenBody(idA, golden(t, goldenCompressed)); err != nil || string(got) != want {
		t.Errorf("the compressed body is %q (%v)", got, err)
	}
	if got, err := r.OpenSubject(idA, goldenSubject); err != nil || got != "hush" {
		t.Errorf("the subject is %q (%v)", got, err)
	}
	if _, err := r.OpenSubject(idA, subjectMark+base64.RawStdEncoding.EncodeToString(append([]byte("OUT\x00"), golden(t, goldenBody)[4:]...))); !errors.Is(err, ErrEnvelope) {
		t.Errorf("a subject that begins with something else: %v", err)
	}
	both := map[string]string{MetadataMark: goldenMetadata, "order": "1"}
	if got, err := r.OpenMetadata(idA, both); err != nil || len(got) != 2 || IsSealedMetadata(both) {
		t.Errorf("metadata with another key are %q (%v)", got, err)
	}
	number, err := r.sealText(idA, purposeMetadata, "42")
	if err != nil {
		t.Fatal(err)
	}
	var e *Error
	if got, err := r.OpenMetadata(idA, map[string]string{MetadataMark: number}); !errors.As(err, &e) || e.What != "metadata" {
		t.Errorf("metadata that are a number are %q (%v)", got, err)
	}
	got, err := r.OpenMetadata(idA, map[string]string{MetadataMark: goldenMetadata})
	if err != nil || len(got) != 1 || got["order"] != "42" {
		t.Errorf("the metadata are %q (%v)", got, err)
	}
}

// The tag covers the head. A head that says something else does not open, also where all else fits.
func TestHeadIsAuthenticated(t *testing.T) {
	plain, compressed := golden(t, goldenBody), golden(t, goldenCompressed)
	same, err := New(testKey("k1"), Key{ID: "k2", Secret: testKey("k1").Secret})
	if err != nil {
		t.Fatal(err)
	}
	change := func(sealed []byte, at int, to byte) []byte {
		sealed = bytes.Clone(sealed)
		sealed[at] = to
		return sealed
	}
	const flags, lastOfID = len(sealMagic) + 1, sealFixed + 1
	for name, test := range map[string]struct {
		sealed []byte
		want   error
	}{
		"the flag of a compressed body is cleared":  {change(compressed, flags, 0), ErrWrongKey},
		"the flag of a plain body is set":           {change(plain, flags, sealCompressed), ErrWrongKey},
		"another key with the same secret is named": {change(plain, lastOfID, '2'), ErrWrongKey},
		"a flag that does not exist":                {change(plain, flags, 2), ErrEnvelope},
		"a name that no key has":                    {change(plain, lastOfID, ' '), ErrEnvelope},
		"the head alone":                            {plain[:sealFixed], ErrEnvelope},
		"the head and the name":                     {plain[:sealFixed+2], ErrEnvelope},
		"without a byte of the tag":                 {plain[:sealFixed+2+24+15], ErrEnvelope},
		"a tag of nothing":                          {plain[:sealFixed+2+24+16], ErrWrongKey},
	} {
		if got, err := same.OpenBody(idA, test.sealed); !errors.Is(err, test.want) {
			t.Errorf("%s: %q, %v; want %v", name, got, err, test.want)
		}
	}
}

// All 24 bytes of a nonce are random. Fewer would repeat within the life of a key.
func TestNonceIsRandomThroughout(t *testing.T) {
	r := ring(t, "k1")
	const n = 24
	var seen [n][256]bool
	for range 64 {
		sealed, err := r.SealBody(idA, []byte("x"), 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range sealed[sealFixed+2:][:n] {
			seen[i][b] = true
		}
	}
	for i, values := range seen {
		different := 0
		for _, there := range values {
			if there {
				different++
			}
		}
		if different < 8 { // 64 random bytes have about 57 values
			t.Errorf("byte %d of the nonce had %d values in 64 envelopes", i, different)
		}
	}
}

// deflated is a compressed content that states a length.
func deflated(t *testing.T, states uint64, content []byte) []byte {
	t.Helper()
	out := bytes.NewBuffer(binary.AppendUvarint(nil, states))
	w, err := flate.NewWriter(out, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What states a wrong length is refused, and costs no more memory than it has content.
func TestInflateIsBounded(t *testing.T) {
	bomb, noise := make([]byte, 1<<20), make([]byte, 100_000)
	for i := range noise {
		noise[i] = byte(rand.IntN(256))
	}
	for _, test := range []struct {
		name       string
		compressed []byte
		want       string
	}{
		{"longer than it says", deflated(t, 10, bomb), "another length than it says"},
		{"one byte longer", deflated(t, 10, bomb[:11]), "another length than it says"},
		{"one byte shorter", deflated(t, 10, bomb[:9]), "another length than it says"},
		{"noise", deflated(t, 100_001, noise), "another length than it says"},
		{"more than all memory", deflated(t, 1<<40, bomb[:10]), "the length of the compressed content is wrong"},
		{"one more than is allowed", deflated(t, maxOpened+1, bomb[:10]), "the length of the compressed content is wrong"},
		{"as much as is allowed", deflated(t, maxOpened, bomb[:10]), "another length than it says"},
		{"empty", nil, "the length of the compressed content is wrong"},
		{"a length without an end", bytes.Repeat([]byte{0xff}, 9), "the length of the compressed content is wrong"},
		{"no content", []byte{1}, "the compressed content is broken"},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := inflate(test.compressed)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrEnvelope) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %d bytes, %v; want %q", test.name, len(got), err, test.want)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", test.name, used)
		}
	}
}
