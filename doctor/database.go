package doctor

import "fmt"

// database judges whether anything can be known. It returns false if not.
func (j *judge) database() bool {
	db := &j.Database
	switch {
	case db.Failure != "":
		j.add(Problem{
			Kind: KindUnreachable, Level: Stalled, Sentence: "The database does not answer.", Evidence: db.Failure,
			Command: "check --db or OUTBOX_DB, and that the server runs",
		})
		return false
	case db.Want > 0 && db.Have == 0:
		j.add(Problem{
			Kind: KindNoTables, Level: Stalled, Sentence: "The database has no outbox tables.",
			Command: "outboxctl migrate up, if this is the right database",
		})
		return false
	case db.Want > 0 && db.Have < db.Want:
		j.add(Problem{
			Kind: KindSchemaOlder, Level: Stalled,
			Sentence: fmt.Sprintf("The tables have version %d, and this program needs %d.", db.Have, db.Want),
			Command:  "outboxctl migrate up",
		})
		return false
	case db.Want > 0 && db.Have > db.Want:
		j.add(Problem{
			Kind:     KindSchemaNewer,
			Sentence: fmt.Sprintf("The tables have version %d, and this program knows only %d.", db.Have, db.Want),
			Command:  "install a newer outboxctl",
		})
	}
	if db.ReadOnly {
		j.add(Problem{
			Kind: KindReadOnly, Level: Stalled, Sentence: "The database takes no changes: it is read-only or a standby.",
			Command: "connect to the primary",
		})
	}
	if db.DiskSize > 0 {
		if share := float64(db.DiskFree) / float64(db.DiskSize); share < j.limits.DiskFree {
			j.add(Problem{
				Kind: KindDiskFull, Sentence: fmt.Sprintf("The disk of the database is %.0f%% full.", 100*(1-share)),
				Command: "outboxctl purge --state sent --older-than 30d --dry-run",
			})
		}
	}
	return true
}

// leastRows is the number of rows below which dead rows do not matter.
const leastRows = 100_000

// upkeep judges what the database needs to stay fast.
func (j *judge) upkeep() {
	db, l := &j.Database, &j.limits
	if db.Latency > l.Latency {
		j.add(Problem{
			Kind: KindSlow, Sentence: fmt.Sprintf("The database takes %s for a simple query.", span(db.Latency)),
			Command: "look at the load of the database server",
		})
	}
	if db.ClockOff.Abs() > l.ClockOff {
		direction := "ahead of"
		if db.ClockOff < 0 {
			direction = "behind"
		}
		j.add(Problem{
			Kind: KindClock, Sentence: fmt.Sprintf("The clock of this host is %s %s that of the database.", span(db.ClockOff.Abs()), direction),
			Command: "check the time service of both hosts",
		})
	}
	if db.Lapsed > 0 {
		j.add(Problem{
			Kind: KindLapsed, Since: db.OldestLapse,
			Sentence: fmt.Sprintf("%s of a dead dispatcher, and nobody took them back.",
				counted(db.Lapsed, "delivery is in the hands", "deliveries are in the hands")),
			Command: "outboxctl list --state sending",
		})
	}
	if db.Rows+db.DeadRows >= leastRows && float64(db.DeadRows) > l.DeadRows*float64(db.Rows+db.DeadRows) {
		j.add(Problem{
			Kind: KindBloat, Sentence: fmt.Sprintf("%s of the %s rows of deliveries are dead: the database is not vacuumed.",
				number(db.DeadRows), number(db.Rows+db.DeadRows)),
			Command: "VACUUM (VERBOSE) outbox_deliveries",
		})
	}
	if db.OldestSnapshot > l.Snapshot {
		j.add(Problem{
			Kind: KindSnapshot, Since: j.Now.Add(-db.OldestSnapshot),
			Sentence: fmt.Sprintf("A transaction has been open for %s, and keeps the database from cleaning up.", span(db.OldestSnapshot)),
			Command:  "SELECT pid, query FROM pg_stat_activity ORDER BY xact_start LIMIT 1",
		})
	}
	if db.RetentionBehind > l.Retention {
		j.add(Problem{
			Kind:     KindRetention,
			Sentence: fmt.Sprintf("Retention is %s behind: finished mail is kept for longer than wanted.", span(db.RetentionBehind)),
			Command:  "outboxctl purge --older-than 30d --all --dry-run",
		})
	}
}
