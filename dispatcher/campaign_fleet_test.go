package dispatcher_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
	"github.com/outboxmail/outbox/smtpx/smtptest"
	"github.com/outboxmail/outbox/store"
)

// cable is a TCP connection to a database that a test can cut.
type cable struct {
	listener net.Listener
	wg       sync.WaitGroup

	mu     sync.Mutex
	target string
	cut    bool
	conns  map[net.Conn]struct{}
}

// newCable listens in front of the server of a postgres:// URL and returns the URL that leads through it.
func newCable(t *testing.T, dsn string) (*cable, string) {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{listener: l, target: u.Host, conns: make(map[net.Conn]struct{})}
	u.Host = l.Addr().String()
	c.wg.Go(c.accept)
	t.Cleanup(func() {
		c.pull()
		_ = l.Close()
		c.wg.Wait()
	})
	return c, u.String()
}

func (c *cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.destination())
		if err != nil || !c.add(near, far) {
			_ = near.Close()
			if far != nil {
				_ = far.Close()
			}
			continue
		}
		for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
			c.wg.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				_ = way[0].Close()
				_ = way[1].Close()
			})
		}
	}
}

func (c *cable) destination() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.target
}

// move leads new connections to another server, as a changed name does. Those that are open stay.
func (c *cable) move(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.target = address
}

func (c *cable) add(conns ...net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return false
	}
	for _, conn := range conns {
		c.conns[conn] = struct{}{}
	}
	return true
}

// pull ends every connection and refuses new ones until plug is called.
func (c *cable) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	for conn := range c.conns {
		_ = conn.Close()
	}
	clear(c.conns)
}

func (c *cable) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

// fleet is a PostgreSQL database and a relay that are shared by dispatchers in processes of their own.
type fleet struct {
	*testQueue
	dsn    string
	relay  *smtptest.Server
	ledger *ledger
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{dsn: pgtest.DSN(t), ledger: newLedger()}
	db, err := openDatabase(f.dsn)
	if err != nil {
		t.Fatal(err)
	}
	f.testQueue = newQueue(t, db)
	f.relay = smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Discard: true, Hook: f.ledger.hook})
	return f
}

// member starts a dispatcher of the fleet.
func (f *fleet) member(name string, edit func(o *orders)) *worker {
	f.t.Helper()
	o := orders{Name: name, Database: f.dsn, Relay: f.relay.URL(), Lease: campaignLease}
	if edit != nil {
		edit(&o)
	}
	return employ(f.t, o)
}

// share returns how many messages each dispatcher sent.
func (f *fleet) share() map[string]int {
	f.ledger.mu.Lock()
	defer f.ledger.mu.Unlock()
	n := make(map[string]int)
	for _, list := range f.ledger.copies {
		for _, c := range list {
			n[c.by]++
		}
	}
	return n
}

// settled waits until every delivery is sent.
func (f *fleet) settled() {
	f.t.Helper()
	f.awaitNone("every delivery is sent", store.Filter{States: []outbox.State{
		outbox.StateQueued, outbox.StateSending, outbox.StateUncertain, outbox.StateFailed, outbox.StateHeld,
	}})
}

// awaitNone waits until the filter selects nothing.
func (q *testQueue) awaitNone(what string, f store.Filter) {
	q.t.Helper()
	q.await(what, func() (bool, error) {
		n, err := q.Count(q.t.Context(), f)
		return n == 0, err
	})
}

// await asks again every few milliseconds, for two minutes at the most.
func (q *testQueue) await(what string, done func() (bool, error)) {
	q.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(2 * time.Minute)
	for range tick.C {
		ok, err := done()
		if ok && err == nil {
			return
		}
		if time.Now().After(deadline) {
			q.t.Fatalf("not after two minutes: %s (last error %v)", what, err)
		}
	}
}

// once fails unless every delivery was sent exactly once.
func (f *fleet) once() {
	f.t.Helper()
	deliveries := 0
	for d, err := range f.All(f.t.Context(), store.Filter{}) {
		if err != nil {
			f.t.Fatal(err)
		}
		deliveries++
		if copies := f.ledger.copies[ledgerKey(d.MessageID, d.Recipient)]; len(copies) != 1 || d.State != outbox.StateSent {
			f.t.Errorf("delivery %s is %s with copies %v; its history: %+v", d.ID, d.State, copies, f.get(d.ID).Attempts)
		}
	}
	if f.ledger.messages != deliveries {
		f.t.Errorf("%d messages arrived, %d are stored", f.ledger.messages, deliveries)
	}
}

// leased waits until a dispatcher holds leases.
func (f *fleet) leased(owner string) {
	f.t.Helper()
	f.await(owner+" holds leases", func() (bool, error) {
		n, err := f.heldBy(owner)
		return n > 0, err
	})
}

func (f *fleet) heldBy(owner string) (n int, err error) {
	return n, f.db.QueryRowContext(f.t.Context(), "SELECT count(*) FROM outbox_deliveries d JOIN outbox_claims c ON c.token = d.lease_token WHERE c.owner = $1", owner).Scan(&n)
}

// Four processes share the work evenly, and what was sent is sent once.
func TestAFleetSharesTheLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n := 1000
	if campaign.On() {
		n = 10_000
	}
	names := []string{"one", "two", "three", "four"}
	for _, name := range names {
		f.member(name, nil)
	}
	// Enqueue while all of them work, so that none has a head start.
	for range n / 100 {
		f.enqueue(100, nil)
	}
	f.settled()
	f.once()
	shares := f.share()
	campaign.Tellf(t, "%d messages among four processes: %v", n, shares)
	for _, name := range names {
		if shares[name] < n/len(names)/3 {
			t.Errorf("%s sent %d of %d messages: the load is not shared", name, shares[name], n)
		}
	}
}

// One process is stopped for longer than its lease, one loses its database, and the other two are replaced one after the
// other. Everything is sent once. The two that come back send nothing that others have taken over.
func TestAFleetInTrouble(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	c, through := newCable(t, f.dsn)
	// These two have claimed, and neither fences a message before it is told to go on. So it is certain that both meet their
	// fault with work in hand.
	stopped := f.member("stopped", func(o *orders) { o.Hold = true })
	off := f.member("cut-off", func(o *orders) { o.Hold, o.Database = true, through })
	f.enqueue(200, nil)
	f.leased("stopped")
	f.leased("cut-off")
	if err := stopped.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	c.pull()

	old := []*worker{f.member("three", nil), f.member("four", nil)}
	for i, w := range old { // a rolling restart under load
		f.enqueue(200, nil)
		if err := w.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := w.await(nil, time.Minute); errors.Is(err, errAwait) || w.err != nil {
			t.Fatalf("%s does not stop cleanly: %v: %s", w.Name, w.err, &w.stderr)
		}
		if n, err := f.heldBy(w.Name); err != nil || n > 0 {
			t.Errorf("%s has stopped and still holds %d leases (%v)", w.Name, n, err)
		}
		f.member(fmt.Sprintf("next-%d", i), nil)
	}
	f.settled() // what the two held, too

	c.plug()
	if err := stopped.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*worker{stopped, off} {
		if _, err := io.WriteString(w.stdin, "go on\n"); err != nil {
			t.Fatal(err)
		}
	}
	// Both work again once each has sent something new.
	back := make(map[string]chan struct{})
	for _, w := range []*worker{stopped, off} {
		back[w.Name] = make(chan struct{})
		f.ledger.expect(w.Name, sync.OnceFunc(func() { close(back[w.Name]) }))
	}
	for name, came := range back {
		f.await(name+" is at work again", func() (bool, error) {
			f.enqueue(20, nil)
			select {
			case <-came:
				return true, nil
			default:
				return false, nil
			}
		})
	}
	f.settled()
	f.once()
	campaign.Tellf(t, "one process stopped, one cut off, two replaced: %d messages, each sent once: %v", f.ledger.messages, f.share())
}

// The rate of a relay holds for the fleet. In the long form four processes keep 200 a second within 5 % over 20 seconds. The
// short form runs beside other tests, where arrivals are late and come in bursts. It allows the rate plus its burst, and wants
// at least half of the rate.
func TestAFleetOfProcessesKeepsTheRate(t *testing.T) {
	t.Parallel()
	perSecond, seconds := 50, 6
	if campaign.On() {
		perSecond, seconds = 200, 20
	}
	f := newFleet(t)
	for left := perSecond * (seconds + 6); left > 0; left -= 500 {
		f.enqueue(min(left, 500), nil)
	}
	for _, name := range []string{"one", "two", "three", "four"} {
		f.member(name, func(o *orders) { o.Rate = float64(perSecond) })
	}
	// The allowance that a pause had saved up is gone once twice as much was sent.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if _, err := f.relay.WaitMessages(ctx, 2*perSecond); err != nil {
		t.Fatal(err)
	}
	before, began := f.relay.Count(), time.Now()
	<-time.After(time.Duration(seconds) * time.Second)
	got, took := f.relay.Count()-before, time.Since(began)
	want := float64(perSecond) * took.Seconds()
	campaign.Tellf(t, "%d messages in %.2f s by four processes, allowed %d a second: %+.1f %%; shares %v", got, took.Seconds(), perSecond,
		100*(float64(got)/want-1), f.share())
	least, most := want/2, want+float64(perSecond)
	if campaign.On() {
		least, most = want*0.95, want*1.05
	}
	if float64(got) < least || float64(got) > most {
		t.Errorf("%d messages, want %.0f to %.0f", got, least, most)
	}
}
