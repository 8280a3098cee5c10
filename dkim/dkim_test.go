package dkim

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	peer "github.com/emersion/go-msgauth/dkim"

	"github.com/outboxmail/outbox"
)

// zone holds the TXT records for the keys of a test, by their names.
type zone map[string]string

// newKey writes a key file and publishes its public key.
func (z zone) newKey(tb testing.TB, kind, domain, selector string) Key {
	tb.Helper()
	k := Key{Domain: domain, Selector: selector, File: filepath.Join(tb.TempDir(), selector+".pem")}
	z.writeKey(tb, kind, k)
	return k
}

func (z zone) writeKey(tb testing.TB, kind string, k Key) {
	tb.Helper()
	var private crypto.Signer
	var err error
	switch kind {
	case "rsa", "rsa-pkcs1":
		private, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, private, err = ed25519.GenerateKey(nil)
	}
	if err != nil {
		tb.Fatal(err)
	}
	block := &pem.Block{Type: "PRIVATE KEY"}
	if kind == "rsa-pkcs1" {
		block.Type, block.Bytes = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private.(*rsa.PrivateKey))
	} else if block.Bytes, err = x509.MarshalPKCS8PrivateKey(private); err != nil {
		tb.Fatal(err)
	}
	record := "v=DKIM1; k=ed25519; p="
	public, _ := private.Public().(ed25519.PublicKey)
	if public == nil {
		record = "v=DKIM1; k=rsa; p="
		if public, err = x509.MarshalPKIXPublicKey(private.Public()); err != nil {
			tb.Fatal(err)
		}
	}
	domain, err := asciiDomain(k.Domain)
	if err != nil {
		tb.Fatal(err)
	}
	z[k.Selector+"._domainkey."+domain] = record + base64.StdEncoding.EncodeToString(public)
	if err := os.WriteFile(k.File, pem.EncodeToMemory(block), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// lookup answers as a resolver would.
func (z zone) lookup(name string) ([]string, error) {
	if record, ok := z[strings.TrimSuffix(name, ".")]; ok {
		return []string{record}, nil
	}
	return nil, fmt.Errorf("no record for %s", name)
}

// verify checks the signatures with go-msgauth and returns their domains.
func (z zone) verify(tb testing.TB, message []byte) (domains []string, err error) {
	tb.Helper()
	list, err := peer.VerifyWithOptions(bytes.NewReader(message), &peer.VerifyOptions{LookupTXT: z.lookup})
	if err != nil {
		return nil, err
	}
	for _, v := range list {
		if v.Err != nil {
			return nil, v.Err
		}
		domains = append(domains, v.Domain)
	}
	return domains, nil
}

func newSigner(tb testing.TB, c Config) *Signer {
	tb.Helper()
	s, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// shapes returns messages that implementations of canonicalisation treat differently.
func shapes(tb testing.TB) map[string]string {
	tb.Helper()
	rendered, err := outbox.Render(&outbox.Message{
		From: outbox.Address{Name: "Jörg's Shop", Address: "shop@example.com"},
		To:   []outbox.Address{{Name: "Ann, " + strings.Repeat("long ", 30), Address: "ann@example.org"}},
		Cc:   []outbox.Address{{Address: "bob@example.org"}}, Subject: "Größe — " + strings.Repeat("件名", 40),
		Text: "Hello\n\n  blanks \t at the end  \t \n\n\n", HTML: "<p>é" + strings.Repeat("x", 2000),
		Attachments: []outbox.Attachment{{Name: "a.bin", Data: []byte{0, 1, 2, 255}}},
		Unsubscribe: outbox.Unsubscribe{URL: "https://example.com/u", OneClick: true},
	}, "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11", time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC))
	if err != nil {
		tb.Fatal(err)
	}
	const from = "From: a@example.com\r\nSubject: x\r\n"
	return map[string]string{
		"rendered":            string(rendered.Body),
		"no body":             from + "\r\n",
		"header alone":        from,
		"empty lines":         from + "\r\n\r\n\r\n\r\n",
		"blank lines":         from + "\r\n \t \r\nx\r\n  \r\n\t\r\n",
		"no end":              from + "\r\ntext without an end",
		"runs of blanks":      "From:  a@example.com  \r\nSubject:\t  a \t b\r\n\t c  \r\nTo:\r\n x@example.org\r\n\r\na \t\tb \r\n\t c\r\n",
		"fields twice":        "Received: one\r\nReceived: two\r\nComments: a\r\nComments: b\r\nReferences: <a@b>\r\n <c@d>\r\n" + from + "\r\nx\r\n",
		"with another":        "DKIM-Signature: v=1; a=rsa-sha256; d=else.example; s=x; h=from; bh=x; b=y\r\n" + from + "\r\nx\r\n",
		"name in another set": "From: =?x-unknown?q?a=FF?= <a@example.com>\r\n\r\nx\r\n",
		"dots":                from + "\r\n.\r\n..\r\n.x\r\n",
		"eight bits":          from + "\r\nGr\xc3\xb6\xc3\x9fe \xff\r\n",
	}
}

func TestSignaturesVerify(t *testing.T) {
	z := zone{}
	s := newSigner(t, Config{Keys: []Key{
		z.newKey(t, "rsa", "Example.COM", "r1"), z.newKey(t, "ed25519", "example.com.", "e1"), z.newKey(t, "rsa-pkcs1", "other.example", "r2"),
	}})
	for name, message := range shapes(t) {
		signed, err := s.Sign([]byte(message))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.HasSuffix(signed, []byte(message)) || bytes.Count(signed, []byte("DKIM-Signature:")) < 2 {
			t.Errorf("%s: the message was changed, or not signed twice:\n%s", name, signed)
		}
		if again, err := s.Sign([]byte(message)); err != nil || !bytes.Equal(again, signed) {
			t.Errorf("%s: signing again gives other bytes (%v)", name, err)
		}
		for line := range strings.Lines(strings.TrimSuffix(string(signed), message)) {
			if len(line) > foldAt+2 || !strings.HasSuffix(line, "\r\n") || strings.Contains(line, "; t=") || strings.Contains(line, "; x=") {
				t.Errorf("%s: the line %q", name, line)
			}
		}
		if name == "with another" { // the key of its first signature is unknown
			continue
		}
		if name == "header alone" {
			signed = append(signed, "\r\n"...)
		}
		if domains, err := z.verify(t, signed); err != nil || !slices.Equal(domains, []string{"example.com", "example.com"}) {
			t.Errorf("%s: %v, %v\n%s", name, domains, err, signed)
		}
	}
}

// A signature survives new folds. It breaks when a signed part is changed or added.
func TestWhatSignaturesCover(t *testing.T) {
	z := zone{}
	s := newSigner(t, Config{Keys: []Key{z.newKey(t, "ed25519", "example.com", "e1")}, Fields: []string{"X-Campaign", "subject"}})
	const message = "From: a@example.com\r\nSubject: one two\r\nX-Campaign: spring\r\nX-Other: x\r\n\r\ntext\r\n"
	signed, err := s.Sign([]byte(message))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		old, new string
		good     bool
	}{
		"as it is":               {"", "", true},
		"folded anew":            {"Subject: one two", "SUBJECT:one\r\n \t two", true},
		"other field changed":    {"X-Other: x", "X-Other: y", true},
		"other field added":      {"From: a@", "X-Outbox-ID: 1\r\nFrom: a@", true},
		"empty lines at the end": {"text\r\n", "text \r\n\r\n\r\n", true},
		"subject changed":        {"one two", "one  three", false},
		"second subject":         {"Subject:", "Subject: first\r\nSubject:", false},
		"second from":            {"From:", "From: eve@example.net\r\nFrom:", false},
		"reply-to added":         {"Subject:", "Reply-To: eve@example.net\r\nSubject:", false},
		"content type added":     {"Subject:", "Content-Type: text/html\r\nSubject:", false},
		"campaign changed":       {"spring", "autumn", false},
		"text changed":           {"text\r\n", "text!\r\n", false},
		"text added":             {"text\r\n", "text\r\nmore\r\n", false},
	} {
		changed := strings.Replace(string(signed), test.old, test.new, 1)
		if test.old == "Subject:" || test.old == "From:" { // not in the signature's own list
			changed = strings.Replace(string(signed), "\r\n"+test.old, "\r\n"+test.new, 1)
			if test.old == "From:" {
				changed = strings.Replace(string(signed), message, strings.Replace(message, test.old, test.new, 1), 1)
			}
		}
		if test.old != "" && changed == string(signed) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := z.verify(t, []byte(changed)); (err == nil) != test.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhoseKeySigns(t *testing.T) {
	z := zone{}
	keys := []Key{
		z.newKey(t, "ed25519", "example.com", "s"), z.newKey(t, "ed25519", "mail.example.com", "s"), z.newKey(t, "ed25519", "bücher.example", "s"),
		z.newKey(t, "ed25519", "AB--cd.example.net", "s"),
	}
	s, strict := newSigner(t, Config{Keys: keys}), newSigner(t, Config{Keys: keys, Required: true})
	for from, want := range map[string]string{
		"a@example.com": "example.com", "A <a@EXAMPLE.com>": "example.com", "a@mail.example.com": "mail.example.com",
		"a@x.mail.example.com": "mail.example.com", "a@news.example.com": "example.com", "a@xn--bcher-kva.example": "xn--bcher-kva.example",
		"a@ab--cd.example.net": "ab--cd.example.net", "a@x.ab--CD.example.net": "ab--cd.example.net", "a@BÜCHER.example": "xn--bcher-kva.example",
		"a@ef--gh.example.org": "", "a@xn--0.example": "", "a@-é.example": "", "a@[192.0.2.1]": "",
		"a@example.org": "", "a@notexample.com": "", "a@com": "", "a@example.com, b@example.org": "example.com",
	} {
		message := []byte("From: " + from + "\r\n\r\nx\r\n")
		signed, err := s.Sign(message)
		if err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		domains, err := z.verify(t, signed)
		if err != nil || strings.Join(domains, " ") != want {
			t.Errorf("%s is signed for %q (%v), want %q", from, domains, err, want)
		}
		if _, err := strict.Sign(message); (err != nil) != (want == "") {
			t.Errorf("%s, where a key is required: %v", from, err)
		}
	}
	for name, message := range map[string]string{
		"no author": "Subject: x\r\n\r\n", "two authors": "From: a@example.com\r\nFrom: b@example.com\r\n\r\n", "no address": "From: nobody\r\n\r\n",
		"a group": "From: none:;\r\n\r\n", "nothing": "",
	} {
		if signed, err := s.Sign([]byte(message)); err == nil {
			t.Errorf("%s: signed as %q", name, signed)
		}
	}
}

// A replaced key is used at once. If the file is broken or missing, the old key stays in use and the log says so once.
func TestKeyFilesAreReadAgain(t *testing.T) {
	z := zone{}
	k := z.newKey(t, "ed25519", "example.com", "s")
	var log bytes.Buffer
	s := newSigner(t, Config{Keys: []Key{k}, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	message := []byte("From: a@example.com\r\n\r\nx\r\n")
	ok := func(when string) {
		t.Helper()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				signed, err := s.Sign(message)
				if err != nil {
					t.Errorf("%s: %v", when, err)
				} else if domains, err := z.verify(t, signed); err != nil || len(domains) != 1 {
					t.Errorf("%s: %v, %v", when, domains, err)
				}
			})
		}
		wg.Wait()
	}
	age := time.Now()
	touch := func() {
		age = age.Add(time.Second)
		if err := os.Chtimes(k.File, age, age); err != nil {
			t.Fatal(err)
		}
	}
	ok("at first")
	z.writeKey(t, "rsa", k)
	touch()
	ok("replaced")
	text, err := os.ReadFile(k.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.File, append([]byte("\ufeff"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	touch()
	ok("with a byte order mark")
	if log.Len() > 0 {
		t.Errorf("the log:\n%s", &log)
	}
	if err := os.WriteFile(k.File, []byte("-----BEGIN PRIVATE KEY-----\nhush"), 0o600); err != nil {
		t.Fatal(err)
	}
	touch()
	ok("broken")
	if err := os.Remove(k.File); err != nil {
		t.Fatal(err)
	}
	ok("away")
	ok("still away")
	if n := strings.Count(log.String(), "cannot be read"); n != 2 || strings.Contains(log.String(), "hush") {
		t.Errorf("told %d times:\n%s", n, &log)
	}
	z.writeKey(t, "ed25519", k)
	ok("back")
}

func TestNewRefuses(t *testing.T) {
	z := zone{}
	good := z.newKey(t, "ed25519", "example.com", "s")
	file := func(content string) Key {
		k := Key{Domain: "example.com", Selector: "x", File: filepath.Join(t.TempDir(), "key")}
		if err := os.WriteFile(k.File, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return k
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	for name, test := range map[string]struct {
		config Config
		want   string
	}{
		"no keys":       {Config{}, "no key"},
		"no domain":     {Config{Keys: []Key{{Selector: "s", File: good.File}}}, "domain"},
		"odd domain":    {Config{Keys: []Key{{Domain: "a b", Selector: "s", File: good.File}}}, "domain"},
		"odd selector":  {Config{Keys: []Key{{Domain: "example.com", Selector: "a;b", File: good.File}}}, "not a selector"},
		"no file":       {Config{Keys: []Key{{Domain: "example.com", Selector: "s", File: good.File + "x"}}}, "no such file"},
		"twice":         {Config{Keys: []Key{good, good}}, "twice"},
		"no PEM":        {Config{Keys: []Key{file("hush")}}, "no private key"},
		"UTF-16":        {Config{Keys: []Key{file("\xff\xfe-\x00-\x00")}}, "it is in UTF-16 (little-endian): save it as UTF-8"},
		"garbage":       {Config{Keys: []Key{file(block("PRIVATE KEY", []byte("hush")))}}, "cannot be parsed"},
		"with password": {Config{Keys: []Key{file(block("ENCRYPTED PRIVATE KEY", []byte("hush")))}}, "password"},
		"odd field":     {Config{Keys: []Key{good}, Fields: []string{"X: y"}}, "not the name"},
	} {
		if _, err := New(test.config); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// FuzzSign checks that every signed message verifies, and that only a signature was added.
func FuzzSign(f *testing.F) {
	z := zone{}
	s := newSigner(f, Config{Keys: []Key{z.newKey(f, "ed25519", "example.com", "e1")}})
	for _, message := range shapes(f) {
		head, body := splitMessage([]byte(message))
		f.Add(string(head), string(body))
	}
	f.Fuzz(func(t *testing.T, head, body string) {
		lines := strings.FieldsFunc(head, func(r rune) bool { return r == '\r' || r == '\n' })
		var header strings.Builder
		header.WriteString("From: a@example.com\r\n")
		for _, line := range lines {
			// Other tests cover lines that are not fields, second authors and other signatures.
			name, _, ok := strings.Cut(line, ":")
			lower := strings.ToLower(strings.TrimSpace(name))
			if blank := line[0] == ' ' || line[0] == '\t'; strings.TrimSpace(line) == "" || !blank && (!ok || !isFieldName(name) || lower == "from" ||
				lower == "dkim-signature") || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }) {
				continue
			}
			header.WriteString(line + "\r\n")
		}
		text := strings.Join(strings.FieldsFunc(body, func(r rune) bool { return r == '\r' }), "")
		message := header.String() + "\r\n" + strings.ReplaceAll(text, "\n", "\r\n")
		signed, err := s.Sign([]byte(message))
		if err != nil {
			return
		}
		if !strings.HasSuffix(string(signed), message) {
			t.Fatal("the message was changed")
		}
		if domains, err := z.verify(t, signed); err != nil || len(domains) != 1 {
			t.Fatalf("%v, %v:\n%q", domains, err, signed)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	for _, kind := range []string{"rsa", "ed25519"} {
		b.Run(kind, func(b *testing.B) {
			z := zone{}
			s := newSigner(b, Config{Keys: []Key{z.newKey(b, kind, "example.com", "s")}})
			message := []byte(shapes(b)["rendered"])
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Sign(message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
