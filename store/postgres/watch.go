package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lib/pq"

	"github.com/outboxmail/outbox/internal/pgschema"
)

// Channel is the channel on which the trigger of outbox notifies. The payload is the schema of the tables. PostgreSQL
// therefore folds the notifications of a transaction into one.
const Channel = "outbox"

// listenLife is how long a watcher listens on one connection. Then it connects anew, because the server may be no primary any more: a
// connection that only listens would never learn of it.
const listenLife = time.Minute

// WatchOption changes what [Watch] listens for.
type WatchOption func(*watcher) error

// watcher listens for the notifications of one outbox.
type watcher struct {
	dsn    string
	schema string        // "" until it is asked for
	life   time.Duration // of a connection
}

// Schema names the schema that holds the tables, as store.Schema does. Defaults to the schema that the search path
// leads to when the watcher connects.
func Schema(name string) WatchOption {
	return func(w *watcher) error {
		w.schema = name
		return pgschema.Check(name)
	}
}

// Watch returns a function that calls wake after each commit of a transaction that enqueued. The function runs until
// ctx ends and then returns nil. It also calls wake once when it is connected, because it may have missed commits
// before. It connects anew every minute and so follows a failover. Messages of other outboxes in the database do not wake it. If the
// connection is lost or cannot be made, it returns the error. It may then be called again.
//
// The function needs the trigger that store.EnableNotify makes. It opens a connection of its own, which must lead to
// the server itself and not to PgBouncer in transaction mode. The DSN is read as by [Open].
func Watch(dsn string, opts ...WatchOption) func(ctx context.Context, wake func()) error {
	return func(ctx context.Context, wake func()) error {
		w := watcher{dsn: dsn, life: listenLife}
		for _, opt := range opts {
			if err := opt(&w); err != nil {
				return fmt.Errorf("watch PostgreSQL: %w", err)
			}
		}
		err := w.watch(ctx, wake)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to stop
		}
		return err
	}
}

// watch listens on one connection after the other.
func (w *watcher) watch(ctx context.Context, wake func()) error {
	complete, err := completeDSN(w.dsn)
	if err != nil {
		return err
	}
	for {
		if err := w.listen(ctx, complete, wake); err != nil {
			return err
		}
	}
}

// listen listens until the life of the connection ends, and then returns nil.
func (w *watcher) listen(parent context.Context, complete string, wake func()) (err error) {
	ctx, cancel := context.WithCancel(parent)
	defer cancel() // closes the connection
	if w.schema == "" {
		if w.schema, err = home(ctx, w.dsn); err != nil {
			return fmt.Errorf("watch PostgreSQL: %w", err)
		}
	}
	var (
		lost     error
		listener *pq.Listener
		ready    = make(chan struct{})
	)
	// The listener would reconnect by itself for ever. Here it ends with its first connection, and the caller learns of
	// the loss.
	listener = pq.NewDialListener(dialer(ctx), complete, time.Millisecond, time.Millisecond, func(e pq.ListenerEventType, err error) {
		if e == pq.ListenerEventDisconnected || e == pq.ListenerEventConnectionAttemptFailed {
			<-ready
			lost = err
			_ = listener.Close()
		}
	})
	close(ready)
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	end := time.AfterFunc(w.life, func() { _ = listener.Close() })
	defer end.Stop()
	refused := listener.Listen(Channel) // it waits for the connection
	if refused == nil {
		wake()
	} else {
		_ = listener.Close()
	}
	for n := range listener.Notify { // closed when the listener has ended
		if n == nil || w.schema == "" || n.Extra == w.schema {
			wake()
		}
	}
	switch {
	case parent.Err() != nil:
		return parent.Err()
	case lost != nil:
		return fmt.Errorf("watch PostgreSQL: %w", lost)
	case refused != nil && !errors.Is(refused, net.ErrClosed): // a standby refuses to listen
		return fmt.Errorf("watch PostgreSQL: %w", refused)
	default:
		return nil
	}
}

// home returns the schema in which the search path finds the tables. It is empty before the tables are made. Every
// notification counts then.
func home(ctx context.Context, dsn string) (schema string, err error) {
	cfg, err := config(dsn)
	if err != nil {
		return "", err
	}
	connector, err := pq.NewConnectorConfig(cfg)
	if err != nil {
		return "", err
	}
	connector.Dialer(dialer(ctx))
	db := sql.OpenDB(connector)
	defer func() { err = errors.Join(err, db.Close()) }()
	err = db.QueryRowContext(ctx, `SELECT coalesce((SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass('outbox_messages')), '')`).Scan(&schema)
	return schema, err
}

// contextDialer makes the connections of a listener.
type contextDialer func(network, address string, timeout time.Duration) (net.Conn, error)

// Dial implements pq.Dialer.
func (d contextDialer) Dial(network, address string) (net.Conn, error) {
	return d(network, address, connectTimeout)
}

// DialTimeout implements pq.Dialer.
func (d contextDialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	return d(network, address, timeout)
}

// dialer returns a dialer that connects until ctx ends. Its connections are closed then.
func dialer(ctx context.Context) contextDialer {
	return func(network, address string, timeout time.Duration) (net.Conn, error) {
		d := net.Dialer{Timeout: timeout, KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3, // nothing else notices a dead peer
		}}
		conn, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		return conn, nil
	}
}

// completeDSN adds the settings of [Open] to the DSN itself, because a listener takes nothing else.
func completeDSN(dsn string) (string, error) {
	cfg, err := config(dsn)
	if err != nil {
		return "", err
	}
	add := [][2]string{
		{"sslmode", string(cfg.SSLMode)}, {"application_name", cfg.ApplicationName},
		{"connect_timeout", strconv.Itoa(int(cfg.ConnectTimeout.Seconds()))},
	}
	if strings.HasPrefix(dsn, "postgres://") || strings.HasPrefix(dsn, "postgresql://") {
		u, err := url.Parse(dsn)
		if err != nil {
			return "", errDSN
		}
		q := u.Query()
		for _, kv := range add {
			q.Set(kv[0], kv[1])
		}
		u.RawQuery = q.Encode()
		return u.String(), nil
	}
	parts := []string{dsn}
	for _, kv := range add { // the last of two equal keys counts
		parts = append(parts, fmt.Sprintf("%s='%s'", kv[0], strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(kv[1])))
	}
	return strings.Join(parts, " "), nil
}
