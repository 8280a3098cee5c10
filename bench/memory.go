package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// childEnv holds the orders of the process whose memory is measured: this program once more.
const childEnv = "OUTBOX_BENCH_CHILD"

type childOrders struct {
	Database string `json:"database"`
	Relay    string `json:"relay"`
	Messages int    `json:"messages"`
}

// concurrency of the dispatcher whose memory is measured: the default.
const concurrency = 10

// drainChild is the process that is measured. It prints the most memory that it ever had, in bytes.
func drainChild(ctx context.Context, text string) error {
	var o childOrders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	db, st, err := openStore(o.Database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	client, err := smtpx.Open(o.Relay)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	d, err := dispatcher.New(dispatcher.Config{
		Queue: st, Relays: []dispatcher.Relay{{Name: "main", Sender: client}}, Concurrency: concurrency, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	report, err := d.Flush(ctx)
	if err != nil {
		return err
	}
	if report.Sent != o.Messages {
		return fmt.Errorf("%d of %d messages sent", report.Sent, o.Messages)
	}
	peak, err := peakMemory()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, peak)
	return err
}

// peakMemory is the most that this process had in memory. It is read from /proc, because what getrusage calls the peak of a
// process begins with that of its parent.
func peakMemory() (int64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kilobytes int64
			_, err := fmt.Sscanf(rest, "%d kB", &kilobytes)
			return kilobytes << 10, err
		}
	}
	return 0, errors.New("/proc/self/status has no VmHWM")
}

// memoryLoad is a backlog of messages of one size. The relay answers each after a pause, as those that scan what is large do: without it
// some messages would be gone before others are fetched.
type memoryLoad struct {
	count, size int
	pause       time.Duration
}

// memory is P8.
func (b *bench) memory() error {
	for _, load := range []memoryLoad{{b.share(100_000), 100 << 10, 0}, {b.share(40), 25 << 20, 2 * time.Second}} {
		dsn, drop, err := b.database()
		if err != nil {
			return err
		}
		for _, engine := range []struct{ name, database string }{
			{"SQLite", filepath.Join(b.dir, fmt.Sprintf("memory%d.db", load.size))}, {"PostgreSQL", dsn},
		} {
			if err = b.memoryOn(engine.name, engine.database, load); err != nil {
				break
			}
		}
		drop()
		if err != nil {
			return err
		}
	}
	return nil
}

// memoryOn measures one backlog on one database and removes an SQLite file afterwards: it is as large as the backlog.
func (b *bench) memoryOn(name, database string, load memoryLoad) error {
	count, size := load.count, load.size
	s, err := b.newSite(database)
	if err != nil {
		return err
	}
	defer func() {
		s.Close()
		if !strings.Contains(database, "://") {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				_ = os.Remove(database + suffix)
			}
		}
	}()
	if err := s.large(b.ctx, count, size); err != nil {
		return err
	}
	relay, err := smtptest.Start(smtptest.Config{
		TLS: smtptest.NoTLS, Discard: true, Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
			if e.Stage == smtptest.StageDot {
				return smtptest.Action{Delay: load.pause}
			}
			return smtptest.Action{}
		},
	})
	if err != nil {
		return err
	}
	defer func() { _ = relay.Close() }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(childOrders{Database: database, Relay: relay.URL(), Messages: count})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(b.ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("the dispatcher: %w: %s", err, &stderr)
	}
	var peak int64
	if _, err := fmt.Fscan(bytes.NewReader(out), &peak); err != nil {
		return err
	}
	bound := int64(64<<20 + concurrency*size)
	b.report(result{
		work: fmt.Sprintf("P8 memory of a dispatcher with %d messages of %s, %s", count, megabytes(int64(size)), name), who: ours,
		more: "peak RSS " + megabytes(peak), ratio: times(float64(peak)/float64(bound)) + " the bound",
		bar: "≤ 64 MB + 10 × size = " + megabytes(bound), met: peak <= bound,
	})
	return nil
}

func megabytes(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KB", n>>10)
	}
	return fmt.Sprintf("%d MB", (n+1<<19)>>20)
}

// large commits messages whose bodies are about size bytes once they are rendered, as an attachment is: three bytes become
// four and some line ends.
func (s *site) large(ctx context.Context, count, size int) error {
	content := make([]byte, (size-4096)/78*57) // the rest is header and text
	for i := range content {
		content[i] = byte(i * 7)
	}
	batch := max(1, min(count, (8<<20)/size))
	for left := count; left > 0; left -= batch {
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		list := make([]*outbox.Message, min(left, batch))
		for i := range list {
			list[i] = letter()
			list[i].Attachments = []outbox.Attachment{{Name: "invoice.pdf", Data: content}}
		}
		if _, err := outbox.EnqueueMany(ctx, tx, list); err != nil {
			_ = tx.Rollback()
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
	}
	return nil
}
