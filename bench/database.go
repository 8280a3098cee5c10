package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"

	_ "github.com/lib/pq" // the administrator's connection

	"github.com/outboxmail/outbox/internal/pgtest"
)

// server names a PostgreSQL server: that of OUTBOX_TEST_POSTGRES, or one of its own that writes through to the disk at each
// commit, as servers in production do.
func server(ctx context.Context) (dsn string, stop func(), err error) {
	if dsn := os.Getenv(pgtest.EnvServer); dsn != "" {
		return dsn, func() {}, nil
	}
	cluster, err := pgtest.Start(ctx, pgtest.Options{Durable: true})
	if err != nil {
		return "", nil, err
	}
	return cluster.DSN(), func() {
		if err := cluster.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}, nil
}

// database makes an empty database.
func (b *bench) database() (dsn string, drop func(), err error) {
	u, err := url.Parse(b.server)
	if err != nil {
		return "", nil, errors.New("the server is not named by a URL")
	}
	admin, err := sql.Open("postgres", b.server)
	if err != nil {
		return "", nil, err
	}
	b.databases++
	name := fmt.Sprintf("outbox_bench_%d_%d", os.Getpid(), b.databases)
	if _, err := admin.ExecContext(b.ctx, "CREATE DATABASE "+name); err != nil {
		return "", nil, errors.Join(err, admin.Close())
	}
	u.Path = "/" + name
	return u.String(), func() {
		_, err := admin.ExecContext(context.WithoutCancel(b.ctx), "DROP DATABASE "+name+" WITH (FORCE)")
		if err := errors.Join(err, admin.Close()); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}, nil
}
