--
-- Batches of entries that are in several partitions of the log
--
SET client_min_messages = error;
CREATE EXTENSION cdp;
SET cdp.now = '2026-11-22 20:00:00+00';
SELECT count(cdp.make_partitions('3 months'));
SELECT cdp.create_trait('seen', 'count');
RESET client_min_messages;

-- entries of one transaction and of several, here and there
CREATE FUNCTION log_some(n int, since timestamptz DEFAULT '2026-11-01+00') RETURNS bigint LANGUAGE sql AS $$
	WITH logged AS (
		INSERT INTO cdp.events (event, identifiers, received_at)
		SELECT 'e', ARRAY[('user_id:' || i % 7)::cdp.identifier], since + i * interval '17 days'
		FROM generate_series(1, n) i RETURNING id)
	SELECT count(*) FROM logged
$$;
SELECT log_some(9);
SELECT log_some(1);
SELECT log_some(6);
SELECT tableoid::regclass, count(*) FROM cdp.events GROUP BY 1 ORDER BY 1;

-- a batch ends amid a transaction, and the next one goes on there
SELECT cdp.apply(4);
SELECT cdp.apply(4);
SELECT sum(seen) FROM cdp.profile_traits;
SELECT cdp.apply();
SELECT sum(seen), count(*) FROM cdp.profile_traits;
SELECT * FROM cdp.verify();

-- what is not committed yet is read by whom it belongs to, wherever it is
BEGIN;
SELECT log_some(8);
SELECT cdp.profile('user_id:1') -> 'traits' ->> 'seen' AS applied,
	cdp.profile('user_id:1', fresh => true) -> 'traits' ->> 'seen' AS fresh;
COMMIT;
SELECT cdp.apply(3), cdp.apply();

-- a partition may have its columns in another order, and one more
CREATE TABLE public.march (incarnation int NOT NULL, note text, context jsonb, xid bigint NOT NULL,
	received_at timestamptz NOT NULL, occurred_at timestamptz, properties jsonb, gone int, event text, type text,
	source text, message_id text, identifiers cdp.identifier[], id bigint NOT NULL);
ALTER TABLE public.march DROP COLUMN gone, DROP COLUMN note;
CREATE INDEX march_xid ON public.march (xid, id);
ALTER TABLE cdp.events ATTACH PARTITION public.march FOR VALUES FROM ('2028-03-01+00') TO ('2028-04-01+00');
SELECT log_some(9, '2028-02-01+00');
SELECT count(*) FROM public.march;
SELECT cdp.apply(5), cdp.apply();
SELECT sum(seen) FROM cdp.profile_traits;

-- or no index that could be used
CREATE TABLE public.week (LIKE cdp.events INCLUDING DEFAULTS);
CREATE INDEX week_xid ON public.week (xid DESC, id);
CREATE INDEX week_some ON public.week (xid, id) WHERE id > 1000000;
ALTER TABLE cdp.events ATTACH PARTITION public.week FOR VALUES FROM ('2029-02-18+00') TO ('2029-02-25+00');
SELECT log_some(9, '2029-02-01+00');
SELECT count(*) FROM public.week;
SELECT cdp.apply(5), cdp.apply(5), cdp.apply();
SELECT sum(seen) FROM cdp.profile_traits;
BEGIN;
SELECT log_some(8, '2029-02-01+00');
SELECT cdp.profile('user_id:1', fresh => true) -> 'traits' ->> 'seen' AS fresh;
ROLLBACK;
SELECT * FROM cdp.verify();

DROP EXTENSION cdp CASCADE;
