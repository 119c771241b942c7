/* sql/segments/functions.sql: definitions of segments */

CREATE FUNCTION cdp.create_segment(name text, predicate cdp.predicate,
	entity text DEFAULT 'profile', description text DEFAULT NULL,
	exit_when text DEFAULT NULL, timezone text DEFAULT 'UTC',
	options jsonb DEFAULT '{}', if_exists text DEFAULT 'error') RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_create_segment' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.create_segment(text, cdp.predicate, text, text, text, text, jsonb, text) IS
	'define a segment: the profiles for which predicate is true; exit_when: members stay until it is true; if_exists: error, replace or skip';

CREATE FUNCTION cdp.alter_segment(name text, predicate cdp.predicate DEFAULT NULL,
	description text DEFAULT NULL, exit_when text DEFAULT NULL,
	timezone text DEFAULT NULL, options jsonb DEFAULT NULL,
	enabled boolean DEFAULT NULL, owner text DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_alter_segment' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.alter_segment(text, cdp.predicate, text, text, text, jsonb, boolean, text) IS
	'change a segment: NULL leaves as it is, an empty description or exit_when removes it; a disabled segment keeps the members that it has';

CREATE FUNCTION cdp.rename_segment(name text, new_name text) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_rename_segment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.rename_segment(text, text) IS 'rename a segment, its channel, and what other segments call it';

CREATE FUNCTION cdp.drop_segment(name text, cascade boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_drop_segment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.drop_segment(text, boolean) IS 'remove a segment with its memberships; cascade: also the segments that refer to it';

CREATE FUNCTION cdp.preview_segment(predicate cdp.predicate, timezone text DEFAULT 'UTC',
	OUT members bigint, OUT non_members bigint, OUT unknown bigint, OUT errors bigint) RETURNS record
	AS 'MODULE_PATHNAME', 'cdp_preview_segment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.preview_segment(cdp.predicate, text) IS
	'how many profiles a segment with that predicate would have now; unknown: the predicate is NULL, errors: it raises an error; neither are members';

CREATE FUNCTION cdp.explain_segment(name text, identifier cdp.identifier,
	OUT term text, OUT value text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_explain_segment' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.explain_segment(text, cdp.identifier) IS
	'why a profile is, or is not, in a segment: each trait and behaviour that it reads with its value now, and what follows';

CREATE FUNCTION cdp.matches(profile_id bigint, predicate cdp.predicate,
	timezone text DEFAULT 'UTC') RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_matches_by_id' LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION cdp.matches(bigint, cdp.predicate, text) IS
	'is the predicate true of the profile now? NULL: it is unknown, or there is no such profile; errors: those of create_segment, and those that the predicate raises';
CREATE FUNCTION cdp.matches(identifier cdp.identifier, predicate cdp.predicate,
	timezone text DEFAULT 'UTC') RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_matches' LANGUAGE C STABLE STRICT PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION cdp.matches(cdp.identifier, cdp.predicate, text) IS
	'is the predicate true of the identifier''s profile now? NULL: it is unknown, or there is no such profile';

REVOKE ALL ON FUNCTION
	cdp.matches(bigint, cdp.predicate, text),
	cdp.matches(cdp.identifier, cdp.predicate, text),
	cdp.create_segment(text, cdp.predicate, text, text, text, text, jsonb, text),
	cdp.alter_segment(text, cdp.predicate, text, text, text, jsonb, boolean, text),
	cdp.rename_segment(text, text),
	cdp.drop_segment(text, boolean),
	cdp.preview_segment(cdp.predicate, text),
	cdp.explain_segment(text, cdp.identifier)
FROM PUBLIC;
