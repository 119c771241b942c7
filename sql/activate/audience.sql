/* sql/activate/audience.sql: lists for advertising platforms */

-- What a platform compares: its normal form of an identifier, hashed where it
-- wants that. The canonical value comes in: an e-mail address is trimmed and
-- lower-cased by then, a phone number E.164.
CREATE FUNCTION cdp.audience_value(kind text, value text, normaliser text, hash text) RETURNS text
	LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF hash IN ('google', 'meta') AND kind LIKE '%idfa' THEN
		RETURN lower(value);		-- advertising ids are not hashed
	ELSIF hash = 'google' AND normaliser = 'email' THEN
		-- in Gmail's addresses dots before the at sign mean nothing
		IF value ~ '@(gmail|googlemail)\.com$' THEN
			value := replace(split_part(value, '@', 1), '.', '') || '@' || split_part(value, '@', 2);
		END IF;
	ELSIF hash = 'google' AND normaliser <> 'phone' THEN
		RETURN value;				-- nor are Google's user ids
	ELSIF hash = 'meta' AND normaliser = 'phone' THEN
		value := ltrim(value, '+');
	END IF;
	IF hash = 'none' THEN
		RETURN value;
	END IF;
	RETURN encode(sha256(convert_to(value, 'UTF8')), 'hex');
END
$$;
COMMENT ON FUNCTION cdp.audience_value(text, text, text, text) IS 'internal: an identifier as an advertising platform wants it';

CREATE FUNCTION cdp.audience(segment text, kinds text[] DEFAULT '{email,phone}', hash text DEFAULT 'sha256')
	RETURNS TABLE (profile_id bigint, kind text, value text)
	LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL UNSAFE ROWS 10000
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
#variable_conflict use_column
DECLARE
	wanted int;
	purposed text[] := cdp.purposed_segments();
BEGIN
	IF audience.hash IS NULL OR audience.hash NOT IN ('sha256', 'google', 'meta', 'none') THEN
		RAISE EXCEPTION 'invalid hash "%"', audience.hash
			USING ERRCODE = 'invalid_parameter_value', HINT = 'There are sha256, google, meta and none.';
	ELSIF coalesce(cardinality(audience.kinds), 0) = 0 THEN
		RAISE EXCEPTION 'an audience needs kinds of identifiers' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	SELECT d.id INTO wanted FROM cdp.segment_definitions d
	WHERE d.name = audience.segment AND d.entity = 'profile' AND NOT d.hidden;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'segment "%" of profiles does not exist', audience.segment
			USING ERRCODE = 'undefined_object', HINT = 'See cdp.segments.';
	END IF;
	PERFORM cdp.check_names('kind of identifier', audience.kinds,
		ARRAY(SELECT k.kind FROM cdp.identifier_kinds k WHERE k.entity = 'profile'), 'See cdp.identifier_kinds.');
	IF EXISTS (SELECT FROM unnest(audience.kinds) k WHERE cdp.hidden('kind', k)) THEN
		RAISE EXCEPTION 'kind "%" is sensitive', (SELECT k FROM unnest(audience.kinds) k WHERE cdp.hidden('kind', k) LIMIT 1)
			USING ERRCODE = 'insufficient_privilege', HINT = 'Who may execute cdp.see_sensitive() may read it, hashed or not.';
	END IF;
	RETURN QUERY
		SELECT DISTINCT m.profile_id, k.kind,
			cdp.audience_value(k.kind, cdp.value(i.identifier), k.normaliser, audience.hash)
		FROM cdp.segment_members m
		JOIN cdp.identities i ON i.profile_id = m.profile_id
		JOIN cdp.identifier_kinds k ON k.kind = cdp.kind(i.identifier)
		WHERE m.segment_id = wanted AND m.member AND k.kind = ANY (audience.kinds)
			AND cdp.visible(m.profile_id)
			-- consent can have run out since the applied clock
			AND NOT (audience.segment = ANY (purposed) AND cdp.lacks_consent(audience.segment, m.profile_id))
		ORDER BY 1, 2, 3;
END
$$;
COMMENT ON FUNCTION cdp.audience(text, text[], text) IS
	'the identifiers of these kinds of a segment''s members, as of the applied clock, without who does not consent to its purpose now, in the form in which advertising platforms compare them: hash sha256 (SHA-256 of the canonical value as hexadecimal digits), google and meta (the same of their normal forms; advertising ids, and Google''s user ids, as they are), none. Errors: undefined_object (segment, kind), invalid_parameter_value';
REVOKE ALL ON FUNCTION cdp.audience_value(text, text, text, text), cdp.audience(text, text[], text) FROM PUBLIC;
