-- References to the entries of an owner: packed in its row, and in pieces
-- when there are many.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-03-01';

-- times in no order, in batches of several sizes
INSERT INTO cdp.events (message_id, type, event, identifiers, properties, occurred_at)
SELECT 'm' || i, 'track', 'Step', ARRAY['user_id:' || CASE WHEN i % 10 = 0 THEN 'rare' ELSE 'busy' END]::cdp.identifier[],
	   jsonb_build_object('i', i), timestamptz '2026-02-01' + (i * 7919 % 1000) / 3 * interval '1 minute'
FROM generate_series(1, 1000) i;
SELECT cdp.create_trait('steps', aggregate => 'count', event => 'Step');
SELECT cdp.create_trait('total', aggregate => 'sum', event => 'Step', value => $$(properties->>'i')::numeric$$);
SELECT cdp.apply(3), cdp.apply(10), cdp.apply(1), cdp.apply(200), cdp.apply(20), cdp.apply(500), cdp.apply();
SELECT i.identifier, count(n.*), count(DISTINCT n.entry), min(n.at), max(n.at)
FROM cdp.identities i JOIN cdp.entries n ON n.owner = i.node_id GROUP BY i.identifier ORDER BY i.identifier::text;
SELECT count(*) AS wrong FROM cdp.entries n LEFT JOIN cdp.events e
ON e.id = n.entry AND e.xid = n.xid AND e.received_at = n.received_at AND e.occurred_at = n.at WHERE e.id IS NULL;
SELECT count(*) > 5 AS several_pieces FROM cdp.entry_pieces;
SELECT count(*) AS differ FROM cdp.identities i, LATERAL (SELECT * FROM cdp.entries_of(i.node_id) EXCEPT ALL SELECT * FROM cdp.entries WHERE owner = i.node_id) d;

-- pages of a timeline: the same rows as the log sorted
CREATE FUNCTION pg_temp.page_differs(identifier cdp.identifier, before timestamptz, max int) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM (
		SELECT row_number() OVER () AS n, t.message_id FROM cdp.timeline($1, $2, $3) t
	) t FULL JOIN (
		SELECT row_number() OVER (ORDER BY e.occurred_at DESC, e.id DESC) AS n, e.message_id
		FROM cdp.events e WHERE e.identifiers[1]::text = $1::text AND e.occurred_at < coalesce($2, 'infinity')
		ORDER BY 1 LIMIT $3
	) e USING (n, message_id) WHERE t IS NULL OR e IS NULL
$$;
SELECT who, max, sum(pg_temp.page_differs(who::cdp.identifier, before, max)) AS differ
FROM unnest(ARRAY['user_id:busy', 'user_id:rare']) who, unnest(ARRAY[1, 2, 7, 100, NULL]) max,
	 (SELECT NULL::timestamptz UNION ALL SELECT timestamptz '2026-02-01' + g * interval '17 minutes' FROM generate_series(0, 20) g) b(before)
GROUP BY who, max ORDER BY who, max;

-- many of one time: no row is lost or seen twice between two pages
INSERT INTO cdp.events (type, event, identifiers, occurred_at)
SELECT 'track', 'Same', '{user_id:same}', timestamptz '2026-02-01' + i / 40 * interval '1 minute' FROM generate_series(1, 330) i;
SELECT cdp.apply();
SELECT max, p.* FROM unnest(ARRAY[1, 7, 40, 100]) max, LATERAL (
	WITH RECURSIVE page(n, at, id) AS (
		SELECT 0, 'infinity'::timestamptz, NULL::bigint
		UNION ALL
		SELECT p.n + 1, t.at, t.id
		FROM page p, LATERAL (SELECT t.at, t.id FROM cdp.timeline('user_id:same'::cdp.identifier, p.at, max, p.id) t
							  ORDER BY t.at, t.id LIMIT 1) t
	), shown AS (
		SELECT t.id FROM page p, cdp.timeline('user_id:same'::cdp.identifier, p.at, max, p.id) t
	)
	SELECT (SELECT count(*) - 1 FROM page) AS pages, count(*) AS shown, count(DISTINCT s.id) AS different FROM shown s) p;

-- earlier copies of messages replace entries in pieces and in the row
INSERT INTO cdp.events (message_id, type, event, identifiers, properties, occurred_at)
SELECT 'm' || i, 'track', 'Step', ARRAY['user_id:' || CASE WHEN i % 10 = 0 THEN 'rare' ELSE 'busy' END]::cdp.identifier[],
	   jsonb_build_object('i', -i), '2026-01-01'
FROM unnest(ARRAY[1, 2, 3, 400, 401, 990, 998, 999, 1000]) i;
SELECT cdp.apply();
SELECT i.identifier, count(n.*), count(DISTINCT n.entry), min(n.at), max(n.at)
FROM cdp.identities i JOIN cdp.entries n ON n.owner = i.node_id GROUP BY i.identifier ORDER BY i.identifier::text;
SELECT cdp.profile('user_id:busy') -> 'traits' AS busy, cdp.profile('user_id:rare') -> 'traits' AS rare;
SELECT * FROM cdp.verify();

-- a trait that comes later reads all of them
SELECT cdp.create_trait('largest', aggregate => 'max', event => 'Step', value => $$(properties->>'i')::numeric$$);
SELECT cdp.profile('user_id:busy') -> 'traits' ->> 'largest' AS busy, cdp.profile('user_id:rare') -> 'traits' ->> 'largest' AS rare;
