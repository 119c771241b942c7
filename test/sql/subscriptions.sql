-- Subscriptions: positions, filters, acknowledging. The changes are written by
-- hand here; what the applier writes is tested elsewhere.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE EXTENSION cdp;
SET client_min_messages = notice;

CREATE FUNCTION emit(VARIADIC lines text[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.applier (epoch) VALUES (1) ON CONFLICT (one) DO UPDATE SET epoch = 1;
	INSERT INTO cdp.changes (epoch, seq, kind, profile_id, segment, payload, cause, occurred_at, at)
	SELECT 1, a.next_seq + n - 1, split_part(l, ' ', 1), split_part(l, ' ', 2)::bigint,
		nullif(split_part(l, ' ', 3), ''), NULL, coalesce(nullif(split_part(l, ' ', 4), ''), 'entry'),
		'2026-01-01', '2026-01-01'
	FROM cdp.applier a, unnest(lines) WITH ORDINALITY AS u (l, n);
	UPDATE cdp.applier SET next_seq = next_seq + cardinality(lines);
$$;
CREATE FUNCTION got(name text, max int DEFAULT 100) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(format('%s:%s %s%s', seq, kind, profile_id, ' ' || segment), ', ')
	FROM cdp.poll(name, max)
$$;

INSERT INTO cdp.segment_definitions (name, predicate, owner, channel) VALUES
	('warm', 'true', current_user, 'cdp_segment_warm'), ('cold', 'true', current_user, 'cdp_segment_cold');

-- names, modes, filters and starts are checked
SELECT cdp.subscribe('');
SELECT cdp.subscribe('x', mode => 'both');
SELECT cdp.subscribe('x', '{"segments": "a"}');
SELECT cdp.subscribe('x', '{"segment": 1}');
SELECT cdp.subscribe('x', '{"segment": []}');
SELECT cdp.subscribe('x', '{"segment": ["warm", "wram"]}');
SELECT cdp.subscribe('x', '{"kind": "segment_enterd"}');
SELECT cdp.subscribe('x', '{"cause": "entries"}');
SELECT cdp.subscribe('x', '{"entity": "household"}');
SELECT cdp.subscribe('x', '{"trait": "ltv"}');
SELECT cdp.subscribe('x', '{"first_entry": "yes"}');
SELECT cdp.subscribe('x', '{"max_age": "soon"}');
SELECT cdp.subscribe('x', '{"max_age": "-1 hour"}');
SELECT cdp.subscribe('x', '[]');
SELECT cdp.subscribe('x', start => 'tomorrow');
SELECT cdp.subscribe('x', start => '1');
SELECT cdp.subscribe('x', start => '2026-13-01');
SELECT cdp.subscribe('x', start => '2999-01-01');
SELECT cdp.subscribe('x', start => '1:1');
SELECT cdp.subscribe('x', include => '{"everything": true}');
SELECT cdp.subscribe('x', include => '{"identifiers": ["emial"]}');
SELECT cdp.subscribe('x', include => '{"traits": [1]}');
SELECT cdp.subscribe('x', include => '{"traits": "ltv"}');
SELECT cdp.subscribe('x', format => 'segment');
SELECT cdp.subscribe('x', '{"kind": "profile_merged"}', format => 'segment_track');
SELECT cdp.subscribe('x', max_tries => 0);
SELECT cdp.subscribe('x', backoff => '0');
SELECT cdp.subscribe('x', visibility => '-1 s');
SELECT cdp.poll('x');
SELECT cdp.ack('x', 1);
SELECT cdp.unsubscribe('x');

-- before the first change
SELECT cdp.subscribe('early');
SELECT cdp.subscribe('early');
SELECT got('early');

SELECT emit('segment_entered 1 warm', 'segment_entered 2 warm', 'segment_exited 1 warm');
SELECT cdp.subscribe('now');
SELECT cdp.subscribe('all', start => 'beginning');
SELECT cdp.subscribe('some', start => '2');
SELECT got('early'), got('now'), got('all'), got('some');

-- polling again without acknowledging gives the same; at most max
SELECT got('all', 2), got('all', 2);
SELECT cdp.ack('all', 2);
SELECT got('all', 2);
SELECT cdp.ack('all', 1);		-- below: nothing happens
SELECT got('all');
SELECT cdp.ack('all', 4);		-- above the head
SELECT cdp.ack('all', 3, epoch => 2);
SELECT cdp.ack('all', 3);
SELECT got('all');
SELECT emit('profile_merged 5', 'segment_entered 6 cold');
SELECT got('all'), got('now');

-- filters, and what is withheld unless asked for
SELECT cdp.subscribe('cold', '{"segment": "cold"}', 'beginning');
SELECT cdp.subscribe('enter', '{"segment": ["cold", "warm"], "kind": "segment_entered"}', 'beginning');
SELECT cdp.subscribe('mirror', start => 'beginning', mode => 'mirror');
SELECT cdp.subscribe('definitions', '{"cause": ["definition", "entry"]}', '5');
SELECT cdp.subscribe('defined', '{"kind": "segment_defined"}', '5');
SELECT emit('segment_exited 7 warm merge', 'segment_entered 5 warm merge',
	'segment_defined 0 new definition', 'segment_entered 8 new definition', 'segment_entered 9 warm timer');
SELECT got('cold') AS cold, got('enter') AS enter;
SELECT got('now') AS trigger;
SELECT got('mirror') AS mirror;
SELECT got('definitions') AS definitions, got('defined') AS defined;

-- what does not match is passed over for good once all of it was seen
SELECT cdp.ack('cold', 5);
SELECT got('cold');
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'cold';

-- single changes acknowledged out of order
SELECT cdp.subscribe('single', start => '7');
SELECT emit('profile_merged 11', 'profile_merged 12', 'profile_merged 13');
SELECT got('single');
SELECT cdp.ack('single', ARRAY[12, 10]::bigint[]);
SELECT got('single');
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'single';
SELECT cdp.ack('single', ARRAY[11]::bigint[]);
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'single';
SELECT got('single');
SELECT cdp.ack('single', ARRAY[13]::bigint[]);
SELECT cdp.ack('single', ARRAY[14]::bigint[]);
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'single';
SELECT count(*) FROM cdp.deliveries;

-- several consumers: what was polled is kept back until the time is up
SET cdp.now = '2026-01-01 00:00:00+00';
SELECT cdp.subscribe('jobs', start => '10', visibility => '1 minute');
SELECT got('jobs', 2), got('jobs', 2), got('jobs', 2);
SELECT cdp.ack('jobs', ARRAY[12]::bigint[]);
SET cdp.now = '2026-01-01 00:01:01+00';
SELECT got('jobs');
SELECT seq, tries, retry FROM cdp.subscription_queue ORDER BY seq;
SELECT cdp.ack('jobs', ARRAY[11, 13]::bigint[]);
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'jobs';
SELECT count(*) FROM cdp.deliveries;
SELECT got('jobs');

-- a snapshot: members first, then what has happened since
INSERT INTO cdp.segment_members (segment_id, profile_id, member, entered_at)
SELECT d.id, p, p <> 3, timestamptz '2025-01-01' + p * interval '1 day'
FROM cdp.segment_definitions d, generate_series(1, 4) p WHERE d.name = 'warm' OR p = 1;
SELECT cdp.subscribe('snap', '{"segment": "warm"}', 'snapshot');
SELECT cdp.subscribe('snap_jobs', '{"segment": "warm"}', 'snapshot', visibility => '1 minute');
SELECT emit('segment_exited 1 warm');
SELECT got('snap', 2), got('snap');
SELECT cdp.ack('snap', -2);
SELECT got('snap');
SELECT cdp.ack('snap', 14);
SELECT got('snap');
SELECT cdp.ack('snap', -1);
SELECT got('snap_jobs', 1), got('snap_jobs', 1), got('snap_jobs');
SELECT cdp.ack('snap_jobs', ARRAY[-3, -1, 14]::bigint[]);
SET cdp.now = '2026-01-01 00:03:00+00';
SELECT seq, cause, occurred_at AT TIME ZONE 'UTC' AS entered_at, payload FROM cdp.poll('snap_jobs');
-- a member that was set aside stays so, unless all come again
SELECT cdp.subscribe('snap_dead', '{"segment": "warm"}', 'snapshot', max_tries => 1);
SELECT cdp.nack('snap_dead', -1, 'no address');
SELECT cdp.rewind('snap_dead', 'beginning');
SELECT seq, error FROM cdp.dead_letters WHERE subscription = 'snap_dead';
SELECT cdp.rewind('snap_dead', 'snapshot');
SELECT count(*) FROM cdp.dead_letters WHERE subscription = 'snap_dead';
SELECT cdp.unsubscribe('snap_dead');
SELECT cdp.subscribe('snap_exits', '{"kind": "segment_exited"}', 'snapshot');
SELECT got('snap_exits');

-- after a restore numbers go on in another epoch
UPDATE cdp.applier SET epoch = 2, next_seq = next_seq + 1;
INSERT INTO cdp.changes VALUES (2, 15, 'profile_merged', 'profile', 20, NULL, NULL, 'entry', '2026-01-01', '2026-01-01');
SELECT epoch, seq FROM cdp.poll('all');
SELECT cdp.ack('all', 12);
SELECT epoch, acked_seq FROM cdp.subscriptions WHERE name = 'all';
SELECT cdp.ack('all', 15, epoch => 3);
SELECT cdp.ack('all', 15);
SELECT epoch, acked_seq FROM cdp.subscriptions WHERE name = 'all';
SELECT cdp.ack('all', 12);
SELECT cdp.ack('all', 16);

SELECT cdp.unsubscribe('snap_jobs');
SELECT cdp.unsubscribe('jobs');
SELECT count(*) FROM cdp.subscription_queue WHERE subscription = 'snap_jobs';

-- nobody but its owner may call these unless granted
CREATE ROLE regress_cdp_consumer;
SET ROLE regress_cdp_consumer;
SELECT cdp.poll('all');
RESET ROLE;
GRANT EXECUTE ON FUNCTION cdp.poll, cdp.ack(text, bigint, int) TO regress_cdp_consumer;
SET ROLE regress_cdp_consumer;
SELECT seq FROM cdp.poll('early', 2);
SELECT cdp.ack('early', 1);
SELECT seq FROM cdp.poll('early', 2);
SELECT count(*) FROM cdp.changes;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION cdp.poll, cdp.ack(text, bigint, int) FROM regress_cdp_consumer;
DROP ROLE regress_cdp_consumer;

-- poll, work and acknowledge in one statement, as the documentation has it
CREATE TABLE letters (profile_id bigint, seq bigint);
SELECT emit('segment_exited 9 warm');
SELECT cdp.subscribe('letters', '{"kind": "segment_entered"}');
SELECT emit('segment_entered 1 warm', 'segment_entered 2 warm', 'segment_exited 1 warm', 'segment_entered 3 warm');
PREPARE work AS
	WITH polled AS MATERIALIZED (SELECT * FROM cdp.poll('letters', 2)),
		written AS (INSERT INTO letters SELECT profile_id, seq FROM polled)
	SELECT cdp.ack('letters', seq, epoch) FROM polled ORDER BY epoch DESC, seq DESC LIMIT 1;
EXECUTE work;
BEGIN;
EXECUTE work;
ROLLBACK;
SELECT profile_id FROM letters ORDER BY seq;
EXECUTE work;
EXECUTE work;
SELECT profile_id FROM letters ORDER BY seq;
SELECT l.behind FROM cdp.subscription_lag l WHERE l.subscription = 'letters';
-- and for several consumers
SELECT cdp.alter_subscription('letters', visibility => '1 minute');
SELECT emit('segment_entered 4 warm', 'segment_entered 5 warm');
WITH polled AS MATERIALIZED (SELECT * FROM cdp.poll('letters')),
	written AS (INSERT INTO letters SELECT profile_id, seq FROM polled)
SELECT cdp.ack('letters', array_agg(seq), epoch) FROM polled GROUP BY epoch;
SELECT profile_id FROM letters ORDER BY seq;
SELECT l.behind, l.in_flight FROM cdp.subscription_lag l WHERE l.subscription = 'letters';
