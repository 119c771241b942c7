--
-- Large tables: the rows that are there are logged in steps, while others
-- write; whatever happens meanwhile, in the end the entries are the rows.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';
SET cdp.backfill_at_once = 10;

CREATE TABLE sales (id int, part int, who int, amount numeric, note text, PRIMARY KEY (part, id)) PARTITION BY LIST (part);
CREATE TABLE sales_0 PARTITION OF sales FOR VALUES IN (0);
CREATE TABLE sales_1 (note text, amount numeric, who int, part int NOT NULL, id int NOT NULL);
ALTER TABLE sales ATTACH PARTITION sales_1 FOR VALUES IN (1);
CREATE TABLE sales_2 PARTITION OF sales FOR VALUES IN (2);
INSERT INTO sales SELECT g, g % 2, 1 + g % 7, g, repeat('x', 200) FROM generate_series(1, 2000) g;
CREATE FUNCTION said(r sales) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('amount', r.amount, 'id', r.id) $$;

CREATE FUNCTION differences() RETURNS TABLE (what text, n bigint) LANGUAGE sql AS $$
	WITH said AS (
		SELECT e.properties FROM cdp.events e WHERE e.source = 'sales' AND e.type = 'track'
		  AND NOT EXISTS (SELECT FROM cdp.events u WHERE u.type = 'undo' AND u.properties->>'entry' = '#' || e.id)
	), is_there AS (SELECT said(s) FROM sales s WHERE s.who IS NOT NULL)
	SELECT 'missing', count(*) FROM (SELECT * FROM is_there EXCEPT ALL SELECT * FROM said) m
	UNION ALL SELECT 'invented', count(*) FROM (SELECT * FROM said EXCEPT ALL SELECT * FROM is_there) m
$$;

SELECT cdp.attach('sales', '{"event": "Sale", "identifiers": {"user_id": "who"}, "filter": "who IS NOT NULL", "properties": "public.said(r)"}');
SELECT name, status FROM cdp.attachments;
SELECT what, phase, done, total, started_at FROM cdp.progress;
SELECT count(*) FROM cdp.events;
-- what comes is seen by the triggers from the first moment
UPDATE sales SET amount = amount + 0.5 WHERE id = 1;
SELECT count(*) FROM cdp.events;
SELECT count(*), sum(logged) > 0 AND sum(logged) < 200 AS some, bool_or(finished), max(error) FROM cdp.load_attachments(100);
SELECT what, phase, done > 0 AND done < 200 AS begun, total BETWEEN 1500 AND 2500 AS about FROM cdp.progress;

-- rows that have been read, and rows that have not: changed, moved, gone, new
UPDATE sales SET amount = amount + 1 WHERE id % 10 = 0;
UPDATE sales SET part = 1 - part WHERE id % 10 = 1;
DELETE FROM sales WHERE id % 10 = 2;
UPDATE sales SET who = NULL WHERE id % 10 = 3;
INSERT INTO sales SELECT g, g % 3, 1 + g % 7, g, 'new' FROM generate_series(2001, 2050) g;
SELECT sum(logged) > 0 FROM cdp.load_attachments(100);
BEGIN;
SELECT sum(logged) > 0 FROM cdp.load_attachments(500);
ROLLBACK;
-- another file of the partition that is being read
VACUUM FULL sales_0, sales_1;
TRUNCATE sales_2;
INSERT INTO sales VALUES (9000, 2, 1, 1, 'x');
SELECT sum(logged) IS NOT NULL AS went_on FROM cdp.load_attachments(100);
DO $$
BEGIN
	WHILE EXISTS (SELECT FROM cdp.load_attachments(300)) LOOP
		COMMIT;
	END LOOP;
END $$;
SELECT name, status FROM cdp.attachments;
SELECT count(*) FROM cdp.progress;
SELECT * FROM differences();
SELECT logged, retracted, rejected FROM cdp.sync_attachment('sales');
SELECT cdp.apply() > 0;
SELECT * FROM cdp.verify();
SELECT cdp.wait_backfill('sales', '1 s'), cdp.wait_backfill(NULL, '1 s');

-- a comparison, or the end of the attachment, ends the load
CREATE TABLE users (id int PRIMARY KEY, email text);
INSERT INTO users SELECT g, 'u' || g || '@x.example' FROM generate_series(1, 30) g;
SELECT cdp.attach('users', '{"type": "identify", "identifiers": {"user_id": "id", "email": "email"}}');
SELECT logged FROM cdp.sync_attachment('users');
SELECT count(*) FROM cdp.attachment_loads;
SELECT cdp.drop_attachment('users', retract => true);
SELECT cdp.attach('users', '{"type": "identify", "identifiers": {"user_id": "id", "email": "email"}}');
SELECT cdp.drop_attachment('users');
SELECT count(*) FROM cdp.attachment_loads;
-- so does another table in the place of the one that was being loaded
SELECT cdp.attach('users', '{"type": "identify", "identifiers": {"user_id": "id", "email": "email"}}');
CREATE TABLE users_new (LIKE users INCLUDING ALL);
INSERT INTO users_new SELECT g, 'v' || g || '@x.example' FROM generate_series(1, 20) g;
ALTER TABLE users RENAME TO users_old;
ALTER TABLE users_new RENAME TO users;
SELECT * FROM cdp.load_attachments();
SELECT name, status FROM cdp.attachments ORDER BY name;
SELECT severity, topic, object FROM cdp.check() WHERE topic = 'attachment';
-- what is in the way is told
SELECT cdp.drop_attachment('users', retract => true);
SELECT cdp.attach('users', '{"type": "identify", "identifiers": {"user_id": "id", "email": "email"}}');
DROP TABLE users;
SELECT * FROM cdp.load_attachments();
SELECT name, status FROM cdp.attachments ORDER BY name;
SELECT object, finding FROM cdp.check() WHERE topic = 'attachment';
SELECT cdp.drop_attachment('users');

-- a view with a cursor, in the cursor's order; those without cursor first
CREATE TABLE raw (id int, who int, changed timestamptz);
INSERT INTO raw SELECT g, 1 + g % 5, '2026-01-01'::timestamptz + (g / 10) * interval '1 minute' FROM generate_series(1, 100) g;
INSERT INTO raw VALUES (101, 1, NULL), (102, 2, NULL);
CREATE VIEW seen AS SELECT * FROM raw;
SELECT cdp.attach('seen', '{"event": "Seen", "identifiers": {"user_id": "who"}, "key": "id", "time": "changed", "cursor": "changed", "overlap": "1 hour"}');
SELECT what, phase, done, total FROM cdp.progress;
SELECT logged, finished FROM cdp.load_attachments(25);
SELECT logged, finished FROM cdp.load_attachments(25);
INSERT INTO raw VALUES (103, 1, '2026-01-01 00:01');
SELECT logged, finished FROM cdp.load_attachments(1000);
SELECT logged, finished FROM cdp.load_attachments(1000);
SELECT logged, finished FROM cdp.load_attachments(1000);
-- the last step looked at the overlap, too, and found what came late
SELECT logged, retracted, rejected FROM cdp.sync_attachment('seen');
SELECT count(*), count(DISTINCT properties->'id') FROM cdp.events WHERE source = 'seen';

-- a child of another shape, and rows that cannot be mapped
CREATE TABLE log_all (id int PRIMARY KEY, who text, n text);
CREATE TABLE log_more (extra text, PRIMARY KEY (id)) INHERITS (log_all);
INSERT INTO log_all SELECT g, 'p' || g, g FROM generate_series(1, 20) g;
INSERT INTO log_more SELECT g, 'p' || g, CASE g WHEN 25 THEN 'many' ELSE g::text END, 'e' FROM generate_series(21, 40) g;
SELECT cdp.attach('log_all', '{"event": "Line", "identifiers": {"user_id": "who"}, "properties": "jsonb_build_object(''n'', n::int) || to_jsonb(r)"}');
SELECT logged, finished, error FROM cdp.load_attachments(1000);
SELECT logged, finished, error FROM cdp.load_attachments(1000);
SELECT finished FROM cdp.load_attachments(1000);
SELECT count(*), count(properties->'extra') FROM cdp.events WHERE source = 'log_all';
SELECT detail, payload FROM cdp.rejected;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('log_all');
SELECT cdp.load_attachment('log_all', 0);

-- due steps are of one attachment at a time, and no lock stays on a partition that has been read
CREATE TABLE one (id int PRIMARY KEY, who int);
INSERT INTO one SELECT g, g FROM generate_series(1, 20) g;
CREATE TABLE parts (id int PRIMARY KEY, who int) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200);
CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (200) TO (300);
INSERT INTO parts SELECT g, g FROM generate_series(1, 20) g UNION ALL SELECT 200, 200;
SELECT cdp.attach('one', '{"event": "One", "identifiers": {"user_id": "who"}}');
SELECT cdp.attach('parts', '{"event": "Part", "identifiers": {"user_id": "who"}}');
SELECT name, logged, finished FROM cdp.load_attachments(1000, due => true);
SELECT name, logged, finished FROM cdp.load_attachments(1000, due => true);
SELECT name, logged, finished FROM cdp.load_attachments(1000, due => true);
BEGIN;
SELECT name, logged, finished FROM cdp.load_attachments(1000, due => true);
SELECT relation::regclass FROM pg_locks WHERE mode = 'ShareLock' AND relation::regclass::text LIKE 'parts%' ORDER BY 1;
COMMIT;
SET cdp.backfill_at_once = 2147483647;
SELECT cdp.drop_attachment('one');
SELECT cdp.attach('one', '{"event": "One", "identifiers": {"user_id": "who"}}', 'again');

-- row-level security of a partition alone does not hide rows
CREATE ROLE regress_load_one;
CREATE ROLE regress_load_two;
CREATE TABLE guarded (id int, who int) PARTITION BY RANGE (id);
CREATE TABLE guarded_1 PARTITION OF guarded FOR VALUES FROM (0) TO (10);
CREATE TABLE guarded_2 PARTITION OF guarded FOR VALUES FROM (10) TO (100);
INSERT INTO guarded SELECT g, g FROM generate_series(1, 20) g;
ALTER TABLE guarded OWNER TO regress_load_one;
ALTER TABLE guarded_1 OWNER TO regress_load_one;
ALTER TABLE guarded_2 OWNER TO regress_load_two;
GRANT SELECT, TRIGGER ON guarded_2 TO regress_load_one;
ALTER TABLE guarded_2 ENABLE ROW LEVEL SECURITY;
GRANT EXECUTE ON FUNCTION cdp.attach TO regress_load_one;
SET cdp.backfill_at_once = 10;
SET ROLE regress_load_one;
SELECT cdp.attach('guarded', '{"event": "Guarded", "identifiers": {"user_id": "who"}, "key": "id"}');
RESET ROLE;
SELECT name, logged, finished, error FROM cdp.load_attachments(1000) WHERE name = 'guarded';
SELECT count(*) FROM cdp.events WHERE source = 'guarded';
SELECT cdp.drop_attachment('guarded');
DROP TABLE guarded;
DROP OWNED BY regress_load_one, regress_load_two;
DROP ROLE regress_load_one, regress_load_two;

-- Polled by a cursor that is null, or infinite, in some rows: none is lost.
CREATE TABLE news (id int PRIMARY KEY, who int, changed timestamptz);
INSERT INTO news SELECT g, g, CASE g % 4 WHEN 0 THEN NULL WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' ELSE '2026-04-01'::timestamptz + g * interval '1 minute' END FROM generate_series(1, 40) g;
SELECT cdp.attach('news', '{"event": "News", "identifiers": {"user_id": "who"}, "cursor": "changed"}', capture => 'poll');
DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM cdp.load_attachments(4); END LOOP; END $$;
SELECT name, status FROM cdp.attachments WHERE name = 'news';
SELECT count(*) FROM cdp.events WHERE source = 'news';
SELECT position FROM cdp.attachment_definitions WHERE name = 'news';
INSERT INTO news VALUES (41, 41, NULL), (42, 42, '2026-04-02'), (43, 43, 'infinity'), (44, 44, '-infinity');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('news');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('news');
-- nor where no row has one
CREATE TABLE undated (id int PRIMARY KEY, who int, changed timestamptz);
INSERT INTO undated SELECT g, g FROM generate_series(1, 20) g;
SELECT cdp.attach('undated', '{"event": "News", "identifiers": {"user_id": "who"}, "cursor": "changed"}', capture => 'poll');
SELECT name, logged, finished, error FROM cdp.load_attachments(4);
SELECT count(*) FROM cdp.events WHERE source = 'undated';
SELECT * FROM cdp.attachment_loads;

-- When several tables have lost their triggers, a due call locks one of them.
CREATE TABLE swapped_a (id int PRIMARY KEY, who int);
CREATE TABLE swapped_b (id int PRIMARY KEY, who int);
SELECT cdp.attach('swapped_a', '{"event": "A", "identifiers": {"user_id": "who"}}'), cdp.attach('swapped_b', '{"event": "B", "identifiers": {"user_id": "who"}}');
DROP TRIGGER cdp_swapped_a_insert ON swapped_a;
DROP TRIGGER cdp_swapped_b_insert ON swapped_b;
BEGIN;
SELECT name, error FROM cdp.sync_attachments(due => true) WHERE name ~ 'swapped';
SELECT relation::regclass, mode FROM pg_locks WHERE relation IN ('swapped_a'::regclass, 'swapped_b'::regclass) AND pid = pg_backend_pid() AND mode = 'ShareLock';
COMMIT;
SELECT name, error FROM cdp.sync_attachments(due => true) WHERE name ~ 'swapped';
SELECT name, status FROM cdp.attachments WHERE name ~ 'swapped' ORDER BY 1;

-- Tables and materialised views that are polled are read in steps, too; what
-- happens to them meanwhile is found by the last one.
CREATE TABLE polled (id int PRIMARY KEY, who int, note text) WITH (autovacuum_enabled = off);
INSERT INTO polled SELECT g, g, repeat('x', 1000) FROM generate_series(1, 40) g;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM polled;
SELECT cdp.attach('polled', '{"event": "Polled", "identifiers": {"user_id": "who"}}', capture => 'poll');
SELECT cdp.attach('kept', '{"event": "Kept", "identifiers": {"user_id": "who"}, "key": "id"}');
SELECT what, phase, done, total > 0 AS known FROM cdp.progress;
SELECT name, logged BETWEEN 1 AND 20 AS some, finished FROM cdp.load_attachments(10);
SELECT what, done BETWEEN 1 AND 20 AS some FROM cdp.progress;
BEGIN;
SELECT name, finished FROM cdp.load_attachments(10);
SELECT count(*) FROM pg_locks WHERE relation IN ('polled'::regclass, 'kept'::regclass) AND mode <> 'AccessShareLock';
COMMIT;
DELETE FROM polled WHERE id IN (1, 30);
UPDATE polled SET note = 'y' WHERE id IN (2, 31);
REFRESH MATERIALIZED VIEW kept;
DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM cdp.load_attachments(10); END LOOP; END $$;
SELECT name, status FROM cdp.attachments WHERE name IN ('polled', 'kept') ORDER BY 1;
SELECT e.source, count(*), count(DISTINCT e.properties->'id'), sum((e.properties->>'id')::int), (SELECT sum(id) FROM polled)
FROM cdp.events e
WHERE e.source IN ('polled', 'kept') AND e.type = 'track'
  AND NOT EXISTS (SELECT FROM cdp.events u WHERE u.type = 'undo' AND u.properties->>'entry' = '#' || e.id)
GROUP BY 1 ORDER BY 1;
SELECT name, logged, retracted FROM cdp.sync_attachments() WHERE name IN ('polled', 'kept');

-- Who may not read all columns, or not all partitions by themselves, is not
-- kept waiting: what it may read is logged at once.
CREATE ROLE regress_load_one;
CREATE TABLE columns (id int PRIMARY KEY, who int, secret text);
CREATE TABLE divided (id int PRIMARY KEY, who int) PARTITION BY RANGE (id);
CREATE TABLE divided_1 PARTITION OF divided FOR VALUES FROM (0) TO (100);
CREATE TABLE dated (id int PRIMARY KEY, who int, changed timestamptz, secret text);
INSERT INTO columns SELECT g, g FROM generate_series(1, 20) g;
INSERT INTO divided SELECT g, g FROM generate_series(1, 20) g;
INSERT INTO dated SELECT g, g, '2026-04-01' FROM generate_series(1, 20) g;
-- this one claims to be of the future
INSERT INTO dated VALUES (21, 21, cdp.clock() + interval '1 year');
GRANT SELECT (id, who), TRIGGER ON columns TO regress_load_one;
GRANT SELECT, TRIGGER ON divided TO regress_load_one;
GRANT TRIGGER ON divided_1 TO regress_load_one;
GRANT SELECT (id, who, changed) ON dated TO regress_load_one;
GRANT EXECUTE ON FUNCTION cdp.attach TO regress_load_one;
SET ROLE regress_load_one;
SELECT cdp.attach('columns', '{"event": "Columns", "identifiers": {"user_id": "who"}, "properties": ["id"]}');
SELECT cdp.attach('divided', '{"event": "Divided", "identifiers": {"user_id": "who"}, "properties": ["id"]}');
SELECT cdp.attach('dated', '{"event": "Dated", "identifiers": {"user_id": "who"}, "properties": ["id"], "cursor": "changed"}', capture => 'poll');
RESET ROLE;
SELECT name, logged, finished, error FROM cdp.load_attachments(5) WHERE name IN ('columns', 'divided', 'dated');
INSERT INTO columns VALUES (100, 100, 'x');
INSERT INTO divided VALUES (99, 99);
INSERT INTO dated VALUES (100, 100, '2026-04-02');
SELECT name, logged, retracted, rejected FROM cdp.sync_attachments() WHERE name IN ('columns', 'divided', 'dated');
SELECT source, count(*) FROM cdp.events WHERE source IN ('columns', 'divided', 'dated') GROUP BY 1 ORDER BY 1;
-- in steps the future is left for the last, too
CREATE TABLE ahead (id int PRIMARY KEY, who int, changed timestamptz);
INSERT INTO ahead SELECT g, g, '2026-04-01'::timestamptz + g * interval '1 minute' FROM generate_series(1, 20) g;
INSERT INTO ahead VALUES (21, 21, cdp.clock() + interval '1 year');
SELECT cdp.attach('ahead', '{"event": "Ahead", "identifiers": {"user_id": "who"}, "cursor": "changed"}', capture => 'poll');
DO $$ BEGIN FOR i IN 1..5 LOOP PERFORM cdp.load_attachments(10); END LOOP; END $$;
INSERT INTO ahead VALUES (22, 22, cdp.clock());
SELECT logged, retracted, rejected FROM cdp.sync_attachment('ahead');
SELECT count(*) FROM cdp.events WHERE source = 'ahead';
SELECT cdp.drop_attachment(name) FROM cdp.attachments WHERE name IN ('columns', 'divided', 'dated');
DROP TABLE columns, divided, dated;
DROP OWNED BY regress_load_one;
DROP ROLE regress_load_one;
