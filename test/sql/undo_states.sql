-- Entries of an owner of many that are undone one after the other: some are the first, the
-- last, the greatest of something, most are not.  What is left is what verify() folds anew.
CREATE EXTENSION cdp;
\set VERBOSITY terse
SET client_min_messages = warning;
SET search_path = cdp, public;
SET cdp.now = '2026-03-01Z';
SELECT create_trait('n', aggregate => 'count');
SELECT create_trait('any', aggregate => 'exists');
SELECT create_trait('total', aggregate => 'sum', event => 'Order', value => $$(properties->>'x')::numeric$$);
SELECT create_trait('mean', aggregate => 'avg', event => 'Order', value => $$(properties->>'x')::numeric$$);
SELECT create_trait('least', aggregate => 'min', value => $$(properties->>'x')::int$$);
SELECT create_trait('most', aggregate => 'max', value => $$(properties->>'x')::int$$);
SELECT create_trait('start', aggregate => 'first', value => 'message_id');
SELECT create_trait('latest', aggregate => 'last', value => 'message_id');
SELECT create_trait('since', aggregate => 'first_time');
SELECT create_trait('until', aggregate => 'last_time');
SELECT create_trait('a_day', aggregate => 'rate');
SELECT create_trait('some', aggregate => 'list', value => 'message_id', options => '{"size": 5}');
SELECT create_trait('recent', aggregate => 'count', within => '10 days');
SELECT create_trait('former', aggregate => 'count', older_than => '2 days', newer_than => '20 days');
SELECT create_trait('each', aggregate => 'count', each => $$properties->'tags'$$);
SELECT create_trait('rare', aggregate => 'count', event => 'Rare');
SELECT create_segment('regular', 'n >= 95');

INSERT INTO events (message_id, event, identifiers, occurred_at, properties)
SELECT 'm' || g, CASE WHEN g = 7 THEN 'Rare' WHEN g % 10 = 0 THEN 'Order' ELSE 'View' END,
	ARRAY['user_id:u', 'cookie:c' || g % 3]::identifier[], timestamptz '2026-01-01Z' + (g * 13 % 101) * interval '12 hours',
	jsonb_build_object('x', g * 7 % 50, 'tags', CASE WHEN g % 4 = 0 THEN '["a","b"]' ELSE '[]' END::jsonb)
FROM generate_series(1, 100) g;
SELECT apply();
CREATE TABLE steps (step serial PRIMARY KEY, what text, n int, findings bigint);
CREATE FUNCTION note(what text) RETURNS void LANGUAGE sql AS
$$INSERT INTO steps (what, n, findings) SELECT what, (profile('user_id:u')->'traits'->>'n')::int, (SELECT count(*) FROM verify())$$;

-- the first and the last by time, the least and the most, one that is rare, and others
\o /dev/null
SELECT format('SELECT undo(%L, %L)', m, 'sql'), 'SELECT apply()', format('SELECT note(%L)', m)
FROM unnest(ARRAY['m5', 'm70', 'm30', 'm7', 'm20', 'm50', 'm93', 'm8', 'm77', 'm31', 'm1', 'm40']) WITH ORDINALITY AS u (m, i) ORDER BY i \gexec
-- one comes back, and two go in the batch in which another one comes
SELECT undo('m2', 'sql') AS u \gset
SELECT apply();
SELECT undo(:'u', 'sql');
SELECT apply();
SELECT note('m2, which is back');
SELECT undo('m12', 'sql'), undo('m13', 'sql'), track('View', user_id => 'u', properties => '{"x": 99}', message_id => 'new');
SELECT apply();
SELECT note('two, and one that comes');
\o
TABLE steps ORDER BY step;
SELECT jsonb_pretty(profile('user_id:u')->'traits') AS traits, profile('user_id:u')->'segments' AS segments;

-- what a policy keeps from counting has added nothing
SELECT alter_identifier_kind('user_id', policy => 'refuse');
INSERT INTO events (message_id, event, identifiers, occurred_at, properties) VALUES
	('w1', 'View', '{user_id:v,cookie:c0}', '2026-02-28Z', '{"x": 1}'), ('w2', 'View', '{user_id:v}', '2026-02-28Z', '{"x": 1}'), ('w3', 'View', '{user_id:v}', '2026-02-27Z', '{"x": 1}');
SELECT apply();
SELECT profile('user_id:v')->'traits'->'n' AS n;
SELECT undo('w1', 'sql') IS NOT NULL AS undone;
SELECT apply();
SELECT profile('user_id:v')->'traits'->'n' AS n;
SELECT * FROM verify();
DROP EXTENSION cdp CASCADE;
