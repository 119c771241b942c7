-- Terms that several segments have in common are evaluated once for a profile;
-- nobody notices but the clock on the wall.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 12:00+00';
CREATE FUNCTION public.who() RETURNS TABLE (segment text, who text) LANGUAGE sql AS $$
	SELECT m.segment, string_agg(cdp.value(i.identifier), ' ' ORDER BY i.identifier)
	FROM cdp.memberships m JOIN cdp.identities i ON i.node_id = m.profile_id GROUP BY 1 ORDER BY 1
$$;
SELECT cdp.create_trait('name', type => 'text'), cdp.create_trait('pattern', type => 'text'), cdp.create_trait('n', type => 'int');

-- the same story: noted by each that it ends by itself, also where only one of them looks at it
SELECT cdp.create_segment('story', $$did_in_order('Cart', then_not => 'Order', within => '1 hour')$$);
SELECT cdp.create_segment('story_too', $$n > 1 AND did_in_order('Cart', then_not => 'Order', within => '1 hour')$$);
SELECT cdp.create_segment('no_story', $$NOT (n > 1 AND did_in_order('Cart', then_not => 'Order', within => '1 hour'))$$);
SELECT cdp.create_segment('other_zone', $$did_in_order('Cart', then_not => 'Order', within => '1 hour')$$, timezone => 'Asia/Kolkata');
SELECT cdp.identify('u' || i, jsonb_build_object('n', i, 'name', repeat('a', i))) IS NOT NULL FROM generate_series(1, 3) i;
SELECT cdp.track('Cart', user_id => 'u' || i) IS NOT NULL FROM generate_series(1, 3) i;
SELECT cdp.apply();
SELECT * FROM who();
SELECT cdp.value(i.identifier), t.at FROM cdp.timers t JOIN cdp.identities i ON i.node_id = t.profile_id ORDER BY 1;
SET cdp.now = '2026-03-01 12:59:59+00';
SELECT cdp.apply();
SELECT * FROM who();
SET cdp.now = '2026-03-01 13:00:00+00';
SELECT cdp.apply();
SELECT * FROM who();
SELECT cdp.track('Order', user_id => 'u2') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM who();
SELECT * FROM cdp.verify();

-- an error is had by each that looks, and by nobody else
SELECT cdp.create_segment('match_' || i, format('name ~ pattern AND n >= %s', i)) FROM generate_series(1, 2) i;
SELECT cdp.create_segment('lazy', 'n > 2 AND name ~ pattern');
SELECT cdp.create_segment('not_match', 'NOT name ~ pattern');
SELECT cdp.identify('u' || i, jsonb_build_object('pattern', CASE i WHEN 2 THEN '(' ELSE '^a+$' END)) IS NOT NULL FROM generate_series(1, 3) i;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'match|lazy';
SELECT name, errors, last_error FROM cdp.segments WHERE name ~ 'match|lazy' ORDER BY name;
SELECT cdp.identify('u' || i, jsonb_build_object('pattern', CASE i WHEN 3 THEN '[' ELSE 'b' END)) IS NOT NULL FROM generate_series(1, 3) i;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'match|lazy';
SELECT name, errors, last_error FROM cdp.segments WHERE name ~ 'match|lazy' ORDER BY name;
SELECT * FROM cdp.verify();

-- another owner's is not shared; whose role is gone is suspended, and the rest goes on
CREATE ROLE regress_sharer;
SELECT cdp.alter_segment('match_1', owner => 'regress_sharer');
SELECT cdp.identify('u1', '{"pattern": "a"}') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'match|lazy';
DROP ROLE regress_sharer;
SELECT cdp.identify('u1', '{"pattern": "x"}') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'match|lazy';

-- a large condition, whole and in others
SELECT cdp.create_segment('large', $$(n IN (1, 2) AND name <> 'x' OR n + 1 > 3 AND lower(name) = 'aaa' OR length(name) * n + 1 > 100 AND upper(name) < 'B')$$);
SELECT cdp.create_segment('large_' || i, format($$n <> %s AND (n IN (1, 2) AND name <> 'x' OR n + 1 > 3 AND lower(name) = 'aaa' OR length(name) * n + 1 > 100 AND upper(name) < 'B')$$, i)) FROM generate_series(1, 3) i;
SELECT cdp.create_segment('large_not', $$NOT (n IN (1, 2) AND name <> 'x' OR n + 1 > 3 AND lower(name) = 'aaa' OR length(name) * n + 1 > 100 AND upper(name) < 'B') OR in_segment('large_2')$$, exit_when => 'name ~ pattern');
SELECT cdp.identify('u4', '{"n": 4}') IS NOT NULL, cdp.identify('u3', '{"name": "b"}') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'large';
SELECT key, expected, found FROM cdp.verify();

-- what is unknown stays so for all of them
SET client_min_messages = error;
SELECT cdp.create_segment('unknown_' || i, format('n > %s AND (name ~ pattern) IS NULL', i)) FROM generate_series(1, 3) i;
SELECT cdp.identify('u4', '{"n": 5}') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'unknown';
-- the same text is another term in another time zone
SELECT cdp.create_trait('called_at', type => 'timestamptz');
SELECT cdp.create_segment('early_' || i, $$to_char(called_at, 'HH24') ~ '^0[0-5]'$$, timezone => CASE WHEN i % 2 = 0 THEN 'Asia/Tokyo' ELSE 'UTC' END) FROM generate_series(1, 4) i;
SELECT cdp.identify('u1', '{"called_at": "2026-03-01 02:00+00"}') IS NOT NULL, cdp.identify('u2', '{"called_at": "2026-03-01 18:00+00"}') IS NOT NULL;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'early';
SELECT key, expected, found FROM cdp.verify();
-- and another owner's has that owner's rights
CREATE ROLE regress_sharer;
GRANT USAGE ON SCHEMA cdp TO regress_sharer;
SELECT cdp.create_segment('may_' || i, $$regexp_like(name, '^a+$')$$) FROM generate_series(1, 3) i;
SELECT cdp.alter_segment('may_2', owner => 'regress_sharer');
REVOKE EXECUTE ON FUNCTION pg_catalog.regexp_like(text, text) FROM PUBLIC;
\c -
SET timezone = 'UTC';
SET cdp.now = '2026-03-01 13:00:00+00';
SELECT cdp.identify('u' || i, jsonb_build_object('name', repeat('a', i + 1))) IS NOT NULL FROM generate_series(1, 2) i;
SELECT cdp.apply();
SELECT * FROM who() WHERE segment ~ 'may';
SELECT name, errors, last_error FROM cdp.segments WHERE name ~ 'may' ORDER BY name;
GRANT EXECUTE ON FUNCTION pg_catalog.regexp_like(text, text) TO PUBLIC;
SELECT cdp.drop_segment('may_' || i) FROM generate_series(1, 3) i;
DROP OWNED BY regress_sharer;
DROP ROLE regress_sharer;

-- as an argument of what takes lists
SELECT cdp.create_segment('either_' || i, format('COALESCE(n = %s, name ~ pattern, true) AND greatest(name ~ pattern, n >= %s)', i, i)) FROM generate_series(1, 2) i;
SELECT * FROM who() WHERE segment ~ 'either';
SELECT key, expected, found FROM cdp.verify();

-- nobody else can call it
SELECT cdp.shared_term(NULL);
SELECT cdp.shared_term('1');
