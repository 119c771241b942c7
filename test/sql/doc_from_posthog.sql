-- Made from doc/from-posthog.md by test/readme; do not edit.
-- block 1
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE SCHEMA posthog;
CREATE TABLE posthog.events (uuid varchar(200), event varchar(200), properties jsonb, elements jsonb, set jsonb, set_once jsonb, distinct_id varchar(200),
	team_id int, ip varchar(200), site_url varchar(200), "timestamp" timestamptz);
CREATE TABLE posthog.persons (team_id int, distinct_id text, person_id text, properties jsonb, person_distinct_id_version int, person_version int, created_at timestamptz);
INSERT INTO posthog.events (uuid, event, properties, set, distinct_id, team_id, "timestamp") VALUES
	('e1', '$pageview', '{"$current_url": "https://shop.example/"}', NULL, 'anon-1', 1, '2026-05-01 10:00+00'),
	('e2', '$identify', '{"$anon_distinct_id": "anon-1", "$set": {"email": "ada@example.com", "plan": "free"}, "$set_once": {"referrer": "search"}}', '{"email": "ada@example.com", "plan": "free"}', 'ada', 1, '2026-05-01 10:01+00'),
	('e3', 'order completed', '{"total": 20, "$set": {"plan": "plus"}, "$set_once": {"referrer": "newsletter"}, "$groups": {"company": "acme"}}', '{"plan": "plus"}', 'ada', 1, '2026-05-01 10:02+00'),
	('e4', '$create_alias', '{"alias": "tablet-1"}', NULL, 'ada', 1, '2026-05-01 10:03+00'),
	('e5', '$groupidentify', '{"$group_type": "company", "$group_key": "acme", "$group_set": {"name": "Acme"}}', NULL, 'ada', 1, '2026-05-01 10:04+00');
INSERT INTO posthog.persons VALUES
	(1, 'ada', '0190-a', '{"plan": "plus", "city": "Kiel"}', 0, 3, '2026-05-01 10:00+00'), (1, 'anon-1', '0190-a', '{"plan": "plus", "city": "Kiel"}', 1, 3, '2026-05-01 10:00+00'),
	(1, 'work-laptop', '0190-a', '{"plan": "plus", "city": "Kiel"}', 0, 3, '2026-05-01 10:00+00'), (1, 'bob', '0190-b', '{"plan": "free"}', 0, 1, '2026-05-02 10:00+00');
SELECT cdp.attachment_preset('posthog', 'posthog');
-- block 2
SELECT count(*) > 0 AS rules_changed FROM cdp.identity_preset('posthog');
SELECT * FROM cdp.attach_preset('posthog', 'posthog');
-- block 3
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('city', type => 'text');
SELECT cdp.create_trait('first_referrer', aggregate => 'first', event => '$set_once', value => $$properties->>'referrer'$$);
SELECT cdp.create_trait('spent', aggregate => 'sum', event => 'order completed', value => $$(properties->>'total')::numeric$$);
SELECT cdp.apply() > 0 AS applied;
SELECT identifier FROM cdp.identities WHERE profile_id = cdp.resolve('distinct_id:ada') ORDER BY 1;
SELECT p.traits->>'plan' AS plan, p.traits->>'city' AS city, p.traits->>'spent' AS spent,
	p.traits->>'first_referrer' AS first_referrer
FROM cdp.profiles p WHERE p.profile_id = cdp.resolve('distinct_id:tablet-1');
SELECT cdp.account('group_id:acme')->'traits' AS acme;
SELECT * FROM cdp.verify();
