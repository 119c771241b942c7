-- Entries expire of somebody who has many: what is left of them is added up once,
-- at the end of the pass.
\set QUIET on
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2025-12-28 12:00+00';

DO $$ BEGIN PERFORM cdp.create_trait('pings', aggregate => 'count', event => 'Ping'), cdp.create_trait('total', aggregate => 'sum', value => $t$(properties->>'v')::int$t$),
	cdp.create_trait('recent', aggregate => 'count', within => '300 days'), cdp.create_trait('words', aggregate => 'unique_count', value => $t$properties->>'w'$t$),
	cdp.create_trait('plan', type => 'text'), cdp.create_trait('team_pings', aggregate => 'count', event => 'Ping', entity => 'account'),
	cdp.create_segment('large', 'total > 17950000'); END $$;
-- when somebody is folded anew; and where memory stays until the batch ends
CREATE TABLE refolded (node_id bigint, kept bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO public.refolded SELECT OLD.owner, sum(total_bytes) FROM pg_backend_memory_contexts WHERE name = 'SPI Proc';
	RETURN NULL; END $$;
CREATE TRIGGER note AFTER DELETE ON cdp.refolds FOR EACH ROW EXECUTE FUNCTION note();
-- 6,000 of one, and of another one some, in between
INSERT INTO cdp.events (type, event, identifiers, properties, occurred_at, received_at)
SELECT CASE WHEN n % 2000 = 0 THEN 'identify' ELSE 'track' END, 'Ping', CASE WHEN n % 20 = 0 THEN '{user_id:one,group_id:team}' WHEN n % 31 = 0 THEN '{user_id:one,anonymous_id:b}' ELSE '{user_id:one}' END::cdp.identifier[],
	jsonb_build_object('v', n, 'w', 'w' || n % 50, 'plan', 'p' || n), t, t
FROM (SELECT n, '2025-01-01 00:00+00'::timestamptz + n * interval '1 hour' AS t FROM generate_series(1, 6000) n) x;
INSERT INTO cdp.events (event, identifiers, occurred_at, received_at)
SELECT 'Ping', ARRAY['user_id:other' || n % 3]::cdp.identifier[], t, t FROM (SELECT n, '2025-01-01 01:00+00'::timestamptz + n * interval '1 day' AS t FROM generate_series(1, 240) n) x;
SELECT FROM cdp.apply(100000);
CREATE VIEW seen AS SELECT p->'traits' AS traits, p->'segments' AS segments, p->>'first_seen' AS first_seen, p->'identifiers' AS identifiers, (SELECT a.traits FROM cdp.accounts a) AS account
	FROM cdp.profile('user_id:one') p;
-- the same from the log
CREATE VIEW logged AS SELECT count(*) FILTER (WHERE type = 'track') AS pings, sum((properties->>'v')::int) FILTER (WHERE type = 'track') AS total,
	count(*) FILTER (WHERE type = 'track' AND occurred_at > cdp.clock() - interval '300 days') AS recent,
	count(*) FILTER (WHERE type = 'track' AND id >= (SELECT min(f.id) FROM cdp.events f WHERE 'group_id:team' = ANY (f.identifiers::text[]))) AS team_pings FROM cdp.events WHERE 'user_id:one' = ANY (identifiers::text[]);
SELECT * FROM seen;
SELECT * FROM logged;

-- many steps, and what is left is added up once
SELECT FROM cdp.set_retention('345 days');
SELECT FROM cdp.apply();
SELECT (SELECT count(*) FROM cdp.events) AS kept, (SELECT count(*) FROM refolded) AS anew, (SELECT count(*) FROM cdp.refolds) AS later;
SELECT * FROM seen;
SELECT * FROM logged;
SELECT kind, cause, count(*) FROM cdp.changes WHERE seq > 1 GROUP BY 1, 2 ORDER BY 1, 2;

-- the same for a part of them, an identifier
DO $$ BEGIN PERFORM cdp.set_retention('340 days', kind => 'anonymous_id'), cdp.set_retention('270 days', trait => 'plan'); END $$;
SELECT FROM cdp.apply();
SELECT * FROM seen;
SELECT count(*) AS anew, (SELECT count(*) FROM cdp.refolds) AS later FROM refolded;
SELECT * FROM logged;

-- an erasure whose entries name somebody with many is done after them
SELECT FROM cdp.track('Ping', user_id => 'two', identifiers => '{email:two@example.com}');
SELECT FROM cdp.track('Ping', user_id => 'one', properties => '{"v": 5, "w": "two@example.com"}');
SELECT FROM cdp.apply();
SELECT traits->'words' AS words FROM seen;
SELECT FROM cdp.erase('user_id:two');
SELECT FROM cdp.apply();
SELECT state, (SELECT count(*) FROM refolded) AS anew, (SELECT count(*) FROM cdp.refolds) AS later FROM cdp.erasures;
SELECT traits->'words' AS words FROM seen;
SELECT * FROM logged;
-- of the entries that are folded, none stays in memory
SELECT count(*) FILTER (WHERE kept > 2000000) AS kept FROM refolded;
