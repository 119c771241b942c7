/* sql/segments/functions.sql: definitions of segments */

CREATE FUNCTION cdp.create_segment(name text, predicate cdp.predicate,
	entity text DEFAULT 'profile', description text DEFAULT NULL,
	exit_when text DEFAULT NULL, timezone text DEFAULT 'UTC',
	options jsonb DEFAULT '{}', if_exists text DEFAULT 'error',
	exclude text[] DEFAULT '{}', holdout float8 DEFAULT 0, seed text DEFAULT NULL) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_create_segment' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.create_segment(text, cdp.predicate, text, text, text, text, jsonb, text, text[], float8, text) IS
	'define a segment: the profiles for which predicate is true; exit_when: members stay until it is true; exclude: not the members of these segments; holdout: fraction of profiles, chosen by id and seed, that are kept out; if_exists: error, replace or skip';

CREATE FUNCTION cdp.alter_segment(name text, predicate cdp.predicate DEFAULT NULL,
	description text DEFAULT NULL, exit_when text DEFAULT NULL,
	timezone text DEFAULT NULL, options jsonb DEFAULT NULL,
	enabled boolean DEFAULT NULL, owner text DEFAULT NULL,
	exclude text[] DEFAULT NULL, holdout float8 DEFAULT NULL, seed text DEFAULT NULL,
	OUT version int, OUT members bigint, OUT entered bigint, OUT exited bigint) RETURNS record
	AS 'MODULE_PATHNAME', 'cdp_alter_segment' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.alter_segment(text, cdp.predicate, text, text, text, jsonb, boolean, text, text[], float8, text) IS
	'change a segment: NULL leaves as it is, an empty description or exit_when removes it; a disabled segment keeps the members that it has; returns the version of the definition and, if who is in it was worked out anew, how many members it has now and how many entered and left';

CREATE FUNCTION cdp.reevaluate_segment(name text,
	OUT version int, OUT members bigint, OUT entered bigint, OUT exited bigint) RETURNS record
	AS 'MODULE_PATHNAME', 'cdp_reevaluate_segment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.reevaluate_segment(text) IS
	'work out anew who is in a segment, and in those that refer to it; needed only after it could not be evaluated for a time, see doc/segments.md; returns what alter_segment does';

CREATE FUNCTION cdp.rename_segment(name text, new_name text) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_rename_segment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.rename_segment(text, text) IS 'rename a segment, its channel, and what other segments call it';

CREATE FUNCTION cdp.drop_segment(name text, cascade boolean DEFAULT false) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_drop_segment' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.drop_segment(text, boolean) IS 'remove a segment with its memberships; cascade: also the segments that refer to it';

CREATE FUNCTION cdp.preview_segment(predicate cdp.predicate DEFAULT NULL, timezone text DEFAULT NULL,
	segment text DEFAULT NULL, exit_when text DEFAULT NULL,
	exclude text[] DEFAULT NULL, holdout float8 DEFAULT NULL, seed text DEFAULT NULL,
	entity text DEFAULT 'profile',
	OUT members bigint, OUT non_members bigint, OUT unknown bigint, OUT errors bigint,
	OUT enter bigint, OUT leave bigint) RETURNS record
	AS 'MODULE_PATHNAME', 'cdp_preview_segment' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.preview_segment(cdp.predicate, text, text, text, text[], float8, text, text) IS
	'how many profiles, or (entity account) accounts, a segment so defined would have now; unknown: the predicate is NULL, errors: it raises an error; neither are members; with a segment: what is not given is as in its definition (UTC for the time zone otherwise), its entity among it, and enter, leave: how many would if it were altered so';

CREATE FUNCTION cdp.explain_segment(name text, identifier cdp.identifier,
	OUT term text, OUT value text, OUT needed text, OUT changes_at timestamptz) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_explain_segment' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.explain_segment(text, cdp.identifier) IS
	'why a profile is, or is not, in a segment; or the account that the identifier names in one of accounts: each trait and behaviour that it reads with its value now, each condition and what it amounts to, and what follows; needed: what would have to change for the membership to change; changes_at: the first instant at which the value becomes another if nothing but time passes, NULL: none, or not within the next 1,000 instants at which anything does';

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

CREATE FUNCTION cdp.pending_evaluations(segment_id int) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_pending_evaluations' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION cdp.pending_evaluations(int) IS 'internal: evaluations that this session has not yet added to cdp.segment_evaluations';

CREATE FUNCTION cdp.segment_overlap(names text[],
	OUT a text, OUT b text, OUT members_a bigint, OUT members_b bigint, OUT members_both bigint) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_segment_overlap' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.segment_overlap(text[]) IS
	'for each two of the segments: how many profiles are in one, the other, and both, as of the applied clock; undefined_object when one does not exist';

CREATE FUNCTION cdp.segment_size(all_of text[] DEFAULT NULL, any_of text[] DEFAULT NULL, none_of text[] DEFAULT NULL) RETURNS bigint
	AS 'MODULE_PATHNAME', 'cdp_segment_size' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.segment_size(text[], text[], text[]) IS
	'how many profiles are in all segments of all_of, in at least one of any_of, and in none of none_of, as of the applied clock; NULL: not asked; undefined_object when one does not exist, invalid_parameter_value without all_of and any_of';

REVOKE ALL ON FUNCTION
	cdp.pending_evaluations(int),
	cdp.matches(bigint, cdp.predicate, text),
	cdp.matches(cdp.identifier, cdp.predicate, text),
	cdp.create_segment(text, cdp.predicate, text, text, text, text, jsonb, text, text[], float8, text),
	cdp.alter_segment(text, cdp.predicate, text, text, text, jsonb, boolean, text, text[], float8, text),
	cdp.rename_segment(text, text),
	cdp.drop_segment(text, boolean),
	cdp.reevaluate_segment(text),
	cdp.preview_segment(cdp.predicate, text, text, text, text[], float8, text, text),
	cdp.segment_overlap(text[]),
	cdp.segment_size(text[], text[], text[]),
	cdp.explain_segment(text, cdp.identifier)
FROM PUBLIC;
