-- What the planner has sampled of somebody is no secret, and goes with the person.
\set VERBOSITY terse
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01';
SELECT count(identify('lovelace-17', '{"email": "ada@example.com"}', message_id => 'ada@example.com/' || i)) AS logged FROM generate_series(1, 40) i;
SELECT count(track('Invite Ada@example.com', '{"to": "ada@example.com"}', user_id => 'bob', message_id => 'bob/' || i)) AS logged FROM generate_series(1, 40) i;
SELECT count(track('Invite', NULL, user_id => 'lovelace-17', message_id => 'x/' || i)) AS logged FROM generate_series(1, 40) i;
SELECT apply();
-- in a TOAST table: what cannot be compressed, with her name in it
SELECT track('Long', jsonb_build_object('t', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 300) i) || ' lovelace-17'), user_id => 'lovelace-17') IS NOT NULL AS logged;
SELECT create_segment('all', 'true');
SELECT apply() >= 0 AS applied;
SELECT track('For Everybody', user_id => 'carl') IS NOT NULL AS logged;
ANALYZE;
-- identifiers, properties, contexts, payloads and error texts are not sampled
SELECT DISTINCT tablename, attname FROM pg_stats WHERE schemaname = 'cdp'
	AND concat(most_common_vals, histogram_bounds, most_common_elems) ~* 'ada@|lovelace' ORDER BY 1, 2;
SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'cdp'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) <> 0
	AND (a.attname IN ('identifiers', 'properties', 'context', 'payload', 'error', 'last_error') OR (a.attname = 'identifier' AND a.attrelid <> 'account_identities'::regclass));

SELECT erase('user_id:lovelace-17') IS NOT NULL AS logged;
-- not before it is done
SELECT erasure_proof(1, '{user_id:lovelace-17,email:ada@example.com}');
-- dead rows, in tables, indexes and TOAST, where nobody can have cleared them away
BEGIN;
SELECT apply();
SELECT state FROM erasures;
SELECT relation IN ('identities', 'events_default') OR relation ~ '^pg_toast' AS tables, relation ~ '(identities_identifier|events_default_message)$' AS indexes, remedy, count(*) > 0 AS found
FROM erasure_proof(1, '{user_id:lovelace-17,email:ada@example.com}') WHERE relation ~ '^(identities|events_default|pg_toast)' AND place = 'page' GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT bool_or(relation ~ '^pg_toast') AS toast FROM erasure_proof(1, '{user_id:lovelace-17,email:ada@example.com}');
COMMIT;
SELECT count(*) > 0 AS in_any_case FROM erasure_scan('events_default', '{FOR EVERYBODY}');
VACUUM;
SELECT bool_or(place = 'free space') AS free_space FROM erasure_proof(1, '{user_id:lovelace-17,email:ada@example.com}');
SELECT erasure_clean() > 0 AS cleaned;
SELECT bool_or(place = 'free space') AS free_space FROM erasure_proof(1, '{user_id:lovelace-17,email:ada@example.com}') WHERE relation IN ('identities', 'events_default');
SELECT relation, identifier, place, pages, remedy FROM erasure_proof(1, '{user_id:lovelace-17,email:ada@example.com}') WHERE place ~ '^statistics' ORDER BY 1, 3, 2;
VACUUM ANALYZE;
SELECT erasure_clean() >= 0 AS cleaned;
SELECT relation, identifier, place, pages, remedy FROM erasure_proof(1, '{user_id:lovelace-17,email:ada@example.com}') WHERE place ~ '^(row|statistics)' ORDER BY 1, 3, 2;
SELECT * FROM verify();
