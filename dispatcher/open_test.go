package dispatcher_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
)

// keyRing returns a key ring whose secrets follow from the names of its keys.
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

// encrypted commits a message that is fully encrypted, and returns the bytes that are to be sent.
func (q *testQueue) encrypted(keys *keyring.Ring, text string) (id outbox.ID, rendered []byte) {
	q.t.Helper()
	out, err := outbox.New(outbox.Config{Keys: keys, SealDetails: true, CompressFrom: 10_000})
	if err != nil {
		q.t.Fatal(err)
	}
	m := &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ada@example.org"}},
		Subject: "Reset your password", Text: text, Metadata: map[string]string{"customer": "c-4711"},
	}
	tx, err := q.db.BeginTx(q.t.Context(), nil)
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	receipt, err := out.Enqueue(q.t.Context(), tx, m)
	if err != nil {
		q.t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		q.t.Fatal(err)
	}
	body, err := q.Body(q.t.Context(), receipt.ID)
	if err != nil {
		q.t.Fatal(err)
	}
	if rendered, err = keys.OpenBody(string(receipt.ID), body); err != nil {
		q.t.Fatal(err)
	}
	return receipt.ID, rendered
}

// raw is a row of outbox_messages as every reader of the database sees it.
type raw struct {
	Body     []byte
	Subject  string
	Metadata string
	KeyID    *string
	Size     int
}

func (q *testQueue) raw(id outbox.ID) raw {
	q.t.Helper()
	var r raw
	err := q.db.QueryRowContext(context.WithoutCancel(q.t.Context()),
		"SELECT body, subject, coalesce(CAST(metadata AS text), '') AS metadata, body_key_id, size FROM outbox_messages WHERE id = $1", string(id)).
		Scan(&r.Body, &r.Subject, &r.Metadata, &r.KeyID, &r.Size)
	if err != nil {
		q.t.Fatal(err)
	}
	return r
}

const secretLink = "https://example.com/reset?token=3f1d8a6f2b11"

// An encrypted message shows nothing in the database and arrives as it was rendered. It makes no difference whether it comes
// with its claim or is fetched later.
func TestEncryptedMessagesAreDelivered(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		keys := keyRing(t, "k1")
		want := make(map[string]bool)
		for _, n := range []int{1, 20, 5000} {
			id, rendered := q.encrypted(keys, strings.Repeat(secretLink+"\n", n))
			r := q.raw(id)
			for _, secret := range []string{"3f1d8a6f2b11", "Reset", "password", "c-4711", "customer", "ada@"} {
				for _, column := range []string{string(r.Body), r.Subject, r.Metadata} {
					if strings.Contains(column, secret) {
						t.Errorf("%q stands in the database", secret)
					}
				}
			}
			if r.KeyID == nil || *r.KeyID != "k1" || r.Size != len(rendered) {
				t.Errorf("key %v, size %d of %d", r.KeyID, r.Size, len(rendered))
			}
			if n == 5000 && len(r.Body) > len(rendered)/10 {
				t.Errorf("%d bytes are stored as %d", len(rendered), len(r.Body))
			}
			want[string(rendered)] = true
		}
		server := smtptest.New(t, smtptest.Config{})
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Keys: keys}, openRelay(t, server)))
		if report.Sent != len(want) {
			t.Fatalf("%+v", report)
		}
		for _, m := range server.Messages() {
			head, body, _ := strings.Cut(string(m.Data), "\r\n")
			if !strings.HasPrefix(head, "X-Outbox-ID: ") || !want[body] {
				t.Errorf("not as it was rendered:\n%s\n%.300s", head, body)
			}
			delete(want, body)
		}
	})
}

// Without the key, or with another key of its name, a message is held and says why. Once the key is there and it is released,
// it is sent.
func TestAMessageWithoutItsKeyIsHeld(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		id, rendered := q.encrypted(keyRing(t, "k1"), secretLink)
		large, _ := q.encrypted(keyRing(t, "k1"), strings.Repeat(secretLink, 5000))
		before := q.raw(id)
		other, err := keyring.New(keyring.Key{ID: "k1", Secret: bytes.Repeat([]byte("z"), 32)})
		if err != nil {
			t.Fatal(err)
		}
		var s sender
		for _, test := range []struct {
			keys *keyring.Ring
			want string
		}{
			{nil, "the key is not in the key ring"}, {keyRing(t, "k2"), "the key is not in the key ring"}, {other, "the key does not open it"},
		} {
			var log bytes.Buffer
			d := newDispatcher(t, dispatcher.Config{
				Queue: q, Keys: test.keys, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			}, &s)
			if report := flush(t, d); report.Held != 2 || report.Attempted() != 2 {
				t.Fatalf("with %v: %+v", test.keys, report)
			}
			for _, id := range []outbox.ID{id, large} {
				q.wantStates(id, outbox.StateHeld)
				got := q.get(id).Deliveries[0]
				if got.Class != string(smtpx.ClassConfig) || !strings.Contains(got.Reply, `key "k1"`) || !strings.Contains(got.Reply, test.want) ||
					got.Attempts != 0 {
					t.Errorf("with %v: class %s, %d attempts, %q", test.keys, got.Class, got.Attempts, got.Reply)
				}
			}
			if !strings.Contains(log.String(), "verb=hold") || strings.Contains(log.String(), "zzzz") {
				t.Errorf("the log:\n%s", &log)
			}
			if n, err := q.Release(t.Context(), store.Filter{Class: "config"}); err != nil || n != 2 {
				t.Fatalf("released %d (%v)", n, err)
			}
		}
		if after := q.raw(id); !bytes.Equal(after.Body, before.Body) || after.Subject != before.Subject {
			t.Error("what is stored has changed")
		}
		report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Keys: keyRing(t, "k2", "k1")}, &s))
		if report.Sent != 2 {
			t.Fatalf("with the key: %+v", report)
		}
		if !slices.ContainsFunc(s.messages(), func(m sentMessage) bool { return strings.HasSuffix(m.body, string(rendered)) }) {
			t.Errorf("sent: %q", s.messages())
		}
	})
}

// Keys are changed while two dispatchers deliver and the application enqueues. Everything arrives once, as it was rendered. In
// the end nothing needs the older key.
func TestKeysChangeWhileDispatchersRun(t *testing.T) {
	t.Parallel()
	eachQueue(t, func(t *testing.T, q *testQueue) {
		const before, during = 40, 40
		older, both := keyRing(t, "k1"), keyRing(t, "k2", "k1")
		var (
			mu   sync.Mutex
			want = make(map[string]bool)
		)
		put := func(keys *keyring.Ring, i int) {
			text := fmt.Sprint(i, " ", secretLink)
			if i%4 == 0 { // does not come with its claim
				text = strings.Repeat(text+"\n", 2000)
			}
			_, rendered := q.encrypted(keys, text)
			mu.Lock()
			want[string(rendered)] = true
			mu.Unlock()
		}
		for i := range before {
			put(older, i)
		}
		for i := range before { // and some for later
			id, _ := q.encrypted(older, fmt.Sprint("later ", i))
			if _, err := q.Hold(t.Context(), store.Filter{IDs: []outbox.ID{id}}); err != nil {
				t.Fatal(err)
			}
		}
		server := smtptest.New(t, smtptest.Config{})
		for range 2 {
			start(t, newDispatcher(t, dispatcher.Config{Queue: q, Keys: both, Poll: 10 * time.Millisecond}, openRelay(t, server)))
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range during {
				put(both, before+i)
			}
		})
		var changed atomic.Int64
		wg.Go(func() {
			for {
				report, err := q.Rekey(t.Context(), both, store.RekeyOptions{})
				changed.Add(report.Changed)
				if err != nil || len(report.Closed) > 0 {
					t.Errorf("rekey: %+v, %v", report, err)
					return
				}
				left, err := q.Rekeyable(t.Context(), both, false)
				if err != nil {
					t.Errorf("count: %v", err)
				}
				if len(left) == 0 {
					return
				}
			}
		})
		wg.Wait()
		if changed.Load() != 2*before {
			t.Errorf("%d messages got the new key, want %d", changed.Load(), 2*before)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		messages, err := server.WaitMessages(ctx, before+during)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			_, body, _ := strings.Cut(string(m.Data), "\r\n")
			if !want[body] {
				t.Errorf("not as it was rendered, or twice:\n%.300s", body)
			}
			delete(want, body)
		}
		if _, err := q.Release(t.Context(), store.Filter{States: []outbox.State{outbox.StateHeld}}); err != nil {
			t.Fatal(err)
		}
		if _, err := server.WaitMessages(ctx, 2*before+during); err != nil {
			t.Fatal(err)
		}
		for d, err := range q.All(t.Context(), store.Filter{}) {
			if err != nil || d.KeyID != "k2" {
				t.Fatalf("message %s has key %q (%v)", d.ID, d.KeyID, err)
			}
			if s, err := keyRing(t, "k2").OpenSubject(string(d.ID), d.Subject); err != nil || s != "Reset your password" {
				t.Fatalf("subject %q (%v)", s, err)
			}
		}
	})
}

// profiled is a sender with a profile.
type profiled struct {
	sender

	name string
}

func (p *profiled) Profile() *smtpx.Profile {
	profile, _ := smtpx.LookupProfile(p.name)
	return profile
}

// signer puts a line before messages, or fails.
type signer struct {
	err   error
	calls atomic.Int64
}

func (s *signer) Sign(body []byte) ([]byte, error) {
	s.calls.Add(1)
	if s.err != nil {
		return nil, s.err
	}
	return append([]byte("DKIM-Signature: x\r\n"), body...), nil
}

// A message is sent with the provider's fields, with decrypted metadata, and with the signature on top. The bytes are the same
// at each attempt.
func TestMessagesAreStampedAndSigned(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	keys := keyRing(t, "k1")
	id, rendered := q.encrypted(keys, secretLink)
	attempts := 0
	var bodies []string
	s := &profiled{name: "postmark"}
	s.send = func(ctx context.Context, env smtpx.Envelope, body []byte) (smtpx.Result, error) {
		bodies = append(bodies, string(body))
		if attempts++; attempts == 1 {
			return refuse(env, reply(smtpx.StageMail, smtpx.ClassTransient, 451, "later"))
		}
		return s.accept(ctx, env, body)
	}
	sign := new(signer)
	d := newDispatcher(t, dispatcher.Config{
		Queue: q, Keys: keys, Relays: []dispatcher.Relay{{Name: "main", Sender: s, Sign: sign}},
	}, nil)
	flush(t, d)
	if _, err := q.Requeue(t.Context(), store.Filter{IDs: []outbox.ID{id}}); err != nil {
		t.Fatal(err)
	}
	flush(t, d)
	want := "DKIM-Signature: x\r\nX-Outbox-ID: " + string(id) + "\r\nX-PM-Metadata-outbox_id: " + string(id) +
		"\r\nX-PM-Metadata-customer: c-4711\r\nX-PM-KeepID: true\r\n" + string(rendered)
	if len(bodies) != 2 || bodies[0] != want || bodies[1] != want {
		t.Errorf("%d attempts:\n%s\nwant\n%s", len(bodies), strings.Join(bodies, "\n---\n"), want)
	}
}

// Messages are not signed if the provider breaks signatures, and that is logged once.
func TestNoSignaturesWhereTheyBreak(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	q.enqueue(3, nil)
	var log bytes.Buffer
	s, sign := &profiled{name: "ses"}, new(signer)
	d := newDispatcher(t, dispatcher.Config{
		Queue: q, Relays: []dispatcher.Relay{{Name: "main", Sender: s, Sign: sign}}, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	}, nil)
	if report := flush(t, d); report.Sent != 3 {
		t.Fatalf("%+v", report)
	}
	if sign.calls.Load() != 0 || strings.Count(log.String(), "messages are not signed") != 1 {
		t.Errorf("signed %d times; the log:\n%s", sign.calls.Load(), &log)
	}
}

// A message that cannot be signed is kept, uncounted, and sent once that is mended.
func TestWhatCannotBeSignedIsKept(t *testing.T) {
	t.Parallel()
	q := newQueue(t, openSQLite(t))
	id := q.enqueue(1, nil)[0]
	s := new(sender)
	broken := &signer{err: fmt.Errorf("read the key: %w", io.ErrUnexpectedEOF)}
	with := func(sign dispatcher.Signer) *dispatcher.Dispatcher {
		return newDispatcher(t, dispatcher.Config{Queue: q, Relays: []dispatcher.Relay{{Name: "main", Sender: s, Sign: sign}}}, nil)
	}
	flush(t, with(broken))
	d := q.get(id).Deliveries[0]
	if d.State != outbox.StateQueued || d.Class != string(smtpx.ClassConfig) || d.Attempts != 0 || !strings.Contains(d.Reply, "read the key") {
		t.Errorf("%s, class %s, %d attempts, %q", d.State, d.Class, d.Attempts, d.Reply)
	}
	if len(s.messages()) != 0 {
		t.Error("it was sent unsigned")
	}
	q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "'")
	if report := flush(t, with(new(signer))); report.Sent != 1 {
		t.Errorf("%+v", report)
	}
}
