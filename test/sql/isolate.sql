-- Entries whose processing raises an error that nobody thought of: they are
-- found and put aside, the others go on, and they can be brought back.
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET cdp.now = '2026-03-01 12:00Z';
\set SHOW_CONTEXT never
SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_trait('sum', aggregate => 'sum', value => $$(properties->>'amount')::numeric$$);
SELECT cdp.create_segment('two', 'n >= 2');
SELECT cdp.create_segment('fresh', $$did('x', within => '1 day')$$);

-- ---- a fault: rows of some identifiers cannot be written
CREATE TABLE faults (pattern text, sqlstate text);
GRANT SELECT ON faults TO PUBLIC;
CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	f record;
BEGIN
	FOR f IN SELECT * FROM public.faults WHERE NEW.identifier::text LIKE pattern LOOP
		RAISE EXCEPTION 'no % here', NEW.identifier USING ERRCODE = f.sqlstate, DETAIL = 'It says so.';
	END LOOP;
	RETURN NEW;
END $$;
CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON cdp.identities FOR EACH ROW EXECUTE FUNCTION fault();
INSERT INTO faults VALUES ('user_id:bad%', 'P0001'), ('user_id:worse', 'XX000');
CREATE FUNCTION log_some() RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.events (message_id, source, event, identifiers, properties, occurred_at, received_at)
	SELECT 'm' || i, 's', 'x', ARRAY['user_id:' || CASE i WHEN 7 THEN 'bad' WHEN 8 THEN 'bad' WHEN 20 THEN 'worse' WHEN 33 THEN 'bad2' ELSE 'u' || i % 10 END]::cdp.identifier[],
		jsonb_build_object('amount', i), '2026-02-28 18:00Z'::timestamptz + i * interval '1 second', '2026-03-01 11:00Z'
	FROM generate_series(1, 40) i $$;
SELECT log_some();
SELECT cdp.apply();
SELECT message_id, reason, detail, sqlstate FROM cdp.rejected ORDER BY entry;
SELECT count(*), sum((traits->>'n')::int) FROM cdp.profiles;
SELECT severity, topic, object, regexp_replace(finding, 'last at .*', 'last at …') AS finding FROM cdp.check() WHERE topic IN ('isolated', 'rejected', 'apply');
SELECT station, key FROM cdp.verify();

-- they stay rejected when everything is read again, and a copy that can be
-- processed counts; so does what comes later
UPDATE faults SET pattern = 'user_id:bad' WHERE pattern = 'user_id:bad%';
SELECT cdp.alter_identifier_kind('user_id', normaliser => 'lower');
INSERT INTO cdp.events (message_id, source, event, identifiers, occurred_at, received_at) VALUES
	('m33', 's', 'x', '{user_id:bad2}', '2026-02-28 18:00Z', '2026-03-01 11:00Z'),
	('m41', 's', 'x', '{user_id:u1}', '2026-02-28 18:00Z', '2026-03-01 11:00Z');
SELECT cdp.apply();
SELECT message_id, sqlstate FROM cdp.rejected ORDER BY entry;
SELECT station, key FROM cdp.verify();

-- a retry while the cause is there: they are put aside again
SELECT cdp.retry_rejected();
SELECT count(*) FROM cdp.rejected;
SELECT cdp.apply();
SELECT message_id, sqlstate FROM cdp.rejected ORDER BY entry;
-- one of them, then all
DELETE FROM faults;
SELECT cdp.retry_rejected(ARRAY[(SELECT entry FROM cdp.rejected WHERE message_id = 'm8')]);
SELECT cdp.retry_rejected(ARRAY[-1]);
SELECT cdp.apply();
SELECT message_id, sqlstate FROM cdp.rejected ORDER BY entry;
SELECT cdp.retry_rejected();
SELECT cdp.apply();
SELECT count(*) FROM cdp.rejected;
SELECT count(*) FROM cdp.isolated;
SELECT station, key FROM cdp.verify();
SELECT i.identifier, p.traits->>'n' AS n, p.traits->>'sum' AS sum FROM cdp.profiles p JOIN cdp.identities i USING (profile_id)
	WHERE i.identifier::text ~ 'bad|worse' ORDER BY 1;
SELECT topic FROM cdp.check() WHERE topic IN ('isolated', 'rejected');

-- ---- errors that are no entry's doing stop the stream, and nothing is put aside
INSERT INTO faults VALUES ('user_id:later', '40001');
INSERT INTO cdp.events (event, identifiers) VALUES ('x', '{user_id:later}'), ('x', '{user_id:after}');
SELECT cdp.apply();
UPDATE faults SET sqlstate = '53200';
SELECT cdp.apply();
UPDATE faults SET sqlstate = '42501';
SELECT cdp.apply();
UPDATE faults SET sqlstate = '3F000';
SELECT cdp.apply();
DELETE FROM faults;
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'nothing goes'; END $$;
CREATE TRIGGER no BEFORE UPDATE OF cursors ON cdp.applier FOR EACH ROW EXECUTE FUNCTION no();
SELECT cdp.apply();
DROP TRIGGER no ON cdp.applier;
-- nor is a batch committed whose cursor does not move
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER no BEFORE UPDATE OF cursors ON cdp.applier FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT cdp.apply();
DROP TRIGGER no ON cdp.applier;
SELECT count(*) FROM cdp.isolated;
-- nor is there a batch within a batch
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM cdp.apply(); RETURN NULL; END';
CREATE TRIGGER again AFTER INSERT OR UPDATE ON cdp.identities EXECUTE FUNCTION again();
SELECT cdp.apply();
DROP TRIGGER again ON cdp.identities;
SELECT count(*) FROM cdp.isolated;
SELECT cdp.apply();

-- ---- too many in a row: the rest is left, so that somebody can look
INSERT INTO faults VALUES ('user_id:v%', 'P0001');
INSERT INTO cdp.events (message_id, event, identifiers)
	SELECT 'v' || i, 'x', ARRAY['user_id:v' || i]::cdp.identifier[] FROM generate_series(1, 15) i;
SELECT cdp.apply();
SELECT count(*) FROM cdp.rejected;
DELETE FROM faults;
SELECT cdp.apply();
SELECT cdp.retry_rejected();
SELECT cdp.apply();
SELECT station, key FROM cdp.verify();

-- ---- a profile whose time has come: the others are evaluated, it rests
CREATE FUNCTION stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF OLD.node_id = (SELECT f.pattern::bigint FROM public.faults f) THEN
		RAISE EXCEPTION 'it stays';
	END IF;
	RETURN NEW;
END $$;
INSERT INTO faults SELECT node_id::text, '' FROM cdp.identities WHERE identifier::text = 'user_id:u3';
DROP TRIGGER fault ON cdp.identities;
CREATE TRIGGER stay BEFORE UPDATE ON cdp.identities FOR EACH ROW EXECUTE FUNCTION stay();
SELECT count(*) FROM cdp.segment_members('fresh');
SET cdp.now = '2026-03-01 18:10Z';
SELECT cdp.apply();
SELECT i.identifier FROM cdp.segment_members('fresh') m JOIN cdp.identities i ON i.profile_id = m WHERE i.identifier::text ~ ':u' ORDER BY 1;
INSERT INTO cdp.events (event, identifiers) VALUES ('x', '{user_id:u4}');
SELECT cdp.apply();
SELECT count(*) FROM cdp.isolated;
DROP TRIGGER stay ON cdp.identities;
-- it rests for a minute in this session, not in others
\c
SET cdp.now = '2026-03-01 18:20Z';
SELECT cdp.apply();
SELECT i.identifier FROM cdp.segment_members('fresh') m JOIN cdp.identities i ON i.profile_id = m WHERE i.identifier::text ~ ':u' ORDER BY 1;
SELECT station, key FROM cdp.verify();

-- when none can be evaluated not all of them are tried
SELECT count(*) > 10 FROM cdp.segment_members('fresh');
CREATE TRIGGER stay BEFORE UPDATE ON cdp.identities FOR EACH ROW EXECUTE FUNCTION no();
SET cdp.now = '2026-03-03 18:20Z';
SELECT cdp.apply();
DROP TRIGGER stay ON cdp.identities;
SELECT cdp.apply();
\c
SET cdp.now = '2026-03-03 18:20Z';
SELECT cdp.apply();
SELECT count(*) FROM cdp.segment_members('fresh');

-- ---- the member of an account that has another value now: no entry is blamed
SELECT cdp.create_trait('plan', type => 'text', entity => 'account');
SELECT cdp.create_segment('pro', $$account.plan = 'pro'$$);
SELECT cdp.group('g', '{"plan": "free"}', user_id => 'member') IS NOT NULL AS logged;
SELECT cdp.apply();
CREATE TRIGGER stay BEFORE UPDATE ON cdp.identities FOR EACH ROW
	WHEN (OLD.identifier::text = 'user_id:member') EXECUTE FUNCTION no();
SELECT cdp.group('g', '{"plan": "pro"}', user_id => 'other') IS NOT NULL AS logged;
SELECT cdp.apply(1);
INSERT INTO cdp.events (event, identifiers) VALUES ('x', '{user_id:late}');
SELECT cdp.apply();
SELECT count(*) FROM cdp.isolated;
SELECT i.identifier FROM cdp.segment_members('pro') m JOIN cdp.identities i ON i.profile_id = m;
DROP TRIGGER stay ON cdp.identities;
\c
SET cdp.now = '2026-03-03 18:20Z';
SELECT cdp.apply();
SELECT i.identifier FROM cdp.segment_members('pro') m JOIN cdp.identities i ON i.profile_id = m ORDER BY 1;
SELECT station, key FROM cdp.verify();

-- what an error says of somebody goes with him
SELECT cdp.track('x', user_id => 'somebody-4711');
SELECT cdp.apply();
INSERT INTO cdp.isolated (entry, xid, sqlstate, detail) VALUES (-1, 1, 'P0001', 'no user_id:somebody-4711 here'), (-2, 1, 'P0001', 'nobody else');
SELECT cdp.erase('user_id:somebody-4711') IS NOT NULL AS erased;
SELECT cdp.apply() > 0 AS applied;
SELECT entry, detail FROM cdp.isolated ORDER BY entry DESC;
