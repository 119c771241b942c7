-- Thousands of decisions in one batch, and one in a long log: what is looked up for
-- them is looked up, and not searched for from end to end.
CREATE EXTENSION cdp;
\set VERBOSITY terse
SET client_min_messages = warning;
SET stats_fetch_consistency = none;
-- how many entries of indexes have been read since the last time
CREATE TABLE seen (index name PRIMARY KEY, n bigint);
CREATE FUNCTION read_since(which name) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	is_ bigint;
	was bigint;
BEGIN
	PERFORM pg_stat_force_next_flush();
	SELECT sum(idx_tup_read) INTO is_ FROM pg_stat_user_indexes WHERE schemaname = 'cdp' AND indexrelname = which;
	SELECT n INTO was FROM seen WHERE index = which;
	INSERT INTO seen VALUES (which, is_) ON CONFLICT (index) DO UPDATE SET n = is_;
	RETURN is_ - coalesce(was, 0);
END;
$$;

-- and how many of their pages
CREATE FUNCTION pages_since(which name) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	is_ bigint;
	was bigint;
BEGIN
	PERFORM pg_stat_force_next_flush();
	SELECT sum(idx_blks_read + idx_blks_hit) INTO is_ FROM pg_statio_user_indexes WHERE schemaname = 'cdp' AND indexrelname = which;
	SELECT n INTO was FROM seen WHERE index = which;
	INSERT INTO seen VALUES (which, is_) ON CONFLICT (index) DO UPDATE SET n = is_;
	RETURN is_ - coalesce(was, 0);
END;
$$;

INSERT INTO cdp.events (message_id, source, event, identifiers, occurred_at)
SELECT 'm' || g, 'web', 'V', ARRAY['user_id:u' || g, 'anonymous_id:a' || g]::cdp.identifier[], '2026-01-01'
FROM generate_series(1, 3000) g;
INSERT INTO cdp.events (message_id, source, event, identifiers, occurred_at)
SELECT 'w' || g, 'web', 'V', '{anonymous_id:w}', '2026-01-01' FROM generate_series(1, 30000) g;
SELECT cdp.apply();

-- a merge is noted in the audit: the rest of the log is not read for that
SELECT pg_stat_force_next_flush();
SELECT pages_since('events_default_xid') > 0 AS before;
SELECT cdp.merge('user_id:u1', 'user_id:u2', 'the same') IS NOT NULL AS merged;
SELECT cdp.apply();
SELECT pg_stat_force_next_flush();
SELECT CASE WHEN n < 50 THEN 'few' ELSE n::text END AS pages FROM pages_since('events_default_xid') n;
SELECT action, object = (SELECT message_id FROM cdp.decisions WHERE type = 'merge') AS object_is_message
FROM cdp.audit WHERE action = 'merge';

-- two thousand splits at once, each announced with the split that did it
SELECT pg_stat_force_next_flush();
SELECT read_since('decisions_splits') >= 0 AS before;
INSERT INTO cdp.events (message_id, source, type, identifiers, properties, occurred_at)
SELECT 's' || g, 'manual', 'split', ARRAY['user_id:u' || g, 'anonymous_id:a' || g]::cdp.identifier[], '{"reason": "r", "author": "me"}', '2026-02-01'
FROM generate_series(1001, 3000) g;
SELECT cdp.apply();
SELECT pg_stat_force_next_flush();
SELECT CASE WHEN n < 100000 THEN 'few' ELSE n::text END AS read FROM read_since('decisions_splits') n;
SELECT count(*) AS splits, count(DISTINCT payload->'parts'->0->>'triggering_event_id') AS by,
	bool_and(payload->'parts'->0->>'triggering_event_id' = payload->'parts'->1->>'triggering_event_id') AS same
FROM cdp.changes WHERE kind = 'profile_split';

-- and back
INSERT INTO cdp.events (message_id, source, type, properties, occurred_at)
SELECT 'x' || g, 'manual', 'undo', jsonb_build_object('entry', 's' || g), '2026-02-02'
FROM generate_series(1001, 3000) g;
SELECT cdp.apply();
SELECT count(DISTINCT profile_id) AS profiles FROM cdp.identities;
SELECT count(*) AS wrong FROM cdp.verify();
DROP EXTENSION cdp CASCADE;
