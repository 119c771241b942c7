/* sql/activate/tables.sql: the changes and who has read them */

CREATE TABLE cdp.changes (
	epoch int NOT NULL,
	seq bigint NOT NULL,
	kind text NOT NULL,
	entity text NOT NULL DEFAULT 'profile',
	profile_id bigint,
	segment text,
	payload jsonb,
	cause text NOT NULL,
	occurred_at timestamptz NOT NULL,
	at timestamptz NOT NULL
) PARTITION BY RANGE (at);
CREATE TABLE cdp.changes_default PARTITION OF cdp.changes DEFAULT;
CREATE INDEX changes_default_seq ON cdp.changes_default (epoch, seq);
COMMENT ON TABLE cdp.changes IS 'what changed, in commit order: seq has no gaps within an epoch';

CREATE TABLE cdp.subscriptions (
	name text PRIMARY KEY,
	filter jsonb NOT NULL DEFAULT '{}',
	include jsonb NOT NULL DEFAULT '{}',
	mode text NOT NULL DEFAULT 'trigger' CHECK (mode IN ('trigger', 'mirror')),
	epoch int NOT NULL,
	acked_seq bigint NOT NULL,
	snapshot_seq bigint,
	created_at timestamptz NOT NULL DEFAULT cdp.clock(),
	last_poll_at timestamptz
);
COMMENT ON TABLE cdp.subscriptions IS 'who reads cdp.changes, through which filter, and how far it has acknowledged';

SELECT pg_extension_config_dump('cdp.changes', '');
SELECT pg_extension_config_dump('cdp.changes_default', '');
SELECT pg_extension_config_dump('cdp.subscriptions', '');
