-- What a segment needs that has no name of its own is told by the segment's;
-- definitions whose owner is gone are suspended, and verify() knows it.
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;

CREATE ROLE regress_cdp_told;
GRANT USAGE ON SCHEMA cdp TO regress_cdp_told;
SELECT cdp.grant_operator('regress_cdp_told');
SELECT count(cdp.group('acme', user_id => u)) AS joined FROM unnest('{ada,bob}'::text[]) u;
SELECT count(cdp.track('Seen', '{"a": "x"}', user_id => u)) AS seen FROM unnest('{ada,bob}'::text[]) u;
SELECT count(cdp.identify(u, '{"plan": "pro"}')) AS told FROM unnest('{ada,bob}'::text[]) u;
SELECT cdp.apply() > 0 AS applied;
SET ROLE regress_cdp_told;
SELECT cdp.create_trait('seen', aggregate => 'count', event => 'Seen', filter => $$upper(properties->>'a') = 'X'$$);
SELECT cdp.create_segment('lookers', $$did('Seen', filter => lower(properties->>'a') = 'x')$$);
SELECT cdp.create_segment('moved', $$changed(plan, was => 'x')$$);
SELECT cdp.create_segment('looking', $$any_member(did('Seen') AND known())$$, entity => 'account');
SELECT cdp.create_segment('crowd', $$count_members(did('Seen')) > 1$$, entity => 'account');
RESET ROLE;
SELECT cdp.create_segment('others', $$NOT in_segment('lookers') OR seen > 0$$);
SELECT cdp.create_segment('many', $$count_members(seen > 0) > 1$$, entity => 'account', exclude => '{looking}', holdout => 0.5);
CREATE VIEW who AS SELECT segment, count(*) FROM cdp.memberships GROUP BY segment;
SELECT * FROM who ORDER BY segment;
SELECT name FROM cdp.stat_traits ORDER BY name COLLATE "C";
SELECT segment, evaluations, errors FROM cdp.stat_segments ORDER BY segment;
SELECT * FROM cdp.verify();

-- away for a time: what was not counted meanwhile is made up for
ALTER ROLE regress_cdp_told RENAME TO regress_cdp_telling;
\c
SET cdp.now = '2026-05-01';
SET client_min_messages = error;
SELECT cdp.track('Seen', '{"a": "x"}', user_id => 'fay') IS NOT NULL AND cdp.group('acme', user_id => 'fay') IS NOT NULL AS logged;
SELECT cdp.apply();
SELECT * FROM cdp.verify();
SELECT name, state, last_error FROM cdp.segments ORDER BY name;
SELECT cdp.reevaluate_segment('lookers');
-- another makes a trait his, which takes it up again, with what it has missed
SELECT severity, object, finding, remedy FROM cdp.check() WHERE topic = 'trait' ORDER BY object;
SELECT cdp.alter_trait('seen');
RESET client_min_messages;
SELECT * FROM who ORDER BY segment;
ALTER ROLE regress_cdp_telling RENAME TO regress_cdp_told;
\c
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;
SELECT name, cdp.reevaluate_segment(name) FROM unnest('{lookers,looking,crowd,many}'::text[]) name;
SELECT * FROM who ORDER BY segment;
SELECT * FROM cdp.verify();

-- a function that its owner may not call any more
REVOKE EXECUTE ON FUNCTION lower(text) FROM PUBLIC;
SELECT cdp.create_trait('nothing', type => 'text');
SELECT cdp.track('Seen', '{"a": "x"}', user_id => 'cyd') IS NOT NULL AS logged;
SELECT cdp.apply();
SELECT * FROM who ORDER BY segment;
SELECT name, state, last_error FROM cdp.segments ORDER BY name;
SELECT severity, object, finding FROM cdp.check() WHERE topic IN ('segment', 'trait') ORDER BY object, finding;
SELECT * FROM cdp.verify();
GRANT EXECUTE ON FUNCTION lower(text) TO PUBLIC;
SELECT cdp.reevaluate_segment('lookers');
SELECT * FROM cdp.verify();

-- its owner is gone: in a session that has read the definitions before, and in others
SELECT cdp.drop_trait('nothing');
DROP OWNED BY regress_cdp_told;
DROP ROLE regress_cdp_told;
SELECT cdp.track('Seen', '{"a": "x"}', user_id => 'dan') IS NOT NULL AS logged;
SELECT cdp.group('acme', user_id => 'dan') IS NOT NULL AS logged;
SELECT cdp.apply();
SELECT * FROM cdp.verify();
SELECT * FROM who ORDER BY segment;
\c
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;
SELECT cdp.apply();
SELECT * FROM cdp.verify();
SELECT cdp.track('Seen', '{"a": "x"}', user_id => 'eve') IS NOT NULL AS logged;
SELECT cdp.apply();
SELECT * FROM cdp.verify();
SELECT * FROM who ORDER BY segment;
SELECT name, state, last_error FROM cdp.segments ORDER BY name;
SELECT cdp.explain_segment('looking', 'group_id:acme');

SELECT cdp.create_segment('pros', $$plan = 'pro'$$);
SELECT cdp.matches('user_id:ada'::cdp.identifier, $$plan = 'pro'$$);

-- another owner
SELECT count(cdp.alter_trait(t.name)) AS altered FROM cdp.traits t WHERE t.status = 'suspended';
SET client_min_messages = error;
SELECT s.name, cdp.alter_segment(s.name, owner => current_user) FROM (SELECT name FROM cdp.segments WHERE state = 'suspended' ORDER BY name) s;
SELECT name, state FROM cdp.segments WHERE state <> 'active';
SELECT * FROM who ORDER BY segment;
SELECT * FROM cdp.verify();

-- in a transaction that may not write: what segments ask already, and what they do not
BEGIN READ ONLY;
SELECT members FROM cdp.preview_segment($$count_members(seen > 0) > 1$$, entity => 'account');
SAVEPOINT s;
SELECT * FROM cdp.preview_segment($$any_member(known() AND did('Something new'))$$, entity => 'account');
ROLLBACK TO s;
SELECT * FROM cdp.preview_segment($$did('Something new')$$);
ROLLBACK;

-- who counts as known by other rules, twice, while what asks it is altered, which is given up then
SET cdp.replay_at_commit = 0;
SELECT cdp.track('Seen', anonymous_id => 'device', context => '{"groupId": "beta"}') IS NOT NULL AS logged;
SELECT cdp.create_segment('knowing', 'any_member(known())', entity => 'account');
SELECT cdp.create_segment('known_ones', 'known()');
SELECT cdp.create_segment('strange', $$known() AND NOT in_segment('known_ones')$$);
SELECT cdp.apply() > 0 AS applied;
SET cdp.backfill_at_once = 0;
SET cdp.backfill_rate = -1;
SELECT cdp.alter_segment('knowing', $$any_member(known() AND did('Fresh')) AND NOT any_member(did('Never'))$$);
SELECT cdp.alter_segment('strange', $$known() AND did('New')$$);
SELECT cdp.alter_identifier_kind('anonymous_id', priority => 2);
SELECT cdp.apply(NULL) >= 0 AS read_again;
SELECT cdp.alter_identifier_kind('anonymous_id', priority => 50);
SELECT cdp.apply(NULL) >= 0 AS read_again;
SELECT cdp.alter_identifier_kind('anonymous_id', priority => 2);
SELECT cdp.apply(NULL) >= 0 AS read_again;
SELECT what, phase FROM cdp.progress ORDER BY what COLLATE "C", phase;
SELECT cdp.cancel_backfill('knowing'), cdp.cancel_backfill('strange');
SET cdp.backfill_rate = 0;
SELECT cdp.apply(NULL) >= 0 AS built;
SELECT * FROM who WHERE segment ~ 'know|strange' ORDER BY segment;
SELECT * FROM cdp.verify();
