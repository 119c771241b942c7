/* sql/apply/functions.sql: applying by hand */

CREATE FUNCTION cdp.apply(max_entries bigint DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_apply' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.apply(bigint) IS
'apply pending entries of the log, at most so many (NULL: all), and what is due by time; returns the number of entries read, 0 when there was nothing to do; waits for another applier; error at isolation levels above READ COMMITTED';

REVOKE ALL ON FUNCTION cdp.apply(bigint) FROM PUBLIC;
