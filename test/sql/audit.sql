-- Who changed what: noted, sealed in a chain, and what is wrong with it shows.
\set QUIET on
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION cdp;
SELECT plan(28);

CREATE FUNCTION pg_temp.audited() RETURNS TABLE (action text, object text, detail jsonb) LANGUAGE sql AS
	'SELECT action, object, detail FROM cdp.audit WHERE seq IS NOT NULL ORDER BY seq';
CREATE FUNCTION pg_temp.last() RETURNS jsonb LANGUAGE sql AS
	'SELECT to_jsonb(a) - ARRAY[''at'', ''id'', ''hash'', ''seq''] FROM cdp.audit a WHERE seq IS NOT NULL ORDER BY seq DESC LIMIT 1';

SELECT is_empty('SELECT * FROM cdp.audit', 'a new extension has done nothing yet');

-- Definitions, by whatever way they are changed.
SELECT cdp.create_trait('plan', type => 'text');
SELECT is(count(*), 1::bigint, 'noted at once') FROM cdp.audit WHERE seq IS NULL AND action = 'create trait';
SELECT cdp.apply();
SELECT is(pg_temp.last() -> 'object', '"plan"', 'sealed by the applier');
SELECT is(pg_temp.last() ->> 'who', session_user::text, 'with who it was');
SELECT is_empty('SELECT * FROM cdp.audit_unsealed', 'nothing is left to seal');

SELECT cdp.alter_trait('plan', description => 'what they pay for');
SELECT cdp.apply();
SELECT is(pg_temp.last() #> '{detail,description}', '{"after": "what they pay for", "before": null}', 'an alteration has what was before and after');
SELECT cdp.create_segment('pros', $$plan = 'pro'$$);
SELECT cdp.apply();
SELECT is(pg_temp.last() ->> 'action', 'create segment', 'segments');
SELECT is(pg_temp.last() #>> '{detail,predicate}', 'plan = ''pro''', 'with their predicate');
SELECT cdp.drop_segment('pros');
SELECT cdp.create_identifier_kind('crm_id', priority => 15);
SELECT cdp.alter_identifier_kind('crm_id', max_per_profile => 2);
SELECT cdp.subscribe('mail');
UPDATE cdp.subscriptions SET paused_at = cdp.clock();
SELECT cdp.apply();
SELECT results_eq($$SELECT action, object FROM pg_temp.audited() OFFSET 3$$,
	$$VALUES ('drop segment', 'pros'), ('create identifier kind', 'crm_id'), ('alter identifier kind', 'crm_id'),
		('create subscription', 'mail'), ('alter subscription', 'mail')$$, 'in the order in which they were done');

INSERT INTO cdp.personal_keys VALUES ('shoe size');
SELECT cdp.apply();
SELECT is(pg_temp.last() - 'who' - 'role', '{"action": "create personal key", "object": "shoe size", "detail": {"key": "shoe size", "personal": true}}', 'what is personal is a rule');

-- What consumers and the applier change by themselves is no news.
SELECT count(*) AS noted FROM cdp.audit \gset
SELECT cdp.track('Seen', user_id => 1);
SELECT cdp.apply();
SELECT count(*) FROM cdp.poll('mail', 10) \gset polled_
SELECT is(count(*), :noted::bigint, 'entries and polls are not noted') FROM cdp.audit;

-- What is rolled back has not been done.
BEGIN;
SELECT cdp.create_trait('gone', type => 'text');
ROLLBACK;
SELECT cdp.apply();
SELECT is(count(*), :noted::bigint, 'a rollback leaves nothing') FROM cdp.audit;

-- Decisions about identity are entries of the log.
SELECT cdp.merge('user_id:1', 'email:one@example.com', 'told so by telephone') AS merge \gset
SELECT cdp.apply();
SELECT is(pg_temp.last() ->> 'action', 'merge', 'a merge');
SELECT is(pg_temp.last() ->> 'object', :'merge', 'by its message id');
SELECT is(pg_temp.last() ->> 'who', session_user::text, 'with its author');
SELECT ok(pg_temp.last()::text NOT LIKE '%example.com%' AND pg_temp.last()::text NOT LIKE '%telephone%', 'and without personal values');
SELECT cdp.undo(:'merge');
SELECT cdp.apply();
SELECT is(pg_temp.last() #>> '{detail,undone}', :'merge', 'an undo says of what');

-- Append-only.
SELECT throws_ok('UPDATE cdp.audit_entries SET who = ''nobody''', '42501', 'the audit is append-only');
SELECT throws_ok('DELETE FROM cdp.audit_seals', '42501', 'the audit is append-only');
SELECT throws_ok('TRUNCATE cdp.audit_entries CASCADE', '42501', 'the audit is append-only');
SELECT is_empty('SELECT * FROM cdp.audit_verify()', 'nothing is wrong');
SELECT seq AS known, hash FROM cdp.audit WHERE seq IS NOT NULL ORDER BY seq DESC LIMIT 1 \gset

-- Who can take the triggers away is found out.
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE cdp.audit_entries SET who = 'nobody' WHERE object = 'pros' AND action = 'create segment';
DELETE FROM cdp.audit_entries WHERE object = 'mail' AND action = 'create subscription';
INSERT INTO cdp.audit_entries (action) VALUES ('nothing');
SELECT set_eq('SELECT finding FROM cdp.audit_verify()',
	ARRAY['the entry or the seal before it is not what was sealed', 'the entry is missing', 'the entry is in no chain and waits for none'],
	'changed, removed and slipped in');
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
CREATE FUNCTION pg_temp.shows(change text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'UPDATE cdp.audit_entries SET ' || change || ' WHERE id = (SELECT id FROM cdp.audit_seals WHERE seq = 2)';
	RAISE EXCEPTION USING ERRCODE = 'CDPOK', MESSAGE = (SELECT string_agg(seq || ' ' || finding, ', ') FROM cdp.audit_verify());
EXCEPTION WHEN SQLSTATE 'CDPOK' THEN
	RETURN SQLERRM = '2 the entry or the seal before it is not what was sealed';
END $$;
SELECT is_empty($$SELECT c FROM unnest(ARRAY['at = at + interval ''1 microsecond''', 'who = who || ''x''', 'role = role || ''x''', 'action = action || ''x''',
	'object = NULL', 'detail = detail || ''{"x": 1}''']) c WHERE pg_temp.shows(c) IS NOT TRUE$$, 'whatever is changed of it');
ROLLBACK;
SELECT is_empty($$SELECT FROM cdp.audit a LEFT JOIN cdp.audit b ON b.seq = a.seq - 1 WHERE a.hash IS DISTINCT FROM
	sha256(coalesce(b.hash, decode(repeat('00', 32), 'hex')) || convert_to(jsonb_build_array(a.seq, a.id, extract(epoch FROM a.at), a.who, a.role, a.action, a.object, a.detail)::text, 'UTF8'))$$,
	'the hashes are what is said of them');
BEGIN;
SET LOCAL session_replication_role = replica;
DELETE FROM cdp.audit_seals WHERE seq = 3;
SELECT set_eq('SELECT finding FROM cdp.audit_verify()',
	ARRAY['seals 3 to 3 are missing', 'the entry is in no chain and waits for none'], 'a seal is missing');
ROLLBACK;
BEGIN;
SET LOCAL session_replication_role = replica;
WITH gone AS (DELETE FROM cdp.audit_seals WHERE seq >= :known RETURNING id)
DELETE FROM cdp.audit_entries e USING gone WHERE e.id = gone.id;
SELECT is_empty('SELECT * FROM cdp.audit_verify()', 'a chain that was cut off is a chain');
SELECT results_eq(format('SELECT seq, finding FROM cdp.audit_verify(%s, %L)', :known, :'hash'),
	format('SELECT %s::bigint, ''the chain ends at %s, before the seal that is known''', :known, :known - 1), 'unless its end is known');
ROLLBACK;
SELECT results_eq(format('SELECT finding FROM cdp.audit_verify(%s, %L)', :known - 1, :'hash'),
	$$VALUES ('the hash is not the one that is known')$$, 'a seal that was kept elsewhere is compared');
SELECT * FROM finish();
