/* sql/collect/functions.sql: writing to the log */

CREATE FUNCTION cdp.content_hash(e cdp.events) RETURNS text
	LANGUAGE sql STABLE PARALLEL SAFE
	RETURN pg_catalog.md5(ROW((e).type, (e).event, (e).identifiers, (e).properties, (e).context)::pg_catalog.text);
COMMENT ON FUNCTION cdp.content_hash(cdp.events) IS
	'hash of what an entry says, times and numbers aside: of duplicates at the same time the one with the smallest counts';
