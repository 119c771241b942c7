-- Tracking plans of mode quarantine: an entry with violations does not count for
-- anything, and what a plan says follows from the log and the definitions alone.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');
SELECT cdp.create_trait('revenue', aggregate => 'sum', event => 'Order Completed', value => $$(properties->>'total')::numeric$$);
SELECT cdp.create_segment('buyers', 'orders > 0');
SELECT cdp.create_segment('two_steps', $$did_in_order('Cart Viewed', 'Order Completed')$$);

CREATE FUNCTION state(OUT who text, OUT orders text, OUT revenue text, OUT plan text, OUT segments text, OUT seats text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT string_agg(i.identifier::text, ' ' ORDER BY i.identifier::text COLLATE "C"), p -> 'values' ->> 'orders', p -> 'values' ->> 'revenue', p -> 'traits' ->> 'plan',
		(SELECT string_agg(m.segment, ' ' ORDER BY m.segment) FROM cdp.memberships m WHERE m.profile_id = i.profile_id),
		(SELECT string_agg(a.identifier::text, ' ') FROM cdp.account_identities a
			WHERE EXISTS (SELECT FROM cdp.account_evidence e JOIN cdp.identities n ON n.node_id = e.node_id
				WHERE e.account_id = a.account_id AND n.profile_id = i.profile_id))
	FROM cdp.identities i CROSS JOIN LATERAL (SELECT cdp.profile_traits_at(i.profile_id, (SELECT clock FROM cdp.applier)) AS p OFFSET 0) t
	GROUP BY i.profile_id, p ORDER BY 1
$$;
CREATE VIEW held AS SELECT r.message_id, r.reason, r.detail, r.held FROM cdp.rejected r ORDER BY r.message_id COLLATE "C", r.entry;

SELECT cdp.tracking_plan('Order Completed', '{
	"properties": {"total": {"type": "number", "minimum": 0}, "items": {"items": {"required": ["sku"]}}},
	"required": ["currency"]}', 'quarantine');
SELECT cdp.tracking_plan(NULL, '{"properties": {"plan": {"enum": ["free", "pro"]}}}', 'quarantine', 'identify');
SELECT cdp.tracking_plan(NULL, '{"required": ["name"]}', 'quarantine', 'group');

-- links, traits, sequences, accounts: nothing of it counts
SET cdp.now = '2026-05-04 10:00+00';
SELECT cdp.track('Cart Viewed', user_id => 'ann', message_id => 'm0', occurred_at => '2026-05-04 09:50+00'),
	cdp.track('Order Completed', '{"total": 7, "currency": "EUR"}', user_id => 'ann', anonymous_id => 'a1', message_id => 'm1'),
	cdp.track('Order Completed', '{"total": -1, "items": [{}, {}, {"sku": 1}]}', user_id => 'ann', anonymous_id => 'a2', message_id => 'm2', occurred_at => '2026-05-04 09:55+00'),
	cdp.track('Order Completed', user_id => 'bob', message_id => 'm3'),
	cdp.identify('bob', '{"plan": "gold"}', message_id => 'm4'),
	cdp.group('acme', '{"seats": 3}', user_id => 'ann', message_id => 'm5');
SELECT cdp.profile('user_id:bob', fresh => true) IS NULL AS nobody, cdp.profile('user_id:ann', fresh => true) -> 'traits' AS fresh;
SELECT cdp.apply();
SELECT * FROM held;
SELECT * FROM state();
SELECT * FROM cdp.verify();
SELECT cdp.profile('user_id:ann', fresh => true) -> 'traits' AS fresh, cdp.resolve('anonymous_id:a2'),
	cdp.resolve_at('anonymous_id:a2', 'infinity') AS a2, cdp.resolve_at('anonymous_id:a1', 'infinity') IS NOT NULL AS a1,
	cdp.profile_at('user_id:ann', 'infinity') -> 'traits' AS at;
SELECT type, judged, violating FROM cdp.stat_plans ORDER BY 1;

-- of copies one that is as it should be counts, whichever comes first
SELECT cdp.track('Order Completed', '{"total": 5, "currency": "EUR"}', user_id => 'cat', message_id => 'm6', occurred_at => '2026-05-04 09:30+00'),
	cdp.track('Order Completed', '{"total": 5}', user_id => 'cat', message_id => 'm6', occurred_at => '2026-05-04 09:20+00');
SELECT cdp.apply();
SELECT * FROM state() WHERE who LIKE '%cat%';
SELECT * FROM cdp.verify();

-- released as it is: it counts at the time of its event, and can be undone
SET cdp.now = '2026-05-04 11:00+00';
SELECT cdp.release('m2');
SELECT cdp.apply();
SELECT * FROM state() WHERE who LIKE '%ann%';
SELECT message_id, at, properties FROM cdp.timeline('user_id:ann') WHERE event = 'Order Completed' ORDER BY 1;
SELECT * FROM cdp.verify();
SELECT cdp.retract('m2', 'sql') IS NOT NULL AS retracted;
SELECT cdp.apply();
SELECT * FROM state() WHERE who LIKE '%ann%';
SELECT * FROM cdp.verify();
-- corrected: a copy of the message
SELECT cdp.release('m3', properties => '{"total": 1}');
SELECT cdp.release('m3', properties => '{"total": 1, "currency": "EUR"}');
SELECT cdp.release('m4', properties => '{"plan": "pro"}', source => 'sql');
SELECT cdp.release('m5', source => 'other');
SELECT cdp.release('m5');
SELECT cdp.release('m5');
SELECT cdp.apply();
SELECT * FROM held;
SELECT * FROM state();
SELECT count(*) AS copies, count(DISTINCT e.occurred_at) AS times FROM cdp.events e WHERE message_id = 'm3';
SELECT * FROM cdp.verify();

-- an entry is judged by the version that was in force when it was received
SET cdp.now = '2026-05-04 12:00+00';
SELECT cdp.track('Order Completed', '{"total": 3}', user_id => 'dan', message_id => 'm7');
SET cdp.now = '2026-05-04 12:01+00';
SELECT cdp.tracking_plan('Order Completed', '{"required": ["total"]}', 'quarantine');
SET cdp.now = '2026-05-04 12:02+00';
SELECT cdp.track('Order Completed', '{"total": 4}', user_id => 'dan', message_id => 'm8', occurred_at => '2026-05-04 11:50+00');
SELECT cdp.apply(1), cdp.apply();
SELECT * FROM state() WHERE who LIKE '%dan%';
SELECT * FROM cdp.verify();

-- retroactive, with little history: at once.  What was fine is not now; what was
-- not is; what was released stays
SET cdp.now = '2026-05-04 13:00+00';
BEGIN;
SELECT cdp.tracking_plan('Order Completed', '{"properties": {"total": {"maximum": 4}}}', 'quarantine', retroactive => true);
SELECT change, identifier FROM cdp.preview_identity() ORDER BY 1, 2;
COMMIT;
SELECT * FROM state();
SELECT * FROM held;
SELECT * FROM cdp.verify();
SELECT version, from_at, until_at, judged, violating FROM cdp.stat_plans WHERE event = 'Order Completed' ORDER BY 1;
-- and what is rolled back changes nothing, here or in what this session keeps
BEGIN;
SELECT cdp.tracking_plan('Order Completed', 'false', 'quarantine', retroactive => true);
SET CONSTRAINTS ALL IMMEDIATE;
SELECT count(*) FROM held WHERE detail LIKE '%version 4: all of it false';
ROLLBACK;
SELECT cdp.tracking_plan('Other', 'false', 'quarantine');
SELECT cdp.track('Order Completed', '{"total": 2}', user_id => 'eve', message_id => 'm9');
SELECT cdp.apply();
SELECT * FROM state() WHERE who LIKE '%eve%';
SELECT * FROM cdp.verify();

-- retroactive, in steps, beside what comes: entries that it has not reached are
-- as they were
SET cdp.replay_at_commit = 0;
SET cdp.now = '2026-05-04 14:00+00';
SELECT cdp.tracking_plan('Order Completed', '{"properties": {"total": {"minimum": 3}}}', 'quarantine', retroactive => true);
SELECT cdp.track('Order Completed', '{"total": 2}', user_id => 'fay', message_id => 'm10'),
	cdp.track('Order Completed', '{"total": 9}', user_id => 'fay', message_id => 'm11'),
	cdp.retract('m1', 'sql') IS NOT NULL AS retracted;
SELECT * FROM cdp.verify();
DO $$ BEGIN FOR i IN 1 .. 60 LOOP PERFORM cdp.apply(1); END LOOP; END $$;
SELECT * FROM state();
SELECT * FROM held;
SELECT * FROM cdp.verify();
-- the same all over again
CREATE TABLE before AS SELECT * FROM state();
SELECT cdp.apply_identity_changes();
SELECT * FROM before EXCEPT SELECT * FROM state();
SELECT count(*) = (SELECT count(*) FROM before) AS as_many FROM state();
SELECT * FROM cdp.verify();

-- who is erased is not in what is held either
SELECT cdp.track('Other', user_id => 'gus', message_id => 'm12');
SET cdp.now = '2026-05-04 14:01+00';
SELECT cdp.track('Other', '{"name": "gus@example.com"}', user_id => 'gus', message_id => 'm13'), cdp.track('Fine', user_id => 'gus', message_id => 'm14');
SELECT cdp.apply();
SELECT jsonb_array_length(cdp.export('user_id:gus') -> 'rejected') AS exported;
SELECT count(*) FROM held WHERE message_id IN ('m12', 'm13');
SELECT cdp.erase('user_id:gus') IS NOT NULL AS erased;
SELECT cdp.apply();
SELECT count(*) FROM held WHERE message_id IN ('m12', 'm13');
SELECT count(*) FROM cdp.events WHERE message_id IN ('m12', 'm13', 'm14');
SELECT * FROM cdp.verify();

-- what was corrected stays so, whatever plans say later
SELECT cdp.tracking_plan('Typed', '{"required": ["currency"]}', 'quarantine', retroactive => true);
SELECT count(cdp.track('Typed', jsonb_build_object('n', -i), user_id => 'typed', message_id => 'typed' || i)) FROM generate_series(1, 8) i;
SELECT cdp.apply(NULL);
SELECT count(cdp.release('typed' || i, properties => jsonb_build_object('n', i, 'currency', 'EUR'))) FROM generate_series(1, 8) i;
SELECT cdp.apply(NULL);
SELECT cdp.tracking_plan('Typed', 'true', 'allow', retroactive => true);
SELECT cdp.apply(NULL);
SELECT cdp.profile('user_id:typed', fresh => true) IS NOT NULL AS known,
	string_agg(properties ->> 'n', ' ' ORDER BY message_id) AS counts FROM cdp.timeline('user_id:typed');
SELECT held, detail, count(*) FROM held WHERE message_id LIKE 'typed%' GROUP BY 1, 2;
SELECT * FROM cdp.verify();

-- whoever applies must not be made to fail by a wrong definition
UPDATE cdp.plan_definitions SET schema = '{"type": "what"}' WHERE event = 'Other';
SELECT cdp.definitions_changed();
SELECT cdp.track('Other', user_id => 'hal', message_id => 'm15'), cdp.track('Fine', user_id => 'hal', message_id => 'm16');
SELECT cdp.apply();
SELECT r.message_id, r.reason, r.held FROM held r WHERE message_id IN ('m15', 'm16');
SELECT count(*) FROM state() WHERE who LIKE '%hal%';

-- who is in no table, as all is held, is there when a version about history lets it count
SELECT cdp.tracking_plan('Only', 'false', 'quarantine', retroactive => true);
SELECT cdp.track('Only', user_id => 'only', message_id => 'only');
SELECT cdp.apply();
BEGIN;
SET LOCAL cdp.backfill_at_once = 0;
SELECT cdp.profile('user_id:only', fresh => true) IS NULL AS held;
SELECT cdp.tracking_plan('Only', 'true', 'allow', retroactive => true);
SELECT count(*) AS on_their_way FROM cdp.rule_changes;
SELECT cdp.profile('user_id:only', fresh => true)->'identifiers' AS counts;
COMMIT;
SELECT cdp.apply(NULL);
SELECT cdp.profile('user_id:only')->'identifiers' AS counts;

-- a message that several sources have is named with its source
SET cdp.now = '2026-06-01 09:00+00';
SELECT cdp.tracking_plan('Twin', '{"required": ["n"]}', 'quarantine') > 0 AS made;
SET cdp.now = '2026-06-01 10:00+00';
SELECT count(cdp.track('Twin', user_id => 'zed', message_id => 'twin', source => s)) AS logged FROM unnest('{web,app}'::text[]) s;
SELECT cdp.apply();
SELECT cdp.release('twin');
SELECT cdp.release('twin', 'nowhere');
SELECT cdp.release('twin', 'web');
SELECT cdp.apply() >= 0;
SELECT e.source, r.held FROM cdp.events e LEFT JOIN cdp.rejected r ON r.entry = e.id WHERE e.message_id = 'twin' ORDER BY 1;

-- of two copies the one that counted is put aside by a plan, by which the other is read
-- otherwise, too: it counts
DELETE FROM cdp.plan_definitions WHERE event = 'Other';
SET cdp.replay_at_commit = 0;
SELECT cdp.tracking_plan('Paid', '{"properties": {"tier": {"enum": ["basic"]}}}', 'drop-property', retroactive => true) IS NOT NULL AS planned;
SELECT cdp.apply() IS NOT NULL AS applied;
INSERT INTO cdp.events (message_id, type, event, identifiers, properties, occurred_at) VALUES
	('late', 'track', 'Paid', '{user_id:late}', '{"a": 1, "tier": null}', '2026-05-04 08:00+00'),
	('late', 'track', 'Paid', '{user_id:early}', '{"a": 1}', '2026-05-04 07:00+00');
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT cdp.resolve('user_id:early') IS NOT NULL AS early, cdp.resolve('user_id:late') IS NOT NULL AS late;
SELECT cdp.tracking_plan('Paid', '{"minProperties": 2}', 'quarantine', retroactive => true) IS NOT NULL AS planned;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT cdp.resolve('user_id:early') IS NOT NULL AS early, cdp.resolve('user_id:late') IS NOT NULL AS late;
SELECT * FROM cdp.verify();
