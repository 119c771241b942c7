-- Ten thousand entries of earlier batches that stop counting at once, as copies
-- that are better arrive, and as they are undone.
CREATE EXTENSION cdp;
\set VERBOSITY terse
SET client_min_messages = warning;
SELECT cdp.create_trait('n', aggregate => 'count');

INSERT INTO cdp.events (message_id, event, identifiers, occurred_at)
SELECT 'm' || g, 'V', ARRAY['user_id:u' || g / 2, 'anonymous_id:c' || g]::cdp.identifier[],
	timestamptz '2026-02-01' + g * interval '1 s'
FROM generate_series(1, 10000) g;
SELECT cdp.apply();

-- earlier copies, with other cookies
INSERT INTO cdp.events (message_id, event, identifiers, occurred_at)
SELECT 'm' || g, 'V', ARRAY['user_id:u' || g / 2, 'anonymous_id:d' || g]::cdp.identifier[],
	timestamptz '2026-01-01' + g * interval '1 s'
FROM generate_series(1, 10000) g;

-- it can be stopped, and leaves nothing then
SET statement_timeout = '30ms';
SELECT cdp.apply();
RESET statement_timeout;
SELECT count(*) FILTER (WHERE cdp.kind(identifier) = 'anonymous_id' AND cdp.value(identifier) LIKE 'c%') AS c,
	count(*) FILTER (WHERE cdp.kind(identifier) = 'anonymous_id' AND cdp.value(identifier) LIKE 'd%') AS d
FROM cdp.identities;

SELECT cdp.apply();
SELECT count(*) FILTER (WHERE cdp.kind(identifier) = 'anonymous_id' AND cdp.value(identifier) LIKE 'c%') AS c,
	count(*) FILTER (WHERE cdp.kind(identifier) = 'anonymous_id' AND cdp.value(identifier) LIKE 'd%') AS d,
	count(DISTINCT profile_id) AS profiles, max(last_seen) < '2026-02-01' AS early
FROM cdp.identities;
SELECT sum((p.traits->>'n')::int) AS n FROM cdp.profiles p;

-- more undos than are kept in memory
INSERT INTO cdp.events (message_id, type, source, properties, occurred_at)
SELECT 'x' || g, 'undo', 'sql', jsonb_build_object('entry', 'm' || g), '2026-03-01'
FROM generate_series(1, 4000) g;
SELECT cdp.apply();
SELECT count(DISTINCT profile_id) AS profiles, count(*) AS identities, (SELECT count(*) FROM cdp.links) AS links,
	(SELECT count(*) FROM cdp.entries) AS entries, (SELECT sum((p.traits->>'n')::int) FROM cdp.profiles p) AS n
FROM cdp.identities;

-- and the undos of half of them are undone
INSERT INTO cdp.events (message_id, type, source, properties, occurred_at)
SELECT 'y' || g, 'undo', 'sql', jsonb_build_object('entry', 'x' || g), '2026-03-02'
FROM generate_series(2, 4000, 2) g;
SELECT cdp.apply();
SELECT count(DISTINCT profile_id) AS profiles, count(*) AS identities, (SELECT count(*) FROM cdp.links) AS links,
	(SELECT count(*) FROM cdp.entries) AS entries, (SELECT sum((p.traits->>'n')::int) FROM cdp.profiles p) AS n
FROM cdp.identities;
