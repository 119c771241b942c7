/* sql/activate/profile.sql: reading profiles */

CREATE FUNCTION cdp.profile(identifier cdp.identifier) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_profile' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.profile(cdp.identifier) IS
	'the profile that has the identifier: profile_id, identifiers, traits, segments, first_seen, last_seen; NULL when unknown';
CREATE FUNCTION cdp.profile(profile_id bigint) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_profile_by_id' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.profile(bigint) IS
	'the profile of that id, or the one that it has been merged into; NULL when unknown';

CREATE FUNCTION cdp.in_segment(identifier cdp.identifier, segment text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_in_segment' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.in_segment(cdp.identifier, text) IS
	'whether the profile that has the identifier is in the segment at this instant; false when it is unknown';
CREATE FUNCTION cdp.in_segment(profile_id bigint, segment text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_in_segment_by_id' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.in_segment(bigint, text) IS
	'whether the profile of that id is in the segment at this instant; false when it is unknown';

CREATE FUNCTION cdp.segment_members(segment text) RETURNS SETOF bigint
	AS 'MODULE_PATHNAME', 'cdp_segment_members' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.segment_members(text) IS 'ids of the profiles that are in the segment as of the applied clock';
CREATE FUNCTION cdp.segment_members(all_of text[] DEFAULT NULL, any_of text[] DEFAULT NULL, none_of text[] DEFAULT NULL) RETURNS SETOF bigint
	AS 'MODULE_PATHNAME', 'cdp_segments_members' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.segment_members(text[], text[], text[]) IS
	'ids, ascending, of the profiles that are in all segments of all_of, in at least one of any_of, and in none of none_of, as of the applied clock; NULL: not asked; errors: those of segment_size';

CREATE FUNCTION cdp.timeline(identifier cdp.identifier, before timestamptz DEFAULT NULL,
	max int DEFAULT 100, before_id bigint DEFAULT NULL, OUT at timestamptz, OUT type text, OUT event text,
	OUT properties jsonb, OUT context jsonb, OUT identifiers cdp.identifier[],
	OUT source text, OUT message_id text, OUT received_at timestamptz, OUT id bigint) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_timeline' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.timeline(cdp.identifier, timestamptz, int, bigint) IS
	'the applied entries of the profile that has the identifier, newest first; before: only earlier ones, and with before_id (the id in the log) those of that very time with a smaller id: at and id of a page''s last row begin the next page; max: at most so many, NULL for all';
CREATE FUNCTION cdp.timeline(profile_id bigint, before timestamptz DEFAULT NULL,
	max int DEFAULT 100, before_id bigint DEFAULT NULL, OUT at timestamptz, OUT type text, OUT event text,
	OUT properties jsonb, OUT context jsonb, OUT identifiers cdp.identifier[],
	OUT source text, OUT message_id text, OUT received_at timestamptz, OUT id bigint) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_timeline_by_id' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.timeline(bigint, timestamptz, int, bigint) IS
	'the applied entries of the profile of that id, newest first; before: only earlier ones, and with before_id (the id in the log) those of that very time with a smaller id: at and id of a page''s last row begin the next page; max: at most so many, NULL for all';

REVOKE ALL ON FUNCTION
	cdp.profile(cdp.identifier), cdp.profile(bigint),
	cdp.in_segment(cdp.identifier, text), cdp.in_segment(bigint, text),
	cdp.segment_members(text), cdp.segment_members(text[], text[], text[]),
	cdp.timeline(cdp.identifier, timestamptz, int, bigint), cdp.timeline(bigint, timestamptz, int, bigint)
FROM PUBLIC;
