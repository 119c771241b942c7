-- Why identifiers are, or are not, one person.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET cdp.now = '2026-06-01 00:00+00';
\set SHOW_CONTEXT never

-- ada: a phone, a tablet, an e-mail address; bob used the tablet later; an
-- older visit is merged by hand, one more is split off
INSERT INTO events (message_id, source, type, event, identifiers, occurred_at) VALUES
	('m1', 'web', 'track', 'Signed Up', '{anonymous_id:phone,user_id:ada}', '2026-01-01Z'),
	('m2', 'web', 'track', 'Logged In', '{user_id:ada,anonymous_id:tablet}', '2026-01-02Z'),
	('m3', 'app', 'identify', NULL, '{anonymous_id:tablet,email:Ada@Example.com}', '2026-01-03Z'),
	(NULL, 'web', 'track', 'Logged In', '{user_id:bob,anonymous_id:tablet}', '2026-01-04Z'),
	('m5', 'web', 'track', 'Viewed', '{cookie:old}', '2025-12-01Z'),
	('m6', 'web', 'track', 'Viewed', '{email:ada@example.com,cookie:c}', '2026-01-05Z'),
	('m7', 'web', 'track', 'Again', '{anonymous_id:phone,user_id:ada}', '2026-01-06Z'),
	('m8', 'web', 'track', 'Viewed', '{user_id:cyd,cookie:kiosk}', '2026-01-07Z'),
	('m9', 'web', 'track', 'Viewed', '{user_id:ada,cookie:pad}', '2026-01-08Z');
SELECT apply();
SELECT merge('user_id:ada', 'cookie:old', 'she said so') AS merge \gset
SELECT split('user_id:ada', 'cookie:pad', 'a guest') AS split \gset
SELECT apply();
SELECT profile_id, array_agg(identifier ORDER BY node_id) FROM identities GROUP BY 1 ORDER BY 1;

-- chains
SELECT step, from_identifier, to_identifier, origin, event, source, message_id, at FROM explain_link('cookie:c', 'anonymous_id:phone');
SELECT step, from_identifier, to_identifier, message_id FROM explain_link('anonymous_id:phone', 'cookie:c');
SELECT step, from_identifier, to_identifier, origin, event, source, message_id = :'merge' AS merge FROM explain_link('email:ADA@example.com', 'cookie:old');
-- no chain: the same, another person, unknown, blocked, NULL
SELECT * FROM explain_link('user_id:ada', 'user_id:ada');
SELECT * FROM explain_link('user_id:ada', 'user_id:bob');
SELECT * FROM explain_link('user_id:ada', 'user_id:nobody');
SELECT * FROM explain_link('user_id:nobody', 'user_id:nobody');
SELECT * FROM explain_link('user_id:null', 'user_id:ada');
SELECT * FROM explain_link('user_id:ada', NULL);
SELECT * FROM component('user_id:nobody');
SELECT * FROM refused_links('user_id:nobody');
SELECT * FROM bridges('user_id:nobody');
SELECT * FROM articulation_points('user_id:nobody');
SELECT graph_dot('user_id:nobody') IS NULL AS unknown;
-- a kind that nobody has registered
SELECT * FROM explain_link('user_id:ada', 'nosuch:x');
SELECT * FROM component('nosuch:x');
SELECT * FROM refused_links('nosuch:x');
SELECT * FROM bridges('nosuch:x');
SELECT * FROM articulation_points('nosuch:x');
SELECT graph_dot('nosuch:x');

SELECT * FROM component('email:Ada@Example.com');
SELECT * FROM component('user_id:bob');

-- from either side
SELECT a, b, status, reason, origin, event, source, message_id ~ '^#' AS made_up, at, other_profile = resolve(b) AS other FROM refused_links('cookie:c');
SELECT a, b, status, reason, other_profile = resolve('user_id:ada') AS other FROM refused_links('user_id:bob');
SELECT a, b, status, reason, other_profile = resolve('user_id:ada') AS other FROM refused_links('cookie:pad');
-- refused, and then together by hand
BEGIN;
SELECT merge('user_id:ada', 'user_id:bob') IS NOT NULL AS merged;
COMMIT;
SELECT apply();
SELECT a, b, status, reason, other_profile = resolve('user_id:ada') AS same FROM refused_links('user_id:bob');
SELECT graph_dot('user_id:bob') LIKE '%n3 -- n5 %refused: limit%n1 -- n5 %merge%' AS both_drawn;
SELECT undo(message_id) IS NOT NULL AS undone FROM explain_link('user_id:ada', 'user_id:bob') WHERE origin = 'manual';
SELECT apply();

-- what holds it together
SELECT a, b, origin, event, at, a_side, b_side FROM bridges('user_id:ada') ORDER BY least(a_side, b_side) DESC, a, b;
SELECT * FROM articulation_points('cookie:c');
-- evidence by hand beside evidence by an event: no bridge any more
SELECT merge('user_id:ada', 'anonymous_id:tablet') AS merge2 \gset
SELECT apply();
SELECT a, b FROM bridges('user_id:ada') ORDER BY a, b;
SELECT message_id, origin FROM explain_link('user_id:ada', 'anonymous_id:tablet');
SELECT undo(:'merge2') IS NOT NULL AS undone;
SELECT apply();
-- one identifier alone
SELECT * FROM bridges('user_id:bob');
SELECT * FROM articulation_points('user_id:bob');

SELECT graph_dot('user_id:ada');
SELECT graph_dot('user_id:bob');

-- a cycle of six with a tail, and two triangles that share a corner
INSERT INTO events (message_id, event, identifiers, occurred_at)
	SELECT 'r' || n, 'Ring', ARRAY['cookie:r' || n, 'cookie:r' || (n + 1) % 6]::identifier[], timestamptz '2026-02-01Z' + n * interval '1 hour'
	FROM generate_series(0, 5) n;
INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	('tail', 'Tail', '{cookie:r3,cookie:tail}', '2026-02-02Z'),
	('t1', 'Triangle', '{cookie:x,cookie:l1}', '2026-02-03 01:00Z'),
	('t2', 'Triangle', '{cookie:l1,cookie:l2}', '2026-02-03 02:00Z'),
	('t3', 'Triangle', '{cookie:l2,cookie:x}', '2026-02-03 03:00Z'),
	('t4', 'Triangle', '{cookie:x,cookie:k1}', '2026-02-03 04:00Z'),
	('t5', 'Triangle', '{cookie:k1,cookie:k2}', '2026-02-03 05:00Z'),
	('t6', 'Triangle', '{cookie:k2,cookie:x}', '2026-02-03 06:00Z');
SELECT apply();
SELECT depth, identifier, via FROM component('cookie:r0') ORDER BY depth, identifier;
-- two ways of three steps: the earlier one, as the walk finds it
SELECT step, from_identifier, to_identifier FROM explain_link('cookie:r0', 'cookie:r3');
SELECT step, from_identifier, to_identifier FROM explain_link('cookie:tail', 'cookie:r5');
SELECT a, b, message_id, a_side, b_side FROM bridges('cookie:r0');
SELECT * FROM articulation_points('cookie:r0');
SELECT * FROM bridges('cookie:l1');
SELECT * FROM articulation_points('cookie:l1');

-- a chain of 200
INSERT INTO events (message_id, event, identifiers, occurred_at)
	SELECT 'c' || n, 'Chain', ARRAY['cookie:chain' || n, 'cookie:chain' || n + 1]::identifier[], timestamptz '2026-03-01Z' + n * interval '1 hour'
	FROM generate_series(1, 199) n;
SELECT apply();
SELECT count(*), min(step), max(step), bool_and(message_id = 'c' || step),
	bool_and(from_identifier = ('cookie:chain' || step)::identifier AND to_identifier = ('cookie:chain' || step + 1)::identifier)
FROM explain_link('cookie:chain1', 'cookie:chain200');
SELECT count(*), max(step) FROM explain_link('cookie:chain150', 'cookie:chain50');
SELECT count(*), max(depth), count(DISTINCT identifier) FROM component('cookie:chain1');
SELECT count(*), max(depth), count(DISTINCT identifier) FROM component('cookie:chain100');
SELECT count(*), bool_and(a_side + b_side = 200) FROM bridges('cookie:chain7');
SELECT a, b, a_side, b_side FROM bridges('cookie:chain7') LIMIT 2;
SELECT count(*), min(parts), max(parts) FROM articulation_points('cookie:chain7');

-- the walk and the labels say the same, for everybody
SELECT i.identifier FROM identities i
WHERE i.node_id = i.profile_id AND (SELECT count(*) FROM component(i.identifier)) <>
	(SELECT count(*) FROM identities j WHERE j.profile_id = i.profile_id);

-- bridges and articulation points against trying each one, on random graphs
INSERT INTO events (message_id, event, identifiers, occurred_at)
	SELECT 'g' || n, 'Random',
		ARRAY['cookie:g' || n / 16 || '.' || (hashint4(n) & 7), 'cookie:g' || n / 16 || '.' || (hashint4(n + 1000) & 7)]::identifier[],
		timestamptz '2026-04-01Z' + n * interval '1 minute'
	FROM generate_series(0, 799) n WHERE n % 16 < 9;
SELECT apply();
-- the parts of the profile without a link, or without a node
CREATE FUNCTION parts(profile bigint, no_a bigint, no_b bigint, no_node bigint) RETURNS bigint LANGUAGE sql AS $$
	WITH RECURSIVE nodes AS (
		SELECT node_id FROM identities WHERE profile_id = profile AND node_id IS DISTINCT FROM no_node
	), pairs AS (
		SELECT l.a AS x, l.b AS y FROM links l JOIN nodes n ON n.node_id = l.a JOIN nodes m ON m.node_id = l.b
		WHERE l.status = 'accepted' AND (l.a, l.b) IS DISTINCT FROM (no_a, no_b)
	), reach (root, node) AS (
		SELECT node_id, node_id FROM nodes
		UNION
		SELECT r.root, CASE WHEN p.x = r.node THEN p.y ELSE p.x END FROM reach r JOIN pairs p ON r.node IN (p.x, p.y)
	)
	SELECT count(DISTINCT root) FROM (SELECT min(root) AS root FROM reach GROUP BY node) s
$$;
WITH profiles AS MATERIALIZED (
	SELECT profile_id, min(identifier::text)::identifier AS member, count(*) AS size FROM identities
	WHERE identifier::text ~ '^cookie:g' GROUP BY 1
), tried AS (
	SELECT p.profile_id, l.a, l.b FROM profiles p JOIN identities i USING (profile_id) JOIN links l ON l.a = i.node_id
	WHERE parts(p.profile_id, l.a, l.b, NULL) = 2
), found AS (
	SELECT p.profile_id, i.node_id AS a, j.node_id AS b FROM profiles p CROSS JOIN bridges(p.member) s
	JOIN identities i ON i.identifier = s.a JOIN identities j ON j.identifier = s.b
), tried_points AS (
	SELECT p.profile_id, i.node_id, parts(p.profile_id, NULL, NULL, i.node_id) AS parts
	FROM profiles p JOIN identities i USING (profile_id) WHERE parts(p.profile_id, NULL, NULL, i.node_id) > 1
), found_points AS (
	SELECT p.profile_id, i.node_id, s.parts::bigint FROM profiles p CROSS JOIN articulation_points(p.member) s
	JOIN identities i ON i.identifier = s.identifier
)
SELECT (SELECT count(*) FROM profiles WHERE size > 3) > 20 AS many,
	(SELECT count(*) FROM tried) > 20 AS bridges, (SELECT count(*) FROM tried_points) > 20 AS points,
	(SELECT count(*) FROM (TABLE tried EXCEPT TABLE found) s) AS bridges_missing,
	(SELECT count(*) FROM (TABLE found EXCEPT TABLE tried) s) AS bridges_wrong,
	(SELECT count(*) FROM (TABLE tried_points EXCEPT TABLE found_points) s) AS points_missing,
	(SELECT count(*) FROM (TABLE found_points EXCEPT TABLE tried_points) s) AS points_wrong;
-- and chains are as long as the walk is deep
SELECT count(*) > 100 AS pairs, count(*) FILTER (WHERE c.depth <> (SELECT count(*) FROM explain_link(i.identifier, c.identifier))) AS wrong
FROM identities i CROSS JOIN LATERAL component(i.identifier) c WHERE i.identifier::text ~ '^cookie:g1';

-- values that are meant to break out of quotes
INSERT INTO events (message_id, source, event, identifiers, occurred_at) VALUES
	(E'q"1\\', E'it''s "a"\\', E'He said "hi"; \\N & <b>', ARRAY[E'cookie:"];x[\\', E'cookie:a\\"b\nc&amp;\td']::identifier[], '2026-05-01Z');
SELECT apply();
SELECT * FROM explain_link(E'cookie:"];x[\\', E'cookie:a\\"b\nc&amp;\td');
SELECT graph_dot(E'cookie:"];x[\\');
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SELECT graph_dot(E'cookie:"];x[\\') LIKE E'%label="cookie:\\\\"];x[\\\\\\\\"%' AS escaped;
RESET standard_conforming_strings;
RESET escape_string_warning;

-- where the log does not go back that far, source and message id remain
BEGIN;
DELETE FROM events WHERE message_id = 'm1';
SELECT event, source, message_id, at FROM explain_link('user_id:ada', 'anonymous_id:phone');
ROLLBACK;

-- too large to be taken apart; walking it is no trouble
BEGIN;
INSERT INTO identities (node_id, identifier, profile_id, first_seen, last_seen)
	SELECT 1000000 + n, 'cookie:star' || n, 1000000, '2026-01-01Z', '2026-01-01Z' FROM generate_series(0, 100001) n;
INSERT INTO links (a, b, entry, at, tie, ord, origin, status)
	SELECT 1000000, 1000000 + n, 0, '2026-01-01Z', '', 1, 'event', 'accepted' FROM generate_series(1, 100000) n;
INSERT INTO links (a, b, entry, at, tie, ord, origin, status)
	VALUES (1000001, 1100001, 0, '2026-01-01Z', '', 1, 'event', 'accepted');
SELECT count(*) FROM explain_link('cookie:star5', 'cookie:star100001');
SAVEPOINT s;
SELECT * FROM bridges('cookie:star0');
ROLLBACK TO s;
SELECT * FROM articulation_points('cookie:star0');
ROLLBACK TO s;
SELECT graph_dot('cookie:star0');
ROLLBACK;

-- rights: whoever may execute needs nothing else, others may not; what the
-- caller has on his path changes nothing
CREATE ROLE regress_cdp_explain;
CREATE SCHEMA evil;
CREATE FUNCTION evil.trap(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT 1/0 = 1';
CREATE OPERATOR evil.= (FUNCTION = evil.trap, LEFTARG = bigint, RIGHTARG = bigint);
GRANT USAGE ON SCHEMA evil TO regress_cdp_explain;
SET ROLE regress_cdp_explain;
SELECT * FROM explain_link('user_id:ada', 'cookie:c');
SELECT * FROM component('user_id:ada');
SELECT * FROM refused_links('user_id:ada');
SELECT * FROM bridges('user_id:ada');
SELECT * FROM articulation_points('user_id:ada');
SELECT graph_dot('user_id:ada');
SELECT find_cuts(1);
SELECT graph_walk(1);
RESET ROLE;
GRANT EXECUTE ON FUNCTION explain_link, component, refused_links, bridges, articulation_points, graph_dot TO regress_cdp_explain;
SET ROLE regress_cdp_explain;
SET search_path = evil, pg_catalog, cdp, public;
SELECT count(*) FROM explain_link('user_id:ada', 'cookie:c');
SELECT count(*) FROM component('user_id:ada');
SELECT count(*) FROM refused_links('user_id:ada');
SELECT count(*) FROM bridges('user_id:ada');
SELECT count(*) FROM articulation_points('user_id:ada');
SELECT length(graph_dot('user_id:ada')) > 100 AS drawn;
RESET ROLE;
SET search_path = cdp, public;
DROP SCHEMA evil CASCADE;
DROP OWNED BY regress_cdp_explain;
DROP ROLE regress_cdp_explain;

-- in parallel plans
SELECT count(set_config(name, 'on', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT step, message_id FROM explain_link('user_id:ada', 'cookie:c');
SELECT count(*) FROM bridges('user_id:ada');
SELECT count(set_config(name, 'off', false)) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
