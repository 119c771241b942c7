-- cdp.verify(): empty when the stored state is what the log says, and every
-- kind of damage shows.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01 00:00+00';
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');
SELECT cdp.create_trait('ltv', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Order Completed');
SELECT cdp.create_trait('views_7d', aggregate => 'count', event => 'Product Viewed', within => '7 days');
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_segment('buyers', $$did('Order Completed', filter => (properties->>'revenue')::numeric > 5)$$);
SELECT cdp.create_segment('lookers', $$did('Product Viewed', within => '7 days', at_least => 1) AND NOT in_segment('buyers')$$);

-- nothing yet
SELECT * FROM cdp.verify();

INSERT INTO cdp.events (message_id, type, event, identifiers, properties, occurred_at) VALUES
	('1', 'track', 'Product Viewed', '{anonymous_id:a}', NULL, '2026-02-27'),
	('2', 'track', 'Order Completed', '{anonymous_id:a,user_id:u1}', '{"revenue": 10}', '2026-02-28'),
	('3', 'track', 'Order Completed', '{user_id:u2}', '{"revenue": "many"}', '2026-02-28'),
	('4', 'identify', NULL, '{user_id:u2,anonymous_id:b}', '{"plan": "pro", "age": 3}', '2026-02-20'),
	('4', 'identify', NULL, '{user_id:u2,anonymous_id:b}', '{"plan": "free", "age": 3}', '2026-02-19'),
	('5', 'track', 'Product Viewed', '{anonymous_id:b}', NULL, '2026-02-26'),
	('6', 'track', NULL, '{anonymous_id:b}', NULL, '2026-02-26'),
	('7', 'track', 'Product Viewed', '{anonymous_id:a,user_id:u2}', NULL, '2026-02-28'),
	('8', 'split', NULL, '{anonymous_id:b,user_id:u1}', NULL, '2026-02-28');

-- what is pending is not missing
SELECT * FROM cdp.verify();
SELECT cdp.apply(3);
SELECT * FROM cdp.verify();
SELECT cdp.apply();
SELECT * FROM cdp.verify();

-- it writes nothing
BEGIN TRANSACTION READ ONLY;
SELECT * FROM cdp.verify();
COMMIT;

-- time passes: a window ends
SET cdp.now = '2026-03-10 00:00+00';
SELECT * FROM cdp.verify();
SELECT cdp.apply();
SELECT * FROM cdp.verify();
SELECT segment, count(*) FROM cdp.memberships GROUP BY segment ORDER BY segment;

-- damage
BEGIN;
DELETE FROM cdp.rejected;
SELECT station, expected, found FROM cdp.verify();
ROLLBACK;
BEGIN;
UPDATE cdp.identities SET recent = NULL WHERE node_id =
	(SELECT n.owner FROM cdp.entries n JOIN cdp.events e ON e.id = n.entry WHERE e.message_id = '2');
SELECT * FROM cdp.verify() ORDER BY key COLLATE "C";
ROLLBACK;
BEGIN;
UPDATE cdp.identities SET last_seen = '2026-03-01' WHERE identifier = 'user_id:u1';
SELECT station, key, expected->'last_seen' AS expected, found->'last_seen' AS found FROM cdp.verify();
ROLLBACK;
BEGIN;
UPDATE cdp.links SET status = 'refused' WHERE status = 'accepted';
SELECT * FROM cdp.verify() ORDER BY key COLLATE "C";
ROLLBACK;
BEGIN;
UPDATE cdp.identities SET profile_id = (SELECT profile_id FROM cdp.identities WHERE identifier = 'user_id:u1')
	WHERE identifier = 'user_id:u2';
SELECT DISTINCT station FROM cdp.verify() ORDER BY station;
ROLLBACK;
BEGIN;
UPDATE cdp.identities SET state = NULL WHERE identifier = 'user_id:u1';
SELECT station, split_part(key, ' ', 1) AS trait, expected, found FROM cdp.verify() WHERE key NOT LIKE '$%' ORDER BY key COLLATE "C";
ROLLBACK;
BEGIN;
UPDATE cdp.segment_members SET member = NOT member;
SELECT station, split_part(key, ' ', 1) AS segment, expected, found FROM cdp.verify() ORDER BY key COLLATE "C", expected;
ROLLBACK;
BEGIN;
UPDATE cdp.decisions SET effective = false;
SELECT station, expected, found FROM cdp.verify();
ROLLBACK;
SELECT * FROM cdp.verify();
