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
	visibility interval CHECK (visibility > '0'),
	epoch int NOT NULL,
	acked_seq bigint NOT NULL,
	created_at timestamptz NOT NULL DEFAULT cdp.clock(),
	last_poll_at timestamptz
);
COMMENT ON TABLE cdp.subscriptions IS 'who reads cdp.changes, through which filter, and how far it has acknowledged';
COMMENT ON COLUMN cdp.subscriptions.visibility IS 'several consumers compete: how long a change is kept from the others after one has polled it; NULL: there is one consumer';

-- start => 'snapshot': the members at that moment, delivered before changes.
CREATE TABLE cdp.subscription_members (
	subscription text NOT NULL,
	seq bigint NOT NULL CHECK (seq < 0),
	segment text NOT NULL,
	profile_id bigint NOT NULL,
	entered_at timestamptz NOT NULL,
	entries int NOT NULL,
	PRIMARY KEY (subscription, seq)
);
COMMENT ON TABLE cdp.subscription_members IS 'members that a subscription started with and that are not acknowledged yet, numbered from below up to -1';

CREATE TABLE cdp.deliveries (
	subscription text NOT NULL,
	epoch int NOT NULL,
	seq bigint NOT NULL,
	visible_at timestamptz NOT NULL,
	acked boolean NOT NULL DEFAULT false,
	tries int NOT NULL DEFAULT 1,
	PRIMARY KEY (subscription, epoch, seq)
);
COMMENT ON TABLE cdp.deliveries IS 'changes above the acknowledged position that a consumer has polled, until when they are kept from others, or acknowledged one by one';

SELECT pg_extension_config_dump('cdp.changes', '');
SELECT pg_extension_config_dump('cdp.changes_default', '');
SELECT pg_extension_config_dump('cdp.subscriptions', '');
SELECT pg_extension_config_dump('cdp.subscription_members', '');
SELECT pg_extension_config_dump('cdp.deliveries', '');
