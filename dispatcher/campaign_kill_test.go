package dispatcher_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/dispatcher"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
)

// kills returns how many processes a campaign kills: 20, or 1,000 in the long form, or the number in OUTBOX_KILLS.
func kills(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("OUTBOX_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("OUTBOX_KILLS is %q, no number of kills", text)
		}
		return n
	}
	if campaign.On() {
		return 1000
	}
	return 20
}

// copyOf is one copy of a message that the relay accepted for one recipient.
type copyOf struct {
	by   string // the dispatcher that brought it
	hash [sha256.Size]byte
}

// ledger holds what the relay accepted, by Message-ID and recipient.
type ledger struct {
	mu       sync.Mutex
	copies   map[string][]copyOf
	subjects map[string]string // of each Message-ID
	begin    map[string]func() // called when a dispatcher of this name brings a message
	messages int
}

func newLedger() *ledger {
	return &ledger{copies: make(map[string][]copyOf), subjects: make(map[string]string), begin: make(map[string]func())}
}

func ledgerKey(messageID, recipient string) string { return messageID + " " + recipient }

// hook records what the relay is about to accept, and delays the reply. In that time nobody can know the outcome.
func (l *ledger) hook(_ context.Context, e smtptest.Event) smtptest.Action {
	if e.Stage != smtptest.StageDot {
		return smtptest.Action{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.messages++
	l.subjects[e.Message.MessageID] = e.Message.Header("Subject")
	c := copyOf{by: strings.TrimSuffix(e.Session.EHLO, ".example.com"), hash: sha256.Sum256(e.Message.Data)}
	if begin := l.begin[c.by]; begin != nil {
		begin()
	}
	for _, to := range e.Message.To {
		key := ledgerKey(e.Message.MessageID, to)
		l.copies[key] = append(l.copies[key], c)
	}
	return smtptest.Action{Delay: time.Duration(rand.Int64N(int64(30 * time.Millisecond)))}
}

// expect calls begin when a dispatcher sends the message. Nil ends that.
func (l *ledger) expect(name string, begin func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begin[name] = begin
	if begin == nil {
		delete(l.begin, name)
	}
}

// killing is the campaign on one database.
type killing struct {
	*testQueue
	database string
	relay    *smtptest.Server
	ledger   *ledger
	wanted   int
	placed   int // orders by this process

	mu        sync.Mutex
	killed    map[string]bool // workers, by name
	inStart   int             // of them, those that were not ready yet
	committed map[string]bool // orders of which an application was told so
	rolled    map[string]bool // orders that were rolled back
	errors    []string
}

// TestKills kills an application and two dispatchers at random instants, again and again. Then it compares the database with
// what the relay accepted. Every message of a committed transaction arrives, and no other. If one arrives twice, the history
// of its delivery names the dispatcher that died between the final dot and the recorded reply. No message with Hold is sent
// twice.
func TestKills(t *testing.T) { //nolint:tparallel // in the long form each database has the machine for itself
	t.Parallel()
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			if !campaign.On() {
				t.Parallel()
			}
			k := newKilling(t, engine)
			began := time.Now()
			k.run()
			rate := float64(len(k.killed)) / time.Since(began).Seconds()
			k.drain()
			k.check(rate)
		})
	}
}

func newKilling(t *testing.T, engine string) *killing {
	t.Helper()
	database := t.TempDir() + "/app.db"
	if engine == "postgres" {
		database = pgtest.DSN(t)
	}
	k := newKillingOn(t, database)
	k.wanted = kills(t)
	return k
}

// newKillingOn prepares an empty database.
func newKillingOn(t *testing.T, database string) *killing {
	t.Helper()
	k := &killing{
		ledger: newLedger(), database: database,
		killed: make(map[string]bool), committed: make(map[string]bool), rolled: make(map[string]bool),
	}
	db, err := openDatabase(k.database)
	if err != nil {
		t.Fatal(err)
	}
	k.testQueue = newQueue(t, db)
	k.exec("CREATE TABLE campaign_orders (number text PRIMARY KEY)")
	k.relay = smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Discard: true, Hook: k.ledger.hook})
	return k
}

// campaignLease is short, so that the messages of a dead dispatcher go on soon, and long enough for a busy machine to renew
// it.
const campaignLease = 2 * time.Second

// run starts the processes over and over until enough of them were killed.
func (k *killing) run() {
	var wg sync.WaitGroup
	for _, role := range []string{"app", "one", "two"} {
		wg.Go(func() {
			for i := 0; ; i++ {
				k.mu.Lock()
				enough := len(k.killed) >= k.wanted
				k.mu.Unlock()
				if enough || k.t.Failed() {
					return
				}
				if err := k.life(role, i); err != nil {
					k.t.Errorf("%s: %v", role, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// life runs one process. One in five dies while it starts, one within half a second of being ready, the others within half a
// second of their first order or message.
func (k *killing) life(role string, i int) error {
	o := orders{Name: fmt.Sprintf("%s-%d", role, i), Database: k.database, Pace: 20 * time.Millisecond, Lease: campaignLease}
	if role != "app" {
		o.Relay = k.relay.URL()
	}
	w, err := hire(o)
	if err != nil {
		return err
	}
	defer w.kill()
	if role != "app" {
		k.ledger.expect(o.Name, w.begin)
		defer k.ledger.expect(o.Name, nil)
	}
	most := 500 * time.Millisecond
	switch rand.IntN(5) {
	case 0:
		most = 200 * time.Millisecond
	case 1:
		err = w.await(w.ready, time.Minute)
	default:
		if err = w.await(w.ready, time.Minute); err == nil {
			err = w.await(w.begun, 5*time.Second)
			if errors.Is(err, errAwait) {
				err = nil // there was nothing to do
			}
		}
	}
	if err != nil {
		return err
	}
	instant := time.NewTimer(time.Duration(rand.Int64N(int64(most))))
	defer instant.Stop()
	select {
	case <-w.done:
	case <-instant.C:
	}
	select {
	case <-w.done:
		return fmt.Errorf("%s ended by itself: %w: %s", o.Name, w.err, &w.stderr)
	default:
	}
	w.kill()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.killed[o.Name] = true
	select {
	case <-w.ready:
	default:
		k.inStart++
	}
	k.believe(w)
	return nil
}

// believe records what an application said before it ended. The caller holds k.mu.
func (k *killing) believe(w *worker) {
	for _, number := range w.said("c") {
		k.committed[number] = true
	}
	for _, number := range w.said("r") {
		k.rolled[number] = true
	}
	k.errors = append(k.errors, w.said("e")...)
}

// drain runs one more dispatcher until everything is finished.
func (k *killing) drain() {
	k.t.Helper()
	stop := start(k.t, newDispatcher(k.t, dispatcher.Config{Queue: k.testQueue, Name: "last", Lease: campaignLease}, openRelay(k.t, k.relay)))
	defer stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	began, told := time.Now(), false
	deadline := began.Add(5 * time.Minute)
	for range tick.C {
		if !told && time.Since(began) > resumption {
			told = true
			k.tellWaiting()
		}
		// One statement, because a doubt that is sent again would be missed between two.
		var n int
		if err := k.db.QueryRowContext(k.t.Context(), "SELECT count(*) FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id "+
			"WHERE d.state IN ('queued', 'sending') OR (d.state = 'uncertain' AND m.on_uncertain = 'resend')").Scan(&n); err != nil {
			k.t.Fatal(err)
		}
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatalf("%d deliveries are still waiting after five minutes", n)
		}
	}
}

// tellWaiting logs what is not finished, and why.
func (k *killing) tellWaiting() {
	k.t.Helper()
	list, err := k.List(k.t.Context(), store.Filter{States: []outbox.State{outbox.StateQueued, outbox.StateSending}, Limit: 5})
	if err != nil {
		k.t.Fatal(err)
	}
	for _, d := range list {
		k.t.Logf("not finished yet: %s/%d %s, due in %v, lease of %q for %v, history %+v", d.ID, d.Seq, d.State, time.Until(d.DueAt), d.LeaseOwner,
			time.Until(d.LeaseUntil), k.get(d.ID).Attempts)
	}
}

// verdicts counts the results of a campaign for each policy.
type verdicts struct {
	deliveries, sent, uncertain int
	arrived                     int // of the uncertain ones
	duplicates                  int // copies beyond the first
	byTheDead, byTheSlow        int // duplicates whose earlier copy was brought by a process that was killed, or by one that lived
}

// check is audit after kills.
func (k *killing) check(rate float64) {
	k.t.Helper()
	k.audit(fmt.Sprintf("%d kills at %.1f a second, %d of them before the process was ready", len(k.killed), rate, k.inStart))
}

// audit compares the database, the ledger and the words of the processes, and counts the results.
func (k *killing) audit(done string) {
	k.t.Helper()
	numbers := texts(k.t, k.db, "SELECT number FROM campaign_orders")
	ordered := make(map[string]bool, len(numbers))
	for _, number := range numbers {
		ordered[number] = true
		if k.rolled[number] {
			k.t.Errorf("order %s was rolled back and is there", number)
		}
	}
	for number := range k.committed {
		if !ordered[number] {
			k.t.Errorf("order %s was committed and is gone", number)
		}
	}
	for id, subject := range k.ledger.subjects {
		if !ordered[subject] {
			k.t.Errorf("message %s of order %q arrived, whose transaction did not commit", id, subject)
		}
	}
	perPolicy := map[outbox.UncertainPolicy]*verdicts{outbox.Resend: {}, outbox.Hold: {}}
	stored := make(map[string]bool, len(ordered))
	for d, err := range k.All(k.t.Context(), store.Filter{}) {
		if err != nil {
			k.t.Fatal(err)
		}
		stored[d.Subject] = true
		if !ordered[d.Subject] {
			k.t.Errorf("message %s is stored for order %q, which is not", d.ID, d.Subject)
		}
		policy := k.policyOf(d.Subject)
		k.judge(&d, policy, perPolicy[policy])
	}
	for number := range ordered {
		if !stored[number] {
			k.t.Errorf("the mail of order %s is gone", number)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s; %d orders committed, of which the application was told of %d; %d rolled back; %d transactions ended in an error\n",
		done, len(ordered), len(k.committed), len(k.rolled), len(k.errors))
	fmt.Fprintf(&b, "%d messages accepted by the relay", k.ledger.messages)
	for _, policy := range []outbox.UncertainPolicy{outbox.Resend, outbox.Hold} {
		v := perPolicy[policy]
		fmt.Fprintf(&b, "\n%s: %d deliveries committed, %d sent, %d uncertain (%d of them had arrived), %d duplicates, all by the window after the "+
			"final dot: %d left by a killed dispatcher, %d by one whose lease lapsed while it lived", policy, v.deliveries, v.sent, v.uncertain, v.arrived,
			v.duplicates, v.byTheDead, v.byTheSlow)
	}
	campaign.Tellf(k.t, "%s", &b)
	for _, e := range k.errors[:min(len(k.errors), 5)] {
		k.t.Logf("an application was refused: %s", e)
	}
	if perPolicy[outbox.Resend].deliveries == 0 || perPolicy[outbox.Hold].deliveries == 0 {
		k.t.Error("the applications committed nothing: the campaign shows nothing")
	}
}

// policyOf is the policy that orderMail gave the mail of an order.
func (k *killing) policyOf(number string) outbox.UncertainPolicy {
	i, err := strconv.Atoi(number[strings.LastIndexByte(number, '-')+1:])
	if err != nil {
		k.t.Fatalf("order %q has no number", number)
	}
	return orderMail(number, i).OnUncertain
}

// judge compares one delivery with the copies that arrived.
func (k *killing) judge(d *store.Delivery, policy outbox.UncertainPolicy, v *verdicts) {
	k.t.Helper()
	copies := k.ledger.copies[ledgerKey(d.MessageID, d.Recipient)]
	v.deliveries++
	switch {
	case d.State == outbox.StateSent && len(copies) > 0:
		v.sent++
	case d.State == outbox.StateUncertain && policy == outbox.Hold:
		v.uncertain++
		v.arrived += len(copies)
	default:
		k.t.Errorf("delivery %s/%d (%s) ends as %s with %d copies: %s", d.ID, d.Seq, policy, d.State, len(copies), d.Reply)
	}
	if len(copies) < 2 {
		return
	}
	v.duplicates += len(copies) - 1
	if policy == outbox.Hold {
		k.t.Errorf("delivery %s/%d must never be sent twice and arrived %d times", d.ID, d.Seq, len(copies))
	}
	// Every copy except the recorded one must be a doubt in the history: the lease of its dispatcher lapsed after it was
	// fenced.
	doubts := make(map[string]int)
	for _, a := range k.get(d.ID).Attempts {
		if a.Seq == d.Seq && a.Verb == "reap" && a.Stage == "dot" {
			doubts[a.Owner]++
		}
	}
	unexplained := 0
	for _, c := range copies {
		if c.hash != copies[0].hash {
			k.t.Errorf("the copies of delivery %s/%d differ", d.ID, d.Seq)
		}
		switch {
		case doubts[c.by] == 0:
			unexplained++
		case k.killed[c.by]:
			v.byTheDead++
		default:
			v.byTheSlow++
		}
		doubts[c.by]--
	}
	if unexplained > 1 {
		k.t.Errorf("delivery %s/%d arrived %d times (%v) and its history explains %d: %+v", d.ID, d.Seq, len(copies), copies,
			len(copies)-unexplained, k.get(d.ID).Attempts)
	}
}
