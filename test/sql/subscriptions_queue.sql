-- Subscriptions: refusing, trying again, setting aside, rewinding, pausing, and
-- filters that need more than a name. The changes are written by hand here.
SET client_min_messages = warning;
\set SHOW_CONTEXT never
CREATE EXTENSION cdp;
SET client_min_messages = notice;
SET timezone = 'UTC';
SET cdp.now = '2026-01-01 00:00:00+00';

-- one change a line: kind, profile, segment, cause, payload
CREATE FUNCTION emit(VARIADIC lines text[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cdp.applier (epoch) VALUES (1) ON CONFLICT (one) DO NOTHING;
	INSERT INTO cdp.changes (epoch, seq, kind, profile_id, segment, payload, cause, occurred_at, at)
	SELECT a.epoch, a.next_seq + n - 1, split_part(l, ' ', 1), split_part(l, ' ', 2)::bigint,
		nullif(split_part(l, ' ', 3), ''), nullif(split_part(l, ' ', 5), '')::jsonb,
		coalesce(nullif(split_part(l, ' ', 4), ''), 'entry'), cdp.clock(), cdp.clock()
	FROM cdp.applier a, unnest(lines) WITH ORDINALITY AS u (l, n);
	UPDATE cdp.applier SET next_seq = next_seq + cardinality(lines);
$$;
CREATE FUNCTION got(name text, max int DEFAULT 100) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(seq::text, ' ') FROM cdp.poll(name, max)
$$;
CREATE VIEW queue AS SELECT subscription, epoch, seq, to_char(visible_at, 'HH24:MI:SS') AS visible, tries, dead_at IS NOT NULL AS dead, error
	FROM cdp.subscription_queue ORDER BY 1, 2, 3;
INSERT INTO cdp.segment_definitions (name, predicate, owner, channel) VALUES
	('warm', 'true', current_user, 'cdp_segment_warm'), ('cold', 'true', current_user, 'cdp_segment_cold');
SELECT emit('segment_entered 1 warm', 'segment_entered 2 warm', 'segment_entered 3 warm', 'segment_entered 4 warm');

-- one consumer: what was refused keeps back what comes after it
SELECT cdp.subscribe('mail', start => 'beginning', max_tries => 3, backoff => '10 seconds');
SELECT got('mail');
SELECT cdp.ack('mail', 1), cdp.nack('mail', 2, 'mailbox full');
SELECT got('mail');
SELECT cdp.ack('mail', 4);
SELECT cdp.ack('mail', ARRAY[4]);
SET cdp.now = '2026-01-01 00:00:10+00';
SELECT got('mail');
-- twice as long, then no more
SELECT cdp.nack('mail', 2);
SET cdp.now = '2026-01-01 00:00:29+00';
SELECT got('mail');
SET cdp.now = '2026-01-01 00:00:30+00';
SELECT got('mail'), cdp.nack('mail', 2, 'mailbox gone');
SELECT got('mail');
SELECT seq, kind, profile_id, tries, dead_at, error FROM cdp.dead_letters;
SELECT cdp.ack('mail', 3), cdp.nack('mail', 2), cdp.nack('mail', 3);
SELECT acked_seq FROM cdp.subscriptions;
-- given again: a cumulative acknowledgement that did not see it leaves it
SELECT cdp.requeue('mail', ARRAY[1]), cdp.requeue('mail', ARRAY[2], epoch => 1);
SELECT cdp.ack('mail', 4);
BEGIN READ ONLY;
SELECT got('mail');
COMMIT;
SELECT got('mail');
SELECT cdp.ack('mail', 4);
SELECT got('mail');
SELECT * FROM queue;
-- refuse for as long as one likes
SELECT emit('segment_exited 1 warm');
SELECT cdp.nack('mail', 5, delay => '1 day'), cdp.nack('mail', 5, delay => '-1 day');
SELECT cdp.nack('mail', 6);
SELECT cdp.nack('mail', ARRAY[5], delay => '0');
SELECT got('mail');
SELECT cdp.ack('mail', 5);

-- several: the others go on
SELECT cdp.subscribe('jobs', '{"segment": "warm", "kind": "segment_entered"}', 'beginning', visibility => '1 minute', max_tries => 2, backoff => '10 seconds');
SELECT got('jobs', 3);
SELECT cdp.ack('jobs', ARRAY[3]), cdp.nack('jobs', ARRAY[1], 'busy');
SELECT got('jobs'), got('jobs');
SELECT cdp.ack('jobs', ARRAY[4]);
SELECT * FROM queue;
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'jobs';
SET cdp.now = '2026-01-01 00:00:40+00';
SELECT got('jobs'), got('jobs');
-- 2 was never settled, 1 once more; the position does not wait for either
SET cdp.now = '2026-01-01 00:01:45+00';
SELECT got('jobs'), got('jobs');
SELECT * FROM queue;
SELECT cdp.ack('jobs', ARRAY[2]);
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'jobs';
SELECT seq, error FROM cdp.dead_letters;
SELECT cdp.requeue('jobs');
SELECT got('jobs'), got('jobs');
SELECT cdp.ack('jobs', ARRAY[1]);
SELECT * FROM queue;
SELECT count(*) FROM cdp.deliveries;
-- no more than 200 at once
SELECT emit(VARIADIC ARRAY(SELECT 'segment_entered 9 warm' FROM generate_series(1, 250)));
SELECT count(*) FROM cdp.poll('jobs', 1000);
SELECT count(*) FROM cdp.poll('jobs', 1000);
SELECT cdp.ack('jobs', ARRAY(SELECT generate_series(6, 255)));
SELECT acked_seq FROM cdp.subscriptions WHERE name = 'jobs';
SELECT count(*) FROM cdp.deliveries;
SELECT cdp.nack('jobs', 255), cdp.discard('jobs');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cdp.subscribe('early', start => 'beginning', visibility => '1 minute');
SELECT got('early');
ROLLBACK;

-- back, forth, pause
SELECT cdp.subscribe('mover', '{"segment": "warm"}', start => 'now', visibility => '1 minute', max_tries => 1);
SELECT cdp.rewind('mover', '252');
SELECT got('mover', 2), cdp.nack('mover', 253);
SELECT cdp.rewind('mover', '1:251');
SELECT got('mover'), (SELECT count(*) FROM cdp.dead_letters) AS dead;
SELECT cdp.rewind('mover', 'now');
SELECT got('mover');
SELECT cdp.rewind('mover', 'beginning');
SELECT left(got('mover'), 10);
SELECT cdp.rewind('mover', '256');
SELECT cdp.rewind('mover', NULL);
SELECT cdp.rewind('move', 'now');
SELECT cdp.rewind('mover', '253'), cdp.pause('mover');
SELECT got('mover');
SELECT cdp.alter_subscription('mover', visibility => '0');
SELECT cdp.resume('mover');
SELECT got('mover'), got('mover');
SELECT cdp.pause('move');
SELECT cdp.resume('move');
SELECT cdp.requeue('move');
SELECT cdp.discard('move');
SELECT cdp.nack('move', 1);

-- from a time on: what was written at it, or later
SET cdp.now = '2026-01-02 00:00:00+00';
SELECT emit('segment_entered 1 cold', 'segment_exited 1 cold');
SELECT cdp.subscribe('today', start => '2026-01-02');
SELECT got('today');
SELECT cdp.rewind('today', '2026-01-01 23:00:00-01');
SELECT got('today');
SELECT cdp.rewind('today', '2026-01-02 00:00:00.000001');
SELECT got('today');

-- changes of definitions
SELECT cdp.alter_subscription('today', filter => '{"segment": ["cold", "lukewarm"]}');
SELECT cdp.alter_subscription('today', filter => '{"segment": ["cold", "warm"]}', max_tries => 5, mode => 'mirror');
UPDATE cdp.segment_definitions SET name = 'freezing' WHERE name = 'cold';
SELECT filter, max_tries, mode FROM cdp.subscriptions WHERE name = 'today';
SELECT cdp.rewind('today', '255');
SELECT emit('segment_entered 2 freezing');
SELECT got('today');
-- what is gone may stay
SELECT cdp.alter_subscription('today', max_tries => 6);
SELECT cdp.alter_subscription('toady', max_tries => 6);

-- first_entry and max_age
SELECT cdp.subscribe('welcome', '{"segment": "warm", "first_entry": true, "max_age": "1 hour"}');
SELECT emit('segment_entered 1 warm entry {"entry_number":1}', 'segment_entered 2 warm entry {"entry_number":2}', 'segment_exited 1 warm');
SELECT got('welcome');
SET cdp.now = '2026-01-02 00:59:59+00';
SELECT got('welcome');
SET cdp.now = '2026-01-02 01:00:00+00';
SELECT got('welcome');

-- either a segment or a trait
SELECT cdp.create_trait('ltv', aggregate => 'count');
SELECT cdp.create_trait('spend', type => 'numeric');
SELECT cdp.subscribe('values', '{"segment": "warm", "trait": "ltv"}');
SELECT cdp.alter_trait('ltv', options => '{"announce": true}');
SELECT cdp.subscribe('values', '{"segment": "warm", "trait": "ltv"}');
SELECT emit('trait_changed 1  entry {"trait":"ltv"}', 'trait_changed 1  entry {"trait":"spend"}', 'segment_entered 1 warm', 'segment_entered 1 freezing');
SELECT kind, segment, payload FROM cdp.poll('values');
SELECT cdp.alter_subscription('values', include => '{"traits": ["spend", "ltv"]}');
SELECT cdp.rename_trait('ltv', 'lifetime_value');
SELECT filter, include FROM cdp.subscriptions WHERE name = 'values';
-- a document of it can be applied where there never were the old names
SELECT cdp.export_config() #> '{subscriptions,values}';
BEGIN;
CREATE TEMP TABLE document AS SELECT cdp.export_config() AS c;
SELECT * FROM cdp.apply_config((SELECT c FROM document));
SELECT cdp.unsubscribe('values');
SELECT action, kind, name FROM cdp.apply_config((SELECT c FROM document), dry_run => false);
SELECT * FROM cdp.apply_config((SELECT c FROM document));
ROLLBACK;
-- what is included and gone need not be mentioned to alter the rest
SELECT cdp.create_trait('fleeting', type => 'text');
SELECT cdp.subscribe('thin', include => '{"traits": ["fleeting", "spend"]}');
SELECT cdp.drop_trait('fleeting');
SELECT cdp.alter_subscription('thin', mode => 'mirror');
SELECT cdp.export_config() #> '{subscriptions,thin}';
SELECT cdp.unsubscribe('thin');
SELECT cdp.subscribe('snap', '{"trait": "lifetime_value"}', 'snapshot');

-- numbers of another epoch: the database was restored to an earlier state
UPDATE cdp.applier SET epoch = 2;
SELECT emit('segment_entered 1 warm');
SELECT epoch, max(seq) FROM cdp.changes GROUP BY epoch ORDER BY epoch;
SELECT cdp.ack('values', 266, epoch => 1);
SELECT cdp.ack('values', ARRAY[265, 266], epoch => 1);
SELECT cdp.subscribe('after', start => '1:266');
SELECT cdp.subscribe('after', start => '1:265');
SELECT epoch, seq FROM cdp.poll('after');
SELECT cdp.nack('values', 266, epoch => 1);
SELECT cdp.ack('values', 266, epoch => 2);
SELECT epoch, acked_seq FROM cdp.subscriptions WHERE name = 'values';
