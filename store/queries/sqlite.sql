-- Statements for SQLite. Each states its guard; the number of rows that it changed is checked. Where a row is looked up by its
-- key, +state keeps the partial indexes out: after ANALYZE the planner would walk all leases for each key.
-- Differs by necessity from PostgreSQL: no statement changes rows inside a WITH, one statement is atomic by itself and
-- needs no row locks, RETURNING has no order, and times are fixed-width text.

-- name: due
-- What waits on each (route, priority). It walks from route to route over the index of what is queued, so that neither
-- the backlog nor anything finished costs anything. $1: the routes wanted as a JSON array, NULL for all. $2: the relay that is
-- asked for, empty for none; while it is paused, so is everything.
WITH RECURSIVE seen (route) AS (
  SELECT min(route) FROM outbox_deliveries WHERE state = 'queued' AND $1 IS NULL
  UNION ALL
  SELECT (SELECT min(d.route) FROM outbox_deliveries d WHERE d.state = 'queued' AND d.route > seen.route)
  FROM seen WHERE seen.route IS NOT NULL
), wanted (route) AS (
  SELECT route FROM seen WHERE route IS NOT NULL
  UNION ALL
  SELECT value FROM json_each($1)
), priorities (priority, place) AS (VALUES ('high', 1), ('normal', 2), ('bulk', 3)),
ranges AS MATERIALIZED (
  SELECT w.route, p.priority, p.place,
         (SELECT d.due_at FROM outbox_deliveries d INDEXED BY outbox_deliveries_due -- after ANALYZE it might read the table
          WHERE d.state = 'queued' AND d.route = w.route AND d.priority = p.priority
            AND (d.expires_at IS NULL OR d.expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) -- what is overdue is the reaper's
          ORDER BY d.due_at LIMIT 1) AS due_at,
         EXISTS (SELECT 1 FROM outbox_deliveries d INDEXED BY outbox_deliveries_suspect
                 WHERE d.state = 'queued' AND d.lapses >= 2 AND d.route = w.route AND d.priority = p.priority
                   AND d.due_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) AS suspects
  FROM wanted w, priorities p
)
SELECT route, priority, coalesce((julianday(due_at) - julianday('now')) * 86400.0, 0.0) AS due_in, suspects,
       EXISTS (SELECT 1 FROM outbox_routes o WHERE o.route = ranges.route)
       OR EXISTS (SELECT 1 FROM outbox_relays y WHERE y.name = $2 AND y.paused_until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) AS paused
FROM ranges WHERE due_at IS NOT NULL
ORDER BY place, due_at;

-- name: claim
-- $1 route, $2 priority, $3 limit, $4 token, $5 relay, $6 owner. $7 is true in claim_alone, which is this statement with "lapses >= 2":
-- it takes what lapsed time and again, unless the owner has such a claim already.
WITH due AS MATERIALIZED (
  SELECT message_id, seq, due_at FROM outbox_deliveries
  WHERE state = 'queued' AND lapses < 2 AND route = $1 AND priority = $2 AND due_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
    AND NOT ($7 AND EXISTS (SELECT 1 FROM outbox_claims o WHERE o.owner = $6 AND o.alone AND NOT o.lapsed))
    AND (expires_at IS NULL OR expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
    AND NOT EXISTS (SELECT 1 FROM outbox_routes o WHERE o.route = $1)
    AND NOT EXISTS (SELECT 1 FROM outbox_relays y WHERE y.name = $5 AND y.paused_until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
  ORDER BY due_at, message_id, seq LIMIT $3
)
UPDATE outbox_deliveries
SET state       = CASE WHEN x.barred IS NULL THEN 'sending' ELSE 'suppressed' END,
    attempts    = min(attempts, 2147483646) + (x.barred IS NULL),
    lease_token = CASE WHEN x.barred IS NULL THEN $4 END,
    finished_at = CASE WHEN x.barred IS NOT NULL THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END,
    reply       = CASE WHEN x.barred IS NULL THEN reply ELSE 'the recipient is on the suppression list: ' || x.barred END
FROM (
  SELECT d.message_id AS id, d.seq AS place, (SELECT s.reason FROM outbox_suppressions s WHERE s.address = lower(d.recipient)) AS barred
  FROM (SELECT DISTINCT message_id FROM due) AS y
  CROSS JOIN outbox_deliveries d ON d.message_id = y.message_id -- the recipients of a message go together
  WHERE
    -- The signs keep the index of what is queued out, so that the messages are looked up by their key.
    +d.state = 'queued' AND d.lapses < 2 AND +d.route = $1 AND +d.priority = $2 AND +d.due_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
    AND (d.expires_at IS NULL OR d.expires_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
  LIMIT -1 -- worked out before anything is changed: else it is merged with the UPDATE, and asks for each use of barred again
) AS x
WHERE message_id = x.id AND seq = x.place AND +state = 'queued'
RETURNING message_id AS id, seq, state, recipient, attempts, due_at,
  coalesce((julianday('now') - julianday(deferred_since)) * 86400.0, 0.0) AS deferred_for,
  coalesce(class, '') AS class, coalesce(relay, '') AS relay,
  coalesce((julianday(expires_at) - julianday('now')) * 86400.0, 0.0) AS expires_in;

-- name: begin_claim
-- $1 token, $2 owner, $3 relay, $4 whether each delivery will be fenced, $5 lease as '+60.000 seconds', $6 whether it is of one suspect.
INSERT INTO outbox_claims (token, owner, relay, fenced, alone, lease_until)
VALUES ($1, $2, nullif($3, ''), $4, $6, strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $5));

-- name: claimed_messages
-- $1 ids, $2 largest body to return at once. Messages do not change, so this needs no transaction with the claim.
SELECT m.id, coalesce((julianday('now') - julianday(max(m.created_at, coalesce(m.not_before, m.created_at)))) * 86400.0, 0.0) AS age,
       m.message_id AS rfc_id, coalesce(m.idempotency_key, '') AS idempotency_key, m.route, m.priority, m.sender, m.subject, m.size,
       m.on_uncertain, m.tags, m.metadata, coalesce(m.trace_parent, '') AS trace_parent, coalesce(m.body_key_id, '') AS key_id,
       CASE WHEN m.size <= $2 THEN m.body END AS body
FROM json_each($1) AS x CROSS JOIN outbox_messages m ON m.id = x.value;

-- name: allowance
-- What a relay's shared allowance holds, read without a lock. $1 relay, $2 rate per second, $3 burst.
SELECT CASE WHEN paused_until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now') THEN 0.0
            ELSE min($3, tokens + $2 * max(0.0, (julianday('now') - julianday(refilled_at)) * 86400.0)) END AS tokens
FROM outbox_relays WHERE name = $1;

-- name: refill
-- $1 relay, $2 rate per second, $3 burst. The clock never goes back: else what was counted would be refilled again.
INSERT INTO outbox_relays (name, tokens, refilled_at, updated_at) SELECT $1, $3, now, now FROM outbox_clock WHERE TRUE
ON CONFLICT (name) DO UPDATE
SET tokens = min($3, tokens + $2 * max(0.0, (julianday('now') - julianday(refilled_at)) * 86400.0)),
    refilled_at = max(refilled_at, excluded.refilled_at), updated_at = excluded.updated_at
RETURNING CASE WHEN paused_until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now') THEN 0.0 ELSE tokens END AS tokens;

-- name: pause_relay
-- $1 relay, $2 for how long as '+60.000 seconds', $3 reason, $4 the operator, NULL for a dispatcher. A pause that lasts longer
-- stays. A relay that was not known has a full allowance: it was refilled before everything.
INSERT INTO outbox_relays (name, refilled_at, paused_at, paused_until, paused_by, reason, updated_at)
SELECT $1, '1970-01-01T00:00:00.000Z', now, strftime('%Y-%m-%dT%H:%M:%fZ', now, $2), $4, $3, now FROM outbox_clock WHERE TRUE
ON CONFLICT (name) DO UPDATE SET paused_at = excluded.paused_at, paused_until = excluded.paused_until, paused_by = excluded.paused_by,
  reason = excluded.reason, updated_at = excluded.updated_at
WHERE outbox_relays.paused_until IS NULL OR outbox_relays.paused_until < excluded.paused_until;

-- name: relay_states
SELECT name, coalesce((julianday(paused_until) - julianday('now')) * 86400.0, 0.0) AS paused, paused_at,
       coalesce(paused_by, '') AS paused_by, coalesce(reason, '') AS reason
FROM outbox_relays ORDER BY name;

-- name: fence
-- $1 token, $2 relay, $3 refs. Written before the final dot may leave; where it writes nothing, nothing must be sent.
INSERT INTO outbox_fences (token, relay, refs)
SELECT token, $2, $3 FROM outbox_claims WHERE token = $1 AND NOT lapsed AND lease_until > strftime('%Y-%m-%dT%H:%M:%fZ', 'now');

-- name: renew
-- $1 token, $2 lease as '+60.000 seconds'.
UPDATE outbox_claims SET lease_until = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $2) WHERE token = $1 AND NOT lapsed;

-- name: settle
-- $1 id, $2 seq, $3 token, $4 verb, $5 state, $6 delay as '+60.000 seconds', $7 uncounted, $8 finished, $9 evidence, $10 relay, $11 class,
-- $12 code, $13 enhanced, $14 reply, $15 provider id, $16 the token that may still settle what is uncertain, $17 lapses to count. Evidence that is not given
-- leaves the last outcome as it is. A delivery is either leased or in doubt, and has the token of the one or of the other.
UPDATE outbox_deliveries
SET state = $5, lease_token = NULL, doubt_token = $16,
    attempts = attempts - ($7 AND attempts > 0),
    lapses = CASE WHEN $4 = 'reap' THEN lapses + $17 WHEN $4 = 'recycle' AND NOT $9 THEN lapses ELSE 0 END,
    due_at = CASE WHEN $5 IN ('queued', 'uncertain') THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $6) ELSE due_at END,
    deferred_since = CASE WHEN $4 IN ('recycle', 'reap') THEN deferred_since
                          WHEN $4 = 'defer' AND $7 THEN coalesce(deferred_since, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) END,
    finished_at = CASE WHEN $8 THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END,
    relay       = CASE WHEN $9 THEN $10 ELSE relay       END,
    class       = CASE WHEN $9 THEN $11 ELSE class       END,
    code        = CASE WHEN $9 THEN $12 ELSE code        END,
    enhanced    = CASE WHEN $9 THEN $13 ELSE enhanced    END,
    reply       = CASE WHEN $9 THEN $14 ELSE reply       END,
    provider_id = CASE WHEN $9 THEN $15 ELSE provider_id END
WHERE message_id = $1 AND seq = $2 AND +state IN ('sending', 'uncertain') AND coalesce(lease_token, doubt_token) = $3;

-- name: settle_sent
-- A delivery that a relay accepted: $1 id, $2 seq, $3 token, $4 relay, $5 class, $6 code, $7 enhanced, $8 reply, $9 provider id.
UPDATE outbox_deliveries
SET state = 'sent', finished_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), lease_token = NULL, doubt_token = NULL, deferred_since = NULL, lapses = 0,
    relay = $4, class = $5, code = $6, enhanced = $7, reply = $8, provider_id = $9
WHERE message_id = $1 AND seq = $2 AND +state IN ('sending', 'uncertain') AND coalesce(lease_token, doubt_token) = $3;

-- name: suppress_bounced
-- $1 settlements that took effect and that put their recipient on the suppression list.
INSERT INTO outbox_suppressions (address, reason, source, message_id)
SELECT lower(d.recipient), coalesce(value ->> 'reply', 'a delivery failed'), 'bounce', d.message_id
FROM json_each($1) CROSS JOIN outbox_deliveries d ON d.message_id = value ->> 'id' AND d.seq = value ->> 'seq'
WHERE TRUE ON CONFLICT (address) DO NOTHING;

-- name: record_feedback
-- $1 feedback. What is there already stays.
INSERT INTO outbox_feedback (message_id, seq, event_id, kind, at, code, enhanced, detail)
SELECT d.message_id, d.seq, value ->> 'event_id', value ->> 'kind', coalesce(value ->> 'at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
       value ->> 'code', value ->> 'enhanced', value ->> 'detail'
FROM json_each($1) CROSS JOIN outbox_deliveries d ON d.message_id = value ->> 'id' AND d.seq = value ->> 'seq'
WHERE TRUE ON CONFLICT (message_id, seq, event_id) DO NOTHING
RETURNING message_id AS id, seq, event_id;

-- name: note_attempts
-- $1 settlements that took effect, with their owner. One that is not counted is noted with the number that it would have had.
INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, relay, stage, class, code, enhanced, reply)
SELECT d.message_id, d.seq, d.attempts + (value ->> 'uncounted'), value ->> 'verb',
       strftime('%Y-%m-%dT%H:%M:%fZ', 'now', (-(value ->> 'duration_ms') / 1000.0) || ' seconds'), value ->> 'duration_ms', value ->> 'owner',
       value ->> 'relay', value ->> 'stage', value ->> 'class', value ->> 'code', value ->> 'enhanced', value ->> 'reply'
FROM json_each($1) CROSS JOIN outbox_deliveries d ON d.message_id = value ->> 'id' AND d.seq = value ->> 'seq';

-- name: mark_lapsed
-- A claim that is marked is never renewed or fenced again.
UPDATE outbox_claims SET lapsed = 1 WHERE lease_until <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AND NOT lapsed;

-- name: lapse_all
-- Every claim, whoever holds it.
UPDATE outbox_claims SET lapsed = 1 WHERE NOT lapsed;

-- name: excuse
-- What lapses beside a claim of one suspect is not to blame. Its claims may lapse before or after that of the suspect.
UPDATE outbox_claims SET excused = 1
WHERE NOT alone AND NOT excused AND EXISTS (SELECT 1 FROM outbox_claims s WHERE s.owner = outbox_claims.owner AND s.alone AND s.lapsed);

-- name: lapsed
-- $1 rows at most. Deliveries whose claim is marked, or gone: then nothing is known of them.
SELECT d.message_id AS id, d.seq, d.lease_token AS token, c.token IS NULL AS orphaned, coalesce(c.fenced, 1) AS fenced,
       coalesce(c.owner, '') AS owner, coalesce(c.relay, '') AS claim_relay, coalesce(d.relay, '') AS relay, coalesce(d.class, '') AS class,
       coalesce(m.on_uncertain, 'resend') AS on_uncertain, d.lapses,
       coalesce(c.alone OR NOT c.excused AND NOT EXISTS (SELECT 1 FROM outbox_claims s WHERE s.owner = c.owner AND s.alone), 0) AS blamed
FROM outbox_deliveries d LEFT JOIN outbox_claims c ON c.token = d.lease_token LEFT JOIN outbox_messages m ON m.id = d.message_id
WHERE d.state = 'sending' AND (c.token IS NULL OR c.lapsed) LIMIT $1;

-- name: lapsed_fences
-- The fences of marked claims, the last one first.
SELECT f.token, coalesce(f.relay, '') AS relay, f.refs FROM outbox_claims c CROSS JOIN outbox_fences f ON f.token = c.token
WHERE c.lapsed ORDER BY f.id DESC;

-- name: end_lapsed
-- Claims that hold nothing any more.
DELETE FROM outbox_claims
WHERE lapsed AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.state = 'sending' AND d.lease_token = outbox_claims.token);

-- name: end_claim
-- $1 token. A claim that holds nothing any more.
DELETE FROM outbox_claims
WHERE token = $1 AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.state = 'sending' AND d.lease_token = $1);

-- name: resend_uncertain
-- $1 rows at most. The policy of the message resolves the doubt once its delay is over. What lapsed five times in a row is held.
UPDATE outbox_deliveries
SET state = CASE WHEN lapses >= 5 THEN 'held' ELSE 'queued' END, due_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), doubt_token = NULL
WHERE state = 'uncertain' AND (message_id, seq) IN (
  SELECT d.message_id, d.seq FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
  WHERE d.state = 'uncertain' AND d.due_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AND m.on_uncertain = 'resend' LIMIT $1)
RETURNING state;

-- name: expire
-- $1 rows at most.
UPDATE outbox_deliveries SET state = 'expired', finished_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE state IN ('queued', 'held') AND (message_id, seq) IN (
  SELECT message_id, seq FROM outbox_deliveries
  WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AND expires_at IS NOT NULL AND finished_at IS NULL AND state IN ('queued', 'held')
  ORDER BY expires_at LIMIT $1)
RETURNING message_id AS id, seq;

-- name: reapable
-- Whether the statements above would find something, read without the write lock: lapsed claims and deliveries whose claim is gone, doubt,
-- deadlines.
SELECT EXISTS (SELECT 1 FROM outbox_claims WHERE lapsed OR lease_until <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
       OR EXISTS (SELECT lease_token FROM outbox_deliveries WHERE state = 'sending' EXCEPT SELECT token FROM outbox_claims) AS lapsed,
       EXISTS (SELECT 1 FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
               WHERE d.state = 'uncertain' AND d.due_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AND m.on_uncertain = 'resend') AS doubtful,
       EXISTS (SELECT 1 FROM outbox_deliveries
               WHERE expires_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') AND expires_at IS NOT NULL
                 AND finished_at IS NULL AND state IN ('queued', 'held')) AS overdue;

-- name: heartbeat
-- $1 id, $2 host, $3 process, $4 version, $5 health by relay.
INSERT INTO outbox_dispatchers (id, host, pid, version, started_at, seen_at, relays)
SELECT $1, $2, $3, $4, now, now, $5 FROM outbox_clock WHERE TRUE
ON CONFLICT (id) DO UPDATE SET host = excluded.host, pid = excluded.pid, version = excluded.version, seen_at = excluded.seen_at,
  relays = excluded.relays;

-- name: forget_dispatchers
-- Who has not been seen for a day.
DELETE FROM outbox_dispatchers WHERE seen_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 day');

-- name: dispatchers
SELECT id, host, pid, version, started_at, seen_at, relays, (julianday('now') - julianday(seen_at)) * 86400.0 AS silent
FROM outbox_dispatchers ORDER BY started_at, id;

-- name: minutes
-- What was finished in each of the last five minutes. $1 state.
SELECT CAST((julianday('now') - julianday(finished_at)) * 1440.0 AS INTEGER) AS ago, count(*) AS deliveries FROM outbox_deliveries
WHERE state = $1 AND finished_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-5 minutes') AND finished_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
GROUP BY 1 ORDER BY 1;

-- name: is_old
-- $1 state, $2 age as '-60.000 seconds'. Whether purge_old would find something, read without the write lock.
SELECT EXISTS (SELECT 1 FROM outbox_deliveries WHERE state = $1 AND finished_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $2));

-- name: purge_old
-- $1 state, $2 age as '-60.000 seconds', $3 rows at most.
DELETE FROM outbox_deliveries WHERE (message_id, seq) IN (
  SELECT message_id, seq FROM outbox_deliveries WHERE state = $1 AND finished_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $2)
  ORDER BY finished_at LIMIT $3)
RETURNING message_id AS id, seq;

-- name: finished
-- $1 state, $2 age as '-60.000 seconds', $3 $4 $5 the row after which to begin, $6 rows at most.
SELECT message_id AS id, seq, finished_at FROM outbox_deliveries
WHERE state = $1 AND finished_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $2) AND (finished_at, message_id, seq) > ($3, $4, $5)
ORDER BY finished_at, message_id, seq LIMIT $6;

-- name: has_body
-- $1 ids of messages. Which of them scrub could change, read without the write lock.
SELECT m.id FROM json_each($1) AS x CROSS JOIN outbox_messages m ON m.id = x.value WHERE m.body IS NOT NULL;

-- name: scrub
-- $1 ids of messages, $2 age of the last delivery as '-60.000 seconds'.
UPDATE outbox_messages SET body = NULL, metadata = NULL
WHERE id IN (SELECT value FROM json_each($1)) AND body IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = outbox_messages.id
                  AND (d.finished_at IS NULL OR d.finished_at > strftime('%Y-%m-%dT%H:%M:%fZ', 'now', $2)))
RETURNING id;

-- name: progress
-- $1 chore. A minute before it stood, because what finished by then may have been committed later.
SELECT strftime('%Y-%m-%dT%H:%M:%fZ', done_until, '-60 seconds') FROM outbox_chores WHERE name = $1;

-- name: set_progress
-- $1 chore, $2 until when it is done.
INSERT INTO outbox_chores (name, done_until) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET done_until = excluded.done_until WHERE outbox_chores.done_until < excluded.done_until;

-- name: rewind_scrubbing
-- $1 keys of deliveries that were purged. What is left of their messages may have been passed over because of them, so that each chore
-- begins no later than with the earliest of it.
UPDATE outbox_chores SET done_until = x.finished_at
FROM (SELECT 'scrub ' || d.state AS chore, min(d.finished_at) AS finished_at
      FROM outbox_messages m CROSS JOIN outbox_deliveries d ON d.message_id = m.id
      WHERE m.id IN (SELECT value ->> 'id' FROM json_each($1)) AND m.body IS NOT NULL AND d.finished_at IS NOT NULL
      GROUP BY d.state) AS x
WHERE name = x.chore AND done_until > x.finished_at;

-- name: free_keys
-- $1 keys of deliveries that were cancelled. A message of which nothing is left but cancelled deliveries gives its key back.
UPDATE outbox_messages SET idempotency_key = NULL
WHERE id IN (SELECT value ->> 'id' FROM json_each($1)) AND idempotency_key IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = outbox_messages.id AND d.state <> 'cancelled');

-- name: forget_attempts
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_attempts WHERE (message_id, seq) IN (SELECT value ->> 'id', value ->> 'seq' FROM json_each($1));

-- name: forget_feedback
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_feedback WHERE (message_id, seq) IN (SELECT value ->> 'id', value ->> 'seq' FROM json_each($1));

-- name: forget_messages
-- $1 keys of deliveries that were purged.
DELETE FROM outbox_messages WHERE id IN (SELECT value ->> 'id' FROM json_each($1))
  AND NOT EXISTS (SELECT 1 FROM outbox_deliveries d WHERE d.message_id = outbox_messages.id);

-- name: message_by_rfc_id
-- $1 Message-ID with its brackets, of a message that brought its own: the condition is that of the index.
SELECT id FROM outbox_messages WHERE message_id = $1 AND instr(message_id, id) = 0 LIMIT 3;

-- name: sealed_rows
-- $1 ids.
SELECT m.id, coalesce(m.body_key_id, '') AS key_id, m.body, m.subject, coalesce(m.metadata, '') AS metadata
FROM json_each($1) AS x CROSS JOIN outbox_messages m ON m.id = x.value;

-- name: body
-- $1 id, $2 bytes of a part. A body that is NULL has one part, which is NULL. SQLite loads the body anew for
-- each part, so that parts must not be small.
WITH RECURSIVE part(at) AS (
  SELECT 0 UNION ALL SELECT at + $2 FROM part WHERE at + $2 < (SELECT length(body) FROM outbox_messages WHERE id = $1)
)
SELECT length(m.body) AS size, part.at, substr(m.body, part.at + 1, $2) AS part
FROM outbox_messages m CROSS JOIN part WHERE m.id = $1;

-- name: note_change
-- $1 keys of deliveries that an operator changed, $2 verb, $3 actor, $4 reason.
INSERT INTO outbox_attempts (message_id, seq, attempt, verb, started_at, duration_ms, owner, reply)
SELECT value ->> 'id', value ->> 'seq', 0, $2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 0, $3, $4 FROM json_each($1);
