-- A batch that is full with the last entry of its target: the target is
-- written as worked off, so that nobody waits for it.
CREATE EXTENSION cdp;
SET client_min_messages = warning;
SET cdp.batch_size = 5;
INSERT INTO cdp.events (event, identifiers) SELECT 'e', '{user_id:a}' FROM generate_series(1, 10);
SELECT cdp.apply(5);
SELECT target IS NULL AS worked_off FROM cdp.cursors;
SELECT cdp.apply(5);
SELECT cdp.apply();
SELECT target IS NULL AS worked_off FROM cdp.cursors;
SELECT cdp.wait_applied('1 second');
-- an idle look writes nothing
SELECT xmin AS before FROM cdp.applier \gset
SELECT cdp.apply();
SELECT xmin = :'before' AS untouched FROM cdp.applier;

-- who signs up and buys within one batch enters because of an entry: only
-- where a membership moves from one id to another is the merge the cause
SELECT cdp.create_segment('buyers', $$did('Bought')$$);
INSERT INTO cdp.events (event, identifiers) VALUES ('Viewed', '{anonymous_id:p1}'), ('Viewed', '{user_id:p2}'),
	('Bought', '{anonymous_id:q1}'), ('Viewed', '{user_id:q2}');
SELECT cdp.apply();
SELECT max(seq) AS seq FROM cdp.changes \gset
INSERT INTO cdp.events (event, identifiers) VALUES ('Bought', '{user_id:p2,anonymous_id:p1}'), ('Viewed', '{user_id:q2,anonymous_id:q1}');
SELECT cdp.apply();
INSERT INTO cdp.events (event, identifiers) VALUES ('Bought', '{user_id:r2}'), ('Viewed', '{anonymous_id:r1}');
SELECT cdp.apply();
SELECT kind, segment, cause, count(*) FROM cdp.changes WHERE seq > :seq GROUP BY 1, 2, 3 ORDER BY 1, 3;
