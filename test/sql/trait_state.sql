-- cdp.trait_state: states as values; the laws they obey.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET IntervalStyle = postgres;
\set SHOW_CONTEXT never

CREATE TABLE public.sample AS
SELECT i, i % 7 AS part,
	   CASE WHEN i % 11 = 0 THEN NULL ELSE (i * 37 % 101)::numeric / 4 END AS n,
	   CASE WHEN i % 13 = 0 THEN NULL ELSE chr(97 + i * 7 % 26) || i % 5 END AS t,
	   (i * 37 % 101)::float8 / 3 AS f,
	   timestamptz '2024-01-01 00:00+00' + i * 61 % 997 * interval '1 hour' AS at
FROM generate_series(1, 1000) i;

-- equal to plain SQL
SELECT finish(trait_state_agg('count', n, at)) = to_jsonb(count(n)) AS count,
	   finish(trait_state_agg('sum', n, at)) = to_jsonb(sum(n)) AS sum,
	   finish(trait_state_agg('sum', i, at)) = to_jsonb(sum(i)) AS sum_int,
	   finish(trait_state_agg('sum', f, at)) = to_jsonb(sum(f::numeric)) AS sum_float,
	   finish(trait_state_agg('avg', n, at)) = to_jsonb(avg(n)) AS avg,
	   finish(trait_state_agg('min', t, at)) = to_jsonb(min(t COLLATE "C")) AS min,
	   finish(trait_state_agg('max', n, at)) = to_jsonb(max(n)) AS max,
	   finish(trait_state_agg('first', t, at)) = to_jsonb((array_agg(t ORDER BY at, t COLLATE "C") FILTER (WHERE t IS NOT NULL))[1]) AS first,
	   finish(trait_state_agg('last', t, at)) = to_jsonb((array_agg(t ORDER BY at DESC, t COLLATE "C" DESC) FILTER (WHERE t IS NOT NULL))[1]) AS last,
	   finish(trait_state_agg('unique_count', t, at)) = to_jsonb(count(DISTINCT t)) AS unique_count,
	   finish(trait_state_agg('exists', n, at)) AS exists
FROM public.sample;
SELECT finish(trait_state_agg('most_frequent', t, at)) = to_jsonb((SELECT t FROM public.sample WHERE t IS NOT NULL GROUP BY t ORDER BY count(*) DESC, t COLLATE "C" LIMIT 1)) AS most_frequent
FROM public.sample;

-- of values of one time the smallest is the first and the greatest the last
SELECT finish(trait_state_agg('first', v, timestamptz '2024-01-01 00:00+00')) AS first,
	   finish(trait_state_agg('last', v, timestamptz '2024-01-01 00:00+00')) AS last
FROM (VALUES ('b'), ('a'), ('c'), ('b')) v(v);

-- the laws, for every aggregate: any order, any grouping, the same bytes
CREATE FUNCTION public.laws(aggregate text) RETURNS TABLE(aggregate_ text, reordered boolean, grouped boolean, commutes boolean, associates boolean, round_trip boolean, binary_ boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_variable
BEGIN
	RETURN QUERY
	WITH parts AS (
		SELECT part, trait_state_agg(aggregate, n, at) AS s FROM public.sample GROUP BY part
	), whole AS (
		SELECT trait_state_agg(aggregate, n, at) AS s FROM public.sample
	), abc AS (
		SELECT a.s AS a, b.s AS b, c.s AS c FROM parts a, parts b, parts c
		WHERE a.part = 0 AND b.part = 1 AND c.part = 2
	)
	SELECT aggregate,
		   (SELECT trait_state_agg(aggregate, n, at ORDER BY i DESC) = whole.s FROM public.sample),
		   (SELECT combine(s ORDER BY part DESC) = whole.s FROM parts),
		   (SELECT a + b = b + a FROM abc),
		   (SELECT (a + b) + c = a + (b + c) FROM abc),
		   whole.s::text::trait_state = whole.s,
		   (SELECT bool_and(trait_state_send(s::text::trait_state) = trait_state_send(s)) FROM parts)
	FROM whole;
END $$;
SELECT l.* FROM unnest(ARRAY['count', 'sum', 'avg', 'min', 'max', 'first', 'last', 'unique_count', 'most_frequent', 'exists',
	'stddev', 'least_frequent', 'first_time', 'last_time', 'list', 'unique_list', 'percentile', 'sessions', 'session_time', 'session_length', 'session_events', 'rate', 'streak', 'longest_streak']) a, public.laws(a) l;

-- values that are equal and do not look it: the same one is kept
SELECT combine(s) = combine(s ORDER BY o DESC) AS same, finish(combine(s))
FROM (VALUES (1, trait_state('max', 1.0)), (2, trait_state('max', 1.00)), (3, trait_state('max', 1.000))) v(o, s);
SELECT finish(combine(s)) FROM (VALUES (trait_state('unique_count', 1.0)), (trait_state('unique_count', 1.00)), (trait_state('unique_count', 2.0))) v(s);

-- types
SELECT finish(trait_state('max', true)), finish(trait_state('max', 'a'::text)), finish(trait_state('max', '2024-02-29'::date)),
	   finish(trait_state('max', timestamptz '2024-02-29 12:00+02')), finish(trait_state('max', '1 day'::interval)),
	   finish(trait_state('max', '{"a": 1}'::jsonb)), finish(trait_state('max', ARRAY[1, 2])), finish(trait_state('max', 'NaN'::numeric)),
	   finish(trait_state('max', '-Infinity'::float8)), finish(trait_state('max', int8range(1, 5))), finish(trait_state('max', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid)),
	   finish(trait_state('max', '\x00ff'::bytea)), finish(trait_state('max', 'c'::"char")), finish(trait_state('max', (-5)::int2));
SELECT finish(trait_state('first', '{"b": [1]}'::json, '2024-01-01'));
SELECT s::text::trait_state = s AS round_trip
FROM (VALUES (trait_state('max', true)), (trait_state('max', '2024-02-29'::date)), (trait_state('max', '1 day'::interval)), (trait_state('max', '{"a": 1}'::jsonb)),
	(trait_state('max', ARRAY[1, 2])), (trait_state('max', 'NaN'::numeric)), (trait_state('max', '-Infinity'::float8)), (trait_state('max', int8range(1, 5))),
	(trait_state('max', '\x00ff'::bytea)), (trait_state('max', 'c'::"char")), (trait_state('max', (-5)::int2)), (trait_state('max', 'x'::name)),
	(trait_state('last', repeat('long ', 5000), '2024-01-01'))) v(s);

-- NULL adds nothing; nothing at all has no state
SELECT trait_state('count', NULL::int) IS NULL AS one, trait_state_agg('sum', NULL::numeric, now()) IS NULL AS some, combine(NULL::trait_state) IS NULL AS combined,
	   (SELECT trait_state_agg('sum', n, at) IS NULL FROM public.sample WHERE false) AS none;
SELECT finish(combine(s)) FROM (VALUES (NULL::trait_state), (trait_state('count', 1)), (NULL), (trait_state('count', 'x'::text))) v(s);
SELECT trait_state('first', 1) IS NULL AS no_time;

-- with FILTER, GROUP BY, windows
SELECT part, finish(trait_state_agg('count', i, at) FILTER (WHERE i > 500)) FROM public.sample GROUP BY part ORDER BY part;
SELECT part, finish(combine(s) OVER (ORDER BY part)) AS running
FROM (SELECT part, trait_state_agg('count', i, at) AS s FROM public.sample GROUP BY part) p ORDER BY part;
SELECT part, finish(combine(s) OVER (ORDER BY part ROWS 1 PRECEDING)) AS two
FROM (SELECT part, trait_state_agg('max', i, at) AS s FROM public.sample GROUP BY part) p ORDER BY part;

-- parallel = serial; percentile and unique_count have more values than they keep
CREATE TABLE public.big AS SELECT i, (i * 37 % 2503)::numeric / 8 AS n, i % 97 AS g, timestamptz '2024-01-01 00:00+00' + i % 10007 * interval '17 minutes' AS at FROM generate_series(1, 40000) i;
ALTER TABLE public.big SET (parallel_workers = 2);
ANALYZE public.big;
CREATE VIEW public.by_aggregate AS
SELECT a, trait_state_agg(a, n, at) AS s FROM public.big, unnest(ARRAY['count', 'sum', 'avg', 'min', 'max', 'first', 'last', 'unique_count', 'most_frequent', 'exists',
	'stddev', 'least_frequent', 'first_time', 'last_time', 'list', 'unique_list', 'percentile', 'sessions', 'session_time', 'session_length', 'session_events', 'rate', 'streak', 'longest_streak']) a GROUP BY a;
SET max_parallel_workers_per_gather = 0;
CREATE TABLE public.serial AS SELECT * FROM public.by_aggregate;
RESET max_parallel_workers_per_gather;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET parallel_leader_participation = off;
EXPLAIN (COSTS OFF) SELECT trait_state_agg('sum', n, at) FROM public.big;
SET enable_sort = off;
EXPLAIN (COSTS OFF) SELECT * FROM public.by_aggregate;
SELECT s.a, p.s = s.s AS same FROM public.serial s JOIN public.by_aggregate p USING (a) ORDER BY s.a;
RESET enable_sort;
-- partial states that are empty, and groups
SELECT count(*), bool_and(p = w) FROM (
	SELECT g, trait_state_agg('sum', CASE WHEN g % 2 = 0 THEN n END, at) AS p FROM public.big GROUP BY g) a
JOIN (SELECT g, CASE WHEN g % 2 = 0 THEN trait_state_agg('sum', n, at ORDER BY i) END AS w FROM public.big GROUP BY g) b USING (g)
WHERE p IS NOT NULL OR w IS NOT NULL;
-- partition by partition
CREATE TABLE public.parts (i int, n numeric, g int, at timestamptz) PARTITION BY LIST (g);
CREATE TABLE public.part_0 PARTITION OF public.parts FOR VALUES IN (0, 1, 2);
CREATE TABLE public.part_1 PARTITION OF public.parts DEFAULT;
INSERT INTO public.parts SELECT i, n, g % 6, at FROM public.big;
ANALYZE public.parts;
SET enable_partitionwise_aggregate = on;
EXPLAIN (COSTS OFF) SELECT trait_state_agg('percentile', n, at) FROM public.parts;
SELECT g, finish(trait_state_agg('list', n, at, '{"size": 2}')) FROM public.parts GROUP BY g ORDER BY g;
SELECT trait_state_agg('percentile', n, at) = (SELECT s FROM public.serial WHERE a = 'percentile') AS same FROM public.parts;
RESET enable_partitionwise_aggregate;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET parallel_leader_participation;

-- options, and what the values are
SELECT finish(trait_state_agg('list', t, at, '{"size": 3}')) = to_jsonb((array_agg(t ORDER BY at DESC, t COLLATE "C" DESC) FILTER (WHERE t IS NOT NULL))[1:3]) AS list,
	   finish(trait_state_agg('unique_list', n, at, '{"size": 1000}')) = to_jsonb(array_agg(DISTINCT n) FILTER (WHERE n IS NOT NULL)) AS unique_list,
	   finish(trait_state_agg('percentile', n, at, '{"p": 0.9}')) = to_jsonb(percentile_disc(0.9) WITHIN GROUP (ORDER BY n)) AS percentile,
	   finish(trait_state_agg('percentile', f, at, '{"p": 0}')) = to_jsonb(min(f)::numeric) AS lowest,
	   round(finish(trait_state_agg('stddev', n))::text::numeric, 9) = round(stddev_samp(n), 9) AS stddev,
	   round(finish(trait_state_agg('stddev', n, at, '{"population": true}'))::text::numeric, 9) = round(stddev_pop(n), 9) AS stddev_pop,
	   (finish(trait_state_agg('first_time', n, at)) #>> '{}')::timestamptz = min(at) FILTER (WHERE n IS NOT NULL) AS first_time,
	   (finish(trait_state_agg('last_time', n, at)) #>> '{}')::timestamptz = max(at) FILTER (WHERE n IS NOT NULL) AS last_time,
	   finish(trait_state_agg('rate', n, at), '2024-03-01 00:00+00') = to_jsonb(count(n) / 61.0) AS rate,
	   finish(trait_state_agg('sessions', i, at, '{"gap": "1 day"}')) AS sessions,
	   finish(trait_state_agg('session_time', i, at, '{"gap": "1 day"}')) = to_jsonb('996 hours'::interval) AS session_time,
	   finish(trait_state_agg('longest_streak', i, at)) AS longest_streak,
	   finish(trait_state_agg('streak', i, at, '{"timezone": "Asia/Tokyo", "unit": "week"}'), '2024-02-13 00:00+00') AS streak
FROM public.sample;
-- without options the default ones
SELECT trait_state_agg('percentile', n, at, '{"p": 0.5}') = trait_state_agg('percentile', n, at) AS percentile, trait_state_agg('list', n, at, NULL) = trait_state_agg('list', n, at, '{"size": 100}') AS list FROM public.sample;
-- windows: the value depends on the instant
SELECT t, finish(s, t) AS sum, finish(o, t) AS before, finish(m, t) AS last
FROM (SELECT trait_state_agg('sum', i, at, '{"within": "1 month", "timezone": "Europe/Berlin"}') AS s,
			 trait_state_agg('count', i, at, '{"within": "2 days", "older_than": "1 day"}') AS o,
			 trait_state_agg('last', t, at, '{"within": "6 hours"}') AS m FROM public.sample) w,
	 unnest(ARRAY['2023-12-31', '2024-01-02', '2024-02-01', '2024-02-29 00:00+00', '2024-03-13 12:00+00']::timestamptz[]) t;
-- a sketch is the same by whatever way it came to be
SELECT combine(s) = (SELECT trait_state_agg('unique_count', n) FROM public.big) AS same, abs(finish(combine(s))::int - 2503) < 120 AS close
FROM (SELECT trait_state_agg('unique_count', n) AS s FROM public.big GROUP BY i % 3, n > 100) p;
SELECT combine(s ORDER BY k) = combine(s ORDER BY k DESC) AS same, finish(combine(s))
FROM (SELECT i % 50 AS k, trait_state_agg('percentile', n, at, '{"p": 0.25}') AS s FROM public.big GROUP BY i % 50) p;
SELECT finish(trait_state_agg('percentile', v, NULL::timestamptz, '{"p": 0.9}'))::numeric / 1e300 BETWEEN 0.996 AND 1.004 AS big,
	   finish(trait_state_agg('percentile', -v, NULL::timestamptz, '{"p": 0.99}'))::numeric / -1e11 BETWEEN 0.996 AND 1.004 AS small
FROM (SELECT 10::numeric ^ (i % 1100) AS v FROM generate_series(1, 5500) i) x;
SELECT finish(trait_state_agg('percentile', 'NaN'::numeric)), finish(trait_state_agg('unique_count', 'NaN'::numeric)), finish(trait_state_agg('stddev', v))
FROM (VALUES ('NaN'::numeric), (1)) v(v);

-- a model of a table that is not the log
CREATE TABLE public.orders AS SELECT i % 5 AS customer, 's' || i * 7 % 23 AS sku, i::numeric / 4 AS amount, timestamptz '2026-01-01 00:00+00' + i * interval '5 hours' AS ordered_at FROM generate_series(1, 200) i;
SELECT finish(trait_state_agg('sum', amount)) AS sum FROM public.orders;
SELECT finish(trait_state_agg('list', sku, ordered_at, '{"size": 3}')) AS last FROM public.orders;
CREATE TABLE public.daily AS
SELECT customer, (ordered_at AT TIME ZONE 'UTC')::date AS day, trait_state_agg('unique_count', sku) AS skus FROM public.orders GROUP BY 1, 2;
SELECT customer, finish(combine(skus))::int AS skus FROM public.daily WHERE day > '2026-01-20' GROUP BY 1
EXCEPT SELECT customer, count(DISTINCT sku) FROM public.orders WHERE ordered_at >= '2026-01-21 00:00+00' GROUP BY 1;
SELECT day, finish(combine(skus) OVER (ORDER BY day ROWS 6 PRECEDING)) AS week FROM public.daily WHERE customer = 1 ORDER BY day LIMIT 8;

-- COPY, text and binary
CREATE TABLE public.stored (a text, s trait_state);
INSERT INTO public.stored SELECT * FROM public.serial;
CREATE TABLE public.copied (LIKE public.stored);
\copy public.stored TO 'results/trait_state.text'
\copy public.copied FROM 'results/trait_state.text'
\copy public.stored TO 'results/trait_state.bin' WITH (FORMAT binary)
\copy public.copied FROM 'results/trait_state.bin' WITH (FORMAT binary)
SELECT count(*), bool_and(c.s = s.s) FROM public.copied c JOIN public.stored s USING (a);

-- what cannot be
SELECT trait_state('median', 1);
SELECT trait_state('declared', 1);
SELECT trait_state(NULL, 1);
SELECT trait_state('sum', 'x'::text);
SELECT trait_state('max', point(1, 2));
SELECT trait_state('max', ROW(1, 2));
SELECT trait_state('max', 'user_id:1'::cdp.identifier);
SELECT trait_state('first', 1, 'infinity');
SELECT trait_state('count', 1) + trait_state('sum', 1);
SELECT trait_state('max', 1) + trait_state('max', 1.5);
SELECT combine(s) FROM (VALUES (trait_state('max', 1)), (trait_state('max', 'a'::text))) v(s);
SELECT trait_state('list', 1, '2024-01-01', '{"size": 2}') + trait_state('list', 1, '2024-01-01', '{"size": 3}');
SELECT trait_state('unique_count', 1, NULL, '{"exact": true}') + trait_state('unique_count', 1);
SELECT trait_state('streak', 1, '2024-01-01', '{"timezone": "Asia/Tokyo"}') + trait_state('streak', 1, '2024-01-01');
SELECT trait_state('sum', 1) + trait_state('sum', 1, '2024-01-01', '{"within": "1 day"}');
SELECT trait_state('sum', 1, '2024-01-01', '{"within": "1 day"}') + trait_state('sum', 1, '2024-01-01', '{"within": "1 day", "older_than": "1 hour"}');
SELECT trait_state('sessions', 1, '2024-01-01') + trait_state('session_time', 1, '2024-01-01');
SELECT trait_state_agg('list', i, at, o) FROM public.sample, unnest(ARRAY['{"size": 1}', '{"size": 2}']::jsonb[]) o;
SELECT trait_state('list', 1, '2024-01-01', '{"size": 0}');
SELECT trait_state('list', 1, '2024-01-01', '[]');
SELECT trait_state('sum', 1, '2024-01-01', '{"size": 1}');
SELECT trait_state('sum', 1, '2024-01-01', '{"within": "-1 day"}');
SELECT trait_state('sum', 1, '2024-01-01', '{"within": 1}');
SELECT trait_state('streak', 1, '2024-01-01', '{"timezone": "Mars/Olympus"}');
SELECT trait_state('percentile', 'x'::text);
SELECT trait_state('list', repeat('x', 9000), '2024-01-01');
SELECT trait_state_agg(a, 1, now()) FROM (VALUES ('count'), ('sum')) v(a);

-- options that change from row to row leave nothing behind
SELECT max(bytes) FILTER (WHERE i = 8000) < 1.5 * max(bytes) FILTER (WHERE i = 100) AS bounded, count(state)
FROM (SELECT i, trait_state('sum', 1, '2024-01-01', jsonb_build_object('within', i || ' hours')) AS state,
		CASE WHEN i IN (100, 8000) THEN (SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE i > 0) END AS bytes
	FROM generate_series(1, 8000) i OFFSET 0) x;

-- a span that no entries can make
SELECT a, finish(format('\x01%s0000000000000000006b49d20000000001fd0f7fd1ccef40007fffff337803e0000000000000000001', code)::trait_state, '2024-01-01')
FROM (VALUES ('session_time', '15'), ('session_length', '16')) v (a, code);

-- garbage: refused, whatever it is
SELECT ''::trait_state;
SELECT 'count'::trait_state;
SELECT '\x'::trait_state;
SELECT '\x0'::trait_state;
SELECT '\xzz'::trait_state;
SELECT '\x02'::trait_state;
SELECT trait_state('count', 1);
SELECT '\x010300000000000000000000000001'::trait_state;
SELECT '\x010300000000000000000000000000'::trait_state;
SELECT '\x0103000000000000000000000000ff01'::trait_state;
SELECT '\x01030000000017000000000000000001'::trait_state;
SELECT '\x010900000000000000000000000001'::trait_state;
SELECT '\x017f00000000000000000000000001'::trait_state;
SELECT '\x010302000000000000000000000001'::trait_state;
SELECT '\x010305000000000000000000000001'::trait_state;
SELECT '\x016300000000000000000000000001'::trait_state;
-- no sum that could not be read again
SELECT '\x010300000000000000000000000007'::trait_state + '\x010300000000007ffffffffffffff8'::trait_state;
SELECT '\x010300000000000000000000000008'::trait_state + '\x010300000000007ffffffffffffff8'::trait_state;
SELECT '\x010b00000000170000000100000004000000017fffffffffffffff'::trait_state + '\x010b00000000170000000100000004000000010000000000000001'::trait_state;
CREATE FUNCTION public.mutate(s trait_state, OUT accepted int, OUT refused int) LANGUAGE plpgsql AS $$
DECLARE
	b bytea := trait_state_send(s);
	m bytea;
BEGIN
	accepted := 0;
	refused := 0;
	FOR i IN 0 .. least(length(b), 400) - 1 LOOP
		FOR j IN 1 .. 3 LOOP
			m := CASE j WHEN 1 THEN set_byte(b, i, (get_byte(b, i) + 1) % 256)
						WHEN 2 THEN set_byte(b, i, get_byte(b, i) # 128)
						ELSE substr(b, 1, i) END;
			BEGIN
				PERFORM finish(m::text::trait_state);
				accepted := accepted + 1;
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE LIKE 'XX%' AND SQLERRM NOT LIKE 'unsupported jsonb version%' THEN
					RAISE NOTICE '% %', SQLSTATE, SQLERRM;
				END IF;
				refused := refused + 1;
			END;
		END LOOP;
	END LOOP;
END $$;
INSERT INTO public.stored SELECT 'windowed ' || a, trait_state_agg(a, t, at, '{"within": "3 days", "older_than": "1 hour"}') FROM public.sample, unnest(ARRAY['count', 'last', 'list', 'unique_count', 'streak']) a WHERE i <= 20 GROUP BY a;
SELECT a, accepted + refused > 20 AS tried, refused > 0 AS some_refused FROM public.stored, public.mutate(s) ORDER BY a;
SELECT (public.mutate(trait_state('last', '{"a": [1, "x", null]}'::jsonb, '2024-01-01'))).refused > 0 AS some_refused;
SELECT (public.mutate(trait_state('max', ARRAY['a', NULL, 'b']))).refused > 0 AS some_refused;

SET client_min_messages = error;
DROP EXTENSION cdp CASCADE;
DROP TABLE public.sample, public.big, public.serial, public.stored, public.copied, public.parts, public.orders, public.daily;
