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
