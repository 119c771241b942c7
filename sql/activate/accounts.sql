/* sql/activate/accounts.sql: reading accounts */

CREATE FUNCTION cdp.account(identifier cdp.identifier) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_account' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.account(cdp.identifier) IS
	'the account that the identifier names: account_id, identifier, traits, segments, members (how many profiles), parent, first_seen, last_seen; NULL when unknown';
CREATE FUNCTION cdp.account_trait_values(account_id bigint, at timestamptz DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_account_trait_values' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.account_trait_values(bigint, timestamptz) IS
	'values of the defined traits of an account, at an instant or (NULL) now; NULL when unknown';
CREATE FUNCTION cdp.account_traits_json(account_id bigint, at timestamptz DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_account_traits_json' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.account_traits_json(bigint, timestamptz) IS
	'traits of an account as cdp.account() shows them: declared keys as written, and computed ones';

CREATE VIEW cdp.accounts AS
	SELECT a.account_id, a.identifier, cdp.account_traits_json(a.account_id) AS traits,
		a.parent, a.first_seen, a.last_seen
	FROM cdp.account_identities a;
COMMENT ON VIEW cdp.accounts IS 'the known accounts and their traits';

REVOKE ALL ON FUNCTION cdp.account(cdp.identifier), cdp.account_trait_values(bigint, timestamptz),
	cdp.account_traits_json(bigint, timestamptz) FROM PUBLIC;
