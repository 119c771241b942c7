/* sql/apply/worker.sql: the background worker that applies the log */

CREATE FUNCTION cdp.version() RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_version'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.version() IS 'version of the loaded library';

CREATE FUNCTION cdp.worker_pid() RETURNS int
	AS 'MODULE_PATHNAME', 'cdp_worker_pid'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION cdp.worker_pid() IS 'process id of the applier of this database; NULL when none runs';

CREATE FUNCTION cdp.worker_hint() RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_worker_hint'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION cdp.worker_hint() IS 'whether an applier runs in this database, and how to start one';

CREATE FUNCTION cdp.announce_worker() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_announce_worker'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.announce_worker() IS 'for the end of the install script: start the applier and say so when the transaction commits';

CREATE FUNCTION cdp.start_worker() RETURNS int
	AS 'MODULE_PATHNAME', 'cdp_start_worker'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.start_worker() IS 'start the applier of this database unless it runs; its process id';

CREATE FUNCTION cdp.stop_worker() RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_stop_worker'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.stop_worker() IS 'stop the applier of this database until cdp.start_worker() or a restart of the server; whether one ran';

CREATE FUNCTION cdp.pause() RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.lock_applier();
	INSERT INTO cdp.applier AS a (paused_at) VALUES (clock_timestamp())
	ON CONFLICT (one) DO UPDATE SET paused_at = coalesce(a.paused_at, excluded.paused_at);
END
$$;
COMMENT ON FUNCTION cdp.pause() IS 'apply nothing until cdp.resume(), also after a restart of the server; waits for the batch that is being applied. Logging goes on, and so does polling; cdp.apply() is an error. Needs isolation level READ COMMITTED';

CREATE FUNCTION cdp.resume() RETURNS boolean
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.lock_applier();
	UPDATE cdp.applier a SET paused_at = NULL WHERE a.paused_at IS NOT NULL;
	IF FOUND THEN
		-- wakes the applier at commit
		PERFORM cdp.entry_xid();
	END IF;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION cdp.resume() IS 'apply again; whether it was paused. Needs isolation level READ COMMITTED';

CREATE FUNCTION cdp.retry_rejected(entries bigint[] DEFAULT NULL) RETURNS bigint
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	ids bigint[];
	retried bigint;
BEGIN
	PERFORM cdp.lock_applier();
	WITH gone AS (
		DELETE FROM cdp.isolated i WHERE entries IS NULL OR i.entry = ANY (entries)
		RETURNING i.entry, i.xid
	), moved AS (
		-- they are entries of this transaction from now on
		UPDATE cdp.events e SET xid = cdp.entry_xid(), incarnation = (SELECT n.id FROM cdp.incarnation n)
		FROM gone g WHERE e.xid = g.xid AND e.id = g.entry
		RETURNING e.id
	)
	SELECT array_agg(g.entry), (SELECT count(*) FROM moved) INTO ids, retried FROM gone g;
	IF ids IS NULL THEN
		RETURN 0;
	END IF;
	DELETE FROM cdp.rejected r WHERE r.entry = ANY (ids);
	PERFORM cdp.definitions_changed();
	RETURN retried;
END
$$;
COMMENT ON FUNCTION cdp.retry_rejected(bigint[]) IS 'apply again, at their own times, entries that were put aside because they raised an error or crashed the applier (cdp.rejected, reasons "raised an error" and "crashed the applier"): those with these numbers (cdp.rejected.entry), NULL: all; how many. One that still raises it is put aside again; one that still crashes the applier takes the server through recovery again. Needs isolation level READ COMMITTED';

CREATE FUNCTION cdp.wait_applied(timeout interval DEFAULT '10 seconds') RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_wait_applied'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.wait_applied(interval) IS 'wait until everything committed before the call is applied; false when the timeout was reached first';

-- What is committed and not yet applied, up to a limit: of each incarnation,
-- from its cursor on. Entries of transactions that were running when the
-- cursor was set are few and left out. Before the live incarnation is active
-- others may have no cursor either: then the log is read as a whole.
CREATE FUNCTION cdp.lag(max_entries int DEFAULT 100000,
		OUT active boolean, OUT entries bigint, OUT seconds double precision)
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	oldest timestamptz;
BEGIN
	active := EXISTS (SELECT FROM cdp.cursors c JOIN cdp.incarnation i ON c.incarnation = i.id);
	IF active THEN
		SELECT count(*), min(p.received_at) INTO entries, oldest
		FROM (SELECT e.received_at
			FROM (SELECT c.incarnation,
					CASE WHEN c.target IS NOT NULL AND c.position_xid > 0 THEN c.position_xid
						ELSE pg_snapshot_xmax(c.done)::text::bigint - 1 END AS xid,
					CASE WHEN c.target IS NOT NULL AND c.position_xid > 0 THEN c.position_id
						ELSE 9223372036854775807 END AS id
				FROM cdp.cursors c) f,
			LATERAL (SELECT l.received_at FROM cdp.events l
				WHERE l.incarnation = f.incarnation AND (l.xid, l.id) > (f.xid, f.id)
				LIMIT max_entries) e
			LIMIT max_entries) p;
	ELSE
		SELECT count(*), min(p.received_at) INTO entries, oldest
		FROM (SELECT e.received_at FROM cdp.events e
			WHERE NOT EXISTS (SELECT FROM cdp.cursors c
				WHERE c.incarnation = e.incarnation AND pg_visible_in_snapshot(e.xid::text::xid8, c.done))
			LIMIT max_entries) p;
	END IF;
	seconds := CASE WHEN entries = 0 THEN 0
		ELSE greatest(extract(epoch FROM cdp.clock() - oldest), 0) END;
END
$$;
COMMENT ON FUNCTION cdp.lag(int) IS 'entries that are committed and not applied, counted up to a limit, and the age of the oldest of them';

CREATE FUNCTION cdp.status(
		OUT version text, OUT worker_running boolean, OUT worker_pid int,
		OUT incarnation_active boolean, OUT entries_applied bigint,
		OUT lag_entries bigint, OUT lag_seconds double precision,
		OUT last_batch_at timestamptz, OUT clock timestamptz,
		OUT last_error text, OUT hint text)
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	version := cdp.version();
	worker_pid := cdp.worker_pid();
	worker_running := worker_pid IS NOT NULL;
	SELECT l.active, l.entries, l.seconds INTO incarnation_active, lag_entries, lag_seconds
	FROM cdp.lag() l;
	SELECT a.entries, a.last_batch_at, a.clock, a.last_error
	INTO entries_applied, last_batch_at, clock, last_error
	FROM cdp.applier a;
	entries_applied := coalesce(entries_applied, 0);
	IF clock = '-infinity' THEN
		clock := NULL;
	END IF;
	hint := cdp.worker_hint();
	IF EXISTS (SELECT FROM cdp.applier a WHERE a.paused_at IS NOT NULL) THEN
		hint := hint || '; applying is paused: SELECT cdp.resume()';
	END IF;
	IF NOT incarnation_active AND NOT EXISTS (
			SELECT FROM cdp.events e JOIN cdp.incarnation i ON e.incarnation = i.id)
		AND lag_entries > 0 THEN
		hint := hint || '; the log was restored: it is applied from the first new entry on, or after SELECT cdp.start_worker() or SELECT cdp.apply()';
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.status() IS 'one row: is the log being applied, how far, and what to do when it is not';

CREATE VIEW cdp.stat_worker AS
	SELECT s.pid, s.backend_type AS type, s.datname AS database, s.backend_start AS started_at,
		s.state, CASE WHEN s.state = 'active' THEN s.query END AS activity,
		s.xact_start, s.wait_event_type, s.wait_event
	FROM pg_catalog.pg_stat_activity s
	WHERE s.backend_type = 'cdp launcher'
		OR (s.backend_type = 'cdp applier'
			AND s.datname = pg_catalog.current_database());
COMMENT ON VIEW cdp.stat_worker IS 'the launcher and the applier of this database, when they run';

CREATE VIEW cdp.stat_apply AS
	SELECT a.entries, a.duplicates, a.rejected, a.batches,
		l.entries AS lag_entries, l.seconds AS lag_seconds,
		a.last_batch_at, a.clock, a.errors, a.last_error, a.last_error_at
	FROM cdp.lag() l
	LEFT JOIN cdp.applier a ON true;
COMMENT ON VIEW cdp.stat_apply IS 'what the applier has done, how far it is behind, and its errors';

REVOKE ALL ON FUNCTION cdp.start_worker(), cdp.stop_worker(), cdp.pause(), cdp.resume(), cdp.retry_rejected(bigint[]), cdp.announce_worker(), cdp.lag(int), cdp.status() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cdp.lag(int), cdp.status() TO pg_monitor;
GRANT SELECT ON cdp.stat_worker, cdp.stat_apply TO pg_monitor;

-- Wakes the launcher and tells the user, when CREATE EXTENSION commits.
SELECT cdp.announce_worker();
