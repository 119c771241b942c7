--
-- Tables and views as sources: whatever happens to their rows, the entries of
-- their source that count are the rows.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';

CREATE SCHEMA shop;
CREATE TABLE shop.customers (id int PRIMARY KEY, email text, plan text);
CREATE TABLE shop.orders (id int PRIMARY KEY, customer int, total text, status text DEFAULT 'paid', at timestamp);
INSERT INTO shop.customers VALUES (1, 'Ada@x.example', 'free'), (2, 'bob@x.example', 'pro');
INSERT INTO shop.orders VALUES (10, 1, '5', 'paid', '2026-01-01'), (11, 2, '7', 'open', '2026-01-02');
SELECT cdp.create_trait('ltv', aggregate => 'sum', event => 'Order Completed',
	value => $$(properties->>'total')::numeric$$) \g /dev/null
SELECT cdp.create_trait('plan', type => 'text') \g /dev/null

SELECT cdp.attach('shop.customers',
	'{"type": "identify", "identifiers": {"user_id": "id", "email": "email"}, "traits": ["plan"]}');
SELECT cdp.attach('shop.orders', '{
	"event": "Order Completed",
	"identifiers": {"user_id": "customer"},
	"time": "at",
	"filter": "status = ''paid''",
	"properties": {"total": "total::numeric", "state": "upper(status)"}}');
SELECT name, relation, source, capture, attached_by = current_user AS mine, status FROM cdp.attachments ORDER BY name;

CREATE FUNCTION state() RETURNS TABLE (who text, traits jsonb) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cdp.apply();
	RETURN QUERY SELECT i.identifier::text, p.traits FROM cdp.profiles p
		JOIN cdp.identities i ON i.profile_id = p.profile_id AND cdp.kind(i.identifier) = 'user_id' ORDER BY 1;
END $$;
SELECT * FROM state();
SELECT type, event, identifiers, properties, occurred_at, source FROM cdp.events ORDER BY id;

-- a correction, a row that begins to count, one that ceases to, keys that change places
UPDATE shop.orders SET total = '50' WHERE id = 10;
UPDATE shop.orders SET status = 'paid' WHERE id = 11;
UPDATE shop.customers SET plan = 'gold' WHERE id = 1;
SELECT * FROM state();
ALTER TABLE shop.orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED;
UPDATE shop.orders SET id = 21 - id WHERE id IN (10, 11);
UPDATE shop.orders SET status = 'open' WHERE customer = 2;
DELETE FROM shop.customers WHERE id = 2;
SELECT * FROM state();
-- what changes nothing of the entry is no change
SELECT count(*) FROM cdp.events \gset before_
UPDATE shop.orders SET status = status;
UPDATE shop.customers SET email = email WHERE id = 1;
SELECT count(*) - :before_count AS entries FROM cdp.events;
-- COPY, ON CONFLICT, rollback
COPY shop.orders FROM stdin WITH (FORMAT csv);
20,1,1,paid,2026-02-01
21,1,1,paid,2026-02-01
\.
ALTER TABLE shop.orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id);
INSERT INTO shop.orders VALUES (21, 1, '2', 'paid', '2026-02-01'), (22, 1, '4', 'paid', '2026-02-01')
	ON CONFLICT (id) DO UPDATE SET total = excluded.total;
BEGIN;
DELETE FROM shop.orders;
ROLLBACK;
SELECT * FROM state();
SELECT name, logged, retracted, rejected, error FROM cdp.sync_attachments();
SELECT * FROM cdp.verify();

-- a row that cannot be mapped is put aside and stops nothing; the others go on
INSERT INTO shop.orders VALUES (30, 1, '100', 'paid', '2026-02-02'), (31, 1, 'much', 'paid', '2026-02-02');
SELECT source, reason, detail, sqlstate, payload FROM cdp.rejected;
SELECT * FROM state();
UPDATE shop.orders SET total = '200' WHERE id = 31;
SELECT * FROM state();
SELECT logged, retracted, rejected FROM cdp.sync_attachment('orders');
SELECT count(*) FROM cdp.rejected;
-- nor does a table that has lost a column
ALTER TABLE shop.orders RENAME COLUMN total TO amount;
INSERT INTO shop.orders VALUES (32, 1, '1000', 'paid', '2026-02-02');
SELECT detail, sqlstate, payload FROM cdp.rejected;
SELECT severity, object, finding FROM cdp.check() WHERE topic = 'attachment';
SELECT cdp.sync_attachment('orders');
-- who looks keeps no table locked
BEGIN;
SELECT object FROM cdp.check() WHERE topic = 'attachment';
SELECT cdp.attachment_fault('customers') AS fault;
SELECT count(*) AS locked FROM pg_locks WHERE pid = pg_backend_pid() AND relation IN ('shop.orders'::regclass, 'shop.customers'::regclass);
COMMIT;
SELECT name, error FROM cdp.sync_attachments(due => true) WHERE name = 'orders';
SELECT count(*) AS rejected FROM cdp.rejected;
SELECT severity, object, finding FROM cdp.check() WHERE topic = 'attachment';
-- what came meanwhile is logged when it fits again, without being asked for
ALTER TABLE shop.orders RENAME COLUMN amount TO total;
SELECT name, logged, error FROM cdp.sync_attachments(due => true) WHERE name = 'orders';
SELECT count(*) FROM cdp.rejected;
SELECT * FROM state();

-- triggers off: found by comparison
ALTER TABLE shop.orders DISABLE TRIGGER USER;
SELECT name, status FROM cdp.attachments ORDER BY name;
DELETE FROM shop.orders WHERE id = 32;
UPDATE shop.orders SET total = '300' WHERE id = 31;
ALTER TABLE shop.orders ENABLE TRIGGER USER;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('orders');
SELECT * FROM state();

-- a new table takes the place of the old one; the old one does not count any more
CREATE TABLE shop.orders_new (LIKE shop.orders INCLUDING ALL);
INSERT INTO shop.orders_new SELECT * FROM shop.orders WHERE id <> 30;
INSERT INTO shop.orders_new VALUES (40, 1, '0.5', 'paid', '2026-03-01');
BEGIN;
ALTER TABLE shop.orders RENAME TO orders_old;
ALTER TABLE shop.orders_new RENAME TO orders;
COMMIT;
INSERT INTO shop.orders_old VALUES (41, 1, '7777', 'paid', '2026-03-01');
SELECT name, status FROM cdp.attachments ORDER BY name;
BEGIN;
SELECT name, logged, retracted, rejected, error FROM cdp.sync_attachments(due => true);
SHOW lock_timeout;
COMMIT;
DROP TABLE shop.orders_old CASCADE;
SELECT name, status FROM cdp.attachments ORDER BY name;
INSERT INTO shop.orders VALUES (42, 1, '0.25', 'paid', '2026-03-01');
SELECT * FROM state();
-- none at all: an error of that attachment only, and its entries stay
BEGIN;
DROP TABLE shop.orders;
SELECT name, status FROM cdp.attachments ORDER BY name;
SELECT name, logged, error FROM cdp.sync_attachments();
SELECT * FROM state();
ROLLBACK;

TRUNCATE shop.orders;
SELECT * FROM state();
SELECT * FROM cdp.verify();

-- partitions: by the parent, by themselves, across
CREATE TABLE visits (day date, n int, who text, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
CREATE TABLE visits_1 PARTITION OF visits FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE visits_2 (who text, n int NOT NULL, gone int, day date NOT NULL);
ALTER TABLE visits_2 DROP COLUMN gone;
ALTER TABLE visits ATTACH PARTITION visits_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
SELECT cdp.attach('visits', '{"event": "Visit", "identifiers": {"anonymous_id": "who"}, "time": "day", "properties": {}}');
INSERT INTO visits VALUES ('2026-01-05', 1, 'a'), ('2026-02-05', 1, 'b');
INSERT INTO visits_2 (day, n, who) VALUES ('2026-02-06', 1, 'c'), ('2026-02-07', 1, 'd');
UPDATE visits SET day = '2026-02-20' WHERE who = 'a';
DELETE FROM visits_2 WHERE who = 'd';
TRUNCATE visits_1;
CREATE VIEW counting AS SELECT e.event, e.identifiers, e.occurred_at FROM cdp.attached_rows r JOIN cdp.events e ON e.id = r.entry;
SELECT * FROM counting WHERE event = 'Visit' ORDER BY occurred_at;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
TRUNCATE visits_2;
SELECT * FROM counting WHERE event = 'Visit' ORDER BY occurred_at;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');

-- a view is compared; with a cursor only what is new is read
CREATE TABLE logins (id int, who text, at timestamptz);
CREATE VIEW recent AS SELECT * FROM logins;
SELECT cdp.attach('recent', '{"event": {"sql": "''Log'' || ''in''"}, "key": "id", "identifiers": {"user_id": ["who", "nullif(who, who)"]},
	"time": "at", "cursor": "at", "overlap": "1 hour", "properties": {}}', source => 'app');
INSERT INTO logins VALUES (1, 'x', '2026-04-01 10:00+00'), (2, 'y', '2026-04-01 12:00+00');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('recent');
INSERT INTO logins VALUES (3, 'late', '2026-04-01 11:30+00'), (4, 'too late', '2026-04-01 10:30+00'), (5, 'z', '2026-04-01 13:00+00');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('recent');
SELECT event, identifiers, source FROM cdp.events WHERE source = 'app' ORDER BY id;
-- a key that is none
INSERT INTO logins VALUES (6, 'p', '2026-04-01 14:00+00'), (6, 'q', '2026-04-01 13:00+00');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('recent');
SELECT identifiers FROM cdp.events WHERE source = 'app' ORDER BY id DESC LIMIT 1;
SELECT detail FROM cdp.rejected;

-- what claims to be of the future does not keep back what comes until then
INSERT INTO logins VALUES (7, 'next year', cdp.clock() + interval '1 year');
SELECT logged, retracted, rejected FROM cdp.sync_attachment('recent');
INSERT INTO logins VALUES (8, 'now', cdp.clock());
SELECT logged, retracted, rejected FROM cdp.sync_attachment('recent');
UPDATE logins SET who = 'next year, or later' WHERE id = 7;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('recent');
SELECT position = cdp.clock() AS is_now FROM cdp.attachment_definitions WHERE name = 'recent';

-- an entry that is a little ahead of the clock is retracted all the same; a row
-- that cannot be mapped when all are compared says what it said before
CREATE TABLE ahead (id int PRIMARY KEY, who text, at timestamptz, n text);
SELECT cdp.attach('ahead', '{"event": "Ahead", "identifiers": {"user_id": "who"}, "time": "at", "properties": {"n": "n::int"}}');
INSERT INTO ahead VALUES (1, 'early', cdp.clock() + interval '3 minutes', '1');
UPDATE ahead SET n = '2';
SELECT cdp.apply() AS applied;
SELECT e.type, e.properties, e.occurred_at - cdp.clock() AS ahead FROM cdp.events e WHERE e.source = 'ahead' ORDER BY id;
INSERT INTO ahead VALUES (2, 'other', '2026-04-01', '5');
ALTER TABLE ahead DISABLE TRIGGER USER;
UPDATE ahead SET n = 'many' WHERE id = 2;
ALTER TABLE ahead ENABLE TRIGGER USER;
SELECT * FROM cdp.sync_attachment('ahead');
SELECT identifiers FROM counting WHERE event = 'Ahead' ORDER BY occurred_at;
SELECT cdp.drop_attachment('ahead', retract => true);

-- for the worker: one at a time, with an error or without, and each once
CREATE VIEW gone AS SELECT * FROM logins;
SELECT cdp.attach('gone', '{"event": "Gone", "key": "id", "identifiers": {"user_id": "who"}}', load => false);
DROP VIEW gone;
SELECT clock_timestamp() AS since \gset
SELECT name, error FROM cdp.sync_attachments(due => true, since => :'since');
SELECT name, error FROM cdp.sync_attachments(due => true, since => :'since');
SELECT name, error FROM cdp.sync_attachments(due => true, since => :'since');
SELECT name, status, synchronised_at IS NULL AS never FROM cdp.attachments WHERE name IN ('gone', 'recent') ORDER BY 1;
SELECT cdp.drop_attachment('gone');

-- mistakes
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "generate_series(1, 2)"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "max(id)"}, "key": "''k''", "properties": {}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id"}, "properties": {"n": "row_number() OVER ()"}}', 'o2');
SELECT cdp.attach('recent', '{"event": "x", "identifiers": {"user_id": "who"}, "key": "id", "cursor": "at", "overlap": "-1 hour"}', 'o2');
SELECT cdp.attach('recent', '{"event": "x", "identifiers": {"user_id": "who"}, "key": "id", "cursor": "at", "overlap": "much"}', 'o2');
SELECT cdp.attach('recent', '{"event": "x", "identifiers": {"user_id": "(SELECT max(i) FROM generate_series(1, 2) i)"}, "key": "id"}', 'o2', load => false), cdp.drop_attachment('o2');
SELECT cdp.attach('shop.orders', NULL, 'o2');
SELECT cdp.attach('shop.orders', '[]', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x"}', 'o2');
SELECT cdp.attach('shop.orders', '{"identifiers": {"user_id": "id"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"type": "alias", "identifiers": {"user_id": "id"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"type": "identify", "event": "x", "identifiers": {"user_id": "id"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id"}, "tiem": "at"}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"nokind": "id"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id) FROM pg_authid --"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id, id"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": " "}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id -- a comment"}}', 'o2', load => false);
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "nope"}}', 'o3');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id"}, "cursor": "at"}', 'o3');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id"}}', 'o2');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id"}}', 'o3', source => 'orders');
SELECT cdp.attach('shop.orders', '{"event": "x", "identifiers": {"user_id": "id"}}', 'Orders');
SELECT cdp.attach('recent', '{"event": "x", "identifiers": {"user_id": "id"}}', 'o3');
SELECT cdp.attach('recent', '{"event": "x", "identifiers": {"user_id": "id"}, "key": "id"}', 'o3', capture => 'trigger');
SELECT cdp.attach('cdp.events', '{"event": "x", "identifiers": {"user_id": "id"}, "key": "id"}');
SELECT cdp.attach('shop.orders_id', '{"event": "x", "identifiers": {"user_id": "id"}, "key": "id"}');
CREATE TEMP TABLE passing (id int PRIMARY KEY);
SELECT cdp.attach('passing', '{"event": "x", "identifiers": {"user_id": "id"}}');
SELECT cdp.sync_attachment('none');
SELECT cdp.drop_attachment('none');

-- nothing is left behind
SELECT cdp.drop_attachment('customers', retract => true);
SELECT cdp.drop_attachment(name) FROM cdp.attachments WHERE name <> 'customers' ORDER BY name;
SELECT (SELECT count(*) FROM cdp.attached_rows) AS rows, (SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'cdp%') AS triggers;
SELECT * FROM state();
SELECT * FROM cdp.verify();

-- an error of one that says nothing of its mapping does not keep the others from
-- being looked at
CREATE SCHEMA odd;
CREATE FUNCTION odd.one() RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 1; END';
CREATE TABLE odd.things (id int PRIMARY KEY);
CREATE VIEW odd.others AS SELECT 7 AS id;
SELECT cdp.attach('odd.things', '{"identifiers": {"user_id": "id"}, "event": "Thing", "properties": {"one": "odd.one()"}}');
SELECT cdp.attach('odd.others', '{"identifiers": {"user_id": "id"}, "event": "Other", "key": "id"}', load => false);
CREATE OR REPLACE FUNCTION odd.one() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE 'broken' USING ERRCODE = 'internal_error'; END $$;
SELECT count(*) FROM cdp.check() WHERE topic = 'attachment' AND object IN ('things', 'others');
SELECT name, logged, error FROM cdp.sync_attachments(due => true) WHERE name IN ('things', 'others');
SELECT cdp.sync_attachment('things');
