package smtpx_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// Twice as many calls as the rate allows, each with little patience: those that give up take nothing from the others.
func TestRateIsUsedUpUnderTooMuchDemand(t *testing.T) {
	rate := func(c *smtpx.Config) { c.Rate = 10 }
	bubble(t, smtptest.Config{}, []smtpx.Option{rate}, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
		var sent, late atomic.Int64
		var wg sync.WaitGroup
		start := time.Now()
		for range 400 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := client.Send(ctx, envelope("b@example.net"), message("x")); err == nil {
					sent.Add(1)
					if time.Since(start) > 15*time.Second {
						late.Add(1)
					}
				}
			})
			time.Sleep(50 * time.Millisecond)
		}
		wg.Wait()
		if sent.Load() < 190 || sent.Load() > 212 || late.Load() < 45 {
			t.Errorf("%d of 400 were sent within 21 s at 10/s, %d of them after 15 s", sent.Load(), late.Load())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.Send(ctx, envelope("b@example.net"), message("x")); err != nil {
			t.Errorf("when it is quiet again: %v", err)
		}
	})
}

// A caller that stops waiting gives its turn to the next.
func TestTurnIsGivenUp(t *testing.T) {
	rate := func(c *smtpx.Config) { c.Rate = 1 }
	bubble(t, smtptest.Config{}, []smtpx.Option{rate}, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
		send := func(patience time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := client.Send(ctx, envelope("b@example.net"), message("x"))
			return err
		}
		if err := send(time.Minute); err != nil {
			t.Fatal(err)
		}
		impatient := make(chan error, 20)
		for range cap(impatient) {
			go func() { impatient <- send(100 * time.Millisecond) }()
		}
		synctest.Wait()
		start := time.Now()
		if err := send(time.Minute); err != nil || time.Since(start) > time.Second {
			t.Errorf("%v after %v, want the first turn", err, time.Since(start))
		}
		for range cap(impatient) {
			if err := <-impatient; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("impatient call: %v", err)
			}
		}
	})
}

func TestCloseEndsTheWaitForTheRate(t *testing.T) {
	rate := func(c *smtpx.Config) { c.Rate = 0.001 }
	bubble(t, smtptest.Config{}, []smtpx.Option{rate}, func(t *testing.T, _ *smtptest.Server, client *smtpx.Client) {
		if _, err := client.Send(t.Context(), envelope("b@example.net"), message("x")); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 3)
		for range cap(waiting) {
			go func() {
				_, err := client.Send(t.Context(), envelope("b@example.net"), message("x"))
				waiting <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		client.Close()
		for range cap(waiting) {
			err := <-waiting
			if !errors.Is(err, smtpx.ErrClosed) || time.Since(start) > 4*time.Second {
				t.Errorf("%v after %v", err, time.Since(start))
			}
			wantError(t, err, smtpx.StageDial, smtpx.ClassRecycle)
		}
	})
}
