package store

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// Message is a stored message without its body; see [Store.Body].
type Message struct {
	ID             outbox.ID
	MessageID      string
	IdempotencyKey string // empty for none
	Route          string
	Priority       outbox.Priority
	Sender         string // envelope; empty for the null return path
	Recipients     []string
	Subject        string
	Size           int64
	NotBefore      time.Time // zero for none
	ExpiresAt      time.Time // zero for none
	OnUncertain    outbox.UncertainPolicy
	// Tags and Metadata are as they were enqueued. A value that is no string appears as its JSON text.
	Tags        []string
	Metadata    map[string]string
	TraceParent string
	CreatedAt   time.Time
	// Scrubbed says that the body was removed.
	Scrubbed bool
	// KeyID names the key that the body, and perhaps Subject and Metadata, are sealed with, empty for none; see
	// [keyring.Ring].
	KeyID string
	// Deliveries has one entry for each recipient, and Attempts one for each attempt that was not simply successful,
	// the oldest first. Changes has what operators did to them, in the same order. Feedback is what providers reported later, in the
	// order in which it happened.
	Deliveries []Delivery
	Attempts   []Attempt
	Changes    []Change
	Feedback   []Feedback
}

// Delivery is one recipient of a message, with the fields of the message that people ask for first.
type Delivery struct {
	ID             outbox.ID
	Seq            int
	Recipient      string
	Route          string
	Priority       outbox.Priority
	State          outbox.State
	DueAt          time.Time
	ExpiresAt      time.Time // zero for none
	Attempts       int
	Lapses         int       // leases that lapsed in a row, without an outcome in between
	DeferredSince  time.Time // zero unless it waits through an outage or throttling
	LeaseUntil     time.Time // of the claim; zero unless sending
	LeaseOwner     string    // the dispatcher that claimed it; empty unless sending
	Class          string    // of the last outcome, as are the next five
	Code           int
	Enhanced       string
	Reply          string
	Relay          string
	ProviderID     string
	FinishedAt     time.Time // zero unless terminal
	MessageID      string
	Sender         string
	Subject        string
	Size           int64
	CreatedAt      time.Time
	IdempotencyKey string
	// KeyID names the key that the body, and perhaps Subject, are sealed with, empty for none.
	KeyID string
	// Later says that the delivery was not yet due when it was read, by the clock of the database.
	Later bool
}

// Shown returns the state as people read it. A queued delivery is "deferred" after an attempt or a lapse, and "scheduled" if its time has
// not come.
func (d *Delivery) Shown() string {
	switch {
	case d.State != outbox.StateQueued:
		return string(d.State)
	case d.Attempts > 0 || !d.DeferredSince.IsZero() || d.Lapses > 0:
		return "deferred"
	case d.Later:
		return "scheduled"
	default:
		return string(d.State)
	}
}

// Attempt is one attempt that did not simply succeed.
type Attempt struct {
	Seq       int
	Attempt   int
	Verb      queue.Outcome // what became of the delivery; "reap" when its lease lapsed
	StartedAt time.Time
	Duration  time.Duration
	Owner     string // the dispatcher
	Relay     string
	Stage     string
	Class     string
	Code      int
	Enhanced  string
	Reply     string
}

// deliveryRow is a [Delivery] as it is read.
type deliveryRow struct {
	ID            outbox.ID
	Seq           int
	Recipient     string
	Route         string
	Priority      outbox.Priority
	State         outbox.State
	DueAt         timestamp `db:"due_at"`
	ExpiresAt     timestamp `db:"expires_at"`
	Attempts      int
	Lapses        int
	DeferredSince timestamp `db:"deferred_since"`
	LeaseUntil    timestamp `db:"lease_until"`
	LeaseOwner    string    `db:"lease_owner"`
	Class         string
	Code          int
	Enhanced      string
	Reply         string
	Relay         string
	ProviderID    string    `db:"provider_id"`
	FinishedAt    timestamp `db:"finished_at"`
	MessageID     string    `db:"rfc_id"`
	Sender        string
	Subject       string
	Size          int64
	CreatedAt     timestamp `db:"created_at"`
	Key           string    `db:"idempotency_key"`
	KeyID         string    `db:"key_id"`
	Later         bool
}

func (r *deliveryRow) delivery() Delivery {
	return Delivery{
		ID: r.ID, Seq: r.Seq, Recipient: r.Recipient, Route: r.Route, Priority: r.Priority, State: r.State,
		DueAt: r.DueAt.Time, ExpiresAt: r.ExpiresAt.Time, Attempts: r.Attempts, Lapses: r.Lapses, DeferredSince: r.DeferredSince.Time,
		LeaseUntil: r.LeaseUntil.Time, LeaseOwner: r.LeaseOwner, Class: r.Class, Code: r.Code, Enhanced: r.Enhanced,
		Reply: r.Reply, Relay: r.Relay, ProviderID: r.ProviderID, FinishedAt: r.FinishedAt.Time, MessageID: r.MessageID,
		Sender: r.Sender, Subject: r.Subject, Size: r.Size, CreatedAt: r.CreatedAt.Time, IdempotencyKey: r.Key, KeyID: r.KeyID,
		Later: r.Later,
	}
}

// Get returns a message with its deliveries, attempts and feedback, or an error that is [ErrNotFound]. They are read one after
// the other; a dispatcher may move a delivery in between.
func (s *Store) Get(ctx context.Context, id outbox.ID) (*Message, error) {
	m, err := s.get(ctx, id)
	if err != nil {
		return nil, s.failed(ctx, err, "read message %s", id)
	}
	return m, nil
}

func (s *Store) get(ctx context.Context, id outbox.ID) (*Message, error) {
	canonical, err := outbox.ParseID(string(id))
	if err != nil {
		return nil, err
	}
	type row struct {
		ID          outbox.ID
		RFCID       string `db:"rfc_id"`
		Key         string `db:"idempotency_key"`
		Route       string
		Priority    outbox.Priority
		Sender      string
		Recipients  []byte
		Subject     string
		Size        int64
		NotBefore   timestamp              `db:"not_before"`
		ExpiresAt   timestamp              `db:"expires_at"`
		OnUncertain outbox.UncertainPolicy `db:"on_uncertain"`
		Tags        []byte
		Metadata    []byte
		TraceParent string    `db:"trace_parent"`
		CreatedAt   timestamp `db:"created_at"`
		Scrubbed    bool
		KeyID       string `db:"key_id"`
	}
	rows, err := collect[row](ctx, s.db, s.queries.get("message"), string(canonical))
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, ErrNotFound
	}
	r := rows[0]
	m := &Message{
		ID: r.ID, MessageID: r.RFCID, IdempotencyKey: r.Key, Route: r.Route, Priority: r.Priority, Sender: r.Sender,
		Subject: r.Subject, Size: r.Size, NotBefore: r.NotBefore.Time, ExpiresAt: r.ExpiresAt.Time, OnUncertain: r.OnUncertain,
		TraceParent: r.TraceParent, CreatedAt: r.CreatedAt.Time, Scrubbed: r.Scrubbed, KeyID: r.KeyID,
	}
	m.Recipients, m.Tags, m.Metadata = readList(r.Recipients), readList(r.Tags), readMap(r.Metadata)
	query := s.qualify(selectDeliveries + " WHERE d.message_id = $1 ORDER BY d.seq")
	deliveries, err := collect[deliveryRow](ctx, s.db, query, string(canonical))
	if err != nil {
		return nil, err
	}
	for _, d := range deliveries {
		m.Deliveries = append(m.Deliveries, d.delivery())
	}
	type attemptRow struct {
		Seq, Attempt int
		Verb         queue.Outcome
		StartedAt    timestamp `db:"started_at"`
		DurationMS   int64     `db:"duration_ms"`
		Owner        string
		Relay        string
		Stage        string
		Class        string
		Code         int
		Enhanced     string
		Reply        string
	}
	attempts, err := collect[attemptRow](ctx, s.db, s.queries.get("attempts"), string(canonical))
	if err != nil {
		return nil, err
	}
	for _, a := range attempts {
		attempt := Attempt{
			Seq: a.Seq, Attempt: a.Attempt, Verb: a.Verb, StartedAt: a.StartedAt.Time, Duration: time.Duration(a.DurationMS) * time.Millisecond,
			Owner: a.Owner, Relay: a.Relay, Stage: a.Stage, Class: a.Class, Code: a.Code, Enhanced: a.Enhanced, Reply: a.Reply,
		}
		if change, ok := attempt.change(); ok {
			m.Changes = append(m.Changes, change)
			continue
		}
		m.Attempts = append(m.Attempts, attempt)
	}
	if m.Feedback, err = s.feedback(ctx, canonical); err != nil {
		return nil, fmt.Errorf("feedback: %w", err)
	}
	return m, nil
}

// listPage is how many deliveries [Store.All] reads at a time.
const listPage = 500

// selectDeliveries reads deliveryRows from the tables of a predicate.
const selectDeliveries = `SELECT CAST(d.message_id AS text) AS id, d.seq, d.recipient, d.route, d.priority, d.state, d.due_at, d.expires_at,
  d.attempts, d.lapses, d.deferred_since, k.lease_until, coalesce(k.owner, '') AS lease_owner, coalesce(d.class, '') AS class,
  coalesce(d.code, 0) AS code, coalesce(d.enhanced, '') AS enhanced, coalesce(d.reply, '') AS reply,
  coalesce(d.relay, '') AS relay, coalesce(d.provider_id, '') AS provider_id, d.finished_at,
  m.message_id AS rfc_id, m.sender, m.subject, m.size, m.created_at, coalesce(m.idempotency_key, '') AS idempotency_key,
  coalesce(m.body_key_id, '') AS key_id,
  d.due_at > c.now AS later
FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id LEFT JOIN outbox_claims k ON k.token = d.lease_token
CROSS JOIN outbox_clock c`

// List returns the deliveries that the filter selects, the newest message first. It holds all of them in memory: set Limit, or
// use [Store.All].
func (s *Store) List(ctx context.Context, f Filter) ([]Delivery, error) {
	var list []Delivery
	for d, err := range s.All(ctx, f) {
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

// All streams the deliveries that the filter selects, the newest message first, in constant memory. It reads a page at a time
// and holds no transaction in between. A delivery that moves meanwhile is shown once, as it was when its page was read. An
// error ends the sequence.
func (s *Store) All(ctx context.Context, f Filter) iter.Seq2[Delivery, error] {
	return func(yield func(Delivery, error) bool) {
		var last *Delivery
		for left := f.Limit; ; {
			size := listPage
			if f.Limit > 0 {
				size = min(size, left)
			}
			page, err := s.page(ctx, f, last, size)
			if err != nil {
				yield(Delivery{}, s.failed(ctx, err, "list"))
				return
			}
			for _, r := range page {
				if !yield(r.delivery(), nil) {
					return
				}
			}
			left -= len(page)
			if len(page) < size || f.Limit > 0 && left == 0 {
				return
			}
			d := page[len(page)-1].delivery()
			last = &d
		}
	}
}

// page reads the deliveries after the key of the last one, so that every page costs the same.
func (s *Store) page(ctx context.Context, f Filter, last *Delivery, size int) ([]deliveryRow, error) {
	p, err := f.predicate(s.dialect)
	if err != nil {
		return nil, err
	}
	if last != nil {
		p.termf("(d.message_id, d.seq) < (%s, %s)", p.arg(string(last.ID)), p.arg(last.Seq))
	}
	query := fmt.Sprintf("%s WHERE %s ORDER BY d.message_id DESC, d.seq DESC LIMIT %s", selectDeliveries, p.sql(), p.arg(size))
	return collect[deliveryRow](ctx, s.db, s.qualify(query), p.args...)
}

// Count returns how many deliveries the filter selects. It ignores the limit.
func (s *Store) Count(ctx context.Context, f Filter) (int64, error) {
	p, err := f.predicate(s.dialect)
	if err != nil {
		return 0, fmt.Errorf("count: %w", err)
	}
	n, err := s.count(ctx, p)
	if err != nil {
		return 0, s.failed(ctx, err, "count")
	}
	return n, nil
}

func (s *Store) count(ctx context.Context, p *predicate) (int64, error) {
	query := "SELECT count(*) FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id WHERE " + p.sql()
	counts, err := collect[int64](ctx, s.db, s.qualify(query), p.args...)
	if err != nil {
		return 0, err
	}
	return counts[0], nil
}
