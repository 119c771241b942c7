-- Every aggregate through the log: options, windows, elements of arrays, days in
-- a time zone; equal to recomputation wherever the clock stands.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
SET cdp.now = '2026-03-28 12:00+00';

SELECT create_trait('sd', aggregate => 'stddev', value => $$(properties->>'x')::numeric$$);
SELECT create_trait('sd_all', aggregate => 'stddev', value => $$(properties->>'x')::numeric$$, options => '{"population": true}', within => '20 days');
SELECT create_trait('rare', aggregate => 'least_frequent', value => $$properties->>'s'$$);
SELECT create_trait('since_when', aggregate => 'first_time', event => 'A');
SELECT create_trait('last_when', aggregate => 'last_time', event => 'A', newer_than => '10 days', older_than => '1 day', timezone => 'Europe/Berlin');
SELECT create_trait('recent', aggregate => 'list', value => $$properties->>'s'$$, options => '{"size": 3}');
SELECT create_trait('recent_month', aggregate => 'list', value => $$(properties->>'x')::int$$, options => '{"size": 3}', within => '1 month');
SELECT create_trait('letters', aggregate => 'unique_list', value => $$properties->>'s'$$, options => '{"size": 3}');
SELECT create_trait('numbers', aggregate => 'unique_list', value => $$(properties->>'x')::numeric$$);
SELECT create_trait('median', aggregate => 'percentile', value => $$(properties->>'x')::numeric$$);
SELECT create_trait('p90', aggregate => 'percentile', value => $$(properties->>'x')::numeric$$, options => '{"p": 0.9}', within => '30 days');
SELECT create_trait('visits', aggregate => 'sessions');
SELECT create_trait('visit_time', aggregate => 'session_time', options => '{"gap": "6 hours"}');
SELECT create_trait('visit_length', aggregate => 'session_length', options => '{"gap": "1 day"}', within => '20 days');
SELECT create_trait('visit_events', aggregate => 'session_events', options => '{"gap": "1 day"}');
SELECT create_trait('a_day', aggregate => 'rate', timezone => 'America/New_York');
SELECT create_trait('days', aggregate => 'streak', timezone => 'Europe/Berlin');
SELECT create_trait('weeks', aggregate => 'streak', timezone => 'Asia/Tokyo', options => '{"unit": "week"}');
SELECT create_trait('best_days', aggregate => 'longest_streak', timezone => 'Europe/Berlin', since => '2026-02-01');
SELECT create_trait('last_month', aggregate => 'count', older_than => '10 days', newer_than => '1 month');
SELECT create_trait('old', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, older_than => '1 month');
SELECT create_trait('in_march', aggregate => 'count', since => '2026-03-01');
SELECT create_trait('items', aggregate => 'count', each => $$properties->'items'$$);
SELECT create_trait('spent', aggregate => 'sum', each => $$properties->'items'$$, value => $$(item->>'p')::numeric * (item->>'q')::int$$, filter => $$item->>'q' <> '0'$$);
SELECT create_trait('last_item', aggregate => 'last', each => $$properties->'items'$$, value => $$item->>'n'$$);
SELECT create_trait('item_names', aggregate => 'unique_list', each => $$properties->'items'$$, value => $$item->>'n'$$, within => '20 days');
SELECT create_segment('on_a_roll', 'days >= 2');
SELECT create_segment('busy', 'a_day > 0.25');
SELECT create_segment('fading', 'last_month > 5 AND visits > 3');
SELECT name, aggregate, type, each, within, older_than, since, options FROM traits ORDER BY name;

-- no batch has come yet
BEGIN;
UPDATE applier SET clock = '-infinity';
SELECT * FROM verify();
ROLLBACK;

-- 600 entries of 40 people, out of order; every 97th x is no number, every 101st
-- list no list, and some elements have no number either
CREATE TABLE public.input AS
SELECT i, 'u' || i * 7 % 40 AS who, (ARRAY['A', 'B', 'C'])[i % 3 + 1] AS event,
	   CASE WHEN i % 97 = 0 THEN 'many' ELSE (i * 31 % 53)::text END AS x,
	   CASE WHEN i % 5 > 0 THEN chr(97 + i * 11 % 13) END AS s,
	   CASE WHEN i % 101 = 0 THEN '"x"'::jsonb WHEN i % 7 = 0 THEN 'null'
			ELSE (SELECT jsonb_agg(jsonb_build_object('n', 'n' || i * k % 9, 'p', k,
				  'q', CASE WHEN (i + k) % 103 = 0 THEN 'q' ELSE (k % 3)::text END)) FROM generate_series(1, i % 5) k) END AS items,
	   timestamptz '2026-01-20 00:00+00' + i * 389 % 601 * interval '2 hours 41 minutes' AS at
FROM generate_series(1, 600) i;
INSERT INTO events (event, properties, identifiers, occurred_at, message_id)
SELECT event, jsonb_strip_nulls(jsonb_build_object('x', x, 's', s, 'items', items)), ARRAY[identifier('user_id', who)], at, 'm' || i
FROM public.input ORDER BY md5(i::text);
SELECT apply();
SELECT * FROM verify();

-- against plain SQL
CREATE VIEW public.plain AS
WITH c AS (
	SELECT *, CASE WHEN x <> 'many' THEN x::numeric END AS v, E'sql\x01m' || i AS tie,
		   COALESCE(at - lag(at) OVER (PARTITION BY who ORDER BY at) > '30 minutes', true) AS fresh
	FROM public.input
)
SELECT who, round(stddev_samp(v), 9) AS sd,
	   round(stddev_pop(v) FILTER (WHERE at > clock() - interval '20 days'), 9) AS sd_all,
	   min(at) FILTER (WHERE event = 'A') AS since_when,
	   to_jsonb((array_agg(s ORDER BY at DESC, tie COLLATE "C" DESC) FILTER (WHERE s IS NOT NULL))[1:3]) AS recent,
	   to_jsonb(array_agg(DISTINCT v) FILTER (WHERE v IS NOT NULL)) AS numbers,
	   percentile_disc(0.5) WITHIN GROUP (ORDER BY v) AS median,
	   percentile_disc(0.9) WITHIN GROUP (ORDER BY v) FILTER (WHERE at + '30 days' > clock()) AS p90,
	   count(*) FILTER (WHERE fresh) AS visits,
	   count(*)::numeric / ((clock() AT TIME ZONE 'America/New_York')::date - (min(at) AT TIME ZONE 'America/New_York')::date + 1) AS a_day,
	   count(*) FILTER (WHERE at + '10 days' <= clock() AND at + '1 month' > clock()) AS last_month,
	   sum(v) FILTER (WHERE at + '1 month' <= clock()) AS old,
	   count(*) FILTER (WHERE at >= '2026-03-01') AS in_march,
	   COALESCE(sum(CASE WHEN jsonb_typeof(items) = 'array' THEN jsonb_array_length(items) END), 0) AS items
FROM c GROUP BY who;
CREATE VIEW public.differences AS
SELECT e.who, to_jsonb(e) AS expected, p AS found
FROM public.plain e JOIN profile_traits p ON p.profile_id = resolve(identifier('user_id', e.who))
WHERE (e.sd, e.sd_all, e.since_when, e.recent, e.numbers, e.median, e.p90, e.visits, e.a_day, e.last_month, e.old, e.in_march, e.items)
	IS DISTINCT FROM (round(p.sd, 9), round(p.sd_all, 9), p.since_when, p.recent, p.numbers, p.median, p.p90, p.visits, p.a_day, p.last_month, p.old, p.in_march, p.items);
SELECT * FROM public.differences;
SELECT traits FROM profiles WHERE profile_id = resolve('user_id:u1');
-- NULLs and errors, by trait; an element that fails takes no other with it
SELECT name, errors, nulls, last_error FROM stat_traits WHERE errors > 0 OR nulls > 0 ORDER BY name COLLATE "C";

-- the clock moves on, across the day with 23 hours, and nothing else happens
CREATE FUNCTION public.at(timestamptz, OUT members bigint, OUT differences bigint, OUT verified bigint) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('cdp.now', $1::text, false);
	PERFORM apply();
	members := (SELECT count(*) FROM memberships);
	differences := (SELECT count(*) FROM public.differences);
	verified := (SELECT count(*) FROM verify());
END $$;
SELECT t, a.* FROM generate_series(timestamptz '2026-03-28 22:59:59+00', '2026-04-01', '9 hours 20 minutes') t, public.at(t) a;
SELECT t, a.* FROM generate_series(timestamptz '2026-04-08 11:00+00', '2026-06-01', '17 days 7 hours') t, public.at(t) a;
-- entries go, and what they gave goes with them: of the same message the
-- earliest counts, whatever it says
INSERT INTO events (event, properties, identifiers, occurred_at, message_id)
SELECT 'Z', CASE WHEN i % 2 = 0 THEN '{"x": "1", "s": "zz", "items": [{"n": "new"}]}'::jsonb END, ARRAY[identifier('user_id', 'u' || i % 3)], at - interval '1 hour', 'm' || i
FROM public.input WHERE i % 9 = 0;
SELECT apply();
SELECT * FROM verify();

-- a streak lives until a whole day was left out, in the days of its time zone
SET cdp.now = '2026-10-20 00:00+00';
SELECT track('Run', user_id => 'runner', occurred_at => t) IS NOT NULL AS ok FROM unnest(ARRAY['2026-10-23 23:30+02', '2026-10-24 23:30+02', '2026-10-25 23:30+01']::timestamptz[]) t, set_config('cdp.now', t::text, false);
CREATE FUNCTION public.runner(timestamptz, OUT days jsonb, OUT best jsonb, OUT weeks jsonb, OUT rolls boolean) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('cdp.now', $1::text, false);
	PERFORM apply();
	SELECT traits->'days', traits->'best_days', traits->'weeks' INTO days, best, weeks FROM profiles WHERE profile_id = resolve('user_id:runner');
	rolls := in_segment(identifier('user_id:runner'), 'on_a_roll');
END $$;
-- Berlin: the day of the 25th has 25 hours
SELECT apply();
-- a segment that comes later sets the timers of those who are there
SELECT create_segment('weekly', 'weeks >= 2');
SELECT t, r.* FROM unnest(ARRAY['2026-10-25 22:30+00', '2026-10-25 22:59:59.999999+00', '2026-10-25 23:00+00', '2026-10-26 22:59:59.999999+00', '2026-10-26 23:00+00', '2026-11-02 15:00+00']::timestamptz[]) t, public.runner(t) r;
SELECT segment_members('weekly') = resolve('user_id:runner') AS still;
SELECT * FROM verify();
SELECT r.* FROM public.runner('2026-11-08 14:59:59+00') r;
SELECT count(*) FROM segment_members('weekly');
SELECT r.* FROM public.runner('2026-11-08 15:00+00') r;
SELECT count(*) FROM segment_members('weekly');
SELECT * FROM verify();
-- a day without midnight (Havana: 00:00 is 01:00), and one with two of them
SELECT create_trait('cuba', aggregate => 'streak', event => 'Havana', timezone => 'America/Havana');
SELECT create_segment('cuban', 'cuba > 0');
SET cdp.now = '2027-03-13 16:00+00';
SELECT track('Havana', user_id => 'cuban') IS NOT NULL AS ok;
SELECT apply();
CREATE FUNCTION public.cuban(timestamptz, OUT cuba jsonb, OUT member boolean) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('cdp.now', $1::text, false);
	PERFORM apply();
	SELECT traits->'cuba' INTO cuba FROM profiles WHERE profile_id = resolve('user_id:cuban');
	member := in_segment(identifier('user_id:cuban'), 'cuban');
END $$;
SELECT t, r.* FROM unnest(ARRAY['2027-03-14 04:59:59+00', '2027-03-14 05:00+00', '2027-03-15 03:59:59+00', '2027-03-15 04:00+00']::timestamptz[]) t, public.cuban(t) r;
SET cdp.now = '2027-11-06 16:00+00';
SELECT track('Havana', user_id => 'cuban') IS NOT NULL AS ok;
SELECT t, r.* FROM unnest(ARRAY['2027-11-06 16:00+00', '2027-11-07 03:59:59+00', '2027-11-07 04:00+00', '2027-11-08 04:59:59+00', '2027-11-08 05:00+00']::timestamptz[]) t, public.cuban(t) r;
SELECT * FROM verify();

-- many different values: estimated, within the stated errors; exact when asked for
SELECT create_trait('skus', aggregate => 'unique_count', value => $$properties->>'sku'$$);
SELECT create_trait('skus_exact', aggregate => 'unique_count', value => $$properties->>'sku'$$, options => '{"exact": true}');
SELECT create_trait('prices', aggregate => 'unique_count', value => $$(properties->>'price')::numeric$$);
SELECT create_trait('price_p95', aggregate => 'percentile', value => $$(properties->>'price')::numeric$$, options => '{"p": 0.95}');
SELECT create_trait('price_p95_exact', aggregate => 'percentile', value => $$(properties->>'price')::numeric$$, options => '{"p": 0.95, "exact": true}');
INSERT INTO events (event, properties, identifiers, message_id)
SELECT 'Sold', jsonb_build_object('sku', 's' || i * 7919 % 3000, 'price', ((i * 7919 % 10007)::numeric - 500) / 100), ARRAY[identifier('user_id', 'shop' || i % 2)], 'p' || i
FROM generate_series(1, 3000) i;
SELECT apply();
SELECT profile_id = resolve('user_id:shop0') AS first, skus_exact, skus <> skus_exact AS estimated, abs(skus - skus_exact) < 0.05 * skus_exact AS skus_close, abs(prices - 1500) < 75 AS prices_close,
	   abs(price_p95 / price_p95_exact - 1) < 0.004 AS p95_close
FROM profile_traits WHERE skus > 0 ORDER BY 1;
SELECT * FROM verify();
-- what is taken back was never in them: of these messages earlier ones count
-- now, and there are few enough values to be exact again
INSERT INTO events (event, properties, identifiers, occurred_at, message_id)
SELECT 'Sold', '{"sku": "s0", "price": 1}', ARRAY[identifier('user_id', 'shop' || i % 2)], clock() - interval '1 day', 'p' || i FROM generate_series(1, 1200) i;
SELECT apply();
SELECT skus = skus_exact AS skus, skus < 1000 AS few, price_p95 = price_p95_exact AS p95 FROM profile_traits WHERE skus > 0;
SELECT * FROM verify();
INSERT INTO events (event, properties, identifiers, message_id)
SELECT 'Sold', jsonb_build_object('sku', 's' || i * 7919 % 3000, 'price', ((i * 7919 % 10007)::numeric - 500) / 100), ARRAY[identifier('user_id', 'shop' || i % 2)], 'q' || i
FROM generate_series(1, 1200) i;
SELECT apply();
-- merged, the sketches add up; split, they come apart
SELECT merge('user_id:shop0', 'user_id:shop1', 'one shop') AS entry \gset
SELECT apply();
SELECT skus_exact, abs(skus - skus_exact) < 0.05 * skus_exact AS skus_close, abs(prices - 3000) < 150 AS prices_close, abs(price_p95 / price_p95_exact - 1) < 0.004 AS p95_close
FROM profile_traits WHERE skus > 0;
SELECT * FROM verify();
SELECT undo(:'entry') IS NOT NULL AS undone \gset
SELECT apply();
SELECT count(*) FROM profile_traits WHERE skus > 0;
SELECT * FROM verify();
SELECT bool_and(state::text::node_state::text = state::text) FROM identities;

-- what cannot be
SELECT create_trait('x', aggregate => 'list', value => 'event', options => '{"size": 0}');
SELECT create_trait('x', aggregate => 'list', value => 'event', options => '{"size": 2.5}');
SELECT create_trait('x', aggregate => 'list', value => 'event', options => '{"size": "3"}');
SELECT create_trait('x', aggregate => 'list', value => 'event', options => '{"length": 3}');
SELECT create_trait('x', aggregate => 'list');
SELECT create_trait('x', aggregate => 'unique_list', value => $$point(1, 2)$$);
SELECT create_trait('x', aggregate => 'percentile', value => 'id', options => '{"p": 95}');
SELECT create_trait('x', aggregate => 'percentile', value => 'event');
SELECT create_trait('x', aggregate => 'sessions', options => '{"gap": "1 month"}');
SELECT create_trait('x', aggregate => 'sessions', options => '{"gap": "-1 hour"}');
SELECT create_trait('x', aggregate => 'sessions', options => '{"gap": 30}');
SELECT create_trait('x', aggregate => 'streak', options => '{"unit": "month"}');
SELECT create_trait('x', aggregate => 'unique_count', value => 'event', options => '{"exact": 1}');
SELECT create_trait('x', aggregate => 'count', options => '{"exact": true}');
SELECT create_trait('x', type => 'text', options => '{"exact": true}');
SELECT create_trait('x', aggregate => 'count', within => '1 day', newer_than => '1 day');
SELECT create_trait('x', aggregate => 'count', within => '1 day', older_than => '1 day');
SELECT create_trait('x', aggregate => 'count', older_than => '-1 day');
SELECT create_trait('x', aggregate => 'count', since => 'infinity');
SELECT create_trait('x', expression => 'visits + 1', since => '2026-01-01');
SELECT create_trait('x', aggregate => 'count', each => $$event$$);
SELECT create_trait('x', aggregate => 'count', each => $$item$$);
SELECT create_trait('x', aggregate => 'count', filter => $$item IS NOT NULL$$);

-- altered options are a new state; "announce" is not
CREATE TEMP TABLE ids AS SELECT name, id FROM trait_definitions;
SELECT alter_trait('recent', options => '{"size": 2}');
SELECT alter_trait('letters', options => '{"size": 3, "announce": true}');
SELECT alter_trait('visits', aggregate => 'count');
SELECT alter_trait('last_month', older_than => '0', since => '2026-01-01');
SELECT alter_trait('in_march', since => '-infinity');
SELECT t.name, t.id = i.id AS same_id, t.older_than, t.since, t.options FROM trait_definitions t JOIN ids i USING (name) WHERE name IN ('recent', 'letters', 'visits', 'last_month', 'in_march') ORDER BY name COLLATE "C";
SELECT traits->'recent' AS recent FROM profiles WHERE profile_id = resolve('user_id:u1');
SELECT * FROM verify();

-- a value too long for a list is counted and left out
SELECT create_trait('words', aggregate => 'list', value => $$properties->>'word'$$);
SELECT track('Said', jsonb_build_object('word', w), user_id => 'poet') IS NOT NULL AS ok FROM unnest(ARRAY['short', repeat('long', 2001)]) w;
SELECT apply();
SELECT traits->'words' AS words FROM profiles WHERE profile_id = resolve('user_id:poet');
SELECT errors, last_error FROM stat_traits WHERE name = 'words';
SELECT * FROM verify();

SET client_min_messages = error;
DROP VIEW public.differences;
DROP EXTENSION cdp CASCADE;
DROP TABLE public.input;
