package outbox_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/outboxmail/outbox"
	"github.com/outboxmail/outbox/internal/pgschema"
	"github.com/outboxmail/outbox/schema"
)

// Every call works on the tables of the schema that the configuration names, whatever the search path of the session, and on no
// others. The name is one that must be quoted.
func TestSchema(t *testing.T) {
	const name, quoted = `My "mail" $1%s`, `"My ""mail"" $1%s"`
	onEngines(t, func(t *testing.T, d *database) {
		o, err := outbox.New(outbox.Config{Schema: name})
		if err != nil {
			t.Fatal(err)
		}
		calls := map[string]func(tx outbox.Tx) error{
			"Enqueue": func(tx outbox.Tx) error { _, err := o.Enqueue(t.Context(), tx, message("")); return err },
			"EnqueueMany": func(tx outbox.Tx) error {
				_, err := o.EnqueueMany(t.Context(), tx, []*outbox.Message{message("")})
				return err
			},
			"Cancel": func(tx outbox.Tx) error { _, err := o.Cancel(t.Context(), tx, someID); return err },
		}
		for verb, call := range calls { // the schema is not there
			tx := d.begin(t)
			err := call(tx.Tx)
			if d.dialect == schema.SQLite {
				if err == nil || errors.Is(err, outbox.ErrNotMigrated) || !strings.Contains(err.Error(), "SQLite has no schemas: leave Config.Schema empty") {
					t.Errorf("%s on SQLite: %v", verb, err)
				}
			} else if !errors.Is(err, outbox.ErrNotMigrated) || !strings.Contains(err.Error(), `My \"mail\" $1%s`) {
				t.Errorf("%s without the schema: %v", verb, err)
			}
			if err := tx.rollback(); err != nil {
				t.Fatal(err)
			}
		}
		if d.dialect == schema.SQLite {
			return
		}
		if err := schema.Migrate(t.Context(), d.db, d.dialect, schema.In(name)); err != nil {
			t.Fatal(err)
		}
		var first outbox.Receipt
		d.within(t, func(tx outbox.Tx) {
			if first, err = o.Enqueue(t.Context(), tx, message("a")); err != nil {
				t.Fatal(err)
			}
			many, err := o.EnqueueMany(t.Context(), tx, []*outbox.Message{message("b"), message("a"), message("")})
			if err != nil || many[0].Duplicate || !many[1].Duplicate || many[1].ID != first.ID || many[2].Duplicate {
				t.Errorf("EnqueueMany returns %+v, %v", many, err)
			}
		})
		d.within(t, func(tx outbox.Tx) {
			result, err := o.Cancel(t.Context(), tx, first.ID)
			if err != nil || !result.Found || result.Cancelled != 1 || result.States[outbox.StateCancelled] != 1 {
				t.Errorf("Cancel returns %+v, %v", result, err)
			}
			// The functions of the package work where the search path leads.
			if result, err := outbox.Cancel(t.Context(), tx, first.ID); err != nil || result.Found {
				t.Errorf("Cancel where the search path leads returns %+v, %v", result, err)
			}
		})
		if n, other := d.count(t, "SELECT count(*) FROM "+quoted+".outbox_deliveries"), d.count(t, "SELECT count(*) FROM outbox_deliveries"); n != 3 || other != 0 {
			t.Errorf("%d deliveries in the schema and %d where the search path leads, want 3 and 0", n, other)
		}
	})
}

const someID = outbox.ID("01980a5c-7d1f-7cc3-9b3e-3f1d8a6f2b11")

// The packages agree about the names that a schema can have.
func TestSchemaNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mail", odd, "日本", "a b", "--", strings.Repeat("x", 63), strings.Repeat("x", 64), "a\nb", "a\x00b", "\xff", "pg_mail",
		"information_schema", "pgmail"} {
		_, err := outbox.New(outbox.Config{Schema: name})
		if other := pgschema.Check(name); (err == nil) != (other == nil) {
			t.Errorf("%q: package outbox says %v, the others %v", name, err, other)
		}
		var invalid outbox.InvalidError
		if err != nil && (!errors.As(err, &invalid) || invalid.Field != "Schema") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

const odd = `"; DROP TABLE outbox_messages; --`
