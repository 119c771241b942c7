-- For who operates: pausing, and what cdp.check() finds.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE EXTENSION cdp;
SET timezone = 'UTC';
SET cdp.now = '2026-05-04 09:00+00';
CREATE FUNCTION found() RETURNS TABLE (severity text, topic text, object text, finding text, remedy text) LANGUAGE sql AS $$
	SELECT * FROM cdp.check() WHERE topic NOT IN ('preload', 'autovacuum') ORDER BY 1, 2, 3, 4
$$;
SELECT severity, topic, finding FROM found();
SELECT cdp.create_trait('n', aggregate => 'count');
SELECT cdp.create_segment('some', 'n > 0');

-- paused: nothing is applied, everything else goes on
SELECT cdp.pause();
SELECT cdp.pause();
SELECT cdp.track('x', user_id => 'a');
SELECT cdp.apply();
-- how a batch has its statements planned ends with its error, for who catches it, too
CREATE TABLE big AS SELECT g FROM generate_series(1, 10000) g;
CREATE INDEX ON big (g);
ANALYZE big;
DO $$
DECLARE
	line text;
BEGIN
	PERFORM cdp.apply();
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	FOR line IN EXPLAIN (COSTS OFF) SELECT count(*) FROM big b JOIN big c USING (g) WHERE b.g > 0 LOOP
		RAISE WARNING '%', line;
	END LOOP;
END $$;
BEGIN;
SAVEPOINT s;
SELECT cdp.apply();
ROLLBACK TO s;
EXPLAIN (COSTS OFF) SELECT * FROM big WHERE g > 0;
COMMIT;
DROP TABLE big;
SELECT severity, topic, regexp_replace(finding, '2.*', '…') AS finding, remedy FROM found();
SELECT hint ~ 'applying is paused: SELECT cdp.resume\(\)$' AS hint FROM cdp.status();
SELECT lag_entries FROM cdp.stat_apply;
SELECT cdp.create_segment('others', 'n > 1');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdp.pause();
ROLLBACK;
SELECT cdp.resume();
SELECT cdp.resume();
SELECT severity, topic, finding FROM found();
SELECT cdp.apply();

-- behind
SELECT cdp.track('x', user_id => 'b');
INSERT INTO cdp.events (identifiers) VALUES ('{user_id:b}');
SET cdp.now = '2026-05-04 09:02+00';
SELECT severity, topic, finding FROM found() WHERE topic = 'lag';
SET cdp.now = '2026-05-04 11:00+00';
SELECT severity, topic, finding FROM found() WHERE topic = 'lag';
SELECT cdp.apply();
SELECT severity, topic, object, finding FROM found() WHERE topic = 'rejected';

-- definitions
CREATE ROLE regress_cdp_leaver;
SELECT cdp.alter_segment('others', owner => 'regress_cdp_leaver');
DROP ROLE regress_cdp_leaver;
SELECT cdp.create_trait('ratio', expression => '10 / (n - 1)');
SELECT cdp.create_segment('division', '10 / (n - 2) > 0');
SELECT cdp.track('x', user_id => 'c'), cdp.track('x', user_id => 'c');
SELECT cdp.apply();
SELECT severity, topic, object, finding FROM found() WHERE topic IN ('segment', 'trait');

-- subscriptions
SELECT cdp.subscribe('mail', '{"segment": "some"}', 'beginning', max_tries => 1);
SELECT cdp.subscribe('copy', '{"segment": "division"}');
SELECT cdp.drop_segment('division');
SELECT cdp.nack('mail', seq) FROM cdp.poll('mail', 1);
SELECT severity, topic, object, finding, remedy FROM found() WHERE topic = 'subscription';
SELECT cdp.discard('mail');
SET cdp.now = '2026-05-04 13:00+00';
SELECT object, finding FROM found() WHERE topic = 'subscription';

-- partitions: two months later, nobody has made any
SET cdp.now = '2026-06-04 09:00+00';
SELECT cdp.track('x', user_id => 'd');
SELECT cdp.apply();
SELECT severity, topic, object, finding, remedy FROM found() WHERE topic = 'partitions';
SELECT cdp.make_partitions('2 months'), cdp.make_change_partitions('2 months');
SELECT severity, topic, object, finding, remedy FROM found() WHERE topic = 'partitions';
SET cdp.now = '2026-08-10 09:00+00';
SELECT severity, topic, object, finding, remedy FROM found() WHERE topic = 'partitions';

-- announcements
SET cdp.emit_logical = on;
INSERT INTO cdp.notify_skipped (batches, last_at) VALUES (3, clock_timestamp());
SELECT severity, topic, regexp_replace(finding, ' at .*', ' at …') AS finding, remedy FROM found() WHERE topic IN ('notify', 'logical');

-- those who watch need no more than that
CREATE ROLE regress_cdp_watcher IN ROLE pg_monitor;
SET ROLE regress_cdp_watcher;
SELECT count(*) > 0 AS may FROM cdp.check();
SELECT count(*) FROM cdp.subscription_lag;
SELECT cdp.pause();
RESET ROLE;
DROP ROLE regress_cdp_watcher;
-- who monitors sees numbers, no payloads
SELECT v, has_table_privilege('pg_monitor', v, 'SELECT') FROM unnest('{cdp.subscription_lag,cdp.dead_letters,cdp.changes}'::text[]) v;

-- what is slow, and what is near a limit
SET cdp.emit_logical = off;
DELETE FROM cdp.notify_skipped;
SELECT cdp.create_segment('slow', $$length(repeat(n::text, 1000000)) > 3000000$$);
DO $$
BEGIN
	FOR i IN 1 .. 60 LOOP
		INSERT INTO cdp.events (event, identifiers) VALUES ('x', '{user_id:a}');
		COMMIT;
		PERFORM cdp.apply();
		COMMIT;
		EXIT WHEN EXISTS (SELECT FROM cdp.stat_segments WHERE segment = 'slow' AND evaluation_us > 0);
		PERFORM pg_sleep(0.05);
	END LOOP;
END $$;
SELECT segment, evaluation_us > 1000 AS slow FROM cdp.stat_segments WHERE segment IN ('some', 'slow') ORDER BY 1;
SELECT severity, object, regexp_replace(finding, '[0-9]+', '…') AS finding, remedy FROM found() WHERE topic = 'segment' AND finding ~ 'takes';
SELECT cdp.drop_segment('slow');

SET cdp.max_profile_identifiers = 10;
SELECT cdp.identify(user_id => 'big', identifiers => ARRAY(SELECT ('email:e' || i || '@x.org')::cdp.identifier FROM generate_series(1, 8) i)) IS NOT NULL AS logged;
SELECT cdp.apply();
SELECT severity, object, finding FROM found() WHERE topic = 'limits';
ANALYZE cdp.identities;
SELECT severity, regexp_replace(object, '[0-9]+', '…') AS object, finding, regexp_replace(remedy, '[0-9]+', '…') AS remedy FROM found() WHERE topic = 'limits';
SELECT cdp.identify(user_id => 'big', identifiers => ARRAY(SELECT ('email:f' || i || '@x.org')::cdp.identifier FROM generate_series(1, 8) i)) IS NOT NULL AS logged;
SELECT cdp.apply();
SELECT severity, object, finding, remedy FROM found() WHERE topic = 'limits' AND object = 'size';
RESET cdp.max_profile_identifiers;
SET cdp.max_fresh_entries = 1;
SELECT count(cdp.track('x', user_id => u)) FROM unnest('{a,b}'::cdp.key[]) u;
SELECT severity, finding, remedy FROM found() WHERE topic = 'limits' AND object IS NULL;
RESET cdp.max_fresh_entries;
SELECT cdp.apply();

-- attached tables
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id int, who text, changed timestamptz, pad text);
INSERT INTO shop.orders SELECT i, 'a', '2026-08-01', repeat('x', 500) FROM generate_series(1, 3000) i;
CREATE TABLE shop.visits (day int, nr int, who text);
SELECT cdp.attach('shop.orders', '{"event": "Ordered", "key": "id", "cursor": "changed", "identifiers": {"user_id": "who"}}', capture => 'poll');
SELECT cdp.attach('shop.visits', '{"event": "Visited", "key": ["day", "nr"], "identifiers": {"user_id": "who"}}');
SELECT severity, object, finding, remedy FROM found() WHERE topic = 'attachment';
CREATE UNIQUE INDEX ON shop.orders (id);
CREATE UNIQUE INDEX ON shop.visits (nr, day);
SELECT object, finding FROM found() WHERE topic = 'attachment';
CREATE INDEX ON shop.orders (changed);
SELECT object, finding FROM found() WHERE topic = 'attachment';
ALTER TABLE shop.visits DISABLE TRIGGER ALL;
SELECT severity, object, finding, remedy FROM found() WHERE topic = 'attachment';

-- not preloaded
SELECT severity, topic, finding, remedy FROM cdp.check() WHERE topic = 'preload';
