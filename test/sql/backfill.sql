-- Definitions that are built beside what comes: in steps, with entries, merges,
-- copies and undos between them; old versions until the new ones are whole.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
SET cdp.now = '2026-06-01 00:00+00';
SET cdp.backfill_at_once = 100;
SET cdp.batch_size = 200;

-- every message comes twice; people have accounts and devices
CREATE FUNCTION public.append(first int, last int) RETURNS void LANGUAGE sql AS $$
INSERT INTO cdp.events (source, type, event, identifiers, properties, occurred_at, message_id)
SELECT 's', 'track', (ARRAY['Viewed', 'Bought', 'Left'])[1 + i % 3],
	CASE WHEN i % 97 = 0 THEN ARRAY['user_id:u' || i * 7919 % 200, 'anonymous_id:a' || i * 31 % 150]
		WHEN i % 2 = 0 THEN ARRAY['anonymous_id:a' || i * 31 % 150]
		ELSE ARRAY['user_id:u' || i * 7919 % 200] END::cdp.identifier[],
	jsonb_build_object('revenue', i % 100), timestamptz '2026-05-01 00:00+00' + i * 7919 % 40000 * interval '1 minute', 'm' || i / 2
FROM generate_series(first, last) i
$$;
CREATE VIEW public.sums AS
SELECT sum((traits->>'ltv')::numeric) AS ltv, sum((traits->>'month')::bigint) AS month, sum((traits->>'twice')::numeric) AS twice,
	(SELECT count(*) FROM cdp.memberships WHERE segment = 'rich') AS rich,
	(SELECT count(*) FROM cdp.memberships WHERE segment = 'lookers') AS lookers
FROM cdp.profiles;
-- the same from the log, when everything is applied
CREATE FUNCTION public.differences() RETURNS TABLE (station text, key text, expected jsonb, found jsonb) LANGUAGE sql AS $$ SELECT * FROM cdp.verify() LIMIT 5 $$;

SELECT append(1, 3000);
SELECT apply();

-- a trait, one derived from it, and segments that wait for them
SELECT create_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Bought');
SELECT create_trait('month', aggregate => 'count', event => 'Bought', within => '30 days');
SELECT create_trait('twice', expression => 'coalesce(ltv, 0) * 2');
SELECT create_segment('rich', 'twice > 1000 AND month > 3');
SELECT create_segment('lookers', $$did('Viewed', at_least => 4, within => '30 days') AND NOT in_segment('rich')$$);
SELECT name, kind, status FROM traits ORDER BY name;
SELECT name, state FROM segments ORDER BY name;
SELECT what, phase, done, total, rate, requested_by = session_user AS by_me FROM progress ORDER BY what;
SELECT profile('user_id:u1')->'traits' AS traits;
SELECT in_segment('user_id:u1', 'rich');
SELECT * FROM segment_members('rich');
SELECT * FROM explain_segment('rich', 'user_id:u1');
SELECT matches('user_id:u1', 'ltv > 10');
SELECT matches('user_id:u1', $$in_segment('lookers')$$);
-- a window that is being folded is not waited for when it can be read from history
SELECT matches('user_id:u1', $$did('Viewed', at_least => 4, within => '30 days')$$) IS NOT NULL AS answered;
SELECT count(*) FROM preview_segment('month > 1');

-- steps, and entries between them
SELECT apply(500);
SELECT what, phase, done BETWEEN 1 AND total - 1 AS in_the_middle FROM progress WHERE what LIKE 'trait %' OR what LIKE '%: Viewed' ORDER BY what;
SELECT * FROM differences();
SELECT append(3001, 4000);
SELECT cdp.merge('user_id:u1', 'user_id:u199') IS NOT NULL AS merged;
SELECT cdp.undo('m77', 's') IS NOT NULL AS undone;
SELECT apply(700);
SELECT * FROM differences();
SELECT cdp.split('user_id:u1', 'user_id:u199') IS NOT NULL AS split;
SELECT apply(900);
SELECT * FROM differences();
SELECT count(*) > 0 AS building FROM progress;
SELECT apply() >= 0 AS applied;
SELECT * FROM progress;
SELECT * FROM differences();
SELECT name, status FROM traits ORDER BY name;
SELECT name, state FROM segments ORDER BY name;
SELECT s.*, s.twice = 2 * s.ltv AS derived FROM public.sums s;
SELECT kind, segment, cause, count(*) FROM changes WHERE cause = 'definition' GROUP BY 1, 2, 3 ORDER BY 1, 2;
SELECT segment, payload FROM changes WHERE kind = 'segment_defined' ORDER BY segment;

-- another version: the old one stays until it is whole
CREATE TABLE public.before AS SELECT * FROM public.sums;
SELECT alter_trait('ltv', filter => $$(properties->>'revenue')::int > 50$$);
SELECT name, status, filter FROM traits WHERE name = 'ltv';
SELECT apply(500);
SELECT b = s AS as_before FROM public.before b, public.sums s;
SELECT * FROM differences();
-- what is asked for meanwhile adds to it
SELECT alter_trait('ltv', description => 'more than fifty');
SELECT append(4001, 4300);
SELECT apply(500);
SELECT * FROM differences();
SELECT what, phase FROM progress;
SELECT apply();
SELECT name, status, filter, description FROM traits WHERE name = 'ltv';
SELECT s.ltv < b.ltv AS less FROM public.before b, public.sums s;
SELECT * FROM differences();
SELECT kind, segment, cause, count(*) > 0 AS some FROM changes WHERE cause = 'definition' GROUP BY 1, 2, 3 ORDER BY 1, 2;
SELECT count(*) FROM trait_definitions WHERE hidden;

-- cancelled, superseded, taken back, renamed
SELECT alter_trait('ltv', filter => $$(properties->>'revenue')::int > 90$$);
SELECT apply(500);
SELECT cancel_backfill('ltv');
SELECT name, status, filter FROM traits WHERE name = 'ltv';
SELECT cancel_backfill('ltv');
SELECT alter_trait('ltv', filter => $$(properties->>'revenue')::int > 90$$);
SELECT alter_trait('ltv', filter => $$(properties->>'revenue')::int > 10$$);
SELECT what FROM progress;
SELECT alter_trait('ltv', filter => $$(properties->>'revenue')::int > 50$$);
SELECT what FROM progress;
SELECT create_trait('left', aggregate => 'count', event => 'Left');
SELECT apply(500);
SELECT rename_trait('left', 'gone');
SELECT append(4301, 4400);
SELECT apply(400);
SELECT what, phase FROM progress;
SELECT * FROM differences();
SELECT apply();
SELECT * FROM differences();
SELECT alter_trait('gone', filter => 'true');
SELECT rename_trait('gone', 'left');
SELECT apply();
SELECT name, filter FROM traits WHERE name IN ('gone', 'left');
SELECT create_trait('n', aggregate => 'count');
SELECT create_segment('s', 'n > 1');
SELECT cancel_backfill('n');
SELECT cancel_backfill('s');
SELECT cancel_backfill('n');
SELECT create_segment('s', $$did('Left') AND did('Bought', at_least => 2)$$);
SELECT cancel_backfill('s');
SELECT count(*) FROM backfills;
SELECT create_trait('n', aggregate => 'count');
SELECT drop_trait('n');
SELECT count(*) FROM backfills;

-- another type: the old values cannot be kept
SELECT alter_trait('left', aggregate => 'last', value => $$properties->>'revenue'$$);
SELECT name, type, status FROM traits WHERE name = 'left';
SELECT cancel_backfill('left');
SELECT apply(500);
SELECT * FROM differences();
SELECT apply();
SELECT * FROM differences();
SELECT count(*) > 0 AS some FROM profile_traits WHERE "left" IS NOT NULL;

-- who is absorbed while a segment waits leaves it
SELECT alter_trait('ltv', aggregate => 'count', value => '');
SELECT apply(1);
SELECT name, state FROM segments ORDER BY name;
SELECT cdp.merge((SELECT min(identifier::text) FROM identities WHERE profile_id = m[1])::identifier,
	(SELECT min(identifier::text) FROM identities WHERE profile_id = m[2])::identifier) IS NOT NULL AS merged
FROM (SELECT array_agg(profile_id ORDER BY profile_id) AS m FROM memberships WHERE segment = 'rich') x;
SELECT apply(1);
SELECT * FROM differences();
SELECT alter_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$);
SELECT apply();
SELECT * FROM differences();

-- a segment that is altered goes on as it is until history is folded
SELECT count(*) AS rich FROM memberships WHERE segment = 'rich' \gset
SELECT alter_segment('rich', $$did('Left', at_least => 8)$$, description => 'often left');
SELECT apply(500);
SELECT state, predicate LIKE '%Left%' AS new, :rich = (SELECT count(*) FROM memberships WHERE segment = 'rich') AS as_before FROM segments WHERE name = 'rich';
SELECT in_segment('user_id:u1', 'rich') IS NOT NULL AS answered;
SELECT cdp.merge((SELECT min(identifier::text) FROM identities WHERE profile_id = m[1])::identifier,
	(SELECT min(identifier::text) FROM identities WHERE profile_id = m[2])::identifier) IS NOT NULL AS merged
FROM (SELECT array_agg(profile_id ORDER BY profile_id) AS m FROM memberships WHERE segment = 'rich') x;
SELECT alter_segment('rich', timezone => 'Europe/Berlin');
SELECT apply(1);
SELECT what, phase FROM progress ORDER BY what;
SELECT * FROM differences();
SELECT apply();
SELECT predicate, timezone, description, state, :rich = (SELECT count(*) FROM memberships WHERE segment = 'rich') AS as_before FROM segments WHERE name = 'rich';
SELECT * FROM differences();
-- taken back, cancelled, and impossible in the end
SELECT alter_segment('rich', $$did('Left', at_least => 2, within => '10 days')$$);
SELECT alter_segment('rich', $$did('Left', at_least => 8)$$);
SELECT count(*) FROM backfills;
SELECT alter_segment('rich', $$did('Left', at_least => 2, within => '10 days')$$);
SELECT cancel_backfill('rich');
SELECT count(*) FROM backfills;
SELECT create_segment('other', 'twice > 0');
SELECT apply();
SELECT alter_segment('rich', $$did('Left', at_least => 2, within => '10 days') AND in_segment('other')$$);
SELECT drop_segment('other');
SELECT apply();
SELECT name, predicate, state FROM segments WHERE name = 'rich';
SELECT count(*) FROM backfills;
SELECT * FROM differences();

-- errors of a version are its own; a pause; a rate
SELECT alter_trait('ltv', value => $$(100 / (properties->>'revenue')::int)::numeric$$, filter => '');
SET cdp.backfill_rate = -1;
SELECT apply();
SELECT what, phase, done FROM progress;
SET cdp.backfill_rate = 150;
SELECT apply();
SELECT what, phase, done BETWEEN 1 AND 400 AS little FROM progress;
SET cdp.backfill_rate = 0;
SELECT apply();
SELECT what, phase FROM progress;
SELECT name, errors > 0 AS failed, last_error FROM stat_traits WHERE name = 'ltv';
SELECT * FROM differences();

-- accounts follow what their members are found to be
SELECT count(cdp.group('acme', '{}', user_id => 'u' || i)) FROM generate_series(1, 20) i;
SELECT apply();
SELECT create_trait('seats', aggregate => 'count', event => 'Bought');
SELECT create_trait('all_seats', aggregate => 'sum', value => 'seats', entity => 'account', options => '{"over": "members"}');
SELECT apply();
SELECT (cdp.account('group_id:acme')->'traits'->>'all_seats')::int > 0 AS some;
SELECT alter_trait('seats', event => 'Left');
SELECT apply();
SELECT * FROM differences();

-- waiting
SELECT wait_backfill();
SELECT wait_backfill('ltv', '1 second');
SELECT wait_backfill('no_such');

SET client_min_messages = error;
DROP EXTENSION cdp CASCADE;
DROP TABLE public.before;
DROP VIEW IF EXISTS public.sums;
DROP FUNCTION public.append(int, int), public.differences();
