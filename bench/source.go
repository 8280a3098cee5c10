package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
)

// source has Postfix's load generator send n messages of 2 KB over so many connections, and notes the numbers. It has no queue: it writes
// the same message again and again. Its own processor time counts as the client's.
func source(ctx context.Context, f *figures, addr string, n, connections int) error {
	path, err := tool("smtp-source")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, "-d", "-s", strconv.Itoa(connections), "-l", "2048", "-m", strconv.Itoa(n),
		"-M", "client.example.com", "-f", "shop@example.com", "-t", "ada@example.org", addr)
	err = f.add(n, func() error {
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("smtp-source: %w: %s", err, out)
		}
		return nil
	})
	if err == nil {
		last := &f.stretches[len(f.stretches)-1]
		last.cpu.client = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	return err
}

// drainSQLite is P4.
func (b *bench) drainSQLite() error {
	sink, err := startSink(b.ctx)
	if err != nil {
		return err
	}
	defer sink.stop()
	s, err := b.newSite(filepath.Join(b.dir, "drain.db"))
	if err != nil {
		return err
	}
	defer s.Close()
	s.url = sink.url()
	// The generator is faster with few connections, so it is given the number that suits it best.
	n, few := b.share(20_000), 4
	m := meter{sink: sink.pid}
	drains, theirs, theirsFew := &figures{meter: m}, &figures{meter: m}, &figures{meter: m}
	transactions := &counted{Queue: s.store}
	for range b.rounds {
		if _, err := s.drain(b.ctx, drains, n, 1, transactions); err != nil {
			return err
		}
		if err := source(b.ctx, theirs, sink.addr, n, peers); err != nil {
			return err
		}
		if err := source(b.ctx, theirsFew, sink.addr, n, few); err != nil {
			return err
		}
	}
	const work = "P4 drain to smtp-sink in clear, SQLite, one dispatcher"
	ratio := drains.rate() / max(theirs.rate(), theirsFew.rate())
	b.report(
		result{work: work, who: ours, figures: drains, ratio: times(ratio) + " the better", bar: "≥ 0.5 ×", met: ratio >= 0.5},
		result{work: work, who: fmt.Sprintf("smtp-source over %d connections", peers), figures: theirs},
		result{work: work, who: fmt.Sprintf("smtp-source over %d connections", few), figures: theirsFew},
	)
	b.perMessage("P4 transactions for each message", transactions)
	return nil
}
