-- Which domains mean accounts is changed while there is much history: in steps of the applier.
CREATE EXTENSION cdp;
SET cdp.now = '2026-05-01';
SET TimeZone = 'UTC';
SET client_min_messages = warning;
SET cdp.backfill_at_once = 0;
CREATE VIEW members AS
	SELECT account, count(DISTINCT profile_id) AS members, count(*) AS periods, min(since)::date AS since FROM cdp.account_members m GROUP BY 1 ORDER BY 1;
-- who is under way is shown without times
CREATE VIEW under_way AS SELECT what, phase, done > 0 AS begun, done < total AS goes_on FROM cdp.progress ORDER BY 1;

SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', entity => 'account');
SELECT cdp.create_trait('users', aggregate => 'count', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_segment('busy', 'logins >= 8', entity => 'account');
SELECT cdp.create_segment('busy_people', 'account.logins >= 8');
SELECT cdp.apply() AS applied;
-- 40 people in four domains, one of them of free mail; some are known by a group, too
SELECT count(cdp.identify('u' || i, identifiers => ARRAY['email:u' || i || '@' || (ARRAY['acme', 'bolt', 'coil', 'gmail'])[1 + i % 4] || '.com']::cdp.identifier[],
	occurred_at => timestamptz '2026-01-01' + i * interval '1 day')) FROM generate_series(1, 40) i;
SELECT count(cdp.group('dolt', user_id => 'u' || i, occurred_at => '2026-03-01')) FROM generate_series(1, 40, 9) i;
SELECT count(cdp.track('Login', user_id => 'u' || i, occurred_at => timestamptz '2026-02-01' + i * interval '1 day')) FROM generate_series(1, 40) i;
SELECT cdp.apply() AS applied;
SELECT * FROM members;
SELECT max(seq) AS seq FROM cdp.changes \gset

-- The call returns at once, and nothing has happened yet.
SET client_min_messages = notice;
SELECT cdp.account_by_domain();
SET client_min_messages = warning;
SELECT * FROM under_way;
SELECT * FROM members;
SELECT * FROM cdp.verify();
-- step by step: always as the log says, by what has been reached; questions about now say what is stored
CREATE FUNCTION step(n int DEFAULT 1) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	wrong text;
BEGIN
	PERFORM cdp.apply(n);
	SELECT string_agg(v::text, E'\n') INTO wrong FROM cdp.verify() v;
	IF wrong IS NULL THEN
		SELECT string_agg(a.identifier || ': ' || a.traits || ' and ' || (cdp.account_at(a.identifier, cdp.clock())->>'traits'), E'\n') INTO wrong
		FROM cdp.accounts a WHERE a.traits IS DISTINCT FROM cdp.account_at(a.identifier, cdp.clock())->'traits';
	END IF;
	IF wrong IS NULL THEN
		SELECT string_agg(i.identifier || ': ' || p.now || ' and ' || p.at, E'\n') INTO wrong
		FROM cdp.identities i, LATERAL (SELECT cdp.profile(i.identifier)->>'accounts' AS now, cdp.profile_at(i.identifier, cdp.clock())->>'accounts' AS at) p
		WHERE i.node_id % 5 = 0 AND p.now IS DISTINCT FROM p.at;
	END IF;
	RETURN wrong;
END $$;
SELECT i, s FROM (SELECT i, step() AS s FROM generate_series(1, 16) i OFFSET 0) x WHERE s IS NOT NULL;
SELECT * FROM under_way;
SELECT account, members FROM members WHERE account::text <> 'group_id:dolt';
-- events meanwhile: of whom it has reached and of whom it has not; earlier and later than all that was known of the addresses; new people
SELECT count(cdp.track('Login', user_id => 'u' || i, identifiers => ARRAY['email:u' || i || '@' || (ARRAY['acme', 'bolt', 'coil', 'gmail'])[1 + i % 4] || '.com']::cdp.identifier[],
	occurred_at => CASE WHEN i % 2 = 0 THEN timestamptz '2025-12-01' ELSE '2026-04-30' END)) FROM (VALUES (1), (2), (3), (4), (39), (38), (37), (36)) v(i);
SELECT count(cdp.track('Login', user_id => 'n' || i, identifiers => ARRAY['email:n' || i || '@acme.com']::cdp.identifier[], occurred_at => '2026-04-01')) FROM generate_series(1, 3) i;
SELECT step(11);
SELECT account, members FROM members;
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
-- merges across, a split, a group that wins, a retraction and an erasure
SELECT cdp.merge('user_id:u1', 'user_id:u37') IS NOT NULL AS merged, cdp.split('user_id:u35', 'email:u35@gmail.com') IS NOT NULL AS split,
	cdp.group('dolt', user_id => 'u34', occurred_at => '2026-01-01', message_id => 'said') IS NOT NULL AS joined;
SELECT step(3);
SELECT cdp.retract('said') IS NOT NULL AS retracted, cdp.erase('user_id:u33') IS NOT NULL AS erased, cdp.erase('user_id:u2') IS NOT NULL AS erased;
SELECT i, s FROM (SELECT i, step() AS s FROM generate_series(1, 6) i OFFSET 0) x WHERE s IS NOT NULL;
SELECT what FROM under_way;
-- the rules that it follows stay as they are meanwhile
SELECT cdp.alter_identifier_kind('domain', blocked => '{bolt.com}');
SELECT cdp.alter_identifier_kind('email', normaliser => 'lower');
-- others may change: first comes what they say
SET cdp.replay_at_commit = 0;
SELECT cdp.alter_identifier_kind('user_id', priority => 7);
SELECT count(cdp.apply(30)) FROM generate_series(1, 3);
SELECT what, phase FROM under_way;
RESET cdp.replay_at_commit;

-- A change on top of it, in the middle: it begins anew.
SELECT cdp.free_mail_domain('coil.com');
SELECT cdp.free_mail_domain('gmail.com', false);
SELECT * FROM under_way WHERE what <> 'identity rules';
SELECT cdp.apply(50) >= 0 AS went_on;
SELECT i, s FROM (SELECT i, step() AS s FROM generate_series(1, 9) i OFFSET 0) x WHERE s IS NOT NULL;
SELECT step(1000000);
SELECT * FROM under_way;
SELECT * FROM members;
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT count(*) FROM cdp.segment_members('busy_people');
-- who enters for it does so because of a definition
SELECT DISTINCT entity, kind, cause FROM cdp.changes WHERE seq > :seq AND entity = 'account' ORDER BY 1, 2, 3;

-- In the middle it is turned off again: what was done is undone.
SELECT cdp.free_mail_domain('coil.com', false);
SELECT i, s FROM (SELECT i, step() AS s FROM generate_series(1, 3) i OFFSET 0) x WHERE s IS NOT NULL;
SELECT cdp.account_by_domain(false);
SELECT i, s FROM (SELECT i, step() AS s FROM generate_series(1, 3) i OFFSET 0) x WHERE s IS NOT NULL;
SELECT count(*) > 1 AS some_left FROM members;
SELECT step(1000000);
SELECT * FROM members;
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT * FROM under_way;

-- A replay of the log finishes it; what is short is done at once, whatever is under way.
SELECT cdp.account_by_domain();
SELECT step(2);
SELECT cdp.apply_identity_changes();
SELECT * FROM under_way;
SELECT * FROM cdp.verify();
SELECT account, members FROM members;
SELECT cdp.free_mail_domain('gmail.com');
SELECT step(2);
SET cdp.backfill_at_once = 1000000;
SELECT cdp.free_mail_domain('bolt.com');
SELECT * FROM under_way;
SELECT * FROM cdp.verify();
SELECT account, members FROM members;
-- the applier may be told to pause
SET cdp.backfill_at_once = 0;
SET cdp.backfill_rate = -1;
SELECT cdp.free_mail_domain('bolt.com', false);
SELECT step(1000);
SELECT * FROM under_way;
RESET cdp.backfill_rate;
SELECT step(1000);
SELECT account, members FROM members;
