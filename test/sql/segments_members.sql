-- Segments of accounts that ask about members: any_member, all_members,
-- count_members.
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;

SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
SELECT count(cdp.group(g, user_id => u)) AS joined
FROM (VALUES ('acme', 'ada'), ('acme', 'bob'), ('acme', 'cyd'), ('beta', 'cyd'), ('beta', 'dan')) v(g, u);
SELECT count(cdp.identify(u, '{"plan": "pro"}')) AS told FROM unnest(ARRAY['ada', 'dan']) u;
SELECT count(cdp.track('Login', user_id => u)) AS logins FROM unnest(ARRAY['ada', 'bob', 'cyd']) u;
SELECT cdp.apply() > 0 AS applied;

CREATE VIEW who AS
	SELECT m.segment, array_agg(cdp.value(a.identifier) ORDER BY cdp.value(a.identifier) COLLATE "C") AS accounts
	FROM cdp.memberships m JOIN cdp.account_identities a ON a.account_id = m.profile_id GROUP BY m.segment ORDER BY m.segment;
SELECT cdp.create_segment('champion', $$any_member(plan = 'pro' AND did('Login', within => '7 days'))$$, entity => 'account');
SELECT cdp.create_segment('adopted', $$all_members(did('Login'))$$, entity => 'account');
SELECT cdp.create_segment('dormant', $$NOT any_member(did('Login', within => '7 days')) AND count_members() > 0$$, entity => 'account');
SELECT cdp.create_segment('buying', $$count_members(orders > 0) / nullif(count_members()::numeric, 0) >= 0.5 OR in_segment('champion')$$, entity => 'account');
SELECT cdp.create_segment('mixed', $$any_member(cdp.member_of('beta') AND (first_time('Login', within => '1 day') AND sum_of('Order', (properties->>'n')::int) = 0))$$, entity => 'account');
TABLE who;
SELECT seq, kind, segment, payload FROM cdp.changes WHERE segment = 'dormant' ORDER BY seq;
SELECT * FROM cdp.verify();

-- members do something, come and leave; time passes
SELECT cdp.track('Order', '{"n": 1}', user_id => 'dan') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
TABLE who;
SELECT cdp.leave_group('acme', user_id => 'ada', occurred_at => '2026-05-01 00:00:01') IS NOT NULL AS logged;
SELECT cdp.group('acme', user_id => 'eve') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
TABLE who;
SELECT * FROM cdp.verify();
SET cdp.now = '2026-05-20';
SELECT cdp.in_segment('group_id:acme', 'dormant') AS before_the_timer;
SELECT cdp.apply();
TABLE who;
SELECT * FROM cdp.verify();

-- one becomes another
SELECT cdp.merge('user_id:eve', 'user_id:ada', 'same') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
TABLE who;
SELECT * FROM cdp.verify();

-- what they stand on is shared, stays, and goes with them
SELECT cdp.create_segment('adopted_too', $$all_members(did('Login')) AND true$$, entity => 'account');
SELECT count(*) FROM cdp.trait_definitions WHERE hidden AND entity = 'account';
SELECT cdp.rename_trait('plan', 'tier');
SELECT cdp.drop_trait('orders', cascade => true);
SELECT cdp.alter_trait('orders', event => 'Login');
TABLE who;
SELECT * FROM cdp.verify();
SELECT (cdp.alter_segment('champion', $$any_member(plan = 'free')$$)).members;
SELECT cdp.drop_segment(name) FROM unnest(ARRAY['adopted_too', 'mixed', 'buying', 'dormant', 'adopted', 'champion']) name;
SELECT count(*) FROM cdp.trait_definitions WHERE hidden;

-- refused
SELECT cdp.create_segment('x', $$any_member(clock_timestamp() > '2026-01-01')$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(now() > 'soon')$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(now() > nonsense)$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(known() AND "$2" > 1)$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(known() AND changed('plan'))$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(known() AND any_member(true))$$, entity => 'account');
SELECT $$any_member(known(1))$$::cdp.predicate;
SELECT cdp.create_segment('x', $$any_member(in_segment('y'))$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(all_members(true))$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(nonsense > 1)$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(plan || 'x')$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member("$2" > 1)$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member()$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(predicate => true)$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(true, false)$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(true)$$);
SELECT cdp.create_segment('x', $$did('Login')$$, entity => 'account');

-- an account that is blocked by now is nobody's, and verify() knows
SELECT cdp.create_segment('of_beta', $$any_member(member_of('beta'))$$, entity => 'account');
SELECT cdp.alter_identifier_kind('group_id', blocked => ARRAY['beta']);
SELECT cdp.apply() > 0 AS applied;
TABLE who;
SELECT * FROM cdp.verify();
