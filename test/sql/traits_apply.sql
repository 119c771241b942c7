-- Values of traits through the log: equal to plain SQL, whatever the order of
-- arrival; windows across moves of the clock; errors that stop nobody.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET IntervalStyle = postgres;
SET TimeZone = 'UTC';
\set SHOW_CONTEXT never
SET cdp.now = '2024-06-01 00:00+00';

SELECT create_trait('n', aggregate => 'count');
SELECT create_trait('n_a', aggregate => 'count', event => 'A');
SELECT create_trait('n_num', aggregate => 'count', value => $$(properties->>'x')::numeric$$);
SELECT create_trait('total', aggregate => 'sum', value => $$(properties->>'x')::numeric$$);
SELECT create_trait('mean', aggregate => 'avg', value => $$(properties->>'x')::numeric$$, event => 'A');
SELECT create_trait('low', aggregate => 'min', value => $$(properties->>'x')::int$$);
SELECT create_trait('high', aggregate => 'max', value => $$properties->>'s'$$);
SELECT create_trait('f', aggregate => 'first', value => $$properties->>'s'$$);
SELECT create_trait('l', aggregate => 'last', value => $$properties->'s'$$, filter => $$(properties->>'x')::int > 20$$);
SELECT create_trait('u', aggregate => 'unique_count', value => $$properties->>'s'$$);
SELECT create_trait('m', aggregate => 'most_frequent', value => $$properties->>'s'$$);
SELECT create_trait('e', aggregate => 'exists', filter => $$event = 'B' AND (properties->>'x')::int = 3$$);
SELECT create_trait('d', aggregate => 'unique_count', value => $$occurred_at::date$$, timezone => 'America/New_York');
SELECT create_trait('n_7d', aggregate => 'count', within => '7 days');
SELECT create_trait('sum_1mon', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, within => '1 month', timezone => 'Europe/Berlin');
SELECT create_trait('last_7d', aggregate => 'last', value => $$properties->>'s'$$, within => '7 days');
SELECT create_trait('m_30d', aggregate => 'most_frequent', value => $$properties->>'s'$$, within => '30 days');
SELECT create_trait('ratio', expression => $$round(total / n_a, 3)$$);

-- 600 entries of 40 people, out of order, 40 batches; every 17th x is no number
CREATE TABLE public.input AS
SELECT i, 'u' || i * 7 % 40 AS who, (ARRAY['A', 'B', 'C'])[i % 3 + 1] AS event,
	   CASE WHEN i % 17 = 0 THEN 'many' ELSE (i * 31 % 53)::text END AS x,
	   CASE WHEN i % 5 > 0 THEN chr(97 + i * 11 % 13) END AS s,
	   timestamptz '2024-04-01 00:00+00' + i * 389 % 601 * interval '2 hours 25 minutes' AS at
FROM generate_series(1, 600) i;
DO $$
BEGIN
	INSERT INTO cdp.events (event, properties, identifiers, occurred_at, message_id)
	SELECT event, jsonb_strip_nulls(jsonb_build_object('x', x, 's', s)), ARRAY[cdp.identifier('user_id', who)], at, 'm' || i
	FROM public.input ORDER BY md5(i::text);
END $$;
SELECT apply();
SELECT * FROM verify();

CREATE VIEW public.expected AS
WITH c AS (SELECT *, CASE WHEN x <> 'many' THEN x::numeric END AS v, source || E'\x01m' || i AS tie FROM public.input, (SELECT 'sql' AS source) q)
SELECT who, count(*) AS n, NULLIF(count(*) FILTER (WHERE event = 'A'), 0) AS n_a, count(v) AS n_num,
	   sum(v) AS total, avg(v) FILTER (WHERE event = 'A') AS mean, min(v) AS low,
	   max(s COLLATE "C") AS high, (array_agg(s ORDER BY at, tie COLLATE "C") FILTER (WHERE s IS NOT NULL))[1] AS f,
	   (array_agg(s ORDER BY at DESC, tie COLLATE "C" DESC) FILTER (WHERE s IS NOT NULL AND v > 20))[1] AS l,
	   count(DISTINCT s) AS u,
	   count(DISTINCT (at AT TIME ZONE 'America/New_York')::date) AS d,
	   bool_or(event = 'B' AND v = 3) IS TRUE AS e,
	   count(*) FILTER (WHERE at <= clock() AND at + '7 days' > clock()) AS n_7d,
	   sum(v) FILTER (WHERE at <= clock() AND (at AT TIME ZONE 'Europe/Berlin' + interval '1 month') AT TIME ZONE 'Europe/Berlin' > clock()) AS sum_1mon,
	   (array_agg(s ORDER BY at DESC, tie COLLATE "C" DESC) FILTER (WHERE s IS NOT NULL AND at <= clock() AND at + '7 days' > clock()))[1] AS last_7d
FROM c GROUP BY who;
CREATE VIEW public.differences AS
SELECT e.who, jsonb_strip_nulls(to_jsonb(e.*) - 'who') AS expected, p.traits AS found
FROM public.expected e
JOIN profiles p ON p.profile_id = resolve(identifier('user_id', e.who))
WHERE NOT jsonb_strip_nulls(to_jsonb(e.*) - 'who' - 'n_a') <@ p.traits
   OR (p.traits->'sum_1mon' IS NOT NULL) <> (e.sum_1mon IS NOT NULL)
   OR (p.traits->'last_7d' IS NOT NULL) <> (e.last_7d IS NOT NULL)
   OR (p.traits->'l' IS NOT NULL) <> (e.l IS NOT NULL);
SELECT count(*) FROM profiles;
SELECT * FROM public.differences;
-- typed columns say the same
SELECT count(*) FROM public.expected e JOIN profile_traits p ON p.profile_id = resolve(identifier('user_id', e.who))
WHERE (p.n, p.n_num, p.total, p.mean, p.low, p.high, p.f, p.u, p.e, p.n_7d, p.last_7d, p.ratio) IS NOT DISTINCT FROM
	  (e.n, e.n_num, e.total, e.mean, e.low::int, e.high, e.f, e.u, e.e, e.n_7d, e.last_7d, round(e.total / e.n_a, 3));

-- expressions that failed were counted, entry by entry and trait by trait
SELECT name, errors, last_error FROM stat_traits WHERE errors > 0 ORDER BY name;
SELECT count(*) FILTER (WHERE x = 'many') AS n, count(*) FILTER (WHERE x = 'many' AND event = 'A') AS a, count(*) FILTER (WHERE x = 'many' AND event = 'B') AS b FROM public.input;

-- the clock moves, and nothing else happens
SET cdp.now = '2024-06-03 12:00+00';
SELECT * FROM public.differences;
SELECT apply();
SELECT * FROM public.differences;
SELECT * FROM verify();
SET cdp.now = '2024-06-20 12:00+00';
SELECT apply();
SELECT * FROM public.differences;
SELECT * FROM verify();
-- an old entry comes late; the clock cannot go back
SET cdp.now = '2024-05-01 12:00+00';
INSERT INTO public.input VALUES (601, 'u1', 'A', '1000', 'zz', '2024-06-14 12:00+00'), (602, 'u1', 'A', '-1000', 'aa', '2024-03-01 12:00+00');
SELECT track(event, jsonb_build_object('x', x, 's', s), user_id => who, occurred_at => at, message_id => 'm' || i) IS NOT NULL FROM public.input WHERE i > 600;
SET cdp.now = '2024-06-20 12:00+00';
SELECT apply();
SELECT * FROM verify();

-- windows end at an instant, in the time zone of the trait
SELECT create_trait('dst', aggregate => 'count', event => 'Dst', within => '1 day', timezone => 'America/New_York');
SELECT create_trait('month', aggregate => 'exists', event => 'Dst', within => '1 month');
SET cdp.now = '2025-03-01 00:00+00';
SELECT track('Dst', user_id => 'dst', occurred_at => '2025-01-31 12:00+00') IS NOT NULL;
SET cdp.now = '2025-03-09 06:00+00';
SELECT track('Dst', user_id => 'dst', occurred_at => '2025-03-08 17:00+00') IS NOT NULL;
SELECT apply();
CREATE FUNCTION public.at(text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('cdp.now', $1, false);
	PERFORM apply();
	RETURN (SELECT jsonb_build_array(traits->'dst', traits->'month') FROM profiles WHERE profile_id = resolve('user_id:dst'));
END $$;
-- a day with 23 hours
SELECT public.at('2025-03-09 15:59:59.999999+00'), public.at('2025-03-09 16:00+00');
SELECT public.at('2025-04-08 16:59:59.999999+00'), public.at('2025-04-08 17:00+00');

-- entries in the future count at once without a window, and at their time with one
SELECT create_trait('soon', aggregate => 'count', event => 'Soon', within => '1 minute');
SELECT create_trait('soon_ever', aggregate => 'count', event => 'Soon');
SET cdp.now = '2025-05-01 00:00+00';
SELECT track('Soon', user_id => 'soon', occurred_at => '2025-05-01 00:02+00') IS NOT NULL;
SELECT apply();
SELECT traits->'soon' AS soon, traits->'soon_ever' AS ever FROM profiles WHERE profile_id = resolve('user_id:soon');
SET cdp.now = '2025-05-01 00:02+00';
SELECT traits->'soon' AS soon FROM profiles WHERE profile_id = resolve('user_id:soon');
SET cdp.now = '2025-05-01 00:03+00';
SELECT traits->'soon' AS soon FROM profiles WHERE profile_id = resolve('user_id:soon');

-- merge and split move no state
SELECT apply();
SELECT merge('user_id:u1', 'user_id:u2', 'same') AS entry \gset
SELECT apply();
SELECT traits->'n' = (SELECT to_jsonb(count(*)) FROM public.input WHERE who IN ('u1', 'u2')) AS both FROM profiles WHERE profile_id = resolve('user_id:u1');
SELECT * FROM verify();
SELECT undo(:'entry') IS NOT NULL;
SELECT apply();
SELECT traits->'n' = (SELECT to_jsonb(count(*)) FROM public.input WHERE who = 'u1') AS one FROM profiles WHERE profile_id = resolve('user_id:u1');
SELECT * FROM verify();

-- declared traits: the last writer wins by event time, null removes
SELECT create_trait('employees', type => 'numeric');
SELECT create_trait('since', type => 'timestamptz', timezone => 'Europe/Berlin', empty => '2000-01-01');
SELECT create_trait('active', type => 'boolean');
SELECT create_trait('seats', type => 'int');
SELECT create_trait('tags', type => 'jsonb');
CREATE VIEW public.bob AS SELECT p.traits - ARRAY['n', 'n_a', 'n_num', 'u', 'e', 'd', 'n_7d', 'dst', 'month', 'soon', 'soon_ever'] AS traits FROM profiles p WHERE p.profile_id = resolve('user_id:bob');
CREATE VIEW public.bob_typed AS SELECT employees, since, active, seats, tags FROM profile_traits p WHERE p.profile_id = resolve('user_id:bob');
SELECT identify('bob', '{"employees": 12, "Since": "2020-07-01", "active": "yes", "seats": 3, "tags": ["a"], "name": "Bob"}', occurred_at => '2025-04-02') IS NOT NULL;
SELECT identify('bob', '{"employees": 10, "active": false, "plan": "free", "gone": 1}', occurred_at => '2025-04-01') IS NOT NULL;
SELECT apply();
SELECT * FROM public.bob;
SELECT * FROM public.bob_typed;
SELECT identify('bob', '{"employees": "a dozen", "Since": "now", "active": null, "seats": 3.5, "tags": null, "gone": null}', occurred_at => '2025-04-03') IS NOT NULL;
SELECT apply();
SELECT * FROM public.bob;
SELECT * FROM public.bob_typed;
SELECT identify('bob', '{"gone": 2}', occurred_at => '2025-04-02 12:00') IS NOT NULL;
SELECT identify('bob', '{"SEATS": 7, "seats": 4}', occurred_at => '2025-04-04') IS NOT NULL;
SELECT apply();
SELECT * FROM public.bob;
SELECT * FROM public.bob_typed;
SELECT * FROM verify();

-- a declared value that does not fit is counted
SELECT name, errors > 0 AS counted, last_error FROM stat_traits WHERE aggregate = 'declared' AND errors > 0 ORDER BY name;

-- numbers that cannot be added up are refused; those that are not finite are added
SELECT track('A', '{"x": 1e1001}', user_id => 'odd'), track('A', '{"x": "NaN"}', user_id => 'odd2'), track('A', '{"x": "Infinity"}', user_id => 'odd3'), track('A', '{"x": 1.10}', user_id => 'odd3') \g /dev/null
SELECT apply();
SELECT i, traits->'total' AS total FROM unnest(ARRAY['user_id:odd', 'user_id:odd2', 'user_id:odd3']::identifier[]) i JOIN profiles ON profile_id = resolve(i) ORDER BY i;
SELECT * FROM verify();

-- a value that names the clock when it is looked at
SELECT create_trait('when', aggregate => 'last', value => $$(properties->>'t')::timestamptz$$);
SELECT track('T', '{"t": "now"}', user_id => 'when'), track('T', '{"t": "2024-02-03 04:05"}', user_id => 'when'), track('T', '{"t": "Yesterday"}', user_id => 'when') \g /dev/null
SELECT apply();
SELECT traits->'when' AS "when" FROM profiles WHERE profile_id = resolve('user_id:when');
SELECT value_sql FROM trait_definitions WHERE name = 'when';

-- one profile is found by an index
SET enable_seqscan = off;
SET enable_bitmapscan = off;
-- without the group keys, which PostgreSQL 16 no longer shows when constant
CREATE FUNCTION public.plan(query text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query
	LOOP
		IF line NOT LIKE '%Group Key:%' THEN
			RETURN NEXT line;
		END IF;
	END LOOP;
END $$;
SELECT public.plan('SELECT * FROM profiles WHERE profile_id = 1');
SELECT public.plan('SELECT n, total FROM profile_traits WHERE profile_id = 1');
RESET enable_seqscan;
RESET enable_bitmapscan;

-- the stored states survive their text and binary form
SELECT count(*) > 40 AS some, bool_and(state::text::node_state::text = state::text) AS text FROM identities WHERE state IS NOT NULL;
SELECT '\x02'::node_state;
SELECT '\x01'::node_state;
SELECT ''::node_state;
SELECT '\x01000000000000000000'::node_state;
SELECT '\x010000000000000000'::node_state;
CREATE FUNCTION public.mutate(s node_state, OUT refused int) LANGUAGE plpgsql AS $$
DECLARE
	b bytea := node_state_send(s);
BEGIN
	refused := 0;
	FOR i IN 0 .. length(b) - 1 LOOP
		FOR j IN 1 .. 3 LOOP
			BEGIN
				PERFORM traits_json(((CASE j WHEN 1 THEN set_byte(b, i, (get_byte(b, i) + 1) % 256)
					WHEN 2 THEN set_byte(b, i, get_byte(b, i) # 128)
					ELSE substr(b, 1, i) END)::text)::node_state);
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE LIKE 'XX%' AND SQLERRM NOT LIKE 'stored state of traits is damaged' AND SQLERRM NOT LIKE 'unsupported jsonb version%' THEN
					RAISE NOTICE '% %', SQLSTATE, SQLERRM;
				END IF;
				refused := refused + 1;
			END;
		END LOOP;
	END LOOP;
END $$;
SELECT min(refused) > 50 AS refused FROM identities, public.mutate(state) WHERE identifier IN ('user_id:bob', 'user_id:u1');

-- what is dropped or altered leaves no state behind
SELECT create_trait('n', aggregate => 'count', event => 'B', if_exists => 'replace');
SELECT * FROM verify();
SELECT drop_trait('total', cascade => true);
DROP VIEW public.bob_typed;
SELECT drop_trait('total', cascade => true);
SELECT drop_trait('m');
SELECT track('A', user_id => 'u3') IS NOT NULL;
SELECT apply();
SELECT * FROM verify();
SELECT count(*) FILTER (WHERE traits ? 'total') FROM profiles;

-- what changes at midnight is announced from when that is asked for
SET cdp.now = '2030-01-01 12:00+00';
SELECT track('Day', user_id => 'u3') IS NOT NULL;
SELECT apply();
SELECT create_trait('days', aggregate => 'streak', event => 'Day', options => '{"announce": true}');
SELECT create_trait('pace', aggregate => 'rate', event => 'Day');
SET cdp.now = '2030-01-03 12:00+00';
SELECT apply();
SELECT create_trait('pace_twice', expression => 'pace * 2');
SELECT alter_trait('pace_twice', options => '{"announce": true}');
SET cdp.now = '2030-01-04 12:00+00';
SELECT apply();
SELECT payload->>'trait' AS trait, (payload->'old')::numeric(3, 2) AS old, (payload->'new')::numeric(3, 2) AS new FROM changes WHERE kind = 'trait_changed' AND payload->>'trait' ~ '^(days|pace)' ORDER BY seq;

SET client_min_messages = error;
DROP EXTENSION cdp CASCADE;
DROP TABLE public.input;
