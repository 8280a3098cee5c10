package doctor

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 11, 27, 7, 44, 11, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

// sound is an outbox that works: two routes, two relays, two dispatchers, and some failures of every day.
func sound() Snapshot {
	return Snapshot{
		Now:      now,
		Database: Database{Have: 3, Want: 3, Latency: time.Millisecond, Rows: 200_000, DeadRows: 1000, DiskFree: 50, DiskSize: 100},
		Dispatchers: []Dispatcher{
			{ID: "worker-1", Host: "vm", Version: "v1.2.0", SeenAt: ago(2 * time.Second), Silent: 2 * time.Second},
			{ID: "worker-2", Host: "web-2", Version: "v1.2.0", SeenAt: ago(4 * time.Second), Silent: 4 * time.Second},
		},
		Relays: []Relay{
			{Name: "ses", State: "healthy", Routes: []string{"default"}, Used: 10, Allowance: 100},
			{Name: "mailjet", State: "healthy", Routes: []string{"billing"}},
		},
		Routes: []Route{
			{Name: "default", Due: 3, OldestDue: ago(20 * time.Second), Scheduled: 296, Deferred: 2, LastHour: Ended{Sent: 871, Failed: 31}, Enqueued: 900},
			{Name: "billing", Due: 1, OldestDue: ago(time.Second), LastHour: Ended{Sent: 12}, Enqueued: 13, Held: 2, OldestHeld: ago(time.Hour)},
		},
		Outcomes: []Outcome{{Relay: "ses", Class: "recipient", Code: 550, Enhanced: "5.1.1", Reply: "no such user", Attempts: 31}},
		Accepted: 10_000, Complaints: 3, Finished: 70,
	}
}

// changed returns a change of one relay, route or dispatcher of the sound outbox.
func relay(name string, fn func(r *Relay)) func(*Snapshot) {
	return func(s *Snapshot) {
		fn(&s.Relays[slices.IndexFunc(s.Relays, func(r Relay) bool { return r.Name == name })])
	}
}

func route(name string, fn func(r *Route)) func(*Snapshot) {
	return func(s *Snapshot) {
		fn(&s.Routes[slices.IndexFunc(s.Routes, func(r Route) bool { return r.Name == name })])
	}
}

func database(fn func(d *Database)) func(*Snapshot) { return func(s *Snapshot) { fn(&s.Database) } }

func silent(ages ...time.Duration) func(*Snapshot) {
	return func(s *Snapshot) {
		for i, age := range ages {
			s.Dispatchers[i].Silent, s.Dispatchers[i].SeenAt = age, ago(age)
		}
	}
}

func quiet(s *Snapshot) {
	for i := range s.Routes {
		s.Routes[i].Due, s.Routes[i].Deferred, s.Routes[i].OldestDue = 0, 0, time.Time{}
	}
}

func nobody(s *Snapshot) { s.Dispatchers, s.Relays = nil, nil }

// situations are changes of the sound outbox, and what is said of them. The sentence is that of the worst problem.
var situations = []struct {
	name     string
	change   []func(*Snapshot)
	level    Level
	kind     Kind
	sentence string
	evidence string
	command  string
	hit      string // route and waiting
}{
	{name: "no answer", change: []func(*Snapshot){database(func(d *Database) { d.Failure = "connection refused" })},
		level: Stalled, kind: KindUnreachable,
		sentence: "The database does not answer.",
		evidence: "connection refused",
		command:  "check --db or OUTBOX_DB, and that the server runs",
	},
	{name: "no tables", change: []func(*Snapshot){database(func(d *Database) { d.Have = 0 })},
		level: Stalled, kind: KindNoTables,
		sentence: "The database has no outbox tables.",
		command:  "outboxctl migrate up, if this is the right database",
	},
	{name: "older schema", change: []func(*Snapshot){database(func(d *Database) { d.Have = 2 })},
		level: Stalled, kind: KindSchemaOlder,
		sentence: "The tables have version 2, and this program needs 3.",
		command:  "outboxctl migrate up",
	},
	{name: "newer schema", change: []func(*Snapshot){database(func(d *Database) { d.Have = 4 })},
		level: Degraded, kind: KindSchemaNewer,
		sentence: "The tables have version 4, and this program knows only 3.",
		command:  "install a newer outboxctl",
	},
	{name: "standby", change: []func(*Snapshot){database(func(d *Database) { d.ReadOnly = true })},
		level: Stalled, kind: KindReadOnly,
		sentence: "The database takes no changes: it is read-only or a standby.",
		command:  "connect to the primary",
	},
	{name: "disk", change: []func(*Snapshot){database(func(d *Database) { d.DiskFree = 2 })},
		level: Degraded, kind: KindDiskFull,
		sentence: "The disk of the database is 98% full.",
		command:  "outboxctl purge --state sent --older-than 30d --dry-run",
	},
	{name: "slow", change: []func(*Snapshot){database(func(d *Database) { d.Latency = 3 * time.Second })},
		level: Degraded, kind: KindSlow,
		sentence: "The database takes 3s for a simple query.",
		command:  "look at the load of the database server",
	},
	{name: "clock ahead", change: []func(*Snapshot){database(func(d *Database) { d.ClockOff = 2 * time.Minute })},
		level: Degraded, kind: KindClock,
		sentence: "The clock of this host is 2m ahead of that of the database.",
		command:  "check the time service of both hosts",
	},
	{name: "clock behind", change: []func(*Snapshot){database(func(d *Database) { d.ClockOff = -45 * time.Second })},
		level: Degraded, kind: KindClock,
		sentence: "The clock of this host is 45s behind that of the database.",
		command:  "check the time service of both hosts",
	},
	{name: "lapsed",
		change: []func(*Snapshot){database(func(d *Database) { d.Lapsed, d.OldestLapse = 40, ago(87*time.Second) })},
		level:  Degraded, kind: KindLapsed,
		sentence: "40 deliveries are in the hands of a dead dispatcher, and nobody took them back.",
		command:  "outboxctl list --state sending",
	},
	{name: "bloat", change: []func(*Snapshot){database(func(d *Database) { d.DeadRows = 600_000 })},
		level: Degraded, kind: KindBloat,
		sentence: "600,000 of the 800,000 rows of deliveries are dead: the database is not vacuumed.",
		command:  "VACUUM (VERBOSE) outbox_deliveries",
	},
	{name: "old transaction", change: []func(*Snapshot){database(func(d *Database) { d.OldestSnapshot = 3 * time.Hour })},
		level: Degraded, kind: KindSnapshot,
		sentence: "A transaction has been open for 3h00m, and keeps the database from cleaning up.",
		command:  "SELECT pid, query FROM pg_stat_activity ORDER BY xact_start LIMIT 1",
	},
	{name: "retention", change: []func(*Snapshot){database(func(d *Database) { d.RetentionBehind = 5 * 24 * time.Hour })},
		level: Degraded, kind: KindRetention,
		sentence: "Retention is 5d behind: finished mail is kept for longer than wanted.",
		command:  "outboxctl purge --older-than 30d --all --dry-run",
	},

	{name: "never a dispatcher, mail due", change: []func(*Snapshot){nobody},
		level: Stalled, kind: KindNoDispatcher,
		sentence: "Nothing is being delivered: no dispatcher is running.",
		command:  "outboxctl run, or start your application", hit: "default 5",
	},
	{name: "never a dispatcher, nothing due", change: []func(*Snapshot){nobody, quiet},
		level: Degraded, kind: KindNoDispatcher,
		sentence: "No dispatcher is running.",
		command:  "outboxctl run, or start your application",
	},
	{name: "all silent, mail due", change: []func(*Snapshot){silent(87*time.Second, 2*time.Hour+11*time.Minute)},
		level: Stalled, kind: KindAllSilent,
		sentence: "Nothing is being delivered: no dispatcher for 1m (worker-1 on vm was last).",
		command:  "outboxctl run, or start your application", hit: "default 5",
	},
	{name: "all silent, nothing due", change: []func(*Snapshot){quiet, silent(3*time.Hour, 2*time.Hour)},
		level: Degraded, kind: KindAllSilent,
		sentence: "No dispatcher for 2h00m: worker-2 on web-2 was last.",
		command:  "outboxctl run, or start your application",
	},
	{name: "one silent", change: []func(*Snapshot){silent(time.Second, 2*time.Hour+10*time.Minute)},
		level: Degraded, kind: KindSilent,
		sentence: "Dispatcher worker-2 on web-2 is silent for 2h10m; one other goes on.",
		command:  "start it again on web-2, or remove it there for good",
	},
	{name: "fault",
		change: []func(*Snapshot){func(s *Snapshot) {
			s.Dispatchers[0].Faults = []Fault{{Kind: "outcomes_not_recorded", Reason: "disk full"}}
		}},
		level: Degraded, kind: KindFault,
		sentence: "Dispatcher worker-1 on vm reports a fault: outcomes not recorded.",
		evidence: "disk full",
		command:  "read the log of vm",
	},
	{name: "versions", change: []func(*Snapshot){func(s *Snapshot) { s.Dispatchers[1].Version = "v1.1.0" }},
		level: Degraded, kind: KindVersions,
		sentence: "The dispatchers have different versions: v1.1.0 and v1.2.0.",
		command:  "finish the deployment",
	},
	{name: "alive but idle",
		change: []func(*Snapshot){func(s *Snapshot) { s.Finished = 0 }, route("default", func(r *Route) { r.OldestDue = ago(10 * time.Minute) })},
		level:  Stalled, kind: KindNotAdvancing,
		sentence: "The dispatchers run and deliver nothing, although relays are ready.",
		command:  "read the logs of the dispatchers for the word error", hit: "default 5",
	},

	{name: "relay offline", change: []func(*Snapshot){relay("ses", func(r *Relay) {
		r.State, r.Class, r.Reason, r.Since, r.NextTry = "offline", "unreachable", "connection refused", ago(2*time.Hour), now.Add(2*time.Minute)
	})}, level: Degraded, kind: KindOffline,
		sentence: "Relay ses cannot be reached.",
		evidence: "connection refused",
		command:  "outboxctl list --relay ses --since 1h", hit: "default 5",
	},
	{name: "relay refuses the login", change: []func(*Snapshot){relay("mailjet", func(r *Relay) {
		r.State, r.Class, r.Code, r.Reason = "offline", "config", 535, "5.7.8 Authentication credentials invalid"
	})}, level: Degraded, kind: KindLogin,
		sentence: "Relay mailjet refuses us: somebody must mend its configuration.",
		evidence: "535 5.7.8 Authentication credentials invalid",
		command:  "outboxctl list --relay mailjet --since 1h", hit: "billing 1",
	},
	{name: "every relay offline", change: []func(*Snapshot){
		relay("ses", func(r *Relay) { r.State, r.Class = "offline", "unreachable" }), relay("mailjet", func(r *Relay) { r.State, r.Class = "offline", "config" }),
		route("default", func(r *Route) { r.Due, r.Deferred = 0, 0 }),
	}, level: Stalled, kind: KindLogin,
		sentence: "Relay mailjet refuses us: somebody must mend its configuration.",
		command:  "outboxctl list --relay mailjet --since 1h", hit: "billing 1",
	},
	{name: "paused by an operator",
		change: []func(*Snapshot){relay("ses", func(r *Relay) { r.State, r.PausedBy, r.Reason = "paused", "ann@vm", "wrong IP" })},
		level:  Degraded, kind: KindRelayPaused,
		sentence: "Relay ses was paused by ann@vm.",
		evidence: "wrong IP",
		command:  "outboxctl list --relay ses --since 1h", hit: "default 5",
	},
	{name: "quota used up",
		change: []func(*Snapshot){relay("ses", func(r *Relay) {
			r.State, r.Code, r.Reason, r.NextTry = "paused", 454, "Daily message quota exceeded", now.Add(9*time.Hour)
		})},
		level: Degraded, kind: KindQuota,
		sentence: "The quota of relay ses is used up.",
		evidence: "454 Daily message quota exceeded",
		command:  "outboxctl list --relay ses --since 1h", hit: "default 5",
	},
	{name: "quota near",
		change: []func(*Snapshot){relay("ses", func(r *Relay) { r.Used, r.Allowance, r.Resets = 1900, 2000, now.Add(time.Hour) })},
		level:  Degraded, kind: KindQuotaNear,
		sentence: "Relay ses has used 1,900 of its 2,000 messages.",
		evidence: "550 5.1.1 no such user",
		command:  "outboxctl list --relay ses --since 1h", hit: "default 5",
	},
	{name: "throttled", change: []func(*Snapshot){relay("ses", func(r *Relay) {
		r.State, r.PerSecond, r.Class, r.Code, r.Reason = "degraded", 0.1, "throttled", 451, "4.7.0 Rate limit exceeded"
	})}, level: Degraded, kind: KindThrottled,
		sentence: "Relay ses is slowed down to 0.1 messages a second.",
		evidence: "451 4.7.0 Rate limit exceeded",
		command:  "outboxctl list --relay ses --since 1h", hit: "default 5",
	},
	{name: "answers lost", change: []func(*Snapshot){
		func(s *Snapshot) {
			s.Outcomes = append(s.Outcomes, Outcome{Relay: "mailjet", Class: "ambiguous", Reply: "connection reset by peer", Attempts: 250})
		}, route("billing", func(r *Route) { r.Uncertain = 250 }),
	}, level: Degraded, kind: KindLostAnswers,
		sentence: "Relay mailjet: 250 answers were lost after the end of the message.",
		evidence: "connection reset by peer",
		command:  "outboxctl list --state uncertain --relay mailjet", hit: "billing 1",
	},
	{name: "on trial", change: []func(*Snapshot){relay("ses", func(r *Relay) { r.State, r.Reason = "trial", "timeout" })},
		level: Degraded, kind: KindTrial,
		sentence: "Relay ses had faults and is being tried.",
		evidence: "timeout",
		command:  "outboxctl list --relay ses --since 1h", hit: "default 5",
	},
	{name: "never used",
		change: []func(*Snapshot){relay("mailjet", func(r *Relay) { r.State = "unused" }), route("billing", func(r *Route) { r.Due, r.OldestDue = 500, ago(20*time.Minute) })},
		level:  Degraded, kind: KindUnused,
		sentence: "Relay mailjet was never used, although mail is due for it.",
		command:  "outboxctl list --relay mailjet --since 1h", hit: "billing 500",
	},

	{name: "unserved",
		change: []func(*Snapshot){func(s *Snapshot) {
			s.Routes = append(s.Routes, Route{Name: "marketnig", Due: 60, OldestDue: ago(2 * time.Hour)})
		}},
		level: Degraded, kind: KindUnserved,
		sentence: "No relay serves route marketnig.",
		command:  "outboxctl list --state queued --route marketnig", hit: "marketnig 60",
	},
	{name: "paused route", change: []func(*Snapshot){route("billing", func(r *Route) {
		r.Paused, r.PausedSince, r.PausedBy, r.PauseReason = true, ago(time.Hour), "ann@vm", "wrong template"
	})}, level: Degraded, kind: KindRoutePaused,
		sentence: "Route billing was paused by ann@vm.",
		evidence: "wrong template",
		command:  "outboxctl resume billing", hit: "billing 1",
	},
	{name: "forgotten pause",
		change: []func(*Snapshot){route("billing", func(r *Route) { r.Paused, r.PausedSince, r.PausedBy = true, ago(9*24*time.Hour), "ann@vm" })},
		level:  Degraded, kind: KindForgottenPause,
		sentence: "Route billing has been paused for 9d by ann@vm. Was it forgotten?",
		command:  "outboxctl resume billing", hit: "billing 1",
	},
	{name: "oldest", change: []func(*Snapshot){route("billing", func(r *Route) { r.OldestDue = ago(40 * time.Minute) })},
		level: Degraded, kind: KindOld,
		sentence: "The oldest mail on route billing is due for 40m.",
		command:  "outboxctl list --state queued --route billing", hit: "billing 1",
	},
	{name: "growing",
		change: []func(*Snapshot){route("default", func(r *Route) { r.Due, r.OldestDue, r.Enqueued = 9000, ago(40*time.Minute), 9500 })},
		level:  Degraded, kind: KindGrowing,
		sentence: "The backlog of route default grows: 9,500 enqueued and 902 finished in the last hour.",
		command:  "give the route a second relay, or raise the rate of its relay", hit: "default 9002",
	},
	{name: "expiring", change: []func(*Snapshot){route("billing", func(r *Route) { r.Expiring = 100 })},
		level: Degraded, kind: KindExpiring,
		sentence: "Route billing: 100 deliveries expire within 15m.",
		command:  "outboxctl list --state queued --route billing", hit: "billing 1",
	},
	{name: "expired", change: []func(*Snapshot){route("billing", func(r *Route) { r.LastHour.Expired = 180 })},
		level: Degraded, kind: KindExpired,
		sentence: "Route billing: 180 deliveries expired unsent in the last hour.",
		command:  "outboxctl list --state expired --since 1h --route billing", hit: "billing 1",
	},
	{name: "failures", change: []func(*Snapshot){route("default", func(r *Route) { r.LastHour.Failed = 231 })},
		level: Degraded, kind: KindFailures,
		sentence: "Route default: 231 of the last 1,102 deliveries failed.",
		evidence: "550 5.1.1 no such user",
		command:  "outboxctl list --state failed --since 1h --count-by reply --route default",
	},
	{name: "uncertain", change: []func(*Snapshot){route("billing", func(r *Route) { r.Uncertain = 1 })},
		level: Degraded, kind: KindUncertain,
		sentence: "Route billing: nobody knows whether 1 message arrived.",
		command:  "outboxctl resolve --sent or --resend --state uncertain --route billing", hit: "billing 0",
	},
	{name: "held for long",
		change: []func(*Snapshot){route("billing", func(r *Route) { r.OldestHeld = ago(80 * time.Hour) })},
		level:  Degraded, kind: KindHeld,
		sentence: "Route billing: 2 deliveries are held, the oldest for 3d.",
		command:  "outboxctl list --state held --route billing",
	},
	{name: "key", change: []func(*Snapshot){func(s *Snapshot) { s.Keys = []Key{{ID: "2026-11", Held: 12}} }},
		level: Degraded, kind: KindKey,
		sentence: "12 deliveries wait for the key 2026-11, which the dispatchers lack.",
		command:  "give the dispatchers the key, then outboxctl release --class config",
	},
	{name: "complaints", change: []func(*Snapshot){func(s *Snapshot) { s.Complaints = 40 }},
		level: Degraded, kind: KindComplaints,
		sentence: "40 complaints in a day for 10,000 messages: receivers will block you.",
		command:  "outboxctl suppress list",
	},
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	sentences := map[string]string{}
	for _, tt := range situations {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := sound()
			for _, change := range tt.change {
				change(&s)
			}
			d := Verdict(s, Limits{})
			if d.Level != tt.level || len(d.Problems) == 0 {
				t.Fatalf("%s with %d problems, want %s: %+v", d.Level, len(d.Problems), tt.level, d.Problems)
			}
			p := d.Problems[0]
			if p.Kind != tt.kind || p.Sentence != tt.sentence || p.Evidence != tt.evidence || p.Command != tt.command {
				t.Errorf("kind %s\nsaid %s\nevidence %s\ncommand %s\n\nwant\nkind %s\nsaid %s\nevidence %s\ncommand %s",
					p.Kind, p.Sentence, p.Evidence, p.Command, tt.kind, tt.sentence, tt.evidence, tt.command)
			}
			hit := ""
			if len(p.Hit) > 0 {
				hit = fmt.Sprint(p.Hit[0].Route, " ", p.Hit[0].Waiting)
			}
			if hit != tt.hit {
				t.Errorf("hit %q, want %q", hit, tt.hit)
			}
		})
		if tt.name != "every relay offline" { // its sentence is that of a relay
			if other, twice := sentences[tt.sentence]; twice {
				t.Errorf("%s and %s have the same sentence", tt.name, other)
			}
			sentences[tt.sentence] = tt.name
		}
	}
	if len(sentences) < 30 {
		t.Errorf("only %d situations have sentences of their own", len(sentences))
	}
}

// A sound outbox has no problems, and neither has one in its everyday variations.
func TestVerdictWithoutProblems(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Snapshot){
		"sound":                     func(*Snapshot) {},
		"idle":                      quiet,
		"empty":                     func(s *Snapshot) { s.Routes, s.Outcomes = nil, nil },
		"just started":              func(s *Snapshot) { quiet(s); relay("ses", func(r *Relay) { r.State = "unused" })(s) },
		"a little late":             route("default", func(r *Route) { r.OldestDue = ago(14 * time.Minute) }),
		"few failures":              route("billing", func(r *Route) { r.LastHour.Failed = 12 }),
		"relays unknown":            func(s *Snapshot) { s.Relays = nil },
		"throttled without backlog": func(s *Snapshot) { quiet(s); relay("ses", func(r *Relay) { r.PerSecond = 3 })(s) },
		"a slow relay is at work": func(s *Snapshot) {
			s.Finished = 0
			route("default", func(r *Route) { r.OldestDue, r.Sending = ago(6*time.Minute), 20 })(s)
		},
		"a small table":      database(func(d *Database) { d.Rows, d.DeadRows = 100, 9000 }),
		"one complaint":      func(s *Snapshot) { s.Complaints, s.Accepted = 1, 3 },
		"the database alone": func(s *Snapshot) { s.Database = Database{} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sound()
			change(&s)
			if d := Verdict(s, Limits{}); d.Level != OK || len(d.Problems) != 0 {
				t.Errorf("%s: %+v", d.Level, d.Problems)
			}
		})
	}
}

// The worst comes first: what stops everything, then what loses mail, then what makes it wait.
func TestOrderOfHarm(t *testing.T) {
	t.Parallel()
	s := sound()
	relay("ses", func(r *Relay) { r.State = "offline" })(&s)
	route("default", func(r *Route) { r.Due = 850 })(&s)
	route("billing", func(r *Route) { r.Due, r.LastHour.Expired, r.Expiring = 20, 180, 100 })(&s)
	s.Dispatchers[0].Version = "v1.1.0"
	s.Database.ReadOnly = true
	var kinds []string
	for _, p := range Verdict(s, Limits{}).Problems {
		kinds = append(kinds, string(p.Kind))
	}
	if got, want := strings.Join(kinds, " "), "database-read-only mail-expires mail-expired relay-offline versions-differ"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Limits change what counts as a problem.
func TestLimits(t *testing.T) {
	t.Parallel()
	s := sound()
	if d := Verdict(s, Limits{Oldest: 10 * time.Second}); d.Level != Degraded || d.Problems[0].Kind != KindOld {
		t.Errorf("an oldest age of ten seconds: %+v", d)
	}
	if d := Verdict(s, Limits{Silence: 3 * time.Second}); d.Problems[0].Kind != KindSilent {
		t.Errorf("a silence of three seconds: %+v", d)
	}
	if d := Verdict(s, Limits{Failures: 0.01}); d.Problems[0].Kind != KindFailures {
		t.Errorf("one failure in a hundred: %+v", d)
	}
}

// The same snapshot gives the same diagnosis, and keeps what it was given.
func TestVerdictIsPure(t *testing.T) {
	t.Parallel()
	s := sound()
	s.Relays[0].State, s.Relays[1].State = "offline", "offline"
	before := fmt.Sprintf("%+v", s)
	first := fmt.Sprintf("%+v", Verdict(s, Limits{}))
	if again := fmt.Sprintf("%+v", Verdict(s, Limits{})); again != first || fmt.Sprintf("%+v", s) != before {
		t.Errorf("first\n%s\nthen\n%s", first, again)
	}
}
