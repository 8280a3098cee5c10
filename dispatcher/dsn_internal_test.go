package dispatcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/queue"
)

// dsnCase is a failure to be reported.
type dsnCase struct {
	name, recipient, messageID, subject string
	evidence                            queue.Evidence
	full                                bool
	body                                string
	kinds                               string // of the parts that follow the text
	recipientRead, statusRead           string
}

const returnedMail = "From: a@example.com\r\nSubject: x\r\n\r\nhello\r\n"

func dsnCases() []dsnCase {
	long := strings.Repeat("word ", 3000) + strings.Repeat("x", 5000)
	return []dsnCase{
		{name: "plain", evidence: queue.Evidence{Code: 550, Enhanced: "5.1.1", Reply: "no such user"}, statusRead: "5.1.1"},
		{name: "new fields", evidence: queue.Evidence{Code: 550, Reply: "no\r\nAction: delivered\r\n\r\nFinal-Recipient: rfc822; x@y"}},
		{name: "bare CR and LF", evidence: queue.Evidence{Code: 550, Reply: "a\rAction: delivered\nStatus: 2.0.0\x00\v\f\x85\u2028b"}},
		{name: "8 bit", evidence: queue.Evidence{Code: 550, Reply: "unbekannt: M\xfcller \xff\xfe, 誰もいない"}},
		{name: "long", evidence: queue.Evidence{Code: 550, Reply: long}},
		{name: "encoded words", evidence: queue.Evidence{Code: 550, Reply: "=?utf-8?q?=0D=0AAction:_delivered?= =?x"}},
		{name: "only blanks", evidence: queue.Evidence{Code: 550, Reply: " \t\r\n "}},
		{name: "no code", evidence: queue.Evidence{Reply: "too old"}, statusRead: "5.4.7"},
		{name: "false code", evidence: queue.Evidence{Code: 550, Enhanced: "5.1.1\r\nAction: delivered"}},
		{name: "code of a deferral", evidence: queue.Evidence{Code: 452, Enhanced: "4.2.2"}, statusRead: "5.4.7"},
		{name: "odd row", recipient: "a\r\nAction: delivered@example.org", messageID: "<a@b>\r\nBcc: x@example.net", subject: "a\r\nBcc: x@example.net",
			recipientRead: "rfc822;a Action: delivered@example.org"},
		{name: "long address", recipient: strings.Repeat("a", 2000) + "@example.org", recipientRead: "rfc822;" + strings.Repeat("a", maxWord)},
		{name: "long subject", subject: strings.Repeat("Größe ", 500)},
		{name: "international address", recipient: "müller+x@example.org", evidence: queue.Evidence{Code: 550, Reply: "für Müller: no\r\nAction: x"},
			kinds: "message/global-delivery-status text/rfc822-headers", recipientRead: "utf-8;müller+x@example.org"},
		{name: "international header", body: "From: a@example.com\r\nTo: müller@example.org\r\n\r\nx\r\n",
			kinds: "message/delivery-status message/global-headers"},
		{name: "header in Latin-1", body: "Subject: Gr\xfc\xdfe\r\n\r\nx\r\n"},
		{name: "long header line", body: "Subject: " + strings.Repeat("x", 2000) + "\r\n\r\nx\r\n"},
		{name: "header with bare CR", body: "Subject: a\rb\r\n\r\nx\r\n"},
		{name: "no message", body: "-", kinds: "message/delivery-status"},
		{name: "whole", full: true, kinds: "message/delivery-status message/rfc822"},
		{name: "whole in 8 bits", full: true, body: returnedMail + "Grüße\r\n", kinds: "message/delivery-status message/global"},
		{name: "whole with an international header", full: true, body: "To: müller@example.org\r\n\r\nx\r\n", kinds: "message/delivery-status message/global"},
		{name: "whole with bare LF", full: true, body: "To: a@example.org\n\nx\n", kinds: "message/delivery-status message/global"},
		{name: "whole and too large", full: true, body: returnedMail + strings.Repeat("x\r\n", maxReturned)},
	}
}

// report writes the report of a case.
func (c *dsnCase) report(t *testing.T) []byte {
	t.Helper()
	def := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	def(&c.recipient, "b@example.org")
	def(&c.messageID, "<id@example.com>")
	def(&c.subject, "Your örder")
	def(&c.body, returnedMail)
	def(&c.kinds, "message/delivery-status text/rfc822-headers")
	def(&c.recipientRead, "rfc822;"+c.recipient)
	def(&c.statusRead, map[bool]string{true: "5.0.0", false: "5.4.7"}[c.evidence.Code >= 500])
	if c.body == "-" {
		c.body = ""
	}
	n := Notice{From: outbox.Address{Name: "Mäil", Address: "mailer-daemon@example.com"}, Full: c.full}
	claimed := &queue.Claimed{
		ID: "01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11", MessageID: c.messageID, Sender: "a@example.com",
		Deliveries: []queue.ClaimedDelivery{{Recipient: c.recipient, Attempt: 3}},
	}
	to := []outbox.Address{{Address: "a@example.com"}, {Name: "Ops", Address: "öps@example.com"}}
	raw, err := n.write(claimed, []queue.Settlement{{Outcome: queue.Failed, Evidence: c.evidence}}, []int{0}, to, c.subject, []byte(c.body))
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	if _, err := outbox.Render(&outbox.Message{From: n.From, To: to, Raw: raw, EnvelopeFrom: "<>"}, "", time.Time{}); err != nil {
		t.Errorf("%s: the report cannot be sent: %v", c.name, err)
	}
	return raw
}

// dsnRead is what a reader finds in a report.
type dsnRead struct {
	Header  []string          `json:"header"` // names of fields
	Kinds   []string          `json:"kinds"`
	Blocks  int               `json:"blocks"` // of the status
	Fields  map[string]string `json:"fields"` // of the recipient
	Content string            `json:"content"`
	Defects []string          `json:"defects"`
}

// check compares with what the case wants.
func (r *dsnRead) check(t *testing.T, who string, c *dsnCase) {
	t.Helper()
	kinds := append([]string{"text/plain"}, strings.Fields(c.kinds)...)
	if !slices.Equal(r.Kinds, kinds) || len(r.Defects) > 0 {
		t.Errorf("%s: %s reads %v %v, want %v", c.name, who, r.Kinds, r.Defects, kinds)
	}
	if slices.Contains(r.Header, "bcc") {
		t.Errorf("%s: %s reads a Bcc", c.name, who)
	}
	compact := strings.ReplaceAll(r.Fields["final-recipient"], "; ", ";")
	if r.Blocks != 2 || r.Fields["action"] != "failed" || r.Fields["status"] != c.statusRead || compact != c.recipientRead {
		t.Errorf("%s: %s reads %d blocks with %q, want %q and %q", c.name, who, r.Blocks, r.Fields, c.recipientRead, c.statusRead)
	}
	if diagnostic := r.Fields["diagnostic-code"]; c.evidence.Code != 0 && !strings.HasPrefix(diagnostic, "smtp; ") {
		t.Errorf("%s: %s reads the diagnostic code %q", c.name, who, diagnostic)
	}
	if strings.Contains(c.kinds, "message/global ") || strings.HasSuffix(c.kinds, "message/global") {
		if r.Content != c.body {
			t.Errorf("%s: %s reads the message %q", c.name, who, r.Content)
		}
	}
}

// TestReportsAreSound has reports read by go-message: nothing that a relay or a row says becomes a field, and every part is 7bit.
func TestReportsAreSound(t *testing.T) {
	for _, c := range dsnCases() {
		raw := c.report(t)
		if !isSevenBit(raw) {
			t.Errorf("%s: the report is not 7bit:\n%s", c.name, raw)
		}
		e, err := message.Read(bytes.NewReader(raw))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var r dsnRead
		for fields := e.Header.Fields(); fields.Next(); {
			r.Header = append(r.Header, strings.ToLower(fields.Key()))
		}
		for parts := e.MultipartReader(); ; {
			p, err := parts.NextPart()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil && !message.IsUnknownCharset(err) {
				t.Fatalf("%s: %v", c.name, err)
			}
			kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(p.Body)
			if err != nil {
				t.Fatalf("%s: %s: %v", c.name, kind, err)
			}
			if r.Kinds = append(r.Kinds, kind); strings.HasSuffix(kind, "delivery-status") {
				r.Blocks, r.Fields = readStatus(t, string(content))
			}
			r.Content = string(content)
		}
		r.check(t, "go-message", &c)
	}
}

// TestNoticeNeedsAnAuthorInASCII shows that an author whose address needs SMTPUTF8 is refused before anything is sent.
func TestNoticeNeedsAnAuthorInASCII(t *testing.T) {
	for _, address := range []string{"müller@example.com", "a@bücher.example"} {
		n := Notice{From: outbox.Address{Address: address}, ToSender: true}
		if err := n.check(); err == nil || !strings.Contains(err.Error(), "is not ASCII") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// readStatus reads the blocks of a status and the fields of the last.
func readStatus(t *testing.T, content string) (blocks int, fields map[string]string) {
	t.Helper()
	for block := range strings.SplitSeq(strings.TrimSuffix(content, "\r\n"), "\r\n\r\n") {
		e, err := message.Read(strings.NewReader(block + "\r\n\r\n"))
		if err != nil {
			t.Fatalf("%q: %v", block, err)
		}
		blocks, fields = blocks+1, make(map[string]string)
		for f := e.Header.Fields(); f.Next(); {
			fields[strings.ToLower(f.Key())] = f.Value()
		}
	}
	return blocks, fields
}

// pythonDSN prints what Python's email package reads in reports that stand in a JSON list.
const pythonDSN = `
import email, email.policy, json, sys

def fields(m):
    return {k.lower(): " ".join(str(v).split()) for k, v in m.items()}

out = []
for raw in json.load(sys.stdin):
    m = email.message_from_bytes(raw.encode("ascii"), policy=email.policy.default.clone(linesep="\r\n"))
    r = {"header": [k.lower() for k in m.keys()], "kinds": [], "defects": [], "fields": {}, "blocks": 0, "content": ""}
    for p in m.get_payload():
        kind = p.get_content_type()
        r["kinds"].append(kind)
        r["defects"] += [repr(d) for q in p.walk() for d in q.defects]
        blocks = []
        if kind == "message/delivery-status":
            blocks = p.get_payload()
        elif kind.startswith("message/global"):
            # Python takes every message/* for one that is not encoded.
            text = p.get_payload(0).as_bytes() if p.is_multipart() else p.get_payload().encode()
            import base64, quopri
            decode = base64.b64decode if p["content-transfer-encoding"] == "base64" else quopri.decodestring
            text = decode(text).decode("utf-8")
            r["content"] = text
            if kind == "message/global-delivery-status":
                blocks = [email.message_from_string(b + "\n\n", policy=email.policy.default) for b in text.replace("\r\n", "\n").strip().split("\n\n")]
        if blocks:
            r["blocks"], r["fields"] = len([b for b in blocks if b.keys()]), fields(blocks[1])
    # It reads the encoded content as a header, and misses the end of that.
    r["defects"] = [d for d in r["defects"] if "message/global" not in kind or "Missing" not in d]
    out.append(r)
json.dump(out, sys.stdout)
`

// TestPythonReadsReports has the same reports read by Python.
func TestPythonReadsReports(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	cases := dsnCases()
	reports := make([]string, len(cases))
	for i := range cases {
		reports[i] = string(cases[i].report(t))
	}
	input, err := json.Marshal(reports)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), python, "-c", pythonDSN)
	var stderr bytes.Buffer
	command.Stdin, command.Stderr = bytes.NewReader(input), &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("python3: %v\n%s", err, stderr.String())
	}
	var read []dsnRead
	if err := json.Unmarshal(out, &read); err != nil || len(read) != len(cases) {
		t.Fatalf("%d reports: %v", len(read), err)
	}
	for i := range cases {
		read[i].check(t, "Python", &cases[i])
	}
}
