-- Tracking plans of mode drop-property: properties in which something is wrong are
-- not there for traits, filters and segments; the entry counts, and the log keeps them.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');
SELECT cdp.create_trait('revenue', aggregate => 'sum', event => 'Order Completed', value => $$(properties->>'total')::numeric$$);
SELECT cdp.create_trait('skus', aggregate => 'unique_list', event => 'Order Completed', each => $$properties->'items'$$, value => $$item->>'sku'$$);
SELECT cdp.create_segment('large', $$did('Order Completed', filter => (properties->>'total')::numeric > 50)$$);
CREATE VIEW state AS
	SELECT (SELECT string_agg(i.identifier::text, ' ' ORDER BY i.identifier::text COLLATE "C") FROM cdp.identities i WHERE i.profile_id = p.profile_id) AS who,
		(SELECT jsonb_object_agg(e.key, e.value) FROM jsonb_each(t -> 'traits' || (t -> 'values')) e WHERE e.key !~ '^\$') AS traits,
		(SELECT string_agg(m.segment, ' ' ORDER BY m.segment) FROM cdp.memberships m WHERE m.profile_id = p.profile_id) AS segments
	FROM (SELECT DISTINCT profile_id FROM cdp.identities) p
		CROSS JOIN LATERAL cdp.profile_traits_at(p.profile_id, (SELECT clock FROM cdp.applier)) t ORDER BY 1;

SELECT cdp.tracking_plan('Order Completed', '{
	"properties": {"total": {"type": "number", "maximum": 1000}, "items": {"items": {"required": ["sku"]}}, "currency": {}, "a/b~c": false},
	"required": ["currency"], "additionalProperties": false}', 'drop-property');
SELECT cdp.tracking_plan(NULL, '{"properties": {"plan": {"enum": ["free", "pro"]}, "": false}}', 'drop-property', 'identify');
SELECT cdp.tracking_plan(NULL, '{"properties": {"seats": {"type": "integer"}}}', 'drop-property', 'group');

SET cdp.now = '2026-05-04 10:00+00';
SELECT cdp.track('Order Completed', '{"total": 70, "currency": "EUR", "items": [{"sku": "x"}]}', user_id => 'ann', anonymous_id => 'a1', message_id => 'm1'),
	-- total goes, what is missing is counted
	cdp.track('Order Completed', '{"total": "70", "items": [{"sku": "y"}]}', user_id => 'ann', anonymous_id => 'a2', message_id => 'm2'),
	-- items go as a whole for one of them, others for their names
	cdp.track('Order Completed', '{"total": 7, "currency": "EUR", "items": [{"sku": "z"}, {}], "more": 1, "a/b~c": 2}', user_id => 'bob', message_id => 'm3'),
	cdp.track('Order Completed', '{"total": 1e6}', user_id => 'bob', message_id => 'm4'),
	cdp.identify('bob', '{"plan": "gold", "city": "Rome", "": 1}', message_id => 'm5'),
	cdp.identify('ann', '{"plan": "pro", "city": "Bern"}', message_id => 'm6'),
	cdp.group('acme', '{"seats": "many", "name": "Acme"}', user_id => 'ann', message_id => 'm7');
SELECT cdp.profile('user_id:bob', fresh => true) -> 'traits' AS fresh;
SELECT cdp.apply();
SELECT * FROM state;
SELECT account -> 'traits' AS account FROM cdp.account('group_id:acme') account;
SELECT count(*) AS rejected FROM cdp.rejected;
SELECT cdp.resolve('anonymous_id:a2') = cdp.resolve('anonymous_id:a1') AS linked, cdp.profile_at('user_id:bob', 'infinity') -> 'traits' AS at;
SELECT type, version, path, keyword, entries FROM cdp.plan_violations ORDER BY type, path COLLATE "C", keyword;
SELECT type, mode, judged, violating FROM cdp.stat_plans ORDER BY 1;
SELECT properties FROM cdp.events WHERE message_id = 'm3';
SELECT * FROM cdp.verify();

-- a trait and a segment that come later see the same, and so does what recomputes a node
SELECT cdp.create_trait('best', aggregate => 'max', event => 'Order Completed', value => $$(properties->>'total')::numeric$$);
SELECT cdp.track('Order Completed', '{"total": "9", "currency": "EUR"}', user_id => 'bob', message_id => 'm8', occurred_at => '2026-05-04 08:00+00');
SELECT cdp.undo('m1');
SELECT cdp.apply();
SELECT * FROM state;
SELECT * FROM cdp.verify();

-- it was the plan that was wrong: history follows
SET cdp.now = '2026-05-04 11:00+00';
SELECT cdp.tracking_plan('Order Completed', '{"properties": {"total": {"maximum": 1000}}}', 'drop-property', retroactive => true);
SELECT cdp.apply();
SELECT * FROM state;
SELECT * FROM cdp.verify();
-- from one mode to another, and what was released counts whole
SELECT cdp.tracking_plan('Order Completed', '{"properties": {"total": {"maximum": 1000}}}', 'quarantine', retroactive => true);
SELECT cdp.apply();
SELECT message_id, held FROM cdp.rejected;
SELECT cdp.release('m4');
SELECT cdp.tracking_plan('Order Completed', '{"properties": {"total": {"maximum": 5}}}', 'drop-property', retroactive => true);
SELECT cdp.apply();
SELECT * FROM state;
SELECT * FROM cdp.verify();

-- what is logged from now on is judged by another version, the rest is as it was
SELECT cdp.drop_tracking_plan('Order Completed');
SET cdp.now = '2026-05-04 11:30+00';
SELECT cdp.track('Order Completed', '{"total": 6}', user_id => 'cat', message_id => 'm9');
SELECT cdp.apply();
SELECT * FROM state WHERE who LIKE '%cat%';
SELECT * FROM cdp.verify();
-- properties that are no object, and an entry with nothing left
SELECT cdp.tracking_plan('Odd', '{"type": "object", "additionalProperties": false}', 'drop-property');
SET cdp.now = '2026-05-04 12:00+00';
INSERT INTO cdp.events (event, identifiers, properties) VALUES ('Odd', '{user_id:cat}', '[1, {"a": 2}]'), ('Odd', '{user_id:cat}', '"a"'), ('Odd', '{user_id:cat}', '{"a": 1}');
SELECT cdp.create_trait('odd', aggregate => 'list', event => 'Odd', value => $$properties::text$$);
SELECT cdp.apply();
SELECT traits -> 'odd' AS odd FROM state WHERE who LIKE '%cat%';
SELECT * FROM cdp.verify();

-- accounts as they were: what their members add up to, and what group calls say of parents
SET cdp.now = '2026-05-04 13:00+00';
SELECT cdp.create_trait('of_members', aggregate => 'sum', value => 'revenue', entity => 'account', options => '{"over": "members", "rollup": true}');
SELECT cdp.tracking_plan(NULL, '{"properties": {"parent": {"enum": ["top"]}}}', 'drop-property', 'group', retroactive => true);
SELECT cdp.tracking_plan('Order Completed', '{"properties": {"total": {"type": "number"}}}', 'drop-property', retroactive => true);
SELECT cdp.track('Order Completed', '{"total": 10}', user_id => 'dan'), cdp.track('Order Completed', '{"total": "11"}', user_id => 'dan'),
	cdp.group('north', '{"parent": "top"}', user_id => 'dan'),
	cdp.track('Order Completed', '{"total": 100}', user_id => 'eve'), cdp.group('south', '{"parent": "north"}', user_id => 'eve');
SELECT cdp.group('top', '{}', user_id => 'eve');
SELECT cdp.apply();
SELECT a.identifier, a.traits, cdp.account_at(a.identifier) -> 'traits' AS at
FROM cdp.account_identities i CROSS JOIN LATERAL (SELECT i.identifier, cdp.account(i.identifier) -> 'traits' AS traits OFFSET 0) a ORDER BY 1;

-- payloads that stayed in their rows are not judged, nor when the log has them
CREATE TABLE visits (id int PRIMARY KEY, who text, place text);
SELECT cdp.tracking_plan('Visit', '{"properties": {"place": {"pattern": "^[A-Z]"}}}', 'drop-property'),
	cdp.tracking_plan('Call', '{"properties": {"place": {"pattern": "^[A-Z]"}}}', 'quarantine');
SET cdp.now = '2026-05-04 14:00+00';
INSERT INTO visits VALUES (1, 'fay', 'a harbour'), (2, 'fay', 'Copenhagen');
SELECT cdp.create_trait('places', aggregate => 'unique_list', value => $$properties->>'place'$$);
SELECT cdp.attach('visits', '{"event": {"sql": "CASE id WHEN 3 THEN ''Call'' ELSE ''Visit'' END"}, "identifiers": {"user_id": "who"}}', copy => false);
INSERT INTO visits VALUES (3, 'fay', 'another harbour');
SELECT cdp.apply();
SELECT cdp.drop_attachment('visits');
SELECT cdp.apply();
SELECT cdp.profile('user_id:fay') -> 'traits' AS traits, cdp.profile_at('user_id:fay', 'infinity') -> 'traits' AS at;
SELECT count(*) AS exempt FROM cdp.plan_releases r JOIN cdp.events e ON e.id = r.entry WHERE e.source = 'visits';
SELECT * FROM cdp.verify();

-- what goes had added what was left of it
SELECT cdp.create_trait('plain', aggregate => 'count', event => 'Call', filter => $$NOT properties ? 'coupon'$$);
SELECT cdp.tracking_plan('Call', '{"properties": {"coupon": {"type": "string"}}}', 'drop-property');
SET cdp.now = '2026-05-05';
SELECT cdp.track('Call', '{"coupon": 1}', user_id => 'gil') IS NOT NULL;
SET cdp.now = '2026-06-01';
SELECT cdp.track('Call', '{"coupon": "A"}', user_id => 'gil') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.profile('user_id:gil') #> '{traits,plain}' AS plain;
SELECT cdp.set_retention('10 days', 'Call', 'track');
SELECT cdp.apply();
SELECT cdp.profile('user_id:gil') #> '{traits,plain}' AS plain;
SELECT * FROM cdp.verify();

-- names as a JSON pointer escapes them
SET cdp.now = '2026-06-01 09:00+00';
SELECT cdp.tracking_plan('Escaped', '{"additionalProperties": {"type": "number"}}', 'drop-property') > 0 AS made;
SET cdp.now = '2026-06-01 10:00+00';
SELECT cdp.create_trait('escaped', aggregate => 'last', value => $$(properties ?| '{a/b,a~b,a~1b,~0,/}') || ' ' || (properties ? 'a')$$, event => 'Escaped');
SELECT cdp.track('Escaped', '{"a/b": "", "a~b": "", "a~1b": "", "~0": "", "/": "", "a": 1}', user_id => 'esc') IS NOT NULL AS logged;
SELECT cdp.apply() >= 0;
SELECT cdp.profile('user_id:esc') -> 'traits' ->> 'escaped' AS escaped;
SELECT count(*) FROM cdp.verify();
