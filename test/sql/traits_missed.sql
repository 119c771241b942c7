-- Entries that come while a trait is suspended are not in it when it goes on:
-- check() says so, and what it names reads them again.
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;

CREATE ROLE regress_cdp_missed;
GRANT USAGE ON SCHEMA cdp TO regress_cdp_missed;
SELECT cdp.grant_operator('regress_cdp_missed');
CREATE VIEW faults AS SELECT severity, topic, object, finding, remedy FROM cdp.check()
	WHERE topic IN ('segment', 'trait') AND severity = 'error' ORDER BY topic COLLATE "C", object COLLATE "C", finding COLLATE "C";
CREATE VIEW who AS SELECT segment, count(*) FROM cdp.memberships GROUP BY segment ORDER BY segment COLLATE "C";
GRANT SELECT ON who TO regress_cdp_missed;
SET ROLE regress_cdp_missed;
SELECT cdp.create_trait('seen', aggregate => 'count', event => 'Seen', filter => $$upper(properties->>'a') = 'X'$$);
SELECT cdp.create_trait('other', aggregate => 'count', event => 'Other');
SELECT cdp.create_trait('visits', aggregate => 'count', event => 'Seen', entity => 'account');
SELECT cdp.create_trait('age', type => 'int');
SELECT cdp.create_trait('grown', aggregate => 'count', filter => 'age > 17', options => '{"over": "members"}', entity => 'account');
SELECT cdp.create_segment('lookers', 'seen > 0');
SELECT cdp.create_segment('onlookers', $$did('Seen', at_least => 2)$$);
SELECT cdp.create_segment('crowd', $$count_members(did('Seen') AND known()) > 1$$, entity => 'account');
SELECT cdp.create_segment('family', 'count_members(age < 18) > 1', entity => 'account');
SELECT cdp.create_segment('others', $$did('Other')$$);
RESET ROLE;
CREATE FUNCTION look(VARIADIC users text[]) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(cdp.track('Seen', '{"a": "x"}', user_id => u, context => '{"groupId": "acme"}')) FROM unnest(users) u $$;
SELECT look('ada', 'ada', 'bob');
SELECT cdp.apply();
SELECT * FROM who;

-- its owner is gone for a time
ALTER ROLE regress_cdp_missed RENAME TO regress_cdp_away;
\c
SET cdp.now = '2026-05-01';
SET client_min_messages = error;
SELECT look('bob', 'cyd', 'cyd');
SELECT count(cdp.identify(u, '{"age": 30}')) + count(cdp.identify(u || '_child', '{"age": 3}')) AS told FROM unnest('{ada,cyd}'::text[]) u;
SELECT count(cdp.group('acme', user_id => u || '_child')) AS joined FROM unnest('{ada,cyd}'::text[]) u;
SELECT cdp.apply();
SELECT object, finding FROM faults;
ALTER ROLE regress_cdp_away RENAME TO regress_cdp_missed;
\c
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;
SELECT look('dan');
SELECT cdp.apply();
SELECT * FROM faults;
SELECT count(*) > 0 AS wrong FROM cdp.verify();
-- what is new is whole
SET ROLE regress_cdp_missed;
SELECT cdp.create_segment('newcomers', $$did('Seen', at_least => 2)$$);
SELECT * FROM who;
SELECT cdp.alter_trait('seen');
SELECT cdp.alter_trait('visits');
SELECT cdp.reevaluate_segment('onlookers');
SELECT cdp.alter_trait('grown');
SELECT cdp.reevaluate_segment('crowd');
SELECT cdp.reevaluate_segment('family');
RESET ROLE;
SELECT * FROM faults;
SELECT * FROM who;
SELECT * FROM cdp.verify();

-- a function that its owner may not call for a time; history is read beside what comes
REVOKE EXECUTE ON FUNCTION upper(text) FROM PUBLIC;
SELECT cdp.create_trait('nothing', type => 'text');
SELECT look('fay');
SELECT cdp.apply();
GRANT EXECUTE ON FUNCTION upper(text) TO PUBLIC;
SELECT cdp.drop_trait('nothing');
SELECT * FROM faults WHERE topic = 'trait';
SET cdp.backfill_at_once = 0;
SET cdp.backfill_rate = -1;
SET client_min_messages = error;
SELECT cdp.alter_trait('seen');
SELECT * FROM faults WHERE topic = 'trait';
SELECT name, status FROM cdp.traits WHERE status <> 'active';
SET cdp.backfill_rate = 0;
SELECT cdp.apply(NULL) >= 0 AS built;
SELECT * FROM faults;
SELECT * FROM who;
SELECT * FROM cdp.verify();

DROP OWNED BY regress_cdp_missed;
DROP ROLE regress_cdp_missed;
