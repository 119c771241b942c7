-- A schema full of functions and operators that look like PostgreSQL's own, first
-- in the search_path: none of them is called, at install, by any call, by what
-- the applier does, or by the views that are made.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA evil;
CREATE SEQUENCE public.hits;
CREATE TEMP TABLE plain AS SELECT unnest('{text,jsonb,int4,int8,float8,numeric,bool,timestamptz,timestamp,date,interval,name,oid,regclass,bytea,
	text[],int8[],int4[],timestamptz[],bool[],jsonb[],anyelement,anyarray,anynonarray}'::regtype[]) AS t;
DO $$
DECLARE
	f record;
BEGIN
	FOR f IN
		SELECT p.proname, p.proargtypes::oid[]::regtype[] AS types, p.prorettype::regtype AS result, p.proretset
		FROM pg_proc p
		WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0 AND NOT p.proretset
			AND p.proargtypes::oid[]::regtype[] <@ ARRAY(SELECT t FROM plain)
			AND p.prorettype::regtype IN (SELECT t FROM plain)
			AND p.proname !~ '^(pg_|binary_upgrade|RI_|brin|gin|gist|hash|spg|bt|shift_|lo_|txid|has_|ts_|range|multirange|inet|mac)'
	LOOP
		EXECUTE format('CREATE FUNCTION evil.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L', f.proname, array_to_string(f.types, ', '), f.result,
			'BEGIN PERFORM pg_catalog.nextval(''public.hits''); RETURN NULL; END');
	END LOOP;
	FOR f IN
		SELECT o.oprname, o.oprleft::regtype AS l, o.oprright::regtype AS r, o.oprresult::regtype AS result, row_number() OVER () AS n
		FROM pg_operator o
		WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND o.oprkind = 'b' AND o.oprresult <> 0
			AND o.oprleft::regtype IN (SELECT t FROM plain WHERE t::text !~ 'any') AND o.oprright::regtype IN (SELECT t FROM plain WHERE t::text !~ 'any')
	LOOP
		EXECUTE format('CREATE FUNCTION evil.operator_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS %L', f.n, f.l, f.r, f.result,
			'BEGIN PERFORM pg_catalog.nextval(''public.hits''); RETURN NULL; END');
		EXECUTE format('CREATE OPERATOR evil.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = evil.operator_%s)', f.oprname, f.l, f.r, f.n);
	END LOOP;
END $$;
-- they would be called
SET search_path = evil, pg_catalog, public;
SELECT lower('X'::text) IS NULL AS shadowed, ('a'::text || 'b'::text) IS NULL AS shadowed;
SELECT pg_catalog.nextval('public.hits') OPERATOR(pg_catalog.>) 2 AS counted;
RESET search_path;
SELECT count(*) > 800 AS functions FROM pg_proc WHERE pronamespace = 'evil'::regnamespace;
SELECT count(*) > 200 AS operators FROM pg_operator WHERE oprnamespace = 'evil'::regnamespace;
ALTER SEQUENCE public.hits RESTART;

SET search_path = evil, pg_catalog, public;
CREATE EXTENSION cdp;
SELECT is_called AS hit FROM public.hits;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';

-- operators on the extension's own types
CREATE FUNCTION evil.same(cdp.identifier, cdp.identifier) RETURNS bool LANGUAGE plpgsql AS 'BEGIN PERFORM pg_catalog.nextval(''public.hits''); RETURN NULL; END';
CREATE OPERATOR evil.= (LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier, FUNCTION = evil.same);
CREATE OPERATOR evil.<> (LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier, FUNCTION = evil.same);
CREATE OPERATOR evil.~= (LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier, FUNCTION = evil.same);
CREATE TABLE public.orders (id int PRIMARY KEY, email text, total numeric, at timestamptz);

CREATE TABLE public.work (n serial, statement text);
COPY public.work (statement) FROM stdin;
SELECT cdp.create_identifier_kind('crm_id', priority => 15, max_per_profile => 1, blocked => '{^x+$}')
SELECT cdp.alter_identifier_kind('cookie', priority => 35)
SELECT cdp.identity_preset('segment', true)
SELECT cdp.create_trait('plan', type => 'text')
SELECT cdp.create_trait('spent', aggregate => 'sum', value => $$(properties->>'total')::numeric$$, event => 'Bought', filter => $$properties->>'total' <> ''$$, within => '30 days')
SELECT cdp.create_trait('double', expression => 'spent * 2')
SELECT cdp.create_trait('seats', type => 'int', entity => 'account')
SELECT cdp.create_segment('pros', $$plan = 'pro' AND did('Bought', filter => lower(properties->>'x') IS NULL)$$)
SELECT cdp.create_segment('rich', 'spent > 10', exit_when => 'spent < 5', exclude => '{pros}', holdout => 0.1)
SELECT cdp.alter_segment('rich', 'spent > 20')
SELECT cdp.subscribe('feed', include => '{"traits": true, "identifiers": true}')
SELECT cdp.subscribe('old', start => 'snapshot', format => 'segment_track')
SELECT cdp.attach('public.orders', '{"event": "''Bought''", "identifiers": {"email": "email"}, "time": "at", "key": "id"}')
INSERT INTO public.orders SELECT 1, 'ada@example.com', 12, '2026-05-01'
SELECT cdp.identify(1, '{"plan": "pro"}', identifiers => '{email:ada@example.com}')
SELECT cdp.track('Bought', '{"total": "12"}', user_id => 1)
SELECT cdp.page('Home', user_id => 1), cdp.screen('Home', user_id => 1), cdp.alias('a9', 1)
SELECT cdp.group('acme', '{"seats": 3}', user_id => 1)
SELECT cdp.ingest('[{"type": "track", "event": "Bought", "userId": "2", "properties": {"total": "30"}, "timestamp": "2026-05-03T00:00:00Z"}]')
SELECT cdp.ingest_text('{"type": "track", "event": "Seen", "anonymousId": "1"}')
SELECT cdp.merge('user_id:1', 'cookie:c'), cdp.split('user_id:1', 'user_id:2'), cdp.detach('cookie:c')
SELECT cdp.apply()
SELECT cdp.profile('user_id:1'), cdp.profile('user_id:1', fresh => true), cdp.profile_at('user_id:1', '2026-05-04')
SELECT cdp.resolve('user_id:1'), cdp.resolve_at('user_id:1', '2026-05-04'), cdp.current_profile(1)
SELECT cdp.identifiers(1), cdp.identifiers_at('user_id:1', '2026-05-04')
SELECT cdp.component('user_id:1'), cdp.explain_link('user_id:1', 'email:ada@example.com'), cdp.refused_links('user_id:1')
SELECT cdp.bridges('user_id:1'), cdp.articulation_points('user_id:1'), cdp.graph_dot('user_id:1'), cdp.merges(1)
SELECT cdp.in_segment('user_id:1', 'pros'), cdp.segment_members('pros'), cdp.explain_segment('pros', 'user_id:1')
SELECT cdp.segment_overlap('{pros,rich}'), cdp.segment_stats('pros'), cdp.preview_segment('spent > 1'), cdp.matches(1, 'spent > 1')
SELECT cdp.timeline('user_id:1'), cdp.audience('rich', '{email}', 'sha256')
SELECT cdp.account('group_id:acme'), cdp.accounts_of('user_id:1'), cdp.members_of('group_id:acme')
SELECT profiles.* FROM cdp.profiles
SELECT profile_traits.* FROM cdp.profile_traits
SELECT account_traits.* FROM cdp.account_traits
SELECT accounts.* FROM cdp.accounts
SELECT account_members.* FROM cdp.account_members
SELECT memberships.* FROM cdp.memberships
SELECT segments.* FROM cdp.segments
SELECT traits.* FROM cdp.traits
SELECT sources.* FROM cdp.sources
SELECT event_catalog.* FROM cdp.event_catalog
SELECT progress.* FROM cdp.progress
SELECT stat_traits.* FROM cdp.stat_traits
SELECT stat_segments.* FROM cdp.stat_segments
SELECT stat_apply.* FROM cdp.stat_apply
SELECT subscription_lag.* FROM cdp.subscription_lag
SELECT attachments.* FROM cdp.attachments
SELECT cdp.poll('feed', 10), cdp.poll('old', 10)
SELECT cdp.nack('feed', 1), cdp.ack('feed', 0), cdp.rewind('feed', '0')
SELECT cdp.preview_identity()
SELECT cdp.export_config()
SELECT cdp.apply_config(cdp.export_config(), dry_run => true)
SELECT cdp.check(), cdp.status()
SELECT cdp.verify()
SELECT cdp.sync_attachments()
SELECT cdp.make_partitions(), cdp.trim_changes('1 day')
SELECT cdp.graph_check()
SELECT cdp.set_sensitivity('trait', 'spent')
SELECT cdp.audit_seal(), cdp.audit_verify()
SELECT cdp.undo(cdp.merge('user_id:1', 'cookie:d'))
SELECT cdp.apply()
SELECT cdp.verify()
SELECT cdp.drop_segment('rich'), cdp.drop_trait('double'), cdp.unsubscribe('old'), cdp.drop_attachment('orders')
\.
-- each in a transaction of its own; what they answer is not the point here
\o /dev/null
SELECT statement FROM public.work ORDER BY n \gexec
\o
SELECT is_called AS hit FROM public.hits;
RESET search_path;
SELECT cdp.profile('user_id:1') #> '{traits,spent}' AS spent, cdp.profile('email:ada@example.com') #> '{identifiers,user_id}' AS person;
