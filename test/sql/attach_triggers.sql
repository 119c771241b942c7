--
-- Attached tables whose rows change while a statement is on its way: triggers
-- and foreign keys that write to the table, child tables, definitions that come
-- and go within a transaction, row-level security.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';

-- what counts, of all rows that the log knows
CREATE VIEW counting AS SELECT e.source, e.event, e.properties FROM cdp.attached_rows r JOIN cdp.events e ON e.id = r.entry;
CREATE VIEW undone AS SELECT count(*) FROM cdp.events WHERE type = 'undo';

-- a trigger that changes the row again
CREATE TABLE t (id int PRIMARY KEY, who text, x int);
SELECT cdp.attach('t', '{"event": "E", "identifiers": {"user_id": "who"}, "properties": ["id", "x"], "filter": "x >= 0"}');
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP = 'DELETE' THEN
		-- comes back
		INSERT INTO t VALUES (OLD.id, OLD.who, 7) ON CONFLICT DO NOTHING;
	ELSIF NEW.x = 13 THEN
		DELETE FROM t WHERE id = NEW.id;
	ELSIF NEW.x < 10 THEN
		UPDATE t SET x = x + 10 WHERE id = NEW.id;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER again AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION again();
INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 20), (3, 'c', 13), (4, 'd', -5);
TABLE t ORDER BY id;
SELECT * FROM counting ORDER BY properties;
BEGIN;
INSERT INTO t VALUES (1, 'a', 2), (5, 'e', 2) ON CONFLICT (id) DO UPDATE SET x = 3;
UPDATE t SET x = 4, id = id + 100 WHERE id = 2;
COMMIT;
ALTER TABLE t DISABLE TRIGGER again;
UPDATE t SET x = -1 WHERE id = 4;
ALTER TABLE t ENABLE TRIGGER again;
DELETE FROM t WHERE id = 1;
(SELECT id, x FROM t WHERE x >= 0 EXCEPT SELECT (properties->>'id')::int, (properties->>'x')::int FROM counting)
UNION ALL
(SELECT (properties->>'id')::int, (properties->>'x')::int FROM counting EXCEPT SELECT id, x FROM t WHERE x >= 0);
SELECT * FROM cdp.sync_attachment('t');
SELECT cdp.drop_attachment('t');

-- a foreign key to the table itself
CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON UPDATE CASCADE ON DELETE SET NULL);
SELECT cdp.attach('tree', '{"event": "Node", "identifiers": {"user_id": "id"}, "properties": ["id", "parent"]}');
INSERT INTO tree VALUES (1, 1), (2, 1), (3, 2), (4, 3);
UPDATE tree SET id = id + 10;
DELETE FROM tree WHERE id = 12;
SELECT properties FROM counting WHERE source = 'tree' ORDER BY properties;
SELECT * FROM cdp.sync_attachment('tree');

-- two foreign keys change the same row by one statement
CREATE TABLE staff (id int PRIMARY KEY);
CREATE TABLE visits (id int PRIMARY KEY, who text,
	host int REFERENCES staff ON DELETE SET NULL, guide int REFERENCES staff ON DELETE SET NULL);
INSERT INTO staff VALUES (1), (2);
SELECT cdp.attach('visits', '{"event": "Visited", "identifiers": {"user_id": "who"}, "properties": ["host", "guide"]}');
INSERT INTO visits SELECT g, 'v' || g, 1, 1 + g % 2 FROM generate_series(1, 4) g;
DELETE FROM staff WHERE id = 1;
DELETE FROM staff;
SELECT cdp.apply() > 0 AS applied;
SELECT e.properties FROM cdp.entries n JOIN cdp.events e ON e.xid = n.xid AND e.id = n.entry WHERE e.source = 'visits' ORDER BY e.identifiers[1]::text;
SELECT * FROM cdp.verify();
SELECT cdp.drop_attachment('visits');
DROP TABLE visits, staff;

-- the same, with a key whose type has its operators where no search_path finds
-- them, and attached by who may not read the table any more: nobody is stopped
CREATE TYPE code;
SET client_min_messages = warning;
CREATE FUNCTION code_in(cstring) RETURNS code LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION code_out(code) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
RESET client_min_messages;
CREATE TYPE code (INPUT = code_in, OUTPUT = code_out, LIKE = int4);
CREATE FUNCTION code_eq(code, code) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4eq';
CREATE FUNCTION code_cmp(code, code) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
CREATE OPERATOR = (LEFTARG = code, RIGHTARG = code, FUNCTION = code_eq);
CREATE OPERATOR CLASS code_ops DEFAULT FOR TYPE code USING btree AS OPERATOR 3 =, FUNCTION 1 code_cmp(code, code);
CREATE TABLE codes (id code PRIMARY KEY, parent code REFERENCES codes ON UPDATE CASCADE ON DELETE CASCADE);
CREATE ROLE regress_attach_reader;
GRANT USAGE ON SCHEMA cdp TO regress_attach_reader;
GRANT EXECUTE ON FUNCTION cdp.attach(regclass, jsonb, text, text, text, boolean, boolean), cdp.sync_attachment(text) TO regress_attach_reader;
GRANT SELECT, TRIGGER ON codes TO regress_attach_reader;
SELECT cdp.attach('codes', '{"event": "Code", "identifiers": {"user_id": "''u''"}, "properties": {"id": "id::text", "parent": "parent::text", "filler": "repeat(''x'', 50)"}}', copy => false);
SET ROLE regress_attach_reader;
SELECT cdp.attach('public.codes', '{"event": "Code", "identifiers": {"user_id": "''u''"}, "properties": {"id": "id::text", "parent": "parent::text"}}', name => 'copied');
RESET ROLE;
INSERT INTO codes VALUES ('1', NULL), ('2', '1'), ('3', '2');
UPDATE codes SET id = '11' WHERE id = '1';
DELETE FROM codes WHERE id = '2';
INSERT INTO codes VALUES ('4', '11');
SELECT source, properties FROM counting WHERE source IN ('codes', 'copied') ORDER BY source, properties;
SELECT properties->'id' AS id, properties->'parent' AS parent FROM (SELECT cdp.entry_properties(properties, source, id) FROM cdp.events WHERE source = 'codes' AND type = 'track') AS e(properties) WHERE properties <> '{}' ORDER BY 1;
SELECT source, detail FROM cdp.rejected;
REVOKE SELECT ON codes FROM regress_attach_reader;
INSERT INTO codes VALUES ('5', '11');
SELECT source, detail, sqlstate FROM cdp.rejected;
SELECT * FROM cdp.sync_attachment('copied');
GRANT SELECT ON codes TO regress_attach_reader;
SELECT * FROM cdp.sync_attachment('copied');
SELECT * FROM cdp.rejected;
SELECT * FROM cdp.sync_attachment('codes');
SELECT cdp.drop_attachment(name) FROM cdp.attachments WHERE name IN ('codes', 'copied');
DROP OWNED BY regress_attach_reader;
DROP ROLE regress_attach_reader;

-- child tables: named by themselves or not
CREATE TABLE parent (id int PRIMARY KEY, who text);
CREATE TABLE child (PRIMARY KEY (id), more text) INHERITS (parent);
SELECT cdp.attach('parent', '{"event": "P", "identifiers": {"user_id": "who"}, "properties": {"id": "id"}}');
INSERT INTO parent VALUES (1, 'p'), (2, 'p');
INSERT INTO child VALUES (11, 'c'), (12, 'c'), (13, 'c');
UPDATE parent SET id = id + 100 WHERE id IN (1, 11);
DELETE FROM child WHERE id = 12;
SELECT properties FROM counting WHERE source = 'parent' ORDER BY 1;
TRUNCATE ONLY parent;
SELECT properties FROM counting WHERE source = 'parent' ORDER BY 1;
SELECT * FROM cdp.sync_attachment('parent');
TRUNCATE parent;
SELECT count(*) FROM counting WHERE source = 'parent';
-- no primary key keeps a child from having the key of another table's row
INSERT INTO parent VALUES (1, 'p'), (2, 'p');
INSERT INTO child VALUES (2, 'c'), (3, 'c');
SELECT properties FROM counting WHERE source = 'parent' ORDER BY 1;
UPDATE parent SET who = who || 'x';
SELECT count(*) FROM counting WHERE source = 'parent';
SELECT detail FROM cdp.rejected WHERE source = 'parent';
SELECT * FROM cdp.sync_attachment('parent');
-- nor from having one twice
CREATE TABLE loose () INHERITS (parent);
SELECT * FROM cdp.sync_attachment('parent');
INSERT INTO loose VALUES (50, 'l'), (50, 'l'), (51, 'l');
UPDATE loose SET id = 50;
SELECT count(*) FROM counting WHERE source = 'parent' AND properties = '{"id": 50}';
DROP TABLE loose;
DELETE FROM ONLY parent;
SELECT * FROM cdp.sync_attachment('parent');
SELECT properties FROM counting WHERE source = 'parent' ORDER BY 1;
SELECT count(*) FROM cdp.rejected WHERE source = 'parent';
DELETE FROM parent;
SELECT count(*) FROM counting WHERE source = 'parent';

-- TRUNCATE of a partition, while a row of another one cannot be mapped
CREATE TABLE parts (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20);
SELECT cdp.attach('parts', '{"event": "Q", "identifiers": {"user_id": "id"}, "properties": {"id": "id", "x": "x::int"}}');
INSERT INTO parts VALUES (1, '1'), (2, '2'), (11, '3'), (12, 'much');
TRUNCATE parts_1;
SELECT properties FROM counting WHERE source = 'parts';
SELECT detail FROM cdp.rejected;
TRUNCATE parts;
SELECT count(*) FROM counting WHERE source = 'parts';

-- another definition of the same name within a transaction
CREATE TABLE v (id int PRIMARY KEY);
BEGIN;
SELECT cdp.attach('v', '{"event": "Before", "identifiers": {"user_id": "id"}, "properties": {}}');
INSERT INTO v VALUES (1);
SELECT cdp.drop_attachment('v', retract => true);
SELECT cdp.attach('v', '{"event": "After", "identifiers": {"user_id": "id"}, "properties": {}}');
INSERT INTO v VALUES (2);
SAVEPOINT s;
SELECT cdp.drop_attachment('v', retract => true);
SELECT cdp.attach('v', '{"event": "Never", "identifiers": {"user_id": "id"}, "properties": {}}');
ROLLBACK TO s;
INSERT INTO v VALUES (3);
COMMIT;
SELECT event, count(*) FROM counting WHERE source = 'v' GROUP BY 1;

-- rows that a policy hides from who attaches
CREATE ROLE regress_attach_policy;
GRANT USAGE ON SCHEMA cdp TO regress_attach_policy;
GRANT EXECUTE ON FUNCTION cdp.attach(regclass, jsonb, text, text, text, boolean, boolean), cdp.sync_attachment(text) TO regress_attach_policy;
CREATE TABLE hidden (id int PRIMARY KEY);
INSERT INTO hidden VALUES (1), (2);
GRANT SELECT, TRIGGER ON hidden TO regress_attach_policy;
CREATE POLICY even ON hidden USING (id % 2 = 0);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
SET ROLE regress_attach_policy;
SELECT cdp.attach('public.hidden', '{"event": "H", "identifiers": {"user_id": "id"}}', load => false);
SELECT cdp.attach('public.hidden', '{"event": "H", "identifiers": {"user_id": "id"}}', capture => 'poll');
RESET ROLE;
SELECT properties FROM counting WHERE source = 'hidden';
ALTER TABLE hidden DISABLE ROW LEVEL SECURITY;
SET ROLE regress_attach_policy;
SELECT cdp.attach('public.hidden', '{"event": "H", "identifiers": {"user_id": "id"}}', 'hidden2');
RESET ROLE;
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
SELECT * FROM cdp.sync_attachment('hidden2');
SELECT cdp.drop_attachment(name) FROM cdp.attachments WHERE name LIKE 'hidden%';
DROP OWNED BY regress_attach_policy;
DROP ROLE regress_attach_policy;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM cdp.verify();
