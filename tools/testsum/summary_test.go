package main

import (
	"strings"
	"testing"
)

func TestSummarise(t *testing.T) {
	for _, tt := range []struct {
		name, events string
		want         []string
		not          []string
	}{
		{
			name: "pass and skip",
			events: `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Test":"TestA","Output":"chatter\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:7: no server here\n"}
{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Output":"PASS\n"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
{"Action":"output","Package":"q","Output":"?   \tq\t[no test files]\n"}
{"Action":"skip","Package":"q"}
`,
			want: []string{"ok  \tp\t0.1s\n", "1 tests passed, 0 failed, 1 were skipped\n", "skipped: p TestB: no server here\n"},
			not:  []string{"chatter", "PASS\n", "no test files"},
		},
		{
			name: "failure",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:1: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
			want: []string{"a_test.go:1: wrong\n", "FAIL\tp\t0.1s\n", "0 tests passed, 1 failed, 0 were skipped\n", "failed:  p TestA\n"},
		},
		{
			name: "cut off by a panic",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: boom\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.1s\n"}
{"Action":"fail","Package":"p"}
`,
			want: []string{"panic: boom\n", "1 failed", "failed:  p TestA (did not end)\n"},
		},
		{
			name: "does not compile",
			events: `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: undefined: x\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","FailedBuild":"p"}
`,
			want: []string{"p.go:1: undefined: x\n", "FAIL\tp [build failed]\n", "1 failed", "failed:  p\n"},
		},
		{name: "not an event", events: "go: no such package\n", want: []string{"go: no such package\n"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			if err := summarise(strings.NewReader(tt.events), &out); err != nil {
				t.Fatal(err)
			}
			for _, w := range tt.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("the report lacks %q:\n%s", w, &out)
				}
			}
			for _, n := range tt.not {
				if strings.Contains(out.String(), n) {
					t.Errorf("the report shows %q:\n%s", n, &out)
				}
			}
		})
	}
}
