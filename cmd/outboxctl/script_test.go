package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/outboxmail/outbox/internal/pgtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"outboxctl": main})
}

// engines are the folders of testdata/script: what the scripts in each find in OUTBOX_DB. A script in "both" runs on each
// database.
var engines = map[string][]string{
	"both":     {"sqlite", "postgres", "schema"}, // schema is PostgreSQL with the tables in one that no search path leads to
	"sqlite":   {"sqlite"},
	"postgres": {"postgres"},
	"plain":    {"none"},
}

// named are the scripts that also run in a schema in the short form: the statements are the same, only names stand before
// them.
var named = map[string]bool{"main_path.txt": true}

// TestScripts runs every script of every folder; a folder that nobody thought of is a failure.
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
					if engine == "schema" && !named[filepath.Base(script)] && os.Getenv("OUTBOX_CAMPAIGN") == "" {
						continue
					}
					testscript.Run(t, params(t, engine, script))
				}
			})
		}
	}
}

// params gives a script a database of its own, which is empty, and the commands of this package.
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
			// Under the race detector every process would end with a second of sleep.
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
			"fill":          cmdFill,
			"heartbeat":     cmdHeartbeat,
			"slice":         cmdSlice,
			"large":         cmdLarge,
			"sealed":        cmdSealed,
			"wrongpassword": cmdWrongPassword,
		},
	}
}
