package dkim

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// systemPython is Debian's Python, for which python3-dkim is installed.
const systemPython = "/usr/bin/python3"

const dkimpy = `
import dkim, json, sys
cases = json.load(sys.stdin)
out = {}
for name, case in cases.items():
    message = bytes.fromhex(case["message"])
    zone = {k.encode() + b".": v.encode() for k, v in case["zone"].items()}
    d = dkim.DKIM(message, minkey=1024)
    results = []
    for i in range(case["signatures"]):
        try:
            results.append(d.verify(idx=i, dnsfunc=lambda name, timeout=5: zone.get(name if isinstance(name, bytes) else name.encode())))
        except Exception as e:
            results.append(str(e))
    out[name] = results
json.dump(out, sys.stdout)
`

// TestDkimpyVerifies checks every shape with an independent implementation.
func TestDkimpyVerifies(t *testing.T) {
	if out, err := exec.CommandContext(t.Context(), systemPython, "-c", "import dkim, nacl").CombinedOutput(); err != nil {
		t.Skipf("python3-dkim is not installed: %v: %s", err, bytes.TrimSpace(out))
	}
	type testCase struct {
		Message    string            `json:"message"`
		Zone       map[string]string `json:"zone"`
		Signatures int               `json:"signatures"`
	}
	z := zone{}
	s := newSigner(t, Config{Keys: []Key{z.newKey(t, "rsa", "example.com", "r1"), z.newKey(t, "ed25519", "example.com", "e1")}})
	cases := map[string]testCase{}
	for name, message := range shapes(t) {
		signed, err := s.Sign([]byte(message))
		if err != nil {
			t.Fatal(err)
		}
		cases[name] = testCase{Message: hex.EncodeToString(signed), Zone: z, Signatures: 2}
	}
	tampered := bytes.Replace([]byte(shapes(t)["dots"]), []byte("..\r\n"), []byte("...\r\n"), 1)
	signed, err := s.Sign([]byte(shapes(t)["dots"]))
	if err != nil {
		t.Fatal(err)
	}
	cases["tampered"] = testCase{
		Message: hex.EncodeToString(bytes.Replace(signed, []byte(shapes(t)["dots"]), tampered, 1)), Zone: z, Signatures: 1,
	}
	input, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), systemPython, "-c", dkimpy)
	command.Stdin = bytes.NewReader(input)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	var results map[string][]any
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatal(err)
	}
	if len(results) != len(cases) {
		t.Errorf("%d results for %d messages", len(results), len(cases))
	}
	for name, got := range results {
		if name == "tampered" {
			if len(got) != 1 || !strings.Contains(fmt.Sprint(got[0]), "body hash mismatch") {
				t.Errorf("%s: dkimpy says %v", name, got)
			}
			continue
		}
		if want := []any{true, true}; !slices.Equal(got, want) {
			t.Errorf("%s: dkimpy says %v, want %v", name, got, want)
		}
	}
}
