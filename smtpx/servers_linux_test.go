package smtpx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/outboxmail/outbox/smtpx"
)

// These tests use mail servers of Debian beside Postfix. Their packages are downloaded once with apt-get into /var/cache, and unpacked
// there beside the system. Nothing is installed. Without the network, or as another user than root, the tests are skipped.

// noDownloads is set after a download has failed. Another try would only take time.
var noDownloads atomic.Bool

// debianRoot returns the folder with the unpacked packages.
func debianRoot(t *testing.T, packages ...string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("the server can only be started as root")
	}
	root := filepath.Join("/var/cache/outbox-servers", packages[0]) // which the accounts of the servers can reach
	done := filepath.Join(root, ".complete")
	if have, _ := os.ReadFile(done); string(have) == strings.Join(packages, " ") {
		return root
	}
	if noDownloads.Load() {
		t.Skipf("the packages %v cannot be downloaded", packages)
	}
	get, dpkg := requireTool(t, "apt-get"), requireTool(t, "dpkg")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // the account _apt writes into it
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append([]string{"-q", "-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=5", "download"}, packages...)
	cmd := exec.CommandContext(ctx, get, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		noDownloads.Store(true)
		t.Skipf("the packages %v cannot be downloaded: %v: %.300s", packages, err, out)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) < len(packages) {
		t.Skipf("%d of the packages %v were downloaded", len(files), packages)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if out, err := exec.CommandContext(ctx, dpkg, "-x", f, root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	// Nothing there runs with more rights than its caller.
	err = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if info, ierr := d.Info(); err == nil && ierr == nil && info.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			err = os.Chmod(path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(done, []byte(strings.Join(packages, " ")), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// realServer is a server in a folder of its own that delivers mail for b, c and d@example.net into files.
type realServer struct {
	dir    string
	port   string
	login  string // user:password for the URL, "" for a server that wants none
	auth   string // parameters of the URL that the login needs
	ids    bool   // it names messages
	copies string // why it may deliver a message twice that it took once, "" if it may not
	loses  string // why a message that it accepted may be lost, "" if it may not
	name   string
	args   []string
	env    []string

	delivered func() map[string][]byte // instead of the files below mail

	mounts string // commands that put the packages and accounts in their places, which only the server sees

	cmd *exec.Cmd
	log *os.File
}

// newRealServer makes the folder of a server, with a certificate. The caller fills it in and calls run.
func newRealServer(t *testing.T) *realServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "server") //nolint:usetesting // the server's account must be able to reach it
	if err != nil {
		t.Fatal(err)
	}
	s := &realServer{dir: dir, port: freePort(t)}
	t.Cleanup(func() {
		s.stop(syscall.SIGKILL)
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(dir, "data", "log*"))
			for _, log := range append(logs, filepath.Join(dir, "log")) {
				text, _ := os.ReadFile(log)
				t.Logf("the server says in %s:\n%s", filepath.Base(log), text[max(0, len(text)-3000):])
			}
		}
		_ = os.RemoveAll(dir)
	})
	certificateFiles(t, dir, filepath.Join(dir, "ca.pem"))
	for _, sub := range []string{"mail", "spool", "data"} {
		s.mkdir(t, sub)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *realServer) mkdir(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(s.dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(s.dir, name), 0o777); err != nil {
		t.Fatal(err)
	}
}

// write writes a file of the server. DIR and PORT in it stand for the folder and the port.
func (s *realServer) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	text = strings.NewReplacer("DIR", s.dir, "PORT", s.port).Replace(text)
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// run starts the server, again after stop.
func (s *realServer) run(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	name, args := s.name, s.args
	if s.mounts != "" {
		name, args = "unshare", append([]string{"-m", "-u", "sh", "-c", s.mounts + `exec "$@"`, "sh", s.name}, s.args...)
	}
	s.cmd = exec.CommandContext(context.Background(), name, args...)
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stdout, s.cmd.Stderr, s.log = log, log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitPort(t, s.port)
}

// stop signals the server and waits for it. SIGKILL goes to all its processes, which end in any case.
func (s *realServer) stop(signal syscall.Signal) {
	if s.cmd == nil {
		return
	}
	pid := s.cmd.Process.Pid
	if signal == syscall.SIGKILL {
		pid = -pid
	}
	_ = syscall.Kill(pid, signal)
	pid = s.cmd.Process.Pid
	late := time.AfterFunc(5*time.Second, func() { _ = syscall.Kill(-pid, syscall.SIGKILL) })
	_ = s.cmd.Wait()
	late.Stop()
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	_ = s.log.Close()
	s.cmd = nil
}

// client opens a client with TLS and the login.
func (s *realServer) client(t *testing.T, login, params string) *smtpx.Client {
	t.Helper()
	if login != "" {
		login += "@"
	}
	return open(t, "smtp://"+login+"127.0.0.1:"+s.port+"?conns=3&ca="+s.dir+"/ca.pem"+params)
}

// files returns the text of all files below the folder mail by their path.
func (s *realServer) files(t *testing.T) map[string][]byte {
	t.Helper()
	if s.delivered != nil {
		return s.delivered()
	}
	all := map[string][]byte{}
	err := filepath.WalkDir(filepath.Join(s.dir, "mail"), func(path string, d os.DirEntry, err error) error {
		switch {
		case errors.Is(err, os.ErrNotExist), err == nil && (d.IsDir() || strings.Contains(path[len(s.dir):], "/tmp/") || strings.HasSuffix(path, ".part")):
			return nil
		case err != nil:
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		all[path] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// count tells how many files in the mailbox of a recipient hold a text.
func count(files map[string][]byte, to string, text []byte) int {
	local, _, _ := strings.Cut(to, "@")
	n := 0
	for path, data := range files {
		if strings.Contains(path, "/mail/"+local) && bytes.Contains(data, text) {
			n++
		}
	}
	return n
}

// sending is a message with what became of it.
type sending struct {
	to     []string
	body   []byte
	result smtpx.Result
	err    error
}

// mix makes messages of several shapes. Each has a subject of its own.
func mix(n int) []*sending {
	shapes := []string{
		".\r\n..\r\n.text\r\n", strings.Repeat("long ", 190) + "\r\nshort\r\n", "caf\xc3\xa9 \xe2\x82\xac\r\n", "\r\n\r\n\r\n", "trailing blanks   \r\n\t\r\n",
		strings.Repeat(strings.Repeat("0123456789", 7)+"\r\n", 2000), "no end of line",
	}
	all := make([]*sending, n)
	for i := range all {
		m := &sending{to: []string{"b@example.net"}}
		switch i % 4 {
		case 1:
			m.to = []string{"b@example.net", "c@example.net", "d@example.net"}
		case 2:
			m.to = []string{"c@example.net", "nobody@example.net"}
		case 3:
			m.to = []string{"d@example.net"}
		}
		m.body = fmt.Appendf(nil, "From: <a@example.com>\r\nTo: <b@example.net>\r\nDate: Fri, 27 Nov 2026 10:00:00 +0000\r\n"+
			"Message-ID: <mix-%d@example.com>\r\nSubject: number %d of the mix\r\nMIME-Version: 1.0\r\n"+
			"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n%s", i, i, shapes[i%len(shapes)])
		all[i] = m
	}
	return all
}

// exercise is what every server must go through.
func (s *realServer) exercise(t *testing.T) {
	t.Helper()
	t.Run("mix", s.testMix)
	if s.login != "" {
		t.Run("wrong password", func(t *testing.T) {
			user, _, _ := strings.Cut(s.login, ":")
			_, err := s.client(t, user+":wrong", s.auth).Send(testContext(t), envelope("b@example.net"), message("x"))
			e := asError(t, err, smtpx.StageAuth, smtpx.ClassConfig)
			if e.Reply.Code == 0 || e.Scope() != smtpx.ScopeLogin {
				t.Errorf("%v, scope %s", e, e.Scope())
			}
		})
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) { s.testSignal(t, signal) })
	}
}

// testMix sends messages of many shapes at once. Each arrives once for each recipient that was accepted, octet by octet.
func (s *realServer) testMix(t *testing.T) {
	client := s.client(t, s.login, s.auth)
	all := mix(28)
	var wg sync.WaitGroup
	for _, m := range all {
		wg.Go(func() { m.result, m.err = client.Send(testContext(t), envelope(m.to...), m.body) })
	}
	wg.Wait()
	client.Close()
	want := 0
	for i, m := range all {
		for _, o := range m.result.Outcomes {
			switch bad := strings.HasPrefix(o.Recipient, "nobody"); {
			case o.Accepted != !bad, bad && o.Err.Class != smtpx.ClassRecipient:
				t.Errorf("message %d to %s: %v", i, o.Recipient, o.Err)
			case o.Accepted:
				want++
			}
		}
		if s.ids && m.result.ProviderID == "" {
			t.Errorf("message %d has no id: %v", i, m.result.Reply)
		}
	}
	files := s.await(t, want)
	if len(files) < want {
		t.Fatalf("%d files for %d copies", len(files), want)
	}
	for i, m := range all {
		body := bytes.TrimRight(unix(m.body), "\n")
		for _, o := range m.result.Outcomes {
			wanted := 0
			if o.Accepted {
				wanted = 1
			}
			if n := count(files, o.Recipient, body); n != wanted {
				t.Errorf("message %d arrived %d times for %s, want %d", i, n, o.Recipient, wanted)
			}
		}
	}
	if len(files) > want {
		t.Errorf("%d files for %d copies", len(files), want)
	}
}

// await waits for n files and returns them.
func (s *realServer) await(t *testing.T, n int) map[string][]byte {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	ctx := testContext(t)
	for {
		if files := s.files(t); len(files) >= n {
			return files
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return s.files(t)
		}
	}
}

// testSignal ends the server in the middle of many messages and starts it again. What it had accepted is there. What was certainly
// not accepted is not.
func (s *realServer) testSignal(t *testing.T, signal syscall.Signal) {
	client := s.client(t, s.login, s.auth)
	all := make([]*sending, 60)
	var accepted atomic.Int32
	var once sync.Once
	var wg sync.WaitGroup
	var stopped sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for i := range all {
		m := &sending{to: []string{"b@example.net"}, body: message(fmt.Sprintf("number %d of %v.", i, signal))}
		all[i] = m
		wg.Go(func() {
			if m.result, m.err = client.Send(ctx, envelope(m.to...), m.body); m.err == nil && accepted.Add(1) >= 10 {
				once.Do(func() { stopped.Go(func() { s.stop(signal) }) })
			}
		})
	}
	wg.Wait()
	stopped.Wait()
	client.Close()
	s.stop(syscall.SIGKILL)
	s.run(t)
	text := func(i int) []byte { return fmt.Appendf(nil, "number %d of %v.\n", i, signal) }
	deadline := time.Now().Add(15 * time.Second)
	for {
		missing := 0
		files := s.files(t)
		for i, m := range all {
			if m.err == nil && count(files, m.to[0], text(i)) == 0 {
				missing++
			}
		}
		if missing == 0 || time.Now().After(deadline) {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	files, doubts := s.files(t), 0
	for i, m := range all {
		var e *smtpx.Error
		n, most := count(files, m.to[0], text(i)), 1
		if s.copies != "" {
			most = 2
		}
		switch doubt := errors.As(m.err, &e) && e.Class == smtpx.ClassAmbiguous; {
		case m.err == nil && (n > most || n == 0 && s.loses == ""), doubt && n > most, m.err != nil && !doubt && n > 0:
			t.Errorf("message %d arrived %d times: %v", i, n, m.err)
		case doubt:
			doubts++
		}
	}
	// A server that is asked to end may finish what its clients have begun.
	if n := accepted.Load(); n < 10 || n == int32(len(all)) && signal == syscall.SIGKILL || doubts > 6 {
		t.Errorf("%d of %d accepted, %d in doubt", accepted.Load(), len(all), doubts)
	}
}
