-- Traits and segments of accounts: declared by group calls, over members' entries,
-- over members' traits, derived.
CREATE EXTENSION cdp;
SET cdp.now = '2026-05-01';
SET TimeZone = 'UTC';
SET client_min_messages = warning;

-- names are of one kind of thing each: an account's plan is not a person's
SELECT cdp.create_trait('seats_bought', type => 'numeric', entity => 'account');
SELECT cdp.create_trait('plan', type => 'text', entity => 'account');
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', entity => 'account');
SELECT cdp.create_trait('logins_30d', aggregate => 'count', event => 'Login', within => '30 days', entity => 'account');
SELECT cdp.create_trait('last_page', aggregate => 'last', value => $$properties->>'page'$$, entity => 'account');
SELECT cdp.create_trait('user_logins', aggregate => 'count', event => 'Login');
SELECT cdp.create_trait('seats_used', aggregate => 'count', filter => 'user_logins > 0', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('most_logins', aggregate => 'max', value => 'user_logins', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('mean_logins', aggregate => 'avg', value => 'user_logins', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('seat_utilization', expression => 'round(seats_used / nullif(seats_bought, 0), 2)', entity => 'account');
SELECT cdp.create_segment('expansion', 'seat_utilization >= 0.8', entity => 'account');
SELECT cdp.create_segment('active', 'logins_30d > 0', entity => 'account');
SELECT name, kind, aggregate, entity, type, options FROM cdp.traits ORDER BY entity, name;

-- Seat utilisation reaches 80 %: once.
SELECT cdp.group('acme', '{"seats_bought": 5, "plan": "pro"}', user_id => 'u1', occurred_at => '2026-04-01') IS NOT NULL AS logged;
SELECT count(cdp.group('acme', user_id => 'u' || n, occurred_at => '2026-04-01')) AS joined FROM generate_series(2, 5) n;
SELECT count(cdp.track('Login', '{"page": "home"}', user_id => 'u' || n, occurred_at => '2026-04-02')) AS logins FROM generate_series(1, 3) n;
SELECT cdp.apply() AS applied;
SELECT cdp.account('group_id:acme') - 'account_id';
SELECT cdp.track('Login', '{"page": "billing"}', user_id => 'u4', occurred_at => '2026-04-03') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT cdp.track('Login', user_id => 'u5', occurred_at => '2026-04-03') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT seq, kind, entity, segment, cause, payload FROM cdp.changes ORDER BY seq;
SELECT seats_bought, plan, logins, logins_30d, last_page, seats_used, most_logins, mean_logins, seat_utilization FROM cdp.account_traits;
SELECT identifier, traits FROM cdp.accounts;
SELECT cdp.profile('user_id:u1') -> 'accounts' AS accounts, cdp.profile('user_id:u1') -> 'traits' AS traits;
SELECT cdp.in_segment('group_id:acme', 'expansion'), cdp.in_segment('group_id:none', 'expansion');
SELECT count(*) FROM cdp.segment_members('expansion');
SELECT * FROM cdp.verify();

-- One who was there before she was a member; and then a late entry says that
-- she was one.  It is taken back again.
SELECT cdp.track('Login', user_id => 'u1', occurred_at => '2026-03-10') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT logins, most_logins FROM cdp.account_traits;
SELECT cdp.group('acme', user_id => 'u1', occurred_at => '2026-03-01', message_id => 'late');
SELECT cdp.apply() AS applied;
SELECT logins, most_logins FROM cdp.account_traits;
SELECT * FROM cdp.verify();
SELECT cdp.retract('late') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT logins, most_logins FROM cdp.account_traits;
SELECT * FROM cdp.verify();

-- An anonymous visitor turns out to be a member: what he did counts.
SELECT cdp.track('Login', anonymous_id => 'x', occurred_at => '2026-04-05') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT logins, most_logins FROM cdp.account_traits;
SELECT cdp.identify('u2', anonymous_id => 'x', occurred_at => '2026-04-06') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT logins, most_logins FROM cdp.account_traits;
SELECT * FROM cdp.verify();
SELECT cdp.split('user_id:u2', 'anonymous_id:x') IS NOT NULL AS split;
SELECT cdp.apply() AS applied;
SELECT logins, most_logins FROM cdp.account_traits;
SELECT * FROM cdp.verify();

-- An entry that names another account counts for that one only; one that names
-- nobody else as well.
SELECT cdp.track('Login', user_id => 'u3', context => '{"groupId": "bolt"}', occurred_at => '2026-04-07') IS NOT NULL AS logged;
SELECT cdp.track('Login', context => '{"groupId": "bolt"}', occurred_at => '2026-04-07', message_id => 'nobodys');
SELECT cdp.track('Login', user_id => 'u3', occurred_at => '2026-04-08') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT cdp.retract('nobodys') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT identifier, traits ->> 'logins' AS logins FROM cdp.accounts ORDER BY identifier;
SELECT * FROM cdp.verify();

-- Somebody leaves, and comes back.
SELECT cdp.leave_group('acme', user_id => 'u4', occurred_at => '2026-04-20', message_id => 'leave');
SELECT cdp.apply() AS applied;
SELECT logins, seats_used, seat_utilization FROM cdp.account_traits t JOIN cdp.account_identities a USING (account_id) WHERE a.identifier::text = 'group_id:acme';
SELECT cdp.track('Login', user_id => 'u4', occurred_at => '2026-04-21') IS NOT NULL AS logged;
SELECT cdp.group('acme', user_id => 'u4', occurred_at => '2026-04-22') IS NOT NULL AS logged;
SELECT cdp.track('Login', user_id => 'u4', occurred_at => '2026-04-23') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT logins, seats_used, seat_utilization FROM cdp.account_traits t JOIN cdp.account_identities a USING (account_id) WHERE a.identifier::text = 'group_id:acme';
SELECT * FROM cdp.verify();

-- Time passes.
SET cdp.now = '2026-06-10';
SELECT cdp.apply() AS applied;
SELECT kind, segment, cause, occurred_at::date FROM cdp.changes WHERE cause = 'timer' ORDER BY seq;
SELECT * FROM cdp.verify();

-- Definitions over history.
SELECT cdp.create_trait('pages', aggregate => 'unique_list', value => $$properties->>'page'$$, entity => 'account');
SELECT cdp.create_trait('logins_sum', aggregate => 'sum', value => 'user_logins', filter => $$user_logins > 1$$, entity => 'account', options => '{"over": "members"}');
SELECT cdp.alter_trait('logins', within => '60 days', entity => 'account');
SELECT cdp.create_segment('pro', $$plan = 'pro' AND in_segment('busy')$$, entity => 'account');
SELECT cdp.create_segment('busy', 'logins > 2', entity => 'account');
SELECT cdp.create_segment('pro', $$plan = 'pro' AND in_segment('busy')$$, entity => 'account');
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT * FROM cdp.verify();
-- a trait of members changes what they contribute
SELECT cdp.alter_trait('user_logins', within => '50 days');
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT * FROM cdp.verify();
SELECT cdp.rename_trait('user_logins', 'own_logins');
SELECT name, value, filter FROM cdp.traits WHERE options ->> 'over' = 'members' ORDER BY name;
SELECT cdp.drop_trait('own_logins');
SELECT cdp.rename_trait('logins_sum', 'heavy_logins');
SELECT cdp.drop_trait('plan', entity => 'profile');
SELECT cdp.drop_trait('pages');
SELECT cdp.drop_trait('heavy_logins');
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT * FROM cdp.verify();

-- Other rules of identity, all at once and in steps.
SELECT cdp.alter_identifier_kind('group_id', normaliser => 'lower');
SELECT cdp.group('ACME', '{"seats_bought": 6}', user_id => 'u9', occurred_at => '2026-05-20') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT * FROM cdp.verify();
SET cdp.replay_at_commit = 0;
SELECT cdp.alter_identifier_kind('group_id', normaliser => 'verbatim');
SELECT cdp.apply() AS applied;
SELECT identifier, traits FROM cdp.accounts ORDER BY identifier;
SELECT * FROM cdp.verify();

-- What is refused.
SELECT cdp.create_trait('x', aggregate => 'last', value => 'plan', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('x', aggregate => 'count', event => 'Login', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('x', aggregate => 'sum', value => 'nonsense', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('x', aggregate => 'sum', value => 'random()', filter => 'logins > 0', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('x', aggregate => 'sum', value => $$'ü' || 'b'$$, filter => 'true', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('x', aggregate => 'count', value => '1', filter => '1 +', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_trait('x', aggregate => 'count', value => '1', filter => '1', entity => 'account', options => '{"over": "members"}');
-- neither do those that it reads change under it
SELECT cdp.create_trait('pages', aggregate => 'count');
SELECT cdp.create_trait('x', aggregate => 'sum', value => '1 -- (a bracket
	+ (pages + 1)', filter => $$('ü' <> 'b') AND (pages
) IS NOT NULL$$, entity => 'account', options => '{"over": "members"}');
SELECT cdp.alter_trait('pages', aggregate => 'last', value => $$properties->>'page'$$);
SELECT cdp.drop_trait('x', entity => 'account');
SELECT cdp.create_trait('x', aggregate => 'count', filter => $$(true
) AND ('ü)' <> '(' AND pages > 1
) AND (true)$$, entity => 'account', options => '{"over": "members"}');
SELECT cdp.alter_trait('pages', aggregate => 'last', value => $$properties->>'page'$$);
SELECT cdp.drop_trait('x', entity => 'account');
SELECT cdp.create_trait('x', aggregate => 'count', filter => $$'ü' = 'b' OR pages > 1$$, entity => 'account', options => '{"over": "members"}');
SELECT cdp.alter_trait('pages', aggregate => 'last', value => $$properties->>'page'$$);
SELECT cdp.drop_trait('x', entity => 'account'), cdp.drop_trait('pages');
SELECT cdp.create_trait('x', aggregate => 'sum', value => 'own_logins', options => '{"over": "members"}');
SELECT cdp.create_trait('account_id', type => 'text', entity => 'account');
SELECT cdp.create_segment('x', $$did('Login')$$, entity => 'account');
SELECT cdp.create_segment('x', 'own_logins > 1', entity => 'account');
SELECT cdp.create_segment('x', $$in_segment('busy')$$);

-- Entries of nobody that name several accounts: one of them is folded anew,
-- and the other has what it had.
SELECT cdp.create_trait('signals', aggregate => 'count', event => 'Signal', entity => 'account');
SELECT count(cdp.track('Signal', message_id => id, identifiers => names)) AS logged
FROM (VALUES ('both', '{group_id:one,group_id:two}'::cdp.identifier[]), ('second', '{group_id:two}'), ('first', '{group_id:one}')) v(id, names);
SELECT cdp.apply() AS applied;
SELECT cdp.retract('first') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT cdp.value(identifier) AS account, traits->'signals' AS signals FROM cdp.accounts WHERE cdp.value(identifier) IN ('one', 'two') ORDER BY 1;
SELECT * FROM cdp.verify();

-- The windows of two members end; a read knows before the second is looked at, whose
-- contribution is stored as it was, which is no fault.
SELECT cdp.create_trait('orders_1d', aggregate => 'count', event => 'Order', within => '1 day');
SELECT cdp.create_trait('orders_today', aggregate => 'sum', value => 'orders_1d', entity => 'account', options => '{"over": "members", "rollup": true}');
SELECT count(cdp.track('Order', user_id => id, context => '{"groupId": "shop"}')) AS logged FROM unnest(ARRAY['s1', 's2']) id;
SELECT cdp.group('shop', '{"parent": "mall"}', user_id => 's1') IS NOT NULL AS logged;
SELECT cdp.group('mall', user_id => 's3') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SET cdp.now = '2026-07-01';
SELECT cdp.track('Seen', user_id => 's4') IS NOT NULL AS logged;
SELECT cdp.apply(1) AS applied;
SELECT cdp.value(identifier) AS account, traits->'orders_today' AS orders_today FROM cdp.accounts WHERE cdp.value(identifier) IN ('shop', 'mall') ORDER BY 1;
SELECT * FROM cdp.verify();
SELECT cdp.apply() AS applied;
SELECT cdp.value(identifier) AS account, traits->'orders_today' AS orders_today FROM cdp.accounts WHERE cdp.value(identifier) IN ('shop', 'mall') ORDER BY 1;
SELECT * FROM cdp.verify();

-- another aggregate: what it is over stays
SELECT cdp.alter_trait('orders_today', aggregate => 'max');
SELECT aggregate, options FROM cdp.traits WHERE name = 'orders_today';
SELECT cdp.alter_trait('orders_today', aggregate => 'sum');

-- A retracted entry that no trait of profiles knows counted for the account
-- that its owner was a member of.
SELECT cdp.create_trait('credit', aggregate => 'sum', value => $$(properties->>'credit')::numeric$$, entity => 'account');
SELECT cdp.group('guild', user_id => 'g1', occurred_at => '2026-06-20') IS NOT NULL AS logged;
SELECT count(cdp.screen('Home', properties => jsonb_build_object('credit', credit), user_id => 'g1', message_id => id, occurred_at => '2026-06-25')) AS logged
FROM (VALUES ('stays', 1), ('goes', 10)) v(id, credit);
SELECT cdp.apply() AS applied;
SELECT traits->'credit' AS credit FROM cdp.accounts WHERE cdp.value(identifier) = 'guild';
SELECT cdp.retract('goes') IS NOT NULL AS retracted;
SELECT cdp.apply() AS applied;
SELECT traits->'credit' AS credit FROM cdp.accounts WHERE cdp.value(identifier) = 'guild';
SELECT * FROM cdp.verify();

-- A circle of parents does no harm, and is a finding.
SELECT cdp.group('ring', '{"parent": "rung"}') IS NOT NULL AND cdp.group('rung', '{"parent": "ring"}') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT c.severity, c.topic, regexp_replace(c.finding, '\d+', 'N', 'g') AS finding FROM cdp.check() c WHERE c.topic = 'accounts';
SELECT cdp.group('ring', '{"parent": null}') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT count(*) FROM cdp.check() c WHERE c.topic = 'accounts';

-- The first accounts come of a change of the rules.
DROP EXTENSION cdp CASCADE;
RESET cdp.replay_at_commit;
CREATE EXTENSION cdp;
SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', entity => 'account');
SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_trait('of_members', aggregate => 'sum', value => 'n', entity => 'account', options => '{"over": "members"}');
SELECT cdp.create_segment('used', 'of_members > 1', entity => 'account');
SELECT cdp.create_identifier_kind('company');
SELECT cdp.track('Joined', user_id => 'ada', identifiers => '{company:acme}', occurred_at => '2026-03-01') IS NOT NULL
	AND cdp.track('Login', user_id => 'ada', occurred_at => '2026-03-02') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT cdp.alter_identifier_kind('company', entity => 'account', links => false);
SELECT a.identifier, a.traits, cdp.in_segment(a.identifier, 'used') FROM cdp.accounts a;
SELECT * FROM cdp.verify();

-- what a member contributes is found by the member, also where no statistics say how many the account has
SET client_min_messages = warning;
DROP EXTENSION cdp CASCADE;
CREATE EXTENSION cdp;
SET cdp.now = '2026-02-01';
SELECT cdp.create_trait('n', aggregate => 'count', event => 'V'), cdp.create_trait('most', aggregate => 'max', value => 'n', entity => 'account', options => '{"over": "members"}');
INSERT INTO cdp.events (type, identifiers, occurred_at) SELECT 'group', ARRAY['user_id:u' || g, 'group_id:acme']::cdp.identifier[], '2026-01-01' FROM generate_series(1, 1000) g;
SELECT FROM cdp.apply();
INSERT INTO cdp.events (event, identifiers, occurred_at) SELECT 'V', ARRAY['user_id:u' || g]::cdp.identifier[], '2026-01-02' FROM generate_series(1, 100) g;
SELECT FROM cdp.apply();
SELECT pg_stat_force_next_flush();
SELECT idx_tup_read < 1000 AS few FROM pg_stat_user_indexes WHERE indexrelname = 'account_values_value';
SELECT cdp.account('group_id:acme')->'traits' AS traits;
SELECT * FROM cdp.verify();
