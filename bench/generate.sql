-- bench/generate.sql: a stream of events of a web shop, always the same one.
--
-- psql variables: events (how many), file (where COPY writes them, read by
-- COPY cdp.events (message_id, source, type, event, identifiers, properties,
-- context, occurred_at)).
--
-- 100,000 people for 1,000,000 events, some of them far more active than
-- others.  Everybody has a device; the first half are known by user_id, half
-- of those by e-mail too, and many have a second device: about 200,000
-- identifiers.  5 % of the events link identifiers (identify calls with two
-- or three of them); the others carry one.  Times advance over 60 days; 1 %
-- come a day late, 0.5 % come twice.

CREATE FUNCTION pg_temp.rnd(i bigint, seed int) RETURNS float8
LANGUAGE sql IMMUTABLE
RETURN (hashint8extended(i, seed) & 1073741823) / 1073741824.0::float8;

CREATE TEMP TABLE shop AS
	SELECT greatest(:events / 10, 20)::bigint AS people, :events::float8 AS events;

CREATE TEMP VIEW stream AS
WITH draw AS (
	SELECT i, people, events,
		   i % 20 = 7 AS linking,
		   pg_temp.rnd(i, 1) AS r1, pg_temp.rnd(i, 2) AS r2,
		   pg_temp.rnd(i, 3) AS r3, pg_temp.rnd(i, 4) AS r4
	FROM shop, generate_series(1, events::bigint) i
), who AS (
	SELECT *,
		   CASE WHEN linking THEN (r1 * people / 2)::bigint
				ELSE (r1 * r1 * people)::bigint END AS p
	FROM draw
)
SELECT 'm-' || CASE WHEN i % 200 = 199 THEN i - 5 ELSE i END AS message_id,
	   'web' AS source,
	   CASE WHEN linking THEN 'identify' WHEN r2 < 0.05 THEN 'page' ELSE 'track' END AS type,
	   CASE WHEN linking THEN NULL
			WHEN r2 < 0.05 THEN 'Home'
			WHEN r2 < 0.15 THEN 'Logged In'
			WHEN r2 < 0.22 THEN 'Order Completed'
			WHEN r2 < 0.30 THEN 'Product Added'
			ELSE 'Product Viewed' END AS event,
	   CASE WHEN linking AND r3 < 0.5 THEN ARRAY['user_id:u' || p, 'anonymous_id:b' || p]
			WHEN linking AND p % 2 = 0 THEN ARRAY['user_id:u' || p, 'email:u' || p || '@example.com', 'anonymous_id:a' || p]
			WHEN linking THEN ARRAY['user_id:u' || p, 'anonymous_id:a' || p]
			WHEN r3 < 0.3 AND p < people / 2 THEN ARRAY['user_id:u' || p]
			WHEN r3 < 0.4 AND p < people / 2 THEN ARRAY['anonymous_id:b' || p]
			ELSE ARRAY['anonymous_id:a' || p] END::text[] AS identifiers,
	   CASE WHEN linking
			THEN jsonb_build_object('plan', CASE WHEN r4 < 0.7 THEN 'free' ELSE 'plus' END,
									'country', (ARRAY['DE', 'FR', 'US', 'GB', 'NL'])[1 + (r2 * 5)::int % 5])
			WHEN r2 >= 0.15 AND r2 < 0.22
			THEN jsonb_build_object('order_id', 'o' || i, 'revenue', round((5 + 200 * r4)::numeric, 2),
									'currency', 'EUR', 'products', 1 + (r3 * 4)::int)
			ELSE jsonb_build_object('sku', 'P-' || (r4 * 5000)::int,
									'category', (ARRAY['tents', 'stoves', 'bags', 'boots', 'maps'])[1 + (r4 * 5)::int % 5],
									'price', round((1 + 300 * r4)::numeric, 2),
									'tier', CASE WHEN r4 > 0.8 THEN 'premium' ELSE 'basic' END) END AS properties,
	   jsonb_build_object('page', jsonb_build_object('path', '/c/' || (r4 * 100)::int),
						  'library', jsonb_build_object('name', 'web', 'version', '2.1')) AS context,
	   timestamptz '2026-03-01 00:00+00' + i * (interval '60 days' / events)
		 - CASE WHEN i % 100 = 42 THEN interval '1 day' ELSE interval '0' END AS occurred_at
FROM who;

COPY (SELECT * FROM stream) TO :'file';
