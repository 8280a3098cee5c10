package postgres

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lib/pq"
)

func TestDefaults(t *testing.T) {
	for _, name := range []string{"PGSSLMODE", "PGAPPNAME", "PGCONNECT_TIMEOUT", "PGHOST"} {
		t.Setenv(name, "") // restores it afterwards
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		dsn     string
		mode    pq.SSLMode
		timeout time.Duration
		name    string
		binary  bool
	}{
		{"postgres://localhost/app", pq.SSLModePrefer, 10 * time.Second, "outbox", true},
		{"postgres://127.0.0.1/app", pq.SSLModePrefer, 10 * time.Second, "outbox", true},
		{"postgres://[::1]/app", pq.SSLModePrefer, 10 * time.Second, "outbox", true},
		{"host=/run/postgresql dbname=app", pq.SSLModeDisable, 10 * time.Second, "outbox", true},
		{"dbname=app", pq.SSLModePrefer, 10 * time.Second, "outbox", true},
		{"postgres://db.example.com/app", pq.SSLModeRequire, 10 * time.Second, "outbox", true},
		{"postgres://192.0.2.7/app?connect_timeout=3", pq.SSLModeRequire, 3 * time.Second, "outbox", true},
		{"postgres://db.example.com/app?sslmode=disable", pq.SSLModeDisable, 10 * time.Second, "outbox", true},
		{"postgres://localhost/app?sslmode=verify-full", pq.SSLModeVerifyFull, 10 * time.Second, "outbox", true},
		{"host=localhost sslmode=disable binary_parameters=no", pq.SSLModeDisable, 10 * time.Second, "outbox", false},
		{"postgres://localhost/app?application_name=shop", pq.SSLModePrefer, 10 * time.Second, "shop", true},
	} {
		cfg, err := config(test.dsn)
		if err != nil {
			t.Errorf("%s: %v", test.dsn, err)
			continue
		}
		if cfg.SSLMode != test.mode || cfg.ConnectTimeout != test.timeout ||
			cfg.ApplicationName != test.name || cfg.BinaryParameters != test.binary {
			t.Errorf("%s: sslmode %s, connect_timeout %v, name %q, binary_parameters %v; want %s, %v, %q, %v", test.dsn,
				cfg.SSLMode, cfg.ConnectTimeout, cfg.ApplicationName, cfg.BinaryParameters, test.mode, test.timeout, test.name, test.binary)
		}
	}
	t.Setenv("PGSSLMODE", "verify-ca")
	if cfg, err := config("postgres://db.example.com/app"); err != nil || cfg.SSLMode != pq.SSLModeVerifyCA {
		t.Errorf("PGSSLMODE does not count: %s (%v)", cfg.SSLMode, err)
	}
	t.Setenv("PGSSLMODE", "sometimes")
	if _, err := config("postgres://db.example.com/app"); err == nil || !strings.Contains(err.Error(), "environment variable") {
		t.Errorf("PGSSLMODE=sometimes: %v", err)
	}
}
