package smtpx_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// BenchmarkSend sends messages of 2 KB from 16 senders over 4 connections to the test server of this process.
func BenchmarkSend(b *testing.B) {
	for _, bc := range []struct {
		name   string
		config smtptest.Config
	}{
		{"clear,lockstep", smtptest.Config{TLS: smtptest.NoTLS, Extensions: []string{}}},
		{"clear,pipelining", smtptest.Config{TLS: smtptest.NoTLS, Extensions: []string{"PIPELINING"}}},
		{"clear,chunking", smtptest.Config{TLS: smtptest.NoTLS, Extensions: []string{"PIPELINING", "CHUNKING"}}},
		{"tls,pipelining", smtptest.Config{Extensions: []string{"PIPELINING"}}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			bc.config.Discard = true
			srv, err := smtptest.Start(bc.config)
			if err != nil {
				b.Fatal(err)
			}
			defer srv.Close()
			client, err := smtpx.Open(srv.URL("conns=4"))
			if err != nil {
				b.Fatal(err)
			}
			defer client.Close()
			body := message(strings.Repeat(strings.Repeat("x", 70)+"\r\n", 28))
			var failed atomic.Int64
			b.SetParallelism(8)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := client.Send(b.Context(), envelope("b@example.net"), body); err != nil {
						failed.Add(1)
					}
				}
			})
			if n := failed.Load(); n > 0 {
				b.Errorf("%d messages failed", n)
			}
		})
	}
}
