-- Segments of accounts before they are made, and why an account is in one.
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-01-10';
SELECT cdp.create_trait('seats', type => 'numeric', entity => 'account');
SELECT cdp.create_trait('plan', type => 'text', entity => 'account');
SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login', entity => 'account');
SELECT cdp.create_trait('logins', aggregate => 'count', event => 'Login');
SELECT count(cdp.group(a, jsonb_build_object('seats', s, 'plan', p), user_id => 'u' || a))
FROM (VALUES ('acme', 10, 'pro'), ('globex', 3, 'free'), ('initech', NULL, 'pro'), ('hooli', 0, NULL)) v(a, s, p);
SELECT count(cdp.track('Login', user_id => u)) FROM unnest('{uacme,uacme,uglobex,extra}'::text[]) u;
SELECT cdp.group('acme', user_id => 'extra') <> '';
SELECT cdp.apply();

-- members, non-members, unknown, errors: as the segment has them afterwards
CREATE FUNCTION both_ways(p text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	r record;
	n bigint;
BEGIN
	SELECT * INTO r FROM cdp.preview_segment(p::cdp.predicate, entity => 'account');
	PERFORM cdp.create_segment('s', p::cdp.predicate, entity => 'account');
	SELECT count(*) INTO n FROM cdp.segment_members('s');
	PERFORM cdp.drop_segment('s');
	RETURN format('%s of them, %s not, %s unknown, %s errors%s', r.members, r.non_members, r.unknown, r.errors, CASE WHEN n <> r.members THEN ' BUT ' || n END);
END $$;
SELECT p, both_ways(p) FROM unnest(ARRAY['seats > 2', '10 / seats > 1', $$plan = 'pro' AND logins > 0$$, 'count_members() > 1', 'any_member(logins > 1)',
	$$any_member(did('Login', at_least => 2)) OR all_members(NOT did('Login'))$$,
	$$any_member(did_in_order('Login', then_not => 'Logout')) AND count_members(known() AND now() > '2026-01-09') > 1$$]) p;
SELECT (SELECT count(*) FROM cdp.trait_definitions WHERE hidden) + (SELECT count(*) FROM cdp.segment_definitions WHERE hidden) AS hidden_left;

-- altered: what would change
SELECT cdp.create_segment('large', 'seats >= 10', entity => 'account');
SELECT cdp.create_segment('good', $$in_segment('large') AND any_member(logins > 1)$$, entity => 'account', exclude => '{}');
SELECT * FROM cdp.preview_segment('seats >= 3', segment => 'large');
SELECT * FROM cdp.preview_segment(segment => 'good', exclude => '{large}');
SELECT * FROM cdp.preview_segment($$in_segment('large')$$, entity => 'account', holdout => 1);
SELECT entered, exited FROM cdp.alter_segment('large', 'seats >= 3');

-- why
SELECT term, value, needed FROM cdp.explain_segment('good', 'group_id:acme');
SELECT term, value, needed FROM cdp.explain_segment('good', 'group_id:globex');
SELECT term, value, needed FROM cdp.explain_segment('large', 'group_id:hooli');
SELECT * FROM cdp.explain_segment('large', 'group_id:nobody');
SELECT * FROM cdp.explain_segment('large', 'user_id:uacme');
SELECT * FROM cdp.explain_segment('larger', 'group_id:acme');
-- profiles are no accounts
SELECT cdp.create_segment('persons', 'true');
SELECT cdp.create_segment('x', 'true', exclude => '{large}');
SELECT cdp.create_segment('x', 'seats > 2', entity => 'account', exclude => '{persons}');
SELECT cdp.alter_segment('good', exclude => '{large,persons}');
SELECT cdp.preview_segment('true', exclude => '{large}');
SELECT members, non_members FROM cdp.preview_segment('true', entity => 'account', exclude => '{large}');
SELECT cdp.create_segment('x', $$seats > 2 AND in_segment('persons')$$, entity => 'account');
SELECT cdp.create_segment('x', $$in_segment('large')$$);
SELECT cdp.matches('user_id:u1'::cdp.identifier, $$in_segment('large')$$);
SELECT cdp.create_segment('x', $$any_member(in_segment('large'))$$, entity => 'account');
SELECT cdp.drop_segment('persons');
SELECT cdp.create_segment('left_open', $$seats > 2 AND any_member(did_in_order('Login', then_not => 'Logout') AND in_segment('late')) AND NOT any_member(in_segment('late'))$$, entity => 'account');
SELECT cdp.create_segment('late', $$now() > '2026-01-10'$$);
SELECT cdp.create_segment('left_open', $$seats > 2 AND any_member(did_in_order('Login', then_not => 'Logout') AND in_segment('late')) AND NOT any_member(in_segment('late'))$$, entity => 'account');
SELECT term, value, needed FROM cdp.explain_segment('left_open', 'group_id:acme');
-- mistakes
SELECT * FROM cdp.preview_segment('seats > 2', entity => 'company');
SELECT * FROM cdp.preview_segment('seats > 2');
SELECT * FROM cdp.preview_segment($$did('Login')$$, entity => 'account');
SELECT * FROM cdp.verify();
DROP FUNCTION both_ways;
DROP EXTENSION cdp CASCADE;
