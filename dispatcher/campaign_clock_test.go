package dispatcher_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/smtpx"
)

// Nothing in the package that writes leases and schedules reads a clock. A caller gives it lengths of time, which the database
// adds to its own time, or times that an application gave a message.
func TestTheStoreReadsNoClock(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../store/*.go")
	if err != nil {
		t.Fatal(err)
	}
	read := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		read++
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "time" && (s.Sel.Name == "Now" || s.Sel.Name == "Since" || s.Sel.Name == "Until") {
				t.Errorf("%v: time.%s", set.Position(s.Pos()), s.Sel.Name)
			}
			return true
		})
	}
	if read == 0 {
		t.Error("no file of the store was read")
	}
}

// otherClock is a PostgreSQL server with a clock of its own. libfaketime provides the clock, which can be set while the server
// runs.
type otherClock struct {
	cluster *pgtest.Cluster
	file    string
}

// newOtherClock starts a server whose clock is off by a number of hours. It skips the test if libfaketime is not installed.
func newOtherClock(t *testing.T, hours int) *otherClock {
	t.Helper()
	libraries, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(libraries) == 0 {
		t.Skip("a server with another clock needs libfaketime, for example Debian's package of that name")
	}
	// The server runs as another user.
	dir, err := os.MkdirTemp("/tmp", "outbox-clock-") //nolint:usetesting // closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &otherClock{file: filepath.Join(dir, "clock")}
	c.set(t, hours)
	environment := map[string]string{
		"LD_PRELOAD": libraries[0], "FAKETIME_TIMESTAMP_FILE": c.file, "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
	}
	for name, value := range environment { // of what is started here, and nothing else
		if err := os.Setenv(name, value); err != nil { //nolint:usetesting // until the server runs only
			t.Fatal(err)
		}
	}
	defer func() {
		for name := range environment {
			_ = os.Unsetenv(name)
		}
	}()
	c.cluster = pgtest.StartForTest(t, pgtest.Options{})
	return c
}

// set changes the offset of the clock at once, as an administrator would.
func (c *otherClock) set(t *testing.T, hours int) {
	t.Helper()
	next := c.file + ".next"
	if err := os.WriteFile(next, fmt.Appendf(nil, "%+dh\n", hours), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, c.file); err != nil {
		t.Fatal(err)
	}
}

// now asks the server.
func (q *testQueue) now() time.Time {
	q.t.Helper()
	var now time.Time
	if err := q.db.QueryRowContext(q.t.Context(), "SELECT now()").Scan(&now); err != nil {
		q.t.Fatal(err)
	}
	return now
}

// wantOff fails unless the clock of the database is off by so many hours.
func (q *testQueue) wantOff(hours int) {
	q.t.Helper()
	if off := time.Until(q.now()) - time.Duration(hours)*time.Hour; off.Abs() > time.Minute {
		q.t.Fatalf("the clock of the database is off by %v more than %d hours", off, hours)
	}
}

// The clock of the database is a day ahead of the others, or a day behind. Leases, schedules and deadlines keep their lengths.
// SQLite has no clock of its own, so there is nothing to show.
func TestClocksADayApart(t *testing.T) { // not beside others, which would start programs with another clock
	for _, hours := range []int{-24, 24} {
		t.Run(fmt.Sprintf("%+d hours", hours), func(t *testing.T) {
			c := newOtherClock(t, hours)
			k := newKillingOn(t, c.cluster.NewDatabase(t))
			k.wantOff(hours)

			// A dispatcher is killed while it holds leases. They lapse after their length, neither a day later nor at once.
			dead := employ(t, orders{Name: "dead", Database: k.database, Relay: k.relay.URL(), Lease: campaignLease, Hold: true})
			k.place(20)
			f := &fleet{testQueue: k.testQueue}
			f.leased("dead")
			dead.kill()
			k.killed["dead"] = true
			took := time.Now()
			stop := start(t, newDispatcher(t, dispatcher.Config{
				Queue: k.testQueue, Name: "alive", Lease: campaignLease, Poll: 20 * time.Millisecond,
			}, openRelay(t, k.relay)))
			defer stop()
			ctx := t.Context()
			if _, err := k.relay.WaitMessages(ctx, 20); err != nil {
				t.Fatal(err)
			}
			lapsed := time.Since(took)

			// A running dispatcher keeps its leases beyond their first end.
			if _, err := k.db.ExecContext(ctx, "INSERT INTO campaign_orders (number) VALUES ('later-0'), ('deadline-0')"); err != nil {
				t.Fatal(err)
			}
			due := k.now().Add(2 * time.Second)
			k.enqueue(1, func(m *outbox.Message) {
				*m = *orderMail("later-0", 0)
				m.NotBefore = due
			})
			k.enqueue(1, func(m *outbox.Message) {
				*m = *orderMail("deadline-0", 0)
				m.NotBefore, m.Expires = due, due.Add(time.Hour)
				if m.Expires.Before(time.Now()) { // the application would be told so
					m.Expires = time.Now().Add(time.Hour)
				}
			})
			if _, err := k.relay.WaitMessages(ctx, 22); err != nil {
				t.Fatal(err)
			}
			if at := k.now(); at.Before(due) || at.Sub(due) > resumption {
				t.Errorf("a message for %v was sent at %v by the clock of the database", due, at)
			}
			k.drain()
			k.audit(fmt.Sprintf("the clock of the database is off by %d hours; what a dead dispatcher held was delivered after %v", hours,
				lapsed.Round(time.Millisecond)))
		})
	}
}

// The clock of the database jumps a day ahead while two dispatchers deliver, so every lease seems to have lapsed. Nothing is
// lost, and no message with Hold goes twice. When the clock jumps back, older messages wait visibly, newer ones are delivered,
// and in time the rest is, too.
func TestTheClockJumps(t *testing.T) { // not beside others
	c := newOtherClock(t, 0)
	k := newKillingOn(t, c.cluster.NewDatabase(t))
	for _, name := range []string{"one", "two"} {
		client, err := smtpx.Open(k.relay.URL(), func(c *smtpx.Config) { c.EHLO = name + ".example.com" })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = client.Close() }()
		defer start(t, newDispatcher(t, dispatcher.Config{Queue: k.testQueue, Name: name, Lease: campaignLease, Poll: 20 * time.Millisecond}, client))()
	}
	app := employ(t, orders{Name: "app-0", Database: k.database, Pace: 20 * time.Millisecond})
	jumps := 3
	if campaign.On() {
		jumps = 50
	}
	for i := range jumps {
		k.progress()
		c.set(t, 24*(i+1))
		k.await("the clock has jumped", func() (bool, error) { return time.Until(k.now()) > time.Duration(24*(i+1)-1)*time.Hour, nil })
	}
	k.progress()
	k.retire(app)
	k.drain()

	if err := k.Pause(t.Context(), outbox.DefaultRoute, "the clock is put back"); err != nil {
		t.Fatal(err)
	}
	k.place(20)
	c.set(t, 0)
	k.wantOff(0)
	if _, err := k.Resume(t.Context(), outbox.DefaultRoute); err != nil {
		t.Fatal(err)
	}
	before := k.relay.Count()
	k.place(20)
	k.progressFrom(before, 20)
	stats, err := k.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if waiting := stats.Scheduled; waiting < 20 || k.relay.Count() != before+20 {
		t.Errorf("%d deliveries wait for their time and %d messages were sent, want 20 at least and 20", waiting, k.relay.Count()-before)
	}
	c.set(t, 24*(jumps+1))
	k.progressFrom(before, 40)
	k.drain()
	k.audit(fmt.Sprintf("the clock of the database jumped %d times by a day, and back", jumps))
}
