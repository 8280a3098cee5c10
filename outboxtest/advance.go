package outboxtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Advance lets time pass for everything that is stored in db: what would be due in a time of d is due now. A reminder for
// the day after tomorrow is tested so:
//
//	outboxtest.Deliver(t, queue, inbox) // sends nothing yet
//	outboxtest.Advance(t, db, 48*time.Hour)
//	outboxtest.Deliver(t, queue, inbox)
//	inbox.Require(outboxtest.Match{Subject: "Your appointment tomorrow"})
//
// Deliveries follow the clock of the database, which a test cannot set. So Advance moves all stored times into the past by
// d: NotBefore and Expires, the next attempt after a failure, the age that ends in giving up (dispatcher.Config.MaxAge and
// MaxOutage), the pause of a relay, and the age that retention goes by. Times that are read from the tables afterwards, such as
// [Mail.NotBefore], are earlier by d. Leases and the heartbeats of dispatchers stay as they are, and so do the clock and the tables
// of the application.
//
// Times are stored in milliseconds, and NotBefore is rounded up. Advance therefore moves them by one millisecond more than d.
//
// The tables change row by row in the transaction that db is, or in one statement for each table. A dispatcher of the
// application's own notices at its next poll, or at once when it is woken. Advance fails the test if d is negative.
func Advance(t TB, db Queryer, d time.Duration) {
	t.Helper()
	if err := advance(t.Context(), db, d); err != nil {
		t.Fatalf("advance by %v: %v", d, err)
	}
}

// aging is a table with times that grow old.
type aging struct {
	table   string
	columns []string
}

// agings are what Advance moves, the deliveries last: once one of them is due, everything else about it is old enough.
var agings = []aging{
	{table: "outbox_messages", columns: []string{"not_before", "expires_at", "created_at"}},
	{table: "outbox_attempts", columns: []string{"noted_at", "started_at"}},
	{table: "outbox_feedback", columns: []string{"at", "recorded_at"}},
	{table: "outbox_routes", columns: []string{"paused_at"}},
	{table: "outbox_relays", columns: []string{"refilled_at", "paused_at", "paused_until", "updated_at"}},
	{table: "outbox_chores", columns: []string{"done_until"}},
	{table: "outbox_suppressions", columns: []string{"created_at"}},
	{table: "outbox_actions", columns: []string{"at"}},
	{table: "outbox_deliveries", columns: []string{"due_at", "expires_at", "deferred_since", "finished_at"}},
}

func advance(ctx context.Context, db Queryer, d time.Duration) error {
	if d < 0 {
		return errors.New("time does not go back")
	}
	// Stored times are rounded up to the millisecond, and d may have a part of one, too.
	earlier, err := shift(ctx, db, (d+time.Millisecond-1).Milliseconds()+1)
	if err != nil {
		return err
	}
	for _, a := range agings {
		set := make([]string, len(a.columns))
		for i, column := range a.columns {
			set[i] = column + " = " + earlier(column)
		}
		// With RETURNING it is a query, which every Queryer can run.
		statement := "UPDATE " + a.table + " SET " + strings.Join(set, ", ") + " RETURNING 1"
		if err := run(ctx, db, statement); err != nil {
			return fmt.Errorf("%s: %w", a.table, err)
		}
	}
	return nil
}

// shift returns the SQL that moves a column into the past by some milliseconds, in the words of the database.
func shift(ctx context.Context, db Queryer, ms int64) (func(column string) string, error) {
	rows, err := db.QueryContext(ctx, "SELECT now FROM outbox_clock")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var now any
	for rows.Next() {
		if err := rows.Scan(&now); err != nil {
			return nil, err
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	seconds := fmt.Sprintf("%d.%03d seconds", ms/1000, ms%1000)
	switch now.(type) {
	case time.Time: // PostgreSQL; SQLite has no type for times
		return func(column string) string { return column + " - interval '" + seconds + "'" }, nil
	case string, []byte:
		return func(column string) string {
			return "strftime('%Y-%m-%dT%H:%M:%fZ', " + column + ", '-" + seconds + "')"
		}, nil
	default:
		return nil, fmt.Errorf("the clock of the database is a %T", now)
	}
}

// run executes a statement that returns rows, to its end.
func run(ctx context.Context, db Queryer, statement string) error {
	rows, err := db.QueryContext(ctx, statement)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() { // each step may change rows
	}
	return rows.Err()
}
