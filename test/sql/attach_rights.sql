--
-- Attached tables: whose rights count.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';

CREATE ROLE regress_attach_owner;
CREATE ROLE regress_attach_other;
GRANT USAGE ON SCHEMA cdp TO regress_attach_owner, regress_attach_other;
GRANT EXECUTE ON FUNCTION cdp.attach(regclass, jsonb, text, text, text, boolean, boolean), cdp.drop_attachment(text, boolean),
	cdp.sync_attachment(text) TO regress_attach_owner, regress_attach_other;
CREATE SCHEMA own AUTHORIZATION regress_attach_owner;
CREATE SCHEMA other AUTHORIZATION regress_attach_other;
CREATE TABLE secret (word text);
INSERT INTO secret VALUES ('hidden');

SET ROLE regress_attach_owner;
CREATE TABLE own.t (id int PRIMARY KEY, who text);
GRANT USAGE ON SCHEMA own TO regress_attach_other;
GRANT INSERT, DELETE ON own.t TO regress_attach_other;
CREATE TABLE own.names (id int, name text);
INSERT INTO own.names VALUES (1, 'one');
-- what the role cannot read, its mapping cannot read
SELECT cdp.attach('own.t', '{"event": "x", "identifiers": {"user_id": "(SELECT word FROM public.secret)"}}');
SELECT cdp.attach('public.secret', '{"event": "x", "identifiers": {"user_id": "word"}, "key": "word"}', capture => 'poll');
SELECT cdp.attach('own.t', '{"event": "x", "identifiers": {"user_id": "who"}, "properties": {
	"name": "(SELECT n.name FROM own.names n WHERE n.id = r.id)", "as": "current_user"}}');
RESET ROLE;

-- whoever writes to the table: the mapping reads as the one who attached it
SET ROLE regress_attach_other;
INSERT INTO own.t VALUES (1, 'a');
-- somebody else's table gets nothing into that source, nor can the log be written to
CREATE TABLE other.t (id int PRIMARY KEY, who text);
CREATE TRIGGER forged AFTER INSERT ON other.t REFERENCING NEW TABLE AS cdp_new FOR EACH STATEMENT EXECUTE FUNCTION cdp.capture('t');
INSERT INTO other.t VALUES (2, 'forged');
CREATE TRIGGER row AFTER INSERT ON other.t FOR EACH ROW EXECUTE FUNCTION cdp.capture('t');
INSERT INTO other.t VALUES (3, 'forged');
SELECT cdp.capture();
DROP TRIGGER row ON other.t;
INSERT INTO cdp.events (event) VALUES ('x');
SELECT * FROM cdp.attached_rows;
-- not on a table of somebody else, and not somebody else's attachment
SELECT cdp.attach('own.t', '{"event": "x", "identifiers": {"user_id": "who"}}', 'mine');
SELECT cdp.drop_attachment('t');
RESET ROLE;
SELECT source, event, identifiers, properties FROM cdp.events ORDER BY id;

-- functions of the mapping run as the one who attached, and restricted
SET ROLE regress_attach_owner;
CREATE FUNCTION own.evil(x text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'SET ROLE ' || quote_ident(session_user);
	RETURN x;
END $$;
CREATE TABLE own.u (id int PRIMARY KEY, who text);
SELECT cdp.attach('own.u', '{"event": "x", "identifiers": {"user_id": "own.evil(who)"}}');
INSERT INTO own.u VALUES (1, 'a');
RESET ROLE;
SELECT detail FROM cdp.rejected;

-- search_path, TimeZone and DateStyle of who writes do not matter
SET ROLE regress_attach_owner;
CREATE TABLE own.w (id int PRIMARY KEY, who text, day date, at timestamptz);
SELECT cdp.attach('own.w', '{"event": "x", "identifiers": {"user_id": "lower(who)"}, "time": "day"}');
CREATE FUNCTION own.lower(text) RETURNS text LANGUAGE sql RETURN 'wrong';
SET search_path = own, pg_catalog;
SET timezone = 'Asia/Tokyo';
SET datestyle = 'German';
INSERT INTO own.w VALUES (1, 'A', '2026-04-01', '2026-04-01 00:00+00');
RESET datestyle;
RESET timezone;
RESET search_path;
SELECT * FROM cdp.sync_attachment('w');
RESET ROLE;
SET timezone = 'UTC';
SELECT identifiers, properties, occurred_at FROM cdp.events WHERE source = 'w';

-- nobody else's view or table takes the place of an attached one
GRANT ALL ON SCHEMA own TO regress_attach_other;
SET ROLE regress_attach_owner;
DROP TABLE own.u;
RESET ROLE;
SET ROLE regress_attach_other;
CREATE FUNCTION own.steal() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'runs as %', current_user; END $$;
CREATE TABLE own.u (id int PRIMARY KEY, who text);
INSERT INTO own.u VALUES (1, 'x');
CREATE TRIGGER forged AFTER INSERT ON own.u REFERENCING NEW TABLE AS cdp_new FOR EACH STATEMENT EXECUTE FUNCTION cdp.capture('u');
INSERT INTO own.u VALUES (2, 'x');
DROP TABLE own.u;
CREATE VIEW own.u AS SELECT 1 AS id, own.steal()::text AS who;
RESET ROLE;
SELECT status FROM cdp.attachments WHERE name = 'u';
SELECT cdp.sync_attachment('u');
SELECT count(*) FROM cdp.events WHERE source = 'u';
DROP VIEW own.u;

-- the role is gone: known, and nobody is stopped
ALTER SCHEMA own OWNER TO CURRENT_USER;
ALTER TABLE own.w OWNER TO CURRENT_USER;
DROP OWNED BY regress_attach_other, regress_attach_owner CASCADE;
DROP ROLE regress_attach_owner, regress_attach_other;
INSERT INTO own.w VALUES (2, 'B', '2026-04-01', NULL);
SELECT name, status FROM cdp.attachments ORDER BY name;
SELECT name, error FROM cdp.sync_attachments();
