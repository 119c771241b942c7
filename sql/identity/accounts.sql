/* sql/identity/accounts.sql: accounts, and who is a member of which */

-- Numbers come from the counter of nodes: none is a profile's and an account's.
CREATE TABLE cdp.account_identities (
	account_id bigint PRIMARY KEY,
	identifier cdp.identifier NOT NULL,
	first_seen timestamptz NOT NULL,
	last_seen timestamptz NOT NULL,
	parent cdp.identifier,
	state cdp.node_state,
	segments int[],
	timer timestamptz,
	shown bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX account_identities_identifier ON cdp.account_identities (identifier);
CREATE INDEX account_identities_parent ON cdp.account_identities (parent) WHERE parent IS NOT NULL;
COMMENT ON TABLE cdp.account_identities IS 'every account that an entry which counts has named';
COMMENT ON COLUMN cdp.account_identities.identifier IS 'in canonical form';
COMMENT ON COLUMN cdp.account_identities.parent IS 'the account above it in the hierarchy, by the declared trait parent; it need not be known';
COMMENT ON COLUMN cdp.account_identities.state IS 'what the states in cdp.account_nodes add up to';
COMMENT ON COLUMN cdp.account_identities.segments IS 'the segments of accounts that it is in';
COMMENT ON COLUMN cdp.account_identities.timer IS 'its instant in cdp.timers';
COMMENT ON COLUMN cdp.account_identities.shown IS 'hash of what segments of profiles make of its traits, as its members have been told; 0: whatever it is next is told';

-- Each counting entry that names an account.  Node 0: it names nobody else.
CREATE TABLE cdp.account_evidence (
	node_id bigint NOT NULL,
	account_id bigint NOT NULL,
	at timestamptz NOT NULL,
	tie text COLLATE "C" NOT NULL,
	leaves boolean NOT NULL,
	entry bigint NOT NULL,
	xid bigint NOT NULL,
	received_at timestamptz NOT NULL
);
CREATE INDEX account_evidence_node ON cdp.account_evidence (node_id, account_id, at, tie);
CREATE INDEX account_evidence_entry ON cdp.account_evidence (entry) WHERE node_id = 0;
COMMENT ON TABLE cdp.account_evidence IS 'entries that count and name an account, by the node that owns them (0: nobody''s): it is a member from then on, or (leaves) is none any more';

-- Nodes with evidence about an account, or with entries that count for it.
CREATE TABLE cdp.account_nodes (
	account_id bigint NOT NULL,
	node_id bigint NOT NULL,
	state cdp.node_state,
	by_domain boolean NOT NULL DEFAULT false,
	PRIMARY KEY (account_id, node_id)
) WITH (fillfactor = 70);
CREATE INDEX account_nodes_node ON cdp.account_nodes (node_id);
COMMENT ON TABLE cdp.account_nodes IS 'which nodes have to do with which account, and what their entries add up to there';
COMMENT ON COLUMN cdp.account_nodes.by_domain IS 'the node is an address of e-mail, the account that of its domain';

-- What one member contributes to a trait of its account that is over members;
-- trait_id is the hidden trait of profiles that says so.
CREATE TABLE cdp.account_values (
	account_id bigint NOT NULL,
	trait_id int NOT NULL,
	profile_id bigint NOT NULL,
	value numeric NOT NULL
);
CREATE INDEX account_values_value ON cdp.account_values (account_id, trait_id, value);
CREATE INDEX account_values_profile ON cdp.account_values (profile_id);
COMMENT ON TABLE cdp.account_values IS 'what members contribute to the traits of their accounts that are over members';
CREATE TABLE cdp.account_totals (
	account_id bigint NOT NULL,
	trait_id int NOT NULL,
	n bigint NOT NULL,
	total numeric NOT NULL,
	PRIMARY KEY (account_id, trait_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE cdp.account_totals IS 'number and sum of cdp.account_values, by account and trait';

-- Members of accounts whose values have changed since: to be looked at.
CREATE TABLE cdp.account_news (
	profile_id bigint PRIMARY KEY
);
COMMENT ON TABLE cdp.account_news IS 'profiles to be evaluated because an account that they have to do with has other values now; worked off in batches';

SELECT pg_extension_config_dump('cdp.account_news', '');
SELECT pg_extension_config_dump('cdp.account_values', '');
SELECT pg_extension_config_dump('cdp.account_totals', '');
SELECT pg_extension_config_dump('cdp.account_identities', '');
SELECT pg_extension_config_dump('cdp.account_evidence', '');
SELECT pg_extension_config_dump('cdp.account_nodes', '');

-- What entries say: joined and left, in the order of events.
CREATE VIEW cdp.account_joins AS
	SELECT x.account_id, x.profile_id, x.at AS since, x.until
	FROM (SELECT c.account_id, c.profile_id, c.at, c.leaves,
				 lead(c.at) OVER (PARTITION BY c.account_id, c.profile_id ORDER BY c.at, c.tie) AS until
		  FROM (SELECT e.account_id, i.profile_id, e.at, e.tie, e.leaves,
					   lag(e.leaves, 1, true) OVER (PARTITION BY e.account_id, i.profile_id ORDER BY e.at, e.tie) AS before
				FROM cdp.account_evidence e
				JOIN cdp.identities i ON i.node_id = e.node_id) c
		  WHERE c.leaves <> c.before) x
	WHERE NOT x.leaves AND x.until IS DISTINCT FROM x.at;
COMMENT ON VIEW cdp.account_joins IS 'internal: memberships of accounts by what entries say';

-- What follows from addresses of e-mail: from the first of the domain on, until
-- an entry says anything of the account, but while no entry says of another.
CREATE VIEW cdp.account_domains AS
	SELECT d.account_id, d.profile_id, lower(r.span) AS since, upper(r.span) AS until
	FROM (SELECT n.account_id, i.profile_id, min(i.first_seen) AS since
		  FROM cdp.account_nodes n
		  JOIN cdp.identities i ON i.node_id = n.node_id
		  WHERE n.by_domain
		  GROUP BY n.account_id, i.profile_id) d
	LEFT JOIN LATERAL (
		SELECT min(e.at) AS at
		FROM cdp.identities i
		JOIN cdp.account_evidence e ON e.node_id = i.node_id AND e.account_id = d.account_id
		WHERE i.profile_id = d.profile_id) x ON true
	LEFT JOIN LATERAL (
		SELECT range_agg(tstzrange(j.since, j.until)) AS spans
		FROM cdp.account_joins j WHERE j.profile_id = d.profile_id) j ON true
	CROSS JOIN LATERAL unnest(
		tstzmultirange(tstzrange(d.since, CASE WHEN x.at IS NOT NULL THEN greatest(x.at, d.since) END))
		- COALESCE(j.spans, '{}')) r(span);
COMMENT ON VIEW cdp.account_domains IS 'internal: memberships of accounts by the domains of addresses of e-mail';

CREATE VIEW cdp.account_members WITH (security_barrier) AS
	SELECT m.account_id, a.identifier AS account, m.profile_id, m.since, m.until
	FROM (SELECT j.account_id, j.profile_id, j.since, j.until FROM cdp.account_joins j
		  UNION ALL
		  SELECT d.account_id, d.profile_id, d.since, d.until FROM cdp.account_domains d) m
	JOIN cdp.account_identities a ON a.account_id = m.account_id
	WHERE cdp.visible(m.profile_id);
COMMENT ON VIEW cdp.account_members IS 'who is or was a member of which account, and from when until when (NULL: still)';

-- Since when is a profile, which is one at that instant, a member?  The first
-- evidence behind the last that says that it is none.
CREATE FUNCTION cdp.member_since(account_id bigint, profile_id bigint, at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
	WITH evidence AS (
		SELECT e.at, e.tie, e.leaves
		FROM cdp.identities i
		JOIN cdp.account_evidence e ON e.node_id = i.node_id AND e.account_id = $1 AND e.at <= $3
		WHERE i.profile_id = $2
	), gone AS (
		SELECT e.at, e.tie FROM evidence e WHERE e.leaves ORDER BY e.at DESC, e.tie DESC LIMIT 1
	)
	SELECT COALESCE(
		(SELECT min(e.at) FROM evidence e LEFT JOIN gone g ON true
		 WHERE NOT e.leaves AND (g.at IS NULL OR (e.at, e.tie) > (g.at, g.tie))),
		(SELECT max(d.since) FROM cdp.account_domains d
		 WHERE d.account_id = $1 AND d.profile_id = $2 AND d.since <= $3));
END;
COMMENT ON FUNCTION cdp.member_since(bigint, bigint, timestamptz) IS 'internal: begin of a membership that holds at an instant';

CREATE FUNCTION cdp.accounts_of(identifier cdp.identifier, at timestamptz DEFAULT NULL,
	OUT account_id bigint, OUT account cdp.identifier, OUT since timestamptz, OUT named_at timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_accounts_of' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.accounts_of(cdp.identifier, timestamptz) IS
	'the accounts that the profile which has the identifier is a member of, at an instant or (NULL) now: its primary account first, that is the one that its entries named last; since: begin of the membership; none when the identifier is unknown';
CREATE FUNCTION cdp.members_of(account cdp.identifier, at timestamptz DEFAULT NULL,
	OUT profile_id bigint, OUT since timestamptz, OUT named_at timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_members_of' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.members_of(cdp.identifier, timestamptz) IS
	'the profiles that are members of an account, at an instant or (NULL) now; since: begin of the membership, named_at: the last entry that named it; none when the account is unknown';

REVOKE ALL ON FUNCTION cdp.member_since(bigint, bigint, timestamptz),
	cdp.accounts_of(cdp.identifier, timestamptz), cdp.members_of(cdp.identifier, timestamptz) FROM PUBLIC;
