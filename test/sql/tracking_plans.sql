-- Tracking plans of mode allow: what is wrong with the properties of entries is
-- counted, and nothing else happens to them.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');

-- before there is a plan nothing is judged
SELECT cdp.track('Order Completed', '{"total": -9}', user_id => 1) IS NOT NULL AS logged;

-- what is refused, with its place
SELECT cdp.tracking_plan('Order Completed', '{"properties": {"total": {"minimun": 0}}}');
SELECT cdp.tracking_plan('Order Completed', '{"unevaluatedProperties": false}');
SELECT cdp.tracking_plan('Order Completed', '{"type": "number or so"}');
SELECT cdp.tracking_plan('Order Completed', NULL);
SELECT cdp.tracking_plan('Order Completed', '{}', 'drop');
SELECT cdp.tracking_plan('Order Completed', '{}', retroactive => NULL);
SELECT cdp.tracking_plan('Order Completed', '{}', 'block');
SELECT cdp.tracking_plan('Order Completed', '{}', type => 'alias');
SELECT cdp.tracking_plan('', '{}');
SELECT cdp.tracking_plan(NULL, '{}');
SELECT cdp.tracking_plan('Order Completed', '{}', type => 'identify');
SELECT cdp.tracking_plan(repeat('x', 501), '{}');
SELECT cdp.drop_tracking_plan('Order Completed');
SELECT count(*) FROM cdp.plan_definitions;

SET cdp.now = '2026-05-04 10:00+00';
SELECT cdp.tracking_plan('Order Completed', '{
	"properties": {
		"total": {"type": "number", "minimum": 0},
		"items": {"type": "array", "items": {"type": "object", "required": ["sku"], "properties": {"sku": {"minLength": 1}}}}},
	"required": ["currency"]}');
SELECT cdp.tracking_plan('Home', '{"required": ["url"]}', type => 'page');
SELECT cdp.tracking_plan(NULL, '{"required": ["title"]}', type => 'page');
SELECT cdp.tracking_plan(NULL, '{"properties": {"email": {"format": "email"}}}', type => 'identify');
SELECT cdp.tracking_plan(NULL, '{"required": ["name"]}', type => 'group');
SET cdp.now = '2026-05-04 10:01+00';
SELECT cdp.track('Order Completed', '{"total": 9, "currency": "EUR"}', user_id => 1, message_id => 'good') IS NOT NULL,
	cdp.track('Order Completed', '{"total": -9, "items": [{"sku": "a"}, {"sku": ""}, {"sku": ""}, {}, {}]}', user_id => 1, message_id => 'bad') IS NOT NULL,
	cdp.track('Order Completed', user_id => 2) IS NOT NULL,
	cdp.track('Other', '{"total": -9}', user_id => 1) IS NOT NULL,
	cdp.page('Home', user_id => 1) IS NOT NULL,
	cdp.page(user_id => 1) IS NOT NULL,
	cdp.screen('Home', user_id => 1) IS NOT NULL,
	cdp.identify(1, '{"email": "nobody"}') IS NOT NULL,
	cdp.group('acme', '{"seats": 3}', user_id => 1) IS NOT NULL;
-- the same message twice counts once; one without a time does not count
SELECT cdp.track('Order Completed', '{"total": -9}', user_id => 1, message_id => 'bad') IS NOT NULL;
INSERT INTO cdp.events (type, event, identifiers, properties, occurred_at, message_id)
VALUES ('track', 'Order Completed', '{user_id:1}', '{"total": -9}', 'infinity', 'never');
SELECT cdp.apply();
SELECT type, event, version, mode, judged, violating FROM cdp.stat_plans ORDER BY 1, 2, 3;
SELECT v.type, v.event, v.version, path, keyword, entries, first_at, last_at, e.message_id = 'bad' AS bad
FROM cdp.plan_violations v JOIN cdp.events e ON e.id = v.entry ORDER BY 1, 2, path COLLATE "C", keyword;
-- entries count whole, those with violations, too
SELECT cdp.profile('user_id:1') -> 'traits' ->> 'orders' AS orders;

-- an entry is judged by the version that was in force when it was received,
-- also when it is applied later
SET cdp.now = '2026-05-04 11:00+00';
SELECT cdp.track('Order Completed', '{}', user_id => 3) IS NOT NULL;
SET cdp.now = '2026-05-04 11:01+00';
SELECT cdp.tracking_plan('Order Completed', '{"maxProperties": 0}');
SET cdp.now = '2026-05-04 11:02+00';
SELECT cdp.track('Order Completed', '{"total": -1}', user_id => 3) IS NOT NULL;
SET cdp.now = '2026-05-04 11:03+00';
SELECT cdp.drop_tracking_plan('Order Completed');
SELECT cdp.drop_tracking_plan('Order Completed');
SET cdp.now = '2026-05-04 11:04+00';
SELECT cdp.track('Order Completed', '{"total": -1}', user_id => 3) IS NOT NULL;
SELECT cdp.apply();
SELECT version, from_at, until_at, judged, violating FROM cdp.stat_plans WHERE event = 'Order Completed' ORDER BY 1;
SELECT version, path, keyword, entries, first_at, last_at FROM cdp.plan_violations
WHERE event = 'Order Completed' AND (version = 2 OR keyword = 'required') ORDER BY 1, 2;

-- a schema that raises an error stops nobody: too deep, or none any more
SELECT cdp.tracking_plan('Deep', '{"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}, "properties": {"a": {"$ref": "#/$defs/a"}}}}}');
SELECT cdp.tracking_plan('Broken', '{}');
UPDATE cdp.plan_definitions SET schema = '{"type": "what"}' WHERE event = 'Broken';
SET cdp.now = '2026-05-04 11:05+00';
SELECT cdp.track('Deep', ('{"a": ' || repeat('[', 3000) || repeat(']', 3000) || '}')::jsonb, user_id => 4) IS NOT NULL,
	cdp.track('Deep', '{"a": []}', user_id => 4) IS NOT NULL,
	cdp.track('Broken', user_id => 4) IS NOT NULL,
	cdp.track('Broken', user_id => 4) IS NOT NULL,
	cdp.track('Many', '{}', user_id => 4) IS NOT NULL;
SET max_stack_depth = '250kB';
SELECT cdp.apply();
RESET max_stack_depth;
SELECT event, v.path, v.keyword, v.entries, s.judged, s.violating FROM cdp.plan_violations v
JOIN cdp.stat_plans s USING (type, event, version) WHERE event IN ('Deep', 'Broken') ORDER BY 1;
SELECT count(*) AS rejected FROM cdp.rejected WHERE message_id IS DISTINCT FROM 'never';

-- 1,000 rows of a version, whatever comes: keys that are names of people
SELECT cdp.tracking_plan('Many', '{"additionalProperties": false}');
SET cdp.now = '2026-05-04 11:06+00';
SELECT count(cdp.track('Many', jsonb_build_object('k' || i, 1, 'k' || i + 1, 1), user_id => i)) FROM generate_series(1, 1500) i;
SELECT cdp.apply(700), cdp.apply();
SELECT count(*) FILTER (WHERE path <> '…') AS rows, sum(entries) FILTER (WHERE path = '…') AS rest, sum(entries) AS all
FROM cdp.plan_violations WHERE event = 'Many';
SELECT judged, violating FROM cdp.stat_plans WHERE event = 'Many';

-- who is erased is counted still, and no example; a path may name him
SELECT cdp.create_identifier_kind('crm');
SELECT cdp.tracking_plan('Gone', '{"additionalProperties": false}');
SET cdp.now = '2026-05-04 11:07+00';
SELECT cdp.track('Gone', '{"ann@example.com": 1, "crm/4711-ann": 1, "b": 1}', user_id => 'ann', identifiers => '{email:ann@example.com,crm:crm/4711-ann}') IS NOT NULL;
SELECT cdp.apply();
SELECT path, entry IS NOT NULL AS example FROM cdp.plan_violations WHERE event = 'Gone' ORDER BY 1;
SELECT cdp.erase('user_id:ann') IS NOT NULL;
SELECT cdp.apply();
SELECT path, keyword, entries, entry FROM cdp.plan_violations WHERE event = 'Gone' ORDER BY 1;
SELECT count(*) > 0 AS others_keep_theirs FROM cdp.plan_violations WHERE entry IS NOT NULL;

-- changes are in the audit
SELECT action, object, count(*) FROM cdp.audit WHERE action LIKE '%tracking plan' GROUP BY 1, 2 ORDER BY 1, 2;

-- the first and the last of them are those that were received first and last, in whatever order they are applied
SET cdp.now = '2026-06-01 09:00+00';
SELECT cdp.tracking_plan('Timed', '{"required": ["n"]}') > 0 AS made;
SET cdp.now = '2026-06-01 12:00+00';
INSERT INTO cdp.events (event, identifiers, received_at) VALUES ('Timed', '{user_id:1}', '2026-06-01 11:00+00');
SELECT cdp.apply();
INSERT INTO cdp.events (event, identifiers, received_at) VALUES ('Timed', '{user_id:1}', '2026-06-01 10:00+00');
SELECT cdp.apply();
INSERT INTO cdp.events (event, identifiers, received_at) VALUES ('Timed', '{user_id:1}', '2026-06-01 10:30+00');
SELECT cdp.apply();
SELECT path, keyword, entries, first_at, last_at FROM cdp.plan_violations WHERE event = 'Timed';
-- an entry counts once for a path and a keyword, wherever in an array it is; an end is not in force
SELECT cdp.tracking_plan('Listed', '{"properties": {"items": {"items": {"required": ["sku"], "properties": {"sku": {"minLength": 1}}}}}}') > 0 AS made;
SET cdp.now = '2026-06-01 13:00+00';
SELECT cdp.track('Listed', '{"items": [{"sku": "a"}, {"sku": ""}, {"sku": ""}, {}, {}]}', user_id => 1) IS NOT NULL;
SELECT cdp.apply();
SELECT path, keyword, entries FROM cdp.plan_violations WHERE event = 'Listed' ORDER BY 1, 2;
SET cdp.now = '2026-06-01 14:00+00';
SELECT cdp.drop_tracking_plan('Listed');
INSERT INTO cdp.events (event, identifiers, received_at) SELECT 'Listed', '{user_id:1}', until_at - i * interval '1 microsecond' FROM cdp.stat_plans, generate_series(0, 1) i WHERE event = 'Listed';
SELECT cdp.apply();
SELECT judged FROM cdp.stat_plans WHERE event = 'Listed';
