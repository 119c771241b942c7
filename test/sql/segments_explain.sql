-- When does what explain_segment tells become another, if only time passes?
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;

SELECT cdp.create_trait('trial_ends', type => 'timestamptz');
SELECT cdp.create_trait('born', type => 'date');
SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', within => '3 days');
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.identify('ada', '{"trial_ends": "2026-05-10 12:00", "born": "1990-05-20", "plan": "pro"}') IS NOT NULL AS logged;
SELECT count(cdp.track('Login', user_id => u, occurred_at => timestamptz '2026-05-01' - h * interval '1 hour')) AS logins
FROM (VALUES ('ada', 1), ('ada', 30), ('ada', 60), ('bob', 10), ('cyd', 40)) v(u, h);
SELECT cdp.track('Cart Filled', user_id => 'ada', occurred_at => '2026-04-30 23:30') IS NOT NULL AS logged;
SELECT count(cdp.group('acme', user_id => u)) AS joined FROM unnest('{ada,bob,cyd}'::text[]) u;
SELECT cdp.apply() > 0 AS applied;

SELECT cdp.create_segment('active', $$logins >= 2 AND trial_ends > now()$$);
SELECT cdp.create_segment('gone', $$NOT in_segment('active') AND until(trial_ends) < interval '2 days'$$, exclude => '{active}');
SELECT cdp.create_segment('birthday', $$to_char(born, 'MMDD') = to_char(current_date, 'MMDD')$$);
SELECT cdp.create_segment('left_cart', $$did_in_order('Cart Filled', then_not => 'Order Completed', within => '1 hour', newer_than => '7 days')$$);
SELECT cdp.create_segment('staying', $$logins >= 3$$, exit_when => $$logins < 1$$);
SELECT cdp.create_segment('pros', $$plan = 'pro'$$, holdout => 0.000001);
SELECT cdp.create_segment('lively', $$count_members(logins > 0) >= 2$$, entity => 'account');
SELECT cdp.create_segment('logging_in', $$any_member(did('Login', within => '2 days') AND known())$$, entity => 'account');
SELECT cdp.create_trait('most', aggregate => 'max', value => 'logins', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_segment('of_lively', $$account.most >= 2$$);

SELECT s.name AS segment, e.term, e.value, e.needed, e.changes_at FROM unnest('{active,gone,birthday,left_cart,staying,pros,of_lively}'::text[]) WITH ORDINALITY s(name, n),
	cdp.explain_segment(s.name, 'user_id:ada') WITH ORDINALITY e ORDER BY s.n, e.ordinality;
SELECT s.name AS segment, e.term, e.value, e.changes_at FROM unnest('{lively,logging_in}'::text[]) WITH ORDINALITY s(name, n),
	cdp.explain_segment(s.name, 'group_id:acme') WITH ORDINALITY e ORDER BY s.n, e.ordinality;

-- a condition that is a term, too: what would have to change is said of it; a
-- call that stands deeper in a text has a value; names of traits are no names of rows
SELECT cdp.create_trait('member', type => 'boolean'), cdp.create_trait('predicate', type => 'boolean');
SELECT cdp.create_purpose('offers', 'offers') IS NOT NULL;
SELECT cdp.identify('dan', '{"member": true, "predicate": false, "plan": "free"}') IS NOT NULL, cdp.identify('dan', '{"plan": "pro"}') IS NOT NULL;
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.create_segment('bare', $$member AND predicate AND member_of('acme') AND in_segment('pros') AND consented('offers') AND did('Login') AND changed(plan)$$);
SELECT cdp.create_segment('deep', $$CASE WHEN did_in_order('Cart Filled', 'Order') THEN NOT (member_of('acme') OR changed(plan, became => 'pro') OR in_segment('pros'))
	ELSE did_in_order('Cart Filled', then_not => 'Order') AND cdp.did('Login', within => '7 days') END$$, exit_when => $$changed(plan, within => '2 days') OR member_of('acme')$$);
SELECT s.name AS segment, i.name, e.term, e.value, e.needed, e.changes_at FROM unnest('{bare,deep}'::text[]) s(name) CROSS JOIN unnest('{ada,dan}'::text[]) i(name),
	cdp.explain_segment(s.name, cdp.identifier('user_id', i.name)) WITH ORDINALITY e ORDER BY s.name, i.name, e.ordinality;
SELECT cdp.drop_segment('bare'), cdp.drop_segment('deep');

-- what it said comes true, and nothing before
CREATE TABLE said AS
	SELECT s.name AS segment, i.identifier, e.value, e.changes_at FROM cdp.segments s
	JOIN unnest('{user_id:ada,user_id:bob,user_id:cyd,group_id:acme}'::cdp.identifier[]) i(identifier) ON (s.entity = 'account') = (cdp.kind(i.identifier) = 'group_id')
	CROSS JOIN LATERAL cdp.explain_segment(s.name, i.identifier) e WHERE e.term = 'member';
SELECT count(*) AS said, count(changes_at) AS some_time FROM said;
CREATE FUNCTION otherwise(at timestamptz, segment text, who cdp.identifier, value text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('cdp.now', at::text, true);
	RETURN cdp.in_segment(who, segment) <> value::boolean;
END $$;
SELECT s.segment, s.identifier, otherwise(s.changes_at - interval '1 microsecond', s.segment, s.identifier, s.value) AS before,
	otherwise(s.changes_at, s.segment, s.identifier, s.value) AS then
FROM said s WHERE s.changes_at IS NOT NULL AND s.segment <> 'staying' ORDER BY s.segment, s.identifier::text COLLATE "C";
SELECT s.segment, s.identifier FROM said s CROSS JOIN generate_series(timestamptz '2026-05-01', '2026-05-31', interval '31 hours') at
WHERE s.changes_at IS NULL AND otherwise(at, s.segment, s.identifier, s.value);

-- an instant would tell a value that is hidden
SELECT cdp.set_sensitivity('trait', 'born');
CREATE ROLE regress_cdp_explained;
SELECT cdp.grant_operator('regress_cdp_explained'), cdp.grant_reader('regress_cdp_explained');
SET SESSION AUTHORIZATION regress_cdp_explained;
SELECT count(*) AS rows, count(changes_at) AS instants FROM cdp.explain_segment('birthday', 'user_id:ada');
SELECT count(*) AS rows, count(changes_at) AS instants FROM cdp.explain_segment('active', 'user_id:ada');
RESET SESSION AUTHORIZATION;
DROP OWNED BY regress_cdp_explained;
DROP ROLE regress_cdp_explained;
