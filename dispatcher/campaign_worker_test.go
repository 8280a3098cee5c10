package dispatcher_test

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
)

// The campaigns run applications and dispatchers in processes of their own. Each of them is this test program again.

// workerEnv holds the orders of a worker.
const workerEnv = "OUTBOX_CAMPAIGN_WORKER"

// orders are what a worker is to do.
type orders struct {
	Name     string        `json:"name"`     // of the worker, among all that the test starts
	Database string        `json:"database"` // a path, or a postgres:// URL
	Relay    string        `json:"relay"`    // URL; empty for an application that enqueues
	Pace     time.Duration `json:"pace"`     // of the application: how long it rests after a transaction, on average
	Lease    time.Duration `json:"lease"`    // of the dispatcher, as are the next three
	Rate     float64       `json:"rate"`
	Hold     bool          `json:"hold"`  // no message is fenced before the test writes a line to the worker
	Soak     float64       `json:"soak"`  // messages a second that the worker both enqueues and delivers
	Every    time.Duration `json:"every"` // how often it says how much it needs meanwhile
}

// workerMain runs the worker if this process is one.
func workerMain() {
	text, ok := os.LookupEnv(workerEnv)
	if !ok {
		return
	}
	var o orders
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = o.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run works until an interrupt, or until the process that gave the orders ends.
func (o *orders) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	goOn := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		close(goOn)
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2) // the parent is gone
	}()
	db, err := openDatabase(o.Database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	switch {
	case o.Relay == "":
		return o.apply(ctx, db)
	case o.Soak > 0:
		return o.soak(ctx, db)
	}
	return o.dispatch(ctx, db, goOn)
}

// apply is the application. It runs a few transactions at a time, each with an order and its mail. One in four rolls back. It
// prints "c" and the order after a commit, and "r" and the order before a rollback.
func (o *orders) apply(ctx context.Context, db *sql.DB) error {
	say("ready")
	var (
		next atomic.Int64
		wg   sync.WaitGroup
	)
	for range 4 {
		wg.Go(func() {
			rest := time.NewTimer(0)
			defer rest.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-rest.C:
				}
				i := int(next.Add(1)) - 1
				number := fmt.Sprintf("%s-%d", o.Name, i)
				if err := o.order(ctx, db, number, i); err != nil {
					say("e " + number + " " + strings.ReplaceAll(err.Error(), "\n", " "))
				}
				rest.Reset(time.Duration(rand.Int64N(int64(2*o.Pace) + 1)))
			}
		})
	}
	wg.Wait()
	return nil
}

// order is one transaction.
func (o *orders) order(ctx context.Context, db *sql.DB, number string, i int) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, "INSERT INTO campaign_orders (number) VALUES ($1)", number); err != nil {
		return err
	}
	if _, err := outbox.Enqueue(ctx, tx, orderMail(number, i)); err != nil {
		return err
	}
	if rand.IntN(4) == 0 {
		say("r " + number)
		return tx.Rollback()
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	say("c " + number)
	return nil
}

// orderMail returns the mail of an order. Every second one has Hold, every third has two recipients, and some are longer than
// the buffers of a socket.
func orderMail(number string, i int) *outbox.Message {
	m := &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ada@example.org"}},
		Subject: number, Key: number, Text: strings.Repeat("Thank you for your order.\n", 10), OnUncertain: outbox.Resend,
	}
	if i%2 == 1 {
		m.OnUncertain = outbox.Hold
	}
	if i%3 == 2 {
		m.To = append(m.To, outbox.Address{Address: "bob@example.org"})
	}
	if i%100 == 99 {
		m.Text = strings.Repeat("A line of a long letter to a customer.\n", 10_000)
	}
	return m
}

// dispatch delivers. The name of the worker is the owner of its leases and its name in EHLO. After an interrupt it prints what
// it had to do.
func (o *orders) dispatch(ctx context.Context, db *sql.DB, goOn <-chan struct{}) error {
	st, err := store.New(db, dialectOf(db))
	if err != nil {
		return err
	}
	client, err := smtpx.Open(o.Relay, func(c *smtpx.Config) { c.EHLO = o.Name + ".example.com" })
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	var q dispatcher.Queue = st
	if o.Hold {
		q = &faulty{Queue: st, fence: func() error {
			<-goOn
			return nil
		}}
	}
	d, err := dispatcher.New(dispatcher.Config{
		Queue: q, Name: o.Name, Relays: []dispatcher.Relay{{Name: "main", Sender: client, Rate: queue.Rate{PerSecond: o.Rate}}}, Logger: slog.New(slog.DiscardHandler),
		Poll: 50 * time.Millisecond, Lease: o.Lease,
	})
	if err != nil {
		return err
	}
	say("ready")
	return d.Run(ctx)
}

// worker is a running process of a campaign.
type worker struct {
	orders
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	ready  chan struct{} // closed when it says that it is
	begun  chan struct{} // closed when it says something more, or when somebody who sees its work calls begin
	begin  func()
	done   chan struct{} // closed when it is gone; then err is how it ended
	err    error
	stderr bytes.Buffer

	mu    sync.Mutex
	lines []string
}

// hire starts a worker. The caller kills it or waits for it.
func hire(o orders) (*worker, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	w := &worker{orders: o, cmd: exec.Command(os.Args[0]), ready: make(chan struct{}), begun: make(chan struct{}), done: make(chan struct{})}
	w.begin = sync.OnceFunc(func() { close(w.begun) })
	w.cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	w.cmd.Stderr = &w.stderr
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if w.stdin, err = w.cmd.StdinPipe(); err != nil { // its end tells the worker that this process is gone
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(w.done)
		lines := bufio.NewScanner(out)
		for first := true; lines.Scan(); first = false {
			if first {
				close(w.ready)
				continue
			}
			w.begin()
			w.mu.Lock()
			w.lines = append(w.lines, lines.Text())
			w.mu.Unlock()
		}
		w.err = errors.Join(lines.Err(), w.cmd.Wait())
	}()
	return w, nil
}

// employ hires a worker for the length of a test. It returns when the worker is ready.
func employ(t *testing.T, o orders) *worker {
	t.Helper()
	w, err := hire(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kill)
	if err := w.await(w.ready, time.Minute); err != nil {
		t.Fatal(err)
	}
	return w
}

// errAwait says that a worker took too long.
var errAwait = errors.New("not in time")

// await waits for an event of the worker.
func (w *worker) await(event <-chan struct{}, patience time.Duration) error {
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-event:
		return nil
	case <-w.done:
		return fmt.Errorf("%s ended by itself: %w: %s", w.Name, w.err, &w.stderr)
	case <-limit.C:
		return fmt.Errorf("%s: %w", w.Name, errAwait)
	}
}

// kill ends the worker with SIGKILL, and waits until it is gone and all its output is read.
func (w *worker) kill() {
	_ = w.cmd.Process.Kill() // it may have ended before
	<-w.done
	_ = w.stdin.Close()
}

// said returns the lines of a kind that the worker printed, without the kind. They are whole, because the system writes a
// short line to a pipe completely or not at all.
func (w *worker) said(kind string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var list []string
	for _, line := range w.lines {
		if rest, ok := strings.CutPrefix(line, kind+" "); ok {
			list = append(list, rest)
		}
	}
	return list
}
