--
-- Attached with copy => false: what entries say stays in the rows.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';

CREATE TABLE orders (shop text, id int, who text, total text, note text, at timestamptz, PRIMARY KEY (shop, id));
INSERT INTO orders
	SELECT (ARRAY['plain', 'a "quoted", one', 'back\slash'])[1 + g % 3], g, 'u' || g % 3, g, repeat('x', 200), '2026-04-01 00:00+00'::timestamptz + g * interval '1 hour'
	FROM generate_series(1, 9) g;
SELECT cdp.create_trait('total', aggregate => 'sum', event => 'Order', value => $$(properties->>'total')::numeric$$);
SELECT cdp.attach('orders', '{"event": "Order", "identifiers": {"user_id": "who"}, "time": "at",
	"properties": {"total": "total::numeric", "note": "note"}}', copy => false);
SELECT properties FROM cdp.events ORDER BY id LIMIT 3;
CREATE VIEW totals AS
	SELECT i.identifier, p.traits FROM cdp.identities i JOIN cdp.profiles p USING (profile_id) ORDER BY 1;
SELECT cdp.apply();
SELECT * FROM totals;
SELECT * FROM cdp.verify();

-- what reads the log reads the rows
SELECT at, properties->>'total' AS total, length(properties->>'note') AS note FROM cdp.timeline('user_id:u1'::cdp.identifier);
SELECT cdp.payload(e)->'properties'->'total' AS total FROM cdp.events e ORDER BY e.id LIMIT 2;
SELECT event, source, entries, property_keys FROM cdp.event_catalog;
SELECT count(*), bool_and(e->'properties' ? 'total') AS whole FROM jsonb_array_elements(cdp.export('user_id:u1')->'entries') e;
SELECT cdp.matches('user_id:u1'::cdp.identifier, $$did('Order', filter => (properties->>'total')::numeric > 6)$$);
SELECT cdp.create_trait('largest', aggregate => 'max', event => 'Order', value => $$(properties->>'total')::numeric$$);
SELECT * FROM totals;

-- changes of rows
UPDATE orders SET total = '100' WHERE id = 1;
UPDATE orders SET shop = 'moved', who = 'u2' WHERE id = 4;
DELETE FROM orders WHERE id = 5;
SELECT cdp.profile('user_id:u1'::cdp.identifier, fresh => true)->'traits' AS fresh;
SELECT cdp.apply();
SELECT * FROM totals;
SELECT * FROM cdp.verify();

-- a row that cannot be mapped any more does not count, until it can be
UPDATE orders SET total = 'ten' WHERE id IN (1, 2);
SELECT cdp.apply();
SELECT * FROM totals;
SELECT detail FROM cdp.rejected;
SELECT * FROM cdp.sync_attachment('orders');
UPDATE orders SET total = id WHERE total = 'ten';
SELECT cdp.apply();
SELECT * FROM totals;
SELECT * FROM cdp.verify();

-- nobody makes up a reference, and who copies may say what looks like one
INSERT INTO cdp.events (source, event, identifiers, properties) VALUES
	('orders', 'Order', '{user_id:u3}', '{"$row": "(plain,3)"}'), ('sql', 'Order', '{user_id:u4}', '{"$row": "(plain,3)"}');
SELECT cdp.apply();
SELECT identifier, traits FROM totals WHERE cdp.value(identifier) IN ('u3', 'u4');
SELECT properties FROM cdp.timeline('user_id:u3'::cdp.identifier);
SELECT properties FROM cdp.timeline('user_id:u4'::cdp.identifier);
SELECT * FROM cdp.unread_attachments;

-- nor reads rows by one who may not read the log
CREATE ROLE regress_cdp_reads_nothing;
GRANT USAGE ON SCHEMA cdp TO regress_cdp_reads_nothing;
CREATE TABLE made_up AS SELECT * FROM cdp.events WHERE source = 'orders' ORDER BY id LIMIT 1;
GRANT SELECT ON made_up TO regress_cdp_reads_nothing;
SET ROLE regress_cdp_reads_nothing;
SELECT cdp.payload(ROW(m.*)::cdp.events)->'properties' ? '$row' AS refers FROM made_up m;
RESET ROLE;
SELECT cdp.payload(ROW(m.*)::cdp.events)->'properties' ? '$row' AS refers FROM made_up m;
DROP TABLE made_up;
DROP OWNED BY regress_cdp_reads_nothing;
DROP ROLE regress_cdp_reads_nothing;

-- The table is away: what was computed stays.  What has to be computed anew is
-- computed without its rows, and again when it is back.
SELECT message_id AS seventh FROM cdp.timeline('user_id:u1'::cdp.identifier) WHERE properties->>'total' = '7' \gset
ALTER TABLE orders RENAME TO away;
SELECT name, status FROM cdp.attachments;
SELECT * FROM totals;
SELECT cdp.undo(:'seventh', source => 'orders') IS NOT NULL AS undone;
SELECT cdp.apply();
SELECT * FROM totals;
SELECT count(*) > 0 AS cannot_be_verified FROM cdp.verify();
ALTER TABLE away RENAME TO orders;
SELECT name, status FROM cdp.attachments;
SELECT severity, object, finding FROM cdp.check() WHERE topic = 'attachment';
SELECT * FROM cdp.sync_attachments(due => true);
SELECT name, status FROM cdp.attachments;
SELECT cdp.apply();
SELECT * FROM totals;
SELECT * FROM cdp.verify();

-- rows that change behind the triggers are not taken for what was logged
SET session_replication_role = replica;
UPDATE orders SET total = 1000 WHERE id = 3;
SET session_replication_role = origin;
SELECT count(*) FILTER (WHERE properties = '{}') AS unread, count(*) FROM cdp.timeline('user_id:u0'::cdp.identifier);
SELECT cdp.drop_attachment('orders');
SELECT * FROM cdp.sync_attachment('orders');
SELECT cdp.apply();
SELECT * FROM totals WHERE cdp.value(identifier) = 'u0';

-- the configuration, erasure, TRUNCATE, the end
SELECT cdp.export_config()->'attachments';
SELECT action, kind, name FROM cdp.apply_config(cdp.export_config());
SELECT cdp.erase('user_id:u2'::cdp.identifier, mode => 'anonymise') IS NOT NULL AS erased;
SELECT cdp.apply();
SELECT cdp.apply();
SELECT properties->>'total' AS total FROM cdp.events WHERE source = 'orders' AND properties ? 'total' ORDER BY 1;
SELECT * FROM cdp.verify();
TRUNCATE orders;
INSERT INTO orders VALUES ('plain', 1, 'u1', 5, repeat('x', 200), '2026-04-01 00:00+00');
SELECT cdp.apply();
SELECT * FROM totals WHERE cdp.value(identifier) = 'u1';
SELECT cdp.drop_attachment('orders');
SELECT count(*) AS copied FROM cdp.events WHERE source = 'orders' AND (properties->>'total')::numeric = 5;
DROP TABLE orders;
SELECT * FROM cdp.verify();

-- who may not
CREATE TABLE keyless (id int, who text);
SELECT cdp.attach('keyless', '{"event": "E", "identifiers": {"user_id": "who"}, "key": "id"}', copy => false);
SELECT cdp.attach('keyless', '{"event": "E", "identifiers": {"user_id": "who"}}', copy => false);
CREATE VIEW seen AS SELECT 1 AS id, 'u' AS who;
SELECT cdp.attach('seen', '{"event": "E", "identifiers": {"user_id": "who"}, "key": "id"}', copy => false);

-- keys of a type with a length; a person who is named in somebody else's payload only
CREATE TABLE notes (code char(5) PRIMARY KEY, who text, about text, points int);
INSERT INTO notes VALUES ('ab', 'w1', 'ada@example.com', 3), ('cde', 'w2', 'bob@example.com', 4);
SELECT cdp.attach('notes', '{"event": "Note", "identifiers": {"user_id": "who"},
	"properties": {"about": "about", "points": "points"}}', copy => false);
SELECT cdp.create_trait('points', aggregate => 'sum', event => 'Note', value => $$(properties->>'points')::int$$);
SELECT cdp.track('Signed Up', user_id => 'ada', identifiers => '{email:ada@example.com}') IS NOT NULL;
SELECT cdp.apply();
SELECT traits->'points' AS points FROM totals WHERE cdp.value(identifier) IN ('w1', 'w2');
SELECT cdp.erase('user_id:ada'::cdp.identifier) IS NOT NULL;
SELECT cdp.apply();
SELECT properties->>'about' AS about, properties ? '$row' AS refers FROM cdp.events WHERE source = 'notes' ORDER BY id;
SELECT about, points FROM notes ORDER BY 1;
SELECT cdp.entry_properties(properties, source, id)->>'about' AS about FROM cdp.events WHERE source = 'notes' ORDER BY id;
SELECT cdp.drop_attachment('notes');
SELECT properties FROM cdp.events WHERE source = 'notes' ORDER BY id;
SELECT * FROM cdp.verify();

-- an attachment ends before what was computed without its rows is computed
-- again: by then the payloads are in the log
CREATE TABLE bills (id int PRIMARY KEY, who text, due int, filler text);
INSERT INTO bills SELECT g, 'b', g, repeat('x', 50) FROM generate_series(1, 4) g;
SELECT cdp.create_trait('due', aggregate => 'sum', event => 'Bill', value => $$(properties->>'due')::int$$);
SELECT cdp.attach('bills', '{"event": "Bill", "identifiers": {"user_id": "who"}}', copy => false);
SELECT cdp.apply();
SELECT message_id AS fourth FROM cdp.timeline('user_id:b'::cdp.identifier) WHERE properties->>'due' = '4' \gset
ALTER TABLE bills RENAME TO away;
SELECT cdp.undo(:'fourth', source => 'bills') IS NOT NULL AS undone;
SELECT cdp.apply();
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'b';
ALTER TABLE away RENAME TO bills;
SELECT name, status FROM cdp.attachments WHERE name = 'bills';
SELECT cdp.drop_attachment('bills');
DROP TABLE bills;
SELECT cdp.apply();
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'b';
SELECT * FROM cdp.unread_attachments;
SELECT * FROM cdp.verify();

-- retracted as the attachment ends, and taken back: nothing says any more what
-- the entries said
CREATE TABLE bills (id int PRIMARY KEY, who text, due int, filler text);
INSERT INTO bills VALUES (1, 'c', 1, repeat('x', 50));
SELECT cdp.attach('bills', '{"event": "Bill", "identifiers": {"user_id": "who"}}', source => 'more', copy => false);
SELECT cdp.apply();
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'c';
SELECT cdp.drop_attachment('bills', retract => true);
SELECT cdp.apply();
SELECT count(*) AS counting FROM cdp.timeline('user_id:c'::cdp.identifier);
SELECT cdp.undo('#' || id, source => 'more') IS NOT NULL AS taken_back FROM cdp.events WHERE source = 'more' AND type = 'undo';
SELECT cdp.apply();
SELECT properties FROM cdp.timeline('user_id:c'::cdp.identifier);
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'c';
SELECT * FROM cdp.verify();

-- undone, and the undo undone, while the row is there: it counts again with what it says
CREATE TABLE again (id money PRIMARY KEY, who text, due money, filler text);
INSERT INTO again VALUES (1, 'd', 1000, repeat('x', 50));
SELECT cdp.attach('again', '{"event": "Bill", "identifiers": {"user_id": "who"},
	"properties": {"due": "(due::numeric)::int", "shown": "due", "filler": "filler"}}', copy => false);
SELECT cdp.apply();
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'd';
SELECT cdp.undo('#' || id, source => 'again') AS undo FROM cdp.events WHERE source = 'again' AND type = 'track' \gset
SELECT cdp.apply();
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'd';
SELECT cdp.undo(:'undo', source => 'again') IS NOT NULL AS taken_back;
SELECT cdp.apply();
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'd';

-- Money is text by the session's locale (where it has another one), and yet the row is found.
DO $$
BEGIN
	SET lc_monetary = 'de_DE.UTF-8';
EXCEPTION WHEN invalid_parameter_value THEN
	NULL;
END $$;
SELECT properties->'due' AS due, properties->'shown' AS shown FROM cdp.timeline('user_id:d'::cdp.identifier);
INSERT INTO again VALUES (2, 'd', 1, repeat('x', 50));
RESET lc_monetary;
SELECT cdp.apply();
SELECT traits->'due' AS due FROM totals WHERE cdp.value(identifier) = 'd';
SELECT logged, retracted FROM cdp.sync_attachment('again');
SELECT * FROM cdp.verify();

-- The relation is dropped while rows could not be read: what is computed
-- without them stays so until their entries do not count any more.
SELECT cdp.create_trait('most', aggregate => 'max', event => 'Bill', value => $$(properties->>'due')::int$$);
ALTER TABLE again RENAME TO away;
SELECT cdp.undo(message_id, source => 'again') IS NOT NULL AS undone FROM cdp.timeline('user_id:d'::cdp.identifier) ORDER BY at DESC LIMIT 1;
SELECT cdp.apply();
SELECT count(*) AS unread FROM cdp.unread_attachments;
DROP TABLE away;
SELECT name, status FROM cdp.attachments WHERE name = 'again';
SELECT cdp.drop_attachment('again');
SELECT name, error FROM cdp.sync_attachments(due => true);
SELECT cdp.drop_attachment('again', retract => true);
SELECT cdp.apply();
SELECT count(*) AS unread FROM cdp.unread_attachments;
SELECT traits ? 'due' AS due FROM totals WHERE cdp.value(identifier) = 'd';
SELECT * FROM cdp.verify();

-- Rows are waited for as long as lock_timeout says, and no longer than a second.
CREATE TABLE waits (id int PRIMARY KEY, who text, filler text);
SELECT cdp.attach('waits', '{"event": "Wait", "identifiers": {"user_id": "who"},
	"properties": {"longest": "current_setting(''lock_timeout'')", "filler": "filler"}}', copy => false);
SET lock_timeout = '300ms';
INSERT INTO waits VALUES (1, 'e', repeat('x', 50));
SET lock_timeout = '1s';
INSERT INTO waits VALUES (2, 'e', repeat('x', 50));
SET lock_timeout = '300ms';
SELECT cdp.entry_properties(properties, source, id)->'longest' AS longest FROM cdp.events WHERE source = 'waits' ORDER BY id;
SET lock_timeout = '2s';
SELECT cdp.entry_properties(properties, source, id)->'longest' AS longest FROM cdp.events WHERE source = 'waits' ORDER BY id;
RESET lock_timeout;
SELECT cdp.entry_properties(properties, source, id)->'longest' AS longest FROM cdp.events WHERE source = 'waits' ORDER BY id;
