--
-- Packed entries: of each key there is at most one, whatever happens to rows
-- and entries, and what statements over cdp.events do with them.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';
SET jit = off;

CREATE TABLE visits (id int PRIMARY KEY, who text, pages int, note text, at timestamptz DEFAULT '2026-04-01');
SELECT cdp.create_trait('pages', aggregate => 'sum', event => 'Visit', value => $$(properties->>'pages')::numeric$$);
SELECT cdp.attach('visits', '{"event": "Visit", "identifiers": {"user_id": "who"}, "time": "at"}', copy => false);
CREATE FUNCTION wrong() RETURNS TABLE (what text, said text) LANGUAGE sql AS $$
	SELECT 'packed twice', i.key::text FROM cdp.attachment_definitions d, cdp.bundle_items(d.version) i GROUP BY d.id, i.key HAVING count(*) > 1
	UNION ALL
	SELECT 'mark', r.key::text FROM cdp.attached_rows r WHERE (r.entry = 0 AND NOT r.packed) OR r.packed IS DISTINCT FROM
		EXISTS (SELECT FROM cdp.attachment_definitions d, cdp.bundle_items(d.version) i WHERE d.id = r.attachment AND i.key = r.key)
	UNION ALL
	SELECT 'rows', format('%s: %s, computed %s', coalesce(r.who, t.who), r.pages, t.pages)
	FROM (SELECT v.who, sum(v.pages) AS pages FROM visits v GROUP BY v.who) r
	FULL JOIN (SELECT cdp.value(i.identifier) AS who, (p.traits->>'pages')::numeric AS pages
		FROM cdp.identities i JOIN cdp.profiles p USING (profile_id) WHERE p.traits->>'pages' IS NOT NULL) t ON t.who = r.who
	WHERE r.pages IS DISTINCT FROM t.pages
	UNION ALL
	SELECT 'verify', v::text FROM cdp.verify() v
$$;
-- where the entries are
CREATE VIEW places AS SELECT
	(SELECT count(*) FROM cdp.events_packed) AS packed,
	(SELECT count(*) FROM cdp.events_rows e WHERE e.source = 'visits' AND e.type <> 'undo') AS rows,
	(SELECT count(*) FROM cdp.events_rows e WHERE e.type = 'undo') AS undos,
	(SELECT count(*) FROM cdp.attached_rows r WHERE r.entry <> 0) AS known,
	(SELECT count(*) FROM cdp.attached_rows r WHERE r.entry = 0) AS marks;

-- a known row is never packed again: not when it changes, goes, or comes back
INSERT INTO visits SELECT g, 'u' || g % 5, g, repeat('x', 100) FROM generate_series(1, 40) g;
SELECT * FROM places;
UPDATE visits SET pages = pages + 1;
SELECT * FROM places;
DELETE FROM visits;
SELECT * FROM places;
INSERT INTO visits SELECT g, 'u' || g % 5, g, repeat('x', 100) FROM generate_series(1, 60) g;
SELECT * FROM places;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();
-- rows that say what they said leave no trace, here or in a comparison
UPDATE visits SET pages = pages;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
SELECT * FROM places;
TRUNCATE visits;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();

-- triggers that write to the rows of a large statement again, and to others
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF pg_trigger_depth() = 1 THEN
		UPDATE visits SET pages = pages + 100 WHERE id = NEW.id OR id = NEW.id - 1;
		IF NEW.id % 4 = 0 THEN DELETE FROM visits WHERE id = NEW.id; END IF;
		IF NEW.id % 4 = 1 THEN INSERT INTO visits (id, who, pages) SELECT 1000 * NEW.id + g, NEW.who, 1 FROM generate_series(1, 20) g; END IF;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER again AFTER INSERT OR UPDATE ON visits FOR EACH ROW EXECUTE FUNCTION again();
INSERT INTO visits SELECT g, 'u' || g % 5, g, repeat('x', 100) FROM generate_series(101, 140) g;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();
UPDATE visits SET pages = pages + 1 WHERE id BETWEEN 111 AND 112;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();
DROP TRIGGER again ON visits;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');

-- several statements of a transaction, one that deletes and inserts, an upsert, MERGE, and what is rolled back
BEGIN;
DELETE FROM visits;
INSERT INTO visits SELECT g, 'u' || g % 5, g, 'first' FROM generate_series(1, 80) g;
SAVEPOINT s;
UPDATE visits SET pages = 1000;
DELETE FROM visits WHERE id <= 40;
INSERT INTO visits SELECT g, 'u1', g, 'never' FROM generate_series(201, 240) g;
ROLLBACK TO s;
INSERT INTO visits SELECT g, 'u1', g, 'second' FROM generate_series(201, 220) g;
COMMIT;
WITH gone AS (DELETE FROM visits WHERE id <= 30 RETURNING *) INSERT INTO visits SELECT id, who, pages + 1, note, at FROM gone;
INSERT INTO visits SELECT g, 'u2', 5, 'upsert' FROM generate_series(71, 110) g ON CONFLICT (id) DO UPDATE SET pages = visits.pages + 7;
MERGE INTO visits v USING (SELECT g FROM generate_series(101, 140) g) s ON v.id = s.g
	WHEN MATCHED AND s.g % 2 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET pages = 3 WHEN NOT MATCHED THEN INSERT VALUES (s.g, 'u3', 9, 'merge', '2026-04-02');
UPDATE visits SET id = -id WHERE id % 3 = 0;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');

-- an entry is undone by its number, without its row
SELECT e.id AS undone FROM cdp.events_packed e WHERE e.properties->>'$row' = '205' ORDER BY e.id DESC LIMIT 1 \gset
SELECT cdp.undo('#' || :undone, 'visits') IS NOT NULL AS undone;
SELECT cdp.apply();
SELECT what, said FROM wrong();
UPDATE visits SET pages = pages + 1 WHERE id BETWEEN 200 AND 210;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();
-- all that reads entries reads these
SELECT count(*) = (SELECT count(*) FROM visits WHERE who = 'u1') AS all, bool_and(t.properties ? 'pages') AS read FROM cdp.timeline('user_id:u1', max => 1000) t WHERE t.event = 'Visit';
SELECT cdp.profile_at('user_id:u3', '2026-04-30')->'traits'->'pages' = to_jsonb(sum(pages)) AS at FROM visits WHERE who = 'u3';
SELECT cdp.export('user_id:u1')::text LIKE '%"second"%' AS exported;

-- one statement that changes an entry twice changes it once; a bundle that several parts of a statement change is right or an error
INSERT INTO visits SELECT g, 'u4', 1, 'changed' FROM generate_series(301, 340) g;
SELECT min(e.id) AS first FROM cdp.events_packed e WHERE e.properties->>'$row' = '301' \gset
BEGIN;
SELECT cdp.lock_applier();
UPDATE cdp.events e SET event = 'x' || u.n FROM (VALUES (0), (1), (2)) u (n) WHERE e.id = :first RETURNING e.id = :first AS once;
SELECT count(*), min(e.tableoid::regclass::text) FROM cdp.events e WHERE e.id = :first;
DELETE FROM cdp.events e USING (VALUES (0), (1)) u (n) WHERE e.id = :first + 1 RETURNING e.id = :first + 1 AS once, e.identifiers;
WITH a AS (DELETE FROM cdp.events WHERE id = :first + 2 RETURNING id), b AS (UPDATE cdp.events SET event = 'y' WHERE id = :first + 3 RETURNING id), c AS (DELETE FROM cdp.events WHERE id = :first + 4)
SELECT (SELECT id FROM a) = :first + 2 AS a, (SELECT id FROM b) = :first + 3 AS b;
SELECT array_agg(e.id - :first ORDER BY e.id) FROM cdp.events e WHERE e.id BETWEEN :first AND :first + 6;
SAVEPOINT s;
WITH a AS (DELETE FROM cdp.events WHERE id = :first + 5), b AS (UPDATE cdp.events SET event = 'y' WHERE id = :first + 5) SELECT;
ROLLBACK TO s;
SELECT count(*) FROM cdp.events WHERE id = :first + 5;
-- rows of what has changed are where they can be found
SELECT e.id - :first AS entry, r.packed FROM cdp.attached_rows r JOIN generate_series(:first, :first + 6) e (id) ON r.entry = e.id ORDER BY 1;
ROLLBACK;

-- columns of the system, locks, and the like
SELECT DISTINCT e.tableoid::regclass, e.xmin, e.xmax, e.ctid IN (SELECT b.ctid FROM cdp.bundles b) AS in_bundle FROM cdp.events e WHERE e.id BETWEEN :first AND :first + 6;
SELECT count(*) FROM (SELECT e.* FROM cdp.events e WHERE e.id BETWEEN :first AND :first + 6 FOR UPDATE) l;
BEGIN;
DECLARE c CURSOR FOR SELECT e.id FROM cdp.events e WHERE e.id BETWEEN :first AND :first + 1 ORDER BY e.id;
FETCH 1 FROM c \gset
SELECT :id = :first AS fetched;
ROLLBACK;
ANALYZE cdp.events;
\set VERBOSITY terse
VACUUM cdp.events;
MERGE INTO cdp.events e USING (SELECT 1) s ON e.id = :first WHEN MATCHED THEN DELETE;
INSERT INTO cdp.events_packed (id, type) VALUES (1, 'track');
COPY cdp.events TO STDOUT;
\set VERBOSITY default
BEGIN;
TRUNCATE cdp.events;
SELECT count(*) FROM cdp.bundles;
ROLLBACK;
SET client_min_messages = error;
CREATE PUBLICATION log FOR TABLE cdp.events WITH (publish_via_partition_root = true);
CREATE PUBLICATION everything FOR ALL TABLES;
SELECT pubname, tablename FROM pg_publication_tables WHERE schemaname = 'cdp' AND tablename LIKE 'events%' ORDER BY 1, 2;
DROP PUBLICATION log, everything;
RESET client_min_messages;

-- nobody reads packed entries who cannot read the log
CREATE ROLE attach_packed_nobody;
CREATE ROLE attach_packed_reader;
GRANT USAGE ON SCHEMA cdp TO attach_packed_nobody, attach_packed_reader;
GRANT SELECT ON cdp.events TO attach_packed_reader;
SET ROLE attach_packed_nobody;
SELECT count(*) FROM cdp.events;
SELECT count(*) FROM cdp.events_packed;
SELECT count(*) FROM cdp.bundles;
SELECT count(*) FROM cdp.bundle_items(1);
CREATE FOREIGN TABLE pg_temp.mine (id bigint) SERVER cdp_bundles;
SET ROLE attach_packed_reader;
SELECT count(*) > 0 AS reads FROM cdp.events;
SELECT count(*) FROM cdp.events_packed;
RESET ROLE;
REVOKE ALL ON SCHEMA cdp FROM attach_packed_nobody, attach_packed_reader;
REVOKE ALL ON cdp.events FROM attach_packed_reader;
DROP ROLE attach_packed_nobody, attach_packed_reader;
-- and no other foreign table is on the server
CREATE FOREIGN TABLE mine (id text, xid int) SERVER cdp_bundles;
SELECT * FROM mine;
DELETE FROM mine;
DROP FOREIGN TABLE mine;
CREATE FOREIGN TABLE mine (id bigint, message_id text, source text, type text, event text, identifiers cdp.identifier[], properties jsonb, context jsonb,
	occurred_at timestamptz, received_at timestamptz, xid bigint, incarnation int) SERVER cdp_bundles;
SELECT count(*) FROM mine;
DROP FOREIGN TABLE mine;

-- an erased entry leaves its bundle; the older one of its row does not count again; a comparison logs the row as a new one, once
CREATE FUNCTION erase(who text) RETURNS void LANGUAGE sql AS $$ SELECT cdp.erase(('user_id:' || who)::cdp.identifier); $$;
INSERT INTO visits SELECT g, 'ann', 1, 'a' FROM generate_series(401, 440) g;
SELECT cdp.apply() > 0 AS applied;
UPDATE visits SET who = 'bob' WHERE id BETWEEN 401 AND 405;
SELECT cdp.apply() > 0 AS applied;
SELECT erase('bob');
SELECT cdp.apply() >= 0 AS applied;
SELECT count(*) FILTER (WHERE r.entry = 0 AND r.packed) AS marks, count(*) FILTER (WHERE r.entry <> 0) AS known
FROM cdp.attached_rows r WHERE r.key IN (SELECT '\x03'::bytea || g::text::bytea FROM generate_series(401, 405) g);
SELECT count(*) FROM cdp.known_rows(1, (SELECT d.version FROM cdp.attachment_definitions d)) k
	WHERE k.key IN (SELECT '\x03'::bytea || g::text::bytea FROM generate_series(401, 405) g);
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
SELECT cdp.apply() >= 0 AS applied;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
SELECT cdp.apply() >= 0 AS applied;
DELETE FROM visits WHERE who = 'bob';
SELECT cdp.apply() >= 0 AS applied;
SELECT * FROM wrong();
SELECT erase('ann');
SELECT cdp.apply() >= 0 AS applied;
SELECT count(*) FROM cdp.events_packed e WHERE e.identifiers::text[] @> '{user_id:ann}';
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
SELECT cdp.apply() >= 0 AS applied;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
DELETE FROM visits WHERE who = 'ann';
SELECT cdp.apply() >= 0 AS applied;
SELECT * FROM wrong();

-- where two transactions could have the same key at once nothing is packed
CREATE TABLE later (id int PRIMARY KEY DEFERRABLE, who text, note text);
CREATE TABLE parent (id int PRIMARY KEY, who text, note text);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE boxes (id inet PRIMARY KEY, who text, note text);
SELECT cdp.attach(t::regclass, '{"event": "Other", "identifiers": {"user_id": "who"}}', copy => false) FROM unnest('{later,parent,boxes}'::text[]) t;
SELECT count(*) AS before FROM cdp.events_packed \gset
INSERT INTO later SELECT g, 'u1', repeat('x', 100) FROM generate_series(1, 40) g;
INSERT INTO parent SELECT g, 'u1', repeat('x', 100) FROM generate_series(1, 40) g;
INSERT INTO boxes SELECT '10.0.0.0'::inet + g, 'u1', repeat('x', 100) FROM generate_series(1, 40) g;
SELECT count(*) - :before AS packed FROM cdp.events_packed;
SELECT count(*) FROM cdp.events e WHERE e.source IN ('later', 'parent', 'boxes');
-- rows that were packed before the table had a child with the same keys
SELECT cdp.drop_attachment('parent', retract => true);
DROP TABLE child;
SELECT cdp.attach('parent', '{"event": "Other", "identifiers": {"user_id": "who"}}', copy => false);
CREATE TABLE child () INHERITS (parent);
SELECT logged, retracted, rejected FROM cdp.sync_attachment('parent');
INSERT INTO child SELECT g, 'u2', repeat('x', 100) FROM generate_series(31, 50) g;
UPDATE parent SET note = note || 'y' WHERE id > 20;
DELETE FROM child WHERE id < 40;
DELETE FROM ONLY parent WHERE id BETWEEN 25 AND 35;
DROP TABLE child;
SELECT cdp.sync_attachment('parent') IS NOT NULL AS synchronised;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('parent');
SELECT count(*) = (SELECT count(*) FROM parent) AS same FROM cdp.attachment_definitions d, cdp.known_rows(d.id, d.version) WHERE d.name = 'parent';
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong() w WHERE w.what <> 'rows';

-- keys of all kinds, the empty one among them
CREATE TABLE keyed (id text PRIMARY KEY, who text, note text);
SELECT cdp.attach('keyed', '{"event": "Keyed", "identifiers": {"user_id": "who"}}', copy => false);
INSERT INTO keyed SELECT id, 'k', repeat('x', 100) FROM unnest('{"",0,00,1,-1,999999999999999999,9999999999999999999,exactly-fifteen,sixteen-letters!,ü,"$row"," ",+1,1.0,''}'::text[]) id
	UNION ALL SELECT repeat('long', 20) || g, 'k', repeat('x', 100) FROM generate_series(1, 10) g;
SELECT count(*) FROM cdp.events_packed e WHERE e.event = 'Keyed';
SELECT count(*) FROM keyed k WHERE NOT EXISTS (SELECT FROM cdp.events_packed e WHERE e.event = 'Keyed' AND e.properties = jsonb_build_object('$row', k.id));
UPDATE keyed SET note = note || 'y' WHERE id IN ('', '0', 'sixteen-letters!');
DELETE FROM keyed WHERE id IN ('', '00');
INSERT INTO keyed VALUES ('', 'k', repeat('z', 100));
DELETE FROM keyed WHERE id LIKE 'long%';
SELECT logged, retracted, rejected FROM cdp.sync_attachment('keyed');
SELECT count(*) = (SELECT count(*) FROM keyed) AS same FROM cdp.attachment_definitions d, cdp.known_rows(d.id, d.version) WHERE d.name = 'keyed';
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();

-- another definition of the same name and number knows nothing of the bundles of the first
SELECT cdp.drop_attachment('keyed', retract => true);
SELECT cdp.attach('keyed', '{"event": "Again", "identifiers": {"user_id": "who"}}', copy => false);
SELECT count(*) = (SELECT count(*) FROM keyed) AS same, count(DISTINCT e.event) FROM cdp.attachment_definitions d, cdp.known_rows(d.id, d.version) k JOIN cdp.events e ON e.id = k.entry WHERE d.name = 'keyed';
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM wrong();

-- bytes that are no bundle are an error that says so, whatever they are; with a checksum that fits, too
CREATE FUNCTION crc32c(data bytea) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
	crc bigint := 4294967295;
BEGIN
	FOR i IN 0..length(data) - 1 LOOP
		crc := crc # get_byte(data, i);
		FOR bit IN 1..8 LOOP
			crc := CASE WHEN crc & 1 = 1 THEN (crc >> 1) # 2197175160 ELSE crc >> 1 END;
		END LOOP;
	END LOOP;
	crc := crc # 4294967295;
	RETURN decode(lpad(to_hex(crc), 8, '0'), 'hex');
END $$;
CREATE FUNCTION reversed(data bytea) RETURNS bytea LANGUAGE sql AS $$ SELECT string_agg(substr(data, i, 1), ''::bytea ORDER BY i DESC) FROM generate_series(1, length(data)) i $$;
SELECT count(*) AS bundles, bool_and(substr(packed, 2, 4) IN (crc32c(substr(packed, 6)), reversed(crc32c(substr(packed, 6))))) AS sums,
	min(cardinality(cdp.bundle_buckets(attachment, packed))) > 0 AS buckets FROM (SELECT * FROM cdp.bundles ORDER BY length(packed) LIMIT 3) b;
CREATE TABLE outcomes (summed boolean, state text);
DO $$
DECLARE
	original cdp.bundles;
	bytes bytea;
	summed boolean;
	little boolean;
	n int;
BEGIN
	PERFORM setseed(0.3);
	SELECT * INTO original FROM cdp.bundles b ORDER BY abs(length(b.packed) - 300) LIMIT 1;
	little := substr(original.packed, 2, 4) = reversed(crc32c(substr(original.packed, 6)));
	FOR step IN 1..1500 LOOP
		bytes := original.packed;
		n := length(bytes);
		CASE step % 4
		WHEN 0 THEN bytes := substr(bytes, 1, floor(random() * n)::int);
		WHEN 1 THEN bytes := bytes || substr(bytes, 1 + floor(random() * n)::int);
		WHEN 2 THEN FOR i IN 0..floor(random() * 3)::int LOOP bytes := set_byte(bytes, floor(random() * n)::int, floor(random() * 256)::int); END LOOP;
		WHEN 3 THEN FOR i IN 0..floor(random() * 3)::int LOOP bytes := set_byte(bytes, floor(random() * n)::int, (ARRAY[0, 1, 127, 128, 255])[1 + floor(random() * 5)::int]); END LOOP;
		END CASE;
		summed := length(bytes) > 5 AND step % 2 = 0 OR length(bytes) > 5 AND random() < 0.5;
		IF summed THEN
			bytes := substr(bytes, 1, 1) || CASE WHEN little THEN reversed(crc32c(substr(bytes, 6))) ELSE crc32c(substr(bytes, 6)) END || substr(bytes, 6);
		END IF;
		IF bytes = original.packed THEN
			CONTINUE;
		END IF;
		BEGIN
			PERFORM cdp.bundle_buckets(original.attachment, bytes);
			UPDATE cdp.bundles SET packed = bytes WHERE xid = original.xid AND last = original.last;
			PERFORM count(e.id), count(e.identifiers::text), count(e.occurred_at) FROM cdp.events_packed e WHERE e.xid = original.xid;
			PERFORM count(*) FROM cdp.bundle_items(original.attachment);
			RAISE EXCEPTION USING ERRCODE = 'P0001';
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO outcomes VALUES (summed, SQLSTATE);
		END;
	END LOOP;
END $$;
-- P0001: it could be read; 22P02: an identifier that is none
SELECT summed, state, count(*) FROM outcomes WHERE state <> 'XX001' AND (NOT summed OR state NOT IN ('P0001', '22P02')) GROUP BY 1, 2;
SELECT summed, count(*) > 100 AS many FROM outcomes WHERE state = 'XX001' GROUP BY 1 ORDER BY 1;
SELECT * FROM wrong();
