-- The exact instant at which each thing that depends on time changes, a
-- microsecond before it and a microsecond after: what a predicate is then, and
-- that the applier's timers have made the members follow.
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET cdp.now = '2026-03-10 11:00';
SELECT cdp.create_trait('k', type => 'int'), cdp.create_trait('t', type => 'timestamptz'), cdp.create_trait('m', type => 'timestamptz'), cdp.create_trait('plan', type => 'text'), cdp.create_trait('once', type => 'text');
CREATE TABLE predicates (n int GENERATED ALWAYS AS IDENTITY, p text);
INSERT INTO predicates (p) SELECT replace(form, '%', op)
FROM unnest('{<,<=,=,<>,>=,>}'::text[]) WITH ORDINALITY o(op, i),
	unnest(ARRAY['t % now()', $$now() - interval '1 hour' % t$$, $$since(t) % interval '1 hour'$$, $$until(t) % interval '30 minutes'$$,
		$$m % date_trunc('day', now())$$, $$t % date_trunc('day', now())$$, $$t::date % current_date$$, $$date_trunc('hour', now()) % t$$]) WITH ORDINALITY f(form, k)
ORDER BY k, i;
INSERT INTO predicates (p) VALUES
	($$did('A', within => '3 hours')$$), ($$did('A', older_than => '3 hours')$$), ($$did('A', newer_than => '4 hours', older_than => '3 hours')$$), ($$did('F', older_than => '1 hour')$$),
	($$first_time('A', within => '3 hours')$$), ($$first_time('V', within => '2 hours')$$), ($$sum_of('V', 1, within => '2 hours') = 1$$), ($$sum_of('None', 1) = 0$$),
	-- B is an hour after A: not within the hour
	($$did_in_order('A', 'B', within => '1 hour')$$), ($$did_in_order('A', 'B', within => '1 hour 1 second')$$),
	($$did_in_order('A', then_not => 'D', within => '3 hours')$$), ($$did_in_order('A', 'B', newer_than => '2 hours')$$),
	-- the last V counts: it is later, and no W has followed it
	($$did_in_order('A', 'V', newer_than => '2 hours')$$), ($$did_in_order('A', 'V', then_not => 'W')$$), ($$did_in_order('A', 'V', 'B', then_not => 'W')$$),
	-- one entry is no two steps
	($$did_in_order('A', 'A')$$), ($$did_in_order('V', 'V')$$),
	($$did_in_order('F', then_not => 'A')$$), ($$did_in_order('B', 'F')$$),
	($$changed(plan, became => 'team')$$), ($$changed(plan, became => 'pro', older_than => '2 hours')$$), ($$changed(plan, became => 'pro', within => '2 hours')$$),
	($$changed(plan, within => '2 hours', at_least => 2)$$), ($$changed(once)$$), ($$changed(once, was => NULL)$$);

-- Each predicate has a profile of its own, all with the same history, so that no
-- other one's timer wakes it.
SELECT count(cdp.identify('u' || n, jsonb_build_object('k', n, 't', '2026-03-10 12:00+00', 'm', '2026-03-12 00:00+00', 'plan', 'free', 'once', 'x'), occurred_at => '2026-03-10 10:00')) AS logged,
	count(cdp.identify('u' || n, '{"plan": "pro"}', occurred_at => '2026-03-10 10:30')) AS logged,
	-- clocks that are ahead
	count(cdp.identify('u' || n, '{"plan": "team"}', occurred_at => '2026-03-10 11:04')) AS logged,
	count(cdp.track('F', user_id => 'u' || n, occurred_at => '2026-03-10 11:03')) AS logged FROM predicates;
SELECT count(cdp.track(event, user_id => 'u' || n, occurred_at => ('2026-03-10 ' || at)::timestamptz)) AS logged
FROM (VALUES ('A', '10:00'), ('V', '10:10'), ('W', '10:20'), ('V', '10:50'), ('B', '11:00')) v(event, at), predicates;
SELECT cdp.apply() > 0 AS applied;
SELECT count(cdp.create_segment('s' || n, format('k = %s AND (%s)', n, p)::cdp.predicate)) AS segments FROM predicates;

CREATE TABLE seen (at timestamptz, n int, value boolean, member boolean, read boolean);
DO $$
DECLARE
	i timestamptz;
BEGIN
	FOR i IN SELECT DISTINCT b::timestamptz + d * interval '1 microsecond'
		FROM unnest('{2026-03-10 11:00,2026-03-10 11:03,2026-03-10 11:04,2026-03-10 11:30,2026-03-10 12:00,2026-03-10 12:03,2026-03-10 12:10,2026-03-10 12:30,2026-03-10 12:50,2026-03-10 13:00,2026-03-10 14:00,
			2026-03-11,2026-03-12,2026-03-13}'::text[]) b, generate_series(-1, 1) d WHERE b <> '2026-03-10 11:00' OR d >= 0 ORDER BY 1
	LOOP
		PERFORM set_config('cdp.now', i::text, false);
		PERFORM cdp.apply();
		INSERT INTO seen SELECT i, n, cdp.matches(cdp.identifier('user_id', 'u' || n), p::cdp.predicate), EXISTS (SELECT FROM cdp.segment_members('s' || n)), cdp.in_segment(cdp.identifier('user_id', 'u' || n), 's' || n) FROM predicates;
	END LOOP;
END $$;
-- members follow, and so do reads
SELECT p, at, value, member, read FROM seen JOIN predicates USING (n) WHERE value IS DISTINCT FROM member OR value IS DISTINCT FROM read ORDER BY n, at;
-- what it is at first, and when it becomes something else
SELECT p AS predicate, (SELECT s.value FROM seen s WHERE s.n = p.n ORDER BY s.at LIMIT 1) AS first,
	(SELECT string_agg(to_char(c.at, 'DD HH24:MI:SS.US'), ', ' ORDER BY c.at) FROM (SELECT s.at, s.value, lag(s.value) OVER (ORDER BY s.at) AS before FROM seen s WHERE s.n = p.n) c
	WHERE c.value <> c.before) AS changes
FROM predicates p ORDER BY n;
-- the same comparisons as SQL has them
CREATE TABLE sql_says (at timestamptz, n int, value boolean);
DO $$
DECLARE
	q record;
	v boolean;
BEGIN
	FOR q IN SELECT DISTINCT s.at, p.n, p.p FROM seen s CROSS JOIN predicates p WHERE p.p !~ 'did|changed|first_time|sum_of' LOOP
		EXECUTE format($f$SELECT %s FROM (VALUES (timestamptz '2026-03-10 12:00', timestamptz '2026-03-12')) v(t, m)$f$,
			regexp_replace(regexp_replace(replace(replace(q.p, 'current_date', format('%L::timestamptz::date', q.at)), 'now()', format('%L::timestamptz', q.at)),
				'since\(t\)', format('(%L::timestamptz - t)', q.at)), 'until\(t\)', format('(t - %L::timestamptz)', q.at))) INTO v;
		INSERT INTO sql_says VALUES (q.at, q.n, v);
	END LOOP;
END $$;
SELECT count(*) AS compared, count(*) FILTER (WHERE s.value <> q.value) AS otherwise FROM sql_says q JOIN seen s USING (at, n);

-- an error now, and none when its time has come
SELECT count(cdp.drop_segment(name)) AS dropped FROM cdp.segments;
SELECT cdp.create_trait('n', type => 'int');
SET cdp.now = '2026-03-14 12:00';
SELECT cdp.identify('err', '{"t": "2026-03-15 12:00+00", "n": 0}') IS NOT NULL AS logged;
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.create_segment('later', $$CASE WHEN now() < t THEN 1 / n = 1 ELSE n = 0 END$$);
SELECT count(*) AS members, (SELECT errors FROM cdp.segments WHERE name = 'later') FROM cdp.segment_members('later');
SET cdp.now = '2026-03-15 12:00';
SELECT cdp.apply();
SELECT m = cdp.resolve('user_id:err') AS err FROM cdp.segment_members('later') m;
