-- How long changes are kept: monthly partitions, and nothing that a
-- subscription has not acknowledged goes.
SET client_min_messages = error;
\set SHOW_CONTEXT never
CREATE EXTENSION cdp;
RESET client_min_messages;
SET timezone = 'America/New_York';
SET cdp.now = '2026-01-20 20:00:00+00';

CREATE VIEW partitions AS
	SELECT c.relname, replace(pg_get_expr(c.relpartbound, c.oid), 'FOR VALUES ', '') AS bounds,
		(SELECT string_agg(pg_get_indexdef(x.indexrelid), '') FROM pg_index x WHERE x.indrelid = c.oid) AS index
	FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
	WHERE i.inhparent = 'cdp.changes'::regclass ORDER BY c.relname;
CREATE FUNCTION emit(n int, at timestamptz) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.applier (epoch) VALUES (1) ON CONFLICT (one) DO NOTHING;
	INSERT INTO cdp.changes (epoch, seq, kind, profile_id, cause, occurred_at, at)
	SELECT a.epoch, a.next_seq + i - 1, 'profile_merged', i, 'entry', at, at FROM cdp.applier a, generate_series(1, n) i;
	UPDATE cdp.applier SET next_seq = next_seq + n;
$$;
CREATE VIEW kept AS SELECT tableoid::regclass AS part, min(seq), max(seq) FROM cdp.changes GROUP BY 1 ORDER BY 2;

-- the month that has begun in the default partition ends there
SELECT emit(10, '2026-01-20 20:00:00+00');
SELECT cdp.make_change_partitions();
SELECT cdp.make_change_partitions();
SELECT * FROM partitions;
SELECT cdp.make_change_partitions('-1 day');
SELECT emit(10, '2026-01-31 23:59:59+00');
SELECT emit(10, '2026-02-01 00:00:00+00');
SELECT emit(10, '2026-03-10 00:00:00+00');
SELECT * FROM kept;

-- one query over all of them, in order, without sorting
SET cdp.now = '2026-05-20 00:00:00+00';
SELECT cdp.subscribe('slow', start => 'beginning'), cdp.subscribe('fast', start => 'beginning');
SELECT min(seq), max(seq), count(*), array_agg(seq) = array_agg(seq ORDER BY seq) AS ordered FROM cdp.poll('fast', 1000);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM cdp.changes ORDER BY epoch, seq LIMIT 10;
RESET enable_seqscan;

-- for ever, unless asked
SELECT cdp.trim_changes();
SELECT cdp.trim_changes('-1 day');
SELECT cdp.trim_changes('0');
SELECT cdp.ack('fast', 40), cdp.ack('slow', 5);
SELECT cdp.trim_changes('60 days');
SELECT * FROM kept;
SELECT cdp.ack('slow', 29);
SELECT cdp.trim_changes('60 days');
SELECT * FROM kept;
SELECT relname FROM partitions;
SELECT cdp.ack('slow', 40);
SELECT cdp.trim_changes('100 days');
SELECT * FROM kept;
SELECT dropped_until AT TIME ZONE 'UTC' FROM cdp.changes_trimmed;

-- nobody starts before what is kept
SELECT cdp.subscribe('late', start => '12');
SELECT cdp.subscribe('late', start => '1:29');
SELECT cdp.subscribe('late', start => '2026-01-31');
SELECT cdp.subscribe('later', start => '2026-02-02');
SELECT cdp.unsubscribe('later');
SELECT cdp.rewind('late', '30');
SELECT cdp.rewind('late', 'beginning');
SELECT min(seq) FROM cdp.poll('late');
-- without the slowest more may go, in the end everything
SELECT cdp.unsubscribe('late');
SELECT cdp.unsubscribe('slow');
SELECT cdp.trim_changes('30 days');
SELECT * FROM kept;
SELECT cdp.subscribe('late', start => '39');
SELECT cdp.subscribe('late', start => 'beginning');
SELECT cdp.subscribe('head', start => '40');
SELECT acked_seq FROM cdp.subscriptions ORDER BY name;
SELECT emit(1, '2026-05-20 00:00:00+00');
SELECT seq, tableoid::regclass FROM cdp.changes;
