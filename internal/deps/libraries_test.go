package deps

// library is a module of other people. Only the packages of ours that match importers import it, besides their tests. Each
// importer must use it.
type library struct {
	module    string
	importers []string
	// why says what it is for, and why we do not write it ourselves.
	why string
	// planned marks a library whose importers do not exist yet.
	planned bool
}

var libraries = []library{
	{
		module: "github.com/emersion/go-message", importers: []string{"internal/letter", "dispatcher", "outboxtest"},
		why: "MIME: it writes multiparts and reads messages of others",
	},
	{module: "github.com/google/uuid", importers: []string{".", "store", "store/storetest"}, why: "UUIDv7, until Go 1.27 has it"},
	{
		module: "golang.org/x/net", importers: []string{"internal/letter", "dkim", "smtpx", "outboxtest"},
		why: "IDNA for international domains; the tokenizer of HTML",
	},
	{module: "golang.org/x/crypto", importers: []string{"keyring"}, why: "XChaCha20-Poly1305, which the standard library lacks"},
	{module: "golang.org/x/sync", importers: []string{"store/sqlite", "dispatcher"}, why: "a weighted semaphore that obeys a context"},
	{module: "golang.org/x/term", importers: []string{"cmd/outboxctl/..."}, why: "the size of a terminal, and a question without echo"},
	{module: "github.com/cenkalti/backoff/v4", importers: []string{"dispatcher"}, why: "delays with jitter for a queue that does not answer"},
	{module: "github.com/xdg-go/stringprep", importers: []string{"smtpx"}, why: "SASLprep (RFC 4013) of user names and passwords"},
	{module: "github.com/jmoiron/sqlx", importers: []string{"store", "store/storetest"}, why: "rows into structs"},
	{module: "modernc.org/sqlite", importers: []string{"store/sqlite"}, why: "SQLite without a C compiler"},
	{module: "github.com/lib/pq", importers: []string{"store/postgres", "internal/pgtest"}, why: "PostgreSQL with LISTEN"},
	{module: "github.com/spf13/cobra", importers: []string{"cmd/outboxctl/..."}, why: "commands, flags, help and completion"},
	{module: "github.com/spf13/pflag", importers: []string{"cmd/outboxctl/..."}, why: "the flags of cobra"},
	{module: "github.com/cheggaaa/pb/v3", importers: []string{"cmd/outboxctl/..."}, why: "the progress of long commands"},
	{module: "github.com/lmittmann/tint", importers: []string{"cmd/outboxctl/..."}, why: "logs for people on a terminal"},
	{module: "github.com/mattn/go-runewidth", importers: []string{"cmd/outboxctl/..."}, why: "the width of wide characters in tables"},

	{module: "github.com/prometheus/client_golang", importers: []string{"telemetry/..."}, planned: true, why: "metrics"},
	{module: "go.opentelemetry.io/otel", importers: []string{"telemetry/..."}, planned: true, why: "traces"},
}

// testLibraries are modules that only tests import, of any package.
var testLibraries = map[string]string{
	"github.com/emersion/go-msgauth":  "a second opinion on DKIM signatures",
	"github.com/jackc/pgx/v5":         "a driver that applications use",
	"github.com/rogpeppe/go-internal": "scripts that run outboxctl",
	"go.uber.org/goleak":              "goroutines that are left",
	"pgregory.net/rapid":              "properties and state machines",
}

// rootLinks is everything that a program links by importing the root package, besides the standard library.
var rootLinks = []string{
	module,
	"golang.org/x",
	"github.com/emersion/go-message",
	"github.com/google/uuid",
}
