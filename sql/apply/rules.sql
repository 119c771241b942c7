/* sql/apply/rules.sql: changes of the rules of identity on live data */

CREATE FUNCTION cdp.kinds_before(change bigint) RETURNS SETOF cdp.identifier_kinds
LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
BEGIN
	RETURN QUERY
		SELECT r.*
		FROM cdp.rule_changes c
		CROSS JOIN LATERAL jsonb_populate_recordset(NULL::cdp.identifier_kinds, c.before) AS r
		WHERE c.id = kinds_before.change;
END
$$;
COMMENT ON FUNCTION cdp.kinds_before(bigint) IS 'internal: the kinds of identifiers before a change of the rules';

CREATE FUNCTION cdp.rules_at_commit() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cdp_rules_at_commit' LANGUAGE C;
COMMENT ON FUNCTION cdp.rules_at_commit() IS 'internal: where the log is small, replay it when a change of the rules commits';

CREATE CONSTRAINT TRIGGER rules_at_commit AFTER INSERT ON cdp.rule_changes
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION cdp.rules_at_commit();

CREATE FUNCTION cdp.apply_identity_changes() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_apply_identity_changes' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.apply_identity_changes() IS
'replay the whole log under the rules of identity as they are, in this transaction: instead of the batches in which the applier works off a change, or after an upgrade of a library that normalises; keeps the applier waiting; error at isolation levels above READ COMMITTED';

CREATE FUNCTION cdp.rejudge() RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_rejudge' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.rejudge() IS
'judge everybody again under the settings cdp.max_profile_identifiers, cdp.max_new_identifiers_per_hour and cdp.bridge_guard of who applies, after a change of these: a change of the rules like that of a kind, with preview, in batches, shown by cdp.progress';

CREATE FUNCTION cdp.preview_identity()
	RETURNS TABLE (change text, profile_id bigint, into_profile_id bigint, identifier cdp.identifier)
	AS 'MODULE_PATHNAME', 'cdp_preview_identity' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.preview_identity() IS
'what a change of the rules of identity would do, in the transaction that makes it or while it is under way; takes no lock and writes nothing. change: merge (profile_id would be absorbed by into_profile_id), split (a part of profile_id would become, or join, into_profile_id; NULL: a new number), move (the identifier would belong to into_profile_id instead of profile_id), gone (the identifier would not be known any more), new (it is not known now; into_profile_id is NULL unless it would join a profile). No rows: nothing would change, or no change is under way. Reads the whole log; needs memory for all identifiers and their links';

REVOKE ALL ON FUNCTION cdp.preview_identity(), cdp.kinds_before(bigint), cdp.rules_at_commit(), cdp.apply_identity_changes(), cdp.rejudge() FROM PUBLIC;
