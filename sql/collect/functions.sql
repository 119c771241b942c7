/* sql/collect/functions.sql: writing to the log */

CREATE FUNCTION cdp.content_hash(e cdp.events) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE
	RETURN pg_catalog.md5(ROW((e).type, (e).event, (e).identifiers, (e).properties, (e).context)::pg_catalog.text);
COMMENT ON FUNCTION cdp.content_hash(cdp.events) IS
	'hash of what an entry says, times and numbers aside: of duplicates at the same time the one with the smallest counts';

CREATE FUNCTION cdp.iso_time(text) RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'cdp_iso_time' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.iso_time(text) IS 'internal: a time of ISO 8601 as payloads have it, NULL for anything else';
REVOKE EXECUTE ON FUNCTION cdp.iso_time(text) FROM PUBLIC;

CREATE FUNCTION cdp.track(event text DEFAULT NULL, properties jsonb DEFAULT NULL,
		user_id cdp.key DEFAULT NULL, anonymous_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_track' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.track(text, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log that somebody did something; returns the message id. event is required, and somebody: user_id, anonymous_id, identifiers of registered kinds, or an identifier in properties or context. occurred_at defaults to now, source to sql; of calls with the same source and message_id one counts. Errors: null_value_not_allowed without event or identifier, invalid_parameter_value when properties or context is not an object, undefined_object for an unregistered kind';

CREATE FUNCTION cdp.identify(user_id cdp.key DEFAULT NULL, traits jsonb DEFAULT NULL,
		anonymous_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_identify' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.identify(cdp.key, jsonb, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log who somebody is: the identifiers belong together, and the traits are theirs (the latest value counts, null removes). traits.email and traits.phone are identifiers too. Returns the message id; arguments and errors as cdp.track';

CREATE FUNCTION cdp.page(name text DEFAULT NULL, category text DEFAULT NULL, properties jsonb DEFAULT NULL,
		user_id cdp.key DEFAULT NULL, anonymous_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_page' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.page(text, text, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log that somebody viewed a page; name becomes the event, category one of the properties. Returns the message id; arguments and errors as cdp.track';

CREATE FUNCTION cdp.screen(name text DEFAULT NULL, category text DEFAULT NULL, properties jsonb DEFAULT NULL,
		user_id cdp.key DEFAULT NULL, anonymous_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_screen' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.screen(text, text, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log that somebody viewed a screen of an app; as cdp.page';

CREATE FUNCTION cdp.group(group_id cdp.key DEFAULT NULL, traits jsonb DEFAULT NULL,
		user_id cdp.key DEFAULT NULL, anonymous_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_group' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.group(cdp.key, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log that somebody belongs to an account, whose traits these are; group_id is required, somebody is not. Returns the message id; arguments and errors as cdp.track';

CREATE FUNCTION cdp.leave_group(group_id cdp.key DEFAULT NULL, user_id cdp.key DEFAULT NULL,
		anonymous_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_leave_group' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.leave_group(cdp.key, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log that somebody does not belong to an account any more, from occurred_at (default: now) on; group_id and somebody are required. Returns the message id; arguments and errors as cdp.track';

CREATE FUNCTION cdp.alias(previous_id cdp.key DEFAULT NULL, user_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_alias' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.alias(cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log that the former anonymous id previous_id belongs to user_id: the same as identify with both, for libraries that call it so. Returns the message id; arguments and errors as cdp.track';

REVOKE EXECUTE ON FUNCTION
	cdp.track(text, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text),
	cdp.identify(cdp.key, jsonb, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text),
	cdp.page(text, text, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text),
	cdp.screen(text, text, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text),
	cdp.group(cdp.key, jsonb, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text),
	cdp.leave_group(cdp.key, cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text),
	cdp.alias(cdp.key, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text)
	FROM PUBLIC;

CREATE FUNCTION cdp.ingest(payload jsonb, source text DEFAULT NULL)
	RETURNS TABLE (accepted bigint, rejected bigint, errors jsonb)
	AS 'MODULE_PATHNAME', 'cdp_ingest' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION cdp.ingest(jsonb, text) IS
	'log payloads of the Segment and RudderStack libraries: one, an array of them, or a body {"batch": [...]} whose context, integrations, channel and sentAt its messages inherit. Returns how many were accepted and refused, and for the first hundred refused ones index (from 0), messageId, reason and detail; all refused ones are in cdp.rejected. A bad payload never stops the others';
REVOKE EXECUTE ON FUNCTION cdp.ingest(jsonb, text) FROM PUBLIC;

CREATE FUNCTION cdp.ingest_text(payload text, source text DEFAULT NULL)
	RETURNS TABLE (accepted bigint, rejected bigint, errors jsonb)
	AS 'MODULE_PATHNAME', 'cdp_ingest_text' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION cdp.ingest_text(text, text) IS
	'as cdp.ingest, for the body of a request as it came: a payload that is not valid JSON, or that jsonb cannot hold (\u0000), is put aside as text and does not stop the others';
REVOKE EXECUTE ON FUNCTION cdp.ingest_text(text, text) FROM PUBLIC;

CREATE FUNCTION cdp.payload(e cdp.events) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_payload' LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 10;
COMMENT ON FUNCTION cdp.payload(cdp.events) IS
	'the payload that an entry came from, unchanged; for an entry that came otherwise, the payload that says the same. Of a table attached with copy => false the properties are read from the row, for who may read cdp.events';

-- Partitions are made standalone and attached afterwards: that needs no more
-- than SHARE UPDATE EXCLUSIVE on cdp.events, but a moment of ACCESS EXCLUSIVE
-- on the default partition, hence the short lock_timeout. The incarnation has
-- no default in them: a partition outlives the incarnation that it was made
-- in, and nobody is to write to it directly.
CREATE FUNCTION cdp.make_partitions(ahead interval DEFAULT '2 months') RETURNS int
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
		RAISE EXCEPTION 'ahead must be between 0 and 10 years'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	horizon := cdp.clock() + ahead;
	WHILE lower_bound <= horizon LOOP
		upper_bound := lower_bound + interval '1 month';
		name := to_char(lower_bound, '"events_y"YYYY"m"MM');
		IF to_regclass(format('cdp.%I', name)) IS NULL THEN
			BEGIN
				LOCK TABLE ONLY cdp.events IN SHARE UPDATE EXCLUSIVE MODE;
				-- somebody else may have been faster
				IF to_regclass(format('cdp.%I', name)) IS NULL THEN
					-- what has come in this month is in the default partition: the rest of
					-- the month need not join it
					first_bound := lower_bound;
					IF lower_bound <= cdp.clock() AND EXISTS (SELECT FROM cdp.events_default e
							WHERE e.received_at >= lower_bound AND e.received_at < upper_bound) THEN
						first_bound := date_trunc('hour', cdp.clock()) + interval '1 hour';
					END IF;
					IF EXISTS (SELECT FROM cdp.events_default e
							   WHERE e.received_at >= first_bound AND e.received_at < upper_bound) THEN
						RAISE NOTICE 'partition "cdp.%" is not made: the default partition has entries of its time', name
							USING HINT = 'They stay there, and so do the others of that month.';
					ELSIF first_bound < upper_bound THEN
						EXECUTE format('CREATE TABLE cdp.%I (LIKE cdp.events INCLUDING DEFAULTS)', name);
						EXECUTE format('ALTER TABLE cdp.%I ALTER COLUMN incarnation DROP DEFAULT, '
							'ALTER COLUMN identifiers SET STATISTICS 0, '
							'ALTER COLUMN properties SET STATISTICS 0, '
							'ALTER COLUMN context SET STATISTICS 0', name);
						EXECUTE format('CREATE INDEX %I ON cdp.%I (xid, id)', name || '_xid', name);
						EXECUTE format('CREATE INDEX %I ON cdp.%I (cdp.message_hash(source, message_id)) '
							'WHERE message_id IS NOT NULL', name || '_message', name);
						EXECUTE format('ALTER TABLE cdp.events ATTACH PARTITION cdp.%I FOR VALUES FROM (%L) TO (%L)',
							name, first_bound, upper_bound);
						made := made + 1;
					END IF;
				END IF;
			EXCEPTION
				WHEN lock_not_available THEN
					RAISE NOTICE 'partition "cdp.%" is not made: the log is busy', name
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
COMMENT ON FUNCTION cdp.make_partitions(interval) IS
	'make the monthly partitions of the log from the current month to ahead of now; returns how many were made. Of a month whose first entries are in the default partition, what is left from the next full hour on; months to come of which it has entries are skipped with a NOTICE. Nothing waits longer than half a second';
REVOKE EXECUTE ON FUNCTION cdp.make_partitions(interval) FROM PUBLIC;
