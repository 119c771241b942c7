-- cdp.predicate: canonical text, comparison, binary form; cdp.matches.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';

-- one way to write it; what is written is read back
SELECT x::cdp.predicate AS canonical, x::cdp.predicate::text::cdp.predicate = x::cdp.predicate AS stable
FROM unnest(ARRAY[
	$a$plan='pro'   and NOT  did ('A' , within:=interval '7 days')$a$,
	$a$a - -5 > 3 and x in (1,2,3)$a$,
	$a$"Plan" = E'a\'b' or "plan" like '%x\%'$a$,
	$a$tags @> array['a','b'] and tags[ 1 ]= $x$it's$x$$a$,
	$a$case when a then - 1 else +2 end = -1 -- hi
	   and /* c */ b$a$,
	$a$current_date - 7 < d AND current_timestamp > x AND x::date != 'x'$a$,
	$a$date_trunc('day',now())=x at time zone 'UTC'$a$,
	$a$"end" > 1 and "Größe" = U&'\0041' and x ~ '\d+' and b'01' = B'01' and x'1F' = y$a$,
	$a$a > ( - 5 ) and (x)::int [1] = 3 and ((b)) is not   null$a$,
	$a$a is distinct from b and x between symmetric 1 and 2$a$,
	$a$E'tab\there' = a || 'two'
	'parts' and - - 5 > - + a and a*-1 < 0$a$,
	$a$properties->'a'->>'b' ~* 'x' and a #>> '{b,c}' = 'd' and a @? '$.x'$a$,
	$a$U&"d\0061t\+000061" = 1 and coalesce(x, y) = (select 1)$a$]) x;
SELECT $$plan='pro'$$::cdp.predicate = $$"plan" = 'pro' $$::cdp.predicate AS same,
	$$type=1$$::cdp.predicate = $$"type" = 1$$::cdp.predicate AS keyword,
	$$plan='pro'$$::cdp.predicate = $$plan = 'Pro'$$::cdp.predicate AS other,
	hashtext('x') IS NOT NULL AND cdp.predicate_hash('a=b') = cdp.predicate_hash('a  =  b') AS hash;
SELECT p, count(*) FROM (VALUES ('a=1'::cdp.predicate), ('a = 1'), ('b'), ('a  = 1')) v(p) GROUP BY p ORDER BY p;
SELECT count(DISTINCT p) FROM (VALUES ('a=1'::cdp.predicate), ('a = 1'), ('b')) v(p);
-- settings of the session do not matter
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET quote_all_identifiers = on;
SELECT ('a = '''||chr(92)||'d''')::text::cdp.predicate;
RESET standard_conforming_strings;
RESET quote_all_identifiers;
RESET escape_string_warning;
-- as text
SELECT 'a=1'::cdp.predicate LIKE '% = %' AS like, 'x: ' || 'a=1'::cdp.predicate AS joined, length('a=1'::cdp.predicate) AS length;
-- binary form
CREATE TEMP TABLE p (p cdp.predicate);
INSERT INTO p VALUES ('a=1'), (NULL), ('did(''Größe'')');
SELECT cdp.predicate_send(p) FROM p;
\set file `mktemp`
COPY p TO :'file' (FORMAT binary);
COPY p FROM :'file' (FORMAT binary);
SELECT p, count(*) FROM p GROUP BY p ORDER BY p;
-- what comes in binary is checked, and brought into its form
CREATE TEMP TABLE t (t text);
INSERT INTO t VALUES ('a  =  1');
COPY t TO :'file' (FORMAT binary);
COPY p FROM :'file' (FORMAT binary);
SELECT p, count(*) FROM p GROUP BY p ORDER BY p;
TRUNCATE t;
INSERT INTO t VALUES ('a =');
COPY t TO :'file' (FORMAT binary);
\set VERBOSITY terse
COPY p FROM :'file' (FORMAT binary);
\set VERBOSITY default
\setenv FILE :file
\! rm -f "$FILE"

-- input knows no names, but the form of calls
SELECT $$nothing > 1 AND in_segment('nobody') AND has_identifier('none') AND did('x', filter => nonsense)$$::cdp.predicate;
SELECT ''::cdp.predicate;
SELECT 'a, b'::cdp.predicate;
SELECT 'plan = '::cdp.predicate;
SELECT $$ländercode = 'DE' AND did('x', withing => '1 day')$$::cdp.predicate;
SELECT $$did(a)$$::cdp.predicate;
SELECT U&'"\0001\0030" > 1'::cdp.predicate;

-- matches: of the instant of the call
SET cdp.now = '2026-03-01 12:00+00';
DO $$ BEGIN
	PERFORM cdp.identify('u1', '{"plan": "pro", "n": 5, "signed_up_at": "2026-02-27 10:00+00", "born": "1980-03-02"}');
	PERFORM cdp.identify('u2', '{"n": 0, "signed_up_at": "2026-02-28 10:00+00", "born": "1980-03-01"}', identifiers => ARRAY['email:ada@example.com'::cdp.identifier]);
	PERFORM cdp.track('Docs Read', anonymous_id => 'a1', occurred_at => '2026-03-01 11:00+00');
	PERFORM cdp.track('Login', user_id => 'u1', occurred_at => '2026-03-01 11:00+00');
	PERFORM cdp.track('Login', user_id => 'u2', occurred_at => '2026-02-20 11:00+00');
	PERFORM cdp.track('Order', '{"revenue": 11}', user_id => 'u2', occurred_at => '2026-02-26 11:00+00');
	PERFORM cdp.track('Order', '{"revenue": 7}', user_id => 'u2', occurred_at => '2026-02-02 11:00+00');
END $$;
SELECT cdp.apply();
CREATE FUNCTION pg_temp.who(predicate cdp.predicate) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(i.identifier::text, ' ' ORDER BY i.identifier)
	FROM cdp.profiles p JOIN cdp.identities i ON i.node_id = p.profile_id
	WHERE cdp.matches(p.profile_id, predicate)
$$;
SELECT p, pg_temp.who(p::text) FROM unnest(ARRAY[
	$$plan = 'pro'$$, $$plan <> 'pro'$$, $$plan IS DISTINCT FROM 'pro'$$, $$n > 1 + 1$$,
	$$did('Login', within => '2 hours')$$, $$did('Login', newer_than => '10 days', older_than => '7 days')$$,
	$$did('Order', older_than => '20 days')$$, $$count_of('Order', older_than => '20 days') = 1 AND count_of('Order', older_than => '2 days') = 2$$,
	$$sum_of('Order', (properties->>'revenue')::numeric) = 18$$, $$sum_of('Order', (properties->>'revenue')::numeric, within => '7 days') BETWEEN 1 AND 11$$,
	$$sum_of('Order', (properties->>'revenue')::numeric, older_than => '7 days') = 7$$,
	$$sum_of('Order', (properties->>'revenue')::numeric) = 0$$,
	$$first_time('Login', within => '1 day')$$, $$first_time('Order', within => '7 days')$$,
	$$known()$$, $$NOT known()$$, $$has_identifier('email')$$, $$has_identifier('anonymous_id')$$,
	$$born::date = current_date - interval '46 years'$$, $$to_char(born::date, 'MM-DD') = to_char(current_date, 'MM-DD')$$,
	$$since(signed_up_at::timestamptz) < interval '48 hours'$$, $$now() - signed_up_at::timestamptz > '2 days'$$,
	$$date_trunc('month', born::timestamp) = date_trunc('month', now()) - interval '46 years'$$]) p;
-- nothing was defined
SELECT count(*) FROM cdp.trait_definitions;
SELECT cdp.matches('user_id:u1', $$plan = 'pro'$$), cdp.matches('user_id:u2', $$plan = 'pro'$$), cdp.matches('user_id:nobody', 'true'), cdp.matches(99, 'true'),
	cdp.matches(1, 'NULL');
-- time passes, and definitions come and go, while a plan is kept
PREPARE m AS SELECT cdp.matches('user_id:u1', $$did('Login', within => '2 hours')$$);
EXECUTE m;
SELECT cdp.create_segment('lately', $$did('Login', within => '2 hours')$$);
SET cdp.now = '2026-03-01 12:59:59.999999+00';
EXECUTE m;
SELECT cdp.matches('user_id:u1', $$in_segment('lately') AND did('Login', within => '3 hours')$$), cdp.matches('user_id:u2', $$in_segment('lately')$$);
SELECT cdp.drop_segment('lately');
EXECUTE m;
SET cdp.now = '2026-03-01 13:00+00';
EXECUTE m;
-- in a read-only transaction
BEGIN READ ONLY;
SELECT cdp.matches('user_id:u1', $$plan = 'pro' AND did('Login')$$);
COMMIT;
-- a day less a month is what it is in SQL: not all months are as long
SET cdp.now = '2026-03-31 12:00+00';
SELECT p, pg_temp.who(p::text) FROM unnest(ARRAY[
	$$signed_up_at::timestamptz > date_trunc('day', now()) - interval '1 month'$$, $$signed_up_at::timestamptz > current_date - interval '1 month'$$,
	$$date_trunc('day', now()) - signed_up_at::timestamptz < interval '1 month'$$, $$signed_up_at::timestamptz > now() - interval '1 month'$$]) p;
SET cdp.now = '2026-03-01 13:00+00';
-- errors
SELECT cdp.matches('user_id:u1', $$plam = 'pro'$$);
SELECT cdp.matches('user_id:u1', $$in_segment('lately')$$);
SELECT cdp.matches('user_id:u2', $$1 / n > 0$$);
SELECT cdp.matches('shoe_size:u2', $$true$$);
