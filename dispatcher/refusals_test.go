package dispatcher_test

import (
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// Only a refusal that speaks of the address puts it on the suppression list, and a refusal of the dialogue fails no message: RFC 5321
// §4.2.4 and §4.3.2, RFC 3463 §3.3 and §3.6.
func TestRefusalsOfARelay(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		stage      smtptest.Stage
		reply      string
		failed     bool
		suppressed bool
	}{
		"gone":                    {smtptest.StageRcpt, "550 5.1.1 no such user", true, true},
		"full":                    {smtptest.StageRcpt, "552 5.2.2 Mailbox is full", true, false},
		"over quota":              {smtptest.StageRcpt, "550 5.2.2 user is over quota", true, false},
		"host on a list":          {smtptest.StageRcpt, "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org", false, false},
		"RCPT is not known":       {smtptest.StageRcpt, "502 5.5.2 Error: command not recognized", false, false},
		"RCPT has a bad option":   {smtptest.StageRcpt, "501 5.5.4 Unsupported option", false, false},
		"MAIL has a bad option":   {smtptest.StageMail, "555 5.5.4 MAIL FROM parameters not recognized or not implemented", false, false},
		"DATA is not known":       {smtptest.StageData, "500 5.5.1 what?", false, false},
		"the hour's cap at RCPT":  {smtptest.StageRcpt, "550 5.1.1 your host passed its hourly cap of addressees", false, false},
		"the policy of the relay": {smtptest.StageRcpt, "550 5.7.0 our policy forbids it", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachQueue(t, func(t *testing.T, q *testQueue) {
				server := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Hook: smtptest.At(tc.stage, 1, smtptest.Action{Reply: tc.reply})})
				client, err := smtpx.Open(server.URL())
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = client.Close() }()
				q.enqueue(1, func(m *outbox.Message) { m.To[0].Address = "ann@example.net" })
				report := flush(t, newDispatcher(t, dispatcher.Config{Queue: q, Suppress: []string{"*"}}, client))
				if failed := report.Failed == 1; failed != tc.failed {
					t.Errorf("report %+v, want failed %v", report, tc.failed)
				}
				if entry, ok, err := q.Suppressed(t.Context(), "ann@example.net"); ok != tc.suppressed || err != nil {
					t.Errorf("on the list %v %+v, error %v", ok, entry, err)
				}
			})
		})
	}
}
