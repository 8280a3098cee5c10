-- +goose Up

-- The clock of the database, in one place and under one name on every dialect. It does not stand still in a transaction.
CREATE VIEW outbox_clock AS SELECT clock_timestamp() AS now;

-- Messages are inserted once and never change, but for a body that is scrubbed.
CREATE TABLE outbox_messages (
  id              uuid        NOT NULL PRIMARY KEY,                       -- UUIDv7, made by the client
  message_id      text        NOT NULL,                                   -- RFC 5322, fixed here, brackets included
  idempotency_key text        UNIQUE,
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
  created_at      timestamptz NOT NULL DEFAULT now(),
  body_key_id     text,                                                   -- names the key when the body is encrypted
  body            bytea,                                                  -- rendered MIME; NULL once scrubbed
  -- One constraint and not one for each column, because each is prepared anew for every statement that inserts.
  CONSTRAINT outbox_messages_sound CHECK (
    route <> '' AND priority IN ('high', 'normal', 'bulk') AND size > 0 AND on_uncertain IN ('resend', 'hold')
    AND jsonb_typeof(recipients) = 'array' AND jsonb_array_length(recipients) > 0
    AND (tags IS NULL OR jsonb_typeof(tags) = 'array') AND (metadata IS NULL OR jsonb_typeof(metadata) = 'object'))
);

CREATE INDEX outbox_messages_message_id ON outbox_messages (message_id);

-- Deliveries move. One row for each recipient, narrow, because every state change rewrites it. Room on each page
-- (fillfactor) keeps renewals and the stage inside it; vacuum comes early and does not dawdle, for claims walk dead rows.
CREATE TABLE outbox_deliveries (
  message_id     uuid        NOT NULL,                                    -- outbox_messages.id
  seq            integer     NOT NULL,                                    -- place among the recipients, from 1
  recipient      text        NOT NULL,
  route          text        NOT NULL,
  priority       text        NOT NULL,
  state          text        NOT NULL DEFAULT 'queued',
  stage          smallint    NOT NULL DEFAULT 0,                          -- 1: the final dot may have left
  due_at         timestamptz NOT NULL,
  expires_at     timestamptz,
  attempts       integer     NOT NULL DEFAULT 0,
  deferred_since timestamptz,                                             -- start of an outage or throttling
  lease_token    uuid,
  lease_until    timestamptz,                                             -- not indexed, so that a renewal is a HOT update
  lease_owner    text,
  doubt_token    uuid,                                                    -- of the lapsed lease: its holder may still know
  class          text,                                                    -- last outcome, until the next
  code           integer,
  enhanced       text,
  reply          text,
  relay          text,
  provider_id    text,
  finished_at    timestamptz,
  PRIMARY KEY (message_id, seq),
  -- The states of the state machine and what goes with each; one constraint, as above.
  CONSTRAINT outbox_deliveries_sound CHECK (
    state IN ('queued', 'sending', 'uncertain', 'held', 'sent', 'failed', 'expired', 'cancelled', 'suppressed')
    AND (state = 'sending') = (lease_token IS NOT NULL)
    AND (lease_token IS NULL) = (lease_until IS NULL) AND (lease_token IS NULL) = (lease_owner IS NULL)
    AND (doubt_token IS NULL OR state = 'uncertain')
    AND stage IN (0, 1) AND (stage = 0 OR state = 'sending')
    AND (finished_at IS NOT NULL) = (state IN ('sent', 'failed', 'expired', 'cancelled', 'suppressed'))
    AND seq > 0 AND recipient <> '' AND attempts >= 0)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- One for each question: what is due on a (route, priority), what is leased, in doubt or held, finished, about to expire.
CREATE INDEX outbox_deliveries_due       ON outbox_deliveries (route, priority, due_at, message_id, seq) WHERE state = 'queued';
CREATE INDEX outbox_deliveries_open      ON outbox_deliveries (state, message_id, seq) WHERE state IN ('sending', 'uncertain', 'held');
CREATE INDEX outbox_deliveries_finished  ON outbox_deliveries (state, finished_at, message_id, seq) WHERE finished_at IS NOT NULL;
CREATE INDEX outbox_deliveries_expiring  ON outbox_deliveries (expires_at, message_id, seq) WHERE expires_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX outbox_deliveries_provider  ON outbox_deliveries (provider_id) WHERE provider_id IS NOT NULL;

-- A row that brings a time of its own is a copy of one that was stored before, and nobody can tell here what became of that. It is
-- held until somebody says so, unless its deliveries were copied before it.
-- The search path is pinned: the tables are found wherever the inserting session looks.
-- +goose StatementBegin
CREATE FUNCTION outbox_expand_recipients() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  IF NEW.created_at = now() THEN
    INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, due_at, expires_at)
    SELECT NEW.id, r.place, r.address, NEW.route, NEW.priority, coalesce(NEW.not_before, now()), NEW.expires_at
    FROM jsonb_array_elements_text(NEW.recipients) WITH ORDINALITY AS r (address, place);
  ELSE
    INSERT INTO outbox_deliveries (message_id, seq, recipient, route, priority, due_at, expires_at, state, reply)
    SELECT NEW.id, r.place, r.address, NEW.route, NEW.priority, coalesce(NEW.not_before, now()), NEW.expires_at, 'held',
           'the row was inserted with a created_at of its own, as a copy is: release it if it was never sent, else cancel it'
    FROM jsonb_array_elements_text(NEW.recipients) WITH ORDINALITY AS r (address, place)
    ON CONFLICT (message_id, seq) DO NOTHING;
  END IF;
  RETURN NULL;
END
$$;
-- +goose StatementEnd
CREATE TRIGGER outbox_expand_recipients AFTER INSERT ON outbox_messages
  FOR EACH ROW EXECUTE FUNCTION outbox_expand_recipients();

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

-- One row for every attempt that did not simply succeed.
CREATE TABLE outbox_attempts (
  id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
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
CREATE INDEX outbox_attempts_message ON outbox_attempts (message_id, seq, id);

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
  source     text        NOT NULL,                                        -- operator, bounce, complaint …
  message_id uuid,                                                        -- outbox_messages.id that led to it
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Audit of what operators did.
CREATE TABLE outbox_actions (
  id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
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
