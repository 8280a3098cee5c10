package storetest

import (
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jmoiron/sqlx"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/store"
)

// world is what a rule runs on: a database with empty tables, and a store over it.
type world struct {
	*testing.T

	says    string
	dialect schema.Dialect
	db      *sqlx.DB
	schema  string // of PostgreSQL, or empty
	store   *store.Store
}

// tables lists the tables in an order in which they can be emptied.
var tables = []string{
	"messages", "deliveries", "claims", "fences", "attempts", "feedback", "routes", "relays", "dispatchers", "chores", "suppressions",
	"actions",
}

func (w *world) reset() {
	w.Helper()
	for _, table := range tables {
		w.exec("DELETE FROM outbox_" + table)
	}
}

// migrate creates the tables.
func (w *world) migrate() {
	w.Helper()
	var opts []schema.Option
	if w.schema != "" {
		opts = append(opts, schema.In(w.schema))
	}
	w.must(schema.Migrate(w.Context(), w.db.DB, w.dialect, opts...))
}

// in prefixes the table names of a statement with the schema.
func (w *world) in(query string) string { return pgschema.Qualify(query, w.schema) }

func (w *world) newStore(opts ...store.Option) *store.Store {
	w.Helper()
	if w.schema != "" {
		opts = append(opts, store.Schema(w.schema))
	}
	s, err := store.New(w.db.DB, w.dialect, opts...)
	w.must(err)
	return s
}

// violatedf reports that the rule does not hold, and goes on.
func (w *world) violatedf(format string, args ...any) {
	w.Helper()
	w.Errorf("violated: %s\n%s", w.says, fmt.Sprintf(format, args...))
}

// must ends the rule on an unexpected error.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("violated: %s\nunexpected error: %v", w.says, err)
	}
}

// refused wants an error that contains each of the words.
func (w *world) refused(err error, words ...string) {
	w.Helper()
	if err == nil {
		w.violatedf("there was no error")
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.violatedf("the error %q does not say %q", err, word)
		}
	}
}

// want compares two values.
func want[V any](w *world, what string, got, expected V) {
	w.Helper()
	if !reflect.DeepEqual(got, expected) {
		w.violatedf("%s: got %v, want %v", what, got, expected)
	}
}

func (w *world) exec(query string, args ...any) {
	w.Helper()
	if _, err := w.db.ExecContext(w.Context(), w.in(query), args...); err != nil {
		w.Fatalf("%s: %v", query, err)
	}
}

// number reads one number.
func (w *world) number(query string, args ...any) int {
	w.Helper()
	var n int
	if err := w.db.GetContext(w.Context(), &n, w.in(query), args...); err != nil {
		w.Fatalf("%s: %v", query, err)
	}
	return n
}

// edit changes a message under construction.
type edit func(m *outbox.Message)

// mail is a message to one recipient.
func mail(edits ...edit) *outbox.Message {
	m := &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: "ann@example.org"}},
		Subject: "Your order", Text: "It is on its way.",
	}
	for _, e := range edits {
		e(m)
	}
	return m
}

func to(addresses ...string) edit {
	return func(m *outbox.Message) {
		m.To = nil
		for _, a := range addresses {
			m.To = append(m.To, outbox.Address{Address: a})
		}
	}
}

func on(route string) edit        { return func(m *outbox.Message) { m.Route = route } }
func with(p outbox.Priority) edit { return func(m *outbox.Message) { m.Priority = p } }
func keyed(key string) edit       { return func(m *outbox.Message) { m.Key = key } }

// later schedules a message for one hour from now. expiring sets its deadline to one hour from now.
func later(m *outbox.Message)    { m.NotBefore = time.Now().Add(time.Hour) }
func expiring(m *outbox.Message) { m.Expires = time.Now().Add(time.Hour) }

// holding leaves uncertain outcomes to an operator.
func holding(m *outbox.Message) { m.OnUncertain = outbox.Hold }

func from(address string) edit { return func(m *outbox.Message) { m.From.Address = address } }
func text(s string) edit       { return func(m *outbox.Message) { m.Text = s } }
func raw(message string) edit {
	return func(m *outbox.Message) { *m = outbox.Message{Raw: []byte(message)} }
}
func labelled(tag, k, v string) edit {
	return func(m *outbox.Message) { m.Tags, m.Metadata = []string{tag}, map[string]string{k: v} }
}
func (w *world) enqueue(m *outbox.Message) outbox.ID { w.Helper(); return w.enqueueAll(m)[0] }

// box returns an Outbox for the schema of the tables.
func (w *world) box() *outbox.Outbox {
	w.Helper()
	box, err := outbox.New(outbox.Config{Schema: w.schema})
	w.must(err)
	return box
}

// enqueueAll stores messages in one transaction.
func (w *world) enqueueAll(list ...*outbox.Message) []outbox.ID {
	w.Helper()
	tx, err := w.db.BeginTxx(w.Context(), nil)
	w.must(err)
	defer func() { _ = tx.Rollback() }()
	receipts, err := w.box().EnqueueMany(w.Context(), tx, list)
	w.must(err)
	w.must(tx.Commit())
	ids := make([]outbox.ID, len(receipts))
	for i, r := range receipts {
		ids[i] = r.ID
	}
	return ids
}

// many enqueues n messages that look alike.
func (w *world) many(n int, edits ...edit) []outbox.ID {
	w.Helper()
	list := make([]*outbox.Message, n)
	for i := range list {
		list[i] = mail(edits...)
	}
	return w.enqueueAll(list...)
}

// request is a claim of up to 100 deliveries by d1, which promises fences.
func request() queue.ClaimRequest {
	return queue.ClaimRequest{Owner: "d1", Limit: 100, Lease: time.Minute, InlineBytes: 1 << 20, Fenced: true}
}

// claim sends the request, changed by the edits.
func (w *world) claim(edits ...func(*queue.ClaimRequest)) []queue.Claimed {
	w.Helper()
	return w.claimFrom(w.store, edits...)
}

func (w *world) claimFrom(s *store.Store, edits ...func(*queue.ClaimRequest)) []queue.Claimed {
	w.Helper()
	req := request()
	for _, e := range edits {
		e(&req)
	}
	claimed, err := s.Claim(w.Context(), req)
	w.must(err)
	return claimed
}

// claimOne makes a claim that must return exactly one message.
func (w *world) claimOne(edits ...func(*queue.ClaimRequest)) queue.Claimed {
	w.Helper()
	claimed := w.claim(edits...)
	if len(claimed) != 1 {
		w.Fatalf("violated: %s\n%d messages were claimed, want 1", w.says, len(claimed))
	}
	return claimed[0]
}

// leased enqueues a message and claims it.
func (w *world) leased(edits ...edit) queue.Claimed {
	w.Helper()
	w.enqueue(mail(edits...))
	return w.claimOne()
}

func refs(c queue.Claimed) []queue.Ref {
	list := make([]queue.Ref, len(c.Deliveries))
	for i := range list {
		list[i] = c.Ref(i)
	}
	return list
}

// settle settles every delivery of a claim alike and wants none to be lost.
func (w *world) settle(c queue.Claimed, verb queue.Outcome, edits ...func(*queue.Settlement)) {
	w.Helper()
	want(w, "lost by settling", w.trySettle(c, verb, edits...), nil)
}

// trySettle returns the refs that were lost. What is busy, because somebody else writes the same rows, it tries again.
func (w *world) trySettle(c queue.Claimed, verb queue.Outcome, edits ...func(*queue.Settlement)) []queue.Ref {
	w.Helper()
	var list []queue.Settlement
	for _, ref := range refs(c) {
		st := queue.Settlement{Ref: ref, Outcome: verb}
		for _, e := range edits {
			e(&st)
		}
		list = append(list, st)
	}
	var lost []queue.Ref
	for {
		gone, err := w.store.Settle(w.Context(), "d1", list)
		lost = append(lost, gone...)
		busy, ok := errors.AsType[*queue.BusyError](err)
		if !ok {
			w.must(err)
			return lost
		}
		list = slices.DeleteFunc(list, func(st queue.Settlement) bool { return !slices.Contains(busy.Refs, st.Ref) })
	}
}

func uncounted(st *queue.Settlement) { st.Uncounted = true }

// inAnHour delays a delivery by one hour.
func inAnHour(st *queue.Settlement) { st.Delay = time.Hour }

func evidence(e queue.Evidence) func(*queue.Settlement) {
	return func(st *queue.Settlement) { st.Evidence = e }
}

// refusal is the evidence of a temporary refusal by a relay.
func refusal() queue.Evidence {
	return queue.Evidence{
		Relay: "primary", Stage: "rcpt", Class: "transient", Code: 451, Enhanced: "4.7.1", Reply: "451 4.7.1 greylisted, try again",
		ProviderID: "p-17", Duration: 1500 * time.Millisecond,
	}
}

// finish brings a queued message to a state.
func (w *world) finish(id outbox.ID, state outbox.State) {
	w.Helper()
	switch state {
	case outbox.StateQueued:
	case outbox.StateCancelled, outbox.StateSuppressed, outbox.StateExpired:
		w.exec("UPDATE outbox_deliveries SET state = $1, finished_at = (SELECT now FROM outbox_clock) WHERE message_id = $2",
			string(state), string(id))
	default:
		verbs := map[outbox.State]queue.Outcome{
			outbox.StateSent: queue.Sent, outbox.StateFailed: queue.Failed,
			outbox.StateUncertain: queue.Uncertain, outbox.StateHeld: queue.Held,
		}
		for _, c := range w.claim() {
			switch {
			case c.ID != id:
				w.settle(c, queue.Recycled)
			case state != outbox.StateSending:
				w.settle(c, verbs[state], evidence(refusal()))
			}
		}
	}
	for _, d := range w.get(id).Deliveries {
		want(w, "the state of a message that was prepared", d.State, state)
	}
}

// staleAndFresh returns a claim whose lease lapsed, and the claim that replaced it.
func (w *world) staleAndFresh() (stale, fresh queue.Claimed) {
	w.Helper()
	stale = w.leased()
	w.lapse(stale.ID)
	_, err := w.store.Reap(w.Context())
	w.must(err)
	fresh = w.claimOne()
	want(w, "claimed again", fresh.ID, stale.ID)
	return stale, fresh
}

// lapse lets the leases of a message lapse.
func (w *world) lapse(id outbox.ID) {
	w.Helper()
	w.exec(`UPDATE outbox_claims SET lease_until = $1
WHERE token IN (SELECT lease_token FROM outbox_deliveries WHERE message_id = $2 AND state = 'sending')`, longAgo, string(id))
}

// longAgo is a time that both databases read.
const longAgo = "2000-01-01T00:00:00.000Z"

func (w *world) get(id outbox.ID) *store.Message {
	w.Helper()
	m, err := w.store.Get(w.Context(), id)
	w.must(err)
	return m
}

// states returns the states of a message's deliveries, in the order of the recipients.
func (w *world) states(id outbox.ID) []outbox.State {
	w.Helper()
	m := w.get(id)
	list := make([]outbox.State, len(m.Deliveries))
	for i, d := range m.Deliveries {
		list[i] = d.State
	}
	return list
}

// one returns the only delivery of a message.
func (w *world) one(id outbox.ID) store.Delivery {
	w.Helper()
	m := w.get(id)
	if len(m.Deliveries) != 1 {
		w.Fatalf("message %s has %d deliveries", id, len(m.Deliveries))
	}
	return m.Deliveries[0]
}

// rows returns every column of the rows that a query finds. Compare two results to see that nothing changed.
func (w *world) rows(query string) string {
	w.Helper()
	rows, err := w.db.QueryxContext(w.Context(), w.in(query))
	w.must(err)
	defer func() { _ = rows.Close() }()
	var b strings.Builder
	for rows.Next() {
		row, err := rows.SliceScan()
		w.must(err)
		for _, v := range row {
			if text, ok := v.([]byte); ok {
				v = string(text)
			}
			fmt.Fprintf(&b, "%v|", v)
		}
		b.WriteByte('\n')
	}
	w.must(rows.Err())
	return b.String()
}

// everything returns all deliveries and attempts.
func (w *world) everything() string {
	w.Helper()
	//nolint:unqueryvet // a column that is added later must not be forgotten
	return w.rows("SELECT * FROM outbox_deliveries ORDER BY message_id, seq") + w.rows("SELECT * FROM outbox_attempts ORDER BY id")
}

// unchanged wants that fn changes neither deliveries nor attempts.
func (w *world) unchanged(fn func()) {
	w.Helper()
	before := w.everything()
	fn()
	if now := w.everything(); now != before {
		w.violatedf("the tables changed from\n%s\nto\n%s", before, now)
	}
}

// now reads the clock of the database.
func (w *world) now() time.Time {
	w.Helper()
	var v any
	w.must(w.db.QueryRowxContext(w.Context(), w.in("SELECT now FROM outbox_clock")).Scan(&v))
	switch v := v.(type) {
	case time.Time:
		return v
	case string:
		t, err := time.Parse(time.RFC3339, v)
		w.must(err)
		return t
	default:
		w.Fatalf("the clock of the database gave a %T", v)
		return time.Time{}
	}
}

// near wants a time to lie at most five seconds from another.
func (w *world) near(what string, got, expected time.Time) {
	w.Helper()
	if d := got.Sub(expected); d < -5*time.Second || d > 5*time.Second {
		w.violatedf("%s: got %v, want about %v", what, got, expected)
	}
}

// claimedIDs returns the messages of claims, in their order.
func claimedIDs(list []queue.Claimed) []outbox.ID {
	ids := make([]outbox.ID, len(list))
	for i, c := range list {
		ids[i] = c.ID
	}
	return ids
}

// listedIDs returns the messages of deliveries, in their order.
func listedIDs(list []store.Delivery) []outbox.ID {
	ids := make([]outbox.ID, len(list))
	for i, d := range list {
		ids[i] = d.ID
	}
	return ids
}

// nullable reads one text that may be NULL.
func (w *world) nullable(query string, args ...any) sql.NullString {
	w.Helper()
	var s sql.NullString
	if err := w.db.GetContext(w.Context(), &s, w.in(query), args...); err != nil {
		w.Fatalf("%s: %v", query, err)
	}
	return s
}
