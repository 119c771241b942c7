-- Definitions of segments: what is accepted, what is refused, and where.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET cdp.now = '2026-03-01 12:00+00';
SELECT cdp.create_trait('plan', type => 'text');
SELECT cdp.create_trait('employees', type => 'numeric');
SELECT cdp.create_trait('signed_up_at', type => 'timestamptz');
SELECT cdp.create_trait('orders', aggregate => 'count', event => 'Order Completed');

-- accepted
SELECT cdp.create_segment('paying', $$plan <> 'free'$$, description => 'they pay');
SELECT cdp.create_segment('warm', $$did('Product Viewed', at_least => 3, within => '7 days', filter => properties->>'tier' = 'premium')
	AND did_not('Order Completed', within => interval '1 week') AND orders < 10$$);
SELECT cdp.create_segment('paying_warm', $$in_segment('paying') AND cdp.in_segment('warm')$$);
SELECT cdp.create_segment('big', $$employees > 500 AND plan LIKE 'ent%' AND count_of('Login') BETWEEN 1 AND 10$$, exit_when => $$employees < 400$$);
SELECT cdp.create_segment('old', $$date_trunc('month', signed_up_at) < '2025-01-01'$$, timezone => 'Europe/Berlin');
SELECT name, entity, predicate, exit_when, timezone, description, owner, channel, enabled, state, errors FROM cdp.segments ORDER BY name;
-- equal terms share a trait, however they are written
SELECT cdp.create_segment('warm2', $$did(event => 'Product Viewed', within => '168:00:00') OR
	count_of('Product Viewed', filter => (properties ->> 'tier') = 'premium'::text, within => interval '7 days') > 7$$);
SELECT a.terms[1] = b.terms[2] AS shared, a.terms[1] = b.terms[1] AS same
FROM cdp.segment_definitions a, cdp.segment_definitions b WHERE a.name = 'warm' AND b.name = 'warm2';
SELECT cdp.drop_segment('warm2');

-- if_exists
SELECT cdp.create_segment('paying', 'true');
SELECT cdp.create_segment('paying', 'true', if_exists => 'skip');
SELECT cdp.create_segment('paying', $$plan IN ('pro', 'team')$$, if_exists => 'replace');
SELECT cdp.create_segment('paying', 'true', if_exists => 'perhaps');
SELECT predicate, description FROM cdp.segments WHERE name = 'paying';

-- names
SELECT cdp.create_segment('Paying', 'true');
SELECT cdp.create_segment('1st', 'true');
SELECT cdp.create_segment('', 'true');
SELECT cdp.create_segment('a"b', 'true');
SELECT cdp.create_segment(E'x\n; DROP TABLE cdp.events; --', 'true');
SELECT cdp.create_segment('ähnlich', 'true');
SELECT cdp.create_segment(repeat('a', 52), 'true');
SELECT cdp.create_segment(repeat('a', 51), 'true');
SELECT octet_length(channel) FROM cdp.segments WHERE name LIKE 'aaa%';
SELECT cdp.drop_segment(repeat('a', 51));
SELECT cdp.create_segment(NULL, 'true');
SELECT cdp.create_segment('x', NULL);
SELECT cdp.create_segment('x', 'true', entity => 'thing');
SELECT cdp.create_segment('x', 'true', timezone => 'Mars/Olympus');
SELECT cdp.create_segment('x', 'true', options => '[]');
SELECT cdp.create_segment('x', 'true', options => '{"colour": 1}');

-- texts that are no boolean expression
SELECT cdp.create_segment('x', '');
SELECT cdp.create_segment('x', 'plan = ');
SELECT cdp.create_segment('x', $$plan = 'pro'; DROP TABLE cdp.events$$);
SELECT cdp.create_segment('x', $$plan = 'pro') OR (true$$);
SELECT cdp.create_segment('x', 'true, false');
SELECT cdp.create_segment('x', 'true FROM pg_class');
SELECT cdp.create_segment('x', 'true UNION SELECT true');
SELECT cdp.create_segment('x', 'plan');
SELECT cdp.create_segment('x', 'employees + 1');
SELECT cdp.create_segment('x', $$employees > 'many'$$);
SELECT cdp.create_segment('x', 'employees > plan');

-- names and functions that it cannot use
SELECT cdp.create_segment('x', $$plan = 'pro' AND
	colour = 'red'$$);
SELECT cdp.create_segment('x', 'p.plan = 1');
SELECT cdp.create_segment('x', U&'"\0001\0030" > 1');
SELECT cdp.create_segment('x', 'EXISTS (SELECT FROM pg_class)');
SELECT cdp.create_segment('x', 'count(*) > 1');
SELECT cdp.create_segment('x', 'random() > 0.5');
SELECT cdp.create_segment('x', 'pg_sleep(1) IS NULL');
SELECT cdp.create_segment('x', $$set_config('role', 'postgres', false) = ''$$);
SELECT cdp.create_segment('x', $$plan ~ 'x' AND pg_read_file('/etc/passwd') <> ''$$);
SELECT cdp.create_segment('x', $$'pg_class'::regclass IS NOT NULL$$);
SELECT cdp.create_segment('x', '$1 = 1');
SELECT cdp.create_segment('x', 'signed_up_at > clock_timestamp()');
SELECT cdp.create_segment('x', 'extract(hour from now()) < 12');
SELECT cdp.create_segment('x', $$age(now(), signed_up_at) > interval '1 year'$$);
SELECT cdp.create_segment('x', $$now() > now() - interval '1 year'$$);
SELECT cdp.create_segment('x', 'signed_up_at > current_timestamp(3)');
SELECT cdp.create_segment('x', $$current_time > '12:00'$$);
SELECT cdp.create_segment('x', $$signed_up_at > 'yesterday'::timestamptz$$);
CREATE FUNCTION public.mine(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
SELECT cdp.create_segment('x', 'public.mine(plan)');
SELECT cdp.create_segment('x', 'mine(plan)');

-- vocabulary
SELECT cdp.create_segment('x', 'did()');
SELECT cdp.create_segment('x', 'did(plan)');
SELECT cdp.create_segment('x', $$did('')$$);
SELECT cdp.create_segment('x', $$did('A', 3)$$);
SELECT cdp.create_segment('x', $$did('A', atleast => 3)$$);
SELECT cdp.create_segment('x', $$did('A', at_least => '3')$$);
SELECT cdp.create_segment('x', $$did('A', at_least => 99999999999)$$);
SELECT cdp.create_segment('x', $$did('A', at_least => 3, at_most => 2)$$);
SELECT cdp.create_segment('x', $$did('A', at_most => 0)$$);
SELECT cdp.create_segment('x', $$did('A', within => 7)$$);
SELECT cdp.create_segment('x', $$did('A', within => 'a week')$$);
SELECT cdp.create_segment('x', $$did('A', within => '-1 day')$$);
SELECT cdp.create_segment('x', $$did('A', within => plan)$$);
SELECT cdp.create_segment('x', $$did('A', within => '1 day', within => '2 days')$$);
SELECT cdp.create_segment('x', $$did(DISTINCT 'A')$$);
SELECT cdp.create_segment('x', $$did('A') OVER ()$$);
SELECT cdp.create_segment('x', $$did(VARIADIC 'A')$$);
SELECT cdp.create_segment('x', $$did(*)$$);
SELECT cdp.create_segment('x', $$did_not('A', at_least => 2)$$);
SELECT cdp.create_segment('x', $$count_of('A')$$);
SELECT cdp.create_segment('x', $$did('A', filter => properties->>'x')$$);
SELECT cdp.create_segment('x', $$did('A', filter => plan = 'pro')$$);
SELECT cdp.create_segment('x', $$did('A', filter => did('B'))$$);
SELECT cdp.create_segment('x', $$did('A', filter => cdp.known())$$);
SELECT cdp.create_segment('x', $$did('A', at_most => -1)$$);
-- the nearest name, whatever it is the name of
SELECT cdp.create_segment('x', $$did('A', filter => propertes->>'x' = 'y')$$);
SELECT cdp.create_segment('x', $$did('A', filter => jsonb_aray_length(properties->'x') > 1)$$);
SELECT cdp.create_segment('x', $$lenght(plan) = 3$$);
SELECT cdp.create_segment('x', $$acount.plan = 'pro'$$);
SELECT cdp.create_segment('x', $$profile.plan = 'pro'$$);
SELECT cdp.create_purpose('marketing', 'offers') IS NOT NULL;
SELECT cdp.create_segment('x', $$consented('marketting')$$);
SELECT cdp.create_segment('x', $$consented('research')$$);
SELECT cdp.create_segment('x', 'true', options => '{"purpose": "marketin"}');
SELECT cdp.drop_purpose('marketing') IS NOT NULL;
SELECT cdp.create_segment('x', $$did('A', filter => occurred_at > now())$$);
SELECT cdp.create_segment('x', $$did('A', filter => (SELECT true))$$);
SELECT cdp.create_segment('x', $$in_segment('nobody')$$);
SELECT cdp.create_segment('x', $$in_segment('x')$$);
SELECT cdp.create_segment('x', $$in_segment(plan)$$);
SELECT cdp.create_segment('x', $$in_segment('warm', 'big')$$);
SELECT cdp.create_segment('x', $$did_in_order('A', 'B')$$);
SELECT cdp.create_segment('x', $$known('x')$$);
SELECT cdp.create_segment('x', $$plan = 'x' AND has_identifier('emial')$$);
SELECT cdp.create_segment('x', $$has_identifier('nothing of the kind')$$);
SELECT cdp.create_segment('asked', $$consented('marketing')$$);
SELECT cdp.create_segment('x', $$since(signed_up_at) > 5$$);
SELECT cdp.create_segment('x', $$since(plan) > interval '1 day'$$);
SELECT cdp.create_segment('x', $$since()$$);
SELECT cdp.create_segment('x', $$extract(day from since(signed_up_at)) > 3$$);
SELECT cdp.create_segment('x', $$did('A', within => '1 day', newer_than => '1 day')$$);
SELECT cdp.create_segment('x', $$did('A', newer_than => '1 day', older_than => '2 days')$$);
SELECT cdp.create_segment('x', $$sum_of('A') > 1$$);
SELECT cdp.create_segment('x', $$sum_of('A', properties->>'x') > 1$$);
SELECT cdp.create_segment('x', $$sum_of('A', (properties->>'x')::numeric, '7 days') > 1$$);
SELECT cdp.create_segment('x', $$first_time('A')$$);
SELECT cdp.create_segment('x', $$did('A', filter => occurred_at > current_timestamp)$$);
SELECT cdp.create_segment('x', $$plam = 'x'$$);
SELECT cdp.create_segment('x', $$in_segment('payin')$$);
SELECT cdp.create_segment('x', $$did_nott('A')$$);
SELECT cdp.create_segment('x', 'true', exit_when => 'employees >');

-- hostile: very many terms, very deep
\set VERBOSITY terse
SELECT cdp.create_segment('x', repeat('orders = 1 OR ', 100000) || 'true');
SELECT cdp.create_segment('ten_thousand', repeat('orders = 1 OR ', 10000) || 'true');
SELECT cdp.create_segment('x', (SELECT string_agg('did(''' || i || ''')', ' OR ') FROM generate_series(1, 1001) i));
SELECT cdp.create_segment('many', (SELECT string_agg('orders=' || i, ' OR ') FROM generate_series(1, 4000) i));
SELECT cdp.create_segment('x', repeat('NOT ', 15000) || 'true');
SELECT cdp.create_segment('x', repeat('(', 30000) || 'true' || repeat(')', 30000));
SELECT cdp.create_segment('x', 'orders = 1' || repeat('+1', 20000));
SELECT cdp.create_segment('x', repeat('did(''A'', filter => ', 3000) || 'true' || repeat(')', 3000));
\set VERBOSITY default
SELECT cdp.create_segment('quoted', $$did('O''Reilly "x" \ ; $1', filter => properties->>'a''b' = E'\\''"')$$);
SELECT cdp.create_segment('unicode', $$did('Größe gewählt 🙂', filter => properties->>'größe' = 'ü')$$);
SELECT cdp.create_segment('x', $$did('Größe 🙂') AND plann = 'x'$$);
SELECT count(*) FROM cdp.segments WHERE name = 'x';

-- cycles
SELECT cdp.alter_segment('paying', $$in_segment('paying_warm')$$);
SELECT cdp.alter_segment('paying', $$in_segment('paying')$$);
SELECT cdp.alter_segment('paying', 'true', exit_when => $$in_segment('paying_warm')$$);

-- alter, rename, drop
SELECT cdp.alter_segment('nobody', 'true');
SELECT cdp.alter_segment('big', predicate => 'employees > 1000', exit_when => '', description => 'large');
SELECT cdp.alter_segment('big', enabled => false, timezone => 'America/New_York');
SELECT predicate, exit_when, description, timezone, enabled, state FROM cdp.segments WHERE name = 'big';
SELECT cdp.alter_segment('big', description => '', enabled => true);
SELECT predicate, description, timezone, enabled, state FROM cdp.segments WHERE name = 'big';
SELECT cdp.rename_segment('warm', 'paying');
SELECT cdp.rename_segment('warm', 'Lukewarm');
SELECT cdp.rename_segment('nobody', 'somebody');
SELECT cdp.rename_segment('warm', 'lukewarm');
SELECT name, channel, predicate FROM cdp.segments WHERE name IN ('warm', 'lukewarm', 'paying_warm') ORDER BY name;
SELECT cdp.drop_segment('nobody');
SELECT cdp.drop_segment('lukewarm');
SELECT cdp.drop_segment('lukewarm', cascade => true);
SELECT name FROM cdp.segments ORDER BY name;
-- hidden traits go with the last segment that needs them
SELECT count(*) FROM cdp.trait_definitions WHERE hidden;
SELECT cdp.drop_segment(name) FROM cdp.segments;
SELECT count(*) FROM cdp.trait_definitions WHERE hidden;

-- rights: a definition belongs to who made it
CREATE ROLE regress_marketing;
CREATE ROLE regress_sales;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA cdp TO regress_marketing, regress_sales;
SET ROLE regress_marketing;
SELECT cdp.create_segment('theirs', $$plan = 'pro' AND did('Seen')$$);
SELECT * FROM cdp.segment_definitions;
RESET ROLE;
SELECT name, owner FROM cdp.segments;
SET ROLE regress_sales;
SELECT cdp.alter_segment('theirs', 'true');
SELECT cdp.rename_segment('theirs', 'ours');
SELECT cdp.drop_segment('theirs');
SELECT cdp.create_segment('theirs', 'true', if_exists => 'replace');
RESET ROLE;
SET ROLE regress_marketing;
\set VERBOSITY sqlstate
SELECT cdp.alter_segment('theirs', owner => 'regress_sales');
\set VERBOSITY default
RESET ROLE;
SELECT cdp.alter_segment('theirs', owner => 'regress_sales');
SELECT name, owner, state FROM cdp.segments;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cdp FROM regress_sales;
DROP ROLE regress_sales;
SELECT name, owner, state FROM cdp.segments;
SELECT cdp.alter_segment('theirs', owner => current_user);
SELECT cdp.drop_segment('theirs');
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cdp FROM regress_marketing;
SET ROLE regress_marketing;
SELECT cdp.create_segment('theirs', 'true');
SELECT cdp.profile(1);
SELECT cdp.in_segment(1, 'theirs');
SELECT cdp.preview_segment('true');
RESET ROLE;
DROP ROLE regress_marketing;

BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdp.create_segment('x', 'true');
ROLLBACK;
