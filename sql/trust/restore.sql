/* sql/trust/restore.sql: has a restored database everything that the applier must know? */

-- pg_restore fills tables in the order of their names, and this one after those
-- that it refers to, also when it works in parallel.  So a row of an incarnation
-- that is not this database's own says that the others are there.
CREATE TABLE cdp.written (
	incarnation int PRIMARY KEY,
	tombstone_key boolean REFERENCES cdp.tombstone_keys,
	tombstone bytea REFERENCES cdp.tombstones,
	erasure bigint REFERENCES cdp.erasures,
	audit uuid REFERENCES cdp.audit_entries,
	seal bigint REFERENCES cdp.audit_seals,
	kind text REFERENCES cdp.kind_definitions,
	trait int REFERENCES cdp.trait_definitions,
	segment int REFERENCES cdp.segment_definitions
);
COMMENT ON TABLE cdp.written IS 'incarnations of the log whose data this database has as a whole: pg_restore loads it last. All columns but the first are empty, and there for that order';
INSERT INTO cdp.written (incarnation) SELECT i.id FROM cdp.incarnation i;
SELECT pg_extension_config_dump('cdp.written', '');

CREATE FUNCTION cdp.restore_pending() RETURNS boolean
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN NOT EXISTS (SELECT FROM cdp.cursors c JOIN cdp.incarnation i ON c.incarnation = i.id)
	AND (EXISTS (SELECT FROM cdp.cursors) OR EXISTS (SELECT FROM cdp.epochs e LEFT JOIN cdp.incarnation i ON e.incarnation = i.id WHERE i.id IS NULL))
	AND NOT EXISTS (SELECT FROM cdp.written w LEFT JOIN cdp.incarnation i ON w.incarnation = i.id WHERE i.id IS NULL);
COMMENT ON FUNCTION cdp.restore_pending() IS 'internal: is this a restored database that has not everything yet?';

-- Before tables that tell are there, a database is not told from a new one; and
-- in parallel the large ones may come last.
CREATE FUNCTION cdp.restore_running() RETURNS boolean
	LANGUAGE sql STABLE PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp
RETURN EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = current_database() AND a.application_name = 'pg_restore');
COMMENT ON FUNCTION cdp.restore_running() IS 'internal: is pg_restore connected to this database?';

CREATE FUNCTION cdp.finish_restore() RETURNS boolean
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT cdp.restore_pending() THEN
		RETURN false;
	END IF;
	-- no database's own incarnation is 0
	INSERT INTO cdp.written (incarnation) VALUES (coalesce((SELECT min(c.incarnation) FROM cdp.cursors c), 0));
	PERFORM cdp.audit_record('finish restore', current_database());
	RETURN true;
END
$$;
COMMENT ON FUNCTION cdp.finish_restore() IS
	'say that a database has all that is going to be restored although the end of it, the table cdp.written, was left out: entries can be applied from now on. false when there is nothing to say. Tombstones that were not restored refuse nobody';

REVOKE ALL ON cdp.written FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.restore_pending(), cdp.restore_running(), cdp.finish_restore() FROM PUBLIC;
