/* sql/activate/retention.sql: how long changes are kept, and who holds them */

-- As cdp.make_partitions() for the log.
CREATE FUNCTION cdp.make_change_partitions(ahead interval DEFAULT '2 months') RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET lock_timeout = '500ms'
AS $$
DECLARE
	lower_bound timestamptz := date_trunc('month', cdp.clock());
	upper_bound timestamptz;
	first_bound timestamptz;
	horizon timestamptz;
	name text;
	made int := 0;
BEGIN
	IF ahead IS NULL OR ahead < interval '0' OR ahead > interval '10 years' THEN
		RAISE EXCEPTION 'ahead must be between 0 and 10 years' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	horizon := cdp.clock() + ahead;
	WHILE lower_bound <= horizon LOOP
		upper_bound := lower_bound + interval '1 month';
		name := to_char(lower_bound, '"changes_y"YYYY"m"MM');
		IF to_regclass(format('cdp.%I', name)) IS NULL THEN
			BEGIN
				LOCK TABLE ONLY cdp.changes IN SHARE UPDATE EXCLUSIVE MODE;
				-- of a month that has begun in the default partition, what is left
				first_bound := lower_bound;
				IF lower_bound <= cdp.clock() AND EXISTS (SELECT FROM cdp.changes_default c
						WHERE c.at >= lower_bound AND c.at < upper_bound) THEN
					first_bound := date_trunc('hour', cdp.clock()) + interval '1 hour';
				END IF;
				-- somebody else may have been faster
				IF to_regclass(format('cdp.%I', name)) IS NULL AND first_bound < upper_bound AND NOT EXISTS (
						SELECT FROM cdp.changes_default c WHERE c.at >= first_bound AND c.at < upper_bound) THEN
					EXECUTE format('CREATE TABLE cdp.%I (LIKE cdp.changes INCLUDING DEFAULTS)', name);
					EXECUTE format('ALTER TABLE cdp.%I ALTER COLUMN payload SET STATISTICS 0', name);
					EXECUTE format('CREATE INDEX %I ON cdp.%I (epoch, seq)', name || '_seq', name);
					EXECUTE format('ALTER TABLE cdp.changes ATTACH PARTITION cdp.%I FOR VALUES FROM (%L) TO (%L)',
						name, first_bound, upper_bound);
					made := made + 1;
				END IF;
			EXCEPTION
				WHEN lock_not_available THEN
					RAISE NOTICE 'partition "cdp.%" is not made: the changes are being read', name
						USING HINT = 'The next call tries again.';
					EXIT;
				WHEN invalid_object_definition OR check_violation THEN
					RAISE NOTICE 'partition "cdp.%" is not made: %', name, SQLERRM;
			END;
		END IF;
		lower_bound := upper_bound;
	END LOOP;
	RETURN made;
END
$$;
COMMENT ON FUNCTION cdp.make_change_partitions(interval) IS
	'make the monthly partitions of cdp.changes from the current month to ahead of now; returns how many were made. Of a month that has begun in the default partition, what is left from the next full hour on. Nothing waits longer than half a second';

-- Partitions go as a whole, when nobody needs them any more; rows go from the
-- default partition only.
CREATE FUNCTION cdp.trim_changes(keep interval DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET lock_timeout = '500ms'
AS $$
DECLARE
	cutoff timestamptz;
	floor record;
	part record;
	needed boolean;
	until timestamptz;
	latest timestamptz := '-infinity';
	n bigint;
	removed bigint := 0;
BEGIN
	IF keep IS NULL THEN
		keep := make_interval(days => current_setting('cdp.change_retention')::int);
		IF keep = '0' THEN
			RETURN 0;
		END IF;
	ELSIF keep < '0' THEN
		RAISE EXCEPTION 'keep must not be negative' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	cutoff := cdp.clock() - keep;
	BEGIN
		PERFORM cdp.lock_positions(true);
	EXCEPTION WHEN lock_not_available THEN
		RAISE NOTICE 'no changes are removed: a subscription is being made';
		RETURN 0;
	END;
	-- the slowest subscription
	SELECT s.epoch, s.acked_seq INTO floor FROM cdp.subscriptions s ORDER BY s.epoch, s.acked_seq LIMIT 1;
	IF NOT FOUND THEN
		SELECT 2147483647 AS epoch, 0::bigint AS acked_seq INTO floor;
	END IF;

	FOR part IN
		SELECT p.name, p.until FROM (
			SELECT c.relname AS name,
				substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']*)''\)')::timestamptz AS until
			FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = 'cdp.changes'::regclass AND c.relname <> 'changes_default') p
		WHERE p.until <= cutoff ORDER BY p.until
	LOOP
		EXECUTE format('SELECT max(c.at), count(*), coalesce(bool_or((c.epoch, c.seq) > ($1, $2)), false) FROM cdp.%I c', part.name)
			INTO until, n, needed USING floor.epoch, floor.acked_seq;
		EXIT WHEN needed;
		BEGIN
			EXECUTE format('ALTER TABLE cdp.changes DETACH PARTITION cdp.%I', part.name);
			EXECUTE format('DROP TABLE cdp.%I', part.name);
			removed := removed + n;
			latest := greatest(latest, until);
		EXCEPTION WHEN lock_not_available THEN
			RAISE NOTICE 'partition "cdp.%" is not dropped: the changes are being read', part.name
				USING HINT = 'The next call tries again.';
			EXIT;
		END;
	END LOOP;

	WITH gone AS (
		DELETE FROM cdp.changes_default c
		WHERE c.at < cutoff AND (c.epoch, c.seq) <= (floor.epoch, floor.acked_seq)
		RETURNING c.at)
	SELECT count(*), max(g.at) INTO n, until FROM gone g;
	removed := removed + n;
	latest := greatest(latest, until);
	IF latest > '-infinity' THEN
		INSERT INTO cdp.changes_trimmed AS t (dropped_until) VALUES (latest)
		ON CONFLICT (one) DO UPDATE SET dropped_until = greatest(t.dropped_until, excluded.dropped_until);
	END IF;
	RETURN removed;
END
$$;
COMMENT ON FUNCTION cdp.trim_changes(interval) IS
	'remove changes older than keep (NULL: cdp.change_retention, of which 0 keeps all) that every subscription has acknowledged, whole months at a time; how many were removed. The applier does so daily. Nothing waits longer than half a second';

CREATE VIEW cdp.subscription_lag AS
	SELECT s.name AS subscription, s.mode,
		CASE WHEN s.paused_at IS NOT NULL THEN 'paused' ELSE 'active' END AS state,
		s.epoch, s.acked_seq, coalesce(a.epoch, 0) AS head_epoch, coalesce(a.next_seq - 1, 0) AS head_seq,
		greatest(coalesce(a.next_seq - 1, 0) - s.acked_seq, 0) AS behind,
		o.at AS oldest_at, greatest(cdp.clock() - o.at, '0') AS lag,
		d.in_flight + q.in_flight AS in_flight, q.waiting, q.dead, s.last_poll_at,
		(s.epoch, s.acked_seq) = (min(s.epoch) OVER (), min(s.acked_seq) OVER (PARTITION BY s.epoch))
			AND (a.epoch, a.next_seq - 1) > (s.epoch, s.acked_seq) AS slowest,
		CASE
			WHEN q.dead > 0 THEN format('set aside: %s, see cdp.dead_letters', q.dead)
			WHEN o.at IS NULL THEN NULL
			WHEN r.days > 0 AND o.at < cdp.clock() - make_interval(days => r.days)
				THEN 'holds back changes that are older than cdp.change_retention'
			WHEN s.paused_at < cdp.clock() - interval '1 day' THEN 'paused for more than a day'
			WHEN s.paused_at IS NOT NULL THEN NULL
			WHEN o.at < cdp.clock() - interval '1 hour' AND coalesce(s.last_poll_at < cdp.clock() - interval '1 hour', true)
				THEN 'nobody polls'
			WHEN o.at < cdp.clock() - interval '1 hour' THEN 'more than an hour behind'
		END AS alarm
	FROM cdp.subscriptions s
	LEFT JOIN cdp.applier a ON true
	CROSS JOIN (SELECT current_setting('cdp.change_retention')::int AS days) r
	LEFT JOIN LATERAL (SELECT c.at FROM cdp.changes c
		WHERE (c.epoch, c.seq) > (s.epoch, s.acked_seq) ORDER BY c.epoch, c.seq LIMIT 1) o ON true
	CROSS JOIN LATERAL (SELECT count(*) AS in_flight FROM cdp.deliveries d
		WHERE d.subscription = s.name AND NOT d.acked AND s.visibility IS NOT NULL AND d.visible_at > cdp.clock()) d
	CROSS JOIN LATERAL (SELECT
			count(*) FILTER (WHERE q.dead_at IS NULL AND s.visibility IS NOT NULL AND q.visible_at > cdp.clock() AND q.tries > 0 AND q.error IS NULL) AS in_flight,
			count(*) FILTER (WHERE q.dead_at IS NULL) AS waiting,
			count(*) FILTER (WHERE q.dead_at IS NOT NULL) AS dead
		FROM cdp.subscription_queue q WHERE q.subscription = s.name) q;
COMMENT ON VIEW cdp.subscription_lag IS 'how far each subscription is: changes behind the head (whether or not its filter lets them through), age of the oldest that is not acknowledged, changes that consumers hold, that wait in its queue or are set aside, whether it is the slowest, which holds back cdp.trim_changes(), and what is alarming about it';

REVOKE ALL ON FUNCTION cdp.make_change_partitions(interval), cdp.trim_changes(interval) FROM PUBLIC;
-- not cdp.dead_letters: payloads are as confidential as the changes themselves
GRANT SELECT ON cdp.subscription_lag TO pg_monitor;
