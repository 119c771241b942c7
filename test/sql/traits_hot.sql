-- Windows of values, lists and sessions of somebody with many entries: in chunks, counted in memory.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET cdp.window_chunk = 4;
SET cdp.now = '2026-03-01';
SELECT count(cdp.create_trait(t.name, aggregate => t.aggregate, within => t.win, older_than => t.older, value => CASE WHEN t.value THEN $$(properties->>'x')::numeric$$ END, options => t.options::jsonb))
FROM (VALUES ('kinds', 'unique_count', interval '3 days', NULL::interval, true, '{"announce": true}'), ('usual', 'most_frequent', '3 days', NULL, true, '{"announce": true}'),
	('rare', 'least_frequent', '5 days', '1 day', true, '{}'), ('middle', 'percentile', '4 days', NULL, true, '{"p": 0.4}'), ('seen', 'unique_list', '4 days', NULL, true, '{"size": 30}'),
	('few', 'unique_list', '4 days', '2 hours', true, '{"size": 2}'), ('latest', 'list', '4 days', NULL, true, '{"size": 3}'), ('before', 'list', '4 days', '1 day', true, '{"size": 12}'),
	('visits', 'sessions', '4 days', NULL, false, '{"gap": "50 minutes"}'), ('length', 'session_length', '4 days', '3 hours', false, '{"gap": "50 minutes"}'),
	('days', 'streak', '4 days', NULL, false, '{}'), ('best', 'longest_streak', '30 days', NULL, false, '{}')) t(name, aggregate, win, older, value, options);
CREATE FUNCTION pg_temp.entries(first int, upto int, who text DEFAULT 'hot') RETURNS bigint LANGUAGE sql AS $$
	SELECT count(cdp.track('V', jsonb_build_object('x', CASE WHEN i % 5 = 0 THEN '1.0' WHEN i % 7 = 0 THEN '1.00' ELSE (hashint4(i) & 15)::text END::numeric), user_id => who,
		message_id => 'm' || i, occurred_at => timestamptz '2026-03-01' + (i + (i / 10)) * interval '20 minutes'))
	FROM generate_series(first, upto) i $$;
-- what is there is what a reader, who reads all, and a recomputation find
CREATE FUNCTION pg_temp.right_now() RETURNS boolean LANGUAGE sql AS $$
	SELECT p.profile->'traits' = cdp.profile_at('user_id:hot', cdp.clock() + interval '1 ms')->'traits' AND NOT EXISTS (SELECT FROM cdp.verify())
	FROM cdp.profile('user_id:hot') p(profile) $$;
SET cdp.now = '2026-03-03 00:00';
SELECT pg_temp.entries(1, 120), cdp.apply();
SELECT cdp.apply();
SELECT count(DISTINCT trait) AS traits, count(*) >= 12 AS chunks FROM cdp.window_items;
SELECT pg_temp.right_now();
-- a batch at a time, as the clock goes on; late entries; entries that leave
DO $$
BEGIN
	FOR i IN 0 .. 8 LOOP
		PERFORM set_config('cdp.now', (timestamptz '2026-03-03' + i * interval '9 hours')::text, false);
		PERFORM pg_temp.entries(121 + i * 9, 129 + i * 9);
		PERFORM cdp.track('V', '{"x": 1.0}', user_id => 'hot', message_id => 'late' || i, occurred_at => cdp.clock() - i * interval '7 hours');
		COMMIT;
		PERFORM cdp.apply();
		COMMIT;
		ASSERT pg_temp.right_now(), i;
	END LOOP;
END
$$;
-- what is announced follows from what was announced before
SELECT trait, count(*) > 0 AS some, bool_and(old = before) AS in_turn FROM (
	SELECT payload->>'trait' AS trait, payload->'old' AS old, lag(payload->'new', 1, payload->'old') OVER (PARTITION BY payload->>'trait' ORDER BY seq) AS before
	FROM cdp.changes WHERE kind = 'trait_changed') c GROUP BY 1 ORDER BY 1;
SELECT payload->'new' = cdp.profile('user_id:hot')->'traits'->'kinds' AS as_announced FROM cdp.changes WHERE payload->>'trait' = 'kinds' ORDER BY seq DESC LIMIT 1;
-- a new version that is built beside the old one takes its chunks along
SET cdp.backfill_at_once = 0;
SELECT cdp.alter_trait('kinds', within => '5 days'), cdp.alter_trait('visits', within => '5 days');
SELECT cdp.apply();
SELECT cdp.apply();
SELECT count(*) AS left_over FROM cdp.backfills;
SELECT pg_temp.right_now();
SELECT count(DISTINCT trait) AS traits, count(*) FILTER (WHERE NOT EXISTS (SELECT FROM cdp.trait_definitions d WHERE d.id = trait)) AS of_nobody FROM cdp.window_items;
-- batches that are rolled back, whole and in part
BEGIN;
SELECT pg_temp.entries(300, 310);
COMMIT;
BEGIN;
SELECT cdp.apply();
ROLLBACK;
SELECT pg_temp.right_now();
BEGIN;
SELECT cdp.apply(3);
SAVEPOINT s;
SELECT cdp.apply(3);
ROLLBACK TO s;
SELECT cdp.apply(2);
COMMIT;
SELECT pg_temp.right_now();
SELECT cdp.apply();
SELECT pg_temp.right_now();
-- something is taken away, and comes again
SELECT cdp.undo('m123', source => 'sql') AS undone \gset
SELECT cdp.apply();
SELECT pg_temp.right_now();
SELECT cdp.undo(:'undone') IS NOT NULL;
SELECT cdp.apply();
SELECT pg_temp.right_now();
-- another identifier with few entries, then with many; and gone again
SELECT pg_temp.entries(400, 404, 'other'), cdp.apply();
SELECT cdp.apply();
SELECT cdp.merge('user_id:hot', 'user_id:other') AS merged \gset
SELECT cdp.apply();
SELECT pg_temp.right_now();
SET cdp.now = '2026-03-07 12:00';
SELECT pg_temp.entries(150, 200, 'other'), pg_temp.entries(311, 313), cdp.apply();
SELECT cdp.apply();
SELECT pg_temp.right_now();
SET cdp.now = '2026-03-08';
SELECT pg_temp.entries(201, 203, 'other'), pg_temp.entries(314, 316), cdp.apply();
SELECT cdp.apply();
SELECT pg_temp.right_now();
SELECT cdp.undo(:'merged') IS NOT NULL;
SELECT cdp.apply();
SELECT pg_temp.right_now();
SET cdp.now = '2026-04-20';
SELECT cdp.apply();
SELECT pg_temp.right_now();
DROP EXTENSION cdp CASCADE;
