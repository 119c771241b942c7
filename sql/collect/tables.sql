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

CREATE FUNCTION cdp.is_packed(id bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_is_packed'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.is_packed(bigint) IS
	'internal: by what cdp.events is partitioned: false, as what is appended goes to cdp.events_rows. The planner cannot tell, and so looks for entries in cdp.events_packed, too';

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
) PARTITION BY LIST (cdp.is_packed(id));
CREATE TABLE cdp.events_rows PARTITION OF cdp.events FOR VALUES IN (false) PARTITION BY RANGE (received_at);
CREATE TABLE cdp.events_default PARTITION OF cdp.events_rows DEFAULT;
CREATE INDEX events_default_xid ON cdp.events_default (xid, id);
CREATE INDEX events_default_message ON cdp.events_default (cdp.message_hash(source, message_id))
	WHERE message_id IS NOT NULL;

COMMENT ON TABLE cdp.events IS 'the log: everything that customers did and every decision about them, append-only; all other tables follow from it';
COMMENT ON TABLE cdp.events_rows IS 'the entries that have a row each, by month: attach partitions to this';
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

-- Entries that rows of attached tables gave, many in a row, as rows of the log.
-- Only C writes them; the columns that all have come first, for nothing is then
-- lost to alignment. Nothing is compressed: see cdp.erasure_proof().
CREATE TABLE cdp.bundles (
	xid bigint NOT NULL DEFAULT cdp.entry_xid(),
	last bigint NOT NULL,
	first bigint NOT NULL,
	received_at timestamptz NOT NULL DEFAULT cdp.clock(),
	attachment bigint NOT NULL,
	incarnation int NOT NULL,
	packed bytea NOT NULL
);
ALTER TABLE cdp.bundles ALTER COLUMN packed SET STORAGE EXTERNAL, ALTER COLUMN packed SET STATISTICS 0;
COMMENT ON TABLE cdp.bundles IS 'entries of tables that are attached with copy => false, many in a row: cdp.events has them as rows';
COMMENT ON COLUMN cdp.bundles.xid IS 'top-level transaction that appended them';
COMMENT ON COLUMN cdp.bundles.last IS 'the greatest of their ids';
COMMENT ON COLUMN cdp.bundles.first IS 'the least of their ids';
COMMENT ON COLUMN cdp.bundles.received_at IS 'when they were appended';
COMMENT ON COLUMN cdp.bundles.attachment IS 'version of the attachment whose rows they are of';
COMMENT ON COLUMN cdp.bundles.incarnation IS 'life of the log that the transaction number belongs to';
COMMENT ON COLUMN cdp.bundles.packed IS 'what each of them says: see src/collect/bundle.c';

CREATE FUNCTION cdp.bundle_buckets(attachment bigint, packed bytea) RETURNS int[]
	AS 'MODULE_PATHNAME', 'cdp_bundle_buckets'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.bundle_buckets(bigint, bytea) IS 'internal: 24 bits of the hash of each key in a bundle, by which it is found';
CREATE INDEX bundles_xid ON cdp.bundles (xid, last);
CREATE INDEX bundles_key ON cdp.bundles USING gin (cdp.bundle_buckets(attachment, packed)) WITH (fastupdate = off);
ALTER INDEX cdp.bundles_key ALTER COLUMN 1 SET STATISTICS 0;

CREATE FUNCTION cdp.bundle_handler() RETURNS fdw_handler
	AS 'MODULE_PATHNAME', 'cdp_bundle_handler'
	LANGUAGE C;
COMMENT ON FUNCTION cdp.bundle_handler() IS 'internal: reads cdp.bundles as rows of the log';
REVOKE ALL ON FUNCTION cdp.bundle_buckets(bigint, bytea), cdp.bundle_handler() FROM PUBLIC;
CREATE FOREIGN DATA WRAPPER cdp_bundles HANDLER cdp.bundle_handler;
CREATE SERVER cdp_bundles FOREIGN DATA WRAPPER cdp_bundles;
CREATE FOREIGN TABLE cdp.events_packed PARTITION OF cdp.events FOR VALUES IN (true) SERVER cdp_bundles;
COMMENT ON FOREIGN TABLE cdp.events_packed IS 'the entries in cdp.bundles, unpacked';

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
	EXECUTE format('ALTER TABLE cdp.bundles ALTER COLUMN incarnation SET DEFAULT %s', incarnation);
END
$$;

SELECT pg_extension_config_dump('cdp.events', '');
SELECT pg_extension_config_dump('cdp.events_rows', '');
SELECT pg_extension_config_dump('cdp.bundles', '');
SELECT pg_extension_config_dump('cdp.events_default', '');
SELECT pg_extension_config_dump('cdp.events_id_seq', '');
