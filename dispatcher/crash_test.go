package dispatcher_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/postgres"
	"github.com/outboxmail/outbox/store/sqlite"
)

// The tests in this file run a dispatcher or an application in a process of its own and kill it with SIGKILL, where the crash
// matrix of docs/guarantees.md says. Then they look at the database and, after a restart, at the receiver.

// childEnv holds the orders of a child process, which is this test program again.
const childEnv = "OUTBOX_CRASH_CHILD"

// child is the orders of a child process.
type child struct {
	Database string `json:"database"`  // a path, or a postgres:// URL
	Relay    string `json:"relay"`     // URL; empty for an application that enqueues
	Commit   bool   `json:"commit"`    // the application commits before it waits to be killed
	NoSettle bool   `json:"no_settle"` // the dispatcher never comes to record an outcome
	Poison   string `json:"poison"`    // the recipient whose message ends the process that handles it
	Verb     string `json:"verb"`      // what to do instead, once; see crashVerbs
}

// runChild is the main function of the child. It prints "ready" and works until it is killed.
func runChild(orders string) error {
	var c child
	if err := json.Unmarshal([]byte(orders), &c); err != nil {
		return err
	}
	ctx := context.Background()
	db, err := openDatabase(c.Database)
	if err != nil {
		return err
	}
	if c.Verb != "" {
		say("ready")
		if err := crashVerbs[c.Verb].do(ctx, db); err != nil {
			return err
		}
		select {} // until it is killed
	}
	if c.Relay == "" {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if _, err := outbox.Enqueue(ctx, tx, crashMessage(outbox.Resend, 10)); err != nil {
			return err
		}
		if c.Commit {
			if err := tx.Commit(); err != nil {
				return err
			}
		}
		say("ready")
		select {} // until it is killed
	}

	st, err := store.New(db, dialectOf(db))
	if err != nil {
		return err
	}
	client, err := smtpx.Open(c.Relay)
	if err != nil {
		return err
	}
	var q dispatcher.Queue = st
	if c.NoSettle {
		q = &faulty{Queue: st, settle: func() error { select {} }}
	}
	d, err := dispatcher.New(dispatcher.Config{
		Queue: q, Name: "child", Relays: []dispatcher.Relay{{Name: "main", Sender: poisoned{client, c.Poison}}}, Logger: slog.New(slog.DiscardHandler),
		Poll: 10 * time.Millisecond,
	})
	if err != nil {
		return err
	}
	say("ready")
	return d.Run(ctx)
}

// say tells the parent.
func say(line string) { _, _ = os.Stdout.WriteString(line + "\n") }

func openDatabase(name string) (*sql.DB, error) {
	if strings.HasPrefix(name, "postgres://") {
		return postgres.Open(name)
	}
	return sqlite.Open(name, sqlite.RelaxedSync())
}

// crashMessage returns an ordinary letter, or a large one. A large one fills the buffers of a socket, so a relay that does not
// read stops it in the body.
func crashMessage(policy outbox.UncertainPolicy, lines int) *outbox.Message {
	return &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ada@example.org"}},
		Subject: "Your invoice", Text: strings.Repeat("A line of a letter.\n", lines), OnUncertain: policy,
	}
}

// process is a running child.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stderr bytes.Buffer
}

// spawn starts a child and waits until it is ready.
func spawn(t *testing.T, c child) *process {
	t.Helper()
	orders, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(orders))
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		p.kill()
		t.Fatalf("the child says %q (%v): %s", line, err, &p.stderr)
	}
	return p
}

// kill ends the child at once and waits until it is gone.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// crashSite is a database that outlives its users, and a relay.
type crashSite struct {
	*testQueue
	database string
	relay    *smtptest.Server
	reached  chan struct{} // the first session has come to the stage
	goOn     chan struct{} // closed to let it go on
}

// eachSite runs a test on both databases, with a relay that stops the first session at a stage and lets all others pass.
func eachSite(t *testing.T, stage smtptest.Stage, action smtptest.Action, test func(t *testing.T, s *crashSite)) {
	t.Helper()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			s := &crashSite{reached: make(chan struct{}), goOn: make(chan struct{})}
			if engine == "postgres" {
				s.database = pgtest.DSN(t)
			} else {
				s.database = t.TempDir() + "/app.db"
			}
			db, err := openDatabase(s.database)
			if err != nil {
				t.Fatal(err)
			}
			s.testQueue = newQueue(t, db)
			s.relay = smtptest.New(t, smtptest.Config{Hook: func(ctx context.Context, e smtptest.Event) smtptest.Action {
				if e.Session.ID != 1 || e.Stage != stage {
					return smtptest.Action{}
				}
				close(s.reached)
				if action != (smtptest.Action{}) {
					return action
				}
				select {
				case <-s.goOn:
				case <-ctx.Done():
				}
				return smtptest.Action{}
			}})
			test(t, s)
		})
	}
}

// restart starts the application again: leases lapse, the delay of what is in doubt passes, and due messages are delivered.
func (s *crashSite) restart() {
	s.t.Helper()
	s.exec("UPDATE outbox_claims SET lease_until = '" + past + "'")
	if _, err := s.Reap(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.exec("UPDATE outbox_deliveries SET due_at = '" + past + "' WHERE state = 'uncertain'")
	flush(s.t, newDispatcher(s.t, dispatcher.Config{Queue: s.testQueue, Name: "next"}, openRelay(s.t, s.relay)))
}

// onDisk fails unless the delivery has this state and this number of fences in the database.
func (s *crashSite) onDisk(state outbox.State, fenced int) {
	s.t.Helper()
	var (
		gotState  outbox.State
		gotFenced int
	)
	if err := s.db.QueryRowContext(s.t.Context(), "SELECT state, (SELECT count(*) FROM outbox_fences) FROM outbox_deliveries").Scan(&gotState, &gotFenced); err != nil {
		s.t.Fatal(err)
	}
	if gotState != state || gotFenced != fenced {
		s.t.Errorf("on disk the delivery is %s with %d fences, want %s with %d", gotState, gotFenced, state, fenced)
	}
}

// copies fails unless the receiver has this number of copies, all of them with the same bytes.
func (s *crashSite) copies(want int) {
	s.t.Helper()
	got := s.relay.Messages()
	if len(got) != want {
		s.t.Errorf("the receiver has %d copies, want %d", len(got), want)
	}
	for _, m := range got {
		if m.MessageID == "" || m.MessageID != got[0].MessageID || !bytes.Equal(m.Data, got[0].Data) {
			s.t.Errorf("copies differ: %s and %s, %d and %d bytes", got[0].MessageID, m.MessageID, len(got[0].Data), len(m.Data))
		}
	}
}

// await waits for the first session to come to its stage.
func (s *crashSite) await() {
	s.t.Helper()
	select {
	case <-s.reached:
	case <-time.After(time.Minute):
		s.t.Fatal("the dispatcher never came to the stage")
	}
}

func TestCrashInsideTheApplicationsTransaction(t *testing.T) {
	t.Parallel()
	eachSite(t, smtptest.StageOther, smtptest.Action{}, func(_ *testing.T, s *crashSite) {
		spawn(s.t, child{Database: s.database}).kill()
		s.restart()
		s.copies(0)
		if n, err := s.Count(s.t.Context(), store.Filter{}); err != nil || n != 0 {
			s.t.Errorf("%d deliveries on disk (%v), want none", n, err)
		}
	})
}

func TestCrashAfterCommitBeforeAClaim(t *testing.T) {
	t.Parallel()
	eachSite(t, smtptest.StageOther, smtptest.Action{}, func(_ *testing.T, s *crashSite) {
		spawn(s.t, child{Database: s.database, Commit: true}).kill()
		s.onDisk(outbox.StateQueued, 0)
		s.restart()
		s.copies(1)
		s.onDisk(outbox.StateSent, 0)
	})
}

func TestCrashAfterTheClaimBeforeData(t *testing.T) {
	t.Parallel()
	for _, stage := range []smtptest.Stage{smtptest.StageBanner, smtptest.StageEHLO, smtptest.StageMail, smtptest.StageRcpt} {
		t.Run(string(stage), func(t *testing.T) {
			t.Parallel()
			eachSite(t, stage, smtptest.Action{}, func(_ *testing.T, s *crashSite) {
				s.enqueueCrash(outbox.Hold, 10) // even what must never be sent twice is sent: it never came to the body
				p := spawn(s.t, child{Database: s.database, Relay: s.relay.URL()})
				s.await()
				p.kill()
				s.onDisk(outbox.StateSending, 0)
				s.restart()
				s.copies(1)
				s.onDisk(outbox.StateSent, 0)
			})
		})
	}
}

func (s *crashSite) enqueueCrash(policy outbox.UncertainPolicy, lines int) {
	s.t.Helper()
	s.enqueue(1, func(m *outbox.Message) { *m = *crashMessage(policy, lines) })
}

// The three windows in which nobody can know the outcome: the policy decides, and the number of copies is as the matrix says.
func TestCrashInTheWindow(t *testing.T) {
	t.Parallel()
	for _, window := range []struct {
		name     string
		stage    smtptest.Stage
		action   smtptest.Action
		noSettle bool
		lines    int // of the letter
		before   int // copies at the receiver when the process dies
	}{
		{"inside the body", smtptest.StageBody, smtptest.Action{}, false, 600_000, 0},
		{"after the final dot", smtptest.StageDot, smtptest.Action{Withhold: true, End: smtptest.Stall}, false, 10, 1},
		{"after the 250 before the settle", smtptest.StageIdle, smtptest.Action{}, true, 10, 1},
	} {
		for _, policy := range []outbox.UncertainPolicy{outbox.Resend, outbox.Hold} {
			t.Run(window.name+"/"+string(policy), func(t *testing.T) {
				t.Parallel()
				eachSite(t, window.stage, window.action, func(_ *testing.T, s *crashSite) {
					s.enqueueCrash(policy, window.lines)
					p := spawn(s.t, child{Database: s.database, Relay: s.relay.URL(), NoSettle: window.noSettle})
					s.await()
					if window.before > 0 { // the ledger is written before the reply, but after the hook
						ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
						defer cancel()
						if _, err := s.relay.WaitMessages(ctx, window.before); err != nil {
							s.t.Fatal(err)
						}
					}
					p.kill()
					s.onDisk(outbox.StateSending, 1)
					s.copies(window.before)
					s.restart()
					if policy == outbox.Hold {
						s.copies(window.before)
						s.onDisk(outbox.StateUncertain, 0)
						if n, err := s.Resolve(s.t.Context(), store.Filter{}, store.ResolveSent); err != nil || n != 1 {
							s.t.Errorf("an operator resolves %d deliveries: %v", n, err)
						}
						return
					}
					s.copies(window.before + 1)
					s.onDisk(outbox.StateSent, 0)
				})
			})
		}
	}
}

func TestCrashAfterTheSettle(t *testing.T) {
	t.Parallel()
	eachSite(t, smtptest.StageOther, smtptest.Action{}, func(_ *testing.T, s *crashSite) {
		s.enqueueCrash(outbox.Resend, 10)
		p := spawn(s.t, child{Database: s.database, Relay: s.relay.URL()})
		for deadline := time.Now().Add(time.Minute); ; {
			n, err := s.Count(s.t.Context(), store.Filter{States: []outbox.State{outbox.StateSent}})
			if err != nil || n == 1 || time.Now().After(deadline) {
				break
			}
		}
		p.kill()
		s.onDisk(outbox.StateSent, 0)
		s.restart()
		s.copies(1)
	})
}

// A process that was stopped for longer than its lease wakes up after another has delivered the message. It sends nothing and
// changes nothing.
func TestAPausedProcessWakesTooLate(t *testing.T) {
	t.Parallel()
	eachSite(t, smtptest.StageMail, smtptest.Action{}, func(_ *testing.T, s *crashSite) {
		s.enqueueCrash(outbox.Resend, 10)
		p := spawn(s.t, child{Database: s.database, Relay: s.relay.URL()})
		s.await()
		p.signal(syscall.SIGSTOP)
		s.restart()
		s.copies(1)
		p.signal(syscall.SIGCONT)
		close(s.goOn)
		// The client gives the message up before the body, and its session goes back to the pool or ends. Another message of
		// the same process shows that the first is over.
		s.enqueue(1, func(m *outbox.Message) { m.Subject = "after" })
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		if _, err := s.relay.WaitMessages(ctx, 2); err != nil {
			s.t.Fatal(err)
		}
		p.signal(os.Interrupt)
		if err := p.cmd.Wait(); err == nil {
			s.t.Error("the child ended without its signal")
		}
		bySubject := make(map[string]int)
		for _, m := range s.relay.Messages() {
			bySubject[m.Header("Subject")]++
		}
		if bySubject["Your invoice"] != 1 || bySubject["after"] != 1 {
			s.t.Errorf("the receiver has %v, want one of each", bySubject)
		}
		list, err := s.List(s.t.Context(), store.Filter{})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, d := range list {
			if d.Subject == "Your invoice" && d.State != outbox.StateSent {
				s.t.Errorf("the process that woke too late made it %s", d.State)
			}
		}
	})
}

// crashMain runs the child when this process is one.
func crashMain() {
	orders, ok := os.LookupEnv(childEnv)
	if !ok {
		return
	}
	err := runChild(orders)
	if err == nil {
		err = errors.New("ended by itself")
	}
	fmt.Fprintln(os.Stderr, "crash child:", err)
	os.Exit(1)
}
