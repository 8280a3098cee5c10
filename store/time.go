package store

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/outboxmail/outbox/schema"
)

// textTime is the form of a time in SQLite: of fixed width and in UTC, so that text sorts as time. PostgreSQL reads it, too.
const textTime = "2006-01-02T15:04:05.000Z"

// timestamp scans a time of either database. NULL becomes the zero time.
type timestamp struct{ time.Time }

// Scan implements sql.Scanner.
func (t *timestamp) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		t.Time = time.Time{}
	case time.Time:
		t.Time = v.UTC()
	case string:
		parsed, err := time.Parse(time.RFC3339Nano, v)
		if err != nil {
			return fmt.Errorf("read a time: %w", err)
		}
		t.Time = parsed.UTC()
	case []byte:
		return t.Scan(string(v))
	default:
		return fmt.Errorf("read a time: the database gave a %T", src)
	}
	return nil
}

// bindTime returns a time as text, because the driver of SQLite stores a time.Time in another form.
func bindTime(t time.Time) string { return t.UTC().Format(textTime) }

// interval returns a duration as a statement of the dialect takes it: seconds on PostgreSQL, a modifier on SQLite.
func (s *Store) interval(d time.Duration) any {
	if s.dialect == schema.Postgres {
		return d.Seconds()
	}
	return modifier(d)
}

// modifier returns a duration as strftime takes it, for example "+1.500 seconds".
func modifier(d time.Duration) string {
	sign := "+"
	if d < 0 {
		sign = ""
	}
	return sign + strconv.FormatFloat(d.Seconds(), 'f', 3, 64) + " seconds"
}

// seconds converts the seconds that a statement computed. A value that no [time.Duration] can hold, of 292 years and more,
// becomes the longest duration.
func seconds(s float64) time.Duration {
	const limit = float64(math.MaxInt64)
	switch ns := s * float64(time.Second); {
	case math.IsNaN(ns):
		return 0
	case ns >= limit:
		return math.MaxInt64
	case ns <= -limit:
		return math.MinInt64
	default:
		return time.Duration(ns)
	}
}
