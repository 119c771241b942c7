-- JSON arrays in declared traits of array types.
CREATE EXTENSION cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-05-01';
SET client_min_messages = warning;
SELECT cdp.create_trait('tags', type => 'text[]');
SELECT cdp.create_trait('sizes', type => 'int[]', empty => '{}');
SELECT cdp.create_trait('visits', type => 'timestamptz[]', timezone => 'Europe/Berlin');
SELECT count(cdp.identify('u' || n, t)) AS told FROM unnest(ARRAY[
	$${"tags": ["a", "b\"c\\d", "", "null", null, "{x,y}"], "sizes": [1, 2], "visits": ["2026-05-01 12:00", null]}$$,
	$${"tags": [], "sizes": []}$$,
	$${"tags": "{a,b}", "sizes": "{3}", "visits": "{2026-01-01}"}$$,
	$${"tags": [1, 2.50, true, {"k": "v"}, [1]], "sizes": [1.5]}$$,
	$${"tags": "a", "sizes": ["x"], "visits": [1]}$$,
	$${"tags": {"a": 1}, "sizes": 5}$$]::jsonb[]) WITH ORDINALITY v(t, n);
SELECT cdp.apply() > 0 AS applied;
SELECT profile_id, tags, cardinality(tags) AS n, sizes, visits FROM cdp.profile_traits ORDER BY profile_id;
SELECT name, errors FROM cdp.stat_traits WHERE errors > 0 ORDER BY name;
SELECT cdp.create_segment('a', $$'a' = ANY (tags)$$), cdp.create_segment('overlap', $$sizes && ARRAY[2, 3]$$), cdp.create_segment('berlin', $$'2026-05-01 10:00Z' = ANY (visits)$$);
SELECT segment, array_agg(profile_id ORDER BY profile_id) FROM cdp.memberships GROUP BY segment ORDER BY segment;
SELECT * FROM cdp.verify();
