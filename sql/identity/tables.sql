/* sql/identity/tables.sql: the graph of identifiers */

CREATE TABLE cdp.identities (
	node_id bigint PRIMARY KEY,
	identifier cdp.identifier NOT NULL,
	profile_id bigint NOT NULL,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	state cdp.node_state,
	segments int[],
	timer timestamptz,
	recent bytea,
	single boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX identities_identifier ON cdp.identities (identifier);
CREATE INDEX identities_profile ON cdp.identities (profile_id);
COMMENT ON TABLE cdp.identities IS 'every known identifier in canonical form and the profile that it belongs to now';
COMMENT ON COLUMN cdp.identities.state IS 'what the entries that this node owns add up to, trait by trait';
COMMENT ON COLUMN cdp.identities.segments IS 'on the row with node_id = profile_id: the segments that the profile is in';
COMMENT ON COLUMN cdp.identities.recent IS 'the latest entries that this node owns, packed: see the view cdp.entries';
COMMENT ON COLUMN cdp.identities.single IS 'no other identifier belongs to the profile, so none is looked for; false: there may be one';
COMMENT ON COLUMN cdp.identities.timer IS 'on the row with node_id = profile_id: its instant in cdp.timers';

-- Evidence. Rules are monotone, so of all entries that give evidence for a
-- pair only the earliest is kept (and every manual merge).
CREATE TABLE cdp.links (
	a bigint NOT NULL,
	b bigint NOT NULL,
	entry bigint NOT NULL,
	at timestamptz NOT NULL,
	tie text NOT NULL,
	ord int NOT NULL,
	weight real NOT NULL DEFAULT 1,
	origin text NOT NULL CHECK (origin IN ('event', 'manual', 'probabilistic')),
	status text NOT NULL CHECK (status IN ('accepted', 'refused', 'overruled')),
	reason text,
	detail text,
	last_at timestamptz,
	last_tie text,
	CHECK (a < b)
);
CREATE UNIQUE INDEX links_a ON cdp.links (a, b, origin);
CREATE INDEX links_b ON cdp.links (b);
CREATE INDEX links_refused ON cdp.links (reason) WHERE reason IS NOT NULL;
COMMENT ON TABLE cdp.links IS 'evidence that two identifiers belong to one person: nodes a < b, the entry that says so, and what the rules made of it';

COMMENT ON COLUMN cdp.links.reason IS 'why it is not accepted: limit, size, rate, bridge, shared (refused), cannot-link, detached (overruled)';
COMMENT ON COLUMN cdp.links.detail IS 'reason limit: the kind whose limit it would break';
COMMENT ON COLUMN cdp.links.last_at IS 'with last_tie: the latest evidence, for identifiers that the newest has';

-- Merges, splits, detaches and undos by hand, as the log has them. a and b are
-- the nodes of a decision that is not undone; a detach has only one.
CREATE TABLE cdp.decisions (
	entry bigint PRIMARY KEY,
	source text NOT NULL,
	message_id text NOT NULL,
	type text NOT NULL CHECK (type IN ('merge', 'split', 'detach', 'undo')),
	a bigint,
	b bigint,
	target text,
	at timestamptz NOT NULL,
	tie text NOT NULL,
	effective boolean NOT NULL,
	xid bigint NOT NULL
);
CREATE INDEX decisions_pair ON cdp.decisions (a, b);
CREATE INDEX decisions_b ON cdp.decisions (b);
CREATE INDEX decisions_splits ON cdp.decisions (a) WHERE type = 'split' AND effective;
CREATE INDEX decisions_message ON cdp.decisions (source, message_id);
CREATE INDEX decisions_undos ON cdp.decisions (source, target) WHERE type = 'undo';
CREATE INDEX decisions_detaches ON cdp.decisions (a) WHERE type = 'detach' AND effective;
COMMENT ON TABLE cdp.decisions IS 'merges, splits, detaches and undos by hand; of the merges and splits about one pair only the latest that is not undone is effective';

SELECT pg_extension_config_dump('cdp.identities', '');
SELECT pg_extension_config_dump('cdp.links', '');
SELECT pg_extension_config_dump('cdp.decisions', '');
