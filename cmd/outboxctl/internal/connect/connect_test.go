package connect

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/outboxmail/outbox/cmd/outboxctl/internal/exit"
	"github.com/outboxmail/outbox/schema"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]address{
		"sqlite:app.db":                {schema.SQLite, "app.db", "app.db"},
		"sqlite:/var/lib/app":          {schema.SQLite, "/var/lib/app", "/var/lib/app"},
		"sqlite:///var/lib/app.sqlite": {schema.SQLite, "/var/lib/app.sqlite", "/var/lib/app.sqlite"},
		"data/app.db":                  {schema.SQLite, "data/app.db", "data/app.db"},
		"postgres://":                  {schema.Postgres, "postgres://", "postgres:"},
		"postgres://app:hush@db:5433/shop?sslmode=require": {
			schema.Postgres, "postgres://app:hush@db:5433/shop?sslmode=require", "postgres://app@db:5433/shop",
		},
		"postgresql://app@db/shop.db": {schema.Postgres, "postgresql://app@db/shop.db", "postgresql://app@db/shop.db"},
	} {
		if got, err := parse(raw); err != nil || got != want {
			t.Errorf("parse(%q) = %+v, %v; want %+v", raw, got, err, want)
		}
	}
	for raw, want := range map[string]string{
		"":                             "no database was given",
		"sqlite:":                      "names no file",
		"sqlite://":                    "names no file",
		"mysql://app:hush@db/shop":     "mysql:// is not a database",
		"mysql://app:hush@db/x.db":     "mysql:// is not a database",
		"host=db password=hush":        "none of the known forms",
		"app.sqlite":                   "none of the known forms",
		"postgres://app:hu%zzsh@db/x":  "cannot be read",
		"postgres://app:hush@db:po/rt": "cannot be read",
	} {
		_, err := parse(raw)
		if _, hint, code := exit.Explain(err); err == nil || !strings.Contains(err.Error(), want) || code != exit.Usage || hint == "" {
			t.Errorf("parse(%q): %v (code %d, hint %q), want %q", raw, err, code, hint, want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("parse(%q) repeats the password: %v", raw, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"sqlite:a", "postgres://u:p@h/d", "x://", "a.db", "postgres://[::1", "postgres://u:%zz@h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := parse(raw)
		if err == nil && (a.dsn == "" || (a.dialect != schema.SQLite && a.dialect != schema.Postgres)) {
			t.Errorf("parse(%q) = %+v", raw, a)
		}
		if u, parseErr := url.Parse(raw); err == nil && parseErr == nil && u.User != nil {
			if password, ok := u.User.Password(); ok && len(password) > 3 && !strings.Contains(u.Host+u.Path+u.User.Username(), password) &&
				strings.Contains(a.shown, password) && a.dialect == schema.Postgres {
				t.Errorf("parse(%q) shows the password: %q", raw, a.shown)
			}
		}
	})
}

func TestRelayName(t *testing.T) {
	for host, want := range map[string]string{
		"smtp.example.com": "smtp.example.com", "::1": "--1", "": "relay", "bücher.example": "b-cher.example",
		strings.Repeat("a", 70): strings.Repeat("a", 63),
	} {
		if got := relayName(host); got != want {
			t.Errorf("relayName(%q) = %q, want %q", host, got, want)
		}
	}
}

// openRelay opens a relay with flags and an environment.
func openRelay(t *testing.T, env map[string]string, args ...string) (*Relay, error) {
	t.Helper()
	var flags RelayFlags
	cmd := &cobra.Command{Use: "x", Run: func(*cobra.Command, []string) {}}
	flags.Add(cmd)
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	r, err := flags.Open(t.Context(), func(name string) string { return env[name] }, io.Discard)
	if err == nil {
		t.Cleanup(func() { _ = r.Client.Close() })
	}
	return r, err
}

func TestRelayFromFlagOrEnvironment(t *testing.T) {
	env := map[string]string{EnvRelay: "smtp://env.example.com:587", EnvRelayPassword: "unused without a user"}
	r, err := openRelay(t, env)
	if err != nil || r.Name != "env.example.com" {
		t.Errorf("from the environment: %+v, %v", r, err)
	}
	r, err = openRelay(t, env, "--relay", "smtps://user@flag.example.com?conns=2")
	if err != nil || r.Name != "flag.example.com" || !strings.Contains(r.Client.String(), "smtps://user@flag.example.com") {
		t.Errorf("from the flag: %+v, %v", r, err)
	}
}

func TestSecretSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", "p@ss word\r\n")
	for _, tt := range []struct {
		name   string
		s      secret
		env    string
		want   string
		error  string
		usage  bool
		absent string // what the error must not repeat
	}{
		{name: "none"},
		{name: "environment", s: secret{hasUser: true}, env: "from env", want: "from env"},
		{name: "environment without a user", env: "from env"},
		{name: "the URL wins over the environment", s: secret{hasUser: true, inURL: true}, env: "from env"},
		{name: "file", s: secret{hasUser: true, file: good}, env: "from env", want: "p@ss word"},
		{name: "command", s: secret{hasUser: true, command: "printf 'a b\\n'"}, want: "a b"},
		{name: "file with a mark", s: secret{file: write("mark", "\ufeffp@ss word\n")}, want: "p@ss word"},
		{name: "file in UTF-16", s: secret{file: write("utf16", "\xff\xfeh\x00u\x00s\x00h\x00")}, error: "in UTF-16 (little-endian)", absent: "hush"},
		{name: "file and command", s: secret{file: good, command: "true"}, error: "two sources", usage: true},
		{name: "file and URL", s: secret{file: good, inURL: true}, error: "two sources", usage: true},
		{name: "no file", s: secret{file: filepath.Join(dir, "nowhere")}, error: "no such file"},
		{name: "empty file", s: secret{file: write("empty", "\n")}, error: "gave nothing"},
		{name: "two lines", s: secret{file: write("two", "hush\nmore\n")}, error: "more than one line", absent: "hush"},
		{name: "a NUL", s: secret{file: write("nul", "hu\x00sh\n")}, error: "more than one line"},
		{name: "huge file", s: secret{file: write("huge", strings.Repeat("x", longestSecret+1))}, error: "longer than any password"},
		{name: "failing command", s: secret{command: "echo hush; exit 7"}, error: "exit status 7", absent: "hush"},
		{name: "silent command", s: secret{command: "true"}, error: "gave nothing"},
		{name: "chatty command", s: secret{command: "yes hush | head -c 100000"}, error: "longer than any password", absent: "hush"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.s.read(t.Context(), tt.env, io.Discard)
			if tt.error == "" {
				if err != nil || got != tt.want {
					t.Errorf("%q, %v; want %q", got, err, tt.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.error) || got != "" {
				t.Fatalf("%q, %v; want %q", got, err, tt.error)
			}
			if _, _, code := exit.Explain(err); (code == exit.Usage) != tt.usage {
				t.Errorf("exit code %d", code)
			}
			if tt.absent != "" && strings.Contains(err.Error(), tt.absent) {
				t.Errorf("the error repeats what was read: %v", err)
			}
		})
	}
}

func TestSecretParametersOfTheURL(t *testing.T) {
	parse := func(raw string) *url.URL {
		t.Helper()
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	var s secret
	rest, err := s.takeFrom(parse("smtp://app@relay.example.com:587?conns=2&password-file=%2Frun%2Fs&ehlo=a.example"))
	if err != nil || s.file != "/run/s" || !s.hasUser || s.inURL || rest != "smtp://app@relay.example.com:587?conns=2&ehlo=a.example" {
		t.Errorf("%q, %v; %+v", rest, err, s)
	}
	s = secret{}
	rest, err = s.takeFrom(parse("smtp://app:x@relay.example.com?password-command=pass+smtp"))
	if err != nil || s.command != "pass smtp" || !s.inURL || rest != "smtp://app:x@relay.example.com" {
		t.Errorf("%q, %v; %+v", rest, err, s)
	}
	s = secret{file: "f"}
	if _, err = s.takeFrom(parse("smtp://app@relay.example.com?password-file=g")); err == nil {
		t.Error("a password file given twice is accepted")
	}
}

func TestTokensFromTheEnvironment(t *testing.T) {
	srv := smtptest.New(t, smtptest.Config{User: "app", Password: "t0ken", Mechanisms: []string{"XOAUTH2", "PLAIN"}})
	asked := ""
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		asked = r.PostForm.Get("client_secret") + " " + r.PostForm.Get("refresh_token")
		_, _ = io.WriteString(w, `{"access_token":"t0ken"}`)
	}))
	defer idp.Close()
	endpoint := "&scope=s&client-id=id&token-url=" + url.QueryEscape(idp.URL)
	for _, tt := range []struct {
		name, params, user string
		env                map[string]string
		mechanism, asked   string
	}{
		{"command", "", "app", map[string]string{EnvTokenCommand: "echo t0ken", EnvRelayPassword: "other"}, "XOAUTH2", ""},
		{"command in the URL", "&token-command=echo+t0ken", "app", map[string]string{EnvTokenCommand: "echo wrong", EnvRelayPassword: "other"}, "XOAUTH2", ""},
		{"password in the URL", "", "app:t0ken", map[string]string{EnvTokenCommand: "echo wrong"}, "PLAIN", ""},
		{"secret", endpoint, "app", map[string]string{EnvClientSecret: "s1", EnvTokenCommand: "echo wrong"}, "XOAUTH2", "s1 "},
		{"secret and refresh token", endpoint, "app", map[string]string{EnvClientSecret: "s2", EnvRefreshToken: "r2"}, "XOAUTH2", "s2 r2"},
		{"refresh token in the URL", endpoint + "&refresh-token=r3", "app", map[string]string{EnvRefreshToken: "r2"}, "XOAUTH2", " r3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked = ""
			user, password, _ := strings.Cut(tt.user, ":")
			raw := srv.URLFor(user, password, "ehlo=a.example.com") + tt.params
			relay, err := (&RelayFlags{url: raw}).Open(t.Context(), func(name string) string { return tt.env[name] }, io.Discard)
			if err != nil {
				t.Fatal(err)
			}
			defer relay.Client.Close()
			report, err := relay.Client.Probe(t.Context())
			if err != nil || report.Mechanism != tt.mechanism || asked != tt.asked {
				t.Errorf("by %s, %v; asked with %q", report.Mechanism, err, asked)
			}
		})
	}
}
