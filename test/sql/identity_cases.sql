-- Cases of identity resolution from the documentation of Segment, the tests of
-- PostHog and Snowplow's package for dbt, each under its preset.  The files are
-- not part of the project.
\set segment `cat "${CDP_SHARED_DATA:-../shared/data}/identity/segment_identity_cases.json" 2>/dev/null || true`
\set posthog `cat "${CDP_SHARED_DATA:-../shared/data}/identity/posthog_person_merge_cases.json" 2>/dev/null || true`
\set header `head -n 1 "${CDP_SHARED_DATA:-../shared/data}/events/snowplow_web/snowplow_web_events.csv" 2>/dev/null | tr -d '\r' || true`
\set sessions `head -n 1 "${CDP_SHARED_DATA:-../shared/data}/events/snowplow_web/snowplow_web_sessions_expected.csv" 2>/dev/null | tr -d '\r' || true`
SELECT :'segment' = '' OR :'posthog' = '' OR :'header' = '' OR :'sessions' = '' AS absent \gset
\if :absent
\echo SKIPPED: no ../shared/data/identity/*.json or events/snowplow_web/*.csv, see CDP_SHARED_DATA
\quit
\endif
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01';

--
-- Segment
--
SELECT count(*) > 0 AS changed FROM identity_preset('segment');
SELECT apply() IS NOT NULL AS applied;
CREATE TABLE segment AS
SELECT c.n, c.body->>'name' AS name, c.body
FROM jsonb_array_elements(:'segment'::jsonb->'cases') WITH ORDINALITY c(body, n);

-- limits and priorities that a case gives are those of the preset
SELECT s.n, l.key AS kind, l.value::int = k.max_per_profile AS same
FROM segment s, jsonb_each_text(s.body->'limits') l JOIN identifier_kinds k ON k.kind = l.key ORDER BY 1, 2;
SELECT l.key, count(*) AS kinds, bool_and(k.max_per_profile = l.value::int) AS same
FROM jsonb_each_text(:'segment'::jsonb->'default_limits') l
JOIN identifier_kinds k ON k.entity = 'profile' AND (k.kind = l.key OR l.key = '*' AND k.kind <> 'user_id') GROUP BY 1 ORDER BY 1;
SELECT s.n, bool_and(k.place = e.place) AS same
FROM segment s,
	LATERAL (SELECT i.kind, row_number() OVER (ORDER BY i.priority) AS place
			 FROM identifier_kinds i WHERE s.body->'input_identifiers' ? i.kind OR s.body->'priority' ? i.kind) k
	JOIN LATERAL (SELECT p.key AS kind, p.value::int AS place FROM jsonb_each_text(s.body->'expect_priority') p
				  UNION ALL
				  SELECT p.kind, p.place FROM jsonb_array_elements_text(s.body->'priority') WITH ORDINALITY p(kind, place)) e ON e.kind = k.kind
GROUP BY 1 ORDER BY 1;
-- each case is looked at: by its profiles, by its priorities, by what becomes of traits
SELECT count(*) AS cases, count(*) FILTER (WHERE body ? 'expect_profiles') AS by_profiles,
	count(*) FILTER (WHERE body ? 'expect_priority') AS by_priorities, count(*) FILTER (WHERE body ? 'expect') AS by_traits FROM segment;
-- values that it recommends to block are blocked, for any kind
SELECT v.value, bool_and(canonical(identifier(k.kind, v.value)) IS NULL) AS blocked
FROM identifier_kinds k, unnest(ARRAY['', '0', '-', '0000-00', '00000000-0000-0000-0000-000000000000', '-1', 'null', 'anonymous']) v(value)
WHERE k.entity = 'profile' GROUP BY v.value ORDER BY v.value COLLATE "C";

-- each case is a world of its own: its number is appended to every identifier
CREATE FUNCTION own(payload jsonb, n bigint) RETURNS jsonb LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace(payload::text,
		'("(userId|anonymousId|id)": "[^"]*)"', '\1~' || n || '"', 'g'),
		'("email": ")', '\1' || 'c' || n || '.', 'g')::jsonb
$$;
SELECT count(*) AS events, sum(i.accepted) AS accepted
FROM segment s, jsonb_array_elements(s.body->'events') WITH ORDINALITY e(payload, m),
	LATERAL ingest(own(e.payload, s.n) || jsonb_build_object('timestamp', timestamptz '2026-01-01' + e.m * interval '1 day'), 'segment') i;
SELECT apply();
CREATE VIEW profiles_of AS
	SELECT profile_id, array_agg(identifier::text ORDER BY identifier::text COLLATE "C") AS identifiers,
		(SELECT count(*) FROM entries n JOIN identities o ON o.node_id = n.owner WHERE o.profile_id = i.profile_id) AS n_events
	FROM identities i GROUP BY profile_id;
SELECT s.n, s.name, count(*) AS expected, count(p.profile_id) AS found,
	bool_and(p.n_events = COALESCE((e.profile->>'n_events')::int, p.n_events)) AS same_events,
	count(*) = (SELECT count(*) FROM profiles_of o WHERE array_to_string(o.identifiers, ' ') ~ ('~' || s.n || '( |$)')) AS no_others
FROM segment s
CROSS JOIN LATERAL jsonb_array_elements(s.body->'expect_profiles') e(profile)
LEFT JOIN LATERAL (
	SELECT array_agg(x.identifier ORDER BY x.identifier COLLATE "C") AS identifiers
	FROM (SELECT k.key || ':' || CASE WHEN k.key = 'email' THEN 'c' || s.n || '.' || v.value ELSE v.value || '~' || s.n END AS identifier
		  FROM jsonb_each(e.profile - 'n_events') k, jsonb_array_elements_text(k.value) v) x) w ON true
LEFT JOIN profiles_of p ON p.identifiers = w.identifiers
GROUP BY 1, 2 ORDER BY 1;
-- the newest value of an attribute wins when profiles merge, whichever is merged into which
SELECT identify(anonymous_id => 'w1', traits => '{"plan": "new", "a": 1}', occurred_at => '2026-01-02', message_id => 'w1') IS NULL AS x,
	identify(anonymous_id => 'w2', traits => '{"plan": "old", "b": 2}', occurred_at => '2026-01-01', message_id => 'w2') IS NULL AS y,
	track('Signed Up', user_id => 'w', identifiers => '{anonymous_id:w1,anonymous_id:w2}', occurred_at => '2026-01-03') IS NULL AS z;
SELECT apply();
SELECT profile('user_id:w')->'traits' AS traits;
SELECT * FROM verify();

--
-- PostHog
--
SELECT count(*) > 0 AS changed FROM identity_preset('posthog');
SELECT apply() IS NOT NULL AS applied;
-- one case has a \u0000, which jsonb refuses (and \\u0000 in a note)
SELECT replace(replace(:'posthog', '\\u0000', ''), '\u0000', '<NUL>') AS posthog \gset
CREATE TABLE posthog AS
SELECT c.n, c.body FROM jsonb_array_elements(:'posthog'::jsonb->'cases') WITH ORDINALITY c(body, n);

-- How calls of PostHog are logged: an id is a distinct_id; who has been
-- identified has a user_id, too; $set are traits, a forced merge is a merge by
-- hand.  Those who are there before are identified and named by one entry each.
CREATE FUNCTION distinct_ids(ids text[], n bigint) RETURNS identifier[] LANGUAGE sql AS $$
	SELECT array_agg(identifier('distinct_id', i || '~' || n) ORDER BY o) FROM unnest(ids) WITH ORDINALITY u(i, o) $$;
CREATE FUNCTION load_case(n bigint, body jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.events (source, message_id, type, event, identifiers, properties, occurred_at)
	SELECT 'posthog', n || ' before ' || b.m, 'identify', NULL,
		distinct_ids(ARRAY(SELECT jsonb_array_elements_text(b.person->'distinct_ids')), n)
		|| CASE WHEN (b.person->>'is_identified')::boolean THEN ARRAY[identifier('user_id', (b.person->'distinct_ids'->>0) || '~' || n)] END,
		b.person->'properties', (b.person->>'created_at')::timestamptz
	FROM jsonb_array_elements(body->'before') WITH ORDINALITY b(person, m)
	UNION ALL
	SELECT 'posthog', n || ' event', t.type, CASE t.type WHEN 'track' THEN e->>'event' END,
		CASE t.type WHEN 'merge' THEN distinct_ids(ARRAY[e->>'distinct_id', e->>'alias'], n)
			WHEN 'identify' THEN CASE WHEN e->>'event' = '$identify' THEN ARRAY[identifier('user_id', (e->>'distinct_id') || '~' || n)] END
				|| distinct_ids(array_remove(ARRAY[e->>'distinct_id', e->>'anon'], NULL), n)
			ELSE distinct_ids(ARRAY[e->>'distinct_id'], n) END,
		CASE t.type WHEN 'identify' THEN COALESCE(e->'set', '{}') END,
		COALESCE((SELECT max((b->>'created_at')::timestamptz) + interval '1 second' FROM jsonb_array_elements(body->'before') b), '2020-01-01T12:00:05.200Z')
	FROM (SELECT body->'event' AS e) c,
		LATERAL (SELECT CASE WHEN e->>'event' = '$merge_dangerously' THEN 'merge' WHEN e->>'event' = '$identify' OR e ? 'set' THEN 'identify' ELSE 'track' END AS type) t
$$;
SELECT count(load_case(n, body) IS NULL) AS loaded FROM posthog WHERE body::text !~ '<NUL>';
SELECT apply();
CREATE VIEW persons AS
	SELECT i.profile_id, array_agg(DISTINCT value(i.identifier) ORDER BY value(i.identifier)) FILTER (WHERE kind(i.identifier) = 'distinct_id') AS ids,
		bool_or(kind(i.identifier) = 'user_id') AS is_identified, min(i.first_seen) AS created_at,
		COALESCE(profile(min(i.identifier::text)::identifier)->'traits', '{}') AS properties
	FROM identities i GROUP BY i.profile_id;
CREATE TABLE verdicts AS
SELECT c.n, c.body->>'name' AS name, count(*) FILTER (WHERE e.person IS NOT NULL) AS expected,
	bool_and((e.person IS NULL) = (p.profile_id IS NULL))
		AND count(e.person) = (SELECT count(*) FROM persons o WHERE array_to_string(o.ids, ' ') ~ ('~' || c.n || '( |$)')) AS persons,
	bool_and(p.is_identified IS NOT DISTINCT FROM (e.person->>'is_identified')::boolean) AS identified,
	bool_and(p.created_at IS NOT DISTINCT FROM (e.person->>'created_at')::timestamptz) AS created,
	bool_and(e.person->'properties' = '{}' AND NOT c.body->'event' ? 'set' OR p.properties IS NOT DISTINCT FROM e.person->'properties') AS properties
FROM (SELECT n, body FROM posthog WHERE body::text !~ '<NUL>') c
LEFT JOIN LATERAL (SELECT person, ARRAY(SELECT v || '~' || c.n FROM jsonb_array_elements_text(person->'distinct_ids') v ORDER BY 1) AS ids
	FROM jsonb_array_elements(c.body->'expect_persons') person) e ON true
FULL JOIN persons p ON p.ids = e.ids
WHERE c.n IS NOT NULL
GROUP BY c.n, c.body;
SELECT * FROM verdicts ORDER BY n;
SELECT (SELECT count(*) FROM posthog) AS cases, (SELECT count(*) FROM verdicts) AS judged, count(*) AS put_aside
FROM posthog WHERE body::text ~ '<NUL>';
-- different on purpose, see doc/presets.md:
SELECT v.n, v.name, CASE
	WHEN NOT v.persons THEN 'whoever is named is a profile; nothing is merged there either'
	WHEN p.body->'event' ? 'set_once' THEN 'a trait is written by its last writer; $set_once is a trait with aggregate first'
	END AS because
FROM verdicts v JOIN posthog p USING (n) WHERE NOT (v.persons AND v.identified AND v.created AND v.properties) ORDER BY n;
-- with the keys of $set_once left out, these are the same, too
SELECT n, bool_and(p.properties - o.keys = (person->'properties') - o.keys) AS same
FROM (SELECT n, body FROM posthog WHERE body->'event' ? 'set_once') c
CROSS JOIN LATERAL (SELECT ARRAY(SELECT jsonb_object_keys(c.body->'event'->'set_once')) AS keys) o
CROSS JOIN LATERAL jsonb_array_elements(c.body->'expect_persons') person
JOIN persons p ON p.ids = ARRAY(SELECT v || '~' || c.n FROM jsonb_array_elements_text(person->'distinct_ids') v ORDER BY 1)
GROUP BY n ORDER BY n;
-- \u0000: a payload with it is put aside, the others of its batch are taken
SELECT n, i.accepted, i.rejected
FROM posthog, ingest_text('[{"type": "identify", "userId": "zero", "traits": ' || replace((body->'event'->'set')::text, '<NUL>', '\u0000') || '},
	{"type": "track", "event": "x", "userId": "one"}]', 'zero') i WHERE body::text ~ '<NUL>';
-- ids that must not merge anybody, on either side
CREATE TABLE illegal AS
SELECT i.key AS call, v FROM jsonb_each((:'posthog'::jsonb->'illegal_ids') - 'expect'::text) i, jsonb_array_elements_text(i.value) v;
SELECT call, v, canonical(identifier('distinct_id', v)) IS NULL AND canonical(identifier('user_id', v)) IS NULL
	AND canonical(identifier('anonymous_id', v)) IS NULL AS blocked FROM illegal ORDER BY 1, v COLLATE "C";
SELECT v, bool_and(canonical(identifier('distinct_id', v)) IS NULL) AS blocked
FROM unnest(ARRAY['Anonymous', 'GUEST', 'distinctid', 'distinct_id', 'ID', 'not_authenticated', 'Email', 'undefined', 'TRUE', 'false', '[object Object]', 'NaN', 'None', 'none', 'null', '0']) v GROUP BY 1 HAVING NOT bool_and(canonical(identifier('distinct_id', v)) IS NULL);
SELECT canonical('distinct_id:identity') IS NOT NULL AND canonical('distinct_id:truely') IS NOT NULL AS other_words_are_not;
INSERT INTO cdp.events (source, type, identifiers, properties, occurred_at)
SELECT 'illegal', 'identify', ARRAY[identifier('user_id', a), identifier('distinct_id', a), identifier('distinct_id', b)], '{}', '2026-01-01'
FROM (SELECT v AS a, 'side1-' || row_number() OVER () AS b FROM illegal UNION ALL SELECT 'side2-' || row_number() OVER (), v FROM illegal) x;
SELECT apply();
SELECT count(*) AS named, count(DISTINCT profile_id) AS profiles, bool_and(identifier::text ~ 'side') AS only_legal
FROM identities WHERE node_id IN (SELECT o.node_id FROM entries n JOIN identities o ON o.node_id = n.owner JOIN cdp.events e ON e.id = n.entry WHERE e.source = 'illegal')
	OR identifier::text ~ 'side';
SELECT * FROM verify();

--
-- Snowplow: a user is stitched to a browser, and the last one has it
--
SELECT count(*) > 0 AS changed FROM identity_preset('snowplow_dbt');
SELECT apply() IS NOT NULL AS applied;
SELECT set_config('test.header', :'header', false) IS NULL AS x, set_config('test.sessions', :'sessions', false) IS NULL AS y;
SET client_min_messages = error;
DO $$
BEGIN
	EXECUTE format('CREATE TABLE snowplow (%s)', (SELECT string_agg(quote_ident(c) || ' text', ', ') FROM unnest(string_to_array(current_setting('test.header'), ',')) c));
	EXECUTE format('CREATE TABLE sessions (%s)', (SELECT string_agg(quote_ident(c) || ' text', ', ') FROM unnest(string_to_array(current_setting('test.sessions'), ',')) c));
END $$;
RESET client_min_messages;
\copy snowplow FROM PROGRAM 'cat "${CDP_SHARED_DATA:-../shared/data}/events/snowplow_web/snowplow_web_events.csv"' (FORMAT csv, HEADER)
\copy sessions FROM PROGRAM 'cat "${CDP_SHARED_DATA:-../shared/data}/events/snowplow_web/snowplow_web_sessions_expected.csv"' (FORMAT csv, HEADER)
INSERT INTO cdp.events (source, message_id, type, event, identifiers, occurred_at)
SELECT 'snowplow', event_id, 'track', event_name,
	array_remove(ARRAY['cookie:' || domain_userid, 'user_id:' || user_id], NULL)::identifier[], (collector_tstamp || 'Z')::timestamptz
FROM snowplow;
SELECT apply();
SELECT count(*) AS events, count(DISTINCT event_id) AS different,
	(SELECT count(*) FROM entries n JOIN cdp.events e ON e.id = n.entry WHERE e.source = 'snowplow') AS counted FROM snowplow;
SELECT count(DISTINCT s.domain_userid) AS browsers, count(*) AS sessions, count(*) FILTER (WHERE user_id <> stitched_user_id) AS stitched,
	bool_and(stitched_user_id = (SELECT string_agg(value(j.identifier), ' ') FROM identities i JOIN identities j USING (profile_id)
		WHERE i.identifier = identifier('cookie', s.domain_userid) AND kind(j.identifier) = 'user_id')) AS same
FROM sessions s WHERE domain_userid <> '';
SELECT * FROM verify();
