/* sql/apply/merges.sql: profile ids that stand for another profile now */

CREATE TABLE cdp.merged_profiles (
	profile_id bigint PRIMARY KEY,
	created_at timestamptz NOT NULL,
	merged_at timestamptz NOT NULL,
	source text,
	message_id text
);
SELECT pg_extension_config_dump('cdp.merged_profiles', '');
COMMENT ON TABLE cdp.merged_profiles IS 'every id that was a profile''s at the end of a batch and stands for another profile now: cdp.current_profile() tells which';
COMMENT ON COLUMN cdp.merged_profiles.created_at IS 'when the profile that had the id was first seen';
COMMENT ON COLUMN cdp.merged_profiles.merged_at IS 'the applied clock of the batch that merged it';
COMMENT ON COLUMN cdp.merged_profiles.source IS 'source of the entry whose evidence joined it with others, NULL after a change of rules';
COMMENT ON COLUMN cdp.merged_profiles.message_id IS 'message id of that entry';

CREATE FUNCTION cdp.merges(profile_id bigint)
	RETURNS TABLE (merged_id bigint, created_at timestamptz, merged_at timestamptz, source text, message_id text)
	LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
	SET search_path = pg_catalog, cdp, pg_temp
AS $$
BEGIN
	RETURN QUERY
		SELECT m.profile_id, m.created_at, m.merged_at, m.source, m.message_id
		FROM cdp.identities i
		JOIN cdp.identities j ON j.profile_id = i.profile_id
		JOIN cdp.merged_profiles m ON m.profile_id = j.node_id
		WHERE i.node_id = merges.profile_id
		ORDER BY m.profile_id;
END
$$;
COMMENT ON FUNCTION cdp.merges(bigint) IS
'every profile id that was ever merged into the profile (an id that has been merged away included), when, and by which entry';

REVOKE ALL ON cdp.merged_profiles FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.merges(bigint) FROM PUBLIC;
