package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"strings"
)

// goFile collects the mutants of a Go file.
type goFile struct {
	name, src string
	fset      *token.FileSet
	in, code  string // of the declaration at hand
	mutants   []*mutant
}

// goMutants changes conditions, boundaries, statements and returned errors. Calls of loggers stay as they are.
func goMutants(name, src string) ([]*mutant, error) {
	f := &goFile{name: name, src: src, fset: token.NewFileSet()}
	tree, err := parser.ParseFile(f.fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	for _, decl := range tree.Decls {
		var text strings.Builder
		if err := printer.Fprint(&text, f.fset, decl); err != nil {
			return nil, fmt.Errorf("print a declaration of %s: %w", name, err)
		}
		f.in, f.code = declared(decl), hash(squeeze(text.String()))[:12]
		ast.PreorderStack(decl, nil, func(n ast.Node, stack []ast.Node) bool {
			f.node(n, stack)
			return true
		})
	}
	return f.mutants, nil
}

// declared names a declaration: "f", "(*T).m", "var x".
func declared(decl ast.Decl) string {
	switch d := decl.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil || len(d.Recv.List) == 0 {
			return d.Name.Name
		}
		t, star := d.Recv.List[0].Type, ""
		if p, ok := t.(*ast.StarExpr); ok {
			t, star = p.X, "*"
		}
		if g, ok := t.(*ast.IndexExpr); ok {
			t = g.X
		}
		if id, ok := t.(*ast.Ident); ok {
			return "(" + star + id.Name + ")." + d.Name.Name
		}
		return d.Name.Name
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				return d.Tok.String() + " " + s.Names[0].Name
			case *ast.TypeSpec:
				return "type " + s.Name.Name
			}
		}
	}
	return "import"
}

func (f *goFile) node(n ast.Node, stack []ast.Node) {
	switch n := n.(type) {
	case *ast.IfStmt:
		f.condition(n.Cond)
		f.never(n.Cond)
	case *ast.SwitchStmt:
		f.cases(n.Body, n.Tag == nil)
	case *ast.TypeSwitchStmt:
		f.cases(n.Body, false)
	case *ast.BlockStmt:
		if len(n.List) > 1 || !deferred(stack) { // else the defer goes
			f.statements(n.List)
		}
	case *ast.CaseClause:
		f.statements(n.Body)
	case *ast.CommClause:
		f.statements(n.Body)
	case *ast.BinaryExpr:
		f.binary(n, stack)
	case *ast.CallExpr:
		f.extreme(n)
	case *ast.ReturnStmt:
		f.returned(n, stack)
	}
}

func (f *goFile) offset(p token.Pos) int     { return f.fset.Position(p).Offset }
func (f *goFile) text(n ast.Node) string     { return f.src[f.offset(n.Pos()):f.offset(n.End())] }
func (f *goFile) span(n ast.Node) (int, int) { return f.offset(n.Pos()), f.offset(n.End()) }

// add adds a mutant. Its pieces take the place of n in the form that is switched; without pieces there is no such form.
func (f *goFile) add(kind string, at token.Pos, built, shown edit, n ast.Node, pieces ...piece) {
	m := &mutant{
		file: f.name, line: f.fset.Position(at).Line, in: f.in, kind: kind, built: built, shown: shown, src: f.src, code: f.code,
	}
	if len(pieces) > 0 {
		start, end := f.span(n)
		m.switched = &switched{start, end, pieces}
	}
	f.mutants = append(f.mutants, m)
}

// kept is a piece of the source, and verbatim one that is not in the source.
func (f *goFile) kept(n ast.Node) piece {
	start, end := f.span(n)
	return piece{start: start, end: end}
}

func verbatim(text string) piece { return piece{text: text} }

// replace adds a mutant that replaces a node, in the same way for the compiler and for the reader.
func (f *goFile) replace(kind string, n ast.Node, text string) {
	start, end := f.span(n)
	f.add(kind, n.Pos(), edit{start, end, text}, edit{start, end, text}, n)
}

var opposite = map[token.Token]token.Token{
	token.EQL: token.NEQ, token.NEQ: token.EQL,
	token.LSS: token.GEQ, token.GEQ: token.LSS,
	token.GTR: token.LEQ, token.LEQ: token.GTR,
}

// condition negates a condition that has no terms. One that has terms loses them one by one, in binary.
func (f *goFile) condition(cond ast.Expr) {
	start, end := f.span(cond)
	shown := "!" + f.text(cond)
	switch c := ast.Unparen(cond).(type) {
	case *ast.BinaryExpr:
		op, ok := opposite[c.Op]
		if !ok {
			return
		}
		shown = f.text(c.X) + " " + op.String() + " " + f.text(c.Y)
	case *ast.UnaryExpr:
		if c.Op == token.NOT {
			shown = f.text(c.X)
		}
	}
	f.add("condition negated", cond.Pos(), edit{start, end, "!(" + f.text(cond) + ")"}, edit{start, end, shown},
		cond, verbatim("ON != ("), f.kept(cond), verbatim(")"))
}

func (f *goFile) never(cond ast.Expr) {
	start, end := f.span(cond)
	f.add("branch never taken", cond.Pos(), edit{start, end, "false && (" + f.text(cond) + ")"}, edit{start, end, "false"},
		cond, verbatim("!ON && ("), f.kept(cond), verbatim(")"))
}

// deferred tells whether the innermost function is a literal that is deferred.
func deferred(stack []ast.Node) bool {
	n := len(stack)
	if n < 3 {
		return false
	}
	_, literal := stack[n-1].(*ast.FuncLit)
	_, deferred := stack[n-3].(*ast.DeferStmt)
	return literal && deferred
}

// cases removes the cases of a switch, and the values of cases that have several.
func (f *goFile) cases(body *ast.BlockStmt, conditions bool) {
	for _, s := range body.List {
		c, ok := s.(*ast.CaseClause)
		if !ok {
			continue
		}
		for i, value := range c.List {
			switch {
			case conditions:
				f.never(value)
			case len(c.List) > 1:
				start, end := f.without(i, len(c.List), func(i int) ast.Node { return c.List[i] })
				f.add("value of a case removed", value.Pos(), edit{start, end, ""}, edit{start, end, ""}, value)
			}
		}
		if !conditions && c.List != nil {
			f.replace("case removed", c, "")
		}
	}
}

// without returns the bytes of one of several items, with its separator.
func (f *goFile) without(i, n int, item func(int) ast.Node) (start, end int) {
	if i == 0 && n > 1 {
		return f.offset(item(0).Pos()), f.offset(item(1).Pos())
	}
	return f.offset(item(i - 1).End()), f.offset(item(i).End())
}

var boundaries = map[token.Token]string{token.LSS: "<=", token.LEQ: "<", token.GTR: ">=", token.GEQ: ">"}

func (f *goFile) binary(e *ast.BinaryExpr, stack []ast.Node) {
	if op, ok := boundaries[e.Op]; ok {
		start := f.offset(e.OpPos)
		change := edit{start, start + len(e.Op.String()), op}
		f.add("boundary moved", e.OpPos, change, change, e,
			verbatim("(ON && ("), f.kept(e.X), verbatim(" "+op+" "), f.kept(e.Y),
			verbatim(") || !ON && ("), f.kept(e.X), verbatim(" "+e.Op.String()+" "), f.kept(e.Y), verbatim("))"))
		return
	}
	if e.Op != token.LAND && e.Op != token.LOR {
		return
	}
	if len(stack) > 0 {
		if above, ok := stack[len(stack)-1].(*ast.BinaryExpr); ok && above.Op == e.Op && above.X == ast.Expr(e) {
			return // a part of a longer chain
		}
	}
	operands := chain(e, e.Op)
	for i, operand := range operands {
		built, instead := "(true || (", "(ON || ("
		if e.Op == token.LOR {
			built, instead = "(false && (", "(!ON && ("
		}
		start, end := f.span(operand)
		from, to := f.without(i, len(operands), func(i int) ast.Node { return operands[i] })
		f.add("term removed", operand.Pos(), edit{start, end, built + f.text(operand) + "))"}, edit{from, to, ""},
			operand, verbatim(instead), f.kept(operand), verbatim("))"))
	}
}

func chain(e ast.Expr, op token.Token) []ast.Expr {
	if b, ok := e.(*ast.BinaryExpr); ok && b.Op == op {
		return append(chain(b.X, op), b.Y)
	}
	return []ast.Expr{e}
}

// extreme drops one argument of min and max.
func (f *goFile) extreme(call *ast.CallExpr) {
	if id, ok := call.Fun.(*ast.Ident); !ok || id.Name != "min" && id.Name != "max" || len(call.Args) != 2 {
		return
	}
	for _, arg := range call.Args {
		start, end := f.span(call)
		change := edit{start, end, f.text(arg)}
		f.add("bound removed", call.Pos(), change, change,
			call, verbatim("mutatePick(ON, "), f.kept(call), verbatim(", "), f.kept(arg), verbatim(")"))
	}
}

// statements removes statements one by one. A declaration stays, because what follows needs it.
func (f *goFile) statements(list []ast.Stmt) {
	for i, s := range list {
		switch s := s.(type) {
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok && (logs(call) || isPanic(call)) {
				continue
			}
		case *ast.AssignStmt:
			if _, called := s.Rhs[0].(*ast.CallExpr); s.Tok == token.DEFINE || !called && isBlank(s.Lhs[0]) {
				continue
			}
		case *ast.BranchStmt:
			if s.Tok != token.BREAK && s.Tok != token.CONTINUE {
				continue
			}
		case *ast.ReturnStmt:
			if len(s.Results) > 0 || i == 0 && len(list) == 1 {
				continue // "branch never taken" has removed the second kind already
			}
		case *ast.IncDecStmt, *ast.SendStmt, *ast.DeferStmt:
		default:
			continue
		}
		start, end := f.span(s)
		f.add("statement removed", s.Pos(), edit{start, end, "if false { " + f.text(s) + " }"}, edit{start, end, ""},
			s, verbatim("if !ON { "), f.kept(s), verbatim(" }"))
	}
}

// logs tells whether a call writes a log message: slog.Info, d.cfg.Logger.Warn.
func logs(call *ast.CallExpr) bool {
	for e := call.Fun; ; {
		switch x := e.(type) {
		case *ast.SelectorExpr:
			switch strings.ToLower(x.Sel.Name) {
			case "log", "logger":
				return true
			}
			e = x.X
		case *ast.CallExpr:
			e = x.Fun
		case *ast.Ident:
			switch strings.ToLower(x.Name) {
			case "log", "logger", "slog":
				return true
			}
			return false
		default:
			return false
		}
	}
}

func isPanic(call *ast.CallExpr) bool {
	id, ok := call.Fun.(*ast.Ident)
	return ok && id.Name == "panic"
}

func isBlank(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "_"
}

// returned drops the error that is returned, and negates conditions that are returned.
func (f *goFile) returned(r *ast.ReturnStmt, stack []ast.Node) {
	types := resultTypes(stack)
	if len(r.Results) == 0 || len(r.Results) != len(types) {
		return
	}
	for i, e := range r.Results {
		if id, ok := types[i].(*ast.Ident); ok && id.Name == "bool" {
			if lit, ok := e.(*ast.Ident); ok && (lit.Name == "true" || lit.Name == "false") && len(types) > 1 {
				continue // beside an error nobody looks at it
			}
			f.condition(e)
		}
	}
	last := r.Results[len(r.Results)-1]
	if id, ok := types[len(types)-1].(*ast.Ident); !ok || id.Name != "error" || isNil(last) {
		return
	}
	start, end := f.span(last)
	f.add("error not returned", last.Pos(), edit{start, end, "map[bool]error{false: " + f.text(last) + "}[true]"}, edit{start, end, "nil"},
		last, verbatim("mutatePick(ON, error("), f.kept(last), verbatim("), nil)"))
}

func isNil(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == "nil"
}

// resultTypes returns the types of the results of the innermost function, one for each result.
func resultTypes(stack []ast.Node) []ast.Expr {
	for i := len(stack) - 1; i >= 0; i-- {
		var t *ast.FuncType
		switch fn := stack[i].(type) {
		case *ast.FuncDecl:
			t = fn.Type
		case *ast.FuncLit:
			t = fn.Type
		default:
			continue
		}
		var types []ast.Expr
		if t.Results != nil {
			for _, field := range t.Results.List {
				for range max(1, len(field.Names)) {
					types = append(types, field.Type)
				}
			}
		}
		return types
	}
	return nil
}
