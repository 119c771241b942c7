/* sql/apply/asof.sql: who was who, by valid time and by knowledge time; who is who, by all that is known */

CREATE FUNCTION cdp.resolve_at(identifier cdp.identifier, at timestamptz DEFAULT NULL, known_at timestamptz DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_resolve_at' LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION cdp.resolve_at(cdp.identifier, timestamptz, timestamptz) IS
'the profile that an identifier belonged to: what cdp.resolve() would return if the log held only the entries of effective time up to at, and received up to known_at (NULL: all), under the kinds and guards in force at known_at; NULL when it was not known. Errors: undefined_object (kind), object_not_in_prerequisite_state (before what cdp.history_retention keeps), program_limit_exceeded (more than 2,000,000 entries bear on the question)';

CREATE FUNCTION cdp.identifiers_at(profile_id bigint, at timestamptz DEFAULT NULL, known_at timestamptz DEFAULT NULL)
	RETURNS TABLE (identifier cdp.identifier, first_seen timestamptz, last_seen timestamptz)
	AS 'MODULE_PATHNAME', 'cdp_identifiers_at' LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION cdp.identifiers_at(bigint, timestamptz, timestamptz) IS
'the identifiers of the profile that a profile id stood for, as cdp.resolve_at() sees it, with the times when they had been seen first and last; no rows when the id was not known';

CREATE FUNCTION cdp.identifiers_at(identifier cdp.identifier, at timestamptz DEFAULT NULL, known_at timestamptz DEFAULT NULL)
	RETURNS TABLE (identifier cdp.identifier, first_seen timestamptz, last_seen timestamptz)
	AS 'MODULE_PATHNAME', 'cdp_identifiers_of_at' LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION cdp.identifiers_at(cdp.identifier, timestamptz, timestamptz) IS
'all identifiers of the person whom an identifier belonged to, as cdp.resolve_at() sees it, with the times when they had been seen first and last; no rows when it was not known';

CREATE FUNCTION cdp.profile_at(identifier cdp.identifier, at timestamptz DEFAULT NULL, known_at timestamptz DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_profile_at' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.profile_at(cdp.identifier, timestamptz, timestamptz) IS
'what cdp.profile() would show at that instant if the log held only the entries of effective time up to at, and received up to known_at (NULL: all), under the kinds and guards in force at known_at and the traits and segments of now; NULL when the identifier was not known. A segment with exit_when has those who fulfil its predicate. Errors: as cdp.resolve_at()';

CREATE FUNCTION cdp.account_at(account cdp.identifier, at timestamptz DEFAULT NULL, known_at timestamptz DEFAULT NULL) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_account_at' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.account_at(cdp.identifier, timestamptz, timestamptz) IS
'what cdp.account() would show of an account at that instant if the log held only the entries of effective time up to at, and received up to known_at (NULL: all), under the kinds and guards in force at known_at and the traits, segments and domains of now; without last_seen, account_id: null where it has none now; NULL when nothing was known of the account. A segment with exit_when has those who fulfil its predicate. Errors: as cdp.resolve_at()';

CREATE FUNCTION cdp.profile(identifier cdp.identifier, fresh boolean) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_profile_fresh' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.profile(cdp.identifier, boolean) IS
'fresh => true: the profile as if every entry that the query sees had been applied, those of its own transaction included; nothing is written, and profile_id is null for somebody who is new. false: as without the argument. Errors: program_limit_exceeded (more than cdp.max_fresh_entries entries wait)';
CREATE FUNCTION cdp.profile(profile_id bigint, fresh boolean) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_profile_fresh_by_id' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.profile(bigint, boolean) IS
'fresh => true: the profile of that id as if every entry that the query sees had been applied, those of its own transaction included. false: as without the argument. Errors: program_limit_exceeded (more than cdp.max_fresh_entries entries wait)';

-- What is dropped is no more than what only questions about times before the
-- horizon need; history_from says from when on all questions have answers.
CREATE FUNCTION cdp.prune_history() RETURNS timestamptz
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
DECLARE
	days int := current_setting('cdp.history_retention');
	horizon timestamptz := cdp.clock() - make_interval(days => days);
	complete timestamptz;
BEGIN
	IF days > 0 THEN
		WITH entries AS (
			DELETE FROM cdp.history_entries h WHERE h.until < horizon
			RETURNING h.until
		), identities AS (
			DELETE FROM cdp.former_identities f WHERE f.gone_at < horizon
			RETURNING f.gone_at
		), kinds AS (
			DELETE FROM cdp.kind_history h
			USING (
				SELECT kind, since, lead(since) OVER (PARTITION BY kind ORDER BY since) AS until
				FROM cdp.kind_history
			) v
			WHERE v.kind = h.kind AND v.since = h.since AND v.until < horizon
			RETURNING v.until
		), guards AS (
			DELETE FROM cdp.guard_history h
			USING (SELECT since, lead(since) OVER (ORDER BY since) AS until FROM cdp.guard_history) v
			WHERE v.since = h.since AND v.until < horizon
			RETURNING v.until
		)
		SELECT greatest((SELECT max(until) FROM entries), (SELECT max(gone_at) FROM identities),
			(SELECT max(until) FROM kinds), (SELECT max(until) FROM guards))
		INTO complete;
		UPDATE cdp.applier SET history_from = greatest(history_from, complete)
		WHERE history_from < complete;
	END IF;
	RETURN (SELECT a.history_from FROM cdp.applier a);
END
$$;
COMMENT ON FUNCTION cdp.prune_history() IS
'drop what only questions about identities of more than cdp.history_retention days ago need (the applier does so by itself); returns the instant from which on cdp.resolve_at() answers, -infinity: all';

REVOKE ALL ON FUNCTION
	cdp.resolve_at(cdp.identifier, timestamptz, timestamptz),
	cdp.identifiers_at(bigint, timestamptz, timestamptz),
	cdp.identifiers_at(cdp.identifier, timestamptz, timestamptz),
	cdp.profile_at(cdp.identifier, timestamptz, timestamptz), cdp.account_at(cdp.identifier, timestamptz, timestamptz),
	cdp.profile(cdp.identifier, boolean), cdp.profile(bigint, boolean),
	cdp.prune_history()
	FROM PUBLIC;
