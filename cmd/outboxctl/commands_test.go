package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/cmd/outboxctl/internal/connect"
	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/keyring"
	"github.com/outboxmail/outbox/queue"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// waitLimit is the longest time that a script waits for anything.
const waitLimit = time.Minute

// cmdExit runs a program and requires this exit code, which is not 0 (use exec for that). The program must write one error
// to standard error, or nothing at all if the code is 4:
//
//	exit N PROGRAM ARG...
func cmdExit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exit N program [arg...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); !errors.As(err, &failed) {
		ts.Fatalf("%s ended with %v, want exit code %d", args[1], err, want)
	}
	if got := failed.ExitCode(); got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	const silent = 4
	said := ts.ReadFile("stderr")
	switch {
	case strings.Contains(said, "goroutine "):
		ts.Fatalf("it crashed")
	case want == silent && said != "":
		ts.Fatalf("exit code %d is an answer and needs no words", want)
	case want != silent && len(complaint.FindAllString(said, -1)) != 1:
		ts.Fatalf("exit code %d, and not one error on standard error", want)
	}
}

// complaint matches the beginning of an error.
var complaint = regexp.MustCompile(`outboxctl: (\x1b\[31m)?error:`)

// relayKey is the key under which a script keeps the relay that cmdRelay started.
type relayKey struct{}

type relay struct{ server *smtptest.Server }

// cmdRelay starts an SMTP server with TLS and AUTH for the rest of the script and sets OUTBOX_RELAY to its URL. Every three
// arguments add a reply: the server gives it at the stage if the line or the message contains the text:
//
//	relay [STAGE TEXT REPLY]...
//
// RELAY_WRONG holds the same URL with a wrong password, RELAY_BARE without a password.
func cmdRelay(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args)%3 != 0 {
		ts.Fatalf("usage: relay [stage text reply]...")
	}
	srv, err := smtptest.Start(smtptest.Config{
		User: "app", Password: "s3cret",
		Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
			said := e.Line
			if e.Message != nil {
				said = string(e.Message.Data)
			}
			for i := 0; i < len(args); i += 3 {
				if string(e.Stage) == args[i] && strings.Contains(said, args[i+1]) {
					return smtptest.Action{Reply: args[i+2]}
				}
			}
			return smtptest.Action{}
		},
	})
	ts.Check(err)
	ts.Defer(func() { ts.Check(srv.Close()) })
	ts.Value(relayKey{}).(*relay).server = srv
	ts.Setenv("OUTBOX_RELAY", srv.URL())
	ts.Setenv("RELAY_WRONG", srv.URLFor("app", "wr0ng"))
	ts.Setenv("RELAY_BARE", strings.Replace(srv.URL(), ":s3cret@", "@", 1))
}

// cmdReceived waits until the relay has accepted this many messages. It fails if the relay has more, or if none of them
// matches the pattern:
//
//	received N [PATTERN]
func cmdReceived(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: received N [pattern]")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	srv := ts.Value(relayKey{}).(*relay).server
	if srv == nil {
		ts.Fatalf("no relay was started")
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	messages, err := srv.WaitMessages(ctx, n)
	ts.Check(err)
	if len(messages) != n {
		ts.Fatalf("the relay accepted %d messages, want %d", len(messages), n)
	}
	if len(args) < 2 {
		return
	}
	pattern := regexp.MustCompile("(?m)" + args[1])
	for _, m := range messages {
		if pattern.Match(m.Data) {
			return
		}
	}
	ts.Fatalf("no message matches %s; the last is:\n%s", pattern, messages[len(messages)-1].Data)
}

// cmdSet stores the output of the last command in a variable:
//
//	set NAME
func cmdSet(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: set name")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// cmdJSON checks a value in the JSON that the last command wrote. A path consists of names and indexes, separated by dots;
// "len" is the number of elements. The output must be JSON with schema_version and nothing else:
//
//	json PATH VALUE
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json path value")
	}
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	if version := v.(map[string]any)["schema_version"]; version != 1.0 {
		ts.Fatalf("schema_version is %v, want 1", version)
	}
	for step := range strings.SplitSeq(args[0], ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
			if step == "len" {
				v = len(at)
			}
		case []any:
			if step == "len" {
				v = len(at)
				continue
			}
			i, err := strconv.Atoi(step)
			ts.Check(err)
			if i >= len(at) {
				ts.Fatalf("%s: there are %d elements", args[0], len(at))
			}
			v = at[i]
		default:
			ts.Fatalf("%s: there is nothing below %v", args[0], v)
		}
	}
	if got := fmt.Sprint(v); (got == args[1]) == neg {
		ts.Fatalf("%s is %q, not as expected", args[0], got)
	}
}

// open opens the database of the script.
func open(ts *testscript.TestScript) *connect.Database {
	url := ts.Getenv("OUTBOX_DB")
	if path, ok := strings.CutPrefix(url, "sqlite:"); ok && !filepath.IsAbs(path) {
		url = "sqlite:" + ts.MkAbs(path)
	}
	db, err := connect.Open(context.Background(), connect.Target{URL: url, Schema: ts.Getenv("OUTBOX_SCHEMA")}, connect.Create)
	ts.Check(err)
	return db
}

// cmdSQL runs a statement on the database of the script:
//
//	sql STATEMENT
func cmdSQL(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sql statement")
	}
	db := open(ts)
	_, err := db.SQL.ExecContext(context.Background(), pgschema.Qualify(args[0], db.Schema))
	ts.Check(errors.Join(err, db.Close()))
}

// cmdAction compares a column of the newest row of outbox_actions:
//
//	action COLUMN WANT
func cmdAction(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: action column want")
	}
	db := open(ts)
	query := pgschema.Qualify("SELECT coalesce("+args[0]+", '') FROM outbox_actions ORDER BY at DESC, id DESC LIMIT 1", db.Schema)
	var got string
	err := db.SQL.QueryRowContext(context.Background(), query).Scan(&got)
	ts.Check(errors.Join(err, db.Close()))
	if got != args[1] {
		ts.Fatalf("the %s is %q, want %q", args[0], got, args[1])
	}
}

// cmdFill stores many messages:
//
//	fill N
func cmdFill(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fill N")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	db := open(ts)
	ctx := context.Background()
	tx, err := db.SQL.BeginTx(ctx, nil)
	ts.Check(err)
	messages := make([]*outbox.Message, n)
	for i := range messages {
		messages[i] = &outbox.Message{
			From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: fmt.Sprintf("user%d@example.net", i)}},
			Subject: "Number " + strconv.Itoa(i), Text: "One of many.",
		}
	}
	box, err := outbox.New(outbox.Config{Schema: db.Schema})
	ts.Check(err)
	_, err = box.EnqueueMany(ctx, tx, messages)
	ts.Check(err)
	ts.Check(errors.Join(tx.Commit(), db.Close()))
}

// cmdSealed stores a message whose body, subject and metadata are encrypted:
//
//	sealed KEYFILE RECIPIENT SUBJECT NAME=VALUE
func cmdSealed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: sealed keyfile recipient subject name=value")
	}
	keys, err := keyring.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	out, err := outbox.New(outbox.Config{Keys: keys, SealDetails: true, Schema: ts.Getenv("OUTBOX_SCHEMA")})
	ts.Check(err)
	name, value, _ := strings.Cut(args[3], "=")
	db := open(ts)
	tx, err := db.SQL.BeginTx(context.Background(), nil)
	ts.Check(err)
	_, err = out.Enqueue(context.Background(), tx, &outbox.Message{
		From: outbox.Address{Address: "shop@example.com"}, To: []outbox.Address{{Address: args[1]}}, Subject: args[2], Text: "sealed",
		Metadata: map[string]string{name: value},
	})
	ts.Check(err)
	ts.Check(errors.Join(tx.Commit(), db.Close()))
}

// cmdHeartbeat records a heartbeat of a dispatcher with a relay "main", or with relays that are tried again in a minute:
//
//	heartbeat ID [NAME=STATE,CLASS,CODE,REASON,ROUTE]...
func cmdHeartbeat(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: heartbeat id [name=state,class,code,reason,route]...")
	}
	relays := map[string]queue.RelayHealth{}
	for _, arg := range args[1:] {
		const fields = 5
		name, rest, _ := strings.Cut(arg, "=")
		field := strings.Split(rest, ",")
		if len(field) != fields {
			ts.Fatalf("%s has %d fields", arg, len(field))
		}
		code, err := strconv.Atoi(field[2])
		ts.Check(err)
		relays[name] = queue.RelayHealth{
			State: field[0], Class: field[1], Code: code, Reason: field[3], Routes: field[4:],
			Since: time.Now().Add(-time.Hour), NextTry: time.Now().Add(time.Minute),
		}
	}
	if len(relays) == 0 {
		relays["main"] = queue.RelayHealth{State: "healthy"}
	}
	db := open(ts)
	err := db.Store.Heartbeat(context.Background(), queue.Heartbeat{ID: args[0], Host: "host.example", PID: 4711, Relays: relays})
	ts.Check(errors.Join(err, db.Close()))
}

// cmdFits checks that no line of the output is wider than a terminal:
//
//	fits COLUMNS
func cmdFits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: fits columns")
	}
	columns, err := strconv.Atoi(args[0])
	ts.Check(err)
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		if w := runewidth.StringWidth(strings.TrimSuffix(line, "\n")); w > columns {
			ts.Fatalf("a line has %d columns: %s", w, line)
		}
	}
}

// cmdSlice stores a part of a variable in another. A negative start counts from the end:
//
//	slice TO FROM START LENGTH
func cmdSlice(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: slice to from start length")
	}
	value := ts.Getenv(args[1])
	start, err := strconv.Atoi(args[2])
	ts.Check(err)
	length, err := strconv.Atoi(args[3])
	ts.Check(err)
	if start < 0 {
		start += len(value)
	}
	ts.Setenv(args[0], value[start:start+length])
}

// cmdLarge writes a file of N MiB:
//
//	large FILE N
func cmdLarge(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: large file N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), make([]byte, n<<20), 0o600))
}

// cmdWrongPassword sets OUTBOX_DB to a URL with the wrong password hush-hush:
//
//	wrongpassword
func cmdWrongPassword(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: wrongpassword")
	}
	u, err := url.Parse(ts.Getenv("OUTBOX_DB"))
	ts.Check(err)
	u.User = url.UserPassword(u.User.Username(), "hush-hush")
	ts.Setenv("OUTBOX_DB", u.String())
}
