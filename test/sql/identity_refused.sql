-- Every reason for which evidence does not count is explained.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET cdp.now = '2026-06-01 00:00+00';
\set SHOW_CONTEXT never
SELECT create_identifier_kind('kiosk', priority => 40, shared => 'anonymous');
SELECT create_identifier_kind('card', priority => 5, max_per_profile => 1, within => '1 month');
SET cdp.max_profile_identifiers = 5;
SET cdp.max_new_identifiers_per_hour = 3;
SET cdp.bridge_guard = 2;

INSERT INTO events (message_id, event, identifiers, occurred_at) VALUES
	-- limit: two users of one device; and two cards within a month
	('l1', 'In', '{user_id:ada,anonymous_id:tablet}', '2026-01-01Z'),
	('l2', 'In', '{user_id:bob,anonymous_id:tablet}', '2026-01-02Z'),
	('l3', 'In', '{card:1,email:c@example.com}', '2026-01-03Z'),
	('l4', 'In', '{card:2,email:c@example.com}', '2026-01-04Z'),
	-- cannot-link
	('c1', 'In', '{user_id:carl,cookie:c}', '2026-01-05Z'),
	-- size: the sixth
	('s1', 'In', '{user_id:size,cookie:s1}', '2026-01-06 00:00Z'),
	('s2', 'In', '{user_id:size,cookie:s2}', '2026-01-06 01:00Z'),
	('s3', 'In', '{user_id:size,cookie:s3}', '2026-01-06 02:00Z'),
	('s4', 'In', '{user_id:size,cookie:s4}', '2026-01-06 03:00Z'),
	('s5', 'In', '{user_id:size,cookie:s5}', '2026-01-06 04:00Z'),
	-- rate: the fourth within an hour
	('r1', 'In', '{user_id:rate,cookie:r1}', '2026-01-07 00:00Z'),
	('r2', 'In', '{user_id:rate,cookie:r2}', '2026-01-07 00:10Z'),
	('r3', 'In', '{user_id:rate,cookie:r3}', '2026-01-07 00:20Z'),
	-- bridge: one link between two pairs
	('b1', 'In', '{email:x@example.com,cookie:b1}', '2026-01-08Z'),
	('b2', 'In', '{email:y@example.com,cookie:b2}', '2026-01-09Z'),
	('b3', 'In', '{email:x@example.com,cookie:b2}', '2026-01-10Z'),
	-- shared: a kiosk that two users used
	('k1', 'In', '{user_id:dora,kiosk:1}', '2026-01-11Z'),
	('k2', 'In', '{user_id:emil,kiosk:1}', '2026-01-12Z'),
	-- detached
	('d1', 'In', '{user_id:fay,cookie:sold}', '2026-01-13Z');
SELECT apply();
SELECT split('user_id:carl', 'cookie:c') IS NOT NULL AS split, detach('cookie:sold') IS NOT NULL AS detached;
SELECT apply();

SELECT q.identifier, r.a, r.b, r.status, r.reason, r.detail, r.message_id, r.at, r.other_profile = resolve(r.b) AS other
FROM (VALUES (1, 'user_id:bob'::identifier), (2, 'card:2'), (3, 'user_id:carl'), (4, 'user_id:size'), (5, 'user_id:rate'),
	(6, 'cookie:b2'), (7, 'kiosk:1'), (8, 'user_id:fay')) q (n, identifier)
CROSS JOIN LATERAL refused_links(q.identifier) r
ORDER BY q.n, r.at, r.message_id;
-- each of them in the picture
SELECT q.identifier, array(SELECT m[1] FROM regexp_matches(graph_dot(q.identifier), '(?:refused|overruled): ([^"]*)', 'g') m) AS shown
FROM (VALUES (1, 'user_id:bob'::identifier), (2, 'card:2'), (3, 'user_id:carl'), (4, 'user_id:size'), (5, 'user_id:rate'),
	(6, 'cookie:b2'), (7, 'kiosk:1'), (8, 'user_id:fay')) q (n, identifier)
ORDER BY q.n;
SELECT * FROM verify();
