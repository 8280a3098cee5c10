package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

func keyRing(t *testing.T, ids ...string) *keyring.Ring {
	t.Helper()
	keys := make([]keyring.Key, len(ids))
	for i, id := range ids {
		keys[i] = keyring.Key{ID: id, Secret: []byte(strings.Repeat(id, 32))[:32]}
	}
	r, err := keyring.New(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sealedBook is a store with messages, and what they say.
type sealedBook struct {
	*store.Store
	t      *testing.T
	db     *sqlx.DB
	bodies map[outbox.ID][]byte
}

func newSealedBook(t *testing.T, db *sqlx.DB) *sealedBook {
	t.Helper()
	s, err := store.New(db.DB, schema.Dialect(db.DriverName()), store.Actor("ann"))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Migrate(t.Context(), db.DB, s.Dialect()); err != nil {
		t.Fatal(err)
	}
	return &sealedBook{Store: s, t: t, db: db, bodies: make(map[outbox.ID][]byte)}
}

// put commits n messages; keys may be nil.
func (b *sealedBook) put(keys *keyring.Ring, n int, text string) []outbox.ID {
	b.t.Helper()
	out, err := outbox.New(outbox.Config{Keys: keys, SealDetails: keys != nil})
	if err != nil {
		b.t.Fatal(err)
	}
	tx, err := b.db.BeginTx(b.t.Context(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	ids := make([]outbox.ID, n)
	for i := range ids {
		receipt, err := out.Enqueue(b.t.Context(), tx, &outbox.Message{
			From: outbox.Address{Address: "a@example.com"}, To: []outbox.Address{{Address: "b@example.org"}},
			Subject: fmt.Sprint("subject ", i), Text: text, Metadata: map[string]string{"n": strconv.Itoa(i)},
		})
		if err != nil {
			b.t.Fatal(err)
		}
		ids[i] = receipt.ID
	}
	if err := tx.Commit(); err != nil {
		b.t.Fatal(err)
	}
	for _, id := range ids {
		b.bodies[id] = b.body(keys, id)
	}
	return ids
}

func (b *sealedBook) body(keys *keyring.Ring, id outbox.ID) []byte {
	b.t.Helper()
	stored, err := b.Body(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	body, err := keys.OpenBody(string(id), stored)
	if err != nil {
		b.t.Fatal(err)
	}
	return body
}

// want checks that a message opens with this key ring, and is what it was.
func (b *sealedBook) want(keys *keyring.Ring, id outbox.ID, subject string) {
	b.t.Helper()
	if got := b.body(keys, id); !bytes.Equal(got, b.bodies[id]) {
		b.t.Errorf("the body of %s is %d bytes, want %d", id, len(got), len(b.bodies[id]))
	}
	m, err := b.Get(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	if s, err := keys.OpenSubject(string(id), m.Subject); err != nil || s != subject {
		b.t.Errorf("the subject of %s is %q (%v), want %q", id, s, err, subject)
	}
	if meta, err := keys.OpenMetadata(string(id), m.Metadata); err != nil || "subject "+meta["n"] != subject {
		b.t.Errorf("the metadata of %s is %v (%v)", id, meta, err)
	}
}

func TestRekey(t *testing.T) {
	t.Parallel()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			b := newSealedBook(t, e.open(t))
			k1, k2, both := keyRing(t, "k1"), keyRing(t, "k2"), keyRing(t, "k2", "k1")
			old := b.put(k1, 250, "text")
			large := b.put(k1, 3, strings.Repeat("0123456789abcdef\n", 1<<19)) // 8 MiB each: more than one batch of bytes
			current := b.put(k2, 2, "text")
			plain := b.put(nil, 2, "text")
			foreign := b.put(keyRing(t, "k9"), 1, "text")

			counts, err := b.Rekeyable(t.Context(), both, false)
			if err != nil || fmt.Sprint(counts) != "map[k1:253 k9:1]" {
				t.Errorf("%v, %v", counts, err)
			}
			if counts, err = b.Rekeyable(t.Context(), both, true); err != nil || fmt.Sprint(counts) != "map[:2 k1:253 k9:1]" {
				t.Errorf("%v, %v", counts, err)
			}
			var steps []int64
			report, err := b.Rekey(t.Context(), both, store.RekeyOptions{Progress: func(n int64) { steps = append(steps, n) }})
			if err != nil || report.Changed != 253 || report.Missed != 0 || fmt.Sprint(report.Closed) != "map[k9:1]" {
				t.Fatalf("%+v, %v", report, err)
			}
			if !errors.Is(report.First, keyring.ErrNoKey) || !strings.Contains(report.First.Error(), string(foreign[0])) {
				t.Errorf("the first that stayed closed: %v", report.First)
			}
			if len(steps) < 4 || steps[len(steps)-1] != 254 {
				t.Errorf("progress %v", steps)
			}
			for i, id := range old {
				b.want(k2, id, fmt.Sprint("subject ", i))
			}
			for i, id := range large {
				b.want(k2, id, fmt.Sprint("subject ", i))
			}
			for i, id := range current {
				b.want(k2, id, fmt.Sprint("subject ", i))
			}
			b.want(nil, plain[1], "subject 1")
			b.want(keyRing(t, "k9"), foreign[0], "subject 0")

			report, err = b.Rekey(t.Context(), both, store.RekeyOptions{Plain: true})
			if err != nil || report.Changed != 2 {
				t.Errorf("with those in clear: %+v, %v", report, err)
			}
			b.want(k2, plain[1], "subject 1")
			if stored, err := b.Body(t.Context(), plain[0]); err != nil || !keyring.IsSealed(stored) {
				t.Errorf("it is still in clear (%v)", err)
			}
			var audit []struct {
				Actor    string `db:"actor"`
				Verb     string `db:"verb"`
				Filter   string `db:"filter"`
				Affected int64  `db:"affected"`
			}
			if err := b.db.SelectContext(t.Context(), &audit,
				"SELECT actor, verb, CAST(filter AS text) AS filter, affected FROM outbox_actions ORDER BY at, affected DESC"); err != nil {
				t.Fatal(err)
			}
			if len(audit) != 2 || audit[0].Verb != "rekey" || audit[0].Actor != "ann" || audit[0].Affected != 253 || audit[1].Affected != 2 ||
				!strings.Contains(audit[0].Filter, `"k2"`) {
				t.Errorf("the audit says %+v", audit)
			}
			if _, err := b.Rekey(t.Context(), nil, store.RekeyOptions{}); err == nil {
				t.Error("it works without keys")
			}
		})
	}
}

// A claim and a look at a message name the key that it is sealed with.
func TestKeyIsNamed(t *testing.T) {
	t.Parallel()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			b := newSealedBook(t, e.open(t))
			b.put(keyRing(t, "k1"), 1, "text")
			b.put(nil, 1, "text")
			claimed, err := b.Claim(t.Context(), queue.ClaimRequest{Owner: "o", Limit: 10, InlineBytes: 1 << 20, Lease: time.Minute})
			if err != nil || len(claimed) != 2 {
				t.Fatalf("%d claimed, %v", len(claimed), err)
			}
			keys := make(map[string]bool)
			for _, c := range claimed {
				if keyring.IsSealed(c.Body) != (c.BodyKeyID != "") || !bytes.Contains(c.Body, []byte(c.BodyKeyID)) || keyring.IsSealedSubject(c.Subject) != (c.BodyKeyID != "") {
					t.Errorf("key %q, subject %q, sealed %v", c.BodyKeyID, c.Subject, keyring.IsSealed(c.Body))
				}
				m, err := b.Get(t.Context(), c.ID)
				if err != nil || m.KeyID != c.BodyKeyID {
					t.Errorf("key %q, want %q (%v)", m.KeyID, c.BodyKeyID, err)
				}
				keys[c.BodyKeyID] = true
			}
			if !keys["k1"] || !keys[""] {
				t.Errorf("keys %v", keys)
			}
		})
	}
}

// Interrupted, it stops between two batches, and another run does the rest.
func TestRekeyIsInterrupted(t *testing.T) {
	b := newSealedBook(t, openSQLite(t))
	ids := b.put(keyRing(t, "k1"), 250, "text")
	both := keyRing(t, "k2", "k1")
	ctx, cancel := context.WithCancel(t.Context())
	report, err := b.Rekey(ctx, both, store.RekeyOptions{Progress: func(int64) { cancel() }})
	if !errors.Is(err, context.Canceled) || report.Changed != 100 {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, id := range ids { // every one of them opens
		if got := b.body(both, id); !bytes.Equal(got, b.bodies[id]) {
			t.Fatalf("%s is broken", id)
		}
	}
	if report, err = b.Rekey(t.Context(), both, store.RekeyOptions{}); err != nil || report.Changed != 150 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// What was scrubbed keeps its subject, which gets the new key.
func TestRekeyOfWhatWasScrubbed(t *testing.T) {
	t.Parallel()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			b := newSealedBook(t, e.open(t))
			id := b.put(keyRing(t, "k1"), 1, "text")[0]
			if _, err := b.db.ExecContext(t.Context(), "UPDATE outbox_messages SET body = NULL, metadata = NULL"); err != nil {
				t.Fatal(err)
			}
			if report, err := b.Rekey(t.Context(), keyRing(t, "k2", "k1"), store.RekeyOptions{}); err != nil || report.Changed != 1 {
				t.Fatalf("%+v, %v", report, err)
			}
			m, err := b.Get(t.Context(), id)
			if err != nil || !m.Scrubbed || m.KeyID != "k2" || m.Metadata != nil {
				t.Fatalf("%+v, %v", m, err)
			}
			if s, err := keyRing(t, "k2").OpenSubject(string(id), m.Subject); err != nil || s != "subject 0" {
				t.Errorf("subject %q (%v)", s, err)
			}
			// A message in clear that was scrubbed has nothing to seal. It is neither counted nor looked at for ever.
			b.put(nil, 1, "text")
			if _, err := b.db.ExecContext(t.Context(), "UPDATE outbox_messages SET body = NULL, metadata = NULL"); err != nil {
				t.Fatal(err)
			}
			if counts, err := b.Rekeyable(t.Context(), keyRing(t, "k2", "k1"), true); err != nil || len(counts) != 0 {
				t.Errorf("still to be sealed: %v, %v", counts, err)
			}
			report, err := b.Rekey(t.Context(), keyRing(t, "k2", "k1"), store.RekeyOptions{Plain: true})
			if err != nil || report.Changed != 0 || report.Missed != 0 || len(report.Closed) != 0 {
				t.Errorf("sealed: %+v, %v", report, err)
			}
		})
	}
}

// Several may run at once: each message gets its key from one of them.
func TestRekeyTwiceAtOnce(t *testing.T) {
	t.Parallel()
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			b := newSealedBook(t, e.open(t))
			ids := b.put(keyRing(t, "k1"), 300, "text")
			var changed, seen atomic.Int64
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					report, err := b.Rekey(t.Context(), keyRing(t, "k2", "k1"), store.RekeyOptions{})
					if err != nil || len(report.Closed) > 0 {
						t.Errorf("%+v, %v", report, err)
					}
					changed.Add(report.Changed)
					seen.Add(report.Changed + report.Missed)
				})
			}
			wg.Wait()
			if changed.Load() != 300 || seen.Load() < 300 {
				t.Errorf("changed %d, seen %d", changed.Load(), seen.Load())
			}
			for i, id := range ids {
				b.want(keyRing(t, "k2"), id, fmt.Sprint("subject ", i))
			}
		})
	}
}

func TestReadSuppressions(t *testing.T) {
	for name, test := range map[string]struct{ in, want string }{
		"plain":            {"a@Example.org\n b@example.org , gone , bounce \n", "a@example.org|| b@example.org|gone|bounce"},
		"empty":            {"", ""},
		"blank lines":      {"\n\na@example.org\n\n", "a@example.org||"},
		"header":           {"Email Address,Created,Reason\r\na@example.org,1,gone\r\n", "a@example.org|gone|"},
		"mark":             {"\ufeffemail\na@example.org\n", "a@example.org||"},
		"mark and quotes":  {"\ufeff\"reason\",\"email\"\ngone,a@example.org\n", "a@example.org|gone|"},
		"UTF-16":           {"\xff\xfea\x00@\x00b\x00", "read the suppression list: the text is in UTF-16 (little-endian): save it as UTF-8"},
		"mark alone":       {"\ufeff", ""},
		"less than a mark": {"\xef\xbb", `line 1: address "\xef\xbb": there is no @`},
		"header in another order": {
			"source,reason,recipient\nbounce,\"gone, for good\",a@example.org\n", "a@example.org|gone, for good|bounce",
		},
		"short lines":      {"reason,email\ngone\n,a@example.org\n", "line 2: address is empty a@example.org||"},
		"no header at all": {"a@example.org,email\n", "a@example.org|email|"},
		"bad lines": {
			"a@example.org\nnobody\nb@example.org,1,2,3\nx\"y@example.org\nc@bücher.example\n",
			`a@example.org|| line 2: address "nobody": there is no @ line 3: there are 4 fields, more than address, reason and source ` +
				`line 4: bare " in non-quoted-field c@xn--bcher-kva.example||`,
		},
		"line numbers": {"a@example.org,\"two\nlines\"\nnobody\n", "a@example.org|two\nlines| line 3: address \"nobody\": there is no @"},
		"no addresses": {"reason\ngone\n", "line 1: the header names no column of addresses"},
		"hostile":      {"\"a@example.org\nb@example.org\n", "lines 1 to 2: extraneous or missing \" in quoted-field"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for s, err := range store.ReadSuppressions(strings.NewReader(test.in)) {
				if err != nil {
					got = append(got, err.Error())
					continue
				}
				got = append(got, s.Address+"|"+s.Reason+"|"+s.Source)
			}
			if all := strings.Join(got, " "); all != test.want {
				t.Errorf("%q gives\n%s\nwant\n%s", test.in, all, test.want)
			}
		})
	}
	for _, err := range store.ReadSuppressions(strings.NewReader("reason\ngone\n")) {
		if _, isLine := errors.AsType[*store.LineError](err); isLine || !errors.Is(err, store.ErrNoAddresses) {
			t.Errorf("a header without addresses: %v", err)
		}
	}
	for in, want := range map[string][2]int{"nobody\n": {1, 1}, "a@example.org\n\"b\nc": {2, 3}} {
		for _, err := range store.ReadSuppressions(strings.NewReader(in)) {
			if line, isLine := errors.AsType[*store.LineError](err); isLine && [2]int{line.Line, line.Last} != want {
				t.Errorf("%q: lines %d to %d, want %v", in, line.Line, line.Last, want)
			}
		}
	}
	broken := errors.New("broken")
	for s, err := range store.ReadSuppressions(readerFunc(func([]byte) (int, error) { return 0, broken })) {
		if !errors.Is(err, broken) {
			t.Errorf("%+v, %v", s, err)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
