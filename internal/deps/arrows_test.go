package deps

// arrow says which of our packages the packages that match from may import. The first arrow that matches a package counts.
//
// A pattern is a path below the module, "." for its root. With /... it matches every package below it, too. Each pattern in may must be
// used by an import, so that an arrow never allows more than is needed.
type arrow struct {
	from string
	may  []string
	// planned marks an arrow for packages that do not exist yet. Nothing of it has to be used. The mark goes when the first of them
	// exists.
	planned bool
}

var arrows = []arrow{
	{from: "queue", may: nil},
	{from: "keyring", may: []string{"internal/textfile"}},
	{from: "dkim", may: []string{"internal/textfile"}},
	{from: "smtpx", may: nil},
	{from: "smtpx/smtptest", may: nil},
	{from: ".", may: []string{"queue", "keyring", "internal/letter", "internal/pgschema", "internal/sqlstate"}},
	{from: "templates", may: []string{".", "internal/letter", "internal/textfile"}},
	{from: "schema", may: []string{"internal/pgschema", "internal/sqlstate"}},
	{from: "store", may: []string{".", "queue", "keyring", "schema", "internal/letter", "internal/pgschema", "internal/sqlstate", "internal/textfile"}},
	{from: "store/sqlite", may: []string{"queue"}},
	{from: "store/postgres", may: []string{"internal/pgschema", "internal/sqlstate"}},
	{from: "store/storetest", may: []string{".", "queue", "schema", "store", "internal/pgschema"}},
	{from: "dispatcher", may: []string{".", "queue", "keyring", "smtpx"}},
	{from: "outboxtest", may: []string{".", "keyring", "smtpx", "smtpx/smtptest", "dispatcher", "internal/pgschema"}},

	{from: "doctor", may: []string{"smtpx"}},
	{from: "telemetry/...", planned: true, may: []string{".", "queue", "smtpx", "dispatcher", "telemetry/..."}},
	{from: "logalert", planned: true, may: []string{".", "queue", "smtpx", "store", "dispatcher"}},
	{from: "evidence", planned: true, may: []string{".", "queue", "store"}},
	{from: "ui", planned: true, may: []string{".", "queue", "store", "dispatcher", "doctor"}},

	// The leaves. Only a program among them uses another.
	{from: "internal/pgtest/cmd/...", may: []string{"internal/pgtest"}},
	{from: "internal/letter", may: []string{"internal/textfile"}},
	{from: "internal/...", may: nil},
	{from: "docs/model", may: nil},

	// The programs. What tests need is none of their business: no outboxtest, no storetest, no internal/pgtest.
	{from: "cmd/outboxctl/...", may: []string{
		"cmd/outboxctl/...", ".", "queue", "keyring", "schema", "store", "store/sqlite", "store/postgres", "dispatcher", "smtpx",
		"doctor", "internal/letter", "internal/pgschema", "internal/textfile",
	}},
	{from: "examples/...", may: []string{
		".", "queue", "keyring", "templates", "schema", "store", "store/sqlite", "store/postgres", "dispatcher", "smtpx",
		"smtpx/smtptest", // quickstart starts a demo relay
	}},
}
