--
-- All definitions as one document, and back.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'America/New_York';
SET intervalstyle = 'iso_8601';
SET cdp.now = '2026-05-01 12:00+00';
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int PRIMARY KEY, who int, total numeric);
INSERT INTO shop.orders VALUES (1, 1, 5), (2, 1, 50), (3, 2, 7);

SELECT cdp.export_config();
CREATE FUNCTION wanted() RETURNS jsonb LANGUAGE sql AS $f$ SELECT $${"version": 1,
	"identifier_kinds": {"loyalty_id": {"priority": 5, "max_per_profile": 2, "within": "1 month"}, "email": {"max_per_profile": 3}, "user_id": {"max_per_profile": null}, "phone": {}},
	"attachments": {"orders": {"relation": "shop.orders", "mapping": {"event": "Order Completed", "identifiers": {"user_id": "who"}}}},
	"traits": {
		"aov": {"expression": "ltv / nullif(orders, 0)"},
		"ltv": {"aggregate": "sum", "value": "(properties->>'total')::numeric", "event": "Order Completed"},
		"orders": {"aggregate": "count", "event": "Order Completed", "within": "1 year", "options": {"announce": true}},
		"plan": {"type": "text", "description": "what they pay for"},
		"age": {"type": "int4"}},
	"account_traits": {
		"plan": {"type": "text"},
		"orders": {"aggregate": "count", "event": "Order Completed"},
		"seats": {"type": "numeric"}, "used": {"aggregate": "sum", "value": "orders", "options": {"over": "members"}},
		"busy": {"expression": "used / nullif(seats, 0)"}},
	"segments": {
		"a_first": {"predicate": "in_segment('spenders') AND NOT did('Refunded', within => '7 days')"},
		"spenders": {"predicate": "ltv > 10", "exit_when": "ltv < 5"},
		"big": {"entity": "account", "predicate": "orders > 1"},
		"rest": {"predicate": "plan = 'x'", "exclude": ["spenders"], "holdout": 0.25, "enabled": false}},
	"subscriptions": {"crm": {"filter": {"segment": "spenders"}, "visibility": "PT30S"}}}$$::jsonb $f$;

-- a dry run tells, and leaves no trace
SELECT action, kind, name, before, profiles_changed FROM cdp.apply_config(wanted());
SELECT cdp.export_config() = '{"version": 1, "identifier_kinds": {}, "free_mail_domains": {}, "account_by_domain": {}, "attachments": {}, "traits": {}, "account_traits": {}, "purposes": {}, "tracking_plans": {}, "segments": {}, "subscriptions": {}}' AS untouched;
SELECT count(*) AS attached FROM pg_trigger WHERE tgname LIKE 'cdp%';
-- for good; again, nothing happens
SELECT action, kind, name, after, profiles_changed FROM cdp.apply_config(wanted(), dry_run => false);
SELECT * FROM cdp.apply_config(wanted(), dry_run => false, prune => true);
SELECT * FROM cdp.apply_config(cdp.export_config(), dry_run => false, prune => true);
SELECT cdp.apply();
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT name, state, enabled FROM cdp.segments ORDER BY name;

-- changes: only what differs, with the profiles that move
SELECT action, kind, name, before, after, profiles_changed FROM cdp.apply_config(jsonb_set(jsonb_set(jsonb_set(wanted(),
	'{segments,spenders,predicate}', '"ltv > 6"'), '{traits,orders,within}', '"2 years"'), '{traits,plan}', '{"type": "text"}'), dry_run => false);
SELECT cdp.apply();
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
-- an attachment whose mapping is another one: its entries are, too
SELECT action, kind, name FROM cdp.apply_config(jsonb_set('{"version": 1}'::jsonb || jsonb_build_object('attachments', wanted()->'attachments'),
	'{attachments,orders,mapping,properties}', '{"total": "total * 2"}'), dry_run => false);
SELECT cdp.apply();
SELECT traits FROM cdp.profiles ORDER BY profile_id;
SELECT * FROM cdp.verify();

-- without prune nothing is dropped; with it what a section lacks, dependants first
SELECT * FROM cdp.apply_config('{"version": 1, "segments": {}}', dry_run => false);
SELECT action, kind, name FROM cdp.apply_config('{"version": 1, "segments": {}, "account_traits": {}, "traits": {"plan": {"type": "text"}}}', prune => true);
-- what is needed by what stays cannot go, and nothing is done
SELECT action, kind, name FROM cdp.apply_config('{"version": 1, "traits": {}}', dry_run => false, prune => true);
SELECT count(*) FROM cdp.traits;
SELECT action, kind, name FROM cdp.apply_config('{"version": 1, "segments": {}, "traits": {}, "account_traits": {}, "subscriptions": {}, "identifier_kinds": {}, "attachments": {}}', false, true);
SELECT cdp.export_config();

-- accounts by domain, and what is free mail; twice, nothing is left to do
SELECT cdp.identify(user_id => u, identifiers => ARRAY[('email:' || u)::cdp.identifier]) <> '' AS logged
FROM unnest('{ada@acme.com,bob@uni.example,cyd@gmail.com}'::text[]) u;
SELECT cdp.apply();
CREATE FUNCTION domains() RETURNS jsonb LANGUAGE sql AS $f$ SELECT '{"version": 1, "account_by_domain": {"domain": {}},
	"free_mail_domains": {"Uni.Example": {}, "gmail.com": {"free": false}, "web.de": {}}}'::jsonb $f$;
SELECT action, kind, name, before, after FROM cdp.apply_config(domains(), dry_run => false);
SELECT * FROM cdp.apply_config(domains(), dry_run => false);
SELECT * FROM cdp.apply_config(cdp.export_config(), dry_run => false, prune => true);
SELECT identifier FROM cdp.accounts ORDER BY 1;
SELECT cdp.create_identifier_kind('company', entity => 'account', normaliser => 'domain');
SELECT action, kind, name FROM cdp.apply_config('{"version": 1, "account_by_domain": {"company": {}}}', dry_run => false, prune => true);
SELECT identifier FROM cdp.accounts ORDER BY 1;
SELECT action, kind, name FROM cdp.apply_config('{"version": 1, "account_by_domain": {}, "free_mail_domains": {}}', dry_run => false, prune => true);
SELECT (SELECT count(*) FROM cdp.accounts) AS accounts, (SELECT count(*) FROM cdp.free_mail_definitions) AS said, (SELECT count(*) FROM cdp.verify()) AS wrong;
SELECT * FROM cdp.apply_config('{"version": 1, "account_by_domain": {"email": {}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "free_mail_domains": {"no domain": {}}}');
SELECT cdp.drop_identifier_kind('company');

-- mistakes
SELECT * FROM cdp.apply_config(NULL);
SELECT * FROM cdp.apply_config('{}');
SELECT * FROM cdp.apply_config('{"version": 2}');
SELECT * FROM cdp.apply_config('{"version": 1, "trait": {}}');
SELECT * FROM cdp.apply_config('{"version": 1, "traits": []}');
SELECT * FROM cdp.apply_config('{"version": 1, "traits": {"x": 1}}');
SELECT * FROM cdp.apply_config('{"version": 1, "traits": {"x": {"agregate": "sum"}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "traits": {"x": {"aggregate": "summe"}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "segments": {"x": {"predicate": "nothing > 1"}, "y": {"predicate": "in_segment(''x'')"}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "segments": {"x": {"predicate": "1 >"}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "attachments": {"x": {"relation": "nowhere.t", "mapping": {}}}}');
SELECT cdp.export_config();

-- tracking plans, by type and event: another schema or mode is another version
CREATE FUNCTION planned() RETURNS jsonb LANGUAGE sql AS $f$ SELECT $${"version": 1, "tracking_plans": {
	"track:Order: Completed": {"schema": {"type": "object", "required": ["total"], "properties": {"total": {"type": "number"}}}, "mode": "quarantine"},
	"page": {"schema": {"required": ["title"]}},
	"identify": {"schema": true, "mode": "allow"}}}$$::jsonb $f$;
SELECT action, kind, name, after FROM cdp.apply_config(planned());
SELECT count(*) AS plans FROM cdp.stat_plans;
SELECT action, kind, name FROM cdp.apply_config(planned(), dry_run => false);
SELECT type, event, version, mode FROM cdp.stat_plans ORDER BY 1, 2, 3;
SELECT * FROM cdp.apply_config(planned(), dry_run => false, prune => true);
SELECT cdp.export_config()->'tracking_plans' = planned()->'tracking_plans' #- '{identify,mode}' AS as_said;
SELECT action, kind, name, before, after FROM cdp.apply_config(jsonb_set(planned(), '{tracking_plans,page,mode}', '"drop-property"') #- '{tracking_plans,identify}', dry_run => false, prune => true);
SELECT type, event, version, mode, until_at IS NULL AS in_force FROM cdp.stat_plans ORDER BY 1, 2, 3;
SELECT * FROM cdp.apply_config('{"version": 1, "tracking_plans": {"page:": {"schema": true}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "tracking_plans": {"purchase": {"schema": true}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "tracking_plans": {"track": {"schema": true}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "tracking_plans": {"track:E": {"schema": {"type": "nothing"}}}}');
SELECT * FROM cdp.apply_config('{"version": 1, "tracking_plans": {"track:E": {"mode": "allow"}}}');
-- rows that are there when a document comes are judged by the plans in it
DROP EXTENSION cdp CASCADE;
RESET cdp.now;
CREATE EXTENSION cdp;
CREATE TABLE planned (id int PRIMARY KEY, who text, total text);
INSERT INTO planned VALUES (1, 'kim', 'much');
SELECT action, kind, name FROM cdp.apply_config('{"version": 1, "attachments": {"planned": {"relation": "public.planned", "mapping": {"event": "Planned", "identifiers": {"user_id": "who"}}}},
	"tracking_plans": {"track:Planned": {"schema": {"properties": {"total": {"type": "number"}}}, "mode": "quarantine"}}}', dry_run => false);
SELECT cdp.apply();
SELECT source, reason, held FROM cdp.rejected WHERE source = 'planned';

-- subscriptions: names that are gone stay in the filter here, and are not in the document
SELECT cdp.create_trait('tone', 'count'), cdp.create_segment('warm', 'tone > 1'), cdp.create_segment('spring', 'tone > 2');
SELECT cdp.create_trait('tone', 'count', entity => 'account');
SELECT cdp.subscribe('mailer', '{"segment": ["warm", "spring"]}', include => '{"traits": ["tone"]}');
SELECT cdp.drop_segment('warm');
SELECT cdp.rename_trait('tone', 'sound', 'account');
SELECT cdp.export_config() -> 'subscriptions';
SELECT action, name FROM cdp.apply_config(jsonb_set(jsonb_build_object('version', 1, 'subscriptions', cdp.export_config() -> 'subscriptions'),
	'{subscriptions,mailer,max_tries}', '3'), dry_run => false);
SELECT filter, include, max_tries FROM cdp.subscriptions WHERE name = 'mailer';
SELECT cdp.drop_segment('spring'), cdp.drop_trait('tone'), cdp.drop_trait('sound', entity => 'account');
SELECT cdp.export_config() -> 'subscriptions';
