-- Sensitive values come out for nobody who may not see them, wherever they could.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION pgtap;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE ROLE regress_sensitive_reader;
CREATE ROLE regress_sensitive_officer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC;
SELECT cdp.grant_reader('regress_sensitive_reader'), cdp.grant_operator('regress_sensitive_reader'), cdp.grant_consumer('regress_sensitive_reader'),
	cdp.grant_reader('regress_sensitive_officer'), cdp.grant_operator('regress_sensitive_officer'), cdp.grant_consumer('regress_sensitive_officer'),
	cdp.grant_privacy_officer('regress_sensitive_officer');

SELECT cdp.create_trait('income', type => 'numeric', options => '{"announce": true}');
SELECT cdp.create_trait('band', expression => 'income / 2', options => '{"announce": true}');
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('wage', aggregate => 'last', value => $$properties->>'income'$$);
SELECT cdp.create_trait('budget', type => 'numeric', entity => 'account');
SELECT cdp.create_segment('rich', 'income > 1000');
SELECT cdp.create_segment('pros', $$plan = 'pro'$$);
SELECT cdp.subscribe('feed', start => 'now', include => '{"identifiers": true, "traits": true}');
SELECT cdp.subscribe('calls', start => 'now', format => 'segment_track');
SELECT cdp.subscribe('bare', start => 'now'), cdp.subscribe('shared', start => 'now', visibility => '1 minute');
SELECT cdp.identify(1, '{"income": 90001, "Passport": "X4711", "plan": "pro", "email": "ada@secret.example"}', anonymous_id => 'a1') IS NOT NULL,
	cdp.track('Bought', '{"items": [{"passport": "X4711"}], "income": 90001, "n": 1}', user_id => 1,
		context => '{"traits": {"email": "ada@secret.example"}}', identifiers => '{email:ada@secret.example}') IS NOT NULL,
	cdp.group('acme', '{"budget": 777001}', user_id => 1) IS NOT NULL,
	cdp.identify(2, '{"income": "much-90001"}', identifiers => '{email:ada@secret.example}', occurred_at => '2026-05-04 09:01+00') IS NOT NULL;
SELECT cdp.merge('email:ada@secret.example', 'cookie:c') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.grant_reader('regress_sensitive_reader'), cdp.grant_reader('regress_sensitive_officer');

CREATE TABLE public.reads (n serial, statement text);
COPY public.reads (statement) FROM stdin;
SELECT cdp.profile('user_id:1')
SELECT cdp.profile('user_id:1', fresh => true)
SELECT cdp.profile_at('user_id:1', now())
SELECT * FROM cdp.identifiers(cdp.resolve('user_id:1'))
SELECT * FROM cdp.identifiers_at('user_id:1', now())
SELECT * FROM cdp.component('user_id:1')
SELECT * FROM cdp.explain_link('anonymous_id:a1', 'email:ada@secret.example')
SELECT * FROM cdp.refused_links('user_id:1')
SELECT * FROM cdp.bridges('user_id:1')
SELECT * FROM cdp.articulation_points('user_id:1')
SELECT cdp.graph_dot('user_id:1')
SELECT * FROM cdp.explain_segment('rich', 'user_id:1')
SELECT * FROM cdp.timeline('user_id:1')
SELECT * FROM cdp.audience('pros', '{email}', 'none')
SELECT * FROM cdp.audience('pros', '{email}')
SELECT cdp.account('group_id:acme')
SELECT * FROM cdp.accounts
SELECT * FROM cdp.account_traits
SELECT * FROM cdp.profiles
SELECT * FROM cdp.profile_traits
SELECT * FROM cdp.stat_traits
SELECT * FROM cdp.stat_segments
SELECT * FROM cdp.segments
SELECT * FROM cdp.poll('feed', 100)
SELECT * FROM cdp.poll('calls', 100)
SELECT * FROM cdp.poll('bare', 100)
SELECT * FROM cdp.poll('shared', 100)
SELECT * FROM cdp.matches(cdp.resolve('user_id:1'), 'income > 90000')
SELECT * FROM cdp.preview_segment('band > 40000')
SELECT * FROM cdp.create_segment('x', 'income > 90000')
SELECT * FROM cdp.alter_segment('pros', 'income > 90000')
SELECT * FROM cdp.create_trait('x', expression => 'income + 1')
SELECT * FROM cdp.create_trait('x', type => 'text', expression => '"Passport"')
SELECT * FROM cdp.check()
SELECT * FROM cdp.audit
SELECT * FROM cdp.event_catalog
SELECT * FROM cdp.sources
SELECT * FROM cdp.progress
SELECT * FROM cdp.dead_letters
SELECT * FROM pg_stats WHERE schemaname = 'cdp'
\.
ANALYZE;
-- What of the secrets comes out of each read: e-mail, income, passport, band, budget.
CREATE FUNCTION public.seen(role text) RETURNS TABLE (n int, statement text, seen text) LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	at int := 0;
BEGIN
	FOR n, statement IN SELECT r.n, r.statement FROM public.reads r ORDER BY r.n LOOP
		BEGIN
			EXECUTE format('SET LOCAL ROLE %I', role);
			EXECUTE format('SELECT string_agg(x::text, '' '') FROM (%s) x', statement) INTO answer;
			RAISE EXCEPTION USING ERRCODE = 'CDPOK';
		EXCEPTION WHEN OTHERS THEN
			IF SQLSTATE <> 'CDPOK' THEN
				answer := SQLSTATE || ' ' || SQLERRM;
			END IF;
		END;
		RESET ROLE;
		seen := concat_ws(' ', CASE WHEN answer ~ '42501 .* is sensitive' THEN 'refused' WHEN answer ~ '^[0-9A-Z]{5} ' THEN answer END,
			CASE WHEN answer ~ 'ada@secret' OR answer ~ encode(sha256('ada@secret.example'), 'hex') THEN 'email' END, CASE WHEN answer ~ '90001' THEN 'income' END,
			CASE WHEN answer ~ 'X4711' THEN 'passport' END, CASE WHEN answer ~ '45000\.5' THEN 'band' END, CASE WHEN answer ~ '777001' THEN 'budget' END);
		RETURN NEXT;
	END LOOP;
END;
$$;

-- nothing is sensitive
SELECT n, statement, seen FROM seen('regress_sensitive_reader') WHERE seen <> '';

SELECT cdp.set_sensitivity('kind', 'email'), cdp.set_sensitivity('trait', 'income'), cdp.set_sensitivity('trait', 'PASSPORT'), cdp.set_sensitivity('trait', 'wage'),
	cdp.set_sensitivity('account_trait', 'budget');
-- nobody sees anything but who may
SELECT n, statement, seen FROM seen('regress_sensitive_reader') WHERE seen <> '';
SELECT n, statement, seen FROM seen('regress_sensitive_officer') WHERE seen <> '';

-- what they look like
SET ROLE regress_sensitive_reader;
SELECT jsonb_pretty(cdp.profile('user_id:1'));
SELECT * FROM cdp.profile_traits;
SELECT type, event, properties, context, identifiers FROM cdp.timeline('user_id:1') ORDER BY id;
-- not through a function of one's own, and not through a view
RESET ROLE;
CREATE FUNCTION public.mine() RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS $$ SELECT cdp.profile('user_id:1') $$;
CREATE VIEW public.ours AS SELECT traits FROM cdp.profiles;
GRANT SELECT ON public.ours TO regress_sensitive_reader;
SET ROLE regress_sensitive_reader;
SELECT public.mine() #>> '{traits,income}' AS income, (SELECT max(traits ->> 'income') FROM public.ours WHERE traits ? 'plan') AS income;
RESET ROLE;
SELECT public.mine() #>> '{traits,income}' AS income, (SELECT max(traits ->> 'income') FROM public.ours WHERE traits ? 'plan') AS income;

-- given for this alone, taken, and normal again
GRANT EXECUTE ON FUNCTION cdp.see_sensitive() TO regress_sensitive_reader;
SET ROLE regress_sensitive_reader;
SELECT cdp.profile('user_id:1') #>> '{traits,income}' AS income;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION cdp.see_sensitive() FROM regress_sensitive_reader;
SELECT cdp.rename_trait('wage', 'earnings');
SET ROLE regress_sensitive_reader;
SELECT earnings, income, band FROM cdp.profile_traits ORDER BY profile_id;
RESET ROLE;
SELECT cdp.set_sensitivity('trait', 'income', 'normal'), cdp.set_sensitivity('trait', 'earnings', 'normal');
SET ROLE regress_sensitive_reader;
SELECT earnings, income, band FROM cdp.profile_traits ORDER BY profile_id;
RESET ROLE;
SELECT action, object, detail FROM cdp.audit WHERE action ~ 'sensitivity' ORDER BY at;

-- errors
SELECT cdp.set_sensitivity('kind', 'nose');
SELECT cdp.set_sensitivity('kind', 'group_id');
SELECT cdp.set_sensitivity('table', 'email');
SELECT cdp.set_sensitivity('kind', 'email', 'very');
SELECT cdp.set_sensitivity('kind', NULL);
SELECT cdp.set_sensitivity('trait', repeat('x', 251));
SET ROLE regress_sensitive_reader;
SELECT cdp.set_sensitivity('kind', 'email', 'normal');
RESET ROLE;
DROP OWNED BY regress_sensitive_reader, regress_sensitive_officer;
DROP ROLE regress_sensitive_reader, regress_sensitive_officer;
