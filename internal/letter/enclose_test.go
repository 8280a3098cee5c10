package letter

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// received are messages as people receive them. What is kept travels as it is, what is recoded keeps its content, and what is
// neither is carried as octets.
var received = []struct {
	name, data string
	result     string // "kept", "recoded" or "octets"
}{
	{"ascii", "From: a@example.org\r\n\r\nhello\r\n", "kept"},
	{"line breaks of Unix", "From: a@example.org\n\nhello\n", "kept"},
	{"subject alone", "Subject: x\r\n\r\nhello\r\n", "kept"},
	{"header alone", "Subject: x\r\n", "kept"},
	{"8bit", "From: a@example.org\r\nSubject: x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n" +
		"Content-Transfer-Encoding: 8bit\r\n\r\nGrüße\r\n", "recoded"},
	{"Latin-1 without a label", "From: a@example.org\r\nSubject: x\r\n\r\nGr\xfc\xdfe\r\n", "recoded"},
	{"8bit that is called 7bit", "From: a@example.org\r\nMIME-Version: 1.0\r\nContent-Type: text/html; charset=iso-8859-1\r\n" +
		"Content-transfer-ENCODING:\r\n 7BIT (as ever)\r\nX-Last: 1\r\n\r\n<p>Gr\xfc\xdfe \r\n", "recoded"},
	{"comment in the type", "Date: Sat, 28 Feb 2026 10:00:00 +0100\nMIME-Version: 1.0\n" +
		"Content-Type: text/plain (see \"below\"); charset=\"utf-8\" (UTF (8))\nContent-Transfer-Encoding: 8bit\n\nnaïve\n", "recoded"},
	{"a long line", "From: a@example.org\r\n\r\n" + strings.Repeat("long ", 300) + "\r\n", "recoded"},
	{"base64 in one line", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\n" +
		strings.Repeat("AAEC", 400) + "\n", "recoded"},
	{"quoted-printable in one line", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n" +
		"Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("=C3=A9", 200) + "=0A=\nend\n", "recoded"},
	{"mixed", mixedMail("8bit", "Grüße\n", "PK\x01\x02\xff\n"), "recoded"},
	{"cut off", strings.TrimSuffix(mixedMail("8bit", "Grüße\n", "x\n"), "--b1--\nepilogue\n"), "recoded"},
	{"forwarded twice", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n" +
		mixedMail("8bit", "Grüße\n", "x\n"), "recoded"},
	{"digest", "Subject: d\nMIME-Version: 1.0\nContent-Type: multipart/digest; boundary=\"d d\"\n\n--d d\n\nFrom: a@example.org\n\nüber\n--d d\n" +
		"Content-Type: message/rfc822\n\nFrom: b@example.org\n\nGrüße\n--d d--\n", "recoded"},
	{"bounce", "From: m@example.org\nMIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=r\n\n--r\n\n" +
		"Zurück\n--r\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; a\n\nFinal-Recipient: rfc822; a@b\n--r\n" +
		"Content-Type: text/rfc822-headers\n\nSubject: Grüße\n\n--r--\n", "recoded"},
	{"nested without an end", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=o\n\n--o\n" +
		"Content-Type: multipart/alternative; boundary=i\n\n--i\n\nGrüße\n--o\n\nplain\n--o--\n", "recoded"},

	{"nothing", "", "octets"},
	{"no header", "\r\nGrüße\r\n", "octets"},
	{"no field of a message", "X-Only: 1\r\n\r\nhello\r\n", "octets"},
	{"text", "Dear Ann,\r\n\r\nhello\r\n", "octets"},
	{"line of an mbox", "From a@example.org Tue May 10 11:28:07 2005\nFrom: a@example.org\n\nhello\n", "octets"},
	{"begins with a continuation", " x\r\nFrom: a@example.org\r\n\r\nhello\r\n", "octets"},
	{"Latin-1 in the header", "From: a@example.org\r\nSubject: Gr\xfc\xdfe\r\n\r\nhello\r\n", "octets"},
	{"UTF-8 in the header of a part", mixedMail("8bit; x=ü", "Grüße\n", "x\n"), "octets"},
	{"NUL", "From: a@example.org\r\n\r\na\x00b\r\n", "octets"},
	{"CR alone", "From: a@example.org\r\n\r\na\rb\r\n", "octets"},
	{"mixed line breaks", "From: a@example.org\r\n\r\na\nb\r\n", "octets"},
	{"a long header line", "From: a@example.org\r\nX: " + strings.Repeat("x", 1000) + "\r\n\r\nhello\r\n", "octets"},
	{"signed in 8 bits", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: multipart/signed; boundary=s\n\n--s\n\nGrüße\n--s--\n", "octets"},
	{"8bit in the preamble", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=s\n\nGrüße\n--s\n\nx\n--s--\n", "octets"},
	{"boundary without parts", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=s\n\nGrüße\n", "octets"},
	{"no boundary", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: multipart/mixed\n\n--s\n\nGrüße\n--s--\n", "octets"},
	{"a boundary that begins another", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=s\n\n--s\n" +
		"Content-Type: multipart/mixed; boundary=s1\n\n--s1\n\nGrüße\n--s1--\n--s--\n", "octets"},
	{"type twice", "From: a@example.org\nContent-Type: text/plain\nContent-Type: multipart/mixed; boundary=s\n\nGrüße\n", "octets"},
	{"broken type", "From: a@example.org\nContent-Type: multipart/mixed boundary=s\n\n--s\n\nGrüße\n--s--\n", "octets"},
	{"unknown encoding", "From: a@example.org\nContent-Type: text/plain\nContent-Transfer-Encoding: x-uuencode\n\nGrüße\n", "octets"},
	{"broken base64", "From: a@example.org\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\nGrüße\n", "octets"},
	{"8bit in a delivery status", "From: a@example.org\nMIME-Version: 1.0\nContent-Type: message/delivery-status\n\nX: Grüße\n", "octets"},
	{"binary with line breaks of Unix", mixedMail("binary", "x\n", "\xff\n\xfe\n"), "octets"},
	{"nested too deeply", deepMail(40), "octets"},
}

// mixedMail is a message with a text and a file.
func mixedMail(encoding, text, file string) string {
	return "From: a@example.org\nSubject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed;\n boundary=b1\nContent-Transfer-Encoding: " + "8bit" +
		"\nX-Last: 1\n\nThis is MIME.\n--b1\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: " + encoding + "\n\n" + text +
		"--b1 \nContent-Type: application/zip; name=a.zip\nContent-Disposition: attachment; filename=a.zip\nContent-Transfer-Encoding: " +
		encoding + "\n\n" + file + "--b1\nContent-Type: text/plain\n\n\n--b1--\nepilogue\n"
}

func deepMail(depth int) string {
	return strings.Repeat("From: a@example.org\nMIME-Version: 1.0\nContent-Type: message/rfc822\n\n", depth) + "From: a@example.org\n\nGrüße\n"
}

func TestReceivedMessagesCanBeAttached(t *testing.T) {
	for _, test := range received {
		f, err := parseFile(&Source{Name: "original.eml", Data: []byte(test.data)})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		result := "kept"
		switch crlfed := toCRLF(test.data); {
		case f.mediaType == octetStream:
			if result = "octets"; string(f.data) != test.data || f.encoding != base64Encoding {
				t.Errorf("%s: carried as %q in %s", test.name, f.data, f.encoding)
			}
		case f.mediaType != "message/rfc822" || f.encoding != sevenBit || !isSevenBit(f.data):
			t.Errorf("%s: %s in %s: %q", test.name, f.mediaType, f.encoding, f.data)
		case !bytes.Equal(f.data, crlfed):
			result = "recoded"
		}
		if result != test.result {
			t.Errorf("%s: %s, want %s: %q", test.name, result, test.result, f.data)
		}
	}
}

func TestTypesThatAllowFewEncodings(t *testing.T) {
	const eight = "Subject: Grüße\r\n"
	for _, test := range []struct{ contentType, data, wantType, wantEncoding string }{
		{"message/partial; number=1; total=2; id=\"a@b\"", "Subject: x\n\nhalf", "message/partial; id=\"a@b\"; number=1; total=2", "7bit"},
		{"message/partial; number=2; id=x", "Grü", octetStream, "base64"},
		{"message/external-body; access-type=URL; url=\"https://x.example/\"", "Content-Type: image/png\n\n",
			`message/external-body; access-type=URL; url="https://x.example/"`, "7bit"},
		{"message/delivery-status", "Reporting-MTA: dns; a\n", "message/delivery-status", "7bit"},
		{"message/delivery-status", "Diagnostic-Code: smtp; 550 unbekannt: Müller\n", octetStream, "base64"},
		{"message/delivery-status", "a\rb\n", octetStream, "base64"},
		{"message/disposition-notification", "Disposition: x\n", "message/disposition-notification", "7bit"},
		{"message/feedback-report", "Feedback-Type: abuse\n\x00", octetStream, "base64"},
		{"message/http", strings.Repeat("x", 999), octetStream, "base64"},
		{"Message/RFC822", "Subject: x\n\ny\n", "message/rfc822", "7bit"},
		{"message/rfc822", "no message", octetStream, "base64"},
		{"message/global", eight, "message/global", "base64"},
		{"message/global", "Subject: x\r\n\r\ny\r\n", "message/global", "7bit"},
		{"message/global-headers", eight, "message/global-headers", "base64"},
		{"message/global-delivery-status", eight, "message/global-delivery-status", "base64"},
		{"text/rfc822-headers", "Subject: x\n", "text/rfc822-headers; charset=utf-8", "7bit"},
		{"text/rfc822-headers; charset=utf-8", eight, "text/rfc822-headers; charset=utf-8", "quoted-printable"},
		{"text/rfc822-headers", "a\rb\n", octetStream, "base64"},
		{"multipart/mixed; boundary=x", "--x\n\ny\n--x--\n", octetStream, "base64"},
		{"multipart/form-data", "", octetStream, "base64"},
	} {
		f, err := parseFile(&Source{Name: "a", ContentType: test.contentType, Data: []byte(test.data)})
		if err != nil || f.mediaType != test.wantType || string(f.encoding) != test.wantEncoding {
			t.Errorf("%s: %s in %s (%v), want %s in %s", test.contentType, f.mediaType, f.encoding, err, test.wantType, test.wantEncoding)
		}
	}
}

func TestTypesOfAttachments(t *testing.T) {
	utf16 := "\xff\xfea\x00"
	for _, test := range []struct{ name, contentType, data, want string }{
		{"a.txt", "", "x", "text/plain; charset=utf-8"},
		{"a.txt", "", "Grüße", "text/plain; charset=utf-8"},
		{"a.txt", "", "Gr\xfc\xdfe", "text/plain"},
		{"a.txt", "", utf16, "text/plain; charset=utf-16"},
		{"a.csv", "", "\xfe\xff\x00a", "text/csv; charset=utf-16"},
		{"a.csv", "", "\xff\xfe\x00\x00a\x00\x00\x00", "text/csv; charset=utf-32"},
		{"a.csv", "", "a\x00b\x00", "text/csv"},
		{"a.csv", "", "\ufeffa;b", "text/csv; charset=utf-8"},
		{"a.txt", "", "\x1b$B$3\x1b(B", "text/plain"},
		{"a.bin", "", "Grüße", octetStream},
		{"a", "text/csv", "Grüße", "text/csv; charset=utf-8"},
		{"a", "text/csv", "Gr\xfc\xdfe", "text/csv"},
		{"a", "text/csv; charset=windows-1252", "Grüße", "text/csv; charset=windows-1252"},
		{"a", "TEXT/Plain; CharSet=\"us-ascii\" (Plain text)", "x", "text/plain; charset=us-ascii"},
		{"a", "text/(comment \\) here)plain", "x", ""},
		{"a", "application/x-a (one (two)) ; p=\"a(b)\\\"c\"", "x", `application/x-a; p="a(b)\"c"`},
		{"a", "application/pdf; name=\"other.pdf\"; boundary=x;", "x", "application/pdf"},
		{"a", "application/pdf; name*0=a; name*1=b", "x", "application/pdf"},
		{"a", "application/x-a; p=\"\"", "x", `application/x-a; p=""`},
		{"a", "application/x-a; p*=utf-8''%C3%A9", "x", "application/x-a; p*=utf-8''%C3%A9"},
		{"a", "application/vnd.a+b-c.d; version=1.0", "x", "application/vnd.a+b-c.d; version=1.0"},
		{"a", "text", "x", ""},
		{"a", "text/", "x", ""},
		{"a", "text/plain; charset", "x", ""},
		{"a", "text/plain; a=b; a=c", "x", ""},
		{"a", "text/plain (open", "x", ""},
	} {
		f, err := parseFile(&Source{Name: test.name, ContentType: test.contentType, Data: []byte(test.data)})
		if (err != nil) != (test.want == "") || err == nil && f.mediaType != test.want {
			t.Errorf("%s %q %q: %s (%v), want %s", test.name, test.contentType, test.data, f.mediaType, err, test.want)
			continue
		}
		if err != nil {
			continue
		}
		if _, _, err := mime.ParseMediaType(f.mediaType); err != nil || string(f.data) != test.data {
			t.Errorf("%s: %v, data %q", f.mediaType, err, f.data)
		}
	}
	f, err := parseFile(&Source{Name: "a.ics", Data: []byte("\ufeffBEGIN:VCALENDAR\r\n")})
	if err != nil || string(f.data) != "BEGIN:VCALENDAR\r\n" || f.mediaType != "text/calendar; charset=utf-8" {
		t.Errorf("a calendar: %q as %s (%v)", f.data, f.mediaType, err)
	}
}

// TestContentWithoutALastLineBreak shows that a leaf that is encoded gets no line break that it did not have.
func TestContentWithoutALastLineBreak(t *testing.T) {
	const nested = "From: a@b\r\nContent-Type: message/rfc822\r\n\r\n"
	const cutOff = "From: a@b\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"
	for _, test := range []struct{ head, content string }{
		{"From: a@b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n", "\x89PNG\xe9"},
		{"From: a@b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: binary\r\n\r\n", "\x89PNG\xe9\r\n"},
		{"From: a@b\r\nContent-Type: text/plain; charset=utf-16le\r\nContent-Transfer-Encoding: binary\r\n\r\n", "\x2c\x67\x9e\x8a"},
		{"From: a@b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", "some words and é"},
		{"From: a@b\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", "some words and é\r\n"},
		{"From: a@b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n", strings.Repeat("long", 300) + "=\r\n"},
		{"From: a@b\r\nContent-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n", strings.Repeat("=C3=A9", 300)},
		{nested + "Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n", "some words and é"},
		{cutOff + "Content-Type: text/plain; charset=utf-8\r\n\r\n", "some words and é"},
	} {
		out, ok := Enclose([]byte(test.head + test.content))
		if !ok {
			t.Errorf("%q is not enclosed", test.head+test.content)
			continue
		}
		i := bytes.LastIndex(out, []byte("\r\n\r\n"))
		content := out[i+4:]
		var err error
		switch {
		case bytes.Contains(out, []byte("Encoding: base64")):
			content, err = base64.StdEncoding.DecodeString(string(content))
		case bytes.Contains(out, []byte("Encoding: quoted-printable")):
			content, err = io.ReadAll(quotedprintable.NewReader(bytes.NewReader(content)))
		}
		want := test.content
		if strings.Contains(test.head, "quoted") {
			want = strings.NewReplacer("=C3=A9", "é", "=\r\n", "").Replace(want)
		}
		if err != nil || string(content) != want {
			t.Errorf("%q becomes %q (%v), as %q", test.content, content, err, out)
		}
	}
}

// pythonTree prints what Python's email package reads in files: of each the type, fields and content of every part.
const pythonTree = `
import email, email.policy, hashlib, json, pathlib, sys

def tree(m):
    fields = sorted(n.lower() + ":" + str(v) for n, v in m.raw_items()
                    if n.lower() not in ("content-transfer-encoding", "mime-version"))
    if m.is_multipart():
        return [m.get_content_type(), fields, m.preamble, m.epilogue, [tree(p) for p in m.get_payload()]]
    data = m.get_payload(decode=True) or b""
    return [m.get_content_type(), fields, hashlib.sha256(data.rstrip(b"\r\n")).hexdigest()]

out = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    m = email.message_from_bytes(path.read_bytes(), policy=email.policy.compat32)
    out[path.name] = tree(m)
json.dump(out, sys.stdout, default=repr)
`

// readWithPython returns what Python reads in messages.
func readWithPython(t *testing.T, messages map[string][]byte) map[string]json.RawMessage {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	dir := t.TempDir()
	for name, data := range messages {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), python, "-c", pythonTree, dir).Output()
	if err != nil {
		t.Fatalf("python3: %v", err)
	}
	trees := make(map[string]json.RawMessage)
	if err := json.Unmarshal(out, &trees); err != nil {
		t.Fatal(err)
	}
	return trees
}

// TestRecodedMessagesSayTheSame compares structure, fields and content before and after, as a reader that others wrote sees them.
func TestRecodedMessagesSayTheSame(t *testing.T) {
	messages := make(map[string][]byte)
	recoded := 0
	for i, test := range received {
		messages[fmt.Sprintf("%d-before", i)] = toCRLF(test.data)
		if out, ok := Enclose([]byte(test.data)); ok {
			messages[fmt.Sprintf("%d-after", i)] = out
			recoded++
		}
	}
	if recoded < 10 {
		t.Fatalf("%d messages were enclosed", recoded)
	}
	trees := readWithPython(t, messages)
	for i, test := range received {
		after, ok := trees[fmt.Sprintf("%d-after", i)]
		if before := trees[fmt.Sprintf("%d-before", i)]; ok && !bytes.Equal(before, after) {
			t.Errorf("%s\nwas %s\nis  %s\n%s", test.name, before, after, messages[fmt.Sprintf("%d-after", i)])
		}
	}
}

func FuzzEnclose(f *testing.F) {
	for _, test := range received {
		f.Add([]byte(test.data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		out, ok := Enclose(data)
		if !ok {
			return
		}
		if !isSevenBit(out) || !bytes.HasSuffix(out, []byte(crlf)) {
			t.Fatalf("%q becomes %q", data, out)
		}
		if again, ok := Enclose(out); !ok || !bytes.Equal(again, out) {
			t.Fatalf("%q becomes %q, then %q", data, out, again)
		}
		if lines := toCRLF(string(data)); isSevenBit(lines) && !bytes.Equal(lines, out) {
			t.Fatalf("%q was changed to %q", data, out)
		}
	})
}
