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
SELECT xmin AS before FROM cdp.cursors \gset
SELECT cdp.apply();
SELECT xmin = :'before' AS untouched FROM cdp.cursors;
