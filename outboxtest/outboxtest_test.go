package outboxtest_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/outboxtest"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// order is a message with everything that a Mail shows.
func order() *outbox.Message {
	return &outbox.Message{
		From:    outbox.Address{Name: "Jörgs Laden", Address: "shop@example.com"},
		To:      []outbox.Address{{Name: "Ann", Address: "ann@example.org"}},
		Cc:      []outbox.Address{{Address: "cc@example.org"}},
		Bcc:     []outbox.Address{{Address: "bcc@example.org"}},
		ReplyTo: []outbox.Address{{Address: "help@example.com"}},
		Subject: "Ihre Bestellung 名",
		Text:    "See https://example.com/a?b=1, (https://example.com/c) and https://example.com/d_(e).\n",
		HTML:    `<a href="https://example.com/a?b=1">a</a><a href="mailto:x@example.com">b</a><a href="#">c</a><img src="https://i.example/">`,
		Attachments: []outbox.Attachment{
			{Name: "Rechnung 名.pdf", Data: []byte("%PDF\x00")}, {ContentID: "logo", ContentType: "image/png", Data: []byte("png")},
		},
		Key: "order-1", Route: "shop", Priority: outbox.Bulk, OnUncertain: outbox.Hold, Tags: []string{"order", "new"},
		Metadata:  map[string]string{"customer": "7"},
		NotBefore: time.Date(2001, 2, 3, 4, 5, 6, 7e6, time.UTC), Expires: time.Date(2101, 2, 3, 4, 5, 6, 7e6, time.UTC),
	}
}

// checkOrder compares what was read of order.
func checkOrder(t *testing.T, m *outboxtest.Mail) {
	t.Helper()
	want := order()
	if !reflect.DeepEqual(m.Recipients, []string{"ann@example.org", "cc@example.org", "bcc@example.org"}) || m.Sender != "shop@example.com" {
		t.Errorf("envelope %q to %q", m.Sender, m.Recipients)
	}
	if m.From != want.From || !slices.Equal(m.To, want.To) || !slices.Equal(m.Cc, want.Cc) || !slices.Equal(m.ReplyTo, want.ReplyTo) {
		t.Errorf("addresses %v, %v, %v, %v", m.From, m.To, m.Cc, m.ReplyTo)
	}
	if m.Subject != want.Subject || m.Text != want.Text || strings.TrimSpace(m.HTML) != want.HTML {
		t.Errorf("%q\n%q\n%q", m.Subject, m.Text, m.HTML)
	}
	links := []string{
		"https://example.com/a?b=1", "mailto:x@example.com", "https://example.com/c", "https://example.com/d_(e)",
	}
	if !slices.Equal(m.Links, links) {
		t.Errorf("links %q, want %q", m.Links, links)
	}
	attached := []outboxtest.Attachment{
		{ContentType: "image/png", ContentID: "logo", Data: []byte("png")},
		{Name: "Rechnung 名.pdf", ContentType: "application/pdf", Data: []byte("%PDF\x00")},
	}
	if !reflect.DeepEqual(m.Attachments, attached) {
		t.Errorf("attachments %+v", m.Attachments)
	}
	if m.Header.Get("Message-Id") == "" || !bytes.Contains(m.Raw, []byte("MIME-Version: 1.0\r\n")) {
		t.Errorf("header %v", m.Header)
	}
}

func TestEnqueuedShowsEverything(t *testing.T) {
	onBoth(t, func(t *testing.T, db database, _ *store.Store) {
		outboxtest.RequireNotEnqueued(t, db, outboxtest.Match{})
		id := enqueue(t, db, order())
		m := outboxtest.RequireEnqueued(t, db, outboxtest.Match{
			To: "BCC@example.org", From: "Shop@example.com", Subject: "Ihre Bestellung 名", Contains: "#", Key: "order-1", Route: "shop",
			Tag: "new", State: outbox.StateQueued, Where: func(m *outboxtest.Mail) bool { return m.ID != "" },
		})
		checkOrder(t, m)
		want := order()
		if m.ID != id || m.Key != want.Key || m.Route != want.Route || m.Priority != want.Priority ||
			m.OnUncertain != want.OnUncertain || !slices.Equal(m.Tags, want.Tags) || !reflect.DeepEqual(m.Metadata, want.Metadata) ||
			!m.NotBefore.Equal(want.NotBefore) || !m.Expires.Equal(want.Expires) {
			t.Errorf("%+v", m)
		}
		// A body that was scrubbed leaves the rest.
		if _, err := db.ExecContext(t.Context(), `UPDATE outbox_messages SET body = NULL`); err != nil {
			t.Fatal(err)
		}
		if m := outboxtest.RequireEnqueued(t, db, outboxtest.Match{Subject: want.Subject, Key: "order-1"}); m.Text != "" || m.Raw != nil {
			t.Errorf("a scrubbed body has %q", m.Text)
		}
	})
}

// What is encrypted is found by its envelope, and with the keys by everything.
func TestEnqueuedOpensWhatIsEncrypted(t *testing.T) {
	key, err := keyring.NewKey("k1")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.New(key)
	if err != nil {
		t.Fatal(err)
	}
	out, err := outbox.New(outbox.Config{Keys: keys, SealDetails: true})
	if err != nil {
		t.Fatal(err)
	}
	app, queue := open(t)
	msg := order()
	msg.NotBefore = time.Time{}
	if _, err := out.Enqueue(t.Context(), outbox.InTx(struct{ outbox.Execer }{app.db}), msg); err != nil {
		t.Fatal(err)
	}
	if m := outboxtest.RequireEnqueued(t, app.db, outboxtest.Match{Key: msg.Key}); m.Subject != "" || m.Raw != nil || m.Metadata != nil {
		t.Errorf("without keys: %+v", m)
	}
	with := outboxtest.WithKeys(app.db, keys)
	m := outboxtest.RequireEnqueued(t, with, outboxtest.Match{Subject: msg.Subject, Contains: "#"})
	checkOrder(t, m)
	if !reflect.DeepEqual(m.Metadata, msg.Metadata) {
		t.Errorf("metadata %v", m.Metadata)
	}
	inbox := outboxtest.NewInbox(t)
	if report := outboxtest.DeliverWithKeys(t, queue, inbox, keys); report.Held != 0 || report.Sent == 0 {
		t.Errorf("%+v", report)
	}
	inbox.Require(outboxtest.Match{Subject: msg.Subject})
	other, err := keyring.New(keyring.Key{ID: "k1", Secret: bytes.Repeat([]byte("x"), 32)})
	if err != nil {
		t.Fatal(err)
	}
	fails(t, func(t outboxtest.TB) { outboxtest.Enqueued(t, outboxtest.WithKeys(app.db, other)) }, "the key does not open it")
}

func TestFailuresSayWhatIsThere(t *testing.T) {
	app, queue := open(t)
	fails(t, func(t outboxtest.TB) { outboxtest.RequireEnqueued(t, app.db, outboxtest.Match{}) }, "0 messages", "none at all")
	request(t, app, "t1")
	fails(t, func(t outboxtest.TB) { outboxtest.RequireNotEnqueued(t, app.db, outboxtest.Match{}) }, "1 message of this kind was enqueued, want none", "(queued): fits")
	for want, match := range map[string]outboxtest.Match{
		`To "ann@example.org" is not "bob@example.org"`:      {To: "bob@example.org"},
		`From "accounts@example.com" is not "x@example.com"`: {From: "x@example.com"},
		`Subject "Reset your password" is not "Reset"`:       {Subject: "Reset"},
		`Key "" is not "k"`:                                           {Key: "k"},
		`Route "default" is not "bulk"`:                               {Route: "bulk"},
		`Tag "password-reset" is not "reset"`:                         {Tag: "reset"},
		`neither subject nor body contains "token=t2"`:                {Contains: "token=t2"},
		`"Reset your password" from accounts@example.com to ann@exam`: {Where: func(*outboxtest.Mail) bool { return false }},
	} {
		fails(t, func(t outboxtest.TB) { outboxtest.RequireEnqueued(t, app.db, match) }, "0 messages", want)
	}
	request(t, app, "t2")
	fails(t, func(t outboxtest.TB) { outboxtest.RequireEnqueued(t, app.db, outboxtest.Match{}) }, "2 messages", "t")
	fails(t, func(t outboxtest.TB) {
		inbox := outboxtest.NewInbox(t)
		outboxtest.Deliver(t, queue, inbox)
		inbox.Require(outboxtest.Match{Key: "k"}) // not known of what arrived
	}, "0 messages of this kind were delivered", `Key "" is not "k"`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fails(t, func(t outboxtest.TB) { outboxtest.NewInbox(t).Wait(ctx, outboxtest.Match{}) }, "waiting", "none at all")
	if err := app.db.Close(); err != nil {
		t.Fatal(err)
	}
	fails(t, func(t outboxtest.TB) { outboxtest.Enqueued(t, app.db) }, "look for enqueued messages")
	fails(t, func(t outboxtest.TB) { outboxtest.Deliver(t, queue, new(outboxtest.Relay)) }, "deliver")
	fails(t, func(t outboxtest.TB) { outboxtest.Deliver(t, queue, nil) }, "deliver")
	fails(t, func(t outboxtest.TB) { outboxtest.Render(t, nil, &outbox.Message{}) }, "render: invalid From")
}

func TestInboxShowsEverything(t *testing.T) {
	app, queue := open(t)
	inbox := outboxtest.NewInbox(t)
	if _, err := outbox.Enqueue(t.Context(), outbox.InTx(struct{ outbox.Execer }{app.db}), order()); err != nil {
		t.Fatal(err)
	}
	request(t, app, "t1")
	if report := outboxtest.Deliver(t, queue, inbox); report.Sent != 4 {
		t.Errorf("report %+v", report)
	}
	checkOrder(t, inbox.Require(outboxtest.Match{To: "bcc@example.org"}))
	if n := len(inbox.Search(outboxtest.Match{To: "ann@example.org"})); n != 2 || len(inbox.Mail()) != 2 {
		t.Errorf("%d and %d messages, want 2", n, len(inbox.Mail()))
	}
	inbox.Clear()
	if n := len(inbox.Mail()); n != 0 {
		t.Errorf("%d messages after Clear", n)
	}
}

func TestRelayFailsOnDemand(t *testing.T) {
	relay := new(outboxtest.Relay)
	commits := 0
	envelope := func(to ...string) smtpx.Envelope {
		return smtpx.Envelope{From: "a@example.com", To: to, Commit: func(context.Context) error { commits++; return nil }}
	}
	send := func(e smtpx.Envelope) (smtpx.Result, *smtpx.Error) {
		t.Helper()
		result, err := relay.Send(t.Context(), e, []byte("From: a@example.com\r\nSubject: s\r\n\r\nhello\r\n"))
		var failure *smtpx.Error
		if err != nil && !errors.As(err, &failure) {
			t.Fatalf("the error is %T", err)
		}
		return result, failure
	}
	relay.Fail(2, outboxtest.ErrUnreachable)
	relay.Fail(1, outboxtest.ErrSpam)
	relay.LoseReplies(1)
	for i, want := range []struct {
		err      *smtpx.Error
		class    smtpx.Class
		commits  int
		accepted int
	}{
		{outboxtest.ErrUnreachable, smtpx.ClassUnreachable, 0, 0}, {outboxtest.ErrUnreachable, smtpx.ClassUnreachable, 0, 0},
		{outboxtest.ErrSpam, smtpx.ClassMessage, 1, 0}, {nil, smtpx.ClassAmbiguous, 2, 1}, {nil, "", 3, 2},
	} {
		result, err := send(envelope("b@example.org"))
		if (err == nil) != (want.class == "") || err != nil && err.Class != want.class || want.err != nil && err != want.err {
			t.Errorf("message %d: %v", i+1, err)
		}
		if len(result.Outcomes) != 1 || result.Outcomes[0].Err != err || result.Outcomes[0].Accepted != (err == nil) {
			t.Errorf("message %d: outcomes %+v", i+1, result.Outcomes)
		}
		if commits != want.commits || len(relay.Accepted()) != want.accepted || relay.Attempts() != i+1 {
			t.Errorf("message %d: %d commits, %d accepted, %d attempts", i+1, commits, len(relay.Accepted()), relay.Attempts())
		}
	}
	relay.Refuse("B@example.org", outboxtest.ErrNoSuchUser)
	result, err := send(envelope("b@example.org", "c@example.org"))
	last := relay.Accepted()[2]
	if err != outboxtest.ErrNoSuchUser || result.Outcomes[0].Accepted || !result.Outcomes[1].Accepted ||
		!slices.Equal(last.Recipients, []string{"c@example.org"}) || last.Text != "hello\n" {
		t.Errorf("a refused recipient: %v, %+v, %v", err, result.Outcomes, last)
	}
	relay.Refuse("b@example.org", nil)
	relay.Fail(-1, outboxtest.ErrBadPassword)
	for range 3 {
		if _, err := send(envelope("b@example.org")); err != outboxtest.ErrBadPassword {
			t.Errorf("after Fail(-1): %v", err)
		}
	}
	relay.Reset()
	if _, err := send(envelope("b@example.org")); err != nil {
		t.Errorf("after Reset: %v", err)
	}
	// The fence of the dispatcher counts: what it does not let through is not accepted.
	before, fenced := len(relay.Accepted()), errors.New("lease lost")
	e := envelope("b@example.org")
	e.Commit = func(context.Context) error { return fenced }
	if _, err := send(e); err == nil || err.Class != smtpx.ClassRecycle || !errors.Is(err, fenced) {
		t.Errorf("a failed commit: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := relay.Send(ctx, envelope("b@example.org"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: %v", err)
	}
	if n := len(relay.Accepted()); n != before {
		t.Errorf("%d messages accepted, want %d", n, before)
	}
}

// TestRelayOutcomesReachTheQueue sends every predefined failure through a dispatcher.
func TestRelayOutcomesReachTheQueue(t *testing.T) {
	for _, test := range []struct {
		err  *smtpx.Error
		want outbox.State
	}{
		{outboxtest.ErrUnreachable, outbox.StateQueued}, {outboxtest.ErrBusy, outbox.StateQueued}, {outboxtest.ErrBadPassword, outbox.StateQueued},
		{outboxtest.ErrNoSuchUser, outbox.StateFailed}, {outboxtest.ErrSpam, outbox.StateFailed}, {nil, outbox.StateUncertain},
	} {
		app, queue := open(t)
		m := order()
		m.Cc, m.Bcc = nil, nil
		receipt, err := outbox.Enqueue(t.Context(), outbox.InTx(struct{ outbox.Execer }{app.db}), m)
		if err != nil {
			t.Fatal(err)
		}
		relay := new(outboxtest.Relay)
		if test.err != nil {
			relay.Fail(1, test.err)
		} else {
			relay.LoseReplies(1)
		}
		outboxtest.Deliver(t, queue, relay)
		stored, err := queue.Get(t.Context(), receipt.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := stored.Deliveries[0].State; got != test.want {
			t.Errorf("%v: the delivery is %s, want %s", test.err, got, test.want)
		}
	}
}

// What an application enqueued in a schema that it names is found there, and nowhere else.
func TestEnqueuedInSchema(t *testing.T) {
	db, err := postgres.Open(pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	const name = `Mail "room"`
	for _, opts := range [][]schema.Option{nil, {schema.In(name)}} {
		if err := schema.Migrate(t.Context(), db, schema.Postgres, opts...); err != nil {
			t.Fatal(err)
		}
	}
	o, err := outbox.New(outbox.Config{Schema: name})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := o.Enqueue(t.Context(), tx, order()); err != nil {
		t.Fatal(err)
	}
	outboxtest.RequireEnqueued(t, outboxtest.InSchema(tx, name), outboxtest.Match{})
	outboxtest.RequireNotEnqueued(t, tx, outboxtest.Match{})
	sealed := outboxtest.InSchema(outboxtest.WithKeys(tx, nil), name) // in either order
	outboxtest.RequireEnqueued(t, outboxtest.WithKeys(sealed, nil), outboxtest.Match{State: outbox.StateQueued})
	outboxtest.Advance(t, outboxtest.InSchema(tx, name), time.Hour)
	bad := outboxtest.InSchema(tx, "pg_mail")
	fails(t, func(t outboxtest.TB) { outboxtest.Enqueued(t, bad) }, "belongs to PostgreSQL")
	fails(t, func(t outboxtest.TB) { outboxtest.Enqueued(t, outboxtest.WithKeys(bad, nil)) }, "belongs to PostgreSQL")
}

func TestGolden(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "a.eml")
	body := outboxtest.Render(t, nil, order())
	o, err := outbox.New(outbox.Config{MessageIDDomain: "other.example"})
	if err != nil {
		t.Fatal(err)
	}
	if other := outboxtest.Render(t, o, order()); bytes.Equal(other, body) || !bytes.Contains(other, []byte("@other.example>")) {
		t.Error("the configuration of the outbox does not count")
	}
	fails(t, func(t outboxtest.TB) { outboxtest.Golden(t, path, body) }, "there is no golden file", "OUTBOXTEST_UPDATE=1")
	t.Setenv("OUTBOXTEST_UPDATE", "1")
	outboxtest.Golden(t, path, body)
	t.Setenv("OUTBOXTEST_UPDATE", "")
	outboxtest.Golden(t, path, outboxtest.Render(t, nil, order()))
	fails(t, func(t outboxtest.TB) { outboxtest.Golden(t, path, body[:len(body)-2]) }, "differs from line")
	fails(t, func(t outboxtest.TB) {
		outboxtest.Golden(t, path, bytes.Replace(body, []byte("Date"), []byte("Data"), 1))
	},
		"differs from line 1 on", `"Data: Sat, 03 Feb 2001 04:05:06 +0000\r"`)
	fails(t, func(t outboxtest.TB) { outboxtest.Golden(t, filepath.Dir(path), body) }, "read the golden file")
	t.Setenv("OUTBOXTEST_UPDATE", "1")
	fails(t, func(t outboxtest.TB) { outboxtest.Golden(t, path+"/x", body) }, "write the golden file")
	if data, err := os.ReadFile(path); err != nil || !bytes.Equal(data, body) {
		t.Errorf("the golden file was changed: %v", err)
	}
}
