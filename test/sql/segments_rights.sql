-- Whose rights a predicate has, and what it can do to others: nothing.
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 12:00+00';
CREATE ROLE regress_segment_author;
GRANT EXECUTE ON FUNCTION cdp.create_segment(text, cdp.predicate, text, text, text, text, jsonb, text, text[], float8, text),
	cdp.preview_segment(cdp.predicate, text, text, text, text[], float8, text, text), cdp.matches(bigint, cdp.predicate, text) TO regress_segment_author;
GRANT USAGE ON SCHEMA cdp TO regress_segment_author;
CREATE TABLE public.secret (s text);
INSERT INTO public.secret VALUES ('42');
CREATE FUNCTION public.tell() RETURNS text LANGUAGE sql IMMUTABLE SECURITY DEFINER AS 'SELECT s FROM public.secret';
CREATE FUNCTION public.leak(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE NOTICE 'seen: %', $1; RETURN true; END $$;
CREATE OPERATOR public.<<< (FUNCTION = public.leak, RIGHTARG = text);
SELECT cdp.identify('u1', '{"name": "Ada", "n": 0}') IS NOT NULL, cdp.identify('u2', '{"name": "Ben", "n": 1}') IS NOT NULL;
SELECT cdp.apply();
SELECT cdp.create_trait('name', type => 'text'), cdp.create_trait('n', type => 'int');
RESET client_min_messages;

SET ROLE regress_segment_author;
\set VERBOSITY terse
-- no tables, no functions of anybody's, none that reaches outside
SELECT cdp.create_segment('x', 'EXISTS (SELECT FROM public.secret)');
SELECT cdp.create_segment('x', $$public.tell() = '42'$$);
SELECT cdp.create_segment('x', $$leak(name)$$);
SELECT cdp.create_segment('x', $$<<< name$$);
SELECT cdp.create_segment('x', $$OPERATOR(public.<<<) name$$);
SELECT cdp.create_segment('x', $$name = current_user$$);
SELECT cdp.create_segment('x', $$query_to_xml('SELECT * FROM public.secret', true, true, '') IS NOT NULL$$);
SELECT cdp.create_segment('x', $$pg_ls_dir('.') IS NOT NULL$$);
SELECT cdp.create_segment('x', $$lo_get(1) IS NOT NULL$$);
SELECT cdp.create_segment('x', $$has_table_privilege('public.secret', 'SELECT')$$);
SELECT cdp.create_segment('x', $$name::regclass IS NOT NULL$$);
SELECT cdp.create_segment('x', $$to_tsvector(name::regconfig, 'x') IS NOT NULL$$);
SELECT cdp.create_segment('x', $$current_setting('data_directory') <> ''$$);
SELECT cdp.create_segment('x', $$pg_advisory_lock(1) IS NULL$$);
SELECT cdp.create_segment('x', $$did('A', filter => public.tell() = '42')$$);
SELECT cdp.create_segment('x', $$cdp.current_profile(1) = 1$$);
SELECT cdp.create_segment('x', $$cdp.track('x') <> ''$$);
SELECT cdp.matches(1, $$public.tell() = '42'$$);
SELECT * FROM cdp.preview_segment($$leak(name)$$);
-- an operator of the same name in a schema of the session's is not picked up
SET search_path = public;
CREATE TEMP TABLE t (x int);
SELECT cdp.create_segment('plain', $$name = 'Ada'$$);
RESET search_path;
-- the texts of others' errors and values are not shown
SELECT cdp.create_segment('fails', $$name::int > 0 AND n = 0$$);
\set VERBOSITY default
SELECT last_error FROM cdp.segment_errors;
SELECT predicate FROM cdp.segment_definitions;
SELECT cdp.in_segment(1, 'plain');
RESET ROLE;
SELECT name, owner, errors, last_error FROM cdp.segments ORDER BY name;

-- a regular expression that never ends can be stopped, here and in the applier
SELECT cdp.identify('u3', jsonb_build_object('name', repeat('a', 20000))) IS NOT NULL;
SELECT cdp.apply();
SET statement_timeout = '300ms';
\set VERBOSITY sqlstate
SELECT cdp.matches('user_id:u3', $$name ~ '^(((((a*)*)*)*)*)*\1\2\3b$' OR name ~ '(x+x+)+y|(.*)(.*)(.*)(.*)(.*)\2\3\4\5\6$'$$);
SELECT cdp.create_segment('slow', $$name ~ '^(((((a*)*)*)*)*)*\1\2\3b$' OR name ~ '(.*)(.*)(.*)(.*)(.*)\1\2\3\4\5$'$$);
RESET statement_timeout;
\set VERBOSITY default
SELECT count(*) FROM cdp.segments WHERE name = 'slow';
SELECT cdp.drop_segment(name) FROM cdp.segments ORDER BY name;
DROP OWNED BY regress_segment_author;
DROP ROLE regress_segment_author;
DROP OPERATOR public.<<< (NONE, text);
DROP FUNCTION public.leak, public.tell;
DROP TABLE public.secret;
DROP EXTENSION cdp CASCADE;
