-- Statements for PostgreSQL. Each states its guard; the number of rows that it changed is checked.
-- now() is the clock of the database: the start of the transaction, which here is the statement.
-- "seq BETWEEN 1 AND 2147483647" is true of every row. The planner takes a range for rare and expects one row or two, so it
-- looks deliveries up by their key, where its statistics (of a table that was never analysed, or that was empty when it
-- was) could have it read the whole table for a handful of rows.

-- name: due
-- What waits on each (route, priority). It walks from route to route over the index of what is queued, so that neither
-- the backlog nor anything finished costs anything. $1: the routes wanted as a JSON array, NULL for all.
WITH RECURSIVE seen (route) AS (
  SELECT min(route) FROM outbox_deliveries WHERE state = 'queued' AND $1::jsonb IS NULL
  UNION ALL
  SELECT (SELECT min(d.route) FROM outbox_deliveries d WHERE d.state = 'queued' AND d.route > seen.route)
  FROM seen WHERE seen.route IS NOT NULL
), wanted (route) AS (
  SELECT route FROM seen WHERE route IS NOT NULL
  UNION ALL
  SELECT jsonb_array_elements_text($1::jsonb)
), ranges AS (
  SELECT w.route, p.priority, p.place,
         (SELECT d.due_at FROM outbox_deliveries d
          WHERE d.state = 'queued' AND d.route = w.route AND d.priority = p.priority
            AND (d.expires_at IS NULL OR d.expires_at > now()) -- what is overdue is the reaper's
          ORDER BY d.due_at LIMIT 1) AS due_at
  FROM wanted w, (VALUES ('high', 1), ('normal', 2), ('bulk', 3)) AS p (priority, place)
)
SELECT route, priority, extract(epoch FROM due_at - now())::float8 AS due_in,
       EXISTS (SELECT 1 FROM outbox_routes o WHERE o.route = ranges.route) AS paused
FROM ranges WHERE due_at IS NOT NULL
ORDER BY place, due_at;

-- name: claim
-- $1 route, $2 priority, $3 limit, $4 token, $5 lease in seconds, $6 owner, $7 bytes at most (0: no bound),
-- $8 largest body to return at once. A CTE and not a subquery with LIMIT, which a join may run twice and claim too much.
WITH due AS MATERIALIZED (
  SELECT message_id, seq, due_at FROM outbox_deliveries
  WHERE state = 'queued' AND route = $1 AND priority = $2 AND due_at <= now() AND (expires_at IS NULL OR expires_at > now())
    AND NOT EXISTS (SELECT 1 FROM outbox_routes o WHERE o.route = $1)
  ORDER BY due_at, message_id, seq LIMIT $3
  FOR UPDATE SKIP LOCKED
), sized AS (
  SELECT message_id, size, sum(size) OVER (ORDER BY due_at, message_id) AS total
  FROM (SELECT message_id, min(due_at) AS due_at, (SELECT m.size FROM outbox_messages m WHERE m.id = due.message_id) AS size
        FROM due GROUP BY message_id) AS x
), whole AS MATERIALIZED (
  -- The recipients of a message go together. They are looked up by their key whatever the statistics say: LATERAL loops
  -- over the messages, and state || '' keeps the index of what is queued out, whose leading columns all of them share.
  SELECT d.message_id, d.seq FROM sized CROSS JOIN LATERAL (
    SELECT message_id, seq FROM outbox_deliveries
    WHERE message_id = sized.message_id AND state || '' = 'queued' AND route = $1 AND priority = $2 AND due_at <= now()
      AND (expires_at IS NULL OR expires_at > now())
    FOR UPDATE SKIP LOCKED
  ) AS d
  WHERE $7::bigint = 0 OR sized.total - sized.size < $7::bigint
), leased AS (
  UPDATE outbox_deliveries d
  SET state = 'sending', stage = 0, attempts = d.attempts + 1,
      lease_token = $4, lease_until = now() + make_interval(secs => $5::float8), lease_owner = $6
  FROM whole WHERE d.message_id = whole.message_id AND d.seq = whole.seq AND d.state = 'queued' AND whole.seq BETWEEN 1 AND 2147483647
  RETURNING d.message_id, d.seq, d.recipient, d.attempts, d.due_at, d.deferred_since, d.class, d.relay, d.expires_at
)
SELECT l.message_id AS id, l.seq, l.recipient, l.attempts,
       coalesce(extract(epoch FROM now() - l.deferred_since)::float8, 0) AS deferred_for,
       coalesce(l.class, '') AS class, coalesce(l.relay, '') AS relay,
       coalesce(extract(epoch FROM l.expires_at - now())::float8, 0) AS expires_in,
       extract(epoch FROM now() - greatest(m.created_at, m.not_before))::float8 AS age,
       m.message_id AS rfc_id, coalesce(m.idempotency_key, '') AS idempotency_key, m.route, m.priority, m.sender, m.subject, m.size,
       m.on_uncertain, m.tags, m.metadata, coalesce(m.trace_parent, '') AS trace_parent,
       CASE WHEN m.size <= $8::bigint THEN m.body END AS body
FROM leased l JOIN outbox_messages m ON m.id = l.message_id
ORDER BY l.due_at, l.message_id, l.seq;

-- name: commit_stage
-- $1 refs. Written before the final dot may leave; what it does not return must not be sent.
UPDATE outbox_deliveries d SET stage = 1
FROM jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer, token uuid)
WHERE d.message_id = x.id AND d.seq = x.seq AND d.state = 'sending' AND d.lease_token = x.token AND d.lease_until > now()
  AND x.seq BETWEEN 1 AND 2147483647
RETURNING d.message_id AS id, d.seq;

-- name: renew
-- $1 refs, $2 lease in seconds.
UPDATE outbox_deliveries d SET lease_until = now() + make_interval(secs => $2::float8)
FROM jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer, token uuid)
WHERE d.message_id = x.id AND d.seq = x.seq AND d.state = 'sending' AND d.lease_token = x.token AND x.seq BETWEEN 1 AND 2147483647
RETURNING d.message_id AS id, d.seq;

-- name: settle
-- $1 settlements, $2 owner. Evidence that is not given leaves the last outcome as it is.
WITH settled AS (
  UPDATE outbox_deliveries d
  SET state = x.state, stage = 0,
      lease_token = NULL, lease_until = NULL, lease_owner = NULL,
      attempts = d.attempts - CASE WHEN x.uncounted AND d.attempts > 0 THEN 1 ELSE 0 END,
      due_at = CASE WHEN x.state IN ('queued', 'uncertain') THEN now() + make_interval(secs => x.delay) ELSE d.due_at END,
      deferred_since = CASE WHEN x.verb = 'recycle' THEN d.deferred_since
                            WHEN x.verb = 'defer' AND x.uncounted THEN coalesce(d.deferred_since, now()) END,
      finished_at = CASE WHEN x.finished THEN now() END,
      relay       = CASE WHEN x.evidence THEN x.relay       ELSE d.relay       END,
      class       = CASE WHEN x.evidence THEN x.class       ELSE d.class       END,
      code        = CASE WHEN x.evidence THEN x.code        ELSE d.code        END,
      enhanced    = CASE WHEN x.evidence THEN x.enhanced    ELSE d.enhanced    END,
      reply       = CASE WHEN x.evidence THEN x.reply       ELSE d.reply       END,
      provider_id = CASE WHEN x.evidence THEN x.provider_id ELSE d.provider_id END
  FROM jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer, token uuid, verb text, state text, delay float8, uncounted boolean,
       finished boolean, evidence boolean, relay text, stage text, class text, code integer, enhanced text, reply text,
       provider_id text, duration_ms bigint)
  WHERE d.message_id = x.id AND d.seq = x.seq AND d.state = 'sending' AND d.lease_token = x.token AND x.seq BETWEEN 1 AND 2147483647
  RETURNING d.message_id, d.seq, d.attempts, x.verb, x.uncounted, x.evidence, x.relay, x.stage, x.class, x.code, x.enhanced, x.reply, x.duration_ms
), noted AS (
  INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, relay, stage, class, code, enhanced, reply)
  SELECT message_id, seq, attempts + CASE WHEN uncounted THEN 1 ELSE 0 END, verb,
         now() - make_interval(secs => duration_ms / 1000.0), duration_ms, $2, relay, stage, class, code, enhanced, reply
  FROM settled WHERE evidence AND verb <> 'sent'
)
SELECT message_id AS id, seq FROM settled;

-- name: reap_lapsed
-- $1 rows at most. A lease that lapsed after its stage was committed leaves a message in doubt, any other goes back.
WITH lapsed AS MATERIALIZED (
  SELECT message_id, seq, stage, lease_owner, lease_until FROM outbox_deliveries
  WHERE state = 'sending' AND lease_until <= now() LIMIT $1
  FOR UPDATE SKIP LOCKED
), reaped AS (
  UPDATE outbox_deliveries d
  SET state = CASE WHEN lapsed.stage = 1 THEN 'uncertain' ELSE 'queued' END, stage = 0, due_at = now(),
      lease_token = NULL, lease_until = NULL, lease_owner = NULL,
      class = CASE WHEN lapsed.stage = 1 THEN 'ambiguous' ELSE 'unreachable' END, relay = NULL, code = NULL, enhanced = NULL, provider_id = NULL,
      reply = 'the lease of dispatcher ' || lapsed.lease_owner || ' lapsed'
  FROM lapsed WHERE d.message_id = lapsed.message_id AND d.seq = lapsed.seq AND d.state = 'sending' AND lapsed.seq BETWEEN 1 AND 2147483647
  RETURNING d.message_id, d.seq, d.attempts, d.state, d.class, d.reply, lapsed.stage, lapsed.lease_owner, lapsed.lease_until
), noted AS (
  INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, stage, class, reply)
  SELECT message_id, seq, attempts, 'reap', lease_until, 0, lease_owner, CASE WHEN stage = 1 THEN 'dot' END, class, reply FROM reaped
)
SELECT count(*) FILTER (WHERE state = 'queued') AS requeued, count(*) FILTER (WHERE state = 'uncertain') AS uncertain FROM reaped;

-- name: resend_uncertain
-- $1 rows at most. The policy of the message resolves the doubt once its delay is over.
WITH doubtful AS MATERIALIZED (
  SELECT d.message_id, d.seq FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
  WHERE d.state = 'uncertain' AND d.due_at <= now() AND m.on_uncertain = 'resend' LIMIT $1
  FOR UPDATE OF d SKIP LOCKED
)
UPDATE outbox_deliveries d SET state = 'queued', due_at = now()
FROM doubtful WHERE d.message_id = doubtful.message_id AND d.seq = doubtful.seq AND d.state = 'uncertain'
  AND doubtful.seq BETWEEN 1 AND 2147483647
RETURNING d.message_id AS id, d.seq;

-- name: expire
-- $1 rows at most.
WITH overdue AS MATERIALIZED (
  SELECT message_id, seq FROM outbox_deliveries
  WHERE expires_at <= now() AND expires_at IS NOT NULL AND finished_at IS NULL AND state IN ('queued', 'held')
  ORDER BY expires_at LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE outbox_deliveries d SET state = 'expired', finished_at = now()
FROM overdue WHERE d.message_id = overdue.message_id AND d.seq = overdue.seq AND d.state IN ('queued', 'held')
  AND overdue.seq BETWEEN 1 AND 2147483647
RETURNING d.message_id AS id, d.seq;

-- name: reapable
-- Whether any of the three statements above would find something, read without a lock.
SELECT EXISTS (SELECT 1 FROM outbox_deliveries WHERE state = 'sending' AND lease_until <= now()) AS lapsed,
       EXISTS (SELECT 1 FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
               WHERE d.state = 'uncertain' AND d.due_at <= now() AND m.on_uncertain = 'resend') AS doubtful,
       EXISTS (SELECT 1 FROM outbox_deliveries
               WHERE expires_at <= now() AND expires_at IS NOT NULL AND finished_at IS NULL AND state IN ('queued', 'held')) AS overdue;

-- name: forget_attempts
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_attempts a USING jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer) WHERE a.message_id = x.id AND a.seq = x.seq;

-- name: lock_messages
-- $1 keys of deliveries that were purged.
SELECT 1 FROM outbox_messages WHERE id IN (SELECT id FROM jsonb_to_recordset($1::jsonb) AS x (id uuid)) ORDER BY id FOR UPDATE;

-- name: forget_messages
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_messages m WHERE m.id IN (SELECT id FROM jsonb_to_recordset($1::jsonb) AS x (id uuid))
  AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = m.id);

-- name: message_by_rfc_id
-- $1 Message-ID with its brackets, of a message that brought its own: the condition is that of the index.
SELECT CAST(id AS text) AS id FROM outbox_messages WHERE message_id = $1 AND strpos(message_id, id::text) = 0 LIMIT 3;
