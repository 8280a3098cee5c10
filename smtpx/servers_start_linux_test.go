package smtpx_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/outboxmail/outbox/smtpx/smtptest"
)

// libraries lets the programs below root find their libraries, and the accounts of a server without installing them.
func (s *realServer) libraries(t *testing.T, root string, accounts ...string) {
	t.Helper()
	lib := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	s.env = append(s.env, "LD_LIBRARY_PATH="+lib+":"+filepath.Join(root, "usr/lib/dovecot"))
	if len(accounts) == 0 {
		return
	}
	s.accounts(t, accounts...)
	s.env = append(s.env, "LD_PRELOAD="+filepath.Join(lib, "libnss_wrapper.so"), "NSS_WRAPPER_PASSWD="+s.dir+"/passwd", "NSS_WRAPPER_GROUP="+s.dir+"/group")
}

func TestExim(t *testing.T) {
	root := debianRoot(t, "exim4-daemon-light", "libidn12", "libnss-wrapper")
	s := newRealServer(t)
	s.libraries(t, root, "Debian-exim")
	s.write(t, "exim.conf", "exim_path = "+filepath.Join(root, "usr/sbin/exim4")+`
primary_hostname = mx.example.com
smtp_accept_queue_per_connection = 0
deliver_drop_privilege = true
spool_directory = DIR/spool
log_file_path = DIR/data/log-%slog
local_interfaces = 127.0.0.1
daemon_smtp_ports = PORT
tls_advertise_hosts = *
tls_certificate = DIR/chain.pem
auth_advertise_hosts = ${if eq{$tls_in_cipher}{}{}{*}}
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = accept
never_users =
keep_environment =
queue_run_max = 20
begin acl
acl_rcpt:
  deny message = authentication required
       ! authenticated = *
  deny message = 5.1.1 unknown user
       ! local_parts = b : c : d
  accept
begin routers
local:
  driver = accept
  local_parts = b : c : d
  transport = maildir
begin transports
maildir:
  driver = appendfile
  maildir_format
  directory = DIR/mail/$local_part_data
  create_directory
  user = 64123
  group = 64123
begin retry
* * F,1h,1s
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and {{eq{$auth2}{app}}{eq{$auth3}{s3cret}}}}
  server_set_id = $auth2
`, 0o644)
	own(t, s.dir, "spool", "mail", "chain.pem")
	s.name, s.args = filepath.Join(root, "usr/sbin/exim4"), []string{"-C", s.dir + "/exim.conf", "-bdf", "-q5s"}
	s.login, s.ids = "app:s3cret", true
	s.loses = "Exim loses what a receiving process has accepted when it gets the signal"
	s.copies = "Exim delivers again what a process had delivered that was ended before it wrote this down"
	s.run(t)
	s.exercise(t)
}

// Dovecot's submission service passes everything on to the next relay.
func TestDovecotSubmission(t *testing.T) {
	root := debianRoot(t, "dovecot-submissiond", "dovecot-core", "libexttextcat-2.0-0", "liblua5.4-0")
	s := newRealServer(t)
	next := smtptest.New(t, smtptest.Config{TLS: smtptest.NoTLS, Hook: func(_ context.Context, e smtptest.Event) smtptest.Action {
		if e.Stage == smtptest.StageRcpt && strings.Contains(e.Line, "<nobody@") {
			return smtptest.Action{Reply: "550 5.1.1 unknown user"}
		}
		return smtptest.Action{}
	}})
	_, port, err := net.SplitHostPort(next.Addr())
	if err != nil {
		t.Fatal(err)
	}
	s.inside(t, root)
	s.write(t, "dovecot.conf", `protocols = submission
base_dir = DIR/run
state_dir = DIR/run
log_path = DIR/data/log
ssl = required
ssl_cert = <DIR/chain.pem
ssl_key = <DIR/chain.pem
auth_mechanisms = plain login
default_login_user = nobody
default_internal_user = nobody
default_internal_group = nogroup
hostname = mx.example.com
service submission-login {
  chroot =
  inet_listener submission {
    address = 127.0.0.1
    port = PORT
  }
}
service anvil {
  chroot =
}
service stats {
  chroot =
}
passdb {
  driver = static
  args = password=s3cret
}
userdb {
  driver = static
  args = uid=64123 gid=64123 home=DIR/data/home
}
mail_location = maildir:DIR/data/home
submission_relay_host = 127.0.0.1
submission_relay_port = `+port+`
submission_relay_trusted = yes
`, 0o644)
	s.name, s.args = "/usr/sbin/dovecot", []string{"-F", "-c", s.dir + "/dovecot.conf"}
	s.login = "app:s3cret"
	s.delivered = func() map[string][]byte {
		all := map[string][]byte{}
		for i, m := range next.Messages() {
			for _, to := range m.To {
				all[fmt.Sprintf("/mail/%s.%d", to, i)] = unix(m.Data)
			}
		}
		return all
	}
	s.run(t)
	s.exercise(t)
}

// inside lets a server see its packages as if they were installed, and its accounts. Nobody else does.
func (s *realServer) inside(t *testing.T, root string, accounts ...string) {
	t.Helper()
	s.accounts(t, accounts...)
	s.mkdir(t, "run")
	s.write(t, "hosts", "127.0.0.1 mx.example.com localhost\n", 0o644)
	s.mkdir(t, "lib")
	//nolint:dupword // the type and the name of a mount
	s.mounts = strings.NewReplacer("ROOT", root, "DIR", s.dir).Replace(`set -e
mount -t overlay overlay -o lowerdir=ROOT/usr:/usr /usr
mount --bind DIR/passwd /etc/passwd
mount --bind DIR/group /etc/group
mount --bind DIR/spool /var/spool
mount --bind DIR/lib /var/lib
mount --bind DIR/run /run
mount --bind DIR/hosts /etc/hosts
hostname mx.example.com
`)
	if out, err := exec.CommandContext(t.Context(), requireTool(t, "unshare"), "-m", "-u", "sh", "-c", s.mounts).CombinedOutput(); err != nil {
		t.Skipf("there is no mount namespace of one's own here: %v: %.300s", err, out)
	}
}

// accounts writes files of accounts.
func (s *realServer) accounts(t *testing.T, accounts ...string) {
	t.Helper()
	var passwd, group strings.Builder
	passwd.WriteString("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
	group.WriteString("root:x:0:\nnogroup:x:65534:\n")
	for i, a := range accounts {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::DIR/data:/bin/false\n", a, 64123+i, 64123+i)
		fmt.Fprintf(&group, "%s:x:%d:\n", a, 64123+i)
	}
	s.write(t, "passwd", passwd.String(), 0o644)
	s.write(t, "group", group.String(), 0o644)
}

// own gives files of a server to its account.
func own(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if out, err := exec.CommandContext(t.Context(), "chown", "-R", "64123:64123", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func TestChasquid(t *testing.T) {
	root := debianRoot(t, "chasquid")
	s := newRealServer(t)
	for _, sub := range []string{"conf/domains/example.net", "conf/certs/mx.example.com"} {
		s.mkdir(t, sub)
	}
	chain, err := os.ReadFile(filepath.Join(s.dir, "chain.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fullchain.pem", "privkey.pem"} {
		s.write(t, "conf/certs/mx.example.com/"+name, string(chain), 0o644)
	}
	s.write(t, "mda", "#!/bin/sh\nf=$(mktemp DIR/mail/\"$1\".XXXXXXXX.part) && cat > \"$f\" && mv \"$f\" \"${f%.part}\"\n", 0o755)
	s.write(t, "conf/chasquid.conf", `hostname: "mx.example.com"
smtp_address: "127.0.0.1:0"
submission_address: "127.0.0.1:PORT"
mail_delivery_agent_bin: "DIR/mda"
mail_delivery_agent_args: "%to_user%"
data_dir: "DIR/data"
mail_log_path: "<stderr>"
`, 0o644)
	for _, user := range []string{"b", "c", "d"} {
		cmd := exec.CommandContext(t.Context(), filepath.Join(root, "usr/bin/chasquid-util"), "--configdir="+s.dir+"/conf", "user-add",
			user+"@example.net", "--password=s3cret")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	s.name, s.args = filepath.Join(root, "usr/bin/chasquid"), []string{"--config_dir=" + s.dir + "/conf"}
	s.login = "b%40example.net:s3cret"
	s.copies = "chasquid delivers again what it had not written down as delivered"
	s.run(t)
	s.exercise(t)
}

func TestOpenSMTPD(t *testing.T) {
	root := debianRoot(t, "opensmtpd")
	s := newRealServer(t)
	s.inside(t, root, "vmail", "opensmtpd", "opensmtpq")
	s.write(t, "smtpd.conf", `table users { b@example.net = vmail, c@example.net = vmail, d@example.net = vmail }
listen on 127.0.0.1 port PORT hostname mx.example.com
smtp max-message-size 10M
action "local" maildir "DIR/mail/%{rcpt.user}" virtual <users>
match from any for rcpt-to { "b@example.net", "c@example.net", "d@example.net" } action "local"
`, 0o644)
	own(t, s.dir, "mail")
	for _, dir := range []string{"lib/opensmtpd/empty", "spool/smtpd"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	s.name, s.args = "/usr/sbin/smtpd", []string{"-d", "-f", s.dir + "/smtpd.conf"}
	s.auth, s.ids = "&tls=none", true
	s.copies = "OpenSMTPD delivers again what it had not written down as delivered"
	s.run(t)
	s.exercise(t)
}
