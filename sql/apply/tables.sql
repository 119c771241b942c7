/* sql/apply/tables.sql: the cursor, what has been applied, timers */

-- One row, made at first need: it is dumped, so the script must not insert it.
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
	last_error_at timestamptz
) WITH (fillfactor = 10);
COMMENT ON TABLE cdp.applier IS 'state of the applier: counters that never go back, the applied clock, the generation of definitions';

-- How far each incarnation of the log has been applied.
CREATE TABLE cdp.cursors (
	incarnation int PRIMARY KEY,
	done pg_snapshot,
	target pg_snapshot,
	position_xid bigint NOT NULL DEFAULT 0,
	position_id bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
COMMENT ON TABLE cdp.cursors IS 'per incarnation of the log: the snapshot that is applied, the one that is being applied, and the position in it';

-- Changes numbered by the same counter belong to one epoch.
CREATE TABLE cdp.epochs (
	epoch int PRIMARY KEY,
	incarnation int NOT NULL,
	system_identifier bigint NOT NULL,
	timeline int NOT NULL,
	started_at timestamptz NOT NULL
);
COMMENT ON TABLE cdp.epochs IS 'a new epoch begins after restore, point-in-time recovery or failover';

-- The entries that count, by owner.
CREATE TABLE cdp.entries (
	owner bigint NOT NULL,
	at timestamptz NOT NULL,
	entry bigint NOT NULL,
	xid bigint NOT NULL,
	received_at timestamptz NOT NULL
);
CREATE INDEX entries_owner ON cdp.entries (owner, at);
COMMENT ON TABLE cdp.entries IS 'applied log entries that count, by the node that owns them; (xid, entry, received_at) finds the row of cdp.events';

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
COMMENT ON COLUMN cdp.rejected.held IS 'cdp.release() makes it count';
COMMENT ON TABLE cdp.rejected IS 'what could not be taken or applied, with the reason; nothing is dropped in silence';

-- When a profile must be looked at again though no entry comes.
CREATE TABLE cdp.timers (
	profile_id bigint PRIMARY KEY,
	at timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX timers_at ON cdp.timers (at);
COMMENT ON TABLE cdp.timers IS 'the next instant at which a trait of the profile changes by itself';

SELECT pg_extension_config_dump('cdp.applier', '');
SELECT pg_extension_config_dump('cdp.cursors', '');
SELECT pg_extension_config_dump('cdp.epochs', '');
SELECT pg_extension_config_dump('cdp.entries', '');
SELECT pg_extension_config_dump('cdp.withheld_entries', '');
SELECT pg_extension_config_dump('cdp.releases', '');
SELECT pg_extension_config_dump('cdp.rejected', '');
SELECT pg_extension_config_dump('cdp.rejected_id_seq', '');
SELECT pg_extension_config_dump('cdp.timers', '');
