-- Statements for PostgreSQL. Each states its guard; the number of rows that it changed is checked.
-- now() is the clock of the database at the start of the transaction, clock_timestamp() at this moment. Leases are granted
-- and checked by the latter, for a statement may have waited for a lock.
-- "seq BETWEEN 1 AND 2147483647" is true of every row. The planner takes a range for rare and expects one row or two, so it
-- looks deliveries up by their key, where its statistics (of a table that was never analysed, or that was empty when it
-- was) could have it read the whole table for a handful of rows. "state || '' =" is a guard that no index answers: where statistics
-- are of a time when nothing waited, the planner would go through all that waits, or all that is leased, for each row.

-- name: due
-- What waits on each (route, priority). It walks from route to route over the index of what is queued, so that neither
-- the backlog nor anything finished costs anything. $1: the routes wanted as a JSON array, NULL for all. $2: the relay that is
-- asked for, empty for none; while it is paused, so is everything.
WITH RECURSIVE seen (route) AS (
  SELECT min(route) FROM outbox_deliveries WHERE state = 'queued' AND $1::jsonb IS NULL
  UNION ALL
  SELECT (SELECT min(d.route) FROM outbox_deliveries d WHERE d.state = 'queued' AND d.route > seen.route)
  FROM seen WHERE seen.route IS NOT NULL
), wanted (route) AS (
  SELECT route FROM seen WHERE route IS NOT NULL
  UNION ALL
  SELECT jsonb_array_elements_text($1::jsonb)
), ranges AS MATERIALIZED (
  SELECT w.route, p.priority, p.place,
         (SELECT d.due_at FROM outbox_deliveries d
          WHERE d.state = 'queued' AND d.route = w.route AND d.priority = p.priority
            AND (d.expires_at IS NULL OR d.expires_at > now()) -- what is overdue is the reaper's
          ORDER BY d.due_at LIMIT 1) AS due_at,
         EXISTS (SELECT 1 FROM outbox_deliveries d
                 WHERE d.state = 'queued' AND d.lapses >= 2 AND d.route = w.route AND d.priority = p.priority AND d.due_at <= now()) AS suspects
  FROM wanted w, (VALUES ('high', 1), ('normal', 2), ('bulk', 3)) AS p (priority, place)
)
SELECT route, priority, (extract(epoch FROM due_at) - extract(epoch FROM now()))::float8 AS due_in, suspects,
       EXISTS (SELECT 1 FROM outbox_routes o WHERE o.route = ranges.route)
       OR EXISTS (SELECT 1 FROM outbox_relays y WHERE y.name = $2::text AND y.paused_until > now()) AS paused
FROM ranges WHERE due_at IS NOT NULL
ORDER BY place, due_at;

-- name: claim
-- $1 route, $2 priority, $3 limit, $4 token, $5 lease in seconds, $6 owner, $7 largest body to return at once, $8 relay,
-- $9 whether each delivery will be fenced, so that the commit need not reach the disk by itself. A message that has several rows has
-- its body, tags and metadata in the first. $10 is true in claim_alone, which is this statement with "lapses >= 2": it takes what lapsed
-- time and again, unless the owner has such a claim already.
-- A difference of epochs has no error where a difference of times has one: an infinite time is infinitely far away.
-- A CTE and not a subquery with LIMIT, which a join may run twice and claim too much.
WITH due AS MATERIALIZED (
  SELECT message_id, seq, due_at FROM outbox_deliveries
  WHERE state = 'queued' AND lapses < 2 AND route = $1 AND priority = $2 AND due_at <= now() AND (expires_at IS NULL OR expires_at > now())
    AND NOT ($10::boolean AND EXISTS (SELECT 1 FROM outbox_claims o WHERE o.owner = $6 AND o.alone AND NOT o.lapsed))
    AND NOT EXISTS (SELECT 1 FROM outbox_routes o WHERE o.route = $1)
    AND NOT EXISTS (SELECT 1 FROM outbox_relays y WHERE y.name = $8 AND y.paused_until > now())
  ORDER BY due_at, message_id, seq LIMIT $3
  FOR UPDATE SKIP LOCKED
), whole AS MATERIALIZED (
  -- The recipients of a message go together. They are looked up by their key whatever the statistics say: LATERAL loops
  -- over the messages, and state || '' keeps the index of what is queued out, whose leading columns all of them share.
  SELECT d.message_id, d.seq, d.barred FROM (SELECT DISTINCT message_id FROM due) AS x CROSS JOIN LATERAL (
    SELECT message_id, seq, (SELECT s.reason FROM outbox_suppressions s WHERE s.address = lower(recipient)) AS barred
    FROM outbox_deliveries
    WHERE message_id = x.message_id AND state || '' = 'queued' AND lapses < 2 AND route = $1 AND priority = $2 AND due_at <= now()
      AND (expires_at IS NULL OR expires_at > now())
    FOR UPDATE SKIP LOCKED
  ) AS d
), leased AS ( -- or suppressed, when the recipient is on the list
  UPDATE outbox_deliveries d
  SET state       = CASE WHEN whole.barred IS NULL THEN 'sending' ELSE 'suppressed' END,
      attempts    = least(d.attempts, 2147483646) + CASE WHEN whole.barred IS NULL THEN 1 ELSE 0 END,
      lease_token = CASE WHEN whole.barred IS NULL THEN $4::uuid END,
      finished_at = CASE WHEN whole.barred IS NOT NULL THEN now() END,
      reply       = CASE WHEN whole.barred IS NULL THEN d.reply ELSE 'the recipient is on the suppression list: ' || whole.barred END
  FROM whole WHERE d.message_id = whole.message_id AND d.seq = whole.seq AND d.state || '' = 'queued' AND whole.seq BETWEEN 1 AND 2147483647
  RETURNING d.message_id, d.seq, d.state, d.recipient, d.attempts, d.due_at, d.deferred_since, d.class, d.relay, d.expires_at
), claimed AS (
  INSERT INTO outbox_claims (token, owner, relay, fenced, alone, lease_until)
  SELECT $4::uuid, $6, nullif($8, ''), $9, $10::boolean, clock_timestamp() + make_interval(secs => $5::float8)
  WHERE EXISTS (SELECT 1 FROM leased WHERE state = 'sending')
), durability AS MATERIALIZED (
  SELECT CASE WHEN $9 THEN set_config('synchronous_commit', 'off', true) END -- of this transaction
)
SELECT l.message_id AS id, l.seq, l.state, l.recipient, l.attempts,
       coalesce((extract(epoch FROM now()) - extract(epoch FROM l.deferred_since))::float8, 0) AS deferred_for,
       coalesce(l.class, '') AS class, coalesce(l.relay, '') AS relay,
       coalesce((extract(epoch FROM l.expires_at) - extract(epoch FROM now()))::float8, 0) AS expires_in, m.id IS NULL AS missing,
       coalesce((extract(epoch FROM now()) - extract(epoch FROM greatest(m.created_at, m.not_before)))::float8, 0) AS age,
       coalesce(m.message_id, '') AS rfc_id, coalesce(m.idempotency_key, '') AS idempotency_key, coalesce(m.route, '') AS route,
       coalesce(m.priority, '') AS priority, coalesce(m.sender, '') AS sender, coalesce(m.subject, '') AS subject,
       coalesce(m.size, 0) AS size, coalesce(m.on_uncertain, '') AS on_uncertain, coalesce(m.trace_parent, '') AS trace_parent,
       coalesce(m.body_key_id, '') AS key_id,
       CASE WHEN l.first THEN m.tags END AS tags, CASE WHEN l.first THEN m.metadata END AS metadata,
       CASE WHEN l.first AND m.size <= $7::bigint THEN m.body END AS body
FROM (SELECT *, state = 'sending' AND row_number() OVER (PARTITION BY message_id, state ORDER BY due_at, seq) = 1 AS first FROM leased) AS l
LEFT JOIN outbox_messages m ON m.id = l.message_id CROSS JOIN durability
ORDER BY l.due_at, l.message_id, l.seq;

-- name: no_time_limit
SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '0', true);

-- name: allowance
-- What a relay's shared allowance holds, read without a lock. $1 relay, $2 rate per second, $3 burst.
SELECT CASE WHEN paused_until > now() THEN 0
            ELSE least($3::float8, tokens + $2::float8 * greatest(0, extract(epoch FROM now() - refilled_at)::float8)) END AS tokens
FROM outbox_relays WHERE name = $1;

-- name: refill
-- $1 relay, $2 rate per second, $3 burst. It locks the row until the claim has drawn from it. The clock is read once the lock
-- is held, and never goes back: else a transaction that waited would refill for a time that another has already counted.
INSERT INTO outbox_relays AS r (name, tokens, refilled_at, updated_at) SELECT $1, $3::float8, now, now FROM outbox_clock WHERE TRUE
ON CONFLICT (name) DO UPDATE
SET tokens = least($3::float8, r.tokens + $2::float8 * greatest(0, extract(epoch FROM clock_timestamp() - r.refilled_at)::float8)),
    refilled_at = greatest(r.refilled_at, clock_timestamp()), updated_at = clock_timestamp()
RETURNING CASE WHEN paused_until > clock_timestamp() THEN 0 ELSE tokens END AS tokens;

-- name: pause_relay
-- $1 relay, $2 for how many seconds, $3 reason, $4 the operator, NULL for a dispatcher. A pause that lasts longer stays. A relay
-- that was not known has a full allowance: it was refilled before everything.
INSERT INTO outbox_relays AS r (name, refilled_at, paused_at, paused_until, paused_by, reason, updated_at)
SELECT $1, '1970-01-01T00:00:00Z', now, now + make_interval(secs => $2::float8), $4, $3, now FROM outbox_clock WHERE TRUE
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, paused_until = excluded.paused_until, paused_by = excluded.paused_by,
  reason = excluded.reason, updated_at = excluded.updated_at
WHERE r.paused_until IS NULL OR r.paused_until < excluded.paused_until;

-- name: relay_states
SELECT name, coalesce(extract(epoch FROM paused_until - now())::float8, 0) AS paused, paused_at, coalesce(paused_by, '') AS paused_by,
       coalesce(reason, '') AS reason
FROM outbox_relays ORDER BY name;

-- name: fence
-- $1 one element for each claim and relay: token, relay, refs. Written before the final dot may leave; what it does not return as written
-- must not be sent. FOR KEY SHARE keeps the reaper from taking the claim back until the fence is committed, and goes beside a renewal. The
-- lease is looked at once the row is locked. What another transaction has locked is busy.
WITH asked AS MATERIALIZED (
  SELECT token, relay, refs FROM jsonb_to_recordset($1::jsonb) AS x (token uuid, relay text, refs jsonb)
), locked AS MATERIALIZED (
  SELECT token, lease_until FROM outbox_claims WHERE token IN (SELECT token FROM asked) AND NOT lapsed FOR KEY SHARE SKIP LOCKED
), written AS (
  INSERT INTO outbox_fences (token, relay, refs)
  SELECT a.token, a.relay, a.refs FROM asked a JOIN locked l ON l.token = a.token WHERE l.lease_until > clock_timestamp()
  RETURNING token
)
SELECT DISTINCT CAST(token AS text) AS token, FALSE AS busy FROM written
UNION ALL
SELECT CAST(token AS text), TRUE FROM outbox_claims
WHERE token IN (SELECT token FROM asked) AND token NOT IN (SELECT token FROM locked) AND NOT lapsed;

-- name: renew
-- $1 tokens, $2 lease in seconds. What another transaction has locked is busy.
WITH asked AS MATERIALIZED (
  SELECT CAST(jsonb_array_elements_text($1::jsonb) AS uuid) AS token
), locked AS MATERIALIZED (
  SELECT token FROM outbox_claims WHERE token IN (SELECT token FROM asked) AND NOT lapsed FOR NO KEY UPDATE SKIP LOCKED
), renewed AS (
  UPDATE outbox_claims c SET lease_until = clock_timestamp() + make_interval(secs => $2::float8) FROM locked WHERE c.token = locked.token
  RETURNING c.token
)
SELECT CAST(token AS text) AS token, FALSE AS busy FROM renewed
UNION ALL
SELECT CAST(token AS text), TRUE FROM outbox_claims
WHERE token IN (SELECT token FROM asked) AND token NOT IN (SELECT token FROM locked) AND NOT lapsed;

-- name: settle
-- $1 settlements, $2 owner. Evidence that is not given leaves the last outcome as it is. A delivery is either leased or in doubt,
-- and has the token of the one or of the other. What another transaction has locked is passed over.
WITH asked AS MATERIALIZED (
  SELECT d.message_id, d.seq, x.token, x.verb, x.state, x.delay, x.uncounted, x.finished, x.evidence, x.relay, x.stage, x.class, x.code,
         x.enhanced, x.reply, x.provider_id, x.duration_ms, x.suppress
  FROM jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer, token uuid, verb text, state text, delay float8, uncounted boolean,
       finished boolean, evidence boolean, relay text, stage text, class text, code integer, enhanced text, reply text,
       provider_id text, duration_ms bigint, suppress boolean)
  JOIN outbox_deliveries d ON d.message_id = x.id AND d.seq = x.seq
  WHERE d.state || '' IN ('sending', 'uncertain') AND coalesce(d.lease_token, d.doubt_token) = x.token AND x.seq BETWEEN 1 AND 2147483647
  FOR NO KEY UPDATE OF d SKIP LOCKED
), settled AS (
  UPDATE outbox_deliveries d
  SET state = x.state, lease_token = NULL, doubt_token = NULL,
      attempts = d.attempts - CASE WHEN x.uncounted AND d.attempts > 0 THEN 1 ELSE 0 END,
      lapses = CASE WHEN x.verb = 'recycle' AND NOT x.evidence THEN d.lapses ELSE 0 END, -- its turn did not come
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
  FROM asked x
  WHERE d.message_id = x.message_id AND d.seq = x.seq AND x.seq BETWEEN 1 AND 2147483647
  RETURNING d.message_id, d.seq, d.recipient, d.attempts, x.verb, x.uncounted, x.evidence, x.relay, x.stage, x.class, x.code, x.enhanced,
            x.reply, x.duration_ms, x.suppress, x.token
), noted AS (
  INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, relay, stage, class, code, enhanced, reply)
  SELECT message_id, seq, attempts + CASE WHEN uncounted THEN 1 ELSE 0 END, verb,
         now() - make_interval(secs => duration_ms / 1000.0), duration_ms, $2, relay, stage, class, code, enhanced, reply
  FROM settled WHERE evidence AND verb <> 'sent'
), suppressed AS ( -- in one order, so that two calls do not deadlock
  INSERT INTO outbox_suppressions (address, reason, source, message_id)
  SELECT DISTINCT ON (lower(recipient)) lower(recipient), coalesce(reply, 'a delivery failed'), 'bounce', message_id
  FROM settled WHERE suppress ORDER BY lower(recipient), message_id, seq
  ON CONFLICT (address) DO NOTHING
), spent AS MATERIALIZED ( -- a claim of which nothing is left; one that is locked goes when its lease has lapsed
  SELECT c.token FROM outbox_claims c
  WHERE c.token IN (SELECT token FROM settled) AND NOT EXISTS (
    SELECT 1 FROM outbox_deliveries d WHERE d.state = 'sending' AND d.lease_token = c.token
      AND (d.message_id, d.seq) NOT IN (SELECT message_id, seq FROM settled))
  FOR UPDATE SKIP LOCKED
), ended AS (
  DELETE FROM outbox_claims c USING spent WHERE c.token = spent.token
)
SELECT message_id AS id, seq FROM settled;

-- name: settle_sent
-- Deliveries that a relay accepted, with what it said: $1 ids, $2 seqs, $3 tokens, $4 relays, $5 classes, $6 codes, $7 enhanced codes,
-- $8 replies, $9 provider ids, each an array. It says what settle says of them, in fewer words: nearly every outcome is one of these.
WITH asked AS MATERIALIZED (
  SELECT d.message_id, d.seq, x.token, x.relay, x.class, x.code, x.enhanced, x.reply, x.provider_id
  FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::text[], $5::text[], $6::integer[], $7::text[], $8::text[], $9::text[])
    AS x (id, seq, token, relay, class, code, enhanced, reply, provider_id)
  JOIN outbox_deliveries d ON d.message_id = x.id AND d.seq = x.seq
  WHERE d.state || '' IN ('sending', 'uncertain') AND coalesce(d.lease_token, d.doubt_token) = x.token AND x.seq BETWEEN 1 AND 2147483647
  FOR NO KEY UPDATE OF d SKIP LOCKED
), settled AS (
  UPDATE outbox_deliveries d
  SET state = 'sent', finished_at = now(), lease_token = NULL, doubt_token = NULL, deferred_since = NULL, lapses = 0, relay = x.relay,
      class = x.class, code = x.code, enhanced = x.enhanced, reply = x.reply, provider_id = x.provider_id
  FROM asked x
  WHERE d.message_id = x.message_id AND d.seq = x.seq AND x.seq BETWEEN 1 AND 2147483647
  RETURNING d.message_id, d.seq, x.token
), spent AS MATERIALIZED (
  SELECT c.token FROM outbox_claims c
  WHERE c.token IN (SELECT token FROM settled) AND NOT EXISTS (
    SELECT 1 FROM outbox_deliveries d WHERE d.state = 'sending' AND d.lease_token = c.token
      AND (d.message_id, d.seq) NOT IN (SELECT message_id, seq FROM settled))
  FOR UPDATE SKIP LOCKED
), ended AS (
  DELETE FROM outbox_claims c USING spent WHERE c.token = spent.token
)
SELECT message_id AS id, seq FROM settled;

-- name: unsettled
-- $1 settlements that took no effect. Those that it returns are held under their tokens all the same: another transaction had them locked.
SELECT d.message_id AS id, d.seq FROM jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer, token uuid)
JOIN outbox_deliveries d ON d.message_id = x.id AND d.seq = x.seq
WHERE d.state || '' IN ('sending', 'uncertain') AND coalesce(d.lease_token, d.doubt_token) = x.token AND x.seq BETWEEN 1 AND 2147483647;

-- name: record_feedback
-- $1 feedback. What is there already stays. The deliveries are locked against a purge, which then removes what is recorded here.
INSERT INTO outbox_feedback (message_id, seq, event_id, kind, at, code, enhanced, detail)
SELECT d.message_id, d.seq, x.event_id, x.kind, coalesce(x.at, now()), x.code, x.enhanced, x.detail
FROM jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer, event_id text, kind text, at timestamptz, code integer, enhanced text, detail text)
JOIN outbox_deliveries d ON d.message_id = x.id AND d.seq = x.seq
ORDER BY d.message_id, d.seq, x.event_id FOR KEY SHARE OF d
ON CONFLICT (message_id, seq, event_id) DO NOTHING
RETURNING message_id AS id, seq, event_id;

-- name: mark_lapsed
-- $1 claims at most. A claim that is marked is never renewed or fenced again, and its fences are complete: FOR UPDATE waits for none and
-- excludes all. The next statement sees them, because it is a transaction of its own.
WITH lapsed AS MATERIALIZED (
  SELECT token FROM outbox_claims WHERE lease_until <= now() AND NOT lapsed LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE outbox_claims c SET lapsed = TRUE FROM lapsed WHERE c.token = lapsed.token RETURNING CAST(c.token AS text);

-- name: lapse_all
-- Every claim, whoever holds it. It waits for the fences that are being written.
WITH held AS MATERIALIZED (SELECT token FROM outbox_claims WHERE NOT lapsed FOR UPDATE)
UPDATE outbox_claims c SET lapsed = TRUE FROM held WHERE c.token = held.token;

-- name: excuse
-- What lapses beside a claim of one suspect is not to blame. Its claims may lapse before or after that of the suspect.
WITH innocent AS MATERIALIZED (
  SELECT token FROM outbox_claims c
  WHERE NOT c.alone AND NOT c.excused AND EXISTS (SELECT 1 FROM outbox_claims s WHERE s.owner = c.owner AND s.alone AND s.lapsed)
  FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE outbox_claims c SET excused = TRUE FROM innocent WHERE c.token = innocent.token RETURNING CAST(c.token AS text);

-- name: reap_lapsed
-- $1 rows at most, $2 seconds until doubt may be resolved by its policy. What a fence names is in doubt with the relay of its last fence.
-- Of a claim that promised no fences, what Resend allows to send again is in doubt with the relay of the claim; what Hold protects is
-- fenced in any case. Of a claim that somebody removed nothing is known. The holder may still know the answer. Anything else goes back, and
-- its attempt is not counted: no relay has refused anything. An older doubt stays with its relay, because an attempt that sent nothing
-- does not resolve it. Lapses in a row delay a delivery by 10 seconds each, from the second on. After the fifth it is held.
WITH candidates AS MATERIALIZED ( -- the token is compared again under the lock: somebody else may have been faster
  SELECT d.message_id, d.seq, d.lease_token AS token FROM outbox_deliveries d LEFT JOIN outbox_claims c ON c.token = d.lease_token
  WHERE d.state = 'sending' AND (c.token IS NULL OR c.lapsed)
), taken AS MATERIALIZED (
  SELECT d.message_id, d.seq, x.token FROM candidates x
  JOIN outbox_deliveries d ON d.message_id = x.message_id AND d.seq = x.seq AND d.lease_token = x.token AND d.state || '' = 'sending'
  WHERE x.seq BETWEEN 1 AND 2147483647 LIMIT $1
  FOR UPDATE OF d SKIP LOCKED
), named AS MATERIALIZED (
  SELECT DISTINCT ON (f.token, r.ref ->> 'id', r.ref ->> 'seq') f.token, r.ref ->> 'id' AS id, r.ref ->> 'seq' AS seq, f.relay
  FROM outbox_fences f CROSS JOIN LATERAL jsonb_array_elements(CASE jsonb_typeof(f.refs) WHEN 'array' THEN f.refs END) AS r (ref)
  WHERE f.token IN (SELECT token FROM taken) ORDER BY f.token, r.ref ->> 'id', r.ref ->> 'seq', f.fenced_at DESC
), judged AS MATERIALIZED (
  SELECT t.message_id, t.seq, t.token, coalesce(c.owner, '') AS owner, coalesce(c.lease_until, now()) AS lease_until,
         CASE WHEN n.token IS NOT NULL THEN n.relay ELSE c.relay END AS relay,
         n.token IS NOT NULL OR c.token IS NULL OR NOT c.fenced AND coalesce(m.on_uncertain, 'resend') = 'resend' AS doubt,
         CASE WHEN c.token IS NULL THEN 'the claim was removed' ELSE 'the lease of dispatcher ' || c.owner || ' lapsed' END AS words,
         CASE WHEN c.alone OR NOT c.excused AND NOT EXISTS (SELECT 1 FROM outbox_claims s WHERE s.owner = c.owner AND s.alone)
              THEN 1 ELSE 0 END AS blamed
  FROM taken t LEFT JOIN outbox_claims c ON c.token = t.token
  LEFT JOIN named n ON n.token = t.token AND n.id = t.message_id::text AND n.seq = t.seq::text
  LEFT JOIN outbox_messages m ON m.id = t.message_id AND NOT c.fenced
), reaped AS (
  UPDATE outbox_deliveries d
  SET state = CASE WHEN j.doubt THEN 'uncertain' WHEN d.lapses + j.blamed >= 5 THEN 'held' ELSE 'queued' END,
      lapses = d.lapses + j.blamed,
      attempts = d.attempts - CASE WHEN NOT j.doubt AND d.attempts > 0 THEN 1 ELSE 0 END,
      due_at = now() + make_interval(secs => greatest(CASE WHEN j.doubt THEN $2::float8 ELSE 0 END,
                                                      CASE WHEN d.lapses + j.blamed >= 2 THEN 10 * (d.lapses + j.blamed) ELSE 0 END)),
      doubt_token = CASE WHEN j.doubt THEN d.lease_token END, lease_token = NULL,
      class = CASE WHEN j.doubt OR d.class = 'ambiguous' THEN 'ambiguous' ELSE 'unreachable' END,
      relay = CASE WHEN j.doubt THEN j.relay WHEN d.class = 'ambiguous' THEN d.relay END,
      code = NULL, enhanced = NULL, provider_id = NULL,
      reply = CASE WHEN NOT j.doubt AND d.class = 'ambiguous' THEN 'still in doubt; ' ELSE '' END || j.words
              || CASE WHEN d.lapses + j.blamed >= 2 THEN ', for the ' || d.lapses + j.blamed || '. time in a row' ELSE '' END
  FROM judged j WHERE d.message_id = j.message_id AND d.seq = j.seq AND d.state || '' = 'sending' AND d.lease_token = j.token
    AND j.seq BETWEEN 1 AND 2147483647
  RETURNING d.message_id, d.seq, d.attempts, d.state, d.relay, d.class, d.reply, j.doubt, j.owner, j.lease_until
), noted AS (
  INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, relay, stage, class, reply)
  SELECT message_id, seq, attempts + CASE WHEN doubt THEN 0 ELSE 1 END, 'reap', lease_until, 0, owner, relay,
         CASE WHEN doubt THEN 'dot' END, class, reply
  FROM reaped
)
SELECT count(*) FILTER (WHERE state = 'queued') AS requeued, count(*) FILTER (WHERE state = 'uncertain') AS uncertain,
       count(*) FILTER (WHERE state = 'held') AS held
FROM reaped;

-- name: end_lapsed
-- Claims that hold nothing any more. One whose deliveries somebody has locked stays until they are free.
WITH spent AS MATERIALIZED (
  SELECT c.token FROM outbox_claims c
  WHERE c.lapsed AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.state = 'sending' AND d.lease_token = c.token)
  FOR UPDATE SKIP LOCKED
)
DELETE FROM outbox_claims c USING spent WHERE c.token = spent.token RETURNING CAST(c.token AS text);

-- name: resend_uncertain
-- $1 rows at most. The policy of the message resolves the doubt once its delay is over. What lapsed five times in a row is held.
WITH doubtful AS MATERIALIZED (
  SELECT d.message_id, d.seq FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
  WHERE d.state = 'uncertain' AND d.due_at <= now() AND m.on_uncertain = 'resend' LIMIT $1
  FOR UPDATE OF d SKIP LOCKED
)
UPDATE outbox_deliveries d SET state = CASE WHEN d.lapses >= 5 THEN 'held' ELSE 'queued' END, due_at = now(), doubt_token = NULL
FROM doubtful WHERE d.message_id = doubtful.message_id AND d.seq = doubtful.seq AND d.state || '' = 'uncertain'
  AND doubtful.seq BETWEEN 1 AND 2147483647
RETURNING d.state;

-- name: expire
-- $1 rows at most.
WITH overdue AS MATERIALIZED (
  SELECT message_id, seq FROM outbox_deliveries
  WHERE expires_at <= now() AND expires_at IS NOT NULL AND finished_at IS NULL AND state IN ('queued', 'held')
  ORDER BY expires_at LIMIT $1
  FOR UPDATE SKIP LOCKED
)
UPDATE outbox_deliveries d SET state = 'expired', finished_at = now()
FROM overdue WHERE d.message_id = overdue.message_id AND d.seq = overdue.seq AND d.state || '' IN ('queued', 'held')
  AND overdue.seq BETWEEN 1 AND 2147483647
RETURNING d.message_id AS id, d.seq;

-- name: reapable
-- Whether the statements above would find something, read without a lock: lapsed claims and deliveries whose claim is gone, doubt, deadlines.
SELECT EXISTS (SELECT 1 FROM outbox_claims WHERE lapsed OR lease_until <= now())
       OR EXISTS (SELECT lease_token FROM outbox_deliveries WHERE state = 'sending' EXCEPT SELECT token FROM outbox_claims) AS lapsed,
       EXISTS (SELECT 1 FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
               WHERE d.state = 'uncertain' AND d.due_at <= now() AND m.on_uncertain = 'resend') AS doubtful,
       EXISTS (SELECT 1 FROM outbox_deliveries
               WHERE expires_at <= now() AND expires_at IS NOT NULL AND finished_at IS NULL AND state IN ('queued', 'held')) AS overdue;

-- name: heartbeat
-- $1 id, $2 host, $3 process, $4 version, $5 health by relay. Who has not been seen for a day is forgotten.
WITH gone AS (
  DELETE FROM outbox_dispatchers WHERE seen_at < now() - interval '1 day' AND id <> $1
)
INSERT INTO outbox_dispatchers (id, host, pid, version, started_at, seen_at, relays) VALUES ($1, $2, $3, $4, now(), now(), $5::jsonb)
ON CONFLICT (id) DO UPDATE SET host = excluded.host, pid = excluded.pid, version = excluded.version, seen_at = excluded.seen_at,
  relays = excluded.relays;

-- name: dispatchers
SELECT id, host, pid, version, started_at, seen_at, relays, extract(epoch FROM now() - seen_at)::float8 AS silent
FROM outbox_dispatchers ORDER BY started_at, id;

-- name: minutes
-- What was finished in each of the last five minutes. $1 state.
SELECT floor(extract(epoch FROM now() - finished_at) / 60)::int AS ago, count(*) AS deliveries FROM outbox_deliveries
WHERE state = $1 AND finished_at > now() - interval '5 minutes' AND finished_at <= now() GROUP BY 1 ORDER BY 1;

-- name: is_old
-- $1 state, $2 age in seconds. Whether purge_old would find something, read without a lock.
SELECT EXISTS (SELECT 1 FROM outbox_deliveries WHERE state = $1 AND finished_at < now() - make_interval(secs => $2::float8));

-- name: purge_old
-- $1 state, $2 age in seconds, $3 rows at most.
WITH old AS MATERIALIZED (
  SELECT message_id, seq FROM outbox_deliveries WHERE state = $1 AND finished_at < now() - make_interval(secs => $2::float8)
  ORDER BY finished_at LIMIT $3
  FOR UPDATE SKIP LOCKED
)
DELETE FROM outbox_deliveries d USING old
WHERE d.message_id = old.message_id AND d.seq = old.seq AND old.seq BETWEEN 1 AND 2147483647
RETURNING d.message_id AS id, d.seq;

-- name: finished
-- $1 state, $2 age in seconds, $3 $4 $5 the row after which to begin, $6 rows at most.
SELECT message_id AS id, seq, CAST(finished_at AS text) AS finished_at FROM outbox_deliveries
WHERE state = $1 AND finished_at <= now() - make_interval(secs => $2::float8) AND (finished_at, message_id, seq) > ($3::timestamptz, $4::uuid, $5)
ORDER BY finished_at, message_id, seq LIMIT $6;

-- name: lock_deliveries
-- $1 ids of messages.
SELECT 1 FROM outbox_deliveries WHERE message_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)::uuid))
ORDER BY message_id, seq FOR UPDATE;

-- name: has_body
-- $1 ids of messages. Which of them scrub could change, read without a lock.
SELECT id FROM outbox_messages WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)::uuid)) AND body IS NOT NULL;

-- name: scrub
-- $1 ids of messages, whose deliveries are locked, $2 age in seconds of the last delivery.
UPDATE outbox_messages m SET body = NULL, metadata = NULL
WHERE m.id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)::uuid)) AND m.body IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = m.id
                  AND (d.finished_at IS NULL OR d.finished_at > now() - make_interval(secs => $2::float8)))
RETURNING m.id;

-- name: progress
-- $1 chore. A minute before it stood, because what finished by then may have been committed later.
SELECT CAST(done_until - interval '1 minute' AS text) FROM outbox_chores WHERE name = $1;

-- name: set_progress
-- $1 chore, $2 until when it is done.
INSERT INTO outbox_chores (name, done_until) VALUES ($1, $2::timestamptz)
ON CONFLICT (name) DO UPDATE SET done_until = excluded.done_until WHERE outbox_chores.done_until < excluded.done_until;

-- name: rewind_scrubbing
-- $1 keys of deliveries that were purged. What is left of their messages may have been passed over because of them, so that each chore
-- begins no later than with the earliest of it.
UPDATE outbox_chores c SET done_until = x.finished_at
FROM (SELECT 'scrub ' || d.state AS name, min(d.finished_at) AS finished_at FROM outbox_deliveries d
      JOIN outbox_messages m ON m.id = d.message_id
      WHERE m.id IN (SELECT id FROM jsonb_to_recordset($1::jsonb) AS y (id uuid)) AND m.body IS NOT NULL AND d.finished_at IS NOT NULL
      GROUP BY d.state) AS x
WHERE c.name = x.name AND c.done_until > x.finished_at;

-- name: free_keys
-- $1 keys of deliveries that were cancelled. A message of which nothing is left but cancelled deliveries gives its key back.
UPDATE outbox_messages m SET idempotency_key = NULL
WHERE m.id IN (SELECT id FROM jsonb_to_recordset($1::jsonb) AS x (id uuid)) AND m.idempotency_key IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = m.id AND d.state <> 'cancelled');

-- name: forget_attempts
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_attempts a USING jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer) WHERE a.message_id = x.id AND a.seq = x.seq;

-- name: forget_feedback
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_feedback f USING jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer) WHERE f.message_id = x.id AND f.seq = x.seq;

-- name: lock_messages
-- $1 keys of deliveries that were purged.
SELECT 1 FROM outbox_messages WHERE id IN (SELECT id FROM jsonb_to_recordset($1::jsonb) AS x (id uuid)) ORDER BY id FOR UPDATE;

-- name: forget_messages
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_messages m WHERE m.id IN (SELECT id FROM jsonb_to_recordset($1::jsonb) AS x (id uuid))
  AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = m.id);

-- name: message_by_rfc_id
-- $1 Message-ID with its brackets, of a message that brought its own: the condition is that of the index.
SELECT CAST(id AS text) AS id FROM outbox_messages WHERE message_id = $1 AND strpos(message_id, id::text) = 0 ORDER BY id LIMIT 3;

-- name: enable_notify
CREATE OR REPLACE TRIGGER outbox_notify AFTER INSERT ON outbox_messages FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify();

-- name: disable_notify
DROP TRIGGER IF EXISTS outbox_notify ON outbox_messages;

-- name: sealed_rows
-- $1 ids.
SELECT CAST(id AS text) AS id, coalesce(body_key_id, '') AS key_id, body, subject, coalesce(CAST(metadata AS text), '') AS metadata
FROM outbox_messages WHERE id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb)::uuid));

-- name: body
-- $1 id, $2 bytes of a part. A body that is NULL has one part, which is NULL.
SELECT octet_length(m.body) AS size, part.at, substring(m.body FROM part.at + 1 FOR $2) AS part
FROM outbox_messages m CROSS JOIN LATERAL generate_series(0, greatest(coalesce(octet_length(m.body), 0) - 1, 0), $2) AS part(at)
WHERE m.id = $1;

-- name: note_change
-- $1 keys of deliveries that an operator changed, $2 verb, $3 actor, $4 reason.
INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, reply)
SELECT x.id, x.seq, 0, $2::text, now(), 0, $3::text, $4::text FROM jsonb_to_recordset($1::jsonb) AS x (id uuid, seq integer);
