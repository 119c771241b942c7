/* sql/trust/retention.sql: how long entries of the log are kept */

CREATE TABLE cdp.retention_rules (
	type text NOT NULL DEFAULT '*',
	event text NOT NULL DEFAULT '*',
	source text NOT NULL DEFAULT '*',
	kind text NOT NULL DEFAULT '',
	trait text NOT NULL DEFAULT '',
	keep interval NOT NULL,
	PRIMARY KEY (type, event, source, kind, trait)
);
COMMENT ON TABLE cdp.retention_rules IS 'how long entries of the log, identifiers of a kind, or traits are kept after they were received; * stands for any; changed by cdp.set_retention() and cdp.drop_retention()';
COMMENT ON COLUMN cdp.retention_rules.kind IS 'the kind of which entries lose their identifiers; empty: not by kind';
COMMENT ON COLUMN cdp.retention_rules.trait IS 'the trait that identify and group calls lose; empty: not by trait';
SELECT pg_extension_config_dump('cdp.retention_rules', '');
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON cdp.retention_rules
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('retention', 'event');

-- Months are those of UTC, whatever the session's time zone.
CREATE FUNCTION cdp.expires_before(now timestamptz, keep interval) RETURNS timestamptz
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (now AT TIME ZONE 'UTC' - keep) AT TIME ZONE 'UTC';
COMMENT ON FUNCTION cdp.expires_before(timestamptz, interval) IS 'internal: what was received before this has been kept that long';

CREATE FUNCTION cdp.set_retention(keep interval, event text DEFAULT '*', type text DEFAULT '*', source text DEFAULT '*',
	on_expiry text DEFAULT 'forget', kind text DEFAULT NULL, trait text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	IF keep IS NULL OR event IS NULL OR type IS NULL OR source IS NULL OR on_expiry IS NULL THEN
		RAISE EXCEPTION 'arguments of set_retention must not be null' USING ERRCODE = 'null_value_not_allowed';
	ELSIF cdp.expires_before('2000-03-01', keep) > '2000-02-29' THEN
		RAISE EXCEPTION 'keep must be at least one day' USING ERRCODE = 'invalid_parameter_value';
	ELSIF type NOT IN ('*', 'track', 'identify', 'page', 'screen', 'group', 'leave', 'alias') THEN
		RAISE EXCEPTION 'entries of type "%" do not expire', type USING ERRCODE = 'invalid_parameter_value',
			HINT = 'Those of type track, identify, page, screen, group, leave and alias do.';
	ELSIF num_nonnulls(kind, trait) > 0 AND (event, type, source) <> ('*', '*', '*') THEN
		RAISE EXCEPTION 'a rule for a kind or a trait is for all entries' USING ERRCODE = 'invalid_parameter_value';
	ELSIF num_nonnulls(kind, trait) > 1 THEN
		RAISE EXCEPTION 'a rule is for a kind or for a trait' USING ERRCODE = 'invalid_parameter_value';
	ELSIF kind IS NOT NULL AND NOT EXISTS (SELECT FROM cdp.identifier_kinds k WHERE k.kind = kind) THEN
		RAISE EXCEPTION 'identifier kind "%" does not exist', kind USING ERRCODE = 'undefined_object', HINT = 'See cdp.identifier_kinds.';
	ELSIF trait = '' THEN
		RAISE EXCEPTION 'the name of a trait must not be empty' USING ERRCODE = 'invalid_parameter_value';
	ELSIF on_expiry = 'freeze' THEN
		RAISE EXCEPTION 'on_expiry "freeze" is not supported' USING ERRCODE = 'feature_not_supported',
			DETAIL = 'Traits would keep what entries added to them that are no longer there.';
	ELSIF on_expiry <> 'forget' THEN
		RAISE EXCEPTION 'invalid on_expiry "%"', on_expiry USING ERRCODE = 'invalid_parameter_value', HINT = 'There is forget.';
	END IF;
	PERFORM cdp.definitions_lock();
	INSERT INTO cdp.retention_rules VALUES (type, event, source, coalesce(kind, ''), coalesce(trait, ''), keep)
	ON CONFLICT ON CONSTRAINT retention_rules_pkey DO UPDATE SET keep = excluded.keep;
	PERFORM cdp.definitions_changed();
END;
$$;
COMMENT ON FUNCTION cdp.set_retention(interval, text, text, text, text, text, text) IS
	'keep entries of the log so long after they were received, at least a day: of an event, a type, a source; * stands for any. Of several rules for an entry the one that says most holds, of equals the one that keeps longest. on_expiry forget: traits, segments and identities are as if the entry had never come, but for what it said of consent. kind: entries stay, and lose their identifiers of this kind; trait: identify and group calls lose what they say of it. Errors: invalid_parameter_value, undefined_object (kind), feature_not_supported (freeze)';

CREATE FUNCTION cdp.drop_retention(event text DEFAULT '*', type text DEFAULT '*', source text DEFAULT '*',
	kind text DEFAULT NULL, trait text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM cdp.definitions_lock();
	DELETE FROM cdp.retention_rules r
	WHERE r.event = drop_retention.event AND r.type = drop_retention.type AND r.source = drop_retention.source
		AND r.kind = coalesce(drop_retention.kind, '') AND r.trait = coalesce(drop_retention.trait, '');
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such rule of retention' USING ERRCODE = 'undefined_object', HINT = 'See cdp.retention_rules.';
	END IF;
	PERFORM cdp.definitions_changed();
END;
$$;
COMMENT ON FUNCTION cdp.drop_retention(text, text, text, text, text) IS 'take a rule of retention back: what it would have let go is kept by the other rules. Errors: undefined_object';

-- What is left of identifiers, or of the properties of an identify or group call,
-- that were received then; NULL: all of it.
CREATE FUNCTION cdp.kept_identifiers(identifiers cdp.identifier[], received_at timestamptz, now timestamptz) RETURNS cdp.identifier[]
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT CASE WHEN bool_or(x.expired) THEN coalesce(array_agg(x.i ORDER BY x.o) FILTER (WHERE NOT x.expired), '{}') END
	FROM (SELECT u.i, u.o, EXISTS (SELECT FROM cdp.retention_rules r
			WHERE r.kind = cdp.kind(u.i) AND received_at < cdp.expires_before(now, r.keep)) AS expired
		FROM unnest(identifiers) WITH ORDINALITY u (i, o)) x);
COMMENT ON FUNCTION cdp.kept_identifiers(cdp.identifier[], timestamptz, timestamptz) IS 'internal: the identifiers of an entry without those of kinds that have been kept long enough; NULL when there are none of these';

CREATE FUNCTION cdp.kept_traits(properties jsonb, received_at timestamptz, now timestamptz) RETURNS jsonb
	LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN (SELECT properties - array_agg(r.trait) FROM cdp.retention_rules r
	WHERE r.trait <> '' AND jsonb_typeof(properties) = 'object' AND properties ? r.trait AND received_at < cdp.expires_before(now, r.keep));
COMMENT ON FUNCTION cdp.kept_traits(jsonb, timestamptz, timestamptz) IS 'internal: the traits of a call without those that have been kept long enough; NULL when there are none of these';

CREATE FUNCTION cdp.drop_expired_partitions() RETURNS int
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET lock_timeout = '500ms'
AS $$
DECLARE
	horizon timestamptz := (SELECT max(cdp.expires_before(cdp.clock(), r.keep)) FROM cdp.retention_rules r WHERE r.kind = '' AND r.trait = '');
	part record;
	entries boolean;
	dropped int := 0;
BEGIN
	-- another one's snapshot is older than the lock, and may not have all entries
	IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
		RAISE EXCEPTION 'partitions can be dropped at isolation level READ COMMITTED only' USING ERRCODE = 'feature_not_supported',
			HINT = 'Use BEGIN ISOLATION LEVEL READ COMMITTED.';
	END IF;
	FOR part IN
		SELECT p.name, p.until FROM (
			SELECT c.relname AS name,
				substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']*)''\)')::timestamptz AS until
			FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
			WHERE i.inhparent = 'cdp.events'::regclass AND c.relname <> 'events_default') p
		WHERE p.until <= horizon ORDER BY p.until
	LOOP
		BEGIN
			EXECUTE format('LOCK TABLE cdp.%I IN ACCESS EXCLUSIVE MODE', part.name);
			EXECUTE format('SELECT EXISTS (SELECT FROM cdp.%I)', part.name) INTO entries;
			IF NOT entries THEN
				EXECUTE format('ALTER TABLE cdp.events DETACH PARTITION cdp.%I', part.name);
				EXECUTE format('DROP TABLE cdp.%I', part.name);
				dropped := dropped + 1;
			END IF;
		EXCEPTION WHEN lock_not_available THEN
			RAISE NOTICE 'partition "cdp.%" is not dropped: the log is busy', part.name
				USING HINT = 'The next call tries again.';
			EXIT;
		END;
	END LOOP;
	RETURN dropped;
END
$$;
COMMENT ON FUNCTION cdp.drop_expired_partitions() IS
	'drop partitions of the log whose time is over by the rules of retention and of whose entries none is left; how many were dropped. The applier does so daily. Nothing waits longer than half a second. Errors: feature_not_supported at isolation levels above READ COMMITTED';

REVOKE ALL ON cdp.retention_rules FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.expires_before(timestamptz, interval), cdp.kept_identifiers(cdp.identifier[], timestamptz, timestamptz),
	cdp.kept_traits(jsonb, timestamptz, timestamptz), cdp.set_retention(interval, text, text, text, text, text, text),
	cdp.drop_retention(text, text, text, text, text), cdp.drop_expired_partitions() FROM PUBLIC;
