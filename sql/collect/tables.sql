/* sql/collect/tables.sql: the log and the functions that its columns need */

CREATE FUNCTION cdp.clock() RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'cdp_clock'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.clock() IS
	'the clock that the extension reads: cdp.now when a superuser has set it, else the wall clock';

CREATE FUNCTION cdp.entry_xid() RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_entry_xid'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.entry_xid() IS
	'default of cdp.events.xid: number of the current top-level transaction; also wakes the applier when it commits';

CREATE FUNCTION cdp.message_hash(source text, message_id text) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_message_hash'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.message_hash(text, text) IS
	'64-bit hash of a source and a message id, by which the log finds duplicates; NULL when the message id is NULL, a NULL source is the source ''''';

CREATE FUNCTION cdp.effective_at(occurred_at timestamptz, received_at timestamptz) RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'cdp_effective_at'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.effective_at(timestamptz, timestamptz) IS
	'when an entry counts: occurred_at, or received_at when occurred_at is NULL or more than five minutes ahead of it; an infinite occurred_at is returned as it is (such an entry is rejected)';

CREATE SEQUENCE cdp.events_id_seq;

-- A partitioned table that belongs to an extension must have neither index
-- nor constraint: pg_dump would write those of the partitions a second time.
-- Only what the applier itself relies on is NOT NULL; the rest is judged when
-- the entry is applied, so that one bad row does not stop a COPY.
CREATE TABLE cdp.events (
	id bigint NOT NULL DEFAULT nextval('cdp.events_id_seq'),
	message_id text,
	source text DEFAULT 'sql',
	type text DEFAULT 'track',
	event text,
	identifiers cdp.identifier[] DEFAULT '{}',
	properties jsonb,
	context jsonb,
	occurred_at timestamptz DEFAULT cdp.clock(),
	received_at timestamptz NOT NULL DEFAULT cdp.clock(),
	xid bigint NOT NULL DEFAULT cdp.entry_xid(),
	incarnation int NOT NULL
) PARTITION BY RANGE (received_at);
CREATE TABLE cdp.events_default PARTITION OF cdp.events DEFAULT;
CREATE INDEX events_default_xid ON cdp.events_default (xid, id);
CREATE INDEX events_default_message ON cdp.events_default (cdp.message_hash(source, message_id))
	WHERE message_id IS NOT NULL;

COMMENT ON TABLE cdp.events IS 'the log: everything that customers did and every decision about them, append-only; all other tables follow from it';
COMMENT ON COLUMN cdp.events.id IS 'number of the entry in order of appending (not of committing)';
COMMENT ON COLUMN cdp.events.message_id IS 'the client''s id of the message: of entries with the same source and message id one counts; NULL is as good as unique';
COMMENT ON COLUMN cdp.events.source IS 'where the entry comes from: an application, a file, sql, manual';
COMMENT ON COLUMN cdp.events.type IS 'track, identify, page, screen, group, leave, alias, merge, split, detach, undo or release';
COMMENT ON COLUMN cdp.events.event IS 'name of the event (track), page or screen';
COMMENT ON COLUMN cdp.events.identifiers IS 'whom the entry is about, as the client wrote it';
COMMENT ON COLUMN cdp.events.properties IS 'properties of the event, traits of an identify or group call';
COMMENT ON COLUMN cdp.events.context IS 'the circumstances; key $payload holds what else was in an ingested payload';
COMMENT ON COLUMN cdp.events.occurred_at IS 'when it happened, by the client';
COMMENT ON COLUMN cdp.events.received_at IS 'when it was appended';
COMMENT ON COLUMN cdp.events.xid IS 'top-level transaction that appended it; leave it to its default';
COMMENT ON COLUMN cdp.events.incarnation IS 'life of the log that the transaction number belongs to: a restored log has another one than new entries; leave it to its default';

-- Personal values stay out of pg_statistic, where ANALYZE puts those of the
-- partitioned table, too; nothing plans by them.
ALTER TABLE cdp.events
	ALTER COLUMN identifiers SET STATISTICS 0,
	ALTER COLUMN properties SET STATISTICS 0,
	ALTER COLUMN context SET STATISTICS 0;

-- Transaction numbers mean nothing after dump and restore.  The number of the
-- incarnation is drawn when the extension is created and is not dumped.
CREATE TABLE cdp.incarnation (
	id int NOT NULL
);
COMMENT ON TABLE cdp.incarnation IS 'the incarnation of the log that is written now; one row, not dumped';

DO $$
DECLARE
	incarnation int := ('x' || left(md5(gen_random_uuid()::text), 8))::bit(32)::int & 2147483647 | 1;
BEGIN
	INSERT INTO cdp.incarnation VALUES (incarnation);
	EXECUTE format('ALTER TABLE cdp.events ALTER COLUMN incarnation SET DEFAULT %s', incarnation);
END
$$;

SELECT pg_extension_config_dump('cdp.events', '');
SELECT pg_extension_config_dump('cdp.events_default', '');
SELECT pg_extension_config_dump('cdp.events_id_seq', '');
