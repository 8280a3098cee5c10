package schema

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
)

// MigrateFurther is Migrate in a program that has one step more.
func MigrateFurther(ctx context.Context, db *sql.DB, d Dialect, statements string, opts ...Option) error {
	steps, err := further(d, statements)
	if err != nil {
		return err
	}
	return migrate(ctx, db, d, steps, opts...)
}

// SQLFurther is SQL in a program that has one step more.
func SQLFurther(d Dialect, statements string, opts ...Option) (string, error) {
	steps, err := further(d, statements)
	if err != nil {
		return "", err
	}
	return script(d, steps, opts)
}

func further(d Dialect, statements string) ([]Migration, error) {
	steps, err := Migrations(d)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(statements))
	return append(steps, Migration{
		Version: len(steps) + 1, Name: "further", SQL: statements, Checksum: hex.EncodeToString(sum[:]),
	}), nil
}
