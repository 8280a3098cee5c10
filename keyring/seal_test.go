package keyring

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testKey is a key whose secret is easy to find where it should not be.
func testKey(id string) Key {
	return Key{ID: id, Secret: bytes.Repeat([]byte(id[len(id)-1:]), keySize)}
}

func ring(tb testing.TB, ids ...string) *Ring {
	tb.Helper()
	keys := make([]Key, len(ids))
	for i, id := range ids {
		keys[i] = testKey(id)
	}
	r, err := New(keys...)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

const (
	idA = "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11"
	idB = "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b12"
)

func TestSealedBodyOpens(t *testing.T) {
	r := ring(t, "k1")
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(rand.IntN(256))
	}
	for name, body := range map[string][]byte{
		"empty": {}, "short": []byte("From: a@b\r\n\r\nhi\r\n"), "long": bytes.Repeat([]byte("the same words again\r\n"), 5000), "noise": noise,
	} {
		for _, from := range []int64{0, 1, 1000} {
			sealed, err := r.SealBody(idA, body, from)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ring(t, "k2", "k1").OpenBody(idA, sealed)
			if err != nil || !bytes.Equal(got, body) {
				t.Errorf("%s, compressed from %d: %d bytes come back as %d (%v)", name, from, len(body), len(got), err)
			}
			if !IsSealed(sealed) || sealedKey(sealed) != "k1" || IsSealed(body) {
				t.Errorf("%s: sealed %v, key %q", name, IsSealed(sealed), sealedKey(sealed))
			}
			if compressed := sealed[5]&sealCompressed != 0; compressed != (name == "long" && from > 0) {
				t.Errorf("%s, compressed from %d: compressed is %v", name, from, compressed)
			}
			if name == "long" && from > 0 && len(sealed) > len(body)/20 {
				t.Errorf("%d bytes were compressed to %d", len(body), len(sealed))
			}
			again, err := r.SealBody(idA, body, from)
			if err != nil || bytes.Equal(again, sealed) {
				t.Errorf("%s: sealing twice gives the same bytes (%v)", name, err)
			}
		}
	}
	if got, err := r.OpenBody(idA, []byte("From: a@b\r\n\r\n")); err != nil || string(got) != "From: a@b\r\n\r\n" {
		t.Errorf("what is not sealed is returned as %q (%v)", got, err)
	}
}

// An envelope opens only unchanged, for the same message and purpose, and with the same secret.
func TestSealedStaysClosed(t *testing.T) {
	r := ring(t, "k1")
	body := []byte("From: a@b\r\n\r\nhttps://example.com/reset?token=hush\r\n")
	sealed, err := r.SealBody(idA, body, 0)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := r.SealSubject(idA, "hush")
	if err != nil {
		t.Fatal(err)
	}
	open := func(r *Ring, id string, sealed []byte) error { _, err := r.OpenBody(id, sealed); return err }
	other, err := New(Key{ID: "k1", Secret: testKey("k9").Secret})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ got, want error }{
		"another message": {open(r, idB, sealed), ErrWrongKey},
		"no such key":     {open(ring(t, "k2", "k3"), idA, sealed), ErrNoKey},
		"no keys":         {open(nil, idA, sealed), ErrNoKey},
		"another secret":  {open(other, idA, sealed), ErrWrongKey},
		"empty envelope":  {open(r, idA, []byte(sealMagic)), ErrEnvelope},
		"next version":    {open(r, idA, append([]byte(sealMagic+"\x02"), sealed[5:]...)), ErrEnvelope},
	} {
		if !errors.Is(test.got, test.want) {
			t.Errorf("%s: %v, want %v", name, test.got, test.want)
		}
		var e *Error
		if !errors.As(test.got, &e) || e.What != "body" {
			t.Errorf("%s: the error is %#v", name, test.got)
		}
	}
	// A subject must not open as metadata, nor the other way round.
	if _, err := r.OpenMetadata(idA, map[string]string{MetadataMark: strings.TrimPrefix(subject, subjectMark)}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("a subject in the place of metadata: %v", err)
	}
	for i := range sealed {
		for _, bit := range []byte{1, 0x80} {
			changed := bytes.Clone(sealed)
			changed[i] ^= bit
			got, err := r.OpenBody(idA, changed)
			if err == nil && IsSealed(changed) {
				t.Fatalf("byte %d was changed and it opens: %q", i, got)
			}
		}
		if got, err := r.OpenBody(idA, sealed[:i]); err == nil && i >= len(sealMagic) {
			t.Fatalf("the first %d bytes open: %q", i, got)
		}
	}
}

// A body too long to decompress again is not compressed.
func TestCompressible(t *testing.T) {
	for _, test := range []struct {
		n, from int64
		want    bool
	}{
		{1000, 0, false}, {999, 1000, false}, {1000, 1000, true}, {maxOpened, 1, true}, {maxOpened + 1, 1, false},
	} {
		if got := compressible(test.n, test.from); got != test.want {
			t.Errorf("%d bytes, compressed from %d: %v", test.n, test.from, got)
		}
	}
}

func TestKeyRings(t *testing.T) {
	one, two := testKey("2026-11").Text(), testKey("old.key_2").Text()
	for name, text := range map[string]string{
		"lines": "# the current key first\n" + one + "\n\n  " + two + " # until January\r\n", "commas": one + "," + two,
		"mark": "\ufeff" + one + "\r\n" + two + "\r\n", "mark and comment": "\ufeff# keys\n" + one + "\n" + two,
		"carriage returns": one + "\r" + two, "tabs": one + "\t" + two,
		"spaces": one + " " + two, "no padding": strings.TrimRight(one, "=") + "\n" + strings.TrimRight(two, "="),
	} {
		r, err := Parse(text)
		if err != nil || r.Current() != "2026-11" || fmt.Sprint(r.IDs()) != "[2026-11 old.key_2]" {
			t.Errorf("%s: %v, %v", name, r.IDs(), err)
			continue
		}
		sealed, err := ring(t, "2026-11").SealBody(idA, []byte("x"), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.OpenBody(idA, sealed); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{"azAZ09", strings.Repeat("k", maxKeyID), ".-_"} {
		if r, err := Parse(Key{ID: id, Secret: testKey("k1").Secret}.Text()); err != nil || r.Current() != id {
			t.Errorf("the name %s: %v, %v", id, r, err)
		}
	}
	for _, c := range "`{@[/:" { // beside the letters and digits
		if _, err := New(Key{ID: "k" + string(c), Secret: testKey("k1").Secret}); err == nil {
			t.Errorf("%q is allowed in a name", c)
		}
	}
	if r, err := Parse(one + strings.Repeat("#", maxKeyFile-len(one))); err != nil || r.Current() != "2026-11" {
		t.Errorf("as long as is allowed: %v, %v", r, err)
	}
	secret := strings.SplitN(one, ":", 2)[1]
	for name, test := range map[string]struct{ text, want string }{
		"empty":          {"", "there is no key"},
		"comments alone": {"# nothing\n", "there is no key"},
		"no name":        {secret, "NAME:SECRET"},
		"empty name":     {":" + secret, "1 to 63 bytes"},
		"odd name":       {secret + ":" + secret, "may contain only"},
		"all is odd":     {"k!:hush!", "may contain only"},
		"long name":      {strings.Repeat("k", maxKeyID+1) + ":" + secret, "1 to 63 bytes"},
		"tabs":           {"\tk!:" + secret + "\t", "may contain only"},
		"odd padding":    {"k:" + secret[:42] + "p", "not base64"}, // the last character has bits that mean nothing
		"twice":          {one + "\n" + one, "twice"},
		"short":          {"k:aHVzaA==", "4 bytes, not 32"},
		"no base64":      {"k:hush!" + secret[5:], "not base64"},
		"swapped":        {strings.Repeat("hush", 10) + "abc:2026-11", "line 1: the secret is not base64"},
		"swapped alike":  {strings.Repeat("hush", 8) + ":name", "line 1: the secret has 3 bytes, not 32"},
		"zero":           {"k:" + strings.Repeat("A", 43) + "=", "all zero"},
		"UTF-16":         {"\xff\xfek\x00:\x00", "the text is in UTF-16 (little-endian): save it as UTF-8"},
		"UTF-16 alone":   {"\x00k\x00:", "the text is in UTF-16 (big-endian)"},
		"too much":       {strings.Repeat("#", maxKeyFile+1), "more than"},
	} {
		r, err := Parse(test.text)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, %v; want %q", name, r, err, test.want)
			continue
		}
		if strings.Contains(err.Error(), secret[10:30]) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the error repeats a secret: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte(one+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := ReadFile(path); err != nil || r.Current() != "2026-11" {
		t.Errorf("from a file: %v, %v", r, err)
	}
	if _, err := ReadFile(path + "s"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for name, want := range map[string]string{filepath.Dir(path): "key ring", path: path} {
		if name == path {
			if err := os.WriteFile(path, []byte("k:hush"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadFile(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the file %s: %v, want %q", name, err, want)
		}
	}
	if none := (*Ring)(nil); none.Current() != "" || none.IDs() != nil || none.String() != "no keys" {
		t.Errorf("no key ring: %q, %q, %q", none.Current(), none.IDs(), none)
	}
	if k, err := NewKey("new"); err != nil || bytes.Equal(k.Secret, make([]byte, keySize)) {
		t.Errorf("a new key: %v", err)
	}
	if _, err := NewKey("a b"); err == nil {
		t.Error("a key with a blank in its name is made")
	}
}

// No way of printing a key, a key ring, or a value that holds one shows the secret.
func TestSecretsAreNotPrinted(t *testing.T) {
	k := testKey("z")
	r, err := New(k)
	if err != nil {
		t.Fatal(err)
	}
	c := struct{ Keys *Ring }{r}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "key", k, "keys", r, "config", c)
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "keys", r, "config", c)
	for _, v := range []any{k, &k, []Key{k}, r, c, &c, map[string]any{"k": k}, struct{ K Key }{k}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			_, _ = fmt.Fprintf(&log, verb+"\n", v)
		}
		if text, err := json.Marshal(v); err == nil {
			log.Write(text)
		}
	}
	for _, secret := range []string{"zzzz", "7a7a7a", "122 122", "enp6", "0x7a, 0x7a"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("%q is printed:\n%s", secret, &log)
		}
	}
	if got := fmt.Sprintf("%v %+v %d %v %#v", k, k, k, r, r); got != "key z key z key z keys z keys z" {
		t.Errorf("what is printed is %q", got)
	}
	if text, err := json.Marshal(Key{ID: `a"b`}); err == nil {
		t.Errorf("a name that is none becomes %s", text)
	}
	if !strings.Contains(log.String(), "key z") {
		t.Error("the name is not printed")
	}
}

// FuzzOpen opens envelopes that the key ring never made. None opens, panics, or grows without bound.
func FuzzOpen(f *testing.F) {
	r := ring(f, "k1")
	const letter = "From: a@b\r\n\r\nhi\r\n" // nothing else was sealed
	sealed, err := r.SealBody(idA, []byte(letter), 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, []byte("\x05hello"))
	f.Add([]byte(sealMagic+"\x01\x01\x02k1"), []byte("\xff\xff\xff\xff\x0f"))
	f.Add([]byte(sealMagic+"\x01\x00\xff"), []byte{})
	f.Fuzz(func(t *testing.T, envelope, compressed []byte) {
		if got, err := r.OpenBody(idA, envelope); err == nil && IsSealed(envelope) && string(got) != letter {
			t.Fatalf("%q opens as %q", envelope, got)
		}
		// An envelope that was sealed with the right key may hold anything.
		bad, err := r.encrypt(idA, purposeBody, compressed, true)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.OpenBody(idA, bad); err == nil {
			again, ok := deflate(got)
			if back, err := inflate(again); ok && (err != nil || !bytes.Equal(back, got)) {
				t.Fatalf("%q does not come back: %v", got, err)
			}
		} else if !errors.Is(err, ErrEnvelope) {
			t.Fatalf("the error is %v", err)
		}
		subject := subjectMark + string(envelope)
		if got, err := r.OpenSubject(idA, subject); err == nil {
			t.Fatalf("%q opens as %q", subject, got)
		}
		if keys, err := Parse(string(envelope)); err == nil && len(keys.IDs()) == 0 {
			t.Fatal("a key ring without keys")
		}
	})
}

// BenchmarkSeal measures the extra cost of encrypting a message, with and without compressing it first.
func BenchmarkSeal(b *testing.B) {
	r := ring(b, "k1")
	paragraph := []byte("<p>Thank you for your order. We have packed it with care &amp; it leaves our house today.</p>\r\n")
	typical, long := bytes.Repeat(paragraph, 30), bytes.Repeat(paragraph, 1100)
	pdf := make([]byte, 1<<20)
	for i := range pdf {
		pdf[i] = byte(rand.IntN(256))
	}
	large := base64.StdEncoding.AppendEncode(nil, pdf)
	for _, test := range []struct {
		name string
		body []byte
		from int64
	}{
		{"typical", typical, 0},
		{"typical-compressed", typical, 1},
		{"html-100KB", long, 0},
		{"html-100KB-compressed", long, 1},
		{"attachment-1MB", large, 0},
		{"attachment-1MB-compressed", large, 1},
	} {
		b.Run(test.name, func(b *testing.B) {
			b.SetBytes(int64(len(test.body)))
			b.ReportAllocs()
			var sealed []byte
			var err error
			for b.Loop() {
				if sealed, err = r.SealBody(idA, test.body, test.from); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(sealed))/float64(len(test.body)), "stored/rendered")
		})
	}
}

// sealedKey is the name of the key that a body was sealed with.
func sealedKey(body []byte) string {
	id, _, _, err := splitEnvelope(body)
	if err != nil {
		return ""
	}
	return id
}
