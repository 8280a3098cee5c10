package dispatcher_test

import (
	"context"
	"encoding/json"
	"log"
	"net/http"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/store"
	"github.com/outboxmail/outbox/store/sqlite"
)

// Two providers share the mail three to one, a third is the backup, and newsletters have a relay and a rate of their own.
func Example() {
	db, err := sqlite.Open("app.db")
	if err != nil {
		log.Fatal(err)
	}
	queue, err := store.New(db, schema.SQLite)
	if err != nil {
		log.Fatal(err)
	}
	open := func(url string) *smtpx.Client {
		client, err := smtpx.Open(url)
		if err != nil {
			log.Fatal(err)
		}
		return client
	}
	d, err := dispatcher.New(dispatcher.Config{
		Queue: queue,
		Relays: []dispatcher.Relay{
			{Name: "ses", Sender: open("smtp://user:secret@email-smtp.eu-west-1.amazonaws.com:587"), Routes: []string{"default"}, Weight: 3},
			{Name: "postmark", Sender: open("smtp://token:token@smtp.postmarkapp.com:587"), Routes: []string{"default"}},
			{Name: "own", Sender: open("smtp://relay.example.com:587"), Routes: []string{"default"}, Backup: true},
			{Name: "bulk", Sender: open("smtp://apikey:secret@smtp.sendgrid.net:587"), Routes: []string{"news"}, Rate: dispatcher.Rate{PerSecond: 20}},
		},
		Suppress: []string{"news"},
		Notice:   dispatcher.Notice{From: outbox.Address{Address: "mailer-daemon@example.com"}, To: []outbox.Address{{Address: "ops@example.com"}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Hour)
	defer stop()
	if err := d.Run(ctx); err != nil {
		log.Print(err)
	}
	_ = db.Close()
}

// An endpoint for the readiness of a service.
func ExampleDispatcher_Health() {
	var d *dispatcher.Dispatcher // which runs
	http.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		health := d.Health()
		if !health.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(health.Reasons)
	})
}

// Counting outcomes, for metrics.
func ExampleObserver() {
	sent := make(map[dispatcher.Event]int)
	_ = dispatcher.Config{Observer: dispatcher.Observer{
		Outcome: func(_ context.Context, e dispatcher.OutcomeEvent) { sent[e.Event]++ }, // a real one locks
		Relay: func(_ context.Context, e dispatcher.RelayEvent) {
			if e.State == dispatcher.RelayOffline {
				log.Printf("relay %s is offline: %s", e.Relay, e.Reason)
			}
		},
	}}
}

// A new password takes effect without a restart. The relay with the new client replaces the one with the old client, which may
// be closed once Update returns.
func ExampleDispatcher_Update() {
	var (
		d           *dispatcher.Dispatcher // which runs
		before, now *smtpx.Client
	)
	if err := d.Update([]dispatcher.Relay{{Name: "main", Sender: now}}); err != nil {
		log.Print(err) // the old one goes on
		return
	}
	_ = before.Close()
}
