package dispatcher_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
)

// soakTime returns how long the soak takes on each database, and the time between samples.
func soakTime(t *testing.T) (length, every time.Duration) {
	t.Helper()
	length, every = 20*time.Second, time.Second
	if campaign.On() {
		length = 20 * time.Minute
	}
	if text := os.Getenv("OUTBOX_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil || length < 10*time.Second {
			t.Fatalf("OUTBOX_SOAK is %q, no duration of ten seconds at least", text)
		}
	}
	if length >= 5*time.Minute {
		every = 10 * time.Second
	}
	return length, every
}

// soak is the worker of the soak: an application and a dispatcher in one process. With every sample it tells the resources
// that it uses.
func (o *orders) soak(ctx context.Context, db *sql.DB) error {
	st, err := store.New(db, dialectOf(db))
	if err != nil {
		return err
	}
	client, err := smtpx.Open(o.Relay)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	d, err := dispatcher.New(dispatcher.Config{
		Queue: st, Name: o.Name, Relays: []dispatcher.Relay{{Name: "main", Sender: client}}, Logger: slog.New(slog.DiscardHandler),
		Poll: 100 * time.Millisecond, Lease: 10 * time.Second, Retry: dispatcher.Backoff{Base: 200 * time.Millisecond},
		Retention: queue.Retention{Sent: time.Minute, Unsent: time.Minute},
	})
	if err != nil {
		return err
	}
	say("ready")
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	const tick = 20 * time.Millisecond
	beat, sample := time.NewTicker(tick), time.NewTicker(o.Every)
	defer beat.Stop()
	defer sample.Stop()
	owed, committed := 0.0, 0
	for {
		select {
		case err := <-done:
			say(fmt.Sprintf("n %d", committed))
			return err
		case <-sample.C:
			line, err := footprint()
			if err != nil {
				return err
			}
			say("s " + line)
		case <-beat.C:
			if owed += o.Soak * tick.Seconds(); owed < 1 || ctx.Err() != nil {
				continue
			}
			if err := soakMail(context.WithoutCancel(ctx), db, int(owed)); err != nil { // a stop waits for the commit
				say("e " + strings.ReplaceAll(err.Error(), "\n", " "))
				continue
			}
			committed += int(owed)
			owed -= float64(int(owed))
			d.Wake()
		}
	}
}

// soakMail commits n messages whose subjects hold the time.
func soakMail(ctx context.Context, db *sql.DB, n int) error {
	list := make([]*outbox.Message, n)
	now := time.Now().UnixNano()
	for i := range list {
		list[i] = crashMessage(outbox.Resend, 50)
		list[i].Subject = fmt.Sprintf("%d-%d", now, i)
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := outbox.EnqueueMany(ctx, tx, list); err != nil {
		return err
	}
	return tx.Commit()
}

// footprint is what this process uses: resident memory in bytes, descriptors, goroutines.
func footprint() (string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "", err
	}
	var kilobytes int
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if _, err := fmt.Sscanf(rest, "%d kB", &kilobytes); err != nil {
				return "", err
			}
		}
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %d %d", kilobytes<<10, len(fds), runtime.NumGoroutine()), nil
}

// soakRelay is a relay with faults that keeps a ledger of subjects.
type soakRelay struct {
	mu        sync.Mutex
	accepted  map[string]int
	refused   map[string]bool // for good
	doubtful  int             // faults that leave a doubt
	faults    int
	latencies []time.Duration // since the last sample
}

// hook makes an error once in some hundred stages.
func (r *soakRelay) hook(_ context.Context, e smtptest.Event) smtptest.Action {
	r.mu.Lock()
	defer r.mu.Unlock()
	var action smtptest.Action
	if e.Stage != smtptest.StageTLS && rand.IntN(400) == 0 {
		r.faults++
		action = []smtptest.Action{
			{Reply: "451 4.3.0 later"}, {End: smtptest.Close}, {End: smtptest.Reset}, {Reply: "421 4.3.2 closing", End: smtptest.Close},
			{Raw: "garbage\r\n"}, {Trickle: true}, {Withhold: true, End: smtptest.Close}, {Reply: "554 5.7.0 no"},
		}[rand.IntN(8)]
		switch {
		case action.Withhold && e.Stage != smtptest.StageDot:
			action = smtptest.Action{End: smtptest.Close}
		case strings.HasPrefix(action.Reply, "554") && e.Stage != smtptest.StageDot:
			action = smtptest.Action{Reply: "451 4.3.0 later"} // what is refused for good is counted by its subject
		}
	}
	if e.Stage != smtptest.StageDot {
		if e.Stage == smtptest.StageMail && action.End == smtptest.Reset {
			r.doubtful++ // MAIL is pipelined behind the message before it, and a reset may lose that answer
		}
		return action
	}
	subject := e.Message.Header("Subject")
	switch {
	case strings.HasPrefix(action.Reply, "554"):
		r.refused[subject] = true
	case strings.HasPrefix(action.Reply, "4"):
	case action.End != 0 || action.Raw != "":
		r.doubtful++
		if action.Withhold {
			r.accepted[subject]++
		}
	default:
		r.accepted[subject]++
		if nanoseconds, err := strconv.ParseInt(subject[:max(strings.IndexByte(subject, '-'), 0)], 10, 64); err == nil && r.accepted[subject] == 1 {
			r.latencies = append(r.latencies, time.Duration(time.Now().UnixNano()-nanoseconds))
		}
	}
	return action
}

// cut returns the latencies since the last call, sorted.
func (r *soakRelay) cut() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.latencies
	r.latencies = nil
	slices.Sort(list)
	return list
}

// sample is one line of the table.
type sample struct {
	rss, fds, goroutines int
	p50, p99             time.Duration
	messages             int
}

// TestSoakAtHalfSpeed runs an application and a dispatcher at half of the speed that they can reach. The relay refuses, hangs
// up, and accepts messages without saying so. Retention is on. Memory, descriptors, goroutines and latency of the last third
// must be as in the first. Nothing is lost, and every second copy is a doubt that the relay left. The short form does not
// judge the latency, because make test runs other tests beside it.
func TestSoakAtHalfSpeed(t *testing.T) { //nolint:tparallel // in the long form each database has the machine for itself
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			if !campaign.On() {
				t.Parallel()
			}
			length, every := soakTime(t)
			k := newKilling(t, engine)
			r := &soakRelay{accepted: make(map[string]int), refused: make(map[string]bool)}
			relay := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Discard: true, Hook: r.hook})
			rate := k.half(r, relay)
			w := employ(t, orders{Name: "soak", Database: k.database, Relay: relay.URL(), Soak: rate, Every: every})
			samples := r.watch(t, w, int(length/every))
			if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if err := w.await(nil, time.Minute); errors.Is(err, errAwait) || w.err != nil {
				t.Fatalf("the worker: %v: %s", err, &w.stderr)
			}
			// The rest is sent at leisure.
			stop := start(t, newDispatcher(t, dispatcher.Config{Queue: k.testQueue, Lease: campaignLease, Retry: dispatcher.Backoff{Base: 200 * time.Millisecond}}, openRelay(t, relay)))
			k.awaitNone("all is finished", store.Filter{States: []outbox.State{outbox.StateQueued, outbox.StateSending, outbox.StateUncertain}})
			stop()
			campaign.Tellf(t, "%v at %.0f messages a second, half of the maximum; %d faults, of which %d left a doubt\n%s", length, rate, r.faults, r.doubtful, table(samples))
			r.count(t, w)
			judgeSoak(t, samples)
		})
	}
}

// half measures what the machine can do now: first enqueue, then deliver.
func (k *killing) half(r *soakRelay, relay *smtptest.Server) float64 {
	k.t.Helper()
	const n = 1000
	client := openRelay(k.t, relay)
	began := time.Now()
	for range n / 10 {
		if err := soakMail(k.t.Context(), k.db, 10); err != nil {
			k.t.Fatal(err)
		}
	}
	flush(k.t, newDispatcher(k.t, dispatcher.Config{Queue: k.testQueue}, client))
	rate := n / time.Since(began).Seconds() / 2
	// Messages that a fault deferred are sent now, by another dispatcher.
	k.exec("UPDATE outbox_deliveries SET due_at = '" + past + "' WHERE state IN ('queued', 'uncertain')")
	stop := start(k.t, newDispatcher(k.t, dispatcher.Config{Queue: k.testQueue, Retry: dispatcher.Backoff{Base: time.Millisecond}}, client))
	k.awaitNone("the trial is over", store.Filter{States: []outbox.State{outbox.StateQueued, outbox.StateSending, outbox.StateUncertain}})
	stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accepted, r.refused, r.latencies, r.faults, r.doubtful = make(map[string]int), make(map[string]bool), nil, 0, 0
	return rate
}

// watch reads n samples of the worker.
func (r *soakRelay) watch(t *testing.T, w *worker, n int) []sample {
	t.Helper()
	var samples []sample
	r.cut()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for len(samples) < n {
		select {
		case <-w.done:
			t.Fatalf("the worker ended: %v: %s", w.err, &w.stderr)
		case <-tick.C:
		}
		lines := w.said("s")
		if len(lines) <= len(samples) {
			continue
		}
		var s sample
		if _, err := fmt.Sscan(lines[len(samples)], &s.rss, &s.fds, &s.goroutines); err != nil {
			t.Fatal(err)
		}
		took := r.cut()
		if s.messages = len(took); s.messages > 0 {
			s.p50, s.p99 = took[len(took)/2], took[len(took)*99/100]
		}
		samples = append(samples, s)
	}
	return samples
}

// count compares what was committed with what arrived.
func (r *soakRelay) count(t *testing.T, w *worker) {
	t.Helper()
	var committed int
	if said := w.said("n"); len(said) != 1 {
		t.Fatalf("the worker does not say how many it committed: %v", w.said("e"))
	} else if _, err := fmt.Sscan(said[0], &committed); err != nil {
		t.Fatal(err)
	}
	for _, e := range w.said("e") {
		t.Errorf("the application was refused: %s", e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	duplicates, final := 0, len(r.accepted)
	for _, n := range r.accepted {
		duplicates += n - 1
	}
	for subject := range r.refused {
		if r.accepted[subject] == 0 {
			final++
		}
	}
	campaign.Tellf(t, "%d messages committed, %d accepted, %d refused for good, %d second copies", committed, len(r.accepted), final-len(r.accepted), duplicates)
	if final != committed || committed == 0 {
		t.Errorf("%d messages were committed and %d accepted or refused for good", committed, final)
	}
	if duplicates > r.doubtful {
		t.Errorf("%d second copies, but the relay left %d doubts", duplicates, r.doubtful)
	}
}

// table prints the samples and the course of memory and latency.
func table(samples []sample) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%4s %8s %5s %5s %8s %10s %10s\n", "#", "RSS", "fds", "gor.", "messages", "p50", "p99")
	step := max(1, len(samples)/30)
	for i := 0; i < len(samples); i += step {
		s := samples[i]
		fmt.Fprintf(&b, "%4d %5d MB %5d %5d %8d %10v %10v\n", i+1, s.rss>>20, s.fds, s.goroutines, s.messages,
			s.p50.Round(100*time.Microsecond), s.p99.Round(100*time.Microsecond))
	}
	for _, row := range []struct {
		name string
		of   func(s sample) int
	}{
		{"RSS", func(s sample) int { return s.rss }},
		{"fds", func(s sample) int { return s.fds }},
		{"goroutines", func(s sample) int { return s.goroutines }},
		{"p50", func(s sample) int { return int(s.p50) }},
		{"p99", func(s sample) int { return int(s.p99) }},
	} {
		fmt.Fprintf(&b, "%-10s %s\n", row.name, plot(column(samples, row.of)))
	}
	return b.String()
}

func column(samples []sample, of func(s sample) int) []int {
	list := make([]int, len(samples))
	for i, s := range samples {
		list[i] = of(s)
	}
	return list
}

// plot draws at most 60 numbers as a row of bars from zero to the greatest.
func plot(list []int) string {
	bars := []rune("▁▂▃▄▅▆▇█")
	most := max(1, slices.Max(list))
	var b strings.Builder
	width := min(60, len(list))
	for i := range width {
		part := list[i*len(list)/width : (i+1)*len(list)/width]
		b.WriteRune(bars[slices.Max(part)*(len(bars)-1)/most])
	}
	return b.String()
}

// judgeSoak compares the last third of the samples with the first. It leaves out the first sample, which shows the start.
func judgeSoak(t *testing.T, samples []sample) {
	t.Helper()
	middle := func(list []int) int {
		list = slices.Clone(list)
		slices.Sort(list)
		return list[len(list)/2]
	}
	third := len(samples) / 3
	for _, row := range []struct {
		name     string
		of       func(s sample) int
		factor   float64
		absolute int
	}{
		{"resident memory", func(s sample) int { return s.rss }, 1.25, 16 << 20},
		{"descriptors", func(s sample) int { return s.fds }, 1, 10},
		{"goroutines", func(s sample) int { return s.goroutines }, 1, 20},
		{"the middle latency", func(s sample) int { return int(s.p50) }, 2, int(20 * time.Millisecond)},
	} {
		if row.name == "the middle latency" && !campaign.On() {
			continue
		}
		list := column(samples[1:], row.of)
		first, last := middle(list[:third]), middle(list[len(list)-third:])
		if float64(last) > float64(first)*row.factor+float64(row.absolute) {
			t.Errorf("%s grows from %d in the first third to %d in the last", row.name, first, last)
		}
	}
}
