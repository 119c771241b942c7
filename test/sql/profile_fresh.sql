-- Profiles with what has not been applied yet, and profiles at earlier times.
-- Random streams are compared in 100_differential and 110_asof.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET client_min_messages = notice;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01';
SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_trait('n_7d', aggregate => 'count', within => '7 days');
SELECT cdp.create_trait('spent', aggregate => 'sum', value => $$(properties->>'price')::numeric$$);
SELECT cdp.create_trait('mean', expression => 'spent / nullif(n, 0)');
SELECT cdp.create_segment('active', 'n_7d > 1');
SELECT cdp.create_segment('sticky', 'n > 2', exit_when => 'n_7d = 0');

CREATE FUNCTION pg_temp.show(profile jsonb) RETURNS jsonb LANGUAGE sql AS
	$$SELECT profile - 'first_seen' - 'last_seen'$$;

-- somebody new, in the transaction that logs it; nothing is written
BEGIN;
SELECT cdp.track('Visited', '{"price": 2}', user_id => 'u1', anonymous_id => 'a1') IS NOT NULL;
SELECT cdp.identify('u1', '{"plan": "plus"}') IS NOT NULL;
SELECT cdp.profile('user_id:u1') IS NULL AS unknown;
SELECT pg_temp.show(cdp.profile('anonymous_id:a1', fresh => true));
SELECT cdp.profile('user_id:u1', fresh => false) IS NULL AS unknown;
SELECT count(*) FROM cdp.identities;
ROLLBACK;
SELECT cdp.profile('user_id:u1', fresh => true) IS NULL AS unknown;

SELECT cdp.track('Visited', '{"price": 2}', user_id => 'u1', anonymous_id => 'a1', occurred_at => '2026-02-20') IS NOT NULL;
SELECT cdp.identify('u1', '{"plan": "plus"}', occurred_at => '2026-02-21') IS NOT NULL;
SELECT cdp.track('Visited', '{"price": 5}', user_id => 'u2', occurred_at => '2026-02-28') IS NOT NULL;
SELECT cdp.apply();

-- on top of what is stored: known people, a declared trait, windows, segments
SELECT cdp.track('Visited', '{"price": 4}', user_id => 'u1', anonymous_id => 'a1') IS NOT NULL;
SELECT cdp.track('Visited', '{"price": "x"}', user_id => 'u1') IS NOT NULL;
SELECT cdp.identify('u1', '{"plan": null, "city": "Rome"}') IS NOT NULL;
SELECT pg_temp.show(cdp.profile('user_id:u1', fresh => true));
SELECT pg_temp.show(cdp.profile(cdp.resolve('user_id:u1'), fresh => true));
-- errors are counted by the applier, not by reads
SELECT errors FROM cdp.stat_traits WHERE name = 'spent';

-- who is who: a merge, its undo, a copy that wins, and one that is late
SELECT cdp.merge('user_id:u1', 'user_id:u2', 'told us') AS merged \gset
SELECT pg_temp.show(cdp.profile('user_id:u2', fresh => true));
SELECT cdp.undo(:'merged') IS NOT NULL;
SELECT pg_temp.show(cdp.profile('user_id:u2', fresh => true));
SELECT cdp.track('Visited', '{"price": 10}', user_id => 'u3', message_id => 'm', occurred_at => '2026-02-25') IS NOT NULL;
SELECT cdp.track('Visited', '{"price": 20}', user_id => 'u4', message_id => 'm', occurred_at => '2026-02-24') IS NOT NULL;
SELECT cdp.profile('user_id:u3', fresh => true) IS NULL AS outdone, cdp.profile('user_id:u4', fresh => true)->'traits' AS traits;
CREATE FUNCTION pg_temp.read(people text[]) RETURNS TABLE (i text, p jsonb) LANGUAGE sql AS
	$$SELECT i, cdp.profile(i::cdp.identifier, fresh => true) FROM unnest(people) i$$;
CREATE TEMP TABLE fresh AS
	SELECT * FROM pg_temp.read(ARRAY['user_id:u1', 'anonymous_id:a1', 'user_id:u2', 'user_id:u3', 'user_id:u4']);
SELECT cdp.apply();
CREATE FUNCTION pg_temp.identifiers() RETURNS TABLE (i text, identifiers jsonb, before jsonb) LANGUAGE sql AS
	$$SELECT f.i, f.p->'identifiers', cdp.profile(f.i::cdp.identifier)->'identifiers' FROM fresh f$$;
CREATE FUNCTION pg_temp.same() RETURNS TABLE (i text, same boolean) LANGUAGE sql AS
	$$SELECT f.i, (f.p - 'profile_id') IS NOT DISTINCT FROM (cdp.profile(f.i::cdp.identifier) - 'profile_id') FROM fresh f$$;
SELECT * FROM pg_temp.same();

-- a late entry takes p from u5, so q can be of u5, and not of u8, so r can be of u8
SELECT cdp.alter_identifier_kind('email', max_per_profile => 1);
SELECT count(cdp.identify(user_id, '{}', identifiers => ARRAY['email:' || email]::cdp.identifier[], occurred_at => at))
FROM (VALUES ('u5', 'p@example.com', '2026-02-25'::timestamptz), ('u5', 'q@example.com', '2026-02-26'),
	('u8', 'q@example.com', '2026-02-27'), ('u8', 'r@example.com', '2026-02-28')) v(user_id, email, at);
SELECT cdp.apply();
SELECT cdp.identify('u6', '{}', identifiers => ARRAY['email:p@example.com']::cdp.identifier[], occurred_at => '2026-02-20') IS NOT NULL;
TRUNCATE fresh;
INSERT INTO fresh SELECT * FROM pg_temp.read(ARRAY['user_id:u1', 'user_id:u5', 'user_id:u8', 'email:p@example.com', 'email:q@example.com', 'email:r@example.com']);
SELECT * FROM pg_temp.identifiers();
SELECT cdp.apply();
SELECT * FROM pg_temp.same();

-- a change of the rules that has not got there: by the new ones, entries or none
SET cdp.replay_at_commit = 0;
SELECT cdp.alter_identifier_kind('user_id', max_per_profile => 3), cdp.alter_identifier_kind('email', max_per_profile => 2);
TRUNCATE fresh;
INSERT INTO fresh SELECT * FROM pg_temp.read(ARRAY['user_id:u5', 'user_id:u6', 'user_id:u8']);
SELECT * FROM pg_temp.identifiers();
SELECT cdp.apply();
SELECT * FROM pg_temp.same();
SET cdp.max_profile_identifiers = 2;
SELECT cdp.rejudge();
SELECT cdp.track('Visited', user_id => 'u8') IS NOT NULL;
TRUNCATE fresh;
INSERT INTO fresh SELECT * FROM pg_temp.read(ARRAY['user_id:u5', 'user_id:u6', 'user_id:u8']);
SELECT * FROM pg_temp.identifiers();
SELECT cdp.apply();
SELECT * FROM pg_temp.same();
RESET cdp.max_profile_identifiers;
RESET cdp.replay_at_commit;
SELECT cdp.alter_identifier_kind('user_id', max_per_profile => 1), cdp.alter_identifier_kind('email', max_per_profile => 1);

-- what a policy withholds does not count, until it is released
SELECT cdp.alter_identifier_kind('user_id', policy => 'quarantine');
SELECT cdp.track('Visited', '{"price": 100}', user_id => 'u1', identifiers => ARRAY['user_id:u2']::cdp.identifier[], message_id => 'both') IS NOT NULL;
SELECT cdp.profile('user_id:u1', fresh => true)->'traits'->'spent' AS held;
SELECT cdp.apply();
SELECT cdp.release('both') IS NOT NULL;
SELECT cdp.profile('user_id:u1')->'traits'->'spent' AS held;
SELECT cdp.profile_at('user_id:u1', NULL, NULL)->'traits'->'spent' AS held;
SELECT cdp.profile('user_id:u1', fresh => true)->'traits'->'spent' AS released;
SELECT cdp.apply();
SELECT cdp.profile('user_id:u1')->'traits'->'spent' AS released;
SELECT cdp.profile_at('user_id:u1', NULL, NULL)->'traits'->'spent' AS released;

-- too much is waiting
SET cdp.max_fresh_entries = 1;
SELECT cdp.track('Visited', user_id => 'u1') IS NOT NULL;
SELECT cdp.profile('user_id:u1', fresh => true)->'traits'->'n' AS n;
SELECT cdp.track('Visited', user_id => 'u9') IS NOT NULL;
SELECT cdp.profile('user_id:u1', fresh => true);
RESET cdp.max_fresh_entries;

-- readers, read-only and repeatable transactions
CREATE ROLE regress_fresh;
GRANT USAGE ON SCHEMA cdp TO regress_fresh;
GRANT EXECUTE ON FUNCTION cdp.profile(cdp.identifier, boolean), cdp.profile_at(cdp.identifier, timestamptz, timestamptz) TO regress_fresh;
SET ROLE regress_fresh;
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT cdp.profile('user_id:u9', fresh => true)->'traits' AS traits;
SELECT cdp.profile_at('user_id:u9')->'traits' AS traits;
COMMIT;
RESET ROLE;
SELECT cdp.apply();

-- earlier: traits and windows as of the instant, by what was known
SELECT d, cdp.profile_at('user_id:u1', d)->'traits' AS traits, cdp.profile_at('user_id:u1', d)->'segments' AS segments
FROM unnest(ARRAY['2026-02-19', '2026-02-20', '2026-02-22', '2026-02-27', '2026-03-01 12:00', '2026-03-09']::timestamptz[]) d;
SELECT cdp.profile_at('user_id:u1', '2026-02-22', '2026-02-22') IS NULL AS not_known_yet;
SELECT cdp.profile_at('shoe:1', '2026-02-22');
SELECT * FROM cdp.verify();
SET client_min_messages = warning;
DROP OWNED BY regress_fresh;
DROP ROLE regress_fresh;
DROP EXTENSION cdp;
