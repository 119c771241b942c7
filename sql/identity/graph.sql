/* sql/identity/graph.sql: who is who, and decisions by hand */

CREATE FUNCTION cdp.resolve(identifier cdp.identifier) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_resolve' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.resolve(cdp.identifier) IS
'the profile that an identifier belongs to now; NULL when it is unknown, blocked or cannot be normalised; error when its kind is not registered';

CREATE FUNCTION cdp.current_profile(profile_id bigint) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_current_profile' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.current_profile(bigint) IS
'the profile that a profile id handed out earlier stands for now: follows merges, and an identifier that went and came back; NULL when there never was such a profile, or nothing of it is left';

CREATE FUNCTION cdp.same_person(a cdp.identifier, b cdp.identifier) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_same_person' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.same_person(cdp.identifier, cdp.identifier) IS
'whether two identifiers belong to the same profile now; NULL when one of them is unknown';

CREATE OPERATOR cdp.~= (
	LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier,
	FUNCTION = cdp.same_person, COMMUTATOR = OPERATOR(cdp.~=)
);
COMMENT ON OPERATOR cdp.~= (cdp.identifier, cdp.identifier) IS 'same person now';

CREATE FUNCTION cdp.merge(a cdp.identifier, b cdp.identifier, reason text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_merge' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.merge(cdp.identifier, cdp.identifier, text) IS
'log that two identifiers belong to one person; returns the message id of the entry, which cdp.undo() takes; error for kinds that are not registered and for blocked values';

CREATE FUNCTION cdp.merge_operator(a cdp.identifier, b cdp.identifier) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_merge_operator' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.merge_operator(cdp.identifier, cdp.identifier) IS 'implementation of the operator <+>';

CREATE OPERATOR cdp.<+> (
	LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier, FUNCTION = cdp.merge_operator
);
COMMENT ON OPERATOR cdp.<+> (cdp.identifier, cdp.identifier) IS 'log that both belong to one person: cdp.merge()';

CREATE FUNCTION cdp.split(a cdp.identifier, b cdp.identifier, reason text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_split' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.split(cdp.identifier, cdp.identifier, text) IS
'log that two identifiers do not belong to one person: evidence that would bring them together is overruled, whenever it comes; returns the message id of the entry, which cdp.undo() takes';

CREATE FUNCTION cdp.split_operator(a cdp.identifier, b cdp.identifier) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_split_operator' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.split_operator(cdp.identifier, cdp.identifier) IS 'implementation of the operator </>';

CREATE OPERATOR cdp.</> (
	LEFTARG = cdp.identifier, RIGHTARG = cdp.identifier, FUNCTION = cdp.split_operator
);
COMMENT ON OPERATOR cdp.</> (cdp.identifier, cdp.identifier) IS 'log that they are not the same person: cdp.split()';

CREATE FUNCTION cdp.detach(identifier cdp.identifier, reason text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_detach' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.detach(cdp.identifier, text) IS
'log that an identifier is to be taken out of its profile: evidence and merges earlier than this do not join it with any other identifier, later ones do; returns the message id of the entry, which cdp.undo() takes; error for kinds that are not registered and for blocked values';

CREATE FUNCTION cdp.detach_operator(a cdp.identifier) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_detach_operator' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.detach_operator(cdp.identifier) IS 'implementation of the prefix operator </>';

CREATE OPERATOR cdp.</> (
	RIGHTARG = cdp.identifier, FUNCTION = cdp.detach_operator
);
COMMENT ON OPERATOR cdp.</> (NONE, cdp.identifier) IS 'log that it is to be taken out of its profile: cdp.detach()';

CREATE FUNCTION cdp.undo(entry text, source text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_undo' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.undo(text, text) IS
'revoke any entry, given its message id: identities, traits and memberships are as if it had never been; source: whose entry it is, NULL: one made by hand, else one of the source sql; returns the message id of the undo, which can be undone itself (name the source); error when there is no such entry';

CREATE FUNCTION cdp.retract(message_id text, source text DEFAULT 'sql', reason text DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_retract' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.retract(text, text, text) IS
'take back the event with this message id of this source, by an entry as cdp.undo() logs it; the event may still be on its way (NOTICE): it will not count when it comes, unless it is later than the retraction; returns the message id of the undo';

CREATE FUNCTION cdp.release(entry text, source text DEFAULT NULL, properties jsonb DEFAULT NULL) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_release' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.release(text, text, jsonb) IS
'let an entry count that the policy quarantine of a kind, or a tracking plan, holds (cdp.rejected, held), given its message id; source: whose entry it is, NULL: any source that has just one; properties, for a tracking plan: the right ones, which are logged as a copy of the message; NULL: as it is; returns what cdp.undo() takes: the message id of the release, for a tracking plan that of the entry; undefined_object when no such entry is held, ambiguous_parameter when several sources have one, check_violation when the plan would hold these properties, too. For a tracking plan it needs isolation level READ COMMITTED';

CREATE FUNCTION cdp.identifiers(profile_id bigint)
	RETURNS TABLE (identifier cdp.identifier, first_seen timestamptz, last_seen timestamptz)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
BEGIN
	RETURN QUERY
		SELECT cdp.shown(j.identifier), j.first_seen, j.last_seen
		FROM cdp.identities i
		JOIN cdp.identities j ON j.profile_id = i.profile_id
		WHERE i.node_id = identifiers.profile_id AND cdp.visible(i.profile_id)
		ORDER BY j.node_id;
END
$$;
COMMENT ON FUNCTION cdp.identifiers(bigint) IS 'the identifiers of a profile (an id that has been merged away included), with the times when they were first and last seen';

REVOKE ALL ON FUNCTION
	cdp.resolve(cdp.identifier), cdp.current_profile(bigint),
	cdp.same_person(cdp.identifier, cdp.identifier),
	cdp.merge(cdp.identifier, cdp.identifier, text),
	cdp.merge_operator(cdp.identifier, cdp.identifier),
	cdp.split(cdp.identifier, cdp.identifier, text),
	cdp.split_operator(cdp.identifier, cdp.identifier),
	cdp.detach(cdp.identifier, text), cdp.detach_operator(cdp.identifier), cdp.undo(text, text),
	cdp.retract(text, text, text), cdp.release(text, text, jsonb), cdp.identifiers(bigint)
	FROM PUBLIC;
