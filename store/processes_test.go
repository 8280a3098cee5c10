package store_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/sqlite"
)

// The environment by which a child of this test binary knows its part.
const (
	envPart = "OUTBOX_TEST_PART" // app or dispatcher
	envFile = "OUTBOX_TEST_FILE"
)

func TestMain(m *testing.M) {
	if part := os.Getenv(envPart); part != "" {
		if err := play(part, os.Getenv(envFile)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is what a child process does until its standard input is closed. It reports on its standard output, a line of JSON
// for each event.
func play(part, file string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		_, _ = bufio.NewReader(os.Stdin).ReadByte()
	}()
	db, err := sqlite.Open(file, sqlite.Existing(), sqlite.RelaxedSync())
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	say := func(e event) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(e) //nolint:errchkjson // a parent that is gone asks no more
	}
	var wg sync.WaitGroup
	errs := make(chan error, 8)
	for range 4 {
		wg.Go(func() {
			var err error
			if part == "app" {
				err = order(ctx, db, say)
			} else {
				err = deliver(ctx, db, say)
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// event is what a child says: a message was committed, or a delivery was sent.
type event struct {
	Committed outbox.ID `json:"committed"`
	Sent      outbox.ID `json:"sent"`
}

// order is an application: each of its transactions reads, writes and enqueues, and some roll back.
func order(ctx context.Context, db *sql.DB, say func(event)) error {
	for n := 0; ctx.Err() == nil; n++ {
		id, err := place(db, n%5 == 0)
		if err != nil {
			return err
		}
		if id != "" {
			say(event{Committed: id})
		}
	}
	return nil
}

// place is one business transaction. It is not cut short: an error of any kind is one that the application would see.
func place(db *sql.DB, rollBack bool) (outbox.ID, error) {
	ctx := context.Background()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return "", fmt.Errorf("begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	var stock int
	if err := tx.QueryRowContext(ctx, "SELECT n FROM stock").Scan(&stock); err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	if _, err := tx.ExecContext(ctx, "UPDATE stock SET n = $1", stock+1); err != nil {
		return "", fmt.Errorf("write: %w", err)
	}
	receipt, err := outbox.Enqueue(ctx, tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}}, Text: "x",
	})
	if err != nil || rollBack {
		return "", err
	}
	if err := tx.Commit(); err != nil {
		return "", fmt.Errorf("commit: %w", err)
	}
	return receipt.ID, nil
}

// deliver is a dispatcher without relays: it claims, fences, says that it sent, and settles.
func deliver(ctx context.Context, db *sql.DB, say func(event)) error {
	s, err := store.New(db, schema.SQLite)
	if err != nil {
		return err
	}
	detached := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		claimed, err := s.Claim(detached, queue.ClaimRequest{Owner: strconv.Itoa(os.Getpid()), Limit: 20, Lease: time.Minute, Fenced: true})
		if err != nil {
			return err
		}
		var list []queue.Settlement
		for _, c := range claimed {
			lost, err := s.Fence(detached, []queue.FencedRef{{Ref: c.Ref(0), Relay: "primary"}})
			if err != nil {
				return err
			}
			if len(lost) == 0 {
				say(event{Sent: c.ID})
				list = append(list, queue.Settlement{Ref: c.Ref(0), Outcome: queue.Sent})
			}
		}
		lost, err := s.Settle(detached, "d", list)
		if err != nil {
			return err
		}
		if len(lost) > 0 {
			return fmt.Errorf("%d leases were lost", len(lost))
		}
		if _, err := s.Reap(detached); err != nil {
			return err
		}
	}
	return nil
}

// Two processes of an application and two dispatchers share a file under load. No transaction of the application fails,
// every message that was committed is sent once, and nothing else is.
func TestProcessesShareAnSQLiteFile(t *testing.T) {
	t.Parallel()
	long := campaign.On() // then it goes on for 30 s, else until enough was committed
	file := filepath.Join(t.TempDir(), "app.db")
	db := opened(t, schema.SQLite)(sqlite.Open(file, sqlite.RelaxedSync()))
	migrated(t, db)
	db.MustExecContext(t.Context(), "CREATE TABLE stock (n integer)")
	db.MustExecContext(t.Context(), "INSERT INTO stock VALUES (0)")

	var (
		mu        sync.Mutex
		committed = make(map[outbox.ID]bool)
		sent      = make(map[outbox.ID]int)
		wg        sync.WaitGroup
	)
	ctx, stop := context.WithCancel(t.Context())
	if long {
		ctx, stop = context.WithTimeout(t.Context(), 30*time.Second)
	}
	defer stop()
	for _, part := range []string{"app", "dispatcher", "app", "dispatcher"} {
		wg.Go(func() {
			err := child(ctx, part, file, func(e event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Committed != "" {
					committed[e.Committed] = true
					if !long && len(committed) >= 200 {
						stop()
					}
				}
				if e.Sent != "" {
					sent[e.Sent]++
				}
			})
			if err != nil {
				t.Errorf("%s: %v", part, err)
			}
		})
	}
	wg.Wait()
	// What the dispatchers left behind when they were stopped goes out now.
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	s := migrated(t, db)
	for {
		claimed, err := s.Claim(ctx, queue.ClaimRequest{Owner: "last", Limit: 1000, Lease: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if len(claimed) == 0 {
			break
		}
		for _, c := range claimed {
			sent[c.ID]++
		}
	}
	for id := range committed {
		if sent[id] != 1 {
			t.Errorf("%s was committed and sent %d times", id, sent[id])
		}
	}
	for id := range sent {
		if !committed[id] {
			t.Errorf("%s was sent and never committed", id)
		}
	}
	var stock int
	if err := db.GetContext(t.Context(), &stock, "SELECT n FROM stock"); err != nil || stock != len(committed) {
		t.Errorf("the business data say %d (%v), want %d", stock, err, len(committed))
	}
	t.Logf("%d messages committed by two processes and sent by two", len(committed))
}

// child runs this test binary in another part until ctx ends, and hands on what it says.
func child(ctx context.Context, part, file string, each func(event)) error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envPart+"="+part, envFile+"="+file)
	var words strings.Builder
	cmd.Stderr = &words
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	for dec := json.NewDecoder(out); ; {
		var e event
		if err := dec.Decode(&e); err != nil {
			break // the child has ended, or says nonsense and is found out below
		}
		each(e)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, words.String())
	}
	return nil
}
