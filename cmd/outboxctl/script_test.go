package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/outboxmail/outbox/internal/campaign"
	"github.com/outboxmail/outbox/internal/pgtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"outboxctl": main})
}

// engines maps each folder of testdata/script to the databases on which its scripts run. OUTBOX_DB names the database. The
// scripts in "both" run on every database.
var engines = map[string][]string{
	"both":     {"sqlite", "postgres", "schema"}, // "schema" is PostgreSQL with the tables in a schema outside the search path
	"sqlite":   {"sqlite"},
	"postgres": {"postgres"},
	"plain":    {"none"},
}

// named lists the scripts that also run in a schema in the short form. One script is enough there, because the statements
// differ only in the schema before the names.
var named = map[string]bool{"main_path.txt": true}

// TestScripts runs every script of every folder. A folder that is not in engines is a failure.
func TestScripts(t *testing.T) {
	folders, err := os.ReadDir(filepath.Join("testdata", "script"))
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		on, ok := engines[folder.Name()]
		if !ok {
			t.Errorf("nothing says on which database the scripts in %s run", folder.Name())
		}
		for _, engine := range on {
			t.Run(folder.Name()+"/"+engine, func(t *testing.T) {
				scripts, err := filepath.Glob(filepath.Join("testdata", "script", folder.Name(), "*.txt"))
				if err != nil || len(scripts) == 0 {
					t.Fatalf("there are no scripts: %v", err)
				}
				for _, script := range scripts {
					if engine == "schema" && !named[filepath.Base(script)] && !campaign.On() {
						continue
					}
					testscript.Run(t, params(t, engine, script))
				}
			})
		}
	}
}

// params gives a script an empty database of its own and the commands of this package.
func params(t *testing.T, engine, script string) testscript.Params {
	t.Helper()
	var dsn string
	if engine == "postgres" || engine == "schema" {
		dsn = pgtest.DSN(t)
	}
	return testscript.Params{
		Files:               []string{script},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Values[relayKey{}] = new(relay)
			env.Setenv("LF", "\r\n")
			// With the race detector, every process would sleep for a second at its end.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			switch engine {
			case "sqlite":
				dsn = "sqlite:" + filepath.Join(env.WorkDir, "app.db")
			case "schema":
				env.Setenv("OUTBOX_SCHEMA", "mail")
			case "none":
				return nil
			}
			env.Setenv("OUTBOX_DB", dsn)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exit":          cmdExit,
			"relay":         cmdRelay,
			"received":      cmdReceived,
			"set":           cmdSet,
			"json":          cmdJSON,
			"sql":           cmdSQL,
			"action":        cmdAction,
			"fill":          cmdFill,
			"heartbeat":     cmdHeartbeat,
			"fits":          cmdFits,
			"slice":         cmdSlice,
			"large":         cmdLarge,
			"sealed":        cmdSealed,
			"wrongpassword": cmdWrongPassword,
		},
	}
}
