package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// source has Postfix's load generator send n messages of 2 KB over so many connections, and returns the rate. It has no
// queue: it writes the same message again and again.
func source(ctx context.Context, addr string, n, connections int) (float64, error) {
	path, err := tool("smtp-source")
	if err != nil {
		return 0, err
	}
	began := time.Now()
	out, err := exec.CommandContext(ctx, path, "-d", "-s", strconv.Itoa(connections), "-l", "2048", "-m", strconv.Itoa(n),
		"-M", "client.example.com", "-f", "shop@example.com", "-t", "ada@example.org", addr).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("smtp-source: %w: %s", err, out)
	}
	return float64(n) / time.Since(began).Seconds(), nil
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
	var ours, theirs, theirsFew []float64
	transactions := &counted{Queue: s.store}
	for range rounds {
		rate, _, err := s.drain(b.ctx, n, 1, transactions)
		if err != nil {
			return err
		}
		ours = append(ours, rate)
		if rate, err = source(b.ctx, sink.addr, n, peers); err != nil {
			return err
		}
		theirs = append(theirs, rate)
		if rate, err = source(b.ctx, sink.addr, n, few); err != nil {
			return err
		}
		theirsFew = append(theirsFew, rate)
	}
	best := max(median(theirs), median(theirsFew))
	b.perMessage("P4 transactions for each message", transactions)
	b.report(result{
		"P4 drain to smtp-sink in clear, SQLite, one dispatcher",
		fmt.Sprintf("outbox %.0f/s, smtp-source over %d connections %.0f/s, over %d %.0f/s", median(ours), peers, median(theirs), few, median(theirsFew)),
		fmt.Sprintf("%.2f × the better", median(ours)/best), "≥ 0.5 ×", median(ours) >= 0.5*best,
	})
	return nil
}
