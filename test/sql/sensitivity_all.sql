-- Every function and view that a set of rights has, asked in many ways by who may
-- not see sensitive values, or sees some people only: nothing of these comes out,
-- in no result, error, detail, hint or context.  What is new is asked, too.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE ROLE regress_all_masked;
CREATE ROLE regress_all_officer;
CREATE ROLE regress_all_some;
SELECT cdp.create_trait('income', type => 'numeric', options => '{"announce": true}'), cdp.create_trait('band', expression => 'income / 2', options => '{"announce": true}'),
	cdp.create_trait('plan', type => 'text'), cdp.create_trait('wage', aggregate => 'last', value => $$properties->>'income'$$),
	cdp.create_trait('budget', type => 'numeric', entity => 'account');
SELECT cdp.create_segment('rich', 'income > 1000'), cdp.create_segment('pros', $$plan = 'pro'$$), cdp.create_purpose('mails');
SELECT cdp.subscribe('feed', start => 'now', include => '{"identifiers": true, "traits": true}'), cdp.subscribe('calls', start => 'now', format => 'segment_track'),
	cdp.subscribe('shared', start => 'now', visibility => '1 minute');
SELECT cdp.identify(1, '{"income": 90001, "Passport": "X4711", "plan": "pro", "email": "ada@secret.example"}', anonymous_id => 'a1') IS NOT NULL,
	cdp.track('Bought', '{"items": [{"passport": "X4711"}], "income": 90001, "n": 1}', user_id => 1,
		context => '{"traits": {"email": "ada@secret.example"}}', identifiers => '{email:ada@secret.example}') IS NOT NULL,
	cdp.group('acme', '{"budget": 777001}', user_id => 1) IS NOT NULL, cdp.group('acme', user_id => 3) IS NOT NULL,
	cdp.identify(2, '{"income": "much-90001"}', identifiers => '{email:ada@secret.example}', occurred_at => '2026-05-04 09:01+00') IS NOT NULL,
	cdp.identify(3, '{"plan": "unseen-3", "email": "unseen@x.example"}', anonymous_id => 'unseen-4') IS NOT NULL,
	cdp.track('Looked', '{"at": "unseen-5"}', user_id => 3) IS NOT NULL,
	cdp.consent(purpose => 'mails', identifiers => '{email:ada@secret.example}') IS NOT NULL, cdp.consent(purpose => 'mails', anonymous_id => 'unseen-4') IS NOT NULL;
INSERT INTO cdp.events (type, identifiers, properties, message_id) VALUES ('nonsense', '{email:ada@secret.example}', '{"income": 90001}', 'm1');
SELECT cdp.merge('email:ada@secret.example', 'cookie:c') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.grant_reader(r), cdp.grant_operator(r), cdp.grant_consumer(r) FROM unnest('{regress_all_masked,regress_all_officer}'::regrole[]) r;
SELECT cdp.grant_privacy_officer('regress_all_officer'), cdp.grant_reader('regress_all_some'), cdp.restrict_reader('regress_all_some', 'pros');
CREATE TABLE public.things (id text PRIMARY KEY, income int);

CREATE FUNCTION public.probe(role text, secrets text, sets text[]) RETURNS TABLE (calls int, taken boolean, let_out text[]) LANGUAGE plpgsql AS $$
DECLARE
	people constant text[] := '{user_id:1,user_id:2,user_id:3,anonymous_id:a1,cookie:c,group_id:acme}';
	words constant text[] := '{income,rich,pros,feed,calls,email,acme,#1,#2,profile,user_id,things,Bought,income > 0}';
	f record;
	who text;
	word text;
	call text;
	state text;
	said text;
	detail text;
	hint text;
	context text;
	has_who boolean;
	has_word boolean;
	done int := 0;
BEGIN
	calls := 0;
	let_out := '{}';
	FOR f IN
		SELECT p.oid, p.proname, p.proargnames[1:p.pronargs] AS names, p.proargtypes::regtype[]::text[] AS types, p.pronargs - p.pronargdefaults AS needed
		FROM pg_proc p
		WHERE p.pronamespace = 'cdp'::regnamespace AND p.prokind = 'f'
			AND EXISTS (SELECT FROM cdp.access_sets s WHERE s.kind = 'function' AND s.name = p.proname AND s.grant_set = ANY (sets))
			-- these would end the test, or wait
			AND p.proname NOT IN ('start_worker', 'stop_worker', 'pause', 'load_sample', 'wait_backfill')
			AND (p.pronargs = 0 OR p.proargnames IS NOT NULL) AND 2281 <> ALL (p.proargtypes::oid[])
		UNION ALL SELECT 0, s.name, '{}', '{}', 0 FROM cdp.access_sets s WHERE s.kind = 'relation' AND s.grant_set = ANY (sets)
		ORDER BY 2, 1
	LOOP
		has_who := f.types && '{cdp.identifier,cdp.identifier[],bigint}';
		has_word := f.types && '{text,text[],cdp.predicate}';
		FOREACH word IN ARRAY CASE WHEN has_word THEN words ELSE words[1:1] END LOOP
			FOREACH who IN ARRAY CASE WHEN has_who THEN people ELSE people[1:1] END LOOP
				-- at least what has to be given, and all that says about whom
				SELECT format(CASE WHEN f.oid = 0 THEN 'SELECT * FROM cdp.%I' ELSE 'SELECT * FROM cdp.%I(%s)' END, f.proname, string_agg(
					format('%I => %L::%s', f.names[a.i], CASE a.type WHEN 'text' THEN word WHEN 'text[]' THEN ARRAY[word]::text WHEN 'cdp.key' THEN '1'
						WHEN 'cdp.identifier' THEN who WHEN 'cdp.identifier[]' THEN ARRAY[who]::text WHEN 'jsonb' THEN '{}' WHEN 'bigint' THEN array_position(people, who)::text
						WHEN 'integer' THEN '100' WHEN 'bigint[]' THEN '{1,2,3,4,5,6,7,8}' WHEN 'timestamp with time zone' THEN '2026-05-05' WHEN 'interval' THEN '1 day' WHEN 'boolean' THEN 'true'
						WHEN 'cdp.predicate' THEN CASE WHEN word ~ ' ' THEN 'plan = ''pro''' ELSE 'true' END WHEN 'regclass' THEN 'public.things' WHEN 'double precision' THEN '1' ELSE NULL END, a.type), ', '))
				INTO call FROM unnest(f.types) WITH ORDINALITY a (type, i) WHERE a.i <= f.needed OR a.type IN ('cdp.identifier', 'bigint', 'text');
				calls := calls + 1;
				said := NULL;
				BEGIN
					EXECUTE format('SET LOCAL ROLE %I', role);
					EXECUTE format('SELECT string_agg(x::text, '' '') FROM (%s) x', call) INTO said;
					-- so that no call meets what another has made
					RAISE EXCEPTION USING ERRCODE = 'CDPOK';
				EXCEPTION WHEN OTHERS THEN
					IF SQLSTATE = 'CDPOK' THEN
						done := done + 1;
					ELSE
						GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT, context = PG_EXCEPTION_CONTEXT;
						said := concat_ws(' ', said, detail, hint, context);
						IF SQLSTATE IN ('XX000', 'XX001') THEN
							RAISE WARNING '%: % %', call, SQLSTATE, SQLERRM;
						END IF;
					END IF;
				END;
				IF said ~* secrets THEN
					let_out := let_out || call;
				END IF;
			END LOOP;
		END LOOP;
	END LOOP;
	taken := done > calls / 10;
	RETURN NEXT;
END $$;
SELECT 'ada@secret|90001|X4711|45000\.5|777001|' || encode(sha256('ada@secret.example'), 'hex') AS secrets \gset

SELECT cdp.set_sensitivity('kind', 'email'), cdp.set_sensitivity('trait', 'income'), cdp.set_sensitivity('trait', 'PASSPORT'), cdp.set_sensitivity('trait', 'wage'),
	cdp.set_sensitivity('account_trait', 'budget');
SELECT calls > 2000 AS many, taken, let_out FROM probe('regress_all_masked', :'secrets', '{reader,operator,consumer}');
SELECT calls > 2000 AS many, taken, (SELECT count(DISTINCT substring(c FROM 'cdp\.(\w+)')) >= 18 FROM unnest(let_out) c) AS seen FROM probe('regress_all_officer', :'secrets', '{reader,operator,consumer}');
SELECT calls > 500 AS many, taken, let_out FROM probe('regress_all_some', 'unseen', '{reader}');
SELECT cdp.unrestrict_reader('regress_all_some', 'pros');
SELECT calls > 500 AS many, taken, (SELECT count(DISTINCT substring(c FROM 'cdp\.(\w+)')) >= 9 FROM unnest(let_out) c) AS seen FROM probe('regress_all_some', 'unseen', '{reader}');
DROP OWNED BY regress_all_masked, regress_all_officer, regress_all_some;
DROP ROLE regress_all_masked, regress_all_officer, regress_all_some;
