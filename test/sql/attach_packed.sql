--
-- Attached with copy => false: the entries of a statement of many rows are
-- packed, and are entries like all others.
--
SET client_min_messages = warning;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'UTC';
SET cdp.now = '2026-05-01 12:00+00';
SELECT setseed(0.27);

CREATE TABLE visits (id int PRIMARY KEY, who text, pages int, note text, at timestamptz);
SELECT cdp.create_trait('pages', aggregate => 'sum', event => 'Visit', value => $$(properties->>'pages')::numeric$$);
SELECT cdp.attach('visits', '{"event": "Visit", "identifiers": {"user_id": "who"}, "time": "at"}', copy => false);
CREATE VIEW stored AS SELECT
	(SELECT count(*) > 0 FROM cdp.bundles) AS bundles,
	(SELECT count(*) FROM cdp.events_packed) AS packed,
	(SELECT count(*) FROM cdp.events_rows e WHERE e.source = 'visits') AS rows,
	(SELECT count(*) FROM cdp.attached_rows) AS loose;
-- whoever has visits, and how many pages the rows say and the log
CREATE FUNCTION differences() RETURNS TABLE (who text, said numeric, computed numeric) LANGUAGE sql AS $$
	SELECT coalesce(r.who, t.who), r.pages, t.pages
	FROM (SELECT v.who, sum(v.pages) AS pages FROM visits v GROUP BY v.who) r
	FULL JOIN (SELECT cdp.value(i.identifier) AS who, (p.traits->>'pages')::numeric AS pages
		FROM cdp.identities i JOIN cdp.profiles p USING (profile_id) WHERE p.traits->>'pages' IS NOT NULL) t ON t.who = r.who
	WHERE r.pages IS DISTINCT FROM t.pages
$$;

-- many rows of one statement are packed, a few are rows
INSERT INTO visits SELECT g, 'u' || g % 7, g, repeat('x', 300), '2026-04-01 00:00+00'::timestamptz + g * interval '1 minute'
FROM generate_series(1, 500) g;
INSERT INTO visits VALUES (501, 'u1', 501, 'few', '2026-04-03 00:00+00');
SELECT * FROM stored;
SELECT e.message_id, e.source, e.type, e.event, e.identifiers, e.properties, e.context, e.occurred_at, e.received_at
FROM cdp.events e ORDER BY e.id LIMIT 2;
SELECT count(*), count(DISTINCT e.id), count(DISTINCT e.xid) FROM cdp.events e;
SELECT cdp.apply();
SELECT * FROM differences();
SELECT * FROM cdp.verify();

-- an entry is found by its transaction and number, by a number, by a range, and by nothing that it does not have
SELECT min(xid) AS xid, min(id) AS id FROM cdp.events_packed \gset
SET enable_seqscan = off;
SELECT count(*) FROM cdp.events e WHERE e.xid = :xid AND e.id = :id + 300;
SELECT count(*) FROM cdp.events e WHERE e.xid = :xid AND e.id > :id + 300 AND e.id <= :id + 400;
SELECT count(*) FROM cdp.events e WHERE e.xid > :xid - 1 AND e.xid < :xid + 1;
SELECT count(*) FROM cdp.events e WHERE (e.xid, e.id) > (:xid, :id + 490);
SELECT count(*) FROM cdp.events e WHERE e.id = ANY (ARRAY[:id, :id + 77, :id + 499, NULL, -1]::bigint[]);
SELECT count(*) FROM cdp.events e WHERE :id + 490 <= e.id AND e.tableoid = 'cdp.events_packed'::regclass;
SELECT count(*) FROM (SELECT unnest(ARRAY[:id, :id + 1, 0]) AS id, :xid AS xid) u JOIN cdp.events e ON e.xid = u.xid AND e.id = u.id;
SELECT count(*) FROM cdp.events e WHERE e.xid = NULL::bigint;
SELECT count(*) FROM cdp.events e WHERE e.message_id IS NOT NULL;
SELECT count(*) FROM cdp.events e WHERE cdp.message_hash(e.source, e.message_id) = 1;
SELECT count(*) BETWEEN 200 AND 499 AS some FROM cdp.events e WHERE e.ctid < '(1,0)' AND e.tableoid = 'cdp.events_packed'::regclass
	AND e.ctid IN (SELECT b.ctid FROM cdp.bundles b WHERE e.id BETWEEN b.first AND b.last);
RESET enable_seqscan;
SELECT DISTINCT cdp.content_hash(e) = md5(ROW(e.type, e.event, e.identifiers, e.properties, e.context)::text) AS hash FROM cdp.events e;
SELECT cdp.payload(e)->'properties'->'pages' AS pages FROM cdp.events e WHERE e.id = :id + 41;

-- changes of many rows and of one, of packed ones and of others; rows that say what they said are no change
UPDATE visits SET pages = pages + 1 WHERE id <= 100;
UPDATE visits SET pages = 0 WHERE id IN (50, 150);
UPDATE visits SET pages = pages WHERE id < 300;
DELETE FROM visits WHERE id IN (51, 151, 501);
DELETE FROM visits WHERE id BETWEEN 400 AND 450;
INSERT INTO visits SELECT g, 'u' || g % 5, 7, repeat('y', 300), '2026-04-01 00:00+00'::timestamptz + g * interval '1 minute' FROM generate_series(440, 460) g
ON CONFLICT (id) DO UPDATE SET pages = 8, who = excluded.who;
INSERT INTO visits VALUES (151, 'u1', 3, repeat('x', 300), '2026-04-01 00:00+00');
SELECT * FROM stored;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM differences();
SELECT * FROM cdp.verify();
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');

-- what happened behind the triggers' back
ALTER TABLE visits DISABLE TRIGGER USER;
DELETE FROM visits WHERE id BETWEEN 200 AND 220;
UPDATE visits SET pages = 11 WHERE id BETWEEN 230 AND 240;
UPDATE visits SET pages = 12 WHERE id = 50;
ALTER TABLE visits ENABLE TRIGGER USER;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
SELECT cdp.apply();
SELECT * FROM differences();
SELECT * FROM cdp.verify();

-- at random, packed or not
CREATE TABLE problems (step int, what text);
DO $$
BEGIN
	FOR step IN 1..60 LOOP
		PERFORM set_config('cdp.pack_from', (1 + floor(random() * 30)::int)::text, false);
		CASE floor(random() * 6)::int
		WHEN 0 THEN
			INSERT INTO visits SELECT 1000 * step + g, 'u' || floor(random() * 9), floor(random() * 100), repeat('z', 300), '2026-04-01 00:00+00'
			FROM generate_series(1, 1 + floor(random() * 40)::int) g;
		WHEN 1 THEN
			UPDATE visits SET pages = pages + 1 WHERE random() < 0.1;
		WHEN 2 THEN
			UPDATE visits SET who = 'u' || floor(random() * 9) WHERE random() < 0.02;
		WHEN 3 THEN
			DELETE FROM visits WHERE random() < 0.05;
		WHEN 4 THEN
			UPDATE visits SET id = -id WHERE random() < 0.03;
		WHEN 5 THEN
			BEGIN
				UPDATE visits SET pages = 1000;
				RAISE EXCEPTION 'rolled back';
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		END CASE;
		COMMIT;
		IF random() < 0.5 THEN
			PERFORM cdp.apply();
			INSERT INTO problems SELECT step, d.who FROM differences() d;
			COMMIT;
		END IF;
	END LOOP;
END $$;
RESET cdp.pack_from;
SELECT cdp.apply() >= 0 AS applied;
SELECT * FROM problems;
SELECT * FROM differences();
SELECT * FROM cdp.verify();
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
SELECT packed > 500 AS packed, rows > 100 AS rows, loose > 10 AS loose FROM stored;

-- an entry that is put aside and tried again is one of a later transaction, and counts for its row
INSERT INTO visits SELECT 100000 + g, 'u8', 7, repeat('z', 300), '2026-04-01 00:00+00' FROM generate_series(1, 20) g;
SELECT e.id AS tried, e.xid, e.properties->>'$row' AS visit FROM cdp.events_packed e ORDER BY e.id DESC LIMIT 1 OFFSET 5 \gset
BEGIN;
SELECT cdp.lock_applier();
INSERT INTO cdp.isolated (entry, xid, sqlstate, detail) VALUES (:tried, :xid, 'XX000', 'for the test');
SELECT cdp.definitions_changed();
COMMIT;
SELECT cdp.apply() > 0 AS applied;
SELECT reason FROM cdp.rejected WHERE entry = :tried;
SELECT cdp.retry_rejected(ARRAY[:tried]);
SELECT e.tableoid::regclass, e.xid > :xid AS later, e.properties->>'$row' = :'visit' AS same FROM cdp.events e WHERE e.id = :tried;
SELECT count(*) FROM cdp.attached_rows WHERE entry = :tried;
SELECT cdp.apply();
SELECT * FROM differences();
UPDATE visits SET pages = 99 WHERE id = :visit;
SELECT cdp.apply();
SELECT * FROM differences();
SELECT * FROM cdp.verify();

-- erasure: nothing of the person is left, and the others stay
SELECT count(*) > 20 AS there FROM cdp.events e WHERE e.identifiers::text[] @> '{user_id:u3}' AND e.tableoid = 'cdp.events_packed'::regclass;
DELETE FROM visits WHERE who = 'u3';
SELECT cdp.apply() > 0 AS applied;
SELECT cdp.erase('user_id:u3'::cdp.identifier) IS NOT NULL AS erased;
SELECT cdp.apply() >= 0 AS applied;
SELECT state FROM cdp.erasures;
SELECT count(*) FROM cdp.events e WHERE e.identifiers::text[] @> '{user_id:u3}';
SELECT count(*) FROM cdp.bundles b WHERE position('u3'::bytea IN b.packed) > 0;
SELECT * FROM differences();
SELECT * FROM cdp.verify();
UPDATE visits SET pages = pages + 1;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('visits');
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM differences();
SELECT * FROM cdp.verify();

-- retention: what stands in the table does not expire, what was undone does
SELECT count(*) AS tracks FROM cdp.events WHERE type = 'track' \gset
SELECT count(*) AS standing FROM visits \gset
SELECT cdp.set_retention('1 month', source => 'visits');
SET cdp.now = '2026-07-01 12:00+00';
SELECT cdp.apply() >= 0 AS applied;
SELECT cdp.apply() >= 0 AS applied;
SELECT :tracks > :standing AS had_others, count(*) = :standing AS left FROM cdp.events WHERE type = 'track';
SELECT * FROM differences();
SELECT * FROM cdp.verify();
SELECT cdp.drop_retention(source => 'visits');

-- DELETE and UPDATE by hand
INSERT INTO visits SELECT 200000 + g, 'u8', 7, repeat('z', 300), '2026-06-01 00:00+00' FROM generate_series(1, 20) g;
SELECT cdp.apply() > 0 AS applied;
BEGIN;
SELECT count(*) AS before FROM cdp.events_packed \gset
SELECT array_agg(p.id ORDER BY p.id) AS ids FROM (SELECT id FROM cdp.events_packed WHERE type = 'track' ORDER BY id LIMIT 4) p \gset
DELETE FROM cdp.events WHERE id = (:'ids'::bigint[])[1] RETURNING source, event, id = (:'ids'::bigint[])[1] AS deleted;
UPDATE cdp.events SET event = 'Changed' WHERE id = ANY (:'ids'::bigint[]) RETURNING event;
SELECT e.event, e.tableoid::regclass FROM cdp.events e WHERE e.id = ANY (:'ids'::bigint[]) ORDER BY e.id;
SELECT count(*) = :before - 4 AS left FROM cdp.events_packed;
INSERT INTO cdp.events_packed (id, type) VALUES (1, 'track');
ROLLBACK;

-- the end of the attachment: payloads are copied, what was undone stays as it is
SELECT cdp.drop_attachment('visits');
SELECT count(*) = (SELECT count(*) FROM visits) AS copied, bool_and(e.tableoid <> 'cdp.events_packed'::regclass) AS rows
FROM cdp.events e WHERE e.properties ? 'pages';
SELECT count(*) FROM cdp.attached_rows;
SELECT cdp.apply();
SELECT * FROM differences();
SELECT * FROM cdp.verify();

-- attached again, with keys of other kinds; retracted as it ends
CREATE TABLE keyed (id text, part int, who text, note text, PRIMARY KEY (id, part));
SELECT cdp.attach('keyed', '{"event": "Keyed", "identifiers": {"user_id": "who"}}', name => 'visits', copy => false);
INSERT INTO keyed SELECT CASE g % 4 WHEN 0 THEN g::text WHEN 1 THEN '0' || g WHEN 2 THEN repeat('long', g % 30) || g ELSE 'ü' || g END, g % 2,
	'u' || g % 3, repeat('n', CASE WHEN g % 5 = 0 THEN 0 ELSE 200 END) FROM generate_series(1, 100) g;
UPDATE keyed SET note = note || 'x' WHERE part = 1;
SELECT count(*) FROM cdp.known_rows((SELECT d.id FROM cdp.attachment_definitions d), (SELECT d.version FROM cdp.attachment_definitions d));
SELECT cdp.apply();
SELECT * FROM cdp.verify();
TRUNCATE keyed;
SELECT count(*) FROM cdp.known_rows((SELECT d.id FROM cdp.attachment_definitions d), (SELECT d.version FROM cdp.attachment_definitions d));
INSERT INTO keyed SELECT g, 0, 'u1', 'note' FROM generate_series(1, 20) g;
SELECT cdp.drop_attachment('visits', retract => true);
SELECT cdp.apply();
SELECT * FROM cdp.verify();

-- erasure where the key says who it is: nothing has it afterwards
CREATE TABLE people (mail text PRIMARY KEY, note text);
SELECT cdp.attach('people', '{"type": "identify", "identifiers": {"email": "mail"}}', copy => false);
INSERT INTO people SELECT 'p' || g || '@a.example', repeat('n', 200) FROM generate_series(1, 40) g;
UPDATE people SET note = note || 'x';
UPDATE people SET note = note || 'y' WHERE mail = 'p7@a.example';
UPDATE people SET note = note || 'z';
DELETE FROM people WHERE mail IN ('p8@a.example', 'p9@a.example');
DELETE FROM people WHERE mail < 'p3';
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM cdp.verify();
CREATE VIEW traces AS SELECT m.mail,
	(SELECT count(*) FROM cdp.bundles b WHERE position(m.mail::bytea IN b.packed) > 0) AS bundles,
	(SELECT count(*) FROM cdp.attached_rows r WHERE position(m.mail::bytea IN r.key) > 0) AS rows
FROM unnest('{p7@a.example,p8@a.example,p17@a.example}'::text[]) m (mail);
SELECT mail, bundles > 0 AS bundles, rows FROM traces;
DELETE FROM people WHERE mail = 'p7@a.example';
SELECT count(cdp.erase(('email:' || mail)::cdp.identifier)) FROM traces;
SELECT cdp.apply() >= 0 AS applied;
SELECT DISTINCT state FROM cdp.erasures;
SELECT * FROM traces;
SELECT count(*) FROM cdp.known_rows((SELECT d.id FROM cdp.attachment_definitions d WHERE d.name = 'people'), (SELECT d.version FROM cdp.attachment_definitions d WHERE d.name = 'people')) k;
SELECT count(*) FROM people;
SELECT logged, retracted, rejected FROM cdp.sync_attachment('people');
SELECT * FROM cdp.verify();
SELECT cdp.drop_attachment('people', retract => true) > 0 AS retracted;
SELECT cdp.apply() > 0 AS applied;
SELECT * FROM cdp.verify();

-- what a row takes, its identifiers aside: keys that are numbers, keys that end with one, and others
TRUNCATE cdp.events;
SELECT count(*) FROM cdp.bundles;
CREATE FUNCTION taken(type text, key text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
	before bigint;
	identifiers bigint;
BEGIN
	TRUNCATE cdp.events;
	EXECUTE format('CREATE TABLE wide (id %s PRIMARY KEY, who int, note text, at timestamptz)', type);
	PERFORM cdp.attach('wide', '{"event": "Wide", "identifiers": {"user_id": "who"}, "time": "at"}', copy => false);
	before := pg_total_relation_size('cdp.events_default') + pg_total_relation_size('cdp.attached_rows');
	EXECUTE format('INSERT INTO wide SELECT %s, g %% 1007, repeat($1, 300), $2 + g * interval ''1 second'' FROM generate_series(1, 20000) g', key)
		USING 'x'::text, '2026-04-01 00:00+00'::timestamptz;
	-- the value, its length and its kind
	SELECT sum(octet_length(cdp.value(e.identifiers[1])) + 2) INTO identifiers FROM cdp.events_packed e;
	RETURN (pg_total_relation_size('cdp.bundles') + pg_total_relation_size('cdp.events_default') + pg_total_relation_size('cdp.attached_rows') - before - identifiers) / 20000.0;
END $$;
SELECT taken('int', 'g') < 64 AS small;
SELECT cdp.drop_attachment('wide', retract => true);
DROP TABLE wide;
SELECT taken('text', $$'order-' || g$$) < 64 AS small;
SELECT cdp.drop_attachment('wide', retract => true);
DROP TABLE wide;
SELECT taken('uuid', 'md5(g::text)::uuid') < 96 AS small;
