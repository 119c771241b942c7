-- Who is erased has never been: random stories, each told in world a, where
-- somebody is erased in the end, and in world b as if that person had never been
-- there: without the entries that are the person's, and without the identifiers
-- in those of others.  Both worlds must end with the same identities, links,
-- traits, memberships, accounts and put aside entries; and the person's values
-- must be nowhere.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET search_path = public, cdp;
SET TimeZone = 'UTC';
SET cdp.now = '2026-03-01';
SELECT create_trait('orders', aggregate => 'count', event => 'Order');
SELECT create_trait('revenue', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Order');
SELECT create_trait('recent', aggregate => 'count', event => 'Order', within => '20 days');
SELECT create_trait('first_product', aggregate => 'first', value => $$properties->>'product'$$);
SELECT create_trait('plan', type => 'text');
SELECT create_trait('friend', type => 'text');
SELECT create_trait('account_revenue', entity => 'account', aggregate => 'sum', value => $$(properties->>'revenue')::numeric$$, event => 'Order');
SELECT create_trait('buyers', entity => 'account', aggregate => 'count', filter => 'orders > 1', options => '{"over": "members"}');
SELECT create_segment('buyers', 'orders >= 2');
SELECT create_segment('big', $$revenue > 100 AND plan = 'pro'$$);
SELECT create_segment('rich', 'account_revenue > 100', entity => 'account');
SELECT alter_identifier_kind('email', max_per_profile => 1, within => '1 month', policy => 'refuse');
SELECT alter_identifier_kind('phone', max_per_profile => 1, policy => 'quarantine');
SELECT alter_identifier_kind('device_id', shared => 'newest');

-- names of story n in a world
CREATE FUNCTION name(n int, i int, world text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN i = 9 THEN format('phone:+4930%s%s', 1000000 + n, ascii(world)) WHEN i = 10 THEN format('group_id:company-%s-%s', n, world)
		WHEN i = 11 THEN format('group_id:firm-%s-%s', n, world)
		ELSE (ARRAY['user_id:user-1', 'user_id:user-2', 'user_id:user-3', 'anonymous_id:visitor-1', 'anonymous_id:visitor-2', 'email:first', 'email:second', 'device_id:tablet'])[i]
			|| format('-%s-%s', n, world) || CASE WHEN i IN (6, 7) THEN '@example.com' ELSE '' END END
$$;
SELECT setseed(0.17);
CREATE TABLE stories AS
SELECT n, m, CASE WHEN r < 0.45 THEN 'track' WHEN r < 0.65 THEN 'identify' WHEN r < 0.78 THEN 'group' WHEN r < 0.82 THEN 'merge' WHEN r < 0.86 THEN 'split'
		WHEN r < 0.88 THEN 'detach' WHEN r < 0.93 THEN 'undo' WHEN r < 0.96 THEN 'copy' ELSE 'nonsense' END AS type,
	(SELECT array_agg(i ORDER BY o) FROM (SELECT i, random() AS o FROM generate_series(1, 9) i WHERE m IS NOT NULL ORDER BY 2
		LIMIT CASE WHEN r BETWEEN 0.78 AND 0.86 OR random() < 0.6 THEN 2 WHEN r < 0.88 AND random() < 0.5 THEN 1 ELSE 3 END) x) AS names,
	(random() * 8)::int + 1 AS other, 10 + (random())::int AS account, 1 + (random() * m)::int AS target,
	timestamptz '2026-01-01' + random() * interval '55 days' AS at, (random() * 80)::int AS revenue, (random() * 3)::int AS product, random() AS r2
FROM (SELECT n, m, random() AS r FROM generate_series(1, 20) n, generate_series(1, 6 + n % 9) m) s;

CREATE FUNCTION tell(world text) RETURNS bigint LANGUAGE sql AS $$
	WITH told AS (
		INSERT INTO cdp.events (source, message_id, type, event, identifiers, properties, context, occurred_at)
		SELECT 'web', format('%s.%s %s', s.n, CASE WHEN s.type = 'copy' THEN s.target ELSE s.m END, world),
			CASE WHEN s.type = 'copy' THEN 'track' ELSE s.type END,
			CASE WHEN s.type IN ('track', 'copy') THEN 'Order' END,
			CASE WHEN s.type = 'undo' THEN '{}' ELSE
			(SELECT array_agg(name(s.n, i, world)::identifier ORDER BY o)
			 FROM unnest(CASE s.type WHEN 'detach' THEN s.names[1:1] WHEN 'merge' THEN s.names[1:2] WHEN 'split' THEN s.names[1:2]
				WHEN 'group' THEN s.names || s.account ELSE s.names END) WITH ORDINALITY u(i, o)) END,
			CASE s.type WHEN 'undo' THEN jsonb_build_object('entry', format('%s.%s %s', s.n, s.target, world))
				WHEN 'identify' THEN jsonb_build_object('plan', CASE WHEN s.r2 < 0.5 THEN 'pro' ELSE 'free' END, 'friend', value(name(s.n, s.other, world)::identifier))
				ELSE jsonb_build_object('revenue', s.revenue, 'product', 'p' || s.product, 'with', jsonb_build_array(upper(value(name(s.n, s.other, world)::identifier)), 1)) END,
			CASE WHEN s.r2 < 0.2 THEN jsonb_build_object('note', 'for ' || value(name(s.n, s.other, world)::identifier) || '!') END,
			s.at
		FROM stories s ORDER BY md5(s.n || ' ' || s.m)
		RETURNING 1)
	SELECT count(*) FROM told
$$;
SELECT tell('a') > 150 AS told;
SELECT apply() > 150 AS applied;

-- the person: whoever has the first user by now, with all names; devices that
-- entries of others name, too, are not the person's alone
CREATE TABLE persons AS
SELECT i.profile_id, n, i.identifier AS named FROM generate_series(1, 20) n JOIN identities i ON i.identifier = name(n, 1 + n % 9, 'a')::identifier;
CREATE TABLE rows AS
SELECT e.*, split_part(e.message_id, '.', 1)::int AS n, c.names,
	c.names[1] AS owner, EXISTS (SELECT FROM owned_entries o JOIN identities i ON i.node_id = o.owner WHERE o.entry = e.id) AS counts
FROM events e CROSS JOIN LATERAL (
	SELECT array_agg(canonical(u.i)::text ORDER BY k.priority, u.o) AS names
	FROM unnest(e.identifiers) WITH ORDINALITY u(i, o) JOIN identifier_kinds k ON k.kind = kind(u.i) AND k.entity = 'profile') c;
CREATE TABLE whose AS
SELECT p.n, i.identifier::text AS name, kind(i.identifier) IN ('anonymous_id', 'device_id') AND EXISTS (
		SELECT FROM rows r JOIN identities o ON o.identifier = r.owner::identifier
		WHERE r.n = p.n AND r.counts AND o.profile_id <> p.profile_id AND i.identifier::text = ANY (r.names)) AS shared
FROM persons p JOIN identities i ON i.profile_id = p.profile_id;
SELECT count(*) > 10 AS persons, (SELECT count(*) > 2 FROM whose WHERE shared) AS shared FROM persons;

-- world b, as if they had never been
CREATE FUNCTION without(properties jsonb, values_ text[]) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	v text;
BEGIN
	FOREACH v IN ARRAY coalesce(values_, '{}') LOOP
		IF properties ->> 'friend' = v THEN properties := properties - 'friend'; END IF;
		IF lower(properties -> 'with' ->> 0) = v THEN properties := jsonb_set(properties, '{with}', '[1]'); END IF;
		IF properties ->> 'note' LIKE '%' || v || '%' THEN properties := jsonb_set(properties, '{note}', to_jsonb(replace(properties ->> 'note', v, '[erased]'))); END IF;
	END LOOP;
	RETURN properties;
END
$$;
CREATE FUNCTION other_world(value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT regexp_replace(regexp_replace(regexp_replace($1, '-([aA])(?=[^a-zA-Z]|$)', '-b', 'g'), '(\d\.\d+) a', '\1 b', 'g'), '(\+4930\d{7})97', '\198', 'g')
$$;
INSERT INTO events (source, message_id, type, event, identifiers, properties, context, occurred_at, received_at)
SELECT r.source, other_world(r.message_id), r.type, r.event,
	(SELECT coalesce(array_agg(other_world(u.i::text)::identifier ORDER BY u.o), '{}') FROM unnest(r.identifiers) WITH ORDINALITY u(i, o) WHERE u.i::text <> ALL (coalesce(w.own, '{}'))),
	other_world(without(r.properties, w.vals)::text)::jsonb, other_world(without(r.context, w.vals)::text)::jsonb, r.occurred_at, r.received_at
FROM rows r LEFT JOIN LATERAL (
	SELECT array_agg(w.name) FILTER (WHERE NOT w.shared) AS own, array_agg(w.name) FILTER (WHERE w.shared) AS shared,
		array_agg(value(w.name::identifier)) FILTER (WHERE NOT w.shared) AS vals FROM whose w WHERE w.n = r.n) w ON true
WHERE NOT coalesce(r.owner = ANY (w.own), false) AND NOT coalesce(r.owner = ANY (w.shared) AND r.counts, false)
	AND NOT (r.type IN ('merge', 'split', 'detach', 'nonsense') AND coalesce(r.names && w.own, false))
ORDER BY r.id;
SELECT apply() > 100 AS applied;
SELECT count(*) AS differences FROM verify();

SELECT count(erase(named::identifier)) > 10 AS erased FROM persons;
SELECT apply() > 10 AS applied;
SELECT state, count(*) > 10 AS persons FROM erasures GROUP BY 1;
SELECT station, key, expected, found FROM verify() LIMIT 5;

-- the log is what it was to be
CREATE FUNCTION sides(what text, a text, b text) RETURNS TABLE (what_ text, side text, story text, row_ text) LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format('WITH a AS (SELECT other_world(x::text) AS x FROM (%1$s) x), b AS (SELECT x::text FROM (%2$s) x)
		SELECT %3$L, s.side, substring(s.x FROM ''-(\d+)-b''), s.x FROM (
			(SELECT ''erased'' AS side, x FROM (SELECT x FROM a EXCEPT ALL SELECT x FROM b) d) UNION ALL
			(SELECT ''never there'', x FROM (SELECT x FROM b EXCEPT ALL SELECT x FROM a) d)) s ORDER BY 3, 4, 2 LIMIT 10', a, b, what);
END
$$;
CREATE FUNCTION both_worlds(what text, query text) RETURNS TABLE (what_ text, side text, story text, row_ text) LANGUAGE sql AS $$
	SELECT * FROM sides(what, format('SELECT x.* FROM (%s) x WHERE NOT x::text ~ ''-\d+-b|\.\d+ b|4930\d{7}98''', query), format('SELECT x.* FROM (%s) x WHERE x::text ~ ''-\d+-b|\.\d+ b|4930\d{7}98''', query))
$$;
SELECT * FROM both_worlds('log', $$SELECT message_id, type, identifiers, properties, context, occurred_at FROM events WHERE type <> 'erase'$$);
SELECT * FROM both_worlds('identities', $$SELECT i.identifier, i.first_seen, i.last_seen, p.names FROM identities i JOIN (SELECT profile_id, array_agg(identifier ORDER BY other_world(identifier::text)) AS names FROM identities GROUP BY 1) p USING (profile_id)$$);
SELECT * FROM both_worlds('profiles', $$SELECT profile(i.identifier) - 'profile_id' #- '{identifiers}' AS p, i.identifier FROM identities i$$);
SELECT * FROM both_worlds('links', $$SELECT least(x.identifier::text, y.identifier::text), greatest(x.identifier::text, y.identifier::text), l.at, l.origin, l.status, l.reason, l.detail, l.last_at
	FROM links l JOIN identities x ON x.node_id = l.a JOIN identities y ON y.node_id = l.b$$);
SELECT * FROM both_worlds('accounts', $$SELECT account(identifier) - 'account_id' FROM account_identities$$);
SELECT * FROM both_worlds('evidence', $$SELECT i.identifier, a.identifier, e.at, e.leaves FROM account_evidence e JOIN account_identities a USING (account_id) LEFT JOIN identities i ON i.node_id = e.node_id$$);
SELECT * FROM both_worlds('decisions', $$SELECT d.message_id, d.type, least(x.identifier::text, y.identifier::text) AS a, greatest(x.identifier::text, y.identifier::text) AS b, d.target, d.effective FROM decisions d LEFT JOIN identities x ON x.node_id = d.a LEFT JOIN identities y ON y.node_id = d.b$$);
SELECT * FROM both_worlds('memberships', $$SELECT i.identifier, m.segment FROM memberships m JOIN identities i ON i.profile_id = m.profile_id$$);
SELECT * FROM both_worlds('owned', $$SELECT i.identifier, o.at, o.withheld, e.message_id FROM owned_entries o JOIN identities i ON i.node_id = o.owner JOIN events e ON e.id = o.entry$$);
SELECT * FROM both_worlds('withheld', $$SELECT message_id, kind, held FROM withheld_entries$$);
SELECT * FROM both_worlds('rejected', $$SELECT message_id, reason, detail FROM rejected$$);
-- nothing is left over: every reference leads somewhere
SELECT count(*) AS lost FROM links l WHERE NOT EXISTS (SELECT FROM identities i WHERE i.node_id = l.a) OR NOT EXISTS (SELECT FROM identities i WHERE i.node_id = l.b) OR NOT EXISTS (SELECT FROM events e WHERE e.id = l.entry);
SELECT count(*) AS lost FROM entries o WHERE NOT EXISTS (SELECT FROM events e WHERE e.id = o.entry AND e.xid = o.xid) OR NOT EXISTS (SELECT FROM identities i WHERE i.node_id = o.owner);
SELECT (SELECT count(*) FROM history_entries h WHERE NOT EXISTS (SELECT FROM events e WHERE e.id = h.entry)) AS history, (SELECT count(*) FROM erasure_entries) AS work,
	(SELECT count(*) FROM entry_pieces p WHERE NOT EXISTS (SELECT FROM identities i WHERE i.node_id = p.owner)) AS pieces,
	(SELECT count(*) FROM timers t WHERE NOT EXISTS (SELECT FROM identities i WHERE i.node_id = t.profile_id) AND NOT EXISTS (SELECT FROM account_identities a WHERE a.account_id = t.profile_id)) AS timers,
	(SELECT count(*) FROM account_nodes n WHERE n.node_id <> 0 AND NOT EXISTS (SELECT FROM identities i WHERE i.node_id = n.node_id)) AS pairs,
	(SELECT count(*) FROM account_values v WHERE NOT EXISTS (SELECT FROM identities i WHERE i.profile_id = v.profile_id)) AS shares,
	(SELECT count(*) FROM segment_members m JOIN segment_definitions s ON s.id = m.segment_id AND s.entity = 'profile' WHERE NOT EXISTS (SELECT FROM identities i WHERE i.node_id = m.profile_id) AND NOT EXISTS (SELECT FROM account_identities a WHERE a.account_id = m.profile_id)) AS memberships;

-- their values are nowhere, in no page, once VACUUM has been there
VACUUM;
SELECT erasure_clean() > 0 AS cleaned;
CREATE VIEW found AS
SELECT DISTINCT c.oid::regclass AS relation, relkind, place
FROM pg_class c CROSS JOIN LATERAL erasure_scan(c.oid, (SELECT array_agg(value(name::identifier)) FROM whose WHERE NOT shared)) s
WHERE c.relkind IN ('r', 'i', 't') AND (c.relnamespace = 'cdp'::regnamespace OR c.oid IN (SELECT reltoastrelid FROM pg_class WHERE relnamespace = 'cdp'::regnamespace))
ORDER BY 1, 2, 3;
-- (an index keeps keys of rows that are gone where its pages are told apart)
SELECT * FROM found WHERE relkind <> 'i';
REINDEX SCHEMA cdp;
SELECT * FROM found;
