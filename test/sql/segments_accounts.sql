-- Accounts in predicates.
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-01-10';
SELECT cdp.create_identifier_kind('workspace', entity => 'account');
SELECT cdp.group('acme', user_id => 'early') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.create_segment('acme', $$member_of('acme')$$);
SELECT cdp.create_segment('not_acme', $$NOT member_of('group_id:acme')$$);
SELECT cdp.create_segment('ws', $$member_of('workspace:7') AND did('Login', within => '2 days')$$);
CREATE VIEW public.who AS
SELECT cdp.value(i.identifier) AS who, string_agg(m.segment, ' ' ORDER BY m.segment) AS segments
FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id GROUP BY 1;
TABLE who;
-- one trait for both that say the same
SELECT count(*) FROM cdp.trait_definitions WHERE hidden AND key IS NOT NULL;

-- joins, by whatever entry
SELECT cdp.group('acme', user_id => 'a') IS NOT NULL, cdp.track('Login', user_id => 'b', identifiers => '{workspace:7}') IS NOT NULL,
	cdp.track('Login', user_id => 'c') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
SELECT kind, segment, cause FROM cdp.changes WHERE cause <> 'definition' ORDER BY seq;
-- leaves; what comes late falls into its place
SET cdp.now = '2026-01-11';
SELECT cdp.leave_group('acme', user_id => 'a') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
SELECT cdp.group('acme', user_id => 'a', occurred_at => '2026-01-10 12:00') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
SELECT cdp.group('acme', user_id => 'a', occurred_at => '2026-01-11 00:00:01', message_id => 'again') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
-- taken back
SELECT cdp.retract('again') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
-- merged, and split again
SELECT cdp.merge('user_id:c', 'user_id:early', 'same') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
SELECT cdp.split('user_id:c', 'user_id:early', 'not the same') IS NOT NULL;
SELECT cdp.apply();
TABLE who;
SELECT * FROM cdp.verify();
-- time passes
SET cdp.now = '2026-01-12';
SELECT cdp.apply();
TABLE who;
-- as the accounts themselves say
SELECT s.name FROM (VALUES ('acme', 'group_id:acme'::cdp.identifier)) s(name, account)
WHERE ARRAY(SELECT profile_id FROM cdp.segment_members(s.name) profile_id ORDER BY 1) = ARRAY(SELECT m.profile_id FROM cdp.members_of(s.account) m ORDER BY 1);
-- on the spot
SELECT p, cdp.matches('user_id:b'::cdp.identifier, p) FROM unnest(ARRAY[
	$$member_of('workspace:7')$$, $$member_of('workspace:8')$$, $$member_of('acme')$$, $$member_of('globex')$$]) p;
SELECT cdp.group('globex', user_id => 'b') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.matches('user_id:b'::cdp.identifier, $$member_of('globex')$$), cdp.matches('user_id:c'::cdp.identifier, $$member_of('globex')$$);
SELECT term, value, needed FROM cdp.explain_segment('not_acme', 'user_id:early');
SELECT * FROM cdp.verify();
-- refused
SELECT cdp.create_segment('x', $$member_of('')$$);
-- a kind that is none, or is none of accounts
SELECT cdp.create_segment('x', $$plan = 'pro' AND member_of('workspce:7')$$);
SELECT cdp.create_segment('x', $$member_of('email:ada@acme.com')$$);
SELECT cdp.matches('user_id:b'::cdp.identifier, $$member_of('email:ada@acme.com')$$);
SELECT cdp.matches('user_id:b'::cdp.identifier, $$member_of('group_id:email:ada@acme.com')$$), cdp.matches('user_id:b'::cdp.identifier, $$member_of('urn:acme:7')$$),
	cdp.matches('user_id:b'::cdp.identifier, $$member_of(':7')$$);
SELECT cdp.create_segment('x', $$member_of('null')$$);
SELECT cdp.create_segment('x', $$member_of(plan)$$);
SELECT cdp.create_segment('x', $$memberof('acme')$$);
SELECT cdp.create_segment('x', $$consented('marketing')$$);
