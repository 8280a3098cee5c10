package outbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"
)

var update = flag.Bool("update", false, "write the golden files")

func TestRenderedSamplesReadBack(t *testing.T) {
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			data := renderSample(t, &s.msg)
			lint(t, data)
			got, want := readWithStd(t, data).withoutEncodings(), expected(&s.msg)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("net/mail and mime/multipart read\n%+v\nwant\n%+v", got, want)
			}
			if n := leavesWithGoMessage(t, data); n != len(want.Parts) {
				t.Errorf("go-message reads %d parts, want %d", n, len(want.Parts))
			}
		})
	}
}

// leavesWithGoMessage counts the parts that go-message can decode.
func leavesWithGoMessage(t *testing.T, data []byte) (n int) {
	t.Helper()
	e, err := message.Read(bytes.NewReader(data))
	if err != nil && !message.IsUnknownCharset(err) {
		t.Fatalf("go-message: %v", err)
	}
	err = e.Walk(func(_ []int, e *message.Entity, err error) error {
		if err != nil && !message.IsUnknownCharset(err) {
			return err
		}
		if e.MultipartReader() != nil {
			return nil
		}
		n++
		_, err = io.Copy(io.Discard, e.Body)
		return err
	})
	if err != nil {
		t.Fatalf("go-message: %v", err)
	}
	return n
}

// lint checks the form of a rendered message: what a strict receiver looks at.
func lint(t *testing.T, data []byte) {
	t.Helper()
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		t.Error("does not end with CRLF")
	}
	head, _, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	for i, line := range bytes.Split(bytes.TrimSuffix(data, []byte("\r\n")), []byte("\r\n")) {
		if bytes.ContainsAny(line, "\r\n\x00") {
			t.Errorf("line %d has a bare line break or a NUL: %q", i+1, line)
		}
		if len(line) > 998 {
			t.Errorf("line %d has %d bytes", i+1, len(line))
		}
		for _, c := range line {
			if c >= 0x80 {
				t.Errorf("line %d is not ASCII: %q", i+1, line)
				break
			}
		}
	}
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if len(line) > 78 && bytes.Count(bytes.TrimSpace(line), []byte(" ")) > 1 {
			t.Errorf("header line of %d bytes could be folded: %q", len(line), line)
		}
		if len(bytes.TrimSpace(line)) == 0 {
			t.Errorf("header line of white space only: %q", line)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for key, values := range m.Header {
		if len(values) > 1 {
			t.Errorf("%s is there %d times", key, len(values))
		}
	}
	for _, key := range []string{"Date", "From", "To", "Message-Id", "Mime-Version", "Content-Type"} {
		if m.Header.Get(key) == "" && (key != "To" || m.Header.Get("Cc") == "") {
			t.Errorf("%s is missing", key)
		}
	}
	if m.Header.Get("Bcc") != "" {
		t.Error("Bcc is there")
	}
	if d, err := m.Header.Date(); err != nil || !d.Equal(sampleDate) || !strings.HasSuffix(m.Header.Get("Date"), " +0000") {
		t.Errorf("date %q: %v", m.Header.Get("Date"), err)
	}
}

// TestGolden compares whole messages, so that a change of the form is seen. Run with -update to accept it.
func TestGolden(t *testing.T) {
	golden := map[string]bool{
		"text-ascii": true, "both-latin": true, "all-cjk": true, "all-long": true, "bcc-only": true, "forwarded": true,
		"references": true, "international-domain": true, "boundary-in-text": true, "many-recipients": true,
		"invitation": true, "newsletter": true, "answer": true,
	}
	for _, s := range samples() {
		if !golden[s.name] {
			continue
		}
		delete(golden, s.name)
		t.Run(s.name, func(t *testing.T) {
			got := renderSample(t, &s.msg)
			if again := renderSample(t, &s.msg); !bytes.Equal(got, again) {
				t.Fatal("the same message is rendered in two ways")
			}
			path := filepath.Join("testdata", "golden", s.name+".eml")
			if *update {
				if err := os.WriteFile(path, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("rendered\n%s\nwant\n%s", got, want)
			}
		})
	}
	for name := range golden {
		t.Errorf("there is no sample %q", name)
	}
}

func TestDateOfScheduledMessage(t *testing.T) {
	o := *standard
	o.now = func() time.Time { return sampleDate }
	for _, test := range []struct{ notBefore, want time.Time }{
		{time.Time{}, sampleDate},
		{sampleDate.Add(-time.Hour), sampleDate},
		{sampleDate.Add(48 * time.Hour), sampleDate.Add(48 * time.Hour)},
	} {
		d, err := o.draft(t.Context(), &Message{
			From: Address{Address: "a@example.com"}, To: []Address{{Address: "b@example.com"}}, Text: "x", NotBefore: test.notBefore,
		}, "", o.now())
		if err != nil {
			t.Fatal(err)
		}
		m, err := mail.ReadMessage(bytes.NewReader(d.body))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := m.Header.Date(); err != nil || !got.Equal(test.want) {
			t.Errorf("not before %v: date %v (%v), want %v", test.notBefore, got, err, test.want)
		}
	}
}

// pythonReader prints what Python's email package reads in the messages of a folder, as JSON by file name.
const pythonReader = `
import email, email.policy, hashlib, json, pathlib, sys

def digest(kind, data):
    if kind in ("text/plain", "text/html", "text/calendar"):
        data = data.replace(b"\r\n", b"\n").rstrip(b"\n")
    return hashlib.sha256(data).hexdigest()[:16]

def addresses(m, key):
    flat = []
    for a in (m[key].addresses if m[key] else ()):
        # Python keeps the white space between the encoded words of a long name (python/cpython issue 128110).
        flat += [a.display_name.replace(" ", ""), a.addr_spec]
    return flat or None

out = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.eml")):
    m = email.message_from_bytes(path.read_bytes(), policy=email.policy.strict.clone(linesep="\r\n"))
    parts, defects = [], []
    def walk(p, parent):
        defects.extend(repr(d) for d in p.defects)
        for name, value in p.items():
            if name.lower() != "content-type":  # Outlook's form of a file name is a defect on purpose
                defects.extend(name + ": " + repr(d) for d in value.defects)
        kind = p.get_content_type()
        if kind.startswith("multipart/"):
            for child in p.iter_parts():
                walk(child, kind)
            return
        if kind == "message/rfc822":
            data = p.get_payload(0).as_bytes(policy=email.policy.SMTP)
        else:
            data = p.get_payload(decode=True)
        parts.append({"type": kind, "file": p.get_filename() or "", "id": (p["content-id"] or "").strip("<>"),
                      "digest": digest(kind, data), "parent": parent,
                      "inline": p.get_content_disposition() == "inline", "encoding": ""})
    walk(m, "")
    out[path.name] = {"subject": str(m["subject"] or ""), "from": addresses(m, "from"), "to": addresses(m, "to"),
                      "parts": parts, "defects": defects}
json.dump(out, sys.stdout)
`

// TestPythonReadsTheSame compares with a reader that was written by others, in its strict mode.
func TestPythonReadsTheSame(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	dir := t.TempDir()
	want := make(map[string]reading)
	for _, s := range samples() {
		r := expected(&s.msg)
		for _, list := range [][]string{r.From, r.To} {
			for i := range list {
				list[i] = strings.ReplaceAll(list[i], " ", "")
			}
		}
		want[s.name+".eml"] = r
		if err := os.WriteFile(filepath.Join(dir, s.name+".eml"), renderSample(t, &s.msg), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command := exec.CommandContext(t.Context(), python, "-c", pythonReader, dir)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("python3: %v\n%s", err, stderr.String())
	}
	var got map[string]struct {
		reading
		Defects []string `json:"defects"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("python3 read %d messages of %d", len(got), len(want))
	}
	for name, w := range want {
		g := got[name]
		if len(g.Defects) > 0 {
			t.Errorf("%s: defects %v", name, g.Defects)
		}
		if !reflect.DeepEqual(g.reading, w) {
			t.Errorf("%s: python3 reads\n%s\nwant\n%s", name, asJSON(g.reading), asJSON(w))
		}
	}
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(b)
}

func TestRenderStoresNothingAndIsStable(t *testing.T) {
	m := short()
	m.Bcc, m.Expires = []Address{{Address: "c@example.org"}}, sampleDate.AddDate(0, 0, 1)
	first, err := Render(m, sampleID, sampleDate)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Render(m, ID(strings.ToUpper(string(sampleID))), sampleDate)
	if err != nil || string(again.Body) != string(first.Body) {
		t.Errorf("the same message is rendered in two ways: %v", err)
	}
	if first.ID != sampleID || first.MessageID != "<"+string(sampleID)+"@example.com>" || first.Sender != "a@example.com" ||
		!slices.Equal(first.Recipients, []string{"b@example.org", "c@example.org"}) {
		t.Errorf("%+v", first)
	}
	lint(t, first.Body)
	m.Expires = m.Expires.AddDate(100, 0, 0)
	other, err := Render(m, "", sampleDate.AddDate(0, 0, 1))
	if err != nil || other.ID == first.ID || other.ID == "" {
		t.Errorf("an id was not made: %v, %v", other.ID, err)
	}
	var invalid *InvalidError
	if _, err := Render(m, "x", sampleDate); !errors.As(err, &invalid) || invalid.Field != "ID" {
		t.Errorf("a bad id: %v", err)
	}
	if _, err := Render(m, "", m.Expires); !errors.As(err, &invalid) || invalid.Field != "Expires" {
		t.Errorf("expired: %v", err)
	}
}
