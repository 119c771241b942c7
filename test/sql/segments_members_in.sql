-- Segments of accounts that ask about members by a segment of profiles: what
-- depends on time, sequences, consent, identifiers.
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;

SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('renewal', type => 'timestamptz');
SELECT cdp.create_purpose('marketing');
SELECT count(cdp.group(g, user_id => u)) AS joined
FROM (VALUES ('acme', 'ada'), ('acme', 'bob'), ('beta', 'cyd'), ('beta', 'dan')) v(g, u);
SELECT count(cdp.identify(u, jsonb_build_object('renewal', r))) AS told
FROM (VALUES ('ada', '2026-05-03'), ('bob', '2026-05-20'), ('cyd', '2026-05-04')) v(u, r);
SELECT cdp.apply() > 0 AS applied;

CREATE VIEW who AS
	SELECT m.segment, array_agg(cdp.value(a.identifier) ORDER BY cdp.value(a.identifier) COLLATE "C") AS accounts
	FROM cdp.memberships m JOIN cdp.account_identities a ON a.account_id = m.profile_id GROUP BY m.segment ORDER BY m.segment;

SELECT cdp.create_segment('due', $$renewal < now() + interval '2 days'$$);
SELECT cdp.create_segment('stuck', $$did_in_order('Cart', then_not => 'Order', within => '1 hour', newer_than => '3 days')$$);
SELECT cdp.create_segment('mailable', $$consented('marketing') AND has_identifier('email')$$);
SELECT cdp.create_segment('moved', $$changed(plan, within => '1 day') OR in_segment('due')$$);
SELECT cdp.create_segment('some_due', $$any_member(in_segment('due'))$$, entity => 'account');
SELECT cdp.create_segment('all_due', $$all_members(in_segment('due'))$$, entity => 'account');
SELECT cdp.create_segment('some_not_due', $$count_members() > count_members(in_segment('due'))$$, entity => 'account');
SELECT cdp.create_segment('cart_left', $$any_member(cdp.in_segment(segment => 'stuck'))$$, entity => 'account');
SELECT cdp.create_segment('reachable', $$any_member(in_segment('mailable')) OR count_members(in_segment('moved')) > 1$$, entity => 'account');
TABLE who;
SELECT * FROM cdp.verify();

-- nobody does anything: only time passes
SET cdp.now = '2026-05-02 12:00';
SELECT cdp.apply();
TABLE who;
SELECT * FROM cdp.verify();
SET cdp.now = '2026-05-18 12:00';
SELECT cdp.apply();
TABLE who;
SELECT kind, segment, cause, occurred_at FROM cdp.changes WHERE entity = 'account' AND kind <> 'segment_defined' ORDER BY seq;

-- a sequence that is not finished, and then it is long ago
SELECT cdp.track('Cart', user_id => 'dan') IS NOT NULL AS logged;
SELECT cdp.apply();
SELECT * FROM who WHERE segment = 'cart_left';
SET cdp.now = '2026-05-18 13:30';
SELECT cdp.apply();
SELECT * FROM who WHERE segment = 'cart_left';
SELECT * FROM cdp.verify();
SET cdp.now = '2026-05-22';
SELECT cdp.apply();
SELECT * FROM who WHERE segment = 'cart_left';
SELECT * FROM cdp.verify();

-- consent that is given for a while, a late entry, a change of plan
SELECT cdp.consent('cyd', 'marketing', 'granted', expires => '2026-05-25') IS NOT NULL AS logged;
SELECT cdp.identify('cyd', '{"email": "cyd@example.com"}', identifiers => '{email:cyd@example.com}') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM who WHERE segment = 'reachable';
SET cdp.now = '2026-05-25 00:00:01';
SELECT cdp.apply();
SELECT * FROM who WHERE segment = 'reachable';
SELECT cdp.identify('ada', '{"plan": "pro"}', occurred_at => '2026-05-24 12:00') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM cdp.verify();

-- members come and leave, one becomes another, one is erased
SELECT cdp.identify('eve', '{"renewal": "2026-07-01"}') IS NOT NULL AS logged;
SELECT cdp.group('beta', user_id => 'eve') IS NOT NULL AS logged;
SELECT cdp.leave_group('acme', user_id => 'bob') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
TABLE who;
SELECT cdp.merge('user_id:eve', 'user_id:ada', 'same') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
TABLE who;
SELECT * FROM cdp.verify();
SELECT cdp.erase('user_id:cyd') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
TABLE who;
SELECT * FROM cdp.verify();

-- the segment of profiles is another one
SELECT (cdp.alter_segment('due', $$renewal > now() - interval '2 days'$$)).members;
TABLE who;
SELECT * FROM cdp.verify();
SELECT cdp.rename_segment('due', 'renewing');
SELECT name, predicate FROM cdp.segments WHERE name = 'some_due';
SELECT (cdp.alter_segment('renewing', enabled => false)).members;
SET cdp.now = '2026-07-10';
SELECT cdp.apply();
SELECT * FROM who WHERE segment LIKE '%due';
SELECT (cdp.alter_segment('renewing', enabled => true)).members;
SELECT * FROM who WHERE segment LIKE '%due';
SELECT * FROM cdp.verify();
SELECT cdp.drop_segment('renewing');
SELECT count(*) AS hidden FROM cdp.trait_definitions WHERE hidden AND entity = 'account';
SELECT cdp.drop_segment('renewing', cascade => true);
SELECT name FROM cdp.segments ORDER BY 1;
SELECT cdp.drop_segment('cart_left');
SELECT count(*) AS hidden FROM cdp.trait_definitions WHERE hidden AND entity = 'account';

-- refused: what the traits of accounts decide, here or there
SELECT cdp.create_trait('seats', type => 'int', entity => 'account');
SELECT cdp.create_segment('large', $$account.seats > 10$$);
SELECT cdp.create_segment('around', $$in_segment('large') OR did('Login')$$);
SELECT cdp.create_segment('x', $$any_member(in_segment('around'))$$, entity => 'account');
SELECT cdp.create_segment('active', $$did('Login')$$);
SELECT cdp.create_segment('some_active', $$any_member(in_segment('active'))$$, entity => 'account');
SELECT cdp.alter_segment('active', $$did('Login') AND account.seats > 1$$);
SELECT cdp.create_segment('x', $$any_member(in_segment('some_active'))$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(in_segment('actve'))$$, entity => 'account');
SELECT cdp.create_segment('x', $$any_member(account.seats > 1)$$, entity => 'account');
SELECT cdp.create_trait('x', aggregate => 'count', entity => 'account', options => '{"over": "members", "segment": 1}');

-- what accounts have no traits for, and what is for profiles only
SELECT cdp.create_segment('x', $$plan = 'pro'$$, entity => 'account');
SELECT cdp.create_segment('x', $$seat > 1$$, entity => 'account');
SELECT * FROM cdp.preview_segment(segment => 'some_active');
SELECT * FROM cdp.explain_segment('some_active', 'group_id:acme');
SELECT * FROM cdp.explain_segment('none_such', 'user_id:ada');

-- a segment of somebody else's is not dropped with one's own
SET client_min_messages = error;
CREATE ROLE regress_members_author;
CREATE ROLE regress_members_other;
SELECT cdp.grant_operator('regress_members_author'), cdp.grant_operator('regress_members_other');
SET ROLE regress_members_author;
SELECT cdp.create_segment('mine', $$did('Login')$$);
SET ROLE regress_members_other;
SELECT cdp.create_segment('others', $$any_member(in_segment('mine'))$$, entity => 'account');
SET ROLE regress_members_author;
SELECT cdp.drop_segment('mine', cascade => true);
RESET ROLE;
SELECT cdp.drop_segment('mine', cascade => true);
DROP OWNED BY regress_members_author, regress_members_other;
DROP ROLE regress_members_author, regress_members_other;
