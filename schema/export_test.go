package schema

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
)

// MigrateFurther is Migrate in a program that has one step more.
func MigrateFurther(ctx context.Context, db *sql.DB, d Dialect, statements string, opts ...Option) error {
	steps, err := Migrations(d)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(statements))
	steps = append(steps, Migration{Version: len(steps) + 1, Name: "further", SQL: statements, Checksum: hex.EncodeToString(sum[:])})
	return migrate(ctx, db, d, steps, opts...)
}
