-- cdp.trait_state from the wire: what is cut off or damaged is refused, or a state like any other; nothing crashes.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET IntervalStyle = postgres;
\set SHOW_CONTEXT never
-- in the data directory: the server writes and reads it
SELECT current_setting('data_directory') || '/trait_state_recv.bin' AS file \gset

CREATE TABLE public.sample AS
SELECT i, (i * 37 % 101)::numeric / 4 AS n, chr(97 + i * 7 % 26) || i % 5 AS t,
	   timestamptz '2024-01-01 00:00+00' + i * 61 % 997 * interval '1 hour' AS at
FROM generate_series(1, 40) i;

-- each kind of state: all aggregates; windows; sketches; each type of value
CREATE TABLE public.states (kind text, s trait_state);
INSERT INTO public.states
SELECT a, trait_state_agg(a, n, at) FROM public.sample,
	unnest(ARRAY['count', 'sum', 'avg', 'min', 'max', 'first', 'last', 'unique_count', 'most_frequent', 'exists', 'stddev', 'least_frequent',
		'first_time', 'last_time', 'list', 'unique_list', 'percentile', 'sessions', 'session_time', 'session_length', 'session_events',
		'rate', 'streak', 'longest_streak']) a GROUP BY a
UNION ALL
SELECT 'within ' || a, trait_state_agg(a, t, at, '{"within": "3 days", "older_than": "1 hour", "timezone": "Europe/Berlin"}') FROM public.sample,
	unnest(ARRAY['count', 'min', 'last', 'list', 'unique_count', 'most_frequent', 'exists', 'sessions', 'streak']) a GROUP BY a
UNION ALL
SELECT 'sketch of ' || a, trait_state_agg(a, n) FROM (SELECT i::numeric AS n FROM generate_series(1, 3000) i) x, unnest(ARRAY['unique_count', 'percentile']) a GROUP BY a
UNION ALL
SELECT 'max of ' || v.v, v.s FROM (VALUES ('bool', trait_state('max', true)), ('text', trait_state('max', 'a'::text)), ('date', trait_state('max', '2024-02-29'::date)),
	('timestamptz', trait_state('max', timestamptz '2024-02-29 12:00+02')), ('interval', trait_state('max', '1 day'::interval)),
	('jsonb', trait_state('max', '{"a": [1, "x", null]}'::jsonb)), ('text[]', trait_state('max', ARRAY['a', NULL, 'b'])), ('float8', trait_state('max', 1.5::float8)),
	('range', trait_state('max', int8range(1, 5))), ('uuid', trait_state('max', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid)),
	('bytea', trait_state('max', '\x00ff'::bytea)), ('inet', trait_state('max', '10.0.0.1'::inet))) v(v, s);
SELECT count(*) > 40 AS kinds, count(*) FILTER (WHERE s IS NULL) AS none FROM public.states;

-- a column of bytea and one of states look the same in COPY's binary format
CREATE TABLE public.received (s trait_state);
CREATE FUNCTION public.receive(bytes bytea, file text) RETURNS trait_state LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM public.received;
	EXECUTE format('COPY (SELECT %L::bytea) TO %L WITH (FORMAT binary)', bytes, file);
	EXECUTE format('COPY public.received FROM %L WITH (FORMAT binary)', file);
	RETURN (SELECT s FROM public.received);
END $$;
SELECT bool_and(public.receive(trait_state_send(s), :'file') = s) AS undamaged FROM public.states;

-- what is accepted is a state: it is finished, added to, and the same when it is sent again
CREATE FUNCTION public.damage(s trait_state, file text, OUT cut int, OUT cut_refused int, OUT flipped int, OUT flipped_refused int, OUT wrong text) LANGUAGE plpgsql AS $$
DECLARE
	b bytea := trait_state_send(s);
	bits int := 8 * length(b);
	step int := greatest(bits / 60, 1);
	m bytea;
	r trait_state;
	is_cut boolean;
BEGIN
	cut := 0; cut_refused := 0; flipped := 0; flipped_refused := 0; wrong := '';
	FOR i IN 0 .. bits - 1 BY step LOOP
		FOREACH is_cut IN ARRAY ARRAY[true, false] LOOP
			-- a step is not a multiple of eight, mostly, so other bits of bytes come
			m := CASE WHEN is_cut THEN substr(b, 1, i / 8) ELSE set_bit(b, i, 1 - get_bit(b, i)) END;
			cut := cut + is_cut::int;
			flipped := flipped + (NOT is_cut)::int;
			BEGIN
				r := public.receive(m, file);
				PERFORM finish(r), finish(r, '2024-01-03'), r + r;
				IF public.receive(trait_state_send(r), file) <> r THEN
					wrong := wrong || ' other state:' || m;
				END IF;
			EXCEPTION WHEN OTHERS THEN
				IF SQLSTATE LIKE 'XX%' AND SQLERRM NOT LIKE 'unsupported jsonb version%' THEN
					wrong := wrong || ' ' || SQLSTATE || ' ' || SQLERRM || ':' || m;
				END IF;
				cut_refused := cut_refused + is_cut::int;
				flipped_refused := flipped_refused + (NOT is_cut)::int;
			END;
		END LOOP;
	END LOOP;
END $$;
SELECT count(*) AS kinds, bool_and(d.cut > 20 AND d.flipped > 20) AS tried, bool_and(d.cut_refused = d.cut) AS cut_refused,
	bool_and(d.flipped_refused > 0) AS some_flipped_refused, string_agg(st.kind || left(d.wrong, 200), ', ') FILTER (WHERE d.wrong <> '') AS wrong
FROM public.states st, public.damage(st.s, :'file') d;
-- and what comes behind a state
SELECT public.receive(trait_state_send(s) || '\x00', :'file') FROM public.states WHERE kind = 'count';
SELECT public.receive('', :'file');

SET client_min_messages = error;
DROP EXTENSION cdp CASCADE;
