package dispatcher_test

import (
	"database/sql"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// stageFault is what a relay does at a stage, once.
type stageFault struct {
	name   string
	action smtptest.Action
	reply  string // a part of what must be kept of it, "" where the relay says nothing
	brief  bool   // the client waits for replies a second only
}

var stageFaults = []stageFault{
	{"4xx", smtptest.Action{Reply: "451 4.3.0 the moon is full"}, "the moon is full", false},
	{"5xx", smtptest.Action{Reply: "554 5.3.0 the moon is new"}, "the moon is new", false},
	{"421 and close", smtptest.Action{Reply: "421 4.3.2 off to bed", End: smtptest.Close}, "off to bed", false},
	{"FIN", smtptest.Action{End: smtptest.Close}, "", false},
	{"RST", smtptest.Action{End: smtptest.Reset}, "", false},
	{"stall", smtptest.Action{End: smtptest.Stall}, "", true},
	{"garbage", smtptest.Action{Raw: "\x00\xffwhat is this\r\n"}, "", false},
	{"over-long reply", smtptest.Action{Raw: "250 " + strings.Repeat("x", 100_000) + "\r\n"}, "", false},
	{"endless reply", smtptest.Action{Raw: strings.Repeat("250-x\r\n", 10_000)}, "", false},
	{"split reply", smtptest.Action{Trickle: true}, "", false},
	{"late reply", smtptest.Action{Delay: 300 * time.Millisecond}, "", false},
}

// stageLetters are the letters for the classes in stageClasses, and for none.
var stageLetters = map[rune]string{
	'U': "unreachable", 'C': "config", 'T': "transient", 'M': "message", 'R': "recipient", 'A': "ambiguous", 'S': "sent",
}

// stageClasses are the classes of a delivery's first outcome, for each of stageFaults in turn. The relay offers PIPELINING,
// STARTTLS and AUTH.
var stageClasses = []struct {
	stage   smtptest.Stage
	classes string
}{
	{smtptest.StageBanner, "UUUUUUUUUSS"},
	{smtptest.StageEHLO, "UUUUUUUUUSS"},
	{smtptest.StageStartTLS, "UCUUUUUUUSS"},
	{smtptest.StageTLS, "CCCUUUCCCSS"},
	{smtptest.StageAuth, "TCTUUUUUUSS"},
	{smtptest.StageMail, "TMTTTTTTTSS"},
	{smtptest.StageRcpt, "TMTTTTTTTSS"},
	{smtptest.StageData, "TMTTTTTTTSS"},
	{smtptest.StageDot, "TMTAAAAAASS"},
}

// stageCell is one fault at one stage.
type stageCell struct {
	stageFault

	stage smtptest.Stage
	class string
	lines int // of the letter
}

// stageCells returns all cells: the matrix, and those that only some stages have.
func stageCells(t *testing.T) []stageCell {
	t.Helper()
	var cells []stageCell
	for _, row := range stageClasses {
		classes := []rune(row.classes)
		if len(classes) != len(stageFaults) {
			t.Fatalf("%s has %d classes for %d faults", row.stage, len(classes), len(stageFaults))
		}
		for i, f := range stageFaults {
			if row.stage == smtptest.StageTLS {
				f.reply = "" // it comes in clear where a handshake is due
			}
			cells = append(cells, stageCell{f, row.stage, stageLetters[classes[i]], 10})
		}
	}
	const long = 600_000 // more than the buffers of a socket hold, so that the body is under way when the fault comes
	return append(cells, []stageCell{
		{stageFault{"body cut, FIN", smtptest.Action{After: 1000, End: smtptest.Close}, "", false}, smtptest.StageBody, "transient", long},
		{stageFault{"body cut, RST", smtptest.Action{After: 1000, End: smtptest.Reset}, "", false}, smtptest.StageBody, "transient", long},
		{stageFault{"early 4xx", smtptest.Action{After: 1000, Reply: "452 4.3.1 disk full"}, "disk full", false}, smtptest.StageBody, "transient", long},
		{stageFault{"early 5xx", smtptest.Action{After: 1000, Reply: "552 5.3.4 too big", End: smtptest.Close}, "too big", false}, smtptest.StageBody, "message", long},
		{stageFault{"early 250", smtptest.Action{After: 1000, Reply: "250 2.0.0 accepted already"}, "", false}, smtptest.StageBody, "transient", long},
		{stageFault{"accepted, then FIN", smtptest.Action{Withhold: true, End: smtptest.Close}, "", false}, smtptest.StageDot, "ambiguous", 10},
		{stageFault{"accepted, then silence", smtptest.Action{Withhold: true, End: smtptest.Stall}, "", true}, smtptest.StageDot, "ambiguous", 10},
		{stageFault{"250 and RST", smtptest.Action{Reply: "250 2.0.0 Ok: queued as X1", End: smtptest.Close}, "", false}, smtptest.StageDot, "sent", 10},
		{stageFault{"unsolicited 421", smtptest.Action{Reply: "421 4.4.2 idle for too long", End: smtptest.Close}, "", false}, smtptest.StageIdle, "sent", 10},
		{stageFault{"garbage", smtptest.Action{Raw: "\x00\xff\r\n"}, "", false}, smtptest.StageQuit, "sent", 10},
		{stageFault{"RST", smtptest.Action{End: smtptest.Reset}, "", false}, smtptest.StageQuit, "sent", 10},
		{stageFault{"session used up", smtptest.Action{Reply: "421 4.7.0 maximum message count per session reached", End: smtptest.Close}, "", false}, smtptest.StageMail, "sent", 10},
	}...)
}

// TestStageByFault lets a relay fail once, in every way at every stage, while it gets a message with Hold. Then the relay
// works. Every time the delivery gets the class that the table of docs/architecture.md says, and keeps the relay's own words.
// In the end it is sent once, unless it failed or is in doubt. No goroutine and no descriptor is left. PostgreSQL sees only
// the class of a fault, so each class is tried once there.
func TestStageByFault(t *testing.T) { // not beside others, whose descriptors would be counted
	for _, engine := range []struct {
		name string
		open func(t *testing.T) *sql.DB
	}{{"sqlite", openSQLite}, {"postgres", openPostgres}} {
		t.Run(engine.name, func(t *testing.T) {
			none := goleak.IgnoreCurrent()
			before := descriptors(t)
			q := newQueue(t, engine.open(t))
			seen := make(map[string]bool)
			t.Run("cells", func(t *testing.T) {
				for i, c := range stageCells(t) {
					if engine.name == "postgres" {
						if seen[c.class] && !campaign.On() {
							continue
						}
						seen[c.class] = true
					}
					t.Run(fmt.Sprintf("%s/%s", c.stage, c.name), func(t *testing.T) {
						t.Parallel()
						on := *q
						on.t = t
						on.meet(c, fmt.Sprintf("cell-%d", i))
					})
				}
			})
			if err := q.db.Close(); err != nil {
				t.Error(err)
			}
			goleak.VerifyNone(t, none)
			if after := descriptors(t); after > before {
				t.Errorf("%d descriptors are left", after-before)
			}
		})
	}
}

// descriptors counts the open ones. The first socket of a process opens one more for the poller.
func descriptors(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("descriptors cannot be counted here")
	}
	return len(entries)
}

// meet sends one message twice: into a fault, and then without one.
func (q *testQueue) meet(c stageCell, name string) {
	id := q.enqueue(1, func(m *outbox.Message) { *m, m.Route = *crashMessage(outbox.Hold, c.lines), name })[0]
	server, err := smtptest.Start(smtptest.Config{User: "shop", Password: "secret", Hook: smtptest.At(c.stage, 1, c.action)})
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	q.through(server, c.brief, name)

	m := q.get(id)
	d := m.Deliveries[0]
	want := map[string]struct {
		state    outbox.State
		attempts int  // that are counted
		later    bool // it waits
	}{
		"sent":        {outbox.StateSent, 1, false},
		"transient":   {outbox.StateQueued, 1, true},
		"unreachable": {outbox.StateQueued, 0, true},
		"config":      {outbox.StateQueued, 0, true},
		"recipient":   {outbox.StateFailed, 1, false},
		"message":     {outbox.StateFailed, 1, false},
		"ambiguous":   {outbox.StateUncertain, 1, true},
	}[c.class]
	if d.State != want.state || d.Attempts != want.attempts || d.Later != want.later {
		q.t.Fatalf("%s after %d attempts, later %t; want %+v; class %s, reply %q", d.State, d.Attempts, d.Later, want, d.Class, d.Reply)
	}
	if c.class != "sent" {
		if d.Class != c.class || d.Reply == "" || !strings.Contains(d.Reply, c.reply) || d.Relay != name {
			q.t.Errorf("class %q, reply %q of relay %q are kept; want %s, %q", d.Class, d.Reply, d.Relay, c.class, c.reply)
		}
		if len(m.Attempts) != 1 || m.Attempts[0].Class != c.class || m.Attempts[0].Stage == "" {
			q.t.Errorf("attempts %+v", m.Attempts)
		}
	}
	arrived := server.Count()
	if most := map[string]int{"sent": 1, "ambiguous": 1}[c.class]; arrived > most || (c.class == "sent" && arrived != 1) {
		q.t.Errorf("%d copies arrived", arrived)
	}

	q.exec("UPDATE outbox_deliveries SET due_at = '" + past + "' WHERE route = '" + name + "'")
	q.through(server, false, name)
	final := want.state
	if final == outbox.StateQueued {
		final = outbox.StateSent
		arrived++
	}
	q.wantStates(id, final)
	if n := server.Count(); n != arrived {
		q.t.Errorf("%d copies arrived in the end, want %d", n, arrived)
	}
}

// through delivers what is due on a route through a relay of the same name.
func (q *testQueue) through(server *smtptest.Server, brief bool, name string) {
	q.t.Helper()
	client, err := smtpx.Open(server.URL(), func(c *smtpx.Config) {
		if brief {
			second := time.Second
			c.Timeouts = smtpx.Timeouts{
				TLS: second, Banner: second, EHLO: second, Auth: second, Mail: second, Rcpt: second, Data: second, Block: second, Dot: second, Quit: second,
			}
		}
	})
	if err != nil {
		q.t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	relays := []dispatcher.Relay{{Name: name, Sender: client, Routes: []string{name}}}
	flush(q.t, newDispatcher(q.t, dispatcher.Config{Queue: q.Store, Relays: relays}, nil))
}
