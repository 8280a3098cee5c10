package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// changes lists the mutants of a function body as "kind: before => after".
func changes(t *testing.T, file, src string) []string {
	t.Helper()
	ms, err := mutantsOf(file, src)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(file, ".go") {
		allSwitched(t, ms)
	}
	var list []string
	for _, m := range ms {
		before, after, _ := strings.Cut(m.diff(), "\n+")
		list = append(list, m.kind+": "+squeeze(strings.TrimPrefix(before, "-"))+" => "+squeeze(after))
		if strings.HasSuffix(file, ".go") {
			if _, err := parser.ParseFile(token.NewFileSet(), file, m.built.apply(src), 0); err != nil {
				t.Errorf("%s: what is built is no Go: %v\n%s", m.kind, err, m.built.apply(src))
			}
		}
	}
	return list
}

// allSwitched writes a file with all its mutants, and checks that it is Go and that no line has moved.
func allSwitched(t *testing.T, ms []*mutant) string {
	t.Helper()
	b := &batch{number: map[*mutant]string{}}
	ms = slices.DeleteFunc(slices.Clone(ms), func(m *mutant) bool { return m.switched == nil })
	for i, m := range ms {
		b.number[m] = strconv.Itoa(i + 1)
	}
	if len(ms) == 0 {
		return ""
	}
	text := b.render(ms)
	if _, err := parser.ParseFile(token.NewFileSet(), ms[0].file, text, 0); err != nil {
		t.Errorf("all mutants together are no Go: %v\n%s", err, text)
	}
	for i := range ms {
		if !strings.Contains(text, fmt.Sprintf("mutateOn(%q)", strconv.Itoa(i+1))) {
			t.Errorf("the mutant is missing: %s", ms[i].diff())
		}
	}
	return text
}

func TestSwitched(t *testing.T) {
	t.Parallel()
	const src = `package p

func f() (int, error) {
	if n < max(a, b) && c {
		g()
	}
	return 1, errX
}
`
	ms, err := mutantsOf("x.go", src)
	if err != nil {
		t.Fatal(err)
	}
	const want = `package p

func f() (int, error) {
	if !mutateOn("1") && ((mutateOn("2") || ((mutateOn("4") && (n <= mutatePick(mutateOn("5"), mutatePick(mutateOn("6"), max(a, b), b), a)) ||` +
		` !mutateOn("4") && (n < mutatePick(mutateOn("5"), mutatePick(mutateOn("6"), max(a, b), b), a))))) && (mutateOn("3") || (c))) {
		if !mutateOn("7") { g() }
	}
	return 1, mutatePick(mutateOn("8"), error(errX), nil)
}
`
	if got := allSwitched(t, ms); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestGoMutants(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		body string
		want []string
	}{
		{`if a { b() }`, []string{
			"condition negated: if a { b() } => if !a { b() }",
			"branch never taken: if a { b() } => if false { b() }",
			"statement removed: if a { b() } => if a { }",
		}},
		{`if !a { return }`, []string{
			"condition negated: if !a { return } => if a { return }",
			"branch never taken: if !a { return } => if false { return }",
		}},
		{`if n == 1 { x = 2 }`, []string{
			"condition negated: if n == 1 { x = 2 } => if n != 1 { x = 2 }",
			"branch never taken: if n == 1 { x = 2 } => if false { x = 2 }",
			"statement removed: if n == 1 { x = 2 } => if n == 1 { }",
		}},
		{`_ = a && b && c`, []string{
			"term removed: _ = a && b && c => _ = b && c",
			"term removed: _ = a && b && c => _ = a && c",
			"term removed: _ = a && b && c => _ = a && b",
		}},
		{`_ = a || (b && c)`, []string{
			"term removed: _ = a || (b && c) => _ = (b && c)",
			"term removed: _ = a || (b && c) => _ = a",
			"term removed: _ = a || (b && c) => _ = a || (c)",
			"term removed: _ = a || (b && c) => _ = a || (b)",
		}},
		{`for i := 0; i < n; i++ { continue }`, []string{
			"boundary moved: for i := 0; i < n; i++ { continue } => for i := 0; i <= n; i++ { continue }",
			"statement removed: for i := 0; i < n; i++ { continue } => for i := 0; i < n; i++ { }",
		}},
		{`defer b()`, []string{"statement removed: defer b() => "}},
		{`defer func() { b() }()`, []string{"statement removed: defer func() { b() }() => "}},
		{`_ = func() (bool, error) { return false, errX }`, []string{
			"error not returned: _ = func() (bool, error) { return false, errX } => _ = func() (bool, error) { return false, nil }",
		}},
		{`c <- 1`, []string{"statement removed: c <- 1 => "}},
		{`_ = b()`, []string{"statement removed: _ = b() => "}},
		{`n++`, []string{"statement removed: n++ => "}},
		{`x = max(x, n)`, []string{
			"statement removed: x = max(x, n) => ",
			"bound removed: x = max(x, n) => x = x",
			"bound removed: x = max(x, n) => x = n",
		}},
		{`switch { case a: b() }`, []string{
			"branch never taken: switch { case a: b() } => switch { case false: b() }",
			"statement removed: switch { case a: b() } => switch { case a: }",
		}},
		{`switch n { case 1, 2: }`, []string{
			"value of a case removed: switch n { case 1, 2: } => switch n { case 2: }",
			"value of a case removed: switch n { case 1, 2: } => switch n { case 1: }",
			"case removed: switch n { case 1, 2: } => switch n { }",
		}},
		{`func() error { return errX }()`, []string{
			"statement removed: func() error { return errX }() => ",
			"error not returned: func() error { return errX }() => func() error { return nil }()",
		}},
		{`_ = func() (int, bool) { return 1, n > 2 }`, []string{
			"condition negated: _ = func() (int, bool) { return 1, n > 2 } => _ = func() (int, bool) { return 1, n <= 2 }",
			"boundary moved: _ = func() (int, bool) { return 1, n > 2 } => _ = func() (int, bool) { return 1, n >= 2 }",
		}},
		{`l.log.Info("x"); slog.Warn("y"); d.cfg.Logger.With("a", 1).Error("z"); panic("no")`, nil},
		{`x := 1; _ = x; var y int; return nil`, nil},
	} {
		got := changes(t, "x.go", "package p\n\nfunc f() {\n"+tt.body+"\n}\n")
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s\n got %s\nwant %s", tt.body, strings.Join(got, "\n     "), strings.Join(tt.want, "\n     "))
		}
	}
}

func TestDeclared(t *testing.T) {
	t.Parallel()
	const src = `package p
func f() { g() }
func (t T) f() { g() }
func (t *T) f() { g() }
func (t *T[A]) f() { g() }
var v = func() { g() }
`
	ms, err := mutantsOf("x.go", src)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range ms {
		got = append(got, m.in)
	}
	if want := []string{"f", "(T).f", "(*T).f", "(*T).f", "var v"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestGoThatIsNone(t *testing.T) {
	t.Parallel()
	if _, err := mutantsOf("x.go", "package p\nfunc f( {"); err == nil || !strings.Contains(err.Error(), "parse x.go") {
		t.Errorf("got %v", err)
	}
}
