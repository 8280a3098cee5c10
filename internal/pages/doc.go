// Package pages holds the tests of the pages: README.md, docs and every other Markdown file. They compile each block of Go, run
// each block of commands, and follow each link within the repository.
//
// A block is tested unless a comment above it says why not. The comment is invisible on the rendered page:
//
//	<!-- not compiled: the dots stand for settings of your own -->
//	<!-- not run: it never ends -->
//	<!-- not run "go install": it needs the network -->
//
// The last one leaves out the commands that begin with the quoted words and runs the others.
//
// Go. A block is a whole file, declarations, or statements. Imports may be left out: they are added by the names of the packages.
// The declarations of a page are one package, which its statements see, too. Statements stand in a function without parameters
// that returns an error. Give another one in a comment above the block:
//
//	<!-- in func(ctx context.Context, tx *sql.Tx) error -->
//
// A block that needs a module of examples/integrations is compiled there.
//
// Commands. A block of sh runs in bash and stops at the first command that fails. It finds outboxctl, built from this tree, and an
// SQLite database with a few messages in OUTBOX_DB. It runs in an empty folder, or in the repository if it names files of it
// ("./", "go", "make"). A postgres:// URL becomes that of an empty database with the tables of outbox, and the URL of an SMTP relay
// becomes that of a test server.
package pages
