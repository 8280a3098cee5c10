package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/wneessen/go-mail"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

const (
	// roundTrip is that of the network between the clients and the relay, and connections how many each contender has open.
	roundTrip   = 40 * time.Millisecond
	connections = 10
	// backlogged is how many messages wait for smtpx's connections or are being sent: one whose reply is under way, one whose
	// envelope left behind it, and enough that the next is there in time. go-mail sends one at a time on each connection.
	backlogged = 4 * connections

	relayUser, relayPassword = "bench", "correct horse"
)

// far is a relay behind a network that delays. It wants STARTTLS and AUTH.
type far struct {
	relay *smtptest.Server
	net   *delayed
}

func newFar(extensions ...string) (*far, error) {
	relay, err := smtptest.Start(smtptest.Config{User: relayUser, Password: relayPassword, Extensions: extensions, Discard: true})
	if err != nil {
		return nil, err
	}
	network, err := newDelayed(relay.Addr(), roundTrip/2)
	if err != nil {
		_ = relay.Close()
		return nil, err
	}
	return &far{relay, network}, nil
}

// Close ends the network and the relay.
func (f *far) Close() {
	f.net.Close()
	_ = f.relay.Close()
}

// farSender sends one message at each call, as often as its contender can at a time.
type farSender struct {
	contender
	goroutines int
	close      func()
}

// smtpx is a client with its defaults but for the number of connections.
func (f *far) smtpx() (*farSender, error) {
	client, err := smtpx.Open(f.relay.URLFor(relayUser, relayPassword, "conns="+strconv.Itoa(connections), "ehlo=client.example.com"),
		func(c *smtpx.Config) { c.Dial = f.net.dial })
	if err != nil {
		return nil, err
	}
	rendered, err := outbox.Render(letter(), outbox.ID(uuid.Must(uuid.NewV7()).String()), time.Now())
	if err != nil {
		_ = client.Close()
		return nil, err
	}
	env := smtpx.Envelope{From: "shop@example.com", To: []string{"ada@example.org"}}
	return &farSender{
		contender{"smtpx", func(ctx context.Context) error {
			_, err := client.Send(ctx, env, rendered.Body)
			return err
		}},
		backlogged,
		func() { _ = client.Close() },
	}, nil
}

// goMailClient makes a client of go-mail.
func (f *far) goMailClient(opts ...mail.Option) (*mail.Client, error) {
	host, port, err := net.SplitHostPort(f.relay.Addr())
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	return mail.NewClient(host, append([]mail.Option{
		mail.WithPort(n), mail.WithTLSPolicy(mail.TLSMandatory), mail.WithHELO("client.example.com"),
		mail.WithTLSConfig(&tls.Config{RootCAs: f.relay.CertPool(), ServerName: host, MinVersion: tls.VersionTLS12}),
		mail.WithSMTPAuth(mail.SMTPAuthPlain), mail.WithUsername(relayUser), mail.WithPassword(relayPassword),
		mail.WithDialContextFunc(f.net.dial),
	}, opts...)...)
}

// goMailLetter is the same letter.
func goMailLetter() (*mail.Msg, error) {
	l, m := letter(), mail.NewMsg()
	if err := m.FromFormat(l.From.Name, l.From.Address); err != nil {
		return nil, err
	}
	if err := m.To(l.To[0].Address); err != nil {
		return nil, err
	}
	m.Subject(l.Subject)
	m.SetBodyString(mail.TypeTextPlain, l.Text)
	return m, nil
}

// mailLane is a client of go-mail and the message that it sends again and again.
type mailLane struct {
	client *mail.Client
	letter *mail.Msg
}

// goMail is one client for each connection. Kept, they are connected once; else they dial for each message.
func (f *far) goMail(ctx context.Context, name string, kept bool, opts ...mail.Option) (*farSender, error) {
	lanes := make(chan mailLane, connections)
	s := &farSender{goroutines: connections, close: func() {
		for range len(lanes) {
			if l := <-lanes; kept {
				_ = l.client.Close()
			}
		}
	}}
	for range connections {
		c, err := f.goMailClient(opts...)
		if err != nil {
			return nil, err
		}
		if kept {
			if err := c.DialWithContext(ctx); err != nil {
				return nil, err
			}
		}
		m, err := goMailLetter()
		if err != nil {
			return nil, err
		}
		lanes <- mailLane{c, m}
	}
	s.contender = contender{name, func(ctx context.Context) error {
		l := <-lanes
		defer func() { lanes <- l }()
		if kept {
			return l.client.Send(l.letter)
		}
		return l.client.DialAndSendWithContext(ctx, l.letter)
	}}
	return s, nil
}

// distance is P5: a drain over a network with a delay, over STARTTLS and AUTH.
func (b *bench) distance() error {
	f, err := newFar("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "DSN")
	if err != nil {
		return err
	}
	defer f.Close()
	senders := make([]*farSender, 0, 4)
	for _, open := range []func() (*farSender, error){
		f.smtpx,
		func() (*farSender, error) { return f.goMail(b.ctx, "go-mail kept open", true) },
		func() (*farSender, error) {
			return f.goMail(b.ctx, "go-mail kept open, without NOOP and RSET", true, mail.WithoutNoop(), mail.WithoutRset())
		},
		func() (*farSender, error) { return f.goMail(b.ctx, "go-mail dialling per message", false) },
	} {
		s, err := open()
		if err != nil {
			return err
		}
		defer s.close()
		senders = append(senders, s)
	}
	rates, turns := make([][]float64, len(senders)), make([][]float64, len(senders))
	for range b.rounds {
		for i, s := range senders {
			rate, perMessage, err := b.fly(f, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			rates[i] = append(rates[i], rate)
			turns[i] = append(turns[i], perMessage)
		}
	}
	medians, flights := make([]float64, len(senders)), make([]float64, len(senders))
	for i := range senders {
		slices.Sort(rates[i])
		slices.Sort(turns[i])
		medians[i], flights[i] = rates[i][b.rounds/2], turns[i][b.rounds/2]
	}
	for i, bar := range []float64{5, 3, 12} {
		i++ // the first is smtpx
		r := result{
			work:  fmt.Sprintf("P5 drain over STARTTLS + AUTH, %v round trip, %d connections: smtpx and %s", roundTrip, connections, senders[i].name),
			more:  fmt.Sprintf("%.0f/s and %.0f/s; %.2f and %.2f flights a message", medians[0], medians[i], flights[0], flights[i]),
			ratio: fmt.Sprintf("%.1f ×", medians[0]/medians[i]), bar: fmt.Sprintf("≥ %.0f ×", bar), met: medians[0] >= bar*medians[i],
		}
		b.report(r)
	}
	b.flights("with PIPELINING", flights[0], 1.05)
	return b.distanceWithout()
}

// distanceWithout counts the flights of smtpx at relays that offer less, and more.
func (b *bench) distanceWithout() error {
	for _, offer := range []struct {
		name       string
		extensions []string
		bar        float64
	}{
		{"without PIPELINING", []string{"SIZE 52428800", "8BITMIME"}, 4},
		{"with PIPELINING and CHUNKING", []string{"PIPELINING", "CHUNKING", "SIZE 52428800", "8BITMIME"}, 1},
	} {
		f, err := newFar(offer.extensions...)
		if err != nil {
			return err
		}
		perMessage, err := b.flyOnce(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", offer.name, err)
		}
		b.flights(offer.name, perMessage, offer.bar)
	}
	return nil
}

func (b *bench) flyOnce(f *far) (float64, error) {
	s, err := f.smtpx()
	if err != nil {
		return 0, err
	}
	defer s.close()
	_, perMessage, err := b.fly(f, s)
	return perMessage, err
}

// flights reports what the relay counted.
func (b *bench) flights(offer string, n, bar float64) {
	b.report(result{
		work: "P5 flights for each message of smtpx, " + offer, who: ours, more: fmt.Sprintf("%.3f", n), bar: fmt.Sprintf("≤ %v", bar), met: n <= bar,
	})
}

// fly has a sender work for a round and returns its rate and the flights of a message, as the relay counts both.
func (b *bench) fly(f *far, s *farSender) (rate, flights float64, err error) {
	before, count := f.relay.Stats(), f.relay.Count()
	began := time.Now()
	n, err := b.turn(s.goroutines, s.contender)
	if err != nil {
		return 0, 0, err
	}
	rate = float64(n) / time.Since(began).Seconds()
	sent := f.relay.Count() - count
	if sent == 0 {
		return 0, 0, fmt.Errorf("no message arrived")
	}
	return rate, float64(f.relay.Stats().MessageFlights-before.MessageFlights) / float64(sent), nil
}
