package smtpx_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// These tests use other people's servers; see also servers_linux_test.go. Here it is Postfix and its smtp-sink, of the Debian packages postfix, sasl2-bin and
// libsasl2-modules. They are skipped, with a message, if these are not installed.

// requireTool finds a program in the path or where Debian puts those of the system.
func requireTool(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	path := "/usr/sbin/" + name
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// awaitPort returns when a process listens on its port.
func awaitPort(t *testing.T, port string) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			nc.Close()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("nothing listens on port %s: %v", port, err)
		}
	}
}

// sink runs smtp-sink with switches and returns a client for it, and the folder into which it writes messages.
func sink(t *testing.T, switches ...string) (*smtpx.Client, string) {
	t.Helper()
	path, port := requireTool(t, "smtp-sink"), freePort(t)
	dir, err := os.MkdirTemp("", "smtp-sink") //nolint:usetesting // nobody must be able to reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	args := switches
	if os.Getuid() == 0 {
		// It gives up root's rights before it writes.
		args = append(args, "-u", "nobody")
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	args = append(args, "-d", filepath.Join(dir, "m."), "127.0.0.1:"+port, "100")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	var output bytes.Buffer
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("smtp-sink: %s", output.String())
		}
	})
	awaitPort(t, port)
	return open(t, "smtp://127.0.0.1:"+port+"?tls=none"), dir
}

func TestSinkTakesMessages(t *testing.T) {
	for name, switches := range map[string][]string{
		"as it is":               nil,
		"without pipelining":     {"-p"},
		"without 8BITMIME, DSN":  {"-8", "-N"},
		"without enhanced codes": {"-E"},
	} {
		t.Run(name, func(t *testing.T) {
			client, dir := sink(t, switches...)
			body := message(".", "..two", "text", "", ".")
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					if _, err := client.Send(testContext(t), envelope("b@example.net", "c@example.net"), body); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			client.Close()
			files, err := filepath.Glob(filepath.Join(dir, "m.*"))
			if err != nil || len(files) != 20 {
				t.Fatalf("%d messages were written, %v", len(files), err)
			}
			for _, f := range files {
				got, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				// smtp-sink writes its own header first, and lines that end in LF; the dot-stuffing is taken off.
				if want := unix(body); !bytes.Contains(got, want) {
					t.Fatalf("arrived as %q, want %q in it", got, want)
				}
			}
		})
	}
}

func unix(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")) }

// The fault switches of smtp-sink: refuse softly (-r), refuse hard (-f), disconnect (-q), 421 and disconnect (-Q).
func TestSinkFaults(t *testing.T) {
	for _, command := range []string{"EHLO", "MAIL", "RCPT", "DATA", "."} {
		stage := map[string]smtpx.Stage{"EHLO": "ehlo", "MAIL": "mail", "RCPT": "rcpt", "DATA": "data", ".": "dot"}[command]
		for _, f := range []struct {
			flag  string
			class map[smtpx.Stage]smtpx.Class // of the stages that differ from "other"
			other smtpx.Class
		}{
			{"-r", map[smtpx.Stage]smtpx.Class{"ehlo": smtpx.ClassUnreachable}, smtpx.ClassTransient},
			{"-f", nil, smtpx.ClassConfig}, // 500 speaks of the dialogue, not of the message
			{"-q", map[smtpx.Stage]smtpx.Class{"ehlo": smtpx.ClassUnreachable, "dot": smtpx.ClassAmbiguous}, smtpx.ClassTransient},
			{"-Q", map[smtpx.Stage]smtpx.Class{"ehlo": smtpx.ClassUnreachable}, smtpx.ClassTransient},
		} {
			t.Run(f.flag+" "+command, func(t *testing.T) {
				client, _ := sink(t, f.flag, command)
				want, ok := f.class[stage]
				if !ok {
					want = f.other
				}
				_, err := client.Send(testContext(t), envelope("b@example.net"), message("x"))
				var e *smtpx.Error
				if !errors.As(err, &e) || e.Class != want || (f.flag != "-q" && e.Stage != stage) {
					t.Errorf("%v, want class %s at %s", err, want, stage)
				}
			})
		}
	}
}

// postfix is an instance with its own configuration and queue.
type postfix struct {
	port    string
	maildir string
	ca      string
}

const postfixUser, postfixPassword = "app", "s3cret, ="

// startPostfix sets Postfix up with STARTTLS, AUTH by Cyrus SASL and local delivery, and starts it.
func startPostfix(t *testing.T) postfix {
	t.Helper()
	program, saslpasswd := requireTool(t, "postfix"), requireTool(t, "saslpasswd2")
	if os.Getuid() != 0 {
		t.Skip("Postfix can only be started as root")
	}
	account, err := user.Lookup("postfix")
	if err != nil {
		t.Skip("there is no account for Postfix")
	}
	dir, err := os.MkdirTemp("", "postfix") //nolint:usetesting // the account postfix must be able to reach it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := postfix{port: freePort(t), maildir: filepath.Join(dir, "mail", "box"), ca: filepath.Join(dir, "ca.pem")}
	cert := certificateFiles(t, dir, p.ca)
	for _, sub := range []string{"queue", "data", "mail", "sasl"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("sasl/smtpd.conf", "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256\n"+
		"sasldb_path: "+dir+"/sasldb2\n")
	write("main.cf", strings.Join([]string{
		"compatibility_level = 3.6",
		"myhostname = postfix.example.com",
		"mydestination =",
		"inet_interfaces = 127.0.0.1",
		"queue_directory = " + dir + "/queue",
		"data_directory = " + dir + "/data",
		"maillog_file = " + dir + "/log",
		"maillog_file_prefixes = " + dir,
		"virtual_mailbox_domains = example.net",
		"virtual_mailbox_base = " + dir + "/mail",
		"virtual_mailbox_maps = inline:{ b@example.net=box/, c@example.net=box/ }",
		"virtual_uid_maps = static:" + account.Uid,
		"virtual_gid_maps = static:" + account.Gid,
		"smtpd_tls_security_level = may",
		"smtpd_tls_chain_files = " + cert,
		"smtpd_sasl_auth_enable = yes",
		"smtpd_sasl_local_domain = example.com",
		"smtpd_tls_auth_only = yes",
		"cyrus_sasl_config_path = " + dir + "/sasl",
		"smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination",
		"smtpd_helo_restrictions = reject_non_fqdn_helo_hostname",
		"smtpd_recipient_limit = 7",
		"mynetworks =",
	}, "\n")+"\n")
	//nolint:dupword // columns of master.cf
	write("master.cf", "127.0.0.1:"+p.port+` inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
retry unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
`)
	for _, sub := range []string{"data", "mail"} {
		chown(t, filepath.Join(dir, sub), account)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	set := exec.CommandContext(t.Context(), saslpasswd, "-p", "-c", "-f", dir+"/sasldb2", "-u", "example.com", postfixUser)
	set.Stdin = strings.NewReader(postfixPassword)
	if out, err := set.CombinedOutput(); err != nil {
		t.Fatalf("saslpasswd2: %v: %s", err, out)
	}
	chown(t, dir+"/sasldb2", account)
	if out, err := exec.CommandContext(t.Context(), program, "-c", dir, "start").CombinedOutput(); err != nil {
		t.Skipf("Postfix does not start here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/log")
			t.Logf("Postfix says:\n%s", log)
		}
		_ = exec.CommandContext(context.Background(), program, "-c", dir, "stop").Run()
	})
	awaitPort(t, p.port)
	return p
}

func chown(t *testing.T, path string, account *user.User) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "chown", "-R", account.Uid+":"+account.Gid, path).CombinedOutput(); err != nil {
		t.Fatalf("chown: %v: %s", err, out)
	}
}

// certificateFiles writes key and certificate of a test server, and the authority, and returns the file for the server.
func certificateFiles(t *testing.T, dir, ca string) string {
	t.Helper()
	cert, authority := smtptest.Certificate(t, "postfix.example.com")
	if err := os.WriteFile(ca, authority, 0o644); err != nil {
		t.Fatal(err)
	}
	var chain bytes.Buffer
	for _, block := range cert {
		if err := pem.Encode(&chain, block); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "chain.pem")
	if err := os.WriteFile(file, chain.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// delivered waits for n messages in the maildir and returns them.
func (p *postfix) delivered(t *testing.T, n int) [][]byte {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		files, err := filepath.Glob(filepath.Join(p.maildir, "new", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) >= n {
			var all [][]byte
			for _, f := range files {
				data, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, data)
				if err := os.Remove(f); err != nil {
					t.Fatal(err)
				}
			}
			return all
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d of %d messages were delivered", len(files), n)
		}
	}
}

func TestPostfix(t *testing.T) {
	p := startPostfix(t)
	// Postfix adds a Date where there is none.
	body := append([]byte("Date: Fri, 20 Nov 2026 10:00:00 +0000\r\n"),
		message(".", "..two", strings.Repeat("long ", 180), "", "caf\xc3\xa9", ".")...)
	login := "app%40example.com:s3cret%2C%20%3D@"

	t.Run("clear", func(t *testing.T) {
		client := open(t, "smtp://127.0.0.1:"+p.port+"?tls=none")
		result, err := client.Send(testContext(t), envelope("b@example.net"), body)
		if err != nil || result.ProviderID == "" {
			t.Fatalf("%v, id %q of %v", err, result.ProviderID, result.Reply)
		}
		if got := p.delivered(t, 1); !bytes.HasSuffix(got[0], unix(body)) {
			t.Errorf("arrived as %q", got[0])
		}
	})
	for _, m := range []string{"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"} {
		t.Run("STARTTLS and AUTH "+m, func(t *testing.T) {
			client := open(t, "smtp://"+login+"127.0.0.1:"+p.port+"?auth="+m+"&ca="+p.ca)
			report, err := client.Probe(testContext(t))
			if err != nil {
				var e *smtpx.Error
				if errors.As(err, &e) && strings.Contains(e.Error(), "does not offer AUTH "+m) {
					t.Skipf("Cyrus SASL has no %s here", m)
				}
				t.Fatal(err)
			}
			if report.Mechanism != m || report.TLSVersion == "" || !slices.Contains(report.Extensions, "PIPELINING") {
				t.Errorf("report %+v", report)
			}
			if _, err := client.Send(testContext(t), envelope("b@example.net", "c@example.net"), body); err != nil {
				t.Fatal(err)
			}
			for _, got := range p.delivered(t, 2) {
				if !bytes.HasSuffix(got, unix(body)) {
					t.Errorf("arrived as %q", got)
				}
			}
		})
	}
	t.Run("many at a time", func(t *testing.T) {
		client := open(t, "smtp://"+login+"127.0.0.1:"+p.port+"?ca="+p.ca)
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				if _, err := client.Send(testContext(t), envelope("b@example.net"), message(fmt.Sprintf("number %d.", i))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		seen := bytes.Join(p.delivered(t, 100), nil)
		for i := range 100 {
			if n := bytes.Count(seen, fmt.Appendf(nil, "number %d.\n", i)); n != 1 {
				t.Errorf("message %d arrived %d times", i, n)
			}
		}
	})
	t.Run("refusals", func(t *testing.T) {
		for name, tc := range map[string]struct {
			url   string
			to    string
			stage smtpx.Stage
			class smtpx.Class
		}{
			"wrong password":    {"smtp://app:wrong@127.0.0.1:" + p.port + "?auth=plain&ca=" + p.ca, "b@example.net", "auth", smtpx.ClassConfig},
			"AUTH in clear":     {"smtp://app:wrong@127.0.0.1:" + p.port + "?tls=none", "b@example.net", "auth", smtpx.ClassConfig},
			"relay denied":      {"smtp://127.0.0.1:" + p.port + "?ca=" + p.ca, "b@example.org", "rcpt", smtpx.ClassConfig},
			"unknown recipient": {"smtp://127.0.0.1:" + p.port + "?ca=" + p.ca, "nobody@example.net", "rcpt", smtpx.ClassRecipient},
			"EHLO name":         {"smtp://127.0.0.1:" + p.port + "?ehlo=localhost&ca=" + p.ca, "b@example.net", "rcpt", smtpx.ClassConfig},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := open(t, tc.url).Send(testContext(t), envelope(tc.to), body)
				wantError(t, err, tc.stage, tc.class)
			})
		}
	})
	t.Run("more recipients than it takes", func(t *testing.T) {
		client := open(t, "smtp://127.0.0.1:"+p.port+"?ca="+p.ca)
		to := slices.Repeat([]string{"b@example.net", "c@example.net"}, 8)
		result, err := client.Send(testContext(t), envelope(to...), body)
		if err != nil {
			t.Fatalf("%v: %+v", err, result.Outcomes)
		}
	})
}
