package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/wneessen/go-mail"
)

// peers is how many messages each contender of P3 sends at once.
const peers = 50

// mailer is a worker of River that sends with go-mail, over connections that stay open or over one for each message.
type mailer struct {
	river.WorkerDefaults[mailArgs]

	host string
	port int
	keep bool
	idle chan *mail.Client // nil stands for a connection that is not open
}

func newMailer(addr string, keep bool) (*mailer, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	m := &mailer{host: host, port: port, keep: keep, idle: make(chan *mail.Client, peers)}
	for range peers {
		m.idle <- nil
	}
	return m, nil
}

// client makes a go-mail client that asks for nothing that a message does not need.
func (m *mailer) client() (*mail.Client, error) {
	return mail.NewClient(m.host, mail.WithPort(m.port), mail.WithTLSPolicy(mail.NoTLS), mail.WithHELO("client.example.com"),
		mail.WithoutNoop(), mail.WithoutRset())
}

// Work implements river.Worker.
func (m *mailer) Work(ctx context.Context, job *river.Job[mailArgs]) (err error) {
	letter := mail.NewMsg()
	if err := letter.From(job.Args.From); err != nil {
		return err
	}
	if err := letter.To(job.Args.To); err != nil {
		return err
	}
	letter.Subject(job.Args.Subject)
	letter.SetBodyString(mail.TypeTextPlain, job.Args.Body)

	c := <-m.idle
	defer func() {
		if err != nil && c != nil {
			_ = c.Close()
			c = nil
		}
		m.idle <- c
	}()
	if !m.keep {
		once, err := m.client()
		if err != nil {
			return err
		}
		return once.DialAndSendWithContext(ctx, letter)
	}
	if c == nil {
		if c, err = m.client(); err != nil {
			return err
		}
		if err = c.DialWithContext(ctx); err != nil {
			return err
		}
	}
	return c.Send(letter)
}

// close ends what is open.
func (m *mailer) close() {
	for range peers {
		if c := <-m.idle; c != nil {
			_ = c.Close()
		}
	}
}

// riverSite is a database of River's.
type riverSite struct {
	pool   *pgxpool.Pool
	driver *riverpgxv5.Driver
	job    mailArgs
}

func newRiverSite(ctx context.Context, dsn string) (*riverSite, error) {
	pool, err := pgxpool.New(ctx, dsn)
	if err != nil {
		return nil, err
	}
	s := &riverSite{pool: pool, driver: riverpgxv5.New(pool)}
	migrator, err := rivermigrate.New(s.driver, nil)
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		pool.Close()
		return nil, err
	}
	l := letter()
	s.job = mailArgs{From: l.From.Address, To: l.To[0].Address, Subject: l.Subject, Body: l.Text}
	return s, nil
}

// drain works off n jobs and notes the numbers, from the start of the client until the last job is recorded as completed.
func (s *riverSite) drain(ctx context.Context, f *figures, n int, m *mailer) error {
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, m); err != nil {
		return err
	}
	client, err := river.NewClient(s.driver, &river.Config{
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 1000}},
		Workers: workers, FetchCooldown: 2 * time.Millisecond, FetchPollInterval: 10 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	for left := n; left > 0; left -= 1000 {
		jobs := make([]river.InsertManyParams, min(left, 1000))
		for i := range jobs {
			jobs[i] = river.InsertManyParams{Args: s.job}
		}
		if _, err := client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
	}
	// A job that failed is tried again much later: the rate would be that of the wait.
	events, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: n + 1000, Kinds: []river.EventKind{river.EventKindJobCompleted, river.EventKindJobFailed},
	})
	defer cancel()
	err = f.add(n, func() error {
		if err := client.Start(ctx); err != nil {
			return err
		}
		for done := 0; done < n; done++ {
			select {
			case e := <-events:
				if e.Kind == river.EventKindJobFailed {
					return fmt.Errorf("a job of River failed: %v", e.Job.Errors)
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return errors.Join(err, client.Stop(ctx))
}

// drainPostgres is P3.
func (b *bench) drainPostgres() error {
	sink, err := startSink(b.ctx)
	if err != nil {
		return err
	}
	defer sink.stop()
	dsn, drop, err := b.database()
	if err != nil {
		return err
	}
	defer drop()
	theirs, dropTheirs, err := b.database()
	if err != nil {
		return err
	}
	defer dropTheirs()
	s, err := b.newSite(dsn)
	if err != nil {
		return err
	}
	defer s.Close()
	s.url = sink.url()
	r, err := newRiverSite(b.ctx, theirs)
	if err != nil {
		return err
	}
	defer r.pool.Close()
	n, m := b.share(20_000), meter{server: b.master, sink: sink.pid}
	all := []*figures{{meter: m}, {meter: m}, {meter: m}}
	statements := &counted{Queue: s.store}
	for range b.rounds {
		if _, err := s.drain(b.ctx, all[0], n, 1, statements); err != nil {
			return err
		}
		for i, keep := range []bool{true, false} {
			m, err := newMailer(sink.addr, keep)
			if err != nil {
				return err
			}
			err = r.drain(b.ctx, all[i+1], n, m)
			m.close()
			if err != nil {
				return err
			}
			if err := r.clear(b.ctx); err != nil {
				return err
			}
		}
	}
	const work = "P3 drain to smtp-sink in clear, PostgreSQL, one dispatcher"
	byRate := all[0].rate() / max(all[1].rate(), all[2].rate())
	line := result{work: work, who: ours, figures: all[0], ratio: times(byRate) + " the better", bar: "≥ 2.0 ×", met: byRate >= 2}
	if b.master != 0 {
		byCPU := float64(all[0].cpu()) / float64(min(all[1].cpu(), all[2].cpu()))
		line.ratio += fmt.Sprintf(", %s its CPU", times(byCPU))
		line.bar, line.met = "≥ 2.0 ×, CPU of client and server ≤ 0.6 ×", line.met && byCPU <= 0.6
	}
	b.report(line,
		result{work: work, who: "River + go-mail over open connections", figures: all[1]},
		result{work: work, who: "River + go-mail dialling for each", figures: all[2]},
	)
	b.perMessage("P3 statements for each message", statements)
	return nil
}

// clear empties the table of jobs, so that each round begins alike.
func (s *riverSite) clear(ctx context.Context) error {
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "TRUNCATE river_job")
		return err
	})
}
