-- Windows with a granularity: less memory, and by how much they are off.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET cdp.now = '2026-03-01';

-- what cannot be
SELECT cdp.create_trait('x', aggregate => 'count', options => '{"granularity": "1 hour"}');
SELECT cdp.create_trait('x', aggregate => 'count', within => '1 day', options => '{"granularity": "1 month"}');
SELECT cdp.create_trait('x', aggregate => 'count', within => '1 day', options => '{"granularity": "0"}');
SELECT cdp.create_trait('x', aggregate => 'count', within => '1 day', options => '{"granularity": 60}');
SELECT cdp.create_trait('x', aggregate => 'count', within => '1 day', options => '{"granularity": "24 hours"}');
SELECT cdp.trait_state('count', 1, '2026-01-01', '{"granularity": "1 hour"}');
SELECT cdp.trait_state('count', 1, '2026-01-01', '{"within": "1 hour", "granularity": "2 hours"}');

-- each aggregate, and one that is exact beside them
SELECT count(cdp.create_trait('t_' || a.name, aggregate => a.name, within => '5 days', timezone => 'Europe/Berlin',
	older_than => CASE WHEN a.nth % 2 = 0 THEN interval '12 hours' END,
	value => CASE WHEN a.folds THEN '(properties->>''x'')::numeric' END,
	options => a.options || '{"granularity": "6 hours"}'))
FROM (VALUES ('count', false, '{}'::jsonb, 1), ('exists', false, '{}', 2), ('sum', true, '{}', 3), ('avg', true, '{}', 4), ('stddev', true, '{}', 5),
	('min', true, '{}', 6), ('max', true, '{}', 7), ('first', true, '{}', 8), ('last', true, '{}', 9), ('first_time', false, '{}', 10),
	('last_time', false, '{}', 11), ('most_frequent', true, '{}', 12), ('least_frequent', true, '{}', 13), ('unique_count', true, '{}', 14),
	('unique_list', true, '{"size": 7}', 15), ('list', true, '{"size": 5}', 16), ('percentile', true, '{"p": 0.3}', 17), ('sessions', false, '{"gap": "2 hours"}', 18),
	('session_time', false, '{}', 19), ('session_length', false, '{}', 20), ('session_events', false, '{}', 21), ('rate', false, '{}', 22),
	('streak', false, '{}', 23), ('longest_streak', false, '{"unit": "week"}', 24)) a(name, folds, options, nth);
SELECT cdp.create_trait('exact', aggregate => 'count', within => '5 days', timezone => 'Europe/Berlin');
SELECT cdp.create_trait('many', aggregate => 'unique_count', value => $$properties->>'y'$$, within => '30 days', options => '{"granularity": "1 day"}');
SELECT cdp.create_segment('eager', 't_count > 30');
-- the clocks change on March 29th
CREATE FUNCTION pg_temp.entries(n int, seed int) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(cdp.track('V', jsonb_build_object('x', hashint4(i) % 40, 'y', 'y' || i % 3000), user_id => 'u' || i % 3,
		anonymous_id => 'a' || i % 5, occurred_at => cdp.clock() - (hashint4(i * seed) & 1048575) * interval '1 s'))
	FROM generate_series(1, n) i $$;
SELECT pg_temp.entries(150, 1), cdp.apply();
SELECT * FROM cdp.verify();
SET cdp.now = '2026-03-28 05:17';
SELECT pg_temp.entries(150, 2), cdp.apply(40), cdp.apply();
SELECT * FROM cdp.verify();
SET cdp.now = '2026-03-30 00:03';
SELECT pg_temp.entries(40, 3), cdp.apply();
SET cdp.now = '2026-04-01 06:00';
SELECT cdp.apply();
SELECT * FROM cdp.verify();

-- the bound: an entry may be gone up to six hours too early, and not before
SELECT count(*) > 40 AS looked, bool_and((p.t->>'t_count')::int <= (p.t->>'exact')::int) AS never_too_many,
	bool_and((p.t->>'t_count')::int >= (SELECT count(*) FROM cdp.events e
		WHERE e.identifiers[1]::text = 'user_id:u0' AND e.occurred_at <= d.at AND e.occurred_at > (d.at AT TIME ZONE 'Europe/Berlin' - interval '5 days' + interval '6 hours') AT TIME ZONE 'Europe/Berlin')) AS bound,
	bool_or((p.t->>'t_count')::int < (p.t->>'exact')::int) AS off_sometimes
FROM generate_series(timestamptz '2026-03-26', '2026-04-01', interval '179 minutes') d(at)
CROSS JOIN LATERAL (SELECT cdp.profile_at('user_id:u0', d.at)->'traits' AS t) p;

-- 6,000 entries in 30 days are 31 cells at most, and their values are sketched
SELECT cdp.create_trait('sum_exact', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, within => '30 days');
SELECT cdp.create_trait('sum_daily', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, within => '30 days', options => '{"granularity": "1 day"}');
SET cdp.now = '2026-06-01';
SELECT count(cdp.track('V', jsonb_build_object('x', i, 'y', 'z' || i), user_id => 'big', occurred_at => cdp.clock() - i * interval '6 minutes')) FROM generate_series(1, 6000) i;
SELECT cdp.apply();
SELECT abs((t->>'many')::int - 6000) < 6000 * 0.05 AS near, (t->>'sum_exact')::numeric = 6000 * 6001 / 2 AS exact FROM (SELECT cdp.profile('user_id:big')->'traits') p(t);
SELECT * FROM cdp.verify();
SELECT pg_column_size(cdp.trait_state_agg('sum', i, timestamptz '2026-06-01' - i * interval '6 minutes', '{"within": "30 days"}')) > 20000 AS exact,
	pg_column_size(cdp.trait_state_agg('sum', i, timestamptz '2026-06-01' - i * interval '6 minutes', '{"within": "30 days", "granularity": "1 day"}')) < 1000 AS daily
FROM generate_series(1, 6000) i;

SET search_path = public, cdp;
-- states by themselves: any order, any grouping, through text
CREATE TEMP TABLE state AS
SELECT o.options, i % 4 AS part, cdp.trait_state_agg(o.aggregate, i % 7 + 0.5, timestamptz '2026-03-27' + hashint4(i) % 400000 * interval '1 s', o.options) AS state
FROM generate_series(1, 400) i, (VALUES ('sum', '{"within": "3 days", "granularity": "5 hours"}'::jsonb),
	('list', '{"within": "3 days", "older_than": "1 day", "granularity": "1 day", "size": 3}'),
	('sessions', '{"within": "1 month", "granularity": "90 minutes", "gap": "10 minutes"}'),
	('most_frequent', '{"older_than": "1 day", "granularity": "3 days"}')) o(aggregate, options) GROUP BY 1, 2, o.aggregate;
SELECT count(*), bool_and(a.s = b.s) AS same, bool_and(a.s::text::cdp.trait_state = a.s) AS through_text
FROM (SELECT options, cdp.combine(state ORDER BY part) AS s FROM state GROUP BY 1) a
JOIN (SELECT options, cdp.combine(state ORDER BY part DESC) AS s FROM state GROUP BY 1) b USING (options);
SELECT cdp.finish(cdp.combine(state), '2026-03-29') FROM state GROUP BY options ORDER BY options::text;
SELECT cdp.trait_state('count', 1, '2026-01-01', '{"within": "1 day", "granularity": "1 hour"}') + cdp.trait_state('count', 1, '2026-01-01', '{"within": "1 day"}');
SELECT cdp.trait_state('count', 1, '2026-01-01', '{"within": "1 day", "granularity": "1 hour"}') + cdp.trait_state('count', 1, '2026-01-01', '{"within": "1 day", "granularity": "2 hours"}');
-- before 2000, and the very first cell
SELECT cdp.finish(cdp.trait_state('last_time', 1, t, '{"within": "2 days", "granularity": "1 day"}'), t + interval '12 hours') IS NOT NULL AS at_first, cdp.finish(cdp.trait_state('last_time', 1, t, '{"within": "2 days", "granularity": "1 day"}'), t + interval '50 hours') AS later
FROM (VALUES (timestamptz '1969-07-20 10:00'), ('4713-01-01 BC')) v(t);
-- whatever byte is changed, it is refused or it is a state
CREATE FUNCTION pg_temp.survives(state text, at int, value int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cdp.finish(('\x' || encode(set_byte(decode(substr(state, 3), 'hex'), at, value), 'hex'))::cdp.trait_state, '2026-01-02');
	RETURN true;
EXCEPTION WHEN invalid_binary_representation OR invalid_text_representation OR protocol_violation OR undefined_object
	OR numeric_value_out_of_range OR character_not_in_repertoire OR undefined_function OR datetime_field_overflow OR wrong_object_type THEN
	RETURN false;
END
$$;
SELECT bool_or(pg_temp.survives(s.state::text, at, v)) AS some, bool_and(pg_temp.survives(s.state::text, at, v)) AS every
FROM (SELECT state FROM state WHERE part = 1 AND options ? 'older_than') s, generate_series(0, 300) at, unnest(ARRAY[0, 255]) v WHERE at < length(s.state::text) / 2 - 1;
DROP EXTENSION cdp CASCADE;
