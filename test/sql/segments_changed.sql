-- changed(): by event time, whatever the order in which calls come, and when
-- nothing but time passes.
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-01-10';
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('seats', type => 'numeric');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order');
SELECT cdp.create_segment('lately', $$changed(plan, within => '3 days')$$);
SELECT cdp.create_segment('upgraded', $$changed(plan, was => 'free', became => 'pro')$$);
SELECT cdp.create_segment('got_one', $$changed(plan, was => NULL)$$);
SELECT cdp.create_segment('lost_it', $$changed(plan, became => NULL)$$);
SELECT cdp.create_segment('restless', $$changed(plan, at_least => 2)$$);
SELECT cdp.create_segment('settled', $$changed(plan, older_than => '3 days') AND NOT changed(plan, within => '3 days')$$);
SELECT cdp.create_segment('grew_to_ten', $$changed(seats, became => 10)$$);
CREATE FUNCTION public.show(at timestamptz, who text, traits jsonb DEFAULT NULL, occurred_at timestamptz DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('cdp.now', at::text, false);
	IF traits IS NOT NULL THEN
		PERFORM cdp.identify(who, traits, occurred_at => COALESCE(show.occurred_at, at));
	END IF;
	RETURN NULL;
END $$;
CREATE VIEW public.who AS
SELECT cdp.value(i.identifier) AS who, string_agg(m.segment, ' ' ORDER BY m.segment) AS segments
FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id GROUP BY 1;

-- the first value is no change; one that differs is
SELECT show('2026-01-10', 'a', '{"plan": "free", "seats": 5}');
SELECT cdp.apply();
TABLE who;
SELECT show('2026-01-12', 'a', '{"plan": "free", "seats": 5.0}');
SELECT cdp.apply();
TABLE who;
SELECT show('2026-01-13', 'a', '{"plan": "pro", "seats": "10"}');
SELECT cdp.apply();
TABLE who;
-- a number may be written in many ways, but not as a string
SELECT show('2026-01-13 00:01', 'a', '{"seats": 10.00}');
SELECT cdp.apply();
TABLE who;
-- time alone
SELECT * FROM cdp.timers;
SELECT cdp.in_segment('user_id:a', 'lately') FROM show('2026-01-15 23:59:59.999999', 'a');
SELECT cdp.in_segment('user_id:a', 'lately') FROM show('2026-01-16', 'a');
SELECT cdp.apply();
TABLE who;
-- a call that comes late falls into its place: free, free, team, pro
SELECT show('2026-01-16', 'a', '{"plan": "team"}', '2026-01-12 12:00');
SELECT cdp.apply();
TABLE who;
-- removed
SELECT show('2026-01-20', 'a', '{"plan": null}');
SELECT cdp.apply();
TABLE who;
-- the history is the person's, over all identifiers
SELECT show('2026-01-20', 'b', '{"plan": "free"}', '2026-01-18');
SELECT cdp.apply();
TABLE who;
SELECT cdp.merge('user_id:b', 'anonymous_id:x', 'same') IS NOT NULL;
SELECT cdp.track('Order', anonymous_id => 'x') IS NOT NULL;
SELECT cdp.identify(NULL, '{"plan": "pro"}', anonymous_id => 'x', occurred_at => '2026-01-19') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
SELECT cdp.split('user_id:b', 'anonymous_id:x', 'not the same') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
SELECT * FROM cdp.verify();
-- on the spot, of what no segment asks
SELECT p, cdp.matches('user_id:a'::cdp.identifier, p) FROM unnest(ARRAY[
	$$changed(seats, at_least => 2)$$, $$changed(seats, at_least => 3)$$, $$changed(seats, was => 5, became => '10')$$,
	$$changed(seats, was => '5.0')$$, $$changed("plan", was => 'team', newer_than => '9 days', older_than => '6 days')$$]) p;
SELECT term, value FROM cdp.explain_segment('settled', 'user_id:a');
-- a call made later, with a name in another case
SELECT cdp.create_trait('createdat', type => 'timestamptz');
SELECT cdp.create_segment('recreated', $$changed(CreatedAt)$$);
SELECT show('2026-01-21', 'c', '{"createdAt": "2026-01-01"}'), show('2026-01-22', 'c', '{"createdAt": "2026-01-02"}');
SELECT cdp.apply();
SELECT cdp.in_segment('user_id:c', 'recreated');
-- more than a list has room for: what was before is forgotten
SELECT count(cdp.identify('d', jsonb_build_object('plan', CASE WHEN n < 3 THEN 'free' ELSE 'pro' END), occurred_at => '2026-01-01'::timestamptz + n * interval '1 minute'))
FROM generate_series(1, 1001) n;
SELECT cdp.apply();
SELECT cdp.in_segment('user_id:d', 'upgraded') AS knows_it;
SELECT cdp.identify('d', '{"plan": "pro"}') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.in_segment('user_id:d', 'upgraded') AS knows_it;
-- long values and nested ones
SELECT cdp.create_trait('bio', type => 'jsonb');
SELECT cdp.create_segment('rewritten', $$changed(bio)$$);
SELECT cdp.identify('e', jsonb_build_object('bio', repeat('x', 20000))) IS NOT NULL, cdp.identify('f', '{"bio": {"a": [1]}}') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.identify('e', jsonb_build_object('bio', repeat('x', 20000))) IS NOT NULL, cdp.identify('f', '{"bio": {"a": [1.0]}}') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.in_segment('user_id:e', 'rewritten'), cdp.in_segment('user_id:f', 'rewritten');
SELECT cdp.identify('e', jsonb_build_object('bio', repeat('x', 20001))) IS NOT NULL, cdp.identify('f', '{"bio": {"a": [2]}}') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.in_segment('user_id:e', 'rewritten'), cdp.in_segment('user_id:f', 'rewritten');
SELECT * FROM cdp.verify();
-- a call named like an event is none
SELECT cdp.track('identify', '{"plan": "team"}', user_id => 'g') IS NOT NULL, cdp.track('identify', '{"plan": "pro"}', user_id => 'g') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.in_segment('user_id:g', 'lately'), cdp.matches('user_id:a'::cdp.identifier, $$did('identify')$$);

-- refused
SET client_min_messages = warning;
SELECT cdp.create_segment('x', $$changed(orders)$$);
SELECT cdp.create_segment('x', $$changed('plan')$$);
SELECT cdp.create_segment('x', $$changed(plan, was => upper('x'))$$);
SELECT cdp.create_segment('x', $$changed(plann)$$);
SELECT cdp.create_segment('x', $$changed(plan, within => '3 days', newer_than => '4 days')$$);
SELECT cdp.create_segment('x', $$changed()$$);
SELECT cdp.rename_trait('plan', 'tariff');
SET client_min_messages = error;
SELECT cdp.alter_trait('seats', aggregate => 'count', event => 'Seat');
SELECT $$changed( Plan,within:=interval '3 days',was:='free' )$$::cdp.predicate;
