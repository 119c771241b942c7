-- Entries made to break the applier: it rejects them or takes them, and the
-- neighbours are applied in the same batch.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET cdp.now = '2026-03-01 12:00Z';
\set SHOW_CONTEXT never

SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_trait('longest', aggregate => 'max', value => $$properties->>'text'$$);
SELECT cdp.create_trait('kinds', aggregate => 'unique_count', value => $$properties->>'text'$$);
SELECT cdp.create_trait('often', aggregate => 'most_frequent', value => $$properties->>'text'$$);
SELECT cdp.create_trait('total', aggregate => 'sum', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_trait('floats', aggregate => 'sum', value => $$(properties->>'amount')::float8$$);
SELECT cdp.create_trait('latest', aggregate => 'last', value => $$properties$$);
SELECT cdp.create_trait('when_', aggregate => 'min', value => $$(properties->>'when')::timestamptz$$);
SELECT cdp.create_segment('much', 'total > 10 AND did(''x'', within => ''1 day'')');
SELECT cdp.create_segment('division', '1 / (n - 3) > 0');

-- long: random text, which does not compress
CREATE FUNCTION noise(bytes int, seed int) RETURNS text LANGUAGE sql AS $$
	SELECT left(string_agg(md5(seed || ' ' || i), ''), bytes) FROM generate_series(0, bytes / 32) i $$;
INSERT INTO cdp.events (message_id, source, type, event, identifiers, properties, occurred_at) VALUES
	('good 1', 's', 'track', 'x', '{user_id:good}', '{"text": "a", "amount": 6}', '2026-03-01'),
	(noise(1025, 1), 's', 'track', 'x', '{user_id:p1}', NULL, '2026-03-01'),
	('long source', noise(5000, 2), 'track', 'x', '{user_id:p1}', NULL, '2026-03-01'),
	(noise(5000, 3), 's', 'merge', NULL, '{user_id:p1,user_id:p2}', NULL, '2026-03-01'),
	('undo', 's', 'undo', NULL, '{}', jsonb_build_object('entry', noise(5000, 4)), '2026-03-01'),
	('long id', 's', 'track', 'x', ARRAY['user_id:' || noise(5000, 5)]::cdp.identifier[], NULL, '2026-03-01'),
	('long key', 's', 'identify', NULL, '{user_id:good}', jsonb_build_object(noise(5000, 6), 1, 'plan', 'x'), '2026-03-01'),
	('long value', 's', 'identify', NULL, '{user_id:good}', jsonb_build_object('bio', noise(3000000, 7)), '2026-03-01'),
	('long event', 's', 'track', noise(100000, 8), '{user_id:good}', NULL, '2026-03-01'),
	('long text', 's', 'track', 'x', '{user_id:good}', jsonb_build_object('text', noise(200000, 9)), '2026-03-01'),
	('many keys', 's', 'identify', NULL, '{user_id:good}', (SELECT jsonb_object_agg('key' || i, i) FROM generate_series(1, 3000) i), '2026-03-01'),
	('many names', 's', 'track', 'x', (SELECT array_agg(('cookie:c' || i)::cdp.identifier) FROM generate_series(1, 3000) i), NULL, '2026-03-01'),
	('huge number', 's', 'track', 'x', '{user_id:good}', '{"amount": 1e400}', '2026-03-01'),
	('nan', 's', 'track', 'x', '{user_id:good}', '{"amount": "NaN"}', '2026-03-01'),
	('infinite', 's', 'track', 'x', '{user_id:inf}', '{"amount": "Infinity"}', '2026-03-01'),
	('minus infinite', 's', 'track', 'x', '{user_id:inf}', '{"amount": "-Infinity"}', '2026-03-01'),
	('not a number', 's', 'track', 'x', '{user_id:good}', '{"amount": "12 apples", "when": "yesterday, or so"}', '2026-03-01'),
	('first day', 's', 'track', 'x', '{user_id:old}', '{"when": "4714-11-24 BC"}', '4714-11-24 00:00:00+00 BC'),
	('last day', 's', 'track', 'x', '{user_id:old}', '{"when": "294276-12-31"}', '294276-12-31 23:59:59.999999+00'),
	('deep', 's', 'track', 'x', '{user_id:good}', (repeat('[', 2000) || repeat(']', 2000))::jsonb, '2026-03-01'),
	('scalar', 's', 'track', 'x', '{user_id:good}', '"just a string"', '2026-03-01'),
	('good 2', 's', 'track', 'x', '{user_id:good}', '{"text": "a", "amount": 6}', '2026-03-01');
-- one entry may name very many
SET cdp.max_new_identifiers_per_hour = 0;
SELECT cdp.apply();
SELECT left(message_id, 20) AS message_id, reason, sqlstate FROM cdp.rejected ORDER BY entry;
SELECT profile_id, first_seen, last_seen, length(traits::text) > 100 AS traits, traits->'n' AS n, traits->'total' AS total, traits->'floats' AS floats, traits->'kinds' AS kinds, left(traits->>'often', 10) AS often
	FROM cdp.profiles ORDER BY profile_id;
SELECT name, errors, nulls FROM cdp.stat_traits WHERE errors > 0 ORDER BY name;
SELECT segment, profile_id FROM cdp.memberships ORDER BY 1, 2;
SELECT station, key FROM cdp.verify();
