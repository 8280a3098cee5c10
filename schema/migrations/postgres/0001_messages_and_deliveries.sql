-- +goose Up

-- The clock of the database, in one place and under one name on every dialect. It does not stand still in a transaction.
CREATE VIEW outbox_clock AS SELECT clock_timestamp() AS now;

-- Refuses a message that nobody could read or send. It stands in expressions, so that a check needs no statement of its own.
-- +goose StatementBegin
CREATE FUNCTION outbox_refuse(id uuid, reason text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RAISE check_violation USING MESSAGE = 'outbox: ' || coalesce('message ' || id || ': ', '') || reason;
END
$$;
-- +goose StatementEnd

-- Messages are inserted once. Only the scrubbing and the encryption of a body change them later. What a row may hold is checked where
-- it is expanded into deliveries, below.
CREATE TABLE outbox_messages (
  id              uuid        NOT NULL PRIMARY KEY,                       -- UUIDv7, made by the client
  message_id      text        NOT NULL,                                   -- RFC 5322, fixed here, brackets included
  idempotency_key text,                                                   -- NULL for none
  route           text        NOT NULL DEFAULT 'default',
  priority        text        NOT NULL DEFAULT 'normal',                  -- high, normal or bulk
  sender          text        NOT NULL,                                   -- envelope; '' is the null return path
  recipients      jsonb       NOT NULL,                                   -- array of addresses
  subject         text        NOT NULL DEFAULT '',
  size            bigint      NOT NULL,                                   -- bytes of the rendered message
  not_before      timestamptz,
  expires_at      timestamptz,
  on_uncertain    text        NOT NULL DEFAULT 'resend',                  -- or hold
  tags            jsonb,                                                  -- array
  metadata        jsonb,                                                  -- object
  trace_parent    text,
  created_at      timestamptz NOT NULL DEFAULT                            -- an insert without triggers would have no delivery
                  CASE current_setting('session_replication_role') WHEN 'replica'
                  THEN outbox_refuse(NULL, 'triggers are off in this session (session_replication_role)')::timestamptz ELSE now() END,
  body_key_id     text,                                                   -- names the key when the body is encrypted
  body            bytea                                                   -- rendered MIME; NULL once scrubbed
);

-- A key is unique among the messages that have one. Most have none and need no entry: an insert without a key must not name the index
-- in its ON CONFLICT.
CREATE UNIQUE INDEX outbox_messages_key ON outbox_messages (idempotency_key) WHERE idempotency_key IS NOT NULL;

-- A Message-ID that this library made contains the id, so only the others need an index.
CREATE INDEX outbox_messages_foreign_message_id ON outbox_messages (message_id) WHERE strpos(message_id, id::text) = 0;

-- Deliveries move. One row for each recipient, narrow, because every state change rewrites it. Vacuum comes early and works without
-- pauses, because claims walk dead rows.
CREATE TABLE outbox_deliveries (
  message_id     uuid        NOT NULL,                                    -- outbox_messages.id
  seq            integer     NOT NULL,                                    -- place among the recipients, from 1
  recipient      text        NOT NULL,
  route          text        NOT NULL,
  priority       text        NOT NULL,
  state          text        NOT NULL DEFAULT 'queued',
  due_at         timestamptz NOT NULL,
  expires_at     timestamptz,
  attempts       integer     NOT NULL DEFAULT 0,
  lapses         integer     NOT NULL DEFAULT 0,                          -- leases that lapsed since the last outcome
  deferred_since timestamptz,                                             -- start of an outage or throttling
  lease_token    uuid,                                                    -- outbox_claims.token
  doubt_token    uuid,                                                    -- of the lapsed lease: its holder may still know
  class          text,                                                    -- last outcome, until the next
  code           integer,
  enhanced       text,
  reply          text,
  relay          text,
  provider_id    text,
  finished_at    timestamptz,
  PRIMARY KEY (message_id, seq),
  -- The states of the state machine and what goes with each. One short constraint, because PostgreSQL reads and plans it anew for
  -- every statement that inserts or updates.
  CONSTRAINT outbox_deliveries_sound CHECK (
    CASE WHEN finished_at IS NOT NULL THEN state IN ('sent', 'failed', 'expired', 'cancelled', 'suppressed')
         ELSE state IN ('queued', 'sending', 'uncertain', 'held') END
    AND (lease_token IS NOT NULL) = (state = 'sending') AND (doubt_token IS NULL OR state = 'uncertain')
    AND seq > 0 AND recipient <> '' AND attempts >= 0 AND lapses BETWEEN 0 AND 1000000)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- One for each question: what is due on a (route, priority), what a claim holds, what is in doubt or held, finished, about to expire.
CREATE INDEX outbox_deliveries_due       ON outbox_deliveries (route, priority, due_at, message_id, seq) WHERE state = 'queued';
CREATE INDEX outbox_deliveries_suspect   ON outbox_deliveries (route, priority, due_at, message_id, seq) WHERE state = 'queued' AND lapses >= 2;
CREATE INDEX outbox_deliveries_leased    ON outbox_deliveries (lease_token, message_id, seq) WHERE state = 'sending';
CREATE INDEX outbox_deliveries_open      ON outbox_deliveries (state, message_id, seq) WHERE state IN ('uncertain', 'held');
CREATE INDEX outbox_deliveries_finished  ON outbox_deliveries (state, finished_at, message_id, seq) WHERE finished_at IS NOT NULL;
CREATE INDEX outbox_deliveries_expiring  ON outbox_deliveries (expires_at, message_id, seq) WHERE expires_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_deliveries_provider  ON outbox_deliveries (provider_id) WHERE provider_id IS NOT NULL;

-- One row for each claim, which may hold hundreds of deliveries. It lives as long as one of them is leased. Renewing changes this row only.
CREATE TABLE outbox_claims (
  token       uuid        NOT NULL PRIMARY KEY,                           -- new at every claim
  owner       text        NOT NULL,                                       -- outbox_dispatchers.id
  relay       text,                                                       -- that it was claimed for
  fenced      boolean     NOT NULL,                                       -- whether each delivery is fenced before it is sent
  alone       boolean     NOT NULL DEFAULT FALSE,                         -- it holds one message, whose leases lapsed time and again
  excused     boolean     NOT NULL DEFAULT FALSE,                         -- a claim like that lapsed beside it: that message is to blame
  lapsed      boolean     NOT NULL DEFAULT FALSE,                         -- taken back by the reaper, which nothing undoes
  lease_until timestamptz NOT NULL                                        -- not indexed, so that a renewal is a HOT update
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- The deliveries whose final dot may have left, one row for each batch. Rows are only added, and only while the lease of their claim
-- holds. They go with their claim.
CREATE TABLE outbox_fences (
  token     uuid        NOT NULL,                                         -- outbox_claims.token
  fenced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  relay     text,                                                         -- that gets the messages next
  refs      jsonb       NOT NULL                                          -- array of objects with id and seq
) WITH (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX outbox_fences_token ON outbox_fences (token);

-- Takes the place of a foreign key. It sees the fences that were committed while the deletion waited.
-- +goose StatementBegin
CREATE FUNCTION outbox_forget_fences() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  DELETE FROM outbox_fences WHERE token = OLD.token;
  RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER outbox_forget_fences AFTER DELETE ON outbox_claims FOR EACH ROW EXECUTE FUNCTION outbox_forget_fences();

-- One delivery for each recipient, once for a statement. The first recipient of a message also checks the message: a CHECK would be
-- read and planned anew for every insert, and this plan is kept. A row that brings a time of its own is a copy of one that was stored
-- before, and nobody can tell here what became of that. It is held until somebody says so, unless its deliveries were copied before it.
-- The search path is pinned: the tables are found wherever the inserting session looks.
-- +goose StatementBegin
CREATE FUNCTION outbox_expand_recipients() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, due_at, expires_at, state, reply)
  SELECT f.id, r.place, CASE
      WHEN r.place IS NULL THEN outbox_refuse(f.id, 'recipients must be an array of at least one address')
      WHEN jsonb_typeof(r.address) <> 'string' OR octet_length(r.address #>> '{}') NOT BETWEEN 1 AND 1000
        THEN outbox_refuse(f.id, 'each recipient must be a string of 1 to 1000 bytes')
      WHEN r.place > 1 THEN r.address #>> '{}'
      WHEN f.route = '' THEN outbox_refuse(f.id, 'route must not be empty')
      WHEN f.priority NOT IN ('high', 'normal', 'bulk') THEN outbox_refuse(f.id, 'priority must be high, normal or bulk')
      WHEN f.on_uncertain NOT IN ('resend', 'hold') THEN outbox_refuse(f.id, 'on_uncertain must be resend or hold')
      WHEN f.size NOT BETWEEN 1 AND 2147483647 THEN outbox_refuse(f.id, 'size must be between 1 and 2147483647 bytes')
      WHEN f.idempotency_key = '' THEN outbox_refuse(f.id, 'idempotency_key must be NULL or not empty')
      WHEN f.tags IS NOT NULL AND (jsonb_typeof(f.tags) <> 'array' OR jsonb_path_exists(f.tags, 'strict $[*] ? (@.type() != "string")'))
        THEN outbox_refuse(f.id, 'tags must be an array of strings')
      WHEN f.metadata IS NOT NULL
        AND (jsonb_typeof(f.metadata) <> 'object' OR jsonb_path_exists(f.metadata, 'strict $.* ? (@.type() != "string")'))
        THEN outbox_refuse(f.id, 'metadata must be an object of strings')
      WHEN f.created_at NOT BETWEEN '1970-01-01Z' AND '9999-12-31 23:59:59.999999Z'
        OR f.not_before NOT BETWEEN '1970-01-01Z' AND '9999-12-31 23:59:59.999999Z'
        OR f.expires_at NOT BETWEEN '1970-01-01Z' AND '9999-12-31 23:59:59.999999Z'
        THEN outbox_refuse(f.id, 'created_at, not_before and expires_at must lie between the years 1970 and 9999')
      ELSE r.address #>> '{}' END,
    f.route, f.priority, coalesce(f.not_before, now()), f.expires_at,
    CASE WHEN f.created_at = now() THEN 'queued' ELSE 'held' END,
    CASE WHEN f.created_at <> now()
      THEN 'the row was inserted with a created_at of its own, as a copy is: release it if it was never sent, else cancel it' END
  FROM fresh f LEFT JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(f.recipients) WHEN 'array' THEN f.recipients END)
    WITH ORDINALITY AS r (address, place) ON TRUE
  ON CONFLICT (message_id, seq) DO NOTHING;
  RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER outbox_expand_recipients AFTER INSERT ON outbox_messages
  REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION outbox_expand_recipients();

-- Takes the place of a foreign key, which would be checked at every insert although the trigger cannot get it wrong.
-- +goose StatementBegin
CREATE FUNCTION outbox_forget_messages() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  DELETE FROM outbox_deliveries d USING gone WHERE d.message_id = gone.id;
  DELETE FROM outbox_attempts a USING gone WHERE a.message_id = gone.id;
  DELETE FROM outbox_feedback f USING gone WHERE f.message_id = gone.id;
  RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER outbox_forget_messages AFTER DELETE ON outbox_messages
  REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION outbox_forget_messages();

-- One row for every attempt that did not simply succeed. The ids come from no sequence: one that is behind after a switch-over to a
-- logical replica would keep outcomes from being recorded.
CREATE TABLE outbox_attempts (
  id          uuid        NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
  noted_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
  message_id  uuid        NOT NULL,                                       -- outbox_messages.id
  seq         integer     NOT NULL,
  attempt     integer     NOT NULL,
  verb        text        NOT NULL,
  started_at  timestamptz NOT NULL,
  duration_ms bigint      NOT NULL,
  owner       text        NOT NULL,
  relay       text,
  stage       text,
  class       text,
  code        integer,
  enhanced    text,
  reply       text
);
CREATE INDEX outbox_attempts_message ON outbox_attempts (message_id, seq, noted_at);

-- What providers reported after they had accepted a message: delivered, delayed, bounced or complained.
CREATE TABLE outbox_feedback (
  message_id  uuid        NOT NULL,                                       -- outbox_messages.id
  seq         integer     NOT NULL,
  event_id    text        NOT NULL,                                       -- the provider's, so that each is recorded once
  kind        text        NOT NULL CHECK (kind IN ('delivered', 'delayed', 'bounced', 'complained')),
  at          timestamptz NOT NULL,
  code        integer,
  enhanced    text,
  detail      text,
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (message_id, seq, event_id)
);

-- Routes that an operator paused.
CREATE TABLE outbox_routes (
  route     text        NOT NULL PRIMARY KEY,
  paused_at timestamptz NOT NULL,
  paused_by text        NOT NULL,
  reason    text        NOT NULL
);

-- What the dispatchers of a database share about a relay.
CREATE TABLE outbox_relays (
  name         text             NOT NULL PRIMARY KEY,
  tokens       double precision NOT NULL DEFAULT 0,                       -- of the shared rate
  refilled_at  timestamptz      NOT NULL,
  paused_at    timestamptz,
  paused_until timestamptz,
  paused_by    text,                                                      -- operator; NULL for a dispatcher
  reason       text,
  learnt       jsonb            CHECK (jsonb_typeof(learnt) = 'object'),  -- limits seen at run time
  updated_at   timestamptz      NOT NULL
);

-- Heartbeats.
CREATE TABLE outbox_dispatchers (
  id         text        NOT NULL PRIMARY KEY,
  host       text        NOT NULL,
  pid        integer     NOT NULL,
  version    text        NOT NULL,
  started_at timestamptz NOT NULL,
  seen_at    timestamptz NOT NULL,
  relays     jsonb       CHECK (jsonb_typeof(relays) = 'object')          -- health by relay
);

-- How far the janitor has come with each of its chores, so that it does not begin at the oldest row every time.
CREATE TABLE outbox_chores (
  name       text        NOT NULL PRIMARY KEY,
  done_until timestamptz NOT NULL
);

-- Addresses that get no mail, in lower case.
CREATE TABLE outbox_suppressions (
  address    text        NOT NULL PRIMARY KEY,
  reason     text        NOT NULL,
  source     text        NOT NULL,                                        -- operator, bounce, complaint, ...
  message_id uuid,                                                        -- outbox_messages.id that led to it
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Audit of what operators did.
CREATE TABLE outbox_actions (
  id       uuid        NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
  at       timestamptz NOT NULL DEFAULT now(),
  actor    text        NOT NULL,
  verb     text        NOT NULL,
  filter   jsonb       CHECK (jsonb_typeof(filter) = 'object'),
  reason   text,
  affected bigint      NOT NULL
);

-- What wakes dispatchers that listen. The trigger that calls it is made on request: a notification takes a lock of the whole
-- server at commit, which every transaction that enqueues would pay for. The payload is the schema, so that the notifications of a
-- transaction become one, and the dispatchers of several outboxes in a database know which is theirs.
-- +goose StatementBegin
CREATE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('outbox', TG_TABLE_SCHEMA);
  RETURN NULL;
END
$$;
-- +goose StatementEnd
