package smtpx_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// At every stage the client waits for a silent server as long as RFC 5321 §4.5.3.2 or the configuration says.
func TestEveryStageHasItsLimit(t *testing.T) {
	configured := smtpx.Timeouts{
		Dial: 1 * time.Second, TLS: 2 * time.Second, Banner: 3 * time.Second, EHLO: 4 * time.Second, Auth: 5 * time.Second, Mail: 6 * time.Second,
		Rcpt: 7 * time.Second, Data: 8 * time.Second, Block: 9 * time.Second, Dot: 10 * time.Second, Quit: 11 * time.Second,
	}
	large := message(strings.Repeat(strings.Repeat("x", 76)+"\r\n", 8000))
	for _, tc := range []struct {
		stage       smtptest.Stage // "" for the dial
		at          smtpx.Stage
		class       smtpx.Class
		byDefault   time.Duration
		whenSet     time.Duration
		description string
	}{
		{"", smtpx.StageDial, smtpx.ClassUnreachable, 10 * time.Second, configured.Dial, "connecting"},
		{smtptest.StageBanner, smtpx.StageBanner, smtpx.ClassUnreachable, 30 * time.Second, configured.Banner, "the greeting"},
		{smtptest.StageEHLO, smtpx.StageEHLO, smtpx.ClassUnreachable, 5 * time.Minute, configured.EHLO, "EHLO"},
		{smtptest.StageStartTLS, smtpx.StageStartTLS, smtpx.ClassUnreachable, 5 * time.Minute, configured.EHLO, "STARTTLS"},
		{smtptest.StageTLS, smtpx.StageTLS, smtpx.ClassUnreachable, 30 * time.Second, configured.TLS, "the handshake"},
		{smtptest.StageAuth, smtpx.StageAuth, smtpx.ClassUnreachable, 5 * time.Minute, configured.Auth, "AUTH"},
		{smtptest.StageMail, smtpx.StageMail, smtpx.ClassTransient, 5 * time.Minute, configured.Mail, "MAIL"},
		{smtptest.StageRcpt, smtpx.StageRcpt, smtpx.ClassTransient, 5 * time.Minute, configured.Rcpt, "RCPT"},
		{smtptest.StageData, smtpx.StageData, smtpx.ClassTransient, 2 * time.Minute, configured.Data, "DATA"},
		{smtptest.StageBody, smtpx.StageData, smtpx.ClassTransient, 3 * time.Minute, configured.Block, "a block of the body"},
		{smtptest.StageDot, smtpx.StageDot, smtpx.ClassAmbiguous, 10 * time.Minute, configured.Dot, "the final dot"},
	} {
		for _, set := range []bool{false, true} {
			name, limit := tc.description+", default", tc.byDefault
			if set {
				name, limit = tc.description+", configured", tc.whenSet
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := smtptest.New(t, smtptest.Config{NoListen: true, User: "app", Password: "s3cret", Extensions: []string{"8BITMIME"},
						Hook: smtptest.At(tc.stage, -1, smtptest.Action{End: smtptest.Stall})})
					client := open(t, srv.URL(), func(c *smtpx.Config) {
						c.Dial = srv.Dial
						if tc.stage == "" {
							c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
								<-ctx.Done()
								return nil, ctx.Err()
							}
						}
						if set {
							c.Timeouts = configured
						}
					})
					start := time.Now()
					_, err := client.Send(t.Context(), envelope("b@example.net"), large)
					wantError(t, err, tc.at, tc.class)
					if took := time.Since(start); took != limit {
						t.Errorf("given up after %v, want %v", took, limit)
					}
				})
			})
		}
	}
}
