--
-- Partitions of the log
--
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'America/New_York';
SET cdp.now = '2026-11-22 20:00:00+00';

CREATE VIEW partitions AS
	SELECT c.relname, replace(pg_get_expr(c.relpartbound, c.oid), 'FOR VALUES ', '') AS bounds,
		(SELECT count(*) FROM pg_index x WHERE x.indrelid = c.oid) AS indexes,
		EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e') AS member
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
	WHERE i.inhparent = 'cdp.events'::regclass ORDER BY c.relname;

-- the parent has neither index nor constraint, the default partition indexes of its own
SELECT relkind, relhasindex FROM pg_class WHERE oid = 'cdp.events'::regclass;
SELECT * FROM partitions;

SELECT cdp.make_partitions();
SELECT * FROM partitions;
-- again: nothing to do
SELECT cdp.make_partitions();
SELECT cdp.make_partitions('3 months');
SELECT cdp.make_partitions('-1 month');
SELECT cdp.make_partitions(NULL);

-- rows find their month, in UTC
INSERT INTO cdp.events (event, received_at) VALUES
	('a', '2026-11-30 23:59:59.999999+00'), ('b', '2026-12-01 00:00:00+00'), ('c', '2026-10-31 23:00:00+00')
	RETURNING event, tableoid::regclass;

-- what is in the default partition stays there
INSERT INTO cdp.events (event, received_at) VALUES ('d', '2027-04-15+00');
SELECT cdp.make_partitions('7 months');
SELECT relname FROM partitions WHERE relname > 'events_y2027m02';
SELECT event, tableoid::regclass FROM cdp.events ORDER BY event;

-- months that somebody has partitioned otherwise are left alone
CREATE TABLE public.week (LIKE cdp.events INCLUDING DEFAULTS);
ALTER TABLE cdp.events ATTACH PARTITION public.week
	FOR VALUES FROM ('2027-07-05+00') TO ('2027-07-12+00');
SELECT cdp.make_partitions('8 months');

-- an entry can be written through the parent only
\set VERBOSITY terse
INSERT INTO cdp.events_y2026m12 (event, received_at) VALUES ('e', '2026-12-02+00');
\set VERBOSITY default

-- duplicates and batches are found by index in every partition
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM cdp.events
	WHERE cdp.message_hash(source, message_id) = 1 AND message_id IS NOT NULL
	AND received_at >= '2026-12-01+00' AND received_at < '2027-01-01+00';
EXPLAIN (COSTS OFF) SELECT id FROM cdp.events
	WHERE (xid, id) > (1, 1) AND received_at >= '2026-12-01+00' AND received_at < '2027-01-01+00'
	ORDER BY xid, id;
RESET enable_seqscan;
RESET enable_bitmapscan;

-- personal values are not in the statistics
SELECT DISTINCT attname, attstattarget FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relispartition AND c.relname LIKE 'events%' AND attname IN ('identifiers', 'properties', 'context');

DROP VIEW partitions;
DROP EXTENSION cdp;

-- a month whose first entries are in the default partition has a partition from the
-- next full hour on, and so have the changes
SET client_min_messages = error;
CREATE EXTENSION cdp;
RESET client_min_messages;
SELECT cdp.create_segment('seen', $$did('Seen', at_least => 1)$$);
INSERT INTO cdp.events (event, identifiers, received_at) VALUES ('Seen', '{user_id:a}', '2026-11-22 19:59:59+00');
SELECT cdp.apply();
SELECT cdp.make_partitions('0'), cdp.make_change_partitions('0');
SELECT cdp.make_partitions('0'), cdp.make_change_partitions('0');
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bounds FROM pg_class c
	WHERE c.relispartition AND c.relname ~ '_y2026' ORDER BY 1;
INSERT INTO cdp.events (event, identifiers, received_at) VALUES
	('Seen', '{user_id:b}', '2026-11-22 20:59:59.999999+00'), ('Seen', '{user_id:c}', '2026-11-22 21:00:00+00');
SET cdp.now = '2026-11-22 21:00:00+00';
SELECT cdp.apply();
SELECT tableoid::regclass, event, identifiers FROM cdp.events ORDER BY id;
SELECT tableoid::regclass, kind, profile_id FROM cdp.changes ORDER BY seq;
SELECT * FROM cdp.verify();
-- the last hour of a month leaves nothing to make
DROP TABLE cdp.events_y2026m11, cdp.changes_y2026m11;
SET cdp.now = '2026-11-30 23:00:00+00';
INSERT INTO cdp.events (event, received_at) VALUES ('Seen', cdp.clock());
SELECT cdp.make_partitions('0'), cdp.make_change_partitions('0');
DROP EXTENSION cdp;
