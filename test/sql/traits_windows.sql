-- Windows of nodes with many items: the older ones stand in rows of their own.
-- Random streams with small chunks are in 100_differential.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.window_chunk = 4;
SET cdp.now = '2026-01-01';
SELECT cdp.create_trait('n', aggregate => 'count', within => '7 days');
SELECT cdp.create_trait('spent', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, within => '10 days', older_than => '2 days');
SELECT cdp.create_trait('top', aggregate => 'max', value => $$(properties->>'x')::numeric$$, older_than => '3 days');
SELECT cdp.create_trait('latest', aggregate => 'last', value => $$properties->>'x'$$, within => '1 month', timezone => 'Europe/Berlin');
SELECT cdp.create_trait('kinds', aggregate => 'unique_count', value => $$(properties->>'x')::int % 7$$, within => '7 days');
SELECT cdp.create_segment('busy', 'n >= 20');

-- 120 entries of two people in mixed order, some far behind
INSERT INTO cdp.events (event, identifiers, properties, occurred_at, received_at)
SELECT 'V', ARRAY['user_id:u' || i % 2]::cdp.identifier[], jsonb_build_object('x', i * 37 % 101),
	timestamptz '2026-01-01' + (i * 37 % 101) * interval '5 hours', timestamptz '2026-01-01' + i * interval '5 hours'
FROM generate_series(1, 120) i;
CREATE FUNCTION pg_temp.rows() RETURNS text LANGUAGE sql AS
	$$SELECT string_agg(d.name || ' ' || c.n, ', ' ORDER BY d.name)
	  FROM (SELECT trait, count(*) > 0 AS n FROM cdp.window_items GROUP BY trait) c JOIN cdp.trait_definitions d ON d.id = c.trait$$;
SELECT cdp.apply(30) IS NOT NULL, pg_temp.rows();
SET cdp.now = '2026-01-09';
SELECT cdp.apply(30) IS NOT NULL, pg_temp.rows();
SELECT * FROM cdp.verify();
SET cdp.now = '2026-01-15';
SELECT cdp.apply() IS NOT NULL;
SELECT identifier, traits FROM cdp.profiles p JOIN cdp.identities USING (profile_id) ORDER BY 1;
SELECT cdp.profile('user_id:u1')->'traits' = cdp.profile_at('user_id:u1')->'traits' AS as_recomputed;
SELECT * FROM cdp.verify();

-- at later instants without entries, and timers
SELECT count(*), bool_and(cdp.profile_traits_at(cdp.resolve('user_id:u1'), d)->'traits' = cdp.profile_at('user_id:u1', d)->'traits') AS as_recomputed
FROM generate_series(timestamptz '2026-01-22', '2026-02-24', interval '7 hours') d;
SET cdp.now = '2026-01-24';
SELECT cdp.profile('user_id:u1')->'traits' AS before;
SELECT cdp.apply();
SELECT cdp.profile('user_id:u1')->'traits' AS after;
SELECT * FROM cdp.verify();

-- late entries and retractions reach into chunks; nothing is left behind
SET cdp.now = '2026-01-24 01:00';
SELECT count(cdp.track('V', jsonb_build_object('x', 500 + i), user_id => 'u1', occurred_at => timestamptz '2026-01-20' + i * interval '7 minutes', message_id => 'late' || i)) FROM generate_series(1, 30) i;
SELECT cdp.profile('user_id:u1', fresh => true)->'traits' AS fresh;
SELECT cdp.apply();
SELECT cdp.profile('user_id:u1')->'traits' AS applied;
SELECT count(cdp.retract('late' || i)) FROM generate_series(1, 30, 3) i;
SELECT cdp.apply();
SELECT cdp.profile('user_id:u1')->'traits' AS retracted;
SELECT * FROM cdp.verify();

-- a merge moves nothing
CREATE TEMP TABLE before AS SELECT w::text FROM cdp.window_items w;
SELECT cdp.merge('user_id:u0', 'user_id:u1', 'one') AS merged \gset
SELECT cdp.apply();
SELECT cdp.profile('user_id:u1')->'traits' AS both;
SELECT count(*) FROM ((TABLE before EXCEPT ALL SELECT w::text FROM cdp.window_items w) UNION ALL (SELECT w::text FROM cdp.window_items w EXCEPT ALL TABLE before)) d;
SELECT * FROM cdp.verify();
SELECT cdp.undo(:'merged') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM cdp.verify();

-- a profile of so many nodes that their states are kept combined
INSERT INTO cdp.events (event, identifiers, properties, occurred_at)
SELECT 'V', ARRAY['user_id:big', 'cookie:' || i % 80]::cdp.identifier[], jsonb_build_object('x', i), timestamptz '2026-01-20' + i * interval '10 minutes'
FROM generate_series(1, 300) i;
SELECT cdp.apply() IS NOT NULL;
SELECT cdp.track('V', '{"x": 1}', user_id => 'big') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM cdp.verify();

-- states go through text, which is checked
SELECT count(*), bool_and(state::text::cdp.node_state::text = state::text) FROM cdp.identities WHERE state IS NOT NULL;
CREATE FUNCTION pg_temp.survives(state text, at int, value int) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM ('\x' || encode(set_byte(decode(substr(state, 3), 'hex'), at, value), 'hex'))::cdp.node_state::text;
	RETURN true;
EXCEPTION WHEN invalid_binary_representation OR invalid_text_representation OR protocol_violation OR undefined_object
	OR numeric_value_out_of_range OR character_not_in_repertoire OR undefined_function OR datetime_field_overflow OR wrong_object_type THEN
	RETURN false;
END
$$;
-- whatever byte is changed, it is refused or it is a state
SELECT bool_or(pg_temp.survives(state::text, at, 255)) AS some, bool_and(pg_temp.survives(state::text, at, 255)) AS every
FROM cdp.identities, generate_series(0, 1200) at WHERE identifier::text = 'user_id:u1' AND at < length(state::text) / 2 - 1;
SELECT cdp.trait_state('count', 1, '2026-01-01', '{"within": "1 day"}')::text::cdp.trait_state IS NOT NULL;

-- rows that are missing are an error; a definition that goes takes its rows along, and so does a node
BEGIN;
DELETE FROM cdp.window_items;
\set VERBOSITY sqlstate
SELECT cdp.profile_traits_at(1, '2026-01-18 03:00');
ROLLBACK;
\set VERBOSITY default
SELECT cdp.drop_trait('top');
SELECT pg_temp.rows();
SELECT cdp.alter_trait('spent', within => '12 days');
SELECT cdp.apply();
SELECT * FROM cdp.verify();
SELECT count(*) FROM cdp.window_items w WHERE NOT EXISTS (SELECT FROM cdp.trait_definitions d WHERE d.id = w.trait)
	OR NOT EXISTS (SELECT FROM cdp.identities i WHERE i.node_id = w.owner);

-- windows that end in another order than they began: a month after January 29th to 31st, a day before the clocks change
SET cdp.now = '2026-02-01';
SELECT cdp.create_trait('month', aggregate => 'count', within => '1 month');
SELECT cdp.create_trait('month_ago', aggregate => 'count', older_than => '1 month');
SELECT cdp.create_trait('day', aggregate => 'sum', value => $$(properties->>'x')::numeric$$, within => '1 day', timezone => 'Europe/Berlin');
SELECT count(cdp.track('V', jsonb_build_object('x', i), user_id => 'm', occurred_at => timestamptz '2026-01-28' + i * interval '2 hours')) FROM generate_series(1, 47) i;
SELECT cdp.apply();
SELECT bool_and(cdp.profile_traits_at(cdp.resolve('user_id:m'), d)->'traits' = cdp.profile_at('user_id:m', d)->'traits') AS as_recomputed
FROM generate_series(timestamptz '2026-02-27', '2026-03-02', interval '1 hour') d;
-- with entries and timers in between
SET cdp.now = '2026-02-28 02:30';
SELECT cdp.apply();
SELECT cdp.track('V', '{"x": 1}', user_id => 'm') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM cdp.verify();
SET cdp.now = '2026-02-28 12:30';
SELECT cdp.apply();
SELECT cdp.profile('user_id:m') #> '{traits,month}' AS month, cdp.profile('user_id:m') #> '{traits,month_ago}' AS month_ago;
SELECT * FROM cdp.verify();
SET cdp.now = '2026-03-28 12:00';
SELECT count(cdp.track('V', jsonb_build_object('x', i), user_id => 's', occurred_at => timestamptz '2026-03-28 00:45' + i * interval '5 minutes')) FROM generate_series(1, 30) i;
SELECT cdp.apply();
SELECT bool_and(cdp.profile_traits_at(cdp.resolve('user_id:s'), d)->'traits' = cdp.profile_at('user_id:s', d)->'traits') AS as_recomputed
FROM generate_series(timestamptz '2026-03-29 00:30', '2026-03-29 03:00', interval '5 minutes') d;
SELECT count(*), bool_and(state::text::cdp.node_state::text = state::text) FROM cdp.identities WHERE identifier::text IN ('user_id:m', 'user_id:s');
-- who may not read the rows cannot make a state that leads to them
SELECT state::text AS state FROM cdp.identities WHERE identifier::text = 'user_id:m' \gset
CREATE ROLE regress_stranger;
SET ROLE regress_stranger;
\set VERBOSITY terse
SELECT cdp.traits_json(:'state'::cdp.node_state);
\set VERBOSITY default
RESET ROLE;
SELECT cdp.traits_json(:'state'::cdp.node_state)->'month' = cdp.profile('user_id:m') #> '{traits,month}' AS same;
DROP ROLE regress_stranger;
-- when the clock is changed: months and days are those of the zone, hours take as long as they do
SET cdp.now = '2026-12-01';
INSERT INTO cdp.events (event, identifiers, occurred_at)
SELECT 'V', '{user_id:clock}', d.at + i * interval '50 minutes' FROM (VALUES (timestamptz '2026-03-27 23:00Z'), ('2026-10-23 22:00Z')) d(at), generate_series(0, 60) i;
SELECT cdp.apply() > 0 AS applied;
CREATE TEMP TABLE entries AS SELECT occurred_at AS at FROM cdp.events WHERE identifiers = '{user_id:clock}';
CREATE TEMP TABLE windows (name text, length interval);
INSERT INTO windows VALUES ('h1', '1 hour'), ('h24', '24 hours'), ('d1', '1 day'), ('d1h2', '1 day 2 hours'), ('m1', '1 month'), ('m1d1', '1 month 1 day');
SELECT count(cdp.create_trait(name, aggregate => 'count', within => length, timezone => 'Europe/Berlin')), count(cdp.create_trait('old_' || name, aggregate => 'count', older_than => length, timezone => 'Europe/Berlin')) FROM windows;
SET timezone = 'Europe/Berlin';
WITH asked AS MATERIALIZED (
	SELECT at, cdp.profile_at('user_id:clock', at)->'traits' AS then
	FROM (SELECT d.at + i * interval '70 minutes' AS at FROM (VALUES (timestamptz '2026-03-27 23:00Z'), ('2026-04-28 00:00Z'), ('2026-10-23 22:00Z')) d(at), generate_series(0, 60) i) a)
SELECT count(*) AS asked, count(DISTINCT found) > 30 AS many, count(*) FILTER (WHERE found IS DISTINCT FROM expected) AS wrong
FROM (SELECT (a.then->>(p.prefix || w.name))::int AS found,
		(SELECT count(*) FROM entries e WHERE e.at <= a.at AND (p.prefix = '') = (e.at + w.length > a.at)) AS expected
	  FROM asked a, windows w, (VALUES (''), ('old_')) p(prefix)) x;
SET timezone = 'UTC';
SELECT * FROM cdp.verify();
DROP EXTENSION cdp CASCADE;
