-- Every text that a function takes is data: nothing in it is executed.  Each of
-- the vectors below goes through each textual argument of each function that is
-- not internal, the others being plain.  public.pwned() is what they try
-- to call; it draws from a sequence, which no rollback undoes.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE SEQUENCE public.hits;
CREATE FUNCTION public.pwned() RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER AS $$ SELECT nextval('public.hits')::text $$;
CREATE TABLE public.canary (x int);
INSERT INTO public.canary VALUES (1);
SELECT cdp.create_trait('plan', type => 'text'), cdp.create_segment('pros', $$plan = 'pro'$$), cdp.subscribe('feed');
SELECT cdp.identify(1, '{"plan": "pro"}', identifiers => '{email:ada@example.com}') IS NOT NULL, cdp.group('acme', user_id => 1) IS NOT NULL;
SELECT cdp.apply() > 0;

CREATE TABLE public.vectors (n serial, v text);
COPY public.vectors (v) FROM stdin;
'
"
''
""
'; SELECT public.pwned(); --
"; SELECT public.pwned(); --
'); SELECT public.pwned(); --
'')); SELECT public.pwned(); --
' || public.pwned() || '
'||public.pwned()||'
" || public.pwned() || "
$$ || public.pwned() || $$
$x$ || public.pwned() || $x$
$cdp$; SELECT public.pwned(); $cdp$
$function$; SELECT public.pwned(); $function$
public.pwned()
public.pwned() > ''
(SELECT public.pwned())
EXISTS (SELECT public.pwned())
x, public.pwned()
x; SELECT public.pwned()
x) UNION SELECT public.pwned() --
x') UNION SELECT public.pwned() --
x') UNION ALL SELECT NULL, public.pwned(), NULL --
x' OR public.pwned() > '' --
x" OR public.pwned() > '' --
x' AND 1 = (SELECT count(*) FROM (SELECT public.pwned()) y) --
1 OR public.pwned() <> ''
1; DROP TABLE public.canary
'; DROP TABLE public.canary; --
"; DROP TABLE public.canary CASCADE; --
x'; COMMIT; SELECT public.pwned(); --
x'; ROLLBACK; DROP TABLE public.canary; --
x'; COPY public.canary FROM PROGRAM 'true'; --
x'; DO $$BEGIN PERFORM public.pwned(); END$$; --
x'; CREATE ROLE regress_injected SUPERUSER; --
x'; ALTER ROLE CURRENT_USER SET search_path = public; --
x'; SET search_path = public; --
x'/**/;/**/SELECT/**/public.pwned();/**/--
x' /* ' */ ; SELECT public.pwned() --
\\'; SELECT public.pwned(); --
\\\\'; SELECT public.pwned(); --
E'\\''; SELECT public.pwned(); --
U&'\\0027; SELECT public.pwned(); --
x\\027; SELECT public.pwned(); --
ʼ; SELECT public.pwned(); --
＇; SELECT public.pwned(); --
“; SELECT public.pwned(); --
‮'; SELECT public.pwned(); --
x\n'; SELECT public.pwned(); --
x\r\n'; SELECT public.pwned(); --
x\t'\t;\tSELECT public.pwned();--
%s%s%s%s%n
%1$s%2$s%99$s
%I%L%s
%%%
{public.pwned()}
{"a": "'; SELECT public.pwned(); --"}
["'; SELECT public.pwned(); --"]
{"$where": "public.pwned()"}
$."a" ? (@ == public.pwned())
$$; SELECT public.pwned(); $$
:x :'x' :"x"
?; SELECT public.pwned()
$1
$1; SELECT public.pwned()
(1)::text) FROM public.canary; SELECT public.pwned() --
CASE WHEN public.pwned() > '' THEN true END
did('x', filter => public.pwned() > '')
did('x'); SELECT public.pwned()
count_of('x') > length(public.pwned())
plan = public.pwned()
plan OPERATOR(public.=) 'x'
public.canary
cdp.events
cdp.events; DROP TABLE public.canary
"public"."canary"
pg_catalog.pg_sleep(100)
user_id:1'; SELECT public.pwned(); --
^(x'|public.pwned())$
,--'
DROP TABLE public.canary
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'; SELECT public.pwned(); --
\.
SELECT count(*) >= 60 AS enough FROM public.vectors;

-- What a plain argument of a type is.
CREATE FUNCTION public.plain(t regtype) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT CASE t::text WHEN 'text' THEN '''x''' WHEN 'text[]' THEN '''{x}''' WHEN 'cdp.key' THEN '''1''' WHEN 'cdp.identifier' THEN '''user_id:1'''
		WHEN 'jsonb' THEN '''{}''' WHEN 'bigint' THEN '1' WHEN 'integer' THEN '1' WHEN 'bigint[]' THEN '''{1}'''
		WHEN 'timestamp with time zone' THEN '''2026-05-04''' WHEN 'interval' THEN '''1 day''' WHEN 'boolean' THEN 'false' WHEN 'cdp.predicate' THEN '''true'''
		WHEN 'regclass' THEN '''public.canary''' WHEN 'regrole' THEN '''pg_monitor''' WHEN 'name' THEN '''x''' WHEN 'double precision' THEN '0' WHEN 'bytea' THEN '''''' ELSE 'NULL' END || '::' || t
$$;
-- The vector as an argument of a type: once, or in several forms.
CREATE FUNCTION public.forms(t regtype, v text) RETURNS SETOF text LANGUAGE sql STABLE AS $$
	SELECT quote_literal(f) || '::' || t FROM unnest(CASE t::text
		WHEN 'text' THEN ARRAY[v] WHEN 'cdp.key' THEN ARRAY[v] WHEN 'cdp.predicate' THEN ARRAY[v] WHEN 'regclass' THEN ARRAY[v] WHEN 'regrole' THEN ARRAY[v] WHEN 'name' THEN ARRAY[v]
		WHEN 'text[]' THEN ARRAY[ARRAY[v]::text]
		WHEN 'cdp.identifier' THEN ARRAY['user_id:' || v, v] WHEN 'cdp.identifier[]' THEN ARRAY[ARRAY['user_id:' || v]::text]
		WHEN 'jsonb' THEN ARRAY[to_jsonb(v)::text, jsonb_build_object(v, v)::text, jsonb_build_object('type', 'track', 'event', v, 'userId', v, 'properties', jsonb_build_object(v, v))::text]
		ELSE '{}' END) f
$$;

SET client_min_messages = warning;
CREATE TEMP TABLE calls (function text, argument text, calls int, failed int);
DO $$
DECLARE
	f record;
	argument record;
	v record;
	form text;
	made int;
	failed int;
BEGIN
	FOR f IN
		SELECT p.oid, p.oid::regprocedure::text AS signature, p.proname, p.proargnames[1:p.pronargs] AS names, p.proargtypes::oid[] AS types, p.pronargs - p.pronargdefaults AS needed
		FROM pg_proc p
		WHERE p.pronamespace = 'cdp'::regnamespace AND p.prokind = 'f'
			AND (has_function_privilege('public', p.oid, 'EXECUTE') OR obj_description(p.oid, 'pg_proc') !~ '^internal'
				OR p.proname IN (SELECT s.name FROM cdp.access_sets s WHERE s.kind = 'function'))
			-- these would end the test, or wait
			AND p.proname NOT IN ('start_worker', 'stop_worker', 'pause', 'load_sample', 'wait_backfill')
			-- this takes a query, which it runs with the caller's rights
			AND p.oid <> 'cdp.graph_components(text)'::regprocedure
			AND p.proargnames IS NOT NULL AND 2281 <> ALL (p.proargtypes::oid[])
		ORDER BY p.oid::regprocedure::text COLLATE "C"
	LOOP
		FOR argument IN SELECT t.i, t.type::regtype AS type, f.names[t.i] AS name FROM unnest(f.types) WITH ORDINALITY t (type, i) LOOP
			made := 0;
			failed := 0;
			FOR v IN SELECT * FROM public.vectors ORDER BY n LOOP
				FOR form IN SELECT * FROM public.forms(argument.type, v.v) LOOP
					made := made + 1;
					BEGIN
						EXECUTE format('SELECT FROM (SELECT cdp.%I(%s)) x', f.proname, (
							SELECT string_agg(format('%I => %s', f.names[t.i], CASE WHEN t.i = argument.i THEN form ELSE public.plain(t.type::regtype) END), ', ')
							FROM unnest(f.types) WITH ORDINALITY t (type, i) WHERE t.i <= f.needed OR t.i = argument.i));
						PERFORM FROM public.canary;
						-- so that no call meets what another has made
						RAISE EXCEPTION USING ERRCODE = 'CDPOK';
					EXCEPTION
						WHEN SQLSTATE 'CDPOK' THEN NULL;
						WHEN internal_error OR data_corrupted OR undefined_table OR syntax_error THEN
							IF NOT (SQLSTATE IN ('42601', '42P01') AND argument.type::text IN ('text', 'text[]', 'cdp.predicate', 'regclass', 'regrole', 'jsonb')) THEN
								RAISE WARNING 'cdp.%, argument %, vector %: % %', f.signature, argument.name, v.v, SQLSTATE, SQLERRM;
							END IF;
							failed := failed + 1;
						WHEN OTHERS THEN
							failed := failed + 1;
					END;
				END LOOP;
			END LOOP;
			IF made > 0 THEN
				INSERT INTO calls VALUES (f.signature, argument.name, made, failed);
			END IF;
		END LOOP;
	END LOOP;
END $$;
SELECT is_called AS executed FROM public.hits;
SELECT count(*) AS canaries FROM public.canary;
SELECT count(*) AS injected FROM pg_roles WHERE rolname = 'regress_injected';
SELECT count(*) > 80 AS functions, sum(calls) > 25000 AS calls, sum(failed) < sum(calls) AS some_are_taken FROM (SELECT function, sum(calls) AS calls, sum(failed) AS failed FROM calls GROUP BY 1) c;

-- What is taken is data as well when it is applied: names, values and keys of all vectors at once, under names that the views show.
SELECT count(cdp.track(v, jsonb_build_object(v, v), user_id => v, anonymous_id => v, context => jsonb_build_object('traits', jsonb_build_object(v, v)), source => v)) > 60 AS logged FROM public.vectors;
SELECT count(cdp.identify('vector-' || n, jsonb_build_object(v, v), message_id => v)) > 60 AS identified FROM public.vectors;
SELECT count(cdp.group(v, jsonb_build_object('parent', v, v, v), user_id => v)) > 60 AS grouped FROM public.vectors;
SELECT count(cdp.merge(cdp.identifier('user_id', 'vector-' || n), cdp.identifier('cookie', v), v)) > 60 AS merged FROM public.vectors WHERE v <> '';
SELECT cdp.apply() > 240 AS applied;
SELECT count(cdp.profile(cdp.identifier('user_id', v))) > 60 AS profiles FROM public.vectors;
SELECT count(*) > 60 AS values_are_kept FROM public.vectors v WHERE cdp.profile(cdp.identifier('user_id', 'vector-' || n)) -> 'traits' ->> v = v.v;
SELECT count(*) FROM cdp.verify();
SELECT count(length(cdp.graph_dot(cdp.identifier('user_id', 'vector-' || n)))) > 60 AS drawn FROM public.vectors;
SELECT count(*) > 0 AS polled FROM cdp.poll('feed', 1000);
SELECT count(*) FROM cdp.apply_config(cdp.export_config(), dry_run => true) WHERE action <> 'keep';
SELECT is_called AS executed FROM public.hits;
SELECT count(*) AS canaries FROM public.canary;
