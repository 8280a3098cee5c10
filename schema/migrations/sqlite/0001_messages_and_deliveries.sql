-- +goose Up

-- Every time in these tables is fixed-width UTC text, 2026-01-31T09:05:00.000Z: it sorts, and people can read it. A time is sound when
-- SQLite writes it as it was written. A later text than '1970' is a later time.
-- The clock of the database, in one place and under one name on every dialect.
CREATE VIEW outbox_clock AS SELECT strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AS now;

-- Messages are inserted once. Only the scrubbing and the encryption of a body change them later.
CREATE TABLE outbox_messages (
  id              TEXT    NOT NULL PRIMARY KEY                            -- UUIDv7 in lower case, made by the client
                          CHECK (length(CAST(id AS BLOB)) = 36 AND id NOT GLOB '*[^0-9a-f-]*' AND id GLOB '????????-????-????-????-????????????'
                                 AND length(replace(id, '-', '')) = 32),
  message_id      TEXT    NOT NULL,                                       -- RFC 5322, fixed here, brackets included
  idempotency_key TEXT    CHECK (idempotency_key <> ''),                   -- NULL for none
  route           TEXT    NOT NULL DEFAULT 'default' CHECK (route <> ''),
  priority        TEXT    NOT NULL DEFAULT 'normal' CHECK (priority IN ('high', 'normal', 'bulk')),
  sender          TEXT    NOT NULL,                                       -- envelope; '' is the null return path
  recipients      TEXT    NOT NULL CHECK (json_valid(recipients) AND json_type(recipients) = 'array' AND json_array_length(recipients) > 0),
  subject         TEXT    NOT NULL DEFAULT '',
  size            INTEGER NOT NULL CHECK (size BETWEEN 1 AND 2147483647), -- bytes of the rendered message
  not_before      TEXT    CHECK (not_before >= '1970' AND not_before IS strftime('%Y-%m-%dT%H:%M:%fZ', not_before)),
  expires_at      TEXT    CHECK (expires_at >= '1970' AND expires_at IS strftime('%Y-%m-%dT%H:%M:%fZ', expires_at)),
  on_uncertain    TEXT    NOT NULL DEFAULT 'resend' CHECK (on_uncertain IN ('resend', 'hold')),
  tags            TEXT    CHECK (tags IS NULL OR json_valid(tags) AND json_type(tags) = 'array'), -- of strings
  metadata        TEXT    CHECK (metadata IS NULL OR json_valid(metadata) AND json_type(metadata) = 'object'), -- of strings
  trace_parent    TEXT,
  created_at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
                          CHECK (created_at >= '1970' AND created_at IS strftime('%Y-%m-%dT%H:%M:%fZ', created_at)),
  body_key_id     TEXT,                                                   -- names the key when the body is encrypted
  body            BLOB                                                    -- rendered MIME; NULL once scrubbed
) STRICT;

-- A key is unique among the messages that have one. Most have none and need no entry: an insert without a key must not name the index
-- in its ON CONFLICT.
CREATE UNIQUE INDEX outbox_messages_key ON outbox_messages (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A Message-ID that this library made contains the id, so only the others need an index.
CREATE INDEX outbox_messages_foreign_message_id ON outbox_messages (message_id) WHERE instr(message_id, id) = 0;

-- Deliveries move. One row for each recipient, narrow, because every state change rewrites it.
CREATE TABLE outbox_deliveries (
  message_id     TEXT    NOT NULL,                                        -- outbox_messages.id
  seq            INTEGER NOT NULL CHECK (seq > 0),                        -- place among the recipients, from 1
  recipient      TEXT    NOT NULL CHECK (length(CAST(recipient AS BLOB)) BETWEEN 1 AND 1000),
  route          TEXT    NOT NULL,
  priority       TEXT    NOT NULL,
  state          TEXT    NOT NULL DEFAULT 'queued' CHECK (state IN
                   ('queued', 'sending', 'uncertain', 'held', 'sent', 'failed', 'expired', 'cancelled', 'suppressed')),
  due_at         TEXT    NOT NULL CHECK (due_at IS strftime('%Y-%m-%dT%H:%M:%fZ', due_at)),
  expires_at     TEXT    CHECK (expires_at IS strftime('%Y-%m-%dT%H:%M:%fZ', expires_at)),
  attempts       INTEGER NOT NULL DEFAULT 0 CHECK (attempts BETWEEN 0 AND 2147483647),
  lapses         INTEGER NOT NULL DEFAULT 0 CHECK (lapses BETWEEN 0 AND 2147483647), -- leases that lapsed since the last outcome
  deferred_since TEXT    CHECK (deferred_since IS strftime('%Y-%m-%dT%H:%M:%fZ', deferred_since)), -- start of an outage or throttling
  lease_token    TEXT,                                                    -- outbox_claims.token
  doubt_token    TEXT,                                                    -- of the lapsed lease: its holder may still know
  class          TEXT,                                                    -- last outcome, until the next
  code           INTEGER,
  enhanced       TEXT,
  reply          TEXT,
  relay          TEXT,
  provider_id    TEXT,
  finished_at    TEXT    CHECK (finished_at IS strftime('%Y-%m-%dT%H:%M:%fZ', finished_at)),
  PRIMARY KEY (message_id, seq),
  CHECK ((state = 'sending') = (lease_token IS NOT NULL)),
  CHECK (doubt_token IS NULL OR state = 'uncertain'),
  CHECK ((finished_at IS NOT NULL) = (state IN ('sent', 'failed', 'expired', 'cancelled', 'suppressed')))
) STRICT, WITHOUT ROWID;

-- One for each question: what is due on a (route, priority), what a claim holds, what is in doubt, held, finished, about to expire.
CREATE INDEX outbox_deliveries_due       ON outbox_deliveries (route, priority, due_at, message_id, seq) WHERE state = 'queued';
CREATE INDEX outbox_deliveries_suspect   ON outbox_deliveries (route, priority, due_at, message_id, seq) WHERE state = 'queued' AND lapses >= 2;
CREATE INDEX outbox_deliveries_leased    ON outbox_deliveries (lease_token, message_id, seq) WHERE state = 'sending';
CREATE INDEX outbox_deliveries_uncertain ON outbox_deliveries (message_id, seq) WHERE state = 'uncertain';
CREATE INDEX outbox_deliveries_held      ON outbox_deliveries (message_id, seq) WHERE state = 'held';
CREATE INDEX outbox_deliveries_finished  ON outbox_deliveries (state, finished_at, message_id, seq) WHERE finished_at IS NOT NULL;
CREATE INDEX outbox_deliveries_expiring  ON outbox_deliveries (expires_at, message_id, seq) WHERE expires_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_deliveries_provider  ON outbox_deliveries (provider_id) WHERE provider_id IS NOT NULL;

-- One row for each claim, which may hold hundreds of deliveries. It lives as long as one of them is leased. Renewing changes this row only.
CREATE TABLE outbox_claims (
  token       TEXT    NOT NULL PRIMARY KEY,                               -- new at every claim
  owner       TEXT    NOT NULL,                                           -- outbox_dispatchers.id
  relay       TEXT,                                                       -- that it was claimed for
  fenced      INTEGER NOT NULL CHECK (fenced IN (0, 1)),                  -- whether each delivery is fenced before it is sent
  alone       INTEGER NOT NULL DEFAULT 0 CHECK (alone IN (0, 1)),         -- it holds one message, whose leases lapsed time and again
  excused     INTEGER NOT NULL DEFAULT 0 CHECK (excused IN (0, 1)),       -- a claim like that lapsed beside it: that message is to blame
  lapsed      INTEGER NOT NULL DEFAULT 0 CHECK (lapsed IN (0, 1)),        -- taken back by the reaper, which nothing undoes
  lease_until TEXT    NOT NULL CHECK (lease_until IS strftime('%Y-%m-%dT%H:%M:%fZ', lease_until))
) STRICT, WITHOUT ROWID;

-- The deliveries whose final dot may have left, one row for each batch. Rows are only added, and only while the lease of their claim
-- holds. They go with their claim.
CREATE TABLE outbox_fences (
  id        INTEGER PRIMARY KEY,                                          -- in the order in which they were added
  token     TEXT    NOT NULL,                                             -- outbox_claims.token
  fenced_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  relay     TEXT,                                                         -- that gets the messages next
  refs      TEXT    NOT NULL CHECK (json_type(refs) = 'array')            -- of objects with id and seq
) STRICT;
CREATE INDEX outbox_fences_token ON outbox_fences (token);

-- Takes the place of a foreign key, which SQLite checks only where the application asks for it.
-- +goose StatementBegin
CREATE TRIGGER outbox_forget_fences AFTER DELETE ON outbox_claims
BEGIN
  DELETE FROM outbox_fences WHERE token = OLD.token;
END;
-- +goose StatementEnd

-- A CHECK cannot look into a list.
-- +goose StatementBegin
CREATE TRIGGER outbox_check_lists AFTER INSERT ON outbox_messages
BEGIN
  SELECT RAISE(ABORT, 'outbox: each recipient must be a string of 1 to 1000 bytes')
  WHERE EXISTS (SELECT 1 FROM json_each(NEW.recipients) WHERE type <> 'text');
  SELECT RAISE(ABORT, 'outbox: tags must be an array of strings')
  WHERE NEW.tags IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(NEW.tags) WHERE type <> 'text');
  SELECT RAISE(ABORT, 'outbox: metadata must be an object of strings')
  WHERE NEW.metadata IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(NEW.metadata) WHERE type <> 'text');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER outbox_expand_recipients AFTER INSERT ON outbox_messages
WHEN NEW.created_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
BEGIN
  INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, due_at, expires_at)
  SELECT NEW.id, r.key + 1, r.value, NEW.route, NEW.priority,
         coalesce(NEW.not_before, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), NEW.expires_at
  FROM json_each(NEW.recipients) AS r;
END;
-- +goose StatementEnd

-- A row that brings a time of its own is a copy of one that was stored before, and nobody can tell here what became of that. It is
-- held until somebody says so, unless its deliveries were copied before it. The time stands still within a statement.
-- +goose StatementBegin
CREATE TRIGGER outbox_hold_copies AFTER INSERT ON outbox_messages
WHEN NEW.created_at <> strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
BEGIN
  INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, due_at, expires_at, state, reply)
  SELECT NEW.id, r.key + 1, r.value, NEW.route, NEW.priority,
         coalesce(NEW.not_before, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), NEW.expires_at, 'held',
         'the row was inserted with a created_at of its own, as a copy is: release it if it was never sent, else cancel it'
  FROM json_each(NEW.recipients) AS r WHERE true
  ON CONFLICT (message_id, seq) DO NOTHING;
END;
-- +goose StatementEnd

-- Takes the place of a foreign key, which SQLite checks only where the application asks for it.
-- +goose StatementBegin
CREATE TRIGGER outbox_forget_message AFTER DELETE ON outbox_messages
BEGIN
  DELETE FROM outbox_deliveries WHERE message_id = OLD.id;
  DELETE FROM outbox_attempts WHERE message_id = OLD.id;
  DELETE FROM outbox_feedback WHERE message_id = OLD.id;
END;
-- +goose StatementEnd

-- One row for every attempt that did not simply succeed.
CREATE TABLE outbox_attempts (
  id          INTEGER PRIMARY KEY,
  noted_at    TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  message_id  TEXT    NOT NULL,                                           -- outbox_messages.id
  seq         INTEGER NOT NULL,
  attempt     INTEGER NOT NULL,
  verb        TEXT    NOT NULL,
  started_at  TEXT    NOT NULL,
  duration_ms INTEGER NOT NULL,
  owner       TEXT    NOT NULL,
  relay       TEXT,
  stage       TEXT,
  class       TEXT,
  code        INTEGER,
  enhanced    TEXT,
  reply       TEXT
) STRICT;
CREATE INDEX outbox_attempts_message ON outbox_attempts (message_id, seq, noted_at);

-- What providers reported after they had accepted a message: delivered, delayed, bounced or complained.
CREATE TABLE outbox_feedback (
  message_id  TEXT    NOT NULL,                                           -- outbox_messages.id
  seq         INTEGER NOT NULL,
  event_id    TEXT    NOT NULL,                                           -- the provider's, so that each is recorded once
  kind        TEXT    NOT NULL CHECK (kind IN ('delivered', 'delayed', 'bounced', 'complained')),
  at          TEXT    NOT NULL,
  code        INTEGER,
  enhanced    TEXT,
  detail      TEXT,
  recorded_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  PRIMARY KEY (message_id, seq, event_id)
) STRICT, WITHOUT ROWID;

-- Routes that an operator paused.
CREATE TABLE outbox_routes (
  route     TEXT NOT NULL PRIMARY KEY,
  paused_at TEXT NOT NULL,
  paused_by TEXT NOT NULL,
  reason    TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What the dispatchers of a database share about a relay.
CREATE TABLE outbox_relays (
  name         TEXT NOT NULL PRIMARY KEY,
  tokens       REAL NOT NULL DEFAULT 0,                                   -- of the shared rate
  refilled_at  TEXT NOT NULL,
  paused_at    TEXT,
  paused_until TEXT,
  paused_by    TEXT,                                                      -- operator; NULL for a dispatcher
  reason       TEXT,
  learnt       TEXT CHECK (json_type(learnt) = 'object'),                 -- limits seen at run time
  updated_at   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Heartbeats.
CREATE TABLE outbox_dispatchers (
  id         TEXT    NOT NULL PRIMARY KEY,
  host       TEXT    NOT NULL,
  pid        INTEGER NOT NULL,
  version    TEXT    NOT NULL,
  started_at TEXT    NOT NULL,
  seen_at    TEXT    NOT NULL,
  relays     TEXT    CHECK (json_type(relays) = 'object')                 -- health by relay
) STRICT, WITHOUT ROWID;

-- How far the janitor has come with each of its chores, so that it does not begin at the oldest row every time.
CREATE TABLE outbox_chores (
  name       TEXT NOT NULL PRIMARY KEY,
  done_until TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Addresses that get no mail, in lower case.
CREATE TABLE outbox_suppressions (
  address    TEXT NOT NULL PRIMARY KEY,
  reason     TEXT NOT NULL,
  source     TEXT NOT NULL,                                               -- operator, bounce, complaint, ...
  message_id TEXT,                                                        -- outbox_messages.id that led to it
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT, WITHOUT ROWID;

-- Audit of what operators did.
CREATE TABLE outbox_actions (
  id       INTEGER PRIMARY KEY,
  at       TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  actor    TEXT    NOT NULL,
  verb     TEXT    NOT NULL,
  filter   TEXT    CHECK (json_type(filter) = 'object'),
  reason   TEXT,
  affected INTEGER NOT NULL
) STRICT;
