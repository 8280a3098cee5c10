package main

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// delayed is a network between clients and a server in which every octet takes oneWay, in both directions and however many
// of them there are: throughput is not limited. Setting up a connection takes the round trip and a half that TCP needs
// before the server can speak.
type delayed struct {
	target string
	oneWay time.Duration

	ln     net.Listener
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newDelayed(target string, oneWay time.Duration) (*delayed, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &delayed{target: target, oneWay: oneWay, ln: ln, cancel: cancel}
	d.wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			d.wg.Go(func() { d.join(ctx, near) })
		}
	})
	return d, nil
}

// dial connects through the network, whatever the address is.
func (d *delayed) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "tcp", d.ln.Addr().String())
}

// Close cuts all connections and returns when their goroutines have ended.
func (d *delayed) Close() {
	d.cancel()
	_ = d.ln.Close()
	d.wg.Wait()
}

// join serves one connection until both directions have ended.
func (d *delayed) join(ctx context.Context, near net.Conn) {
	defer func() { _ = near.Close() }()
	if err := pause(ctx, time.Now().Add(3*d.oneWay)); err != nil {
		return
	}
	far, err := net.Dial("tcp", d.target)
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	stop := context.AfterFunc(ctx, func() {
		_ = near.Close()
		_ = far.Close()
	})
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { d.carry(ctx, far, near) })
	wg.Go(func() { d.carry(ctx, near, far) })
	wg.Wait()
}

// packet is what was read at a time, with when it arrives. The end of the stream travels as an empty one.
type packet struct {
	data []byte
	due  time.Time
}

// carry moves one direction.
func (d *delayed) carry(ctx context.Context, to, from net.Conn) {
	inFlight := make(chan packet, 4096)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(inFlight)
		for {
			buf := make([]byte, 32<<10)
			n, err := from.Read(buf)
			if n > 0 {
				inFlight <- packet{buf[:n], time.Now().Add(d.oneWay)}
			}
			if err != nil {
				if errors.Is(err, io.EOF) {
					inFlight <- packet{due: time.Now().Add(d.oneWay)}
				}
				return
			}
		}
	})
	broken := false
	for p := range inFlight {
		if broken || pause(ctx, p.due) != nil {
			continue // the reader must not be left waiting
		}
		if len(p.data) == 0 {
			if c, ok := to.(*net.TCPConn); ok {
				_ = c.CloseWrite()
			}
			continue
		}
		if _, err := to.Write(p.data); err != nil {
			broken = true
			_ = from.Close()
		}
	}
	wg.Wait()
}

// pause waits until a moment.
func pause(ctx context.Context, until time.Time) error {
	d := time.Until(until)
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
