-- Predicates, and names in them, that are meant to break things; many timers
-- that are due at once beside new entries.
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 12:00+00';
SELECT cdp.create_trait('name', type => 'text'), cdp.create_trait('n', type => 'int');
CREATE FUNCTION public.try(predicate text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN cdp.matches('user_id:u1', predicate);
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || left(SQLERRM, 100);
END $$;
RESET client_min_messages;
SELECT cdp.identify('u1', '{"name": "Ada", "n": 7, "It''s \"odd\"": 3, "größe": 4, "\\": 5}') IS NOT NULL;
SELECT cdp.track($$O'Brien "&" \ Co$$, '{"größe": 4}', user_id => 'u1') IS NOT NULL, cdp.track('Bestellung größer 日本', user_id => 'u1') IS NOT NULL,
	cdp.track(repeat('ü', 200), user_id => 'u1') IS NOT NULL, cdp.track(E'tab\tnew\nline', user_id => 'u1') IS NOT NULL;
SELECT cdp.group($$a'b"c\$$, user_id => 'u1') IS NOT NULL;
SELECT cdp.apply();

-- 10,000 terms: all different, all alike, deep in one another
SELECT try((SELECT string_agg(format('n = %s', i), ' OR ') FROM generate_series(1, 10000) i)),
	try((SELECT string_agg(format('n <> %s', i), ' AND ') FROM generate_series(10, 10010) i)),
	try('n IN (' || (SELECT string_agg(i::text, ', ') FROM generate_series(1, 50000) i) || ')'),
	try('n = ANY (ARRAY[' || (SELECT string_agg(i::text, ', ') FROM generate_series(8, 50000) i) || '])');
SELECT try((SELECT string_agg(format('did(''E%s'')', i), ' OR ') FROM generate_series(1, 1001) i)),
	try((SELECT string_agg(format('NOT did(''E%s'')', i), ' AND ') FROM generate_series(1, 1000) i));
SELECT try(repeat('CASE WHEN n = 1 THEN true ELSE ', 20000) || 'true' || repeat(' END', 20000)),
	try(repeat('NOT(', 30000) || 'true' || repeat(')', 30000)),
	try('n = ' || repeat('- ', 200000) || '1'),
	try(repeat('n', 2000000)), try(repeat('''', 999999)), try('n = ' || repeat('9', 200000)),
	try('name = ''' || repeat('x', 1000000) || ''''), try('name = ''' || repeat('x', 1100000) || ''''),
	try('array_length(' || repeat('ARRAY[', 5000) || '1' || repeat(']', 5000) || ', 1) = 1');
SELECT cdp.create_segment('ten_thousand', (SELECT string_agg(format('n = %s', i), ' OR ') FROM generate_series(1, 10000) i)),
	cdp.create_segment('ten_thousand_too', (SELECT string_agg(format('n = %s', i), ' OR ') FROM generate_series(1, 10000) i));
SELECT * FROM cdp.segment_overlap('{ten_thousand,ten_thousand_too}');
-- cdp.verify() reads texts by SQL, and would take minutes for these
SELECT cdp.drop_segment('ten_thousand'), cdp.drop_segment('ten_thousand_too');

-- names with quotes, backslashes, other alphabets; 63 bytes are no limit of ours
SELECT p, try(p) FROM unnest(ARRAY[
	$$did('O''Brien "&" \ Co')$$, $$did('Bestellung größer 日本')$$, $$did(U&'Bestellung gr\00f6\00dfer \65e5\672c')$$, $$did(E'tab\tnew\nline')$$,
	$$did('O''Brien "&" \ Co', filter => properties->>'größe' = '4')$$, $$did('o''brien "&" \ co')$$,
	$$"It's ""odd""" = 3$$, $$"größe" = 4 AND größe = 4$$, $$"\" = 5$$, $$"grösse" = 4$$,
	$$member_of('a''b"c\')$$, $$in_segment('a''; DROP TABLE cdp.events; --')$$, $$has_identifier('user_id''')$$,
	$$"n" = 7 -- ' " $$ || E'\n' || $$AND true$$, $$n = 7 /* ' " $ */$$, $$did($a$O'Brien "&" \ Co$a$)$$]) p;
SELECT try(format('did(%L)', repeat('ü', 200))), try(format('did(%L)', repeat('ü', 199))), try(repeat('a', 100) || ' = 1'), try('"' || repeat('ü', 40) || '" = 1');
SELECT cdp.create_segment('Größe', 'true');
SELECT cdp.create_segment('a"b', 'true');
SELECT cdp.create_segment(repeat('s', 51), $$did('O''Brien "&" \ Co')$$);
SELECT length(name), octet_length(channel) <= 63 AS fits, predicate FROM cdp.segments WHERE name LIKE 'sss%';
SELECT cdp.in_segment('user_id:u1', repeat('s', 51)), cdp.segment_size(ARRAY[repeat('s', 51)]);
SELECT count(*) FROM cdp.explain_segment(repeat('s', 51), 'user_id:u1');
SELECT * FROM cdp.verify();

-- a regular expression without end: what applies can be stopped, and goes on when it is gone
SELECT cdp.create_segment('endless', $$name ~ '(.*)(.*)(.*)(.*)(.*)\1\2\3\4\5$' AND name ~ '^(((((a*)*)*)*)*)*\1\2\3b$'$$);
SELECT cdp.identify('u2', jsonb_build_object('name', repeat('a', 20000))) IS NOT NULL;
SET statement_timeout = '300ms';
\set VERBOSITY sqlstate
SELECT cdp.apply();
SELECT cdp.in_segment('user_id:u1', 'endless');
RESET statement_timeout;
\set VERBOSITY default
SELECT cdp.drop_segment('endless');
SELECT cdp.apply();
SELECT cdp.resolve('user_id:u2') IS NOT NULL AS applied;

-- many timers are due: each batch takes new entries along, and the other way round
SELECT cdp.create_segment('lately', $$did('V', within => '1 day')$$);
INSERT INTO cdp.events (event, identifiers) SELECT 'V', ARRAY[('user_id:t' || p)::cdp.identifier] FROM generate_series(1, 500) p;
SELECT cdp.apply();
SELECT cdp.segment_size('{lately}'), (SELECT count(*) FROM cdp.timers);
SET cdp.batch_size = 100;
SET cdp.now = '2026-03-02 12:00+00';
SELECT cdp.track('V', user_id => 'new') IS NOT NULL;
SELECT cdp.apply(1);
SELECT cdp.resolve('user_id:new') IS NOT NULL AS applied, cdp.in_segment('user_id:new', 'lately'),
	count(*) BETWEEN 1 AND 499 AS waiting, count(*) < 500 AS some FROM cdp.timers WHERE at <= cdp.clock();
-- more entries than a batch has room for do not keep timers waiting either
INSERT INTO cdp.events (event, identifiers) SELECT 'W', ARRAY[('user_id:w' || p)::cdp.identifier] FROM generate_series(1, 500) p;
CREATE TEMP TABLE before AS SELECT count(*) AS due FROM cdp.timers WHERE at <= cdp.clock();
SELECT cdp.apply(1);
SELECT cdp.apply(100);
SELECT count(*) < (SELECT due FROM before) AS fewer FROM cdp.timers WHERE at <= cdp.clock();
SELECT cdp.apply();
SELECT cdp.segment_size('{lately}'), (SELECT count(*) FROM cdp.timers WHERE at <= cdp.clock()) AS due;
SELECT * FROM cdp.verify();
