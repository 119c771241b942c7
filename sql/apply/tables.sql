/* sql/apply/tables.sql: the cursor, what has been applied, timers */

-- How far an incarnation of the log has been applied.
CREATE TYPE cdp.log_cursor AS (
	incarnation int,
	done pg_snapshot,
	target pg_snapshot,
	position_xid bigint,
	position_id bigint
);

-- One row, made at first need: it is dumped, so the script must not insert it.
-- The cursors are in it because each batch writes both.
CREATE TABLE cdp.applier (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	generation bigint NOT NULL DEFAULT 0,
	next_node bigint NOT NULL DEFAULT 1,
	next_seq bigint NOT NULL DEFAULT 1,
	epoch int NOT NULL DEFAULT 0,
	clock timestamptz NOT NULL DEFAULT '-infinity',
	entries bigint NOT NULL DEFAULT 0,
	duplicates bigint NOT NULL DEFAULT 0,
	rejected bigint NOT NULL DEFAULT 0,
	batches bigint NOT NULL DEFAULT 0,
	token bigint NOT NULL DEFAULT 1,
	history_from timestamptz NOT NULL DEFAULT '-infinity',
	last_batch_at timestamptz,
	errors bigint NOT NULL DEFAULT 0,
	last_error text,
	last_error_at timestamptz,
	paused_at timestamptz,
	cursors cdp.log_cursor[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 10);
COMMENT ON COLUMN cdp.applier.paused_at IS 'since when nothing is applied, see cdp.pause()';
COMMENT ON TABLE cdp.applier IS 'state of the applier: counters that never go back, the applied clock, the generation of definitions';

CREATE VIEW cdp.cursors AS SELECT c.* FROM cdp.applier a CROSS JOIN LATERAL unnest(a.cursors) c;
COMMENT ON VIEW cdp.cursors IS 'per incarnation of the log: the snapshot that is applied, the one that is being applied, and the position in it';

-- Changes numbered by the same counter belong to one epoch.
CREATE TABLE cdp.epochs (
	epoch int PRIMARY KEY,
	incarnation int NOT NULL,
	system_identifier bigint NOT NULL,
	timeline int NOT NULL,
	started_at timestamptz NOT NULL
);
COMMENT ON TABLE cdp.epochs IS 'a new epoch begins after restore, point-in-time recovery or failover';

-- The entries that count, by owner: the latest are packed in the owner's row of
-- cdp.identities, the others in pieces.
CREATE TABLE cdp.entry_pieces (
	owner bigint NOT NULL,
	since timestamptz NOT NULL,
	until timestamptz NOT NULL,
	refs bytea NOT NULL
);
CREATE INDEX entry_pieces_owner ON cdp.entry_pieces (owner, until);
COMMENT ON TABLE cdp.entry_pieces IS 'applied log entries that count, many in a row, by the node that owns them; those in refs are from since until until; see the view cdp.entries';

CREATE FUNCTION cdp.unpack_entries(refs bytea, OUT at timestamptz, OUT entry bigint,
	OUT xid bigint, OUT received_at timestamptz) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_unpack_entries' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION cdp.unpack_entries(bytea) IS 'internal: packed references to entries as rows';

CREATE FUNCTION cdp.unpack_entries(refs bytea, names int[], OUT at timestamptz, OUT entry bigint,
	OUT xid bigint, OUT received_at timestamptz) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_unpack_entries' LANGUAGE C IMMUTABLE PARALLEL SAFE ROWS 10;
COMMENT ON FUNCTION cdp.unpack_entries(bytea, int[]) IS 'internal: those of them that may name certain nodes beside their owner; all, where names is null';

CREATE VIEW cdp.entries AS
	SELECT i.node_id AS owner, r.at, r.entry, r.xid, r.received_at
	FROM cdp.identities i CROSS JOIN LATERAL cdp.unpack_entries(i.recent) r
	UNION ALL
	SELECT p.owner, r.at, r.entry, r.xid, r.received_at
	FROM cdp.entry_pieces p CROSS JOIN LATERAL cdp.unpack_entries(p.refs) r;
COMMENT ON VIEW cdp.entries IS 'applied log entries that count, by the node that owns them; (xid, entry, received_at) finds the row of cdp.events';

-- The planner cannot push a join into the view; this it can.
CREATE FUNCTION cdp.entries_of(node bigint) RETURNS SETOF cdp.entries
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20 BEGIN ATOMIC
	SELECT i.node_id AS owner, r.at, r.entry, r.xid, r.received_at
	FROM cdp.identities i CROSS JOIN LATERAL cdp.unpack_entries(i.recent) r
	WHERE i.node_id = node
	UNION ALL
	SELECT p.owner, r.at, r.entry, r.xid, r.received_at
	FROM cdp.entry_pieces p CROSS JOIN LATERAL cdp.unpack_entries(p.refs) r
	WHERE p.owner = node;
END;
COMMENT ON FUNCTION cdp.entries_of(bigint) IS 'internal: the rows of cdp.entries that a node owns';

REVOKE ALL ON FUNCTION cdp.unpack_entries(bytea), cdp.unpack_entries(bytea, int[]), cdp.entries_of(bigint) FROM PUBLIC;

-- Those that name identifiers and do not count otherwise, by the policies of
-- kinds; and the releases of such entries.
CREATE TABLE cdp.withheld_entries (
	owner bigint NOT NULL,
	at timestamptz NOT NULL,
	entry bigint NOT NULL,
	xid bigint NOT NULL,
	received_at timestamptz NOT NULL,
	source text NOT NULL,
	message_id text NOT NULL,
	kind text NOT NULL,
	held boolean NOT NULL
);
CREATE INDEX withheld_entries_owner ON cdp.withheld_entries (owner, at);
CREATE INDEX withheld_entries_message ON cdp.withheld_entries (source, message_id);
CREATE INDEX withheld_entries_id ON cdp.withheld_entries (message_id);
COMMENT ON TABLE cdp.withheld_entries IS 'applied log entries with a link that breaks the limit of a kind whose policy is not demote: evidence, but neither in traits nor in timelines';
COMMENT ON COLUMN cdp.withheld_entries.held IS 'counts when it is released';
CREATE TABLE cdp.releases (
	entry bigint PRIMARY KEY,
	source text NOT NULL,
	target text NOT NULL,
	owner bigint
);
CREATE INDEX releases_target ON cdp.releases (source, target);
COMMENT ON TABLE cdp.releases IS 'entries that release held ones, and who owned the one that each names when it was last looked at';

CREATE VIEW cdp.owned_entries AS
	SELECT owner, at, entry, xid, received_at, false AS withheld FROM cdp.entries
	UNION ALL
	SELECT owner, at, entry, xid, received_at, true FROM cdp.withheld_entries;
CREATE FUNCTION cdp.owned_entries_of(node bigint) RETURNS SETOF cdp.owned_entries
LANGUAGE sql STABLE PARALLEL SAFE ROWS 20 BEGIN ATOMIC
	SELECT i.node_id AS owner, r.at, r.entry, r.xid, r.received_at, false AS withheld
	FROM cdp.identities i CROSS JOIN LATERAL cdp.unpack_entries(i.recent) r
	WHERE i.node_id = node
	UNION ALL
	SELECT p.owner, r.at, r.entry, r.xid, r.received_at, false
	FROM cdp.entry_pieces p CROSS JOIN LATERAL cdp.unpack_entries(p.refs) r
	WHERE p.owner = node
	UNION ALL
	SELECT w.owner, w.at, w.entry, w.xid, w.received_at, true
	FROM cdp.withheld_entries w WHERE w.owner = node;
END;
COMMENT ON FUNCTION cdp.owned_entries_of(bigint) IS 'internal: the rows of cdp.owned_entries of a node';
REVOKE ALL ON FUNCTION cdp.owned_entries_of(bigint) FROM PUBLIC;
COMMENT ON VIEW cdp.owned_entries IS 'all entries that name identifiers, by owner, whether they count or are withheld';

CREATE TABLE cdp.rejected (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	entry bigint,
	source text,
	message_id text,
	reason text NOT NULL,
	detail text,
	sqlstate text,
	payload jsonb,
	at timestamptz NOT NULL DEFAULT cdp.clock(),
	held boolean NOT NULL DEFAULT false
);
CREATE INDEX rejected_entry ON cdp.rejected (entry);
CREATE INDEX rejected_held ON cdp.rejected (message_id) WHERE held;
COMMENT ON COLUMN cdp.rejected.held IS 'cdp.release() makes it count';
COMMENT ON TABLE cdp.rejected IS 'what could not be taken or applied, with the reason; nothing is dropped in silence';

-- Entries whose processing has raised an error, or ended the process. An input, as the log is: what
-- stands here is judged as rejected, and its row of cdp.rejected follows.
CREATE TABLE cdp.isolated (
	entry bigint PRIMARY KEY,
	xid bigint NOT NULL,
	sqlstate text NOT NULL,
	detail text NOT NULL,
	at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE cdp.isolated IS 'entries that are put aside because processing them raised an error (or crashed the applier: sqlstate 57P02), so that the others go on; see cdp.retry_rejected()';

-- Who has many entries, of which retention or an erasure has taken some.
CREATE TABLE cdp.refolds (owner bigint PRIMARY KEY);
COMMENT ON TABLE cdp.refolds IS 'internal: identifiers (node_id) with many entries whose traits still have what expired or erased entries added to them, until the pass through the log is over';

-- Changes of the rules of identity that history has not gone through yet.
CREATE TABLE cdp.identity_rules (
	one boolean PRIMARY KEY DEFAULT true CHECK (one),
	generation bigint NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE cdp.identity_rules IS 'one row: a number that is another one whenever the kinds of identifiers are others';

CREATE TABLE cdp.rule_changes (
	id bigint PRIMARY KEY,
	xid bigint NOT NULL,
	requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	requested_by text NOT NULL DEFAULT session_user,
	before jsonb NOT NULL,
	started_at timestamptz,
	judging boolean NOT NULL DEFAULT false,
	position text,
	done bigint NOT NULL DEFAULT 0,
	total bigint NOT NULL DEFAULT 0,
	everyone boolean NOT NULL DEFAULT false,
	plans jsonb
);
COMMENT ON TABLE cdp.rule_changes IS 'changes of the rules of identity that have not gone through all of history; see cdp.progress';
COMMENT ON COLUMN cdp.rule_changes.before IS 'the kinds before the change, rows of cdp.identifier_kinds';
COMMENT ON COLUMN cdp.rule_changes.plans IS 'the tracking plans before the change, rows of cdp.plan_definitions';
COMMENT ON COLUMN cdp.rule_changes.judging IS 'all entries have been read by the new rules, and who may be one person is being judged again';
COMMENT ON COLUMN cdp.rule_changes.position IS 'the identifier whose cluster was judged last';
COMMENT ON COLUMN cdp.rule_changes.everyone IS 'identifiers of all kinds are judged again: cdp.rejudge()';

CREATE TABLE cdp.rule_cursors (
	change bigint,
	incarnation int,
	done pg_snapshot,
	target pg_snapshot,
	position_xid bigint NOT NULL DEFAULT 0,
	position_id bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (change, incarnation)
) WITH (fillfactor = 50);
COMMENT ON TABLE cdp.rule_cursors IS 'the entries that had been applied when a change of the rules started, and how many of them have been read again';

-- When a profile must be looked at again though no entry comes. Its rows are small
-- and move all the time, and the first of them is asked for all the time, behind
-- what is dead: so it is vacuumed early.
CREATE TABLE cdp.timers (
	profile_id bigint PRIMARY KEY,
	at timestamptz NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 500);
CREATE INDEX timers_at ON cdp.timers (at);
COMMENT ON TABLE cdp.timers IS 'the next instant at which a trait of the profile changes by itself';

SELECT pg_extension_config_dump('cdp.applier', '');
SELECT pg_extension_config_dump('cdp.epochs', '');
SELECT pg_extension_config_dump('cdp.entry_pieces', '');
SELECT pg_extension_config_dump('cdp.withheld_entries', '');
SELECT pg_extension_config_dump('cdp.releases', '');
SELECT pg_extension_config_dump('cdp.rejected', '');
SELECT pg_extension_config_dump('cdp.rejected_id_seq', '');
SELECT pg_extension_config_dump('cdp.isolated', '');
SELECT pg_extension_config_dump('cdp.refolds', '');
SELECT pg_extension_config_dump('cdp.timers', '');
SELECT pg_extension_config_dump('cdp.identity_rules', '');
SELECT pg_extension_config_dump('cdp.rule_changes', '');
SELECT pg_extension_config_dump('cdp.rule_cursors', '');
