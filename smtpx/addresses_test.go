package smtpx_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// resolver answers every question for an IPv4 address with the given ones.
func resolver(addresses ...[4]byte) *net.Resolver {
	answer := func(c net.Conn) {
		defer c.Close()
		size := make([]byte, 2)
		for {
			if _, err := io.ReadFull(c, size); err != nil {
				return
			}
			query := make([]byte, binary.BigEndian.Uint16(size))
			var m dnsmessage.Message
			if _, err := io.ReadFull(c, query); err != nil || m.Unpack(query) != nil {
				return
			}
			m.Response, m.Additionals = true, nil
			for _, a := range addresses {
				if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}, Body: &dnsmessage.AResource{A: a},
					})
				}
			}
			packed, err := m.Pack()
			if err != nil {
				return
			}
			_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
		}
	}
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go answer(server)
		return client, nil
	}}
}

// A relay with several addresses is reached although one of them greets badly or fails in TLS. What concerns the account is not tried
// elsewhere.
func TestNextAddress(t *testing.T) {
	for name, tc := range map[string]struct {
		serve    func(c net.Conn, r *bufio.Reader) // the first address
		stage    smtpx.Stage                       // "" if the second address serves
		class    smtpx.Class
		params   string
		sessions int32 // at the second
	}{
		"refusal at the greeting": {func(c net.Conn, _ *bufio.Reader) { say(c, "421 4.3.2 shutting down") }, "", "", "", 1},
		"hangs up":                {func(net.Conn, *bufio.Reader) {}, "", "", "", 1},
		"another protocol":        {func(c net.Conn, _ *bufio.Reader) { say(c, "SSH-2.0-x") }, "", "", "", 1},
		"TLS fails": {func(c net.Conn, r *bufio.Reader) {
			say(c, "220 x")
			line(r)
			say(c, "250-x", "250 STARTTLS")
			line(r)
			say(c, "220 go")
			_, _ = r.ReadByte()
			_, _ = c.Write([]byte("no handshake at all\r\n"))
		}, "", "", "", 1},
		"too many connections": {func(c net.Conn, _ *bufio.Reader) { say(c, "421 4.7.0 too many connections from your host") },
			smtpx.StageBanner, smtpx.ClassThrottled, "", 0},
		"EHLO is refused": {func(c net.Conn, r *bufio.Reader) {
			say(c, "220 x")
			line(r)
			say(c, "550 5.7.1 we do not like your name")
		},
			smtpx.StageEHLO, smtpx.ClassConfig, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			srv := smtptest.New(t, smtptest.Config{Addr: "127.0.0.2:0", Hostname: "relay.test"})
			_, port, err := net.SplitHostPort(srv.Addr())
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:"+port)
			if err != nil {
				t.Skip(err)
			}
			var first atomic.Int32
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					first.Add(1)
					tc.serve(c, bufio.NewReader(c))
					c.Close()
				}
			}()
			t.Cleanup(func() { l.Close(); <-done })
			client := open(t, "smtp://relay.test:"+port, func(c *smtpx.Config) {
				c.Resolver = resolver([4]byte{127, 0, 0, 1}, [4]byte{127, 0, 0, 2})
				c.RootCAs = srv.CertPool()
			})
			_, err = client.Send(testContext(t), envelope("b@example.net"), message("x"))
			if tc.stage != "" {
				wantError(t, err, tc.stage, tc.class)
			} else if err != nil || srv.Count() != 1 {
				t.Errorf("%v, %d messages", err, srv.Count())
			}
			if first.Load() != 1 {
				t.Errorf("the first address was dialled %d times", first.Load())
			}
		})
	}
}

// New connections keep their rate, and no message waits longer than that.
func TestDialRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := smtptest.New(t, smtptest.Config{NoListen: true, TLS: smtptest.NoTLS})
		var dialled []time.Time
		client := open(t, srv.URL("dials=6/m", "messages=1", "conns=2"), func(c *smtpx.Config) {
			c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				dialled = append(dialled, time.Now())
				return srv.Dial(ctx, network, address)
			}
		})
		start := time.Now()
		for range 4 {
			if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start).Round(time.Second); took != 30*time.Second || len(dialled) != 4 {
			t.Errorf("%d connections in %v", len(dialled), took)
		}
		client.Close()
		srv.Close()
	})
}
