-- What is undone has never been: 300 random stories, each told twice in the same
-- log, once (world a) with a decision or an event that is undone in the end and
-- once (world b) without.  Whatever came before and after it, both worlds must
-- end with the same identities, traits and memberships.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = cdp, public;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01';
SELECT create_trait('orders', aggregate => 'count', event => 'Order');
SELECT create_trait('revenue', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Order');
SELECT create_trait('recent', aggregate => 'count', event => 'Order', within => '20 days');
SELECT create_trait('first_product', aggregate => 'first', value => $$properties->>'product'$$);
SELECT create_trait('plan', type => 'text');
SELECT create_segment('buyers', 'orders >= 2');
SELECT create_segment('big', $$revenue > 100 AND plan = 'pro'$$);
SELECT alter_identifier_kind('device_id', shared => 'newest', max_per_profile => 2);
SELECT alter_identifier_kind('email', max_per_profile => 1, within => '1 month', policy => 'refuse');

-- the stories: n is the story, phase 1 before, 2 the thing itself, 3 after it
CREATE FUNCTION name(n int, i int) RETURNS text LANGUAGE sql AS $$
	SELECT (ARRAY['user_id:u1', 'user_id:u2', 'anonymous_id:a1', 'anonymous_id:a2', 'email:e1', 'email:e2', 'device_id:d1', 'cookie:c1'])[i] || '.' || n
$$;
SELECT setseed(0.42);
CREATE TABLE stories AS
SELECT n, phase, m, kind,
	CASE WHEN kind = 'detach' THEN 'detach' WHEN kind IN ('merge', 'split') THEN kind
		 WHEN kind = 'identify' OR random() < 0.3 THEN 'identify' ELSE 'track' END AS type,
	-- two or three names, not the same twice
	(SELECT array_agg(i ORDER BY r) FROM (SELECT i, random() AS r FROM generate_series(1, 8) i WHERE m IS NOT NULL ORDER BY 2
		LIMIT CASE WHEN kind = 'detach' THEN 1 WHEN kind IN ('merge', 'split') OR random() < 0.7 THEN 2 ELSE 3 END) x) AS names,
	timestamptz '2026-01-01' + random() * interval '55 days' AS at,
	jsonb_build_object('revenue', (random() * 80)::int, 'product', 'p' || (random() * 3)::int) AS event_properties,
	jsonb_build_object('plan', CASE WHEN random() < 0.5 THEN 'pro' ELSE 'free' END, 'k' || (random() * 2)::int, (random() * 5)::int) AS traits
FROM (SELECT n, phase, m, CASE WHEN phase = 2 THEN (ARRAY['merge', 'split', 'detach', 'event', 'identify'])[1 + n % 5] END AS kind
	  FROM generate_series(1, 300) n, generate_series(1, 3) phase,
		   LATERAL generate_series(1, CASE phase WHEN 2 THEN 1 ELSE 1 + n % 7 END) m) s;

CREATE FUNCTION tell(the_phase int) RETURNS bigint LANGUAGE sql AS $$
	WITH told AS (
		INSERT INTO cdp.events (source, message_id, type, event, identifiers, properties, occurred_at)
		SELECT CASE WHEN s.kind IN ('merge', 'split', 'detach') THEN 'manual' ELSE 'web' END,
			format('%s %s.%s %s', the_phase, s.n, s.m, w), s.type, CASE WHEN s.type = 'track' THEN 'Order' END,
			(SELECT array_agg((name(s.n, i) || CASE WHEN name(s.n, i) LIKE 'email%' THEN '@' || w || '.com' ELSE '.' || w END)::identifier ORDER BY o)
			 FROM unnest(s.names) WITH ORDINALITY u(i, o)),
			CASE s.type WHEN 'track' THEN s.event_properties WHEN 'identify' THEN s.traits ELSE '{}' END, s.at
		FROM stories s, unnest(ARRAY['a', 'b']) w
		WHERE s.phase = the_phase AND (the_phase <> 2 OR w = 'a')
		ORDER BY md5(s.n || ' ' || s.m || w)
		RETURNING 1)
	SELECT count(*) FROM told
$$;
-- how the worlds stand: one text for each story and world
CREATE VIEW worlds AS
SELECT p.n, p.world, string_agg(p.profile, E'\n' ORDER BY p.profile COLLATE "C") AS state
FROM (SELECT split_part(min(name), '.', 2)::int AS n, min(world) AS world,
		string_agg(name || ' ' || first_seen || ' ' || last_seen, ', ' ORDER BY name COLLATE "C")
		|| ' ' || COALESCE((SELECT string_agg(t.key || '=' || t.value, ' ' ORDER BY t.key COLLATE "C") FROM jsonb_each_text(cdp.profile(min(identifier::text)::identifier)->'traits') t), '')
		|| ' ' || COALESCE((SELECT string_agg(m.segment, ' ' ORDER BY m.segment) FROM memberships m WHERE m.profile_id = i.profile_id), '') AS profile
	  FROM (SELECT profile_id, identifier, first_seen, last_seen, regexp_replace(identifier::text, '([.@])([ab])(\.com)?$', '') AS name,
				substring(identifier::text FROM '[.@]([ab])(\.com)?$') AS world FROM identities) i
	  GROUP BY i.profile_id) p
GROUP BY p.n, p.world;

SET cdp.batch_size = 137;
SELECT tell(1) AS before;
SELECT apply() > 0 AS applied;
SELECT tell(2) AS the_thing;
SELECT apply();
SELECT tell(3) AS after;
SELECT apply() > 0 AS applied;
CREATE TABLE done AS TABLE worlds;
-- it makes a difference, mostly
SELECT s.kind, count(*) AS stories, count(*) FILTER (WHERE a.state IS DISTINCT FROM b.state) > 20 AS differ
FROM stories s LEFT JOIN done a ON a.n = s.n AND a.world = 'a' LEFT JOIN done b ON b.n = s.n AND b.world = 'b'
WHERE s.phase = 2 GROUP BY 1 ORDER BY 1;
CREATE TABLE undone AS
SELECT n, CASE WHEN kind IN ('merge', 'split', 'detach') THEN 'manual' ELSE 'web' END AS source,
	undo(format('2 %s.1 a', n), CASE WHEN kind IN ('merge', 'split', 'detach') THEN 'manual' ELSE 'web' END) AS undo
FROM stories WHERE phase = 2;
SELECT apply();
-- and none when it is undone
SELECT s.kind, count(*) AS stories, count(*) FILTER (WHERE a.state IS DISTINCT FROM b.state) AS differ
FROM stories s LEFT JOIN worlds a ON a.n = s.n AND a.world = 'a' LEFT JOIN worlds b ON b.n = s.n AND b.world = 'b'
WHERE s.phase = 2 GROUP BY 1 ORDER BY 1;
SELECT * FROM verify();
-- an undo that is undone: all is as it was before it
SELECT count(undo(undo, source)) FROM undone;
SELECT apply();
SELECT count(*) AS worlds, count(*) FILTER (WHERE d.state IS DISTINCT FROM w.state) AS differ
FROM done d FULL JOIN worlds w ON w.n = d.n AND w.world = d.world;
SELECT * FROM verify();
