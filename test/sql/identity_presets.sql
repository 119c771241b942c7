-- Presets: rules as other systems have them, on the examples of their manuals.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01';
\set SHOW_CONTEXT never
CREATE VIEW people AS
	SELECT string_agg(identifier::text, ' ' ORDER BY identifier) AS identifiers
	FROM identities GROUP BY profile_id;

-- what it would change, what it changes, and back
SELECT count(*) AS rules, count(DISTINCT kind) AS kinds FROM identity_preset('segment', dry_run => true);
SELECT count(*) FROM kind_definitions;
SELECT * FROM identity_preset('segment') WHERE kind IN ('user_id', 'email', 'cookie') AND rule <> 'labels';
SELECT count(*) FROM identity_preset('segment');
SELECT count(*) AS rules, count(DISTINCT kind) AS kinds FROM identity_preset('default');
SELECT count(*) FROM kind_definitions;
SELECT count(*) FROM identity_preset('default');
SELECT identity_preset('myspace');
SELECT identity_preset(NULL);
-- users' own kinds are left alone; what a preset made stays
SELECT create_identifier_kind('badge', max_per_profile => 3, blocked => ARRAY['x']);
SELECT count(*) FROM identity_preset('segment') WHERE kind = 'badge';
SELECT rule, becomes FROM identity_preset('posthog') WHERE kind = 'distinct_id' AND rule <> 'blocked';
SELECT count(*) > 0 AS changed FROM identity_preset('default');
SELECT kind, max_per_profile, links FROM kind_definitions ORDER BY 1;
SELECT drop_identifier_kind('badge'), drop_identifier_kind('distinct_id');
-- a preset is all or nothing, like any change of rules
BEGIN;
SELECT count(*) > 0 AS changed FROM identity_preset('snowplow');
ROLLBACK;
SELECT count(*) FROM kind_definitions;

-- every preset can be applied to a log, and verifies
SELECT ingest('[{"type": "identify", "userId": "u1", "anonymousId": "a1", "traits": {"email": "x@example.com"}},
	{"type": "identify", "userId": "u2", "anonymousId": "a1", "traits": {"email": "y@example.com"}},
	{"type": "track", "event": "x", "anonymousId": "a1"},
	{"type": "track", "event": "x", "userId": "u3", "properties": {"email": "info@example.com"}},
	{"type": "track", "event": "x", "userId": "u4", "properties": {"email": "info@example.com"}}]');
SELECT apply();
SELECT format('SELECT %L AS preset, count(*) > 0 AS changed FROM identity_preset(%1$L)', name),
	'SELECT apply() IS NOT NULL AS applied',
	$$SELECT string_agg(identifiers, ', ' ORDER BY identifiers COLLATE "C") AS people, (SELECT count(*) FROM verify()) AS differences FROM people$$
FROM unnest(ARRAY['default', 'segment', 'posthog', 'rudderstack', 'snowplow', 'snowplow_dbt', 'mparticle_default',
	'mparticle_profile_conversion', 'mparticle_profile_isolation', 'mparticle_best_match']) name
\gexec

-- Segment: an identifier that would give a profile a second user_id is demoted
SELECT count(*) > 0 AS changed FROM identity_preset('segment');
SELECT apply() IS NOT NULL AS applied;
SELECT ingest('[{"type": "identify", "userId": "abc123", "traits": {"email": "jane@example1.com"}, "timestamp": "2026-01-01T00:00:00Z"},
	{"type": "identify", "userId": "abc456", "traits": {"email": "jane@example1.com"}, "timestamp": "2026-01-02T00:00:00Z"}]');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'abc' ORDER BY 1;
SELECT a, b, status, reason, detail FROM refused_links('user_id:abc456');
-- and the sixth address of one person
SELECT ingest(jsonb_agg(jsonb_build_object('type', 'identify', 'userId', 'many', 'traits', jsonb_build_object('email', 'e' || n || '@example.com'),
	'timestamp', timestamptz '2026-01-01' + n * interval '1 day'))) FROM generate_series(1, 6) n;
SELECT apply();
SELECT * FROM people WHERE identifiers ~ '@example.com' AND identifiers ~ 'e[0-9]@' ORDER BY 1;

-- Snowplow Identities: Alice on the web and on her phone, Bob on her phone,
-- and somebody who is not logged in on that phone
CREATE FUNCTION shared_phone() RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.events (source, message_id, type, event, identifiers, properties, occurred_at) VALUES
		('s', 's1', 'track', 'view', '{cookie:4b0dfa,user_id:alice@company.com}', NULL, '2026-01-01Z'),
		('s', 's2', 'track', 'open', '{ios.id:6d920c}', NULL, '2026-01-02Z'),
		('s', 's3', 'track', 'open', '{ios.id:6d920c,user_id:alice@company.com}', NULL, '2026-01-03Z'),
		('s', 's4', 'track', 'open', '{ios.id:6d920c,user_id:bob@company.com}', NULL, '2026-01-04Z'),
		('s', 's5', 'track', 'open', '{ios.id:6d920c}', NULL, '2026-01-05Z')
$$;
CREATE VIEW whose AS
	SELECT e.message_id, i.identifier AS owner,
		(SELECT string_agg(j.identifier::text, ' ' ORDER BY j.identifier) FROM identities j WHERE j.profile_id = i.profile_id) AS profile
	FROM cdp.entries n JOIN cdp.events e ON e.id = n.entry JOIN identities i ON i.node_id = n.owner
	WHERE e.source = 's';
SELECT count(*) > 0 AS changed FROM identity_preset('snowplow');
SELECT apply() IS NOT NULL AS applied;
SELECT shared_phone();
SELECT apply();
SELECT * FROM whose ORDER BY 1;
SELECT * FROM verify();
-- its packages for dbt: whoever logged in last has all of the device
SELECT count(*) > 0 AS changed FROM identity_preset('snowplow_dbt');
SELECT apply() IS NOT NULL AS applied;
SELECT * FROM whose ORDER BY 1;
-- ours: whoever was first
SELECT count(*) > 0 AS changed FROM identity_preset('default');
SELECT apply() IS NOT NULL AS applied;
SELECT * FROM whose ORDER BY 1;

-- mParticle's profile conversion: a sign-up keeps the profile of the visitor
SELECT count(*) > 0 AS changed FROM identity_preset('mparticle_profile_conversion');
SELECT apply() IS NOT NULL AS applied;
SELECT ingest('[{"type": "screen", "name": "launch", "context": {"device": {"id": "9876", "type": "ios"}}, "timestamp": "2026-01-01T00:00:00Z"},
	{"type": "identify", "userId": "ABC123", "traits": {"email": "ed.hyde@example.com"}, "context": {"device": {"id": "9876", "type": "ios"}}, "timestamp": "2026-01-02T00:00:00Z"},
	{"type": "screen", "name": "logged out", "context": {"device": {"id": "9876", "type": "ios"}}, "timestamp": "2026-01-03T00:00:00Z"},
	{"type": "track", "event": "mail", "context": {"traits": {"email": "h.jekyll.md@example.com"}}, "timestamp": "2026-01-04T00:00:00Z"},
	{"type": "identify", "userId": "ABC123", "traits": {"email": "ed.hyde@example.com"}, "context": {"device": {"id": "9876", "type": "ios"}}, "timestamp": "2026-01-05T00:00:00Z"}]');
SELECT apply();
SELECT * FROM people WHERE identifiers ~ 'ABC|hyde|jekyll|9876' ORDER BY 1;
-- its profile isolation: nothing that was anonymous becomes known
SELECT count(*) > 0 AS changed FROM identity_preset('mparticle_profile_isolation');
SELECT apply() IS NOT NULL AS applied;
SELECT * FROM people WHERE identifiers ~ 'ABC|hyde|jekyll|9876' ORDER BY 1;
SELECT * FROM verify();
