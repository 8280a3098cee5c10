-- Statements that read the same on every dialect.

-- name: draw
-- $1 relay, $2 how many were claimed.
UPDATE outbox_relays SET tokens = tokens - $2 WHERE name = $1;

-- name: message
-- $1 id.
SELECT CAST(id AS text) AS id, message_id AS rfc_id, coalesce(idempotency_key, '') AS idempotency_key, route, priority, sender,
       CAST(recipients AS text) AS recipients, subject, size, not_before, expires_at, on_uncertain, CAST(tags AS text) AS tags,
       CAST(metadata AS text) AS metadata, coalesce(trace_parent, '') AS trace_parent, created_at,
       body IS NULL AS scrubbed, coalesce(body_key_id, '') AS key_id
FROM outbox_messages WHERE id = $1;

-- name: attempts
-- $1 id.
SELECT seq, attempt, verb, started_at, duration_ms, owner, coalesce(relay, '') AS relay, coalesce(stage, '') AS stage,
       coalesce(class, '') AS class, coalesce(code, 0) AS code, coalesce(enhanced, '') AS enhanced, coalesce(reply, '') AS reply
FROM outbox_attempts WHERE message_id = $1 ORDER BY noted_at, id;

-- name: feedback
-- $1 id.
SELECT seq, event_id, kind, at, coalesce(code, 0) AS code, coalesce(enhanced, '') AS enhanced, coalesce(detail, '') AS detail, recorded_at
FROM outbox_feedback WHERE message_id = $1 ORDER BY at, seq, event_id;

-- name: deliveries_by_provider
-- $1 provider's id, $2 recipient, empty for all. The newest message first: short ids are used again.
SELECT CAST(message_id AS text) AS id, seq FROM outbox_deliveries
WHERE provider_id = $1 AND ($2 = '' OR lower(recipient) = lower($2)) ORDER BY message_id DESC, seq LIMIT 1000;

-- name: deliveries_of
-- $1 id of a message, $2 recipient, empty for all.
SELECT CAST(message_id AS text) AS id, seq FROM outbox_deliveries
WHERE message_id = $1 AND ($2 = '' OR lower(recipient) = lower($2)) ORDER BY seq;

-- name: suppress_delivery
-- $1 $2 a delivery, $3 reason, $4 source. An address that is on the list already keeps its entry.
INSERT INTO outbox_suppressions (address, reason, source, message_id)
SELECT lower(recipient), $3, $4, message_id FROM outbox_deliveries WHERE message_id = $1 AND seq = $2
ON CONFLICT (address) DO NOTHING;

-- name: counts
-- Counts by route and state. What is open has an index for each state, and of what is finished no more than the newest $1 of
-- each state are counted, so that the history costs nothing.
SELECT route, state, count(*) AS deliveries FROM outbox_deliveries WHERE state = 'queued' GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM outbox_deliveries WHERE state = 'sending' GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM outbox_deliveries WHERE state = 'uncertain' GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM outbox_deliveries WHERE state = 'held' GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM (
  SELECT route, state FROM outbox_deliveries WHERE state = 'sent' AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT $1
) AS x GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM (
  SELECT route, state FROM outbox_deliveries WHERE state = 'failed' AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT $1
) AS x GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM (
  SELECT route, state FROM outbox_deliveries WHERE state = 'expired' AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT $1
) AS x GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM (
  SELECT route, state FROM outbox_deliveries WHERE state = 'cancelled' AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT $1
) AS x GROUP BY route, state
UNION ALL SELECT route, state, count(*) FROM (
  SELECT route, state FROM outbox_deliveries WHERE state = 'suppressed' AND finished_at IS NOT NULL ORDER BY finished_at DESC LIMIT $1
) AS x GROUP BY route, state
ORDER BY 1, 2;

-- name: waiting
-- What of the queued is due, scheduled for later, or deferred after an attempt, and since when the oldest is due.
SELECT count(*) FILTER (WHERE due_at <= c.now) AS due,
       count(*) FILTER (WHERE due_at > c.now AND attempts = 0 AND deferred_since IS NULL AND lapses = 0) AS scheduled,
       count(*) FILTER (WHERE due_at > c.now AND (attempts > 0 OR deferred_since IS NOT NULL OR lapses > 0)) AS deferred,
       min(due_at) AS oldest
FROM outbox_deliveries CROSS JOIN outbox_clock c WHERE state = 'queued';

-- name: record_action
-- $1 actor, $2 verb, $3 filter, $4 affected, $5 reason.
INSERT INTO outbox_actions (actor, verb, filter, affected, reason) VALUES ($1, $2, $3, $4, $5) RETURNING CAST(id AS text);

-- name: amend_action
-- $1 id, $2 affected.
UPDATE outbox_actions SET affected = $2 WHERE id = $1;

-- name: pauses
SELECT route, paused_at, paused_by, reason FROM outbox_routes ORDER BY route;

-- name: pause
-- $1 route, $2 actor, $3 reason.
INSERT INTO outbox_routes (route, paused_at, paused_by, reason) SELECT $1, now, $2, $3 FROM outbox_clock WHERE TRUE
ON CONFLICT (route) DO UPDATE SET paused_by = excluded.paused_by, reason = excluded.reason;

-- name: resume
-- $1 route.
DELETE FROM outbox_routes WHERE route = $1;

-- name: resume_relay
-- $1 relay.
UPDATE outbox_relays SET paused_at = NULL, paused_until = NULL, paused_by = NULL, reason = NULL
WHERE name = $1 AND paused_until > (SELECT now FROM outbox_clock);

-- name: suppress
-- $1 address, $2 reason, $3 source, $4 the message that led to it.
INSERT INTO outbox_suppressions (address, reason, source, message_id) VALUES (lower($1), $2, $3, $4)
ON CONFLICT (address) DO UPDATE SET reason = excluded.reason, source = excluded.source, message_id = excluded.message_id;

-- name: unsuppress
-- $1 address.
DELETE FROM outbox_suppressions WHERE address = lower($1);

-- name: suppressions
-- $1 the address after which to begin, $2 rows at most.
SELECT address, reason, source, coalesce(CAST(message_id AS text), '') AS message_id, created_at
FROM outbox_suppressions WHERE address > $1 ORDER BY address LIMIT $2;

-- name: suppression
-- $1 address.
SELECT address, reason, source, coalesce(CAST(message_id AS text), '') AS message_id, created_at
FROM outbox_suppressions WHERE address = lower($1);

-- name: retire
-- $1 id of a dispatcher.
DELETE FROM outbox_dispatchers WHERE id = $1;

-- name: messages_between
-- $1 and $2, the first and the last id that a prefix stands for.
SELECT CAST(id AS text) AS id FROM outbox_messages WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 3;

-- name: messages_ending
-- $1 the end of an id as a pattern.
SELECT CAST(id AS text) AS id FROM outbox_messages WHERE CAST(id AS text) LIKE $1 ORDER BY id LIMIT 3;

-- name: message_named
-- $1 id, $2 Message-ID with its brackets, which this library made from the id.
SELECT CAST(id AS text) AS id FROM outbox_messages WHERE id = $1 AND message_id = $2;

-- name: rekeyable
-- $1 current key, $2 1 for those in clear as well, $3 the id after which to begin, $4 rows at most.
SELECT CAST(id AS text) AS id, size FROM outbox_messages
WHERE id > $3 AND (body_key_id <> $1 OR CAST($2 AS integer) = 1 AND body_key_id IS NULL AND body IS NOT NULL)
ORDER BY id LIMIT $4;

-- name: count_rekeyable
-- $1 current key, $2 1 for those in clear as well.
SELECT coalesce(body_key_id, '') AS key_id, count(*) AS n FROM outbox_messages
WHERE body_key_id <> $1 OR CAST($2 AS integer) = 1 AND body_key_id IS NULL AND body IS NOT NULL
GROUP BY body_key_id ORDER BY 1;

-- name: rekey
-- $1 id, $2 body, $3 subject, $4 metadata, $5 key; $6 the key that was read, empty for none, and $7 whether there was no body.
UPDATE outbox_messages SET body = $2, subject = $3, metadata = $4, body_key_id = $5
WHERE id = $1 AND coalesce(body_key_id, '') = $6 AND (body IS NULL) = $7;

-- name: actions
-- $1 rows at most, the newest first.
SELECT CAST(id AS text) AS id, at, actor, verb, coalesce(CAST(filter AS text), '') AS filter, coalesce(reason, '') AS reason, affected
FROM outbox_actions ORDER BY at DESC, id DESC LIMIT $1;

-- name: clock
SELECT now FROM outbox_clock;

-- name: overview_queued
-- $1 now, $2 until when a deadline is near.
SELECT route, count(*) FILTER (WHERE due_at <= $1) AS due,
       count(*) FILTER (WHERE due_at > $1 AND attempts = 0 AND deferred_since IS NULL) AS scheduled,
       count(*) FILTER (WHERE due_at > $1 AND (attempts > 0 OR deferred_since IS NOT NULL)) AS deferred,
       count(*) FILTER (WHERE expires_at <= $2) AS expiring, min(due_at) FILTER (WHERE due_at <= $1) AS oldest
FROM outbox_deliveries WHERE state = 'queued' GROUP BY route;

-- name: overview_open
-- What is neither queued nor finished.
SELECT d.route, d.state, count(*) AS deliveries, min(d.due_at) AS oldest FROM outbox_deliveries d WHERE d.state = 'sending' GROUP BY d.route, d.state
UNION ALL
SELECT d.route, d.state, count(*), min(d.due_at) FROM outbox_deliveries d WHERE d.state = 'uncertain' GROUP BY d.route, d.state
UNION ALL
SELECT d.route, d.state, count(*), min(m.created_at) FROM outbox_deliveries d JOIN outbox_messages m ON m.id = d.message_id
WHERE d.state = 'held' GROUP BY d.route, d.state;

-- name: overview_ended
-- $1 a terminal state, $2 since when, $3 at most.
SELECT route, count(*) AS deliveries FROM (
  SELECT route FROM outbox_deliveries WHERE state = $1 AND finished_at >= $2 ORDER BY finished_at DESC LIMIT $3
) AS x GROUP BY route;

-- name: overview_enqueued
-- $1 the least id of the time, $2 at most.
SELECT route, count(*) AS deliveries FROM (
  SELECT route FROM outbox_deliveries WHERE message_id >= $1 ORDER BY message_id DESC LIMIT $2
) AS x GROUP BY route;

-- name: overview_outcomes
-- $1 since when failed deliveries count.
SELECT relay, class, code, enhanced, min(reply) AS reply, count(*) AS deliveries FROM (
  SELECT coalesce(relay, '') AS relay, coalesce(class, '') AS class, coalesce(code, 0) AS code, coalesce(enhanced, '') AS enhanced,
         coalesce(reply, '') AS reply FROM outbox_deliveries WHERE state = 'queued' AND class IS NOT NULL
  UNION ALL
  SELECT coalesce(relay, ''), coalesce(class, ''), coalesce(code, 0), coalesce(enhanced, ''), coalesce(reply, '')
  FROM outbox_deliveries WHERE state = 'uncertain'
  UNION ALL
  SELECT coalesce(relay, ''), coalesce(class, ''), coalesce(code, 0), coalesce(enhanced, ''), coalesce(reply, '')
  FROM outbox_deliveries WHERE state = 'failed' AND finished_at >= $1
) AS x GROUP BY relay, class, code, enhanced ORDER BY count(*) DESC, relay, code LIMIT 100;

-- name: overview_lapsed
-- $1 until when a lease must have lapsed.
SELECT count(*) AS lapsed, min(k.lease_until) AS oldest FROM outbox_deliveries d JOIN outbox_claims k ON k.token = d.lease_token
WHERE d.state = 'sending' AND k.lease_until < $1;
