-- Segments of profiles about the traits of their primary account.
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;
SELECT cdp.create_trait('plan', type => 'text', entity => 'account');
SELECT cdp.create_trait('renews', type => 'timestamptz', entity => 'account');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
SELECT cdp.create_trait('orders_7d', aggregate => 'count', event => 'Order', within => '7 days', entity => 'account');
SELECT cdp.create_trait('bought', aggregate => 'sum', value => 'orders', entity => 'account', options => '{"over": "members"}');
SELECT count(cdp.group(g, user_id => u, occurred_at => t::timestamptz)) AS joined
FROM (VALUES ('acme', 'ada', '2026-04-01'), ('acme', 'bob', '2026-04-01'), ('beta', 'bob', '2026-03-01'), ('beta', 'cyd', '2026-04-01')) v(g, u, t);
SELECT cdp.group('acme', '{"plan": "pro", "renews": "2026-06-01"}', user_id => 'ada', occurred_at => '2026-04-02') IS NOT NULL AS logged;
SELECT cdp.group('beta', '{"plan": "free"}', user_id => 'cyd', occurred_at => '2026-04-02') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT cdp.create_segment('pro', $$account.plan = 'pro'$$);
SELECT cdp.create_segment('soon', $$account.renews - interval '10 days' < now() AND account.renews > now()$$);
SELECT cdp.create_segment('active', $$account.orders_7d > 0 AND NOT in_segment('pro')$$);
SELECT cdp.create_segment('bought', $$account.bought >= 2$$);
SELECT cdp.create_segment('free', $$coalesce(account.plan, 'free') = 'free'$$);
-- what only refers to such a segment follows it
SELECT cdp.create_segment('of_pro', $$in_segment('pro')$$), cdp.create_segment('but_pro', 'known()', exclude => '{pro}'), cdp.create_segment('of_of_pro', $$NOT in_segment('but_pro') AND in_segment('of_pro')$$);
CREATE VIEW who AS SELECT m.segment, string_agg(cdp.value(i.identifier)::text, ' ' ORDER BY i.node_id) FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id GROUP BY 1 ORDER BY 1;
TABLE who;
SELECT * FROM cdp.verify();

-- members buy, and what they buy counts for their accounts
SELECT cdp.track('Order', user_id => 'cyd') IS NOT NULL AS logged;
SELECT cdp.track('Order', user_id => 'bob') IS NOT NULL AS logged;
SELECT cdp.track('Order', user_id => 'ada') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
TABLE who;
SELECT * FROM cdp.verify();

-- the account says something else: all its members follow, who comes with it at once
SELECT cdp.group('acme', '{"plan": "free"}', user_id => 'new') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
TABLE who;
SELECT * FROM cdp.verify();
TABLE cdp.account_news;
SELECT seq, kind, profile_id, segment, cause FROM cdp.changes WHERE kind <> 'segment_defined' ORDER BY seq DESC LIMIT 6;
SELECT cdp.group('acme', user_id => 'new2') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT seq, kind, profile_id, segment, cause FROM cdp.changes WHERE kind <> 'segment_defined' ORDER BY seq DESC LIMIT 3;

-- time passes
SET cdp.now = '2026-05-25';
SELECT cdp.in_segment('user_id:bob', 'soon');SELECT cdp.profile('user_id:bob')->'segments';
SELECT cdp.matches('user_id:bob'::cdp.identifier, $$account.bought = 2 and account.plan = 'free'$$);
SELECT cdp.apply() AS applied;
TABLE who;
SELECT * FROM cdp.verify();

-- another account is the primary one
SELECT cdp.leave_group('acme', user_id => 'bob') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
TABLE who;
SELECT * FROM cdp.verify();
SELECT * FROM cdp.explain_segment('bought', 'user_id:bob');
SELECT * FROM cdp.preview_segment($$account.plan = 'free' and in_segment('bought')$$);

-- definitions
SELECT (cdp.alter_segment('pro', $$account.plan IN ('pro', 'free') AND account.orders_7d IS NOT NULL$$)).members;
SELECT * FROM cdp.verify();
SELECT cdp.rename_trait('plan','p2', entity => 'account');
SELECT cdp.alter_trait('orders_7d', event => 'Nothing', entity => 'account');
TABLE who;
SELECT * FROM cdp.verify();
SELECT cdp.drop_trait('plan', entity => 'account');

-- whom nothing changes for is not told: what is asked of the account stays as it was
SELECT cdp.create_trait('seats', type => 'numeric', entity => 'account'), cdp.create_trait('used', aggregate => 'count', event => 'Use', entity => 'account'),
	cdp.create_trait('uses', aggregate => 'count', event => 'Use');
SELECT cdp.create_segment('busy', $$account.used > 2.5 AND uses >= 0$$), cdp.create_segment('few', $$NOT (account.used IN (1, 2) OR account.seats IS NULL)$$);
SELECT count(cdp.group('gear', user_id => 'g' || i)) FROM generate_series(1, 6) i;
SELECT cdp.group('gear', '{"seats": 3}', user_id => 'g1') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
CREATE TABLE uses (use int, told bigint, members text, wrong bigint);
CREATE PROCEDURE uses(n int, who text DEFAULT 'g2') LANGUAGE plpgsql AS $$
DECLARE
	told bigint;
BEGIN
	DELETE FROM uses;
	FOR i IN 1 .. n LOOP
		PERFORM cdp.track('Use', user_id => who);
		COMMIT;
		PERFORM cdp.apply(1);
		told := (SELECT count(*) FROM cdp.account_news);
		PERFORM cdp.apply();
		INSERT INTO uses SELECT i, told, (SELECT string_agg(m.segment || ' ' || m.n, ', ' ORDER BY m.segment)
			FROM (SELECT segment, count(*) AS n FROM cdp.memberships WHERE segment IN ('busy', 'few', 'own') GROUP BY 1) m), (SELECT count(*) FROM cdp.verify());
		COMMIT;
	END LOOP;
END $$;
CALL uses(6);
TABLE uses;
-- but for a value that is compared with another, or with the clock, any other one is news
SELECT cdp.create_segment('own', $$account.used > uses$$);
CALL uses(2);
TABLE uses;
CALL uses(1, 'g3');
TABLE uses;
SELECT cdp.drop_segment('own');
CALL uses(2);
TABLE uses;

-- a date against an instant: which days those are is told by the segment's time zone, whatever the session's is
SELECT cdp.create_trait('ends', type => 'date', entity => 'account');
SELECT cdp.create_segment('early', $$account.ends < timestamptz '2026-04-30 04:00+00' AND uses >= 0$$, timezone => 'America/Los_Angeles');
SELECT cdp.group('gear', '{"ends": "2026-04-29"}', user_id => 'g1') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT count(*) FROM cdp.memberships WHERE segment = 'early';
SELECT cdp.group('gear', '{"ends": "2026-04-30"}', user_id => 'g1') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT count(*) FROM cdp.memberships WHERE segment = 'early';
SELECT * FROM cdp.verify();

-- arrays of different lengths make no array: an error of the segment, or of the trait, and of nothing else
SELECT cdp.create_trait('tags', type => 'text[]', entity => 'account'), cdp.create_trait('more', type => 'text[]', entity => 'account');
SELECT cdp.create_segment('tagged', $$'a' = ANY (ARRAY[account.tags, account.more])$$);
SELECT cdp.create_trait('t', aggregate => 'last', value => $$string_to_array(properties->>'t', ',')$$), cdp.create_trait('m', aggregate => 'last', value => $$string_to_array(properties->>'m', ',')$$);
SELECT cdp.create_trait('both', expression => $$'a' = ANY (ARRAY[t, m])$$);
SELECT cdp.group('gear', '{"tags": ["a"], "more": ["b", "c"]}', user_id => 'g1') IS NOT NULL AS logged;
SELECT cdp.track('Tag', '{"t": "a", "m": "b,c"}', user_id => 'g2') IS NOT NULL AS logged;
SELECT cdp.apply() AS applied;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT reason, detail FROM cdp.rejected;
SELECT name, errors > 0 AS errors, last_error FROM cdp.segments WHERE errors > 0;
SELECT t.name, t.entity, e.errors > 0 AS errors, e.last_error FROM cdp.trait_errors e JOIN cdp.trait_definitions t ON t.id = e.trait_id WHERE e.errors > 0;
SELECT * FROM cdp.verify();
SELECT cdp.drop_segment('tagged');

-- who is evaluated when the timer of his account is overdue has seen another answer than was told: he is told again
SELECT cdp.create_trait('visits', aggregate => 'count', event => 'Visit', within => '1 day', entity => 'account');
SELECT cdp.create_trait('pings', aggregate => 'count', event => 'Ping', within => '12 hours');
SELECT cdp.create_segment('hot', $$account.visits >= 1$$);
SELECT count(cdp.track('Ping', user_id => 'x' || i)) FROM generate_series(1, 10) i;
SELECT count(cdp.track('Visit', user_id => 'g2')) FROM generate_series(1, 2);
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT count(*) FROM cdp.memberships WHERE segment = 'hot';
SET cdp.now = '2026-05-27';
SELECT cdp.track('Other', user_id => 'g1') IS NOT NULL AS logged;
SELECT cdp.apply(1) AS applied;
SELECT count(*) FROM cdp.memberships WHERE segment = 'hot';
SELECT cdp.track('Visit', user_id => 'g2') IS NOT NULL AS logged;
SELECT cdp.apply(1) AS applied;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT count(*) FROM cdp.memberships WHERE segment = 'hot';
SELECT * FROM cdp.verify();
-- the same where a definition evaluates everybody, and no accounts
SELECT cdp.drop_segment('bought');
SELECT cdp.drop_trait('bought', entity => 'account');
SELECT cdp.track('Visit', user_id => 'g2') IS NOT NULL AS logged;
SELECT count(cdp.track('Ping', user_id => 'x' || i)) FROM generate_series(1, 10) i;
SELECT cdp.apply() IS NOT NULL AS applied;
SET cdp.now = '2026-05-29';
SELECT cdp.track('Other', user_id => 'x1') IS NOT NULL AS logged;
SELECT cdp.apply(1) AS applied;
SELECT cdp.create_trait('visited', aggregate => 'count', event => 'Visit', within => '30 days');
SELECT count(*) FROM cdp.memberships WHERE segment = 'hot';
SELECT cdp.track('Visit', user_id => 'g2') IS NOT NULL AS logged;
SELECT cdp.apply(1) AS applied;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT cdp.apply() IS NOT NULL AS applied;
SELECT count(*) FROM cdp.memberships WHERE segment = 'hot';
SELECT * FROM cdp.verify();

-- refused
SELECT cdp.create_segment('x', $$account.plam = 'pro'$$);
SELECT cdp.create_segment('x', $$account.plan = 'pro'$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(account.plan = 'pro')$$, entity => 'account');
