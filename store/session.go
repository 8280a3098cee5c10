package store

import (
	"context"
	"database/sql/driver"
	"strings"
	"time"

	"github.com/outboxmail/outbox/internal/sqlstate"
)

// closeTimeout bounds the closing of the idle sessions.
const closeTimeout = 2 * time.Second

// outdated reports whether a session belongs to a server that is no primary any more or is going down, or has plans of an older
// schema. Its later statements would fail as well, until it is closed. A standby refuses "SET TRANSACTION READ WRITE", with
// which lib/pq begins, as a feature that is not supported.
func outdated(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.ReadOnlyTransaction, sqlstate.FeatureNotSupported, sqlstate.AdminShutdown, sqlstate.CrashShutdown, sqlstate.CannotConnectNow:
		return true
	default:
		return false
	}
}

// readOnly reports whether the server refused to write.
func readOnly(err error) bool {
	switch sqlstate.Of(err) {
	case sqlstate.ReadOnlyTransaction:
		return true
	case sqlstate.FeatureNotSupported: // to begin with READ WRITE
		return strings.Contains(err.Error(), "recovery")
	default:
		return false
	}
}

// closeIdle closes the sessions that are idle in the pool now. The next statements open new ones, which a host name or a proxy
// may lead to another server. Sessions at work are closed when they report the same.
func (s *Store) closeIdle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	for range s.db.Stats().Idle {
		if s.db.Stats().Idle == 0 { // others use them; Conn would open a new one
			return
		}
		c, err := s.db.Conn(ctx)
		if err != nil {
			return
		}
		_ = c.Raw(func(any) error { return driver.ErrBadConn })
		_ = c.Close()
	}
}
