package smtpx_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds tests that would otherwise hang; none of them waits for it.
const patience = 30 * time.Second

// newRelay starts a server and opens a client for it, both for the length of the test.
func newRelay(t *testing.T, config smtptest.Config, opts ...smtpx.Option) (*smtptest.Server, *smtpx.Client) {
	t.Helper()
	srv := smtptest.New(t, config)
	return srv, open(t, srv.URL(), opts...)
}

func open(t *testing.T, url string, opts ...smtpx.Option) *smtpx.Client {
	t.Helper()
	opts = append([]smtpx.Option{func(c *smtpx.Config) {
		if c.EHLO == "" {
			c.EHLO = "client.example.com"
		}
	}}, opts...)
	client, err := smtpx.Open(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// recorder keeps the events of a server's hook.
type recorder struct {
	mu     sync.Mutex
	events []smtptest.Event
}

func (r *recorder) hook(_ context.Context, e smtptest.Event) smtptest.Action {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	return smtptest.Action{}
}

// count tells how often a stage was reached.
func (r *recorder) count(stage smtptest.Stage) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, e := range r.events {
		if e.Stage == stage {
			n++
		}
	}
	return n
}

// message makes a small message with a body of the given lines.
func message(lines ...string) []byte {
	return []byte("From: <a@example.com>\r\nTo: <b@example.net>\r\nMessage-ID: <1@example.com>\r\nSubject: test\r\n\r\n" +
		strings.Join(lines, "\r\n") + "\r\n")
}

func envelope(to ...string) smtpx.Envelope {
	return smtpx.Envelope{From: "a@example.com", To: to}
}

// wantError fails the test unless err is an *smtpx.Error of the stage and class.
func wantError(t *testing.T, err error, stage smtpx.Stage, class smtpx.Class) {
	t.Helper()
	_ = asError(t, err, stage, class)
}

// asError is wantError and returns the error for a closer look.
func asError(t *testing.T, err error, stage smtpx.Stage, class smtpx.Class) *smtpx.Error {
	t.Helper()
	var e *smtpx.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v is no *smtpx.Error", err)
	}
	if e.Stage != stage || e.Class != class {
		t.Fatalf("stage %s, class %s: %v; want stage %s, class %s", e.Stage, e.Class, e, stage, class)
	}
	return e
}
