-- What an access request gets: all of the person's, nothing of anybody else's.
-- Values of Paula's are called p-N, those of others x-N.
\set SHOW_CONTEXT never
\pset format unaligned
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = public, cdp;
SET TimeZone = 'Europe/Berlin';
SET cdp.now = '2026-03-01';
SELECT create_trait('orders', aggregate => 'count', event => 'Order', within => '60 days', description => 'how often in 60 days');
SELECT create_trait('last_note', aggregate => 'last', value => $$properties->>'note'$$);
SELECT create_trait('plan', type => 'text', options => '{"announce": true}');
SELECT create_purpose('marketing', 'letters');
SELECT create_segment('buyers', 'orders >= 1', description => 'who buys', options => '{"purpose": "marketing"}');
SELECT create_segment('never', 'orders >= 100');
SELECT create_identifier_kind('loyalty', links => false);
SELECT alter_identifier_kind('email', max_per_profile => 1, policy => 'quarantine');
CREATE FUNCTION log(message text, type text, event text, identifiers text[], properties jsonb DEFAULT '{}', context jsonb DEFAULT NULL, at timestamptz DEFAULT '2026-02-01') RETURNS void
LANGUAGE sql AS $$
	INSERT INTO cdp.events (source, message_id, type, event, identifiers, properties, context, occurred_at)
	VALUES ('web', message, type, event, identifiers::cdp.identifier[], properties, context, at)
$$;
SELECT log('p-1', 'track', 'Order', '{user_id:p-2,anonymous_id:p-3}', '{"note": "p-4", "n": 1}', '{"ip": "p-5"}'),
	log('p-6', 'identify', NULL, '{user_id:p-2,email:P-7@example.com}', '{"plan": "p-8", "list": ["p-9", {"deep": "p-10"}]}', at => '2026-01-15'),
	log('p-11', 'track', 'Order', '{anonymous_id:p-3,loyalty:p-12,membership:p-13}', '{"note": "p-14"}', at => '2026-02-02'),
	log('p-15', 'group', NULL, '{user_id:p-2,group_id:p-16}'),
	log('p-17', 'p-18', NULL, '{user_id:p-2}', '{"note": "p-19"}'),
	log('p-1', 'track', 'Order', '{user_id:p-2}', '{"note": "p-20"}', at => '2026-02-06'),
	-- one e-mail address too many: withheld
	log('p-21', 'track', 'Order', '{user_id:p-2,email:p-22@example.com}', '{"note": "p-23"}', at => '2026-02-03'),
	log('p-32', 'identify', NULL, '{user_id:p-2}', '{}', '{"consent": {"categoryPreferences": {"marketing": true}}}'),
	log('x-1', 'track', 'Order', '{user_id:x-2,email:x-3@example.com}', '{"note": "x-4"}', '{"ip": "x-5"}'),
	log('x-6', 'group', NULL, '{user_id:x-2,group_id:p-16}', '{"budget": "x-7"}'),
	-- somebody else names her
	log('y-1', 'track', 'Gift', '{user_id:x-2,email:p-7@example.com}', '{"note": "x-8"}', '{"ip": "x-9"}', at => '2026-02-04');
SELECT merge('user_id:p-2', 'anonymous_id:p-24', 'p-25') IS NOT NULL AS logged;
SELECT merge('user_id:x-2', 'anonymous_id:x-10', 'x-11') IS NOT NULL AS logged;
SELECT split('user_id:p-2', 'user_id:x-2', 'y-2') IS NOT NULL AS logged;
SELECT ingest('[{"type": "track", "userId": "p-2", "note": "p-26"}, {"type": "track", "userId": "x-2", "note": "x-12"}, {"type": "page", "anonymousId": {"a": 1}, "who": "P-7@example.com", "note": "p-27"}]', 'web') IS NULL AS put_aside;
SELECT apply() > 0 AS applied;
SELECT log('p-28', 'track', 'Order', '{user_id:p-2}', '{"note": "p-29"}', at => '2026-02-05');
SELECT apply() > 0 AS applied;
SELECT undo('p-28', 'web') IS NOT NULL AS logged;
SELECT apply() > 0 AS applied;
SELECT log('p-30', 'track', 'Order', '{email:p-7@example.com}', '{"note": "p-31"}');
SELECT reason, count(*) FROM rejected GROUP BY 1 ORDER BY 1;

CREATE TABLE export AS SELECT export('email:p-7@EXAMPLE.com') AS e;
SELECT regexp_replace(replace((e - 'exported_at' - '{entries,changes,traits,links,segments}'::text[])::text, session_user, 'me'), 'is none of [^"]*', 'is none of them') AS e FROM export;
SELECT jsonb_pretty(e -> 'traits') AS traits, jsonb_pretty(e -> 'segments') AS segments FROM export;
SELECT x ->> 'message_id' AS message_id, x ->> 'state' AS state, x - 'id' - 'received_at' - 'message_id' - 'state' AS entry FROM export, jsonb_array_elements(e -> 'entries') x;
SELECT x - 'epoch' AS change FROM export, jsonb_array_elements(e -> 'changes') x;
SELECT x AS link FROM export, jsonb_array_elements(e -> 'links') x;

-- Every value that any table has of her is there, and none of anybody else's.
CREATE TABLE known (relation text, value text);
DO $$
DECLARE
	r regclass;
BEGIN
	FOR r IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind IN ('r', 'v') LOOP
		EXECUTE format('INSERT INTO public.known SELECT DISTINCT %L, m[1] FROM %s t, regexp_matches(t::text, ''\m[pPx]-\d+'', ''g'') m', r, r);
	END LOOP;
END
$$;
SELECT count(DISTINCT value) FILTER (WHERE value ~* 'p') AS hers, count(DISTINCT value) FILTER (WHERE value ~ 'x') AS of_others FROM known;
SELECT relation, value FROM known, export WHERE value ~* 'p' AND lower(e::text) !~ (lower(value) || '\M') ORDER BY 2, 1;
SELECT m[1] AS of_others FROM export, regexp_matches(e::text, '\mx-\d+', 'g') m;

-- the same, item by item
SELECT section, count(*) FROM export_rows('user_id:p-2') GROUP BY 1 ORDER BY 1;
SELECT e -> x.section = jsonb_agg(x.item ORDER BY x.ordinality) AS same, x.section FROM export, export_rows('user_id:p-2') WITH ORDINALITY x
WHERE jsonb_typeof(e -> x.section) = 'array' GROUP BY x.section, e ORDER BY 2;

-- nobody, and what cannot be
SELECT export('user_id:nobody') IS NULL AS nobody, (SELECT count(*) FROM export_rows('user_id:nobody')) AS items, export(NULL) IS NULL AS nothing;
SELECT export('nonesuch:1');

-- who may: the set privacy; not who sees some people only, nor who may not see what is sensitive
CREATE ROLE regress_export_officer;
CREATE ROLE regress_export_reader;
SELECT grant_privacy_officer('regress_export_officer'), grant_reader('regress_export_reader'), set_sensitivity('trait', 'plan');
SET ROLE regress_export_reader;
SELECT cdp.export('user_id:p-2');
SELECT * FROM cdp.export_rows('user_id:p-2');
RESET ROLE;
GRANT EXECUTE ON FUNCTION export(identifier), export_rows(identifier) TO regress_export_reader;
SET ROLE regress_export_reader;
SELECT cdp.export('user_id:p-2');
SELECT * FROM cdp.export_rows('user_id:p-2');
SET ROLE regress_export_officer;
SELECT (cdp.export('user_id:p-2') -> 'traits') @> '[{"name": "plan", "value": "p-8"}]' AS whole;
RESET ROLE;
SELECT restrict_reader('regress_export_officer', 'never');
SET ROLE regress_export_officer;
SELECT cdp.export('user_id:p-2') IS NULL AS hidden;
RESET ROLE;
SELECT unrestrict_reader('regress_export_officer');

-- erasures that are asked for, and entries that are refused
SELECT erase('user_id:p-2', 'suppress', 'by telephone') IS NOT NULL AS logged;
SELECT export('user_id:p-2') -> 'erasures' AS erasures;
SELECT apply() > 0 AS applied;
SELECT log('p-40', 'track', 'Order', '{user_id:p-2}');
SELECT apply() > 0 AS applied;
SELECT x FROM jsonb_array_elements(export('user_id:p-2') -> 'refused') x;
SELECT erase('user_id:p-2') IS NOT NULL AS logged;
SELECT apply() > 0 AS applied;
SELECT export('user_id:p-2') IS NULL AS gone;

-- each is noted, without the identifier
SELECT who = session_user AS mine, object = encode(tombstone_hash('user_id:p-2'), 'hex') AS by_user_id, object = encode(tombstone_hash('email:p-7@example.com'), 'hex') AS by_email, detail, count(*)
FROM audit WHERE action = 'export' GROUP BY 1, 2, 3, 4 ORDER BY 5;
