/* sql/trust/consent.sql: purposes, and who consents to them */

-- A purpose is a hidden trait; its definition is that one's.
CREATE VIEW cdp.purposes AS
	SELECT t.key AS name, t.description,
		CASE t.aggregate WHEN 'consent' THEN 'restrictive' ELSE 'latest' END AS combine,
		ARRAY(SELECT pg_catalog.jsonb_array_elements_text(t.options -> 'names')) AS aliases,
		(t.options ->> 'valid_for')::interval AS valid_for,
		CASE WHEN t.id IN (SELECT b.id FROM cdp.building_traits b) THEN 'building'
			WHEN EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'trait' AND b.replaces = t.id) THEN 'altering'
			ELSE 'active'
		END AS status,
		ARRAY(SELECT s.name FROM cdp.segment_definitions s
			WHERE s.options ->> 'purpose' = t.key ORDER BY s.name) AS segments
	FROM cdp.trait_definitions t
	WHERE t.hidden AND t.aggregate IN ('consent', 'consent_latest')
		AND NOT EXISTS (SELECT FROM cdp.backfills b WHERE b.kind = 'trait' AND b.id = t.id AND b.replaces IS NOT NULL);
COMMENT ON VIEW cdp.purposes IS 'what people can consent to; segments: those that have the purpose; status: active, building (nobody consents until what was said so far has been read), altering (it stays as it was until that is done)';

CREATE FUNCTION cdp.consent_preferences(type text, properties jsonb, context jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_consent_preferences' LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION cdp.consent_preferences(text, jsonb, jsonb) IS
	'internal: the preferences in an entry, whatever their shape, as an object of categories; NULL when it has none';
REVOKE ALL ON FUNCTION cdp.consent_preferences(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION cdp.define_purpose(name text, latest boolean, options jsonb, description text) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_define_purpose' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.define_purpose(text, boolean, jsonb, text) IS 'internal: make or alter the hidden trait that a purpose is';

CREATE FUNCTION cdp.put_purpose(name text, description text, combine text, aliases text[], valid_for interval) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
	SET intervalstyle = 'postgres'
AS $$
BEGIN
	IF name IS NULL OR name COLLATE "C" !~ '^[a-z_][a-z0-9_]{0,50}$' THEN
		RAISE EXCEPTION 'invalid name of a purpose: "%"', name
			USING ERRCODE = 'invalid_name',
				DETAIL = 'A name consists of at most 51 lower-case letters, digits and underscores and does not begin with a digit.',
				HINT = 'Names that clients use in categoryPreferences go into aliases.';
	ELSIF combine IS NULL OR combine NOT IN ('restrictive', 'latest') THEN
		RAISE EXCEPTION 'unrecognized value "%" of argument "combine"', combine
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is restrictive or latest.';
	ELSIF EXISTS (SELECT FROM unnest(aliases) a WHERE a IS NULL OR octet_length(a) NOT BETWEEN 1 AND 200)
		OR cardinality(aliases) > 100 THEN
		RAISE EXCEPTION 'invalid aliases of a purpose'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'There can be 100, of 1 to 200 bytes.';
	ELSIF valid_for <= '0' OR valid_for > '1000 years' THEN
		RAISE EXCEPTION 'valid_for must be a positive interval of at most 1000 years' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	PERFORM cdp.define_purpose(name, combine = 'latest', jsonb_strip_nulls(jsonb_build_object(
		'names', CASE WHEN cardinality(aliases) > 0 THEN to_jsonb(aliases) END, 'valid_for', valid_for::text)), description);
	IF EXISTS (SELECT FROM cdp.purposes p WHERE p.name = put_purpose.name AND p.status <> 'active') THEN
		RAISE NOTICE 'what was said about purpose "%" so far is read by the applier', name
			USING DETAIL = CASE WHEN EXISTS (SELECT FROM cdp.purposes p WHERE p.name = put_purpose.name AND p.status = 'altering')
					THEN 'Until that is done, the purpose stays as it was.'
					ELSE 'Until that is done, nobody consents to it.' END,
				HINT = 'See cdp.purposes.';
	END IF;
END
$$;
COMMENT ON FUNCTION cdp.put_purpose(text, text, text, text[], interval) IS 'internal: check a purpose and store it';

CREATE FUNCTION cdp.create_purpose(name text, description text DEFAULT NULL, combine text DEFAULT 'restrictive',
		aliases text[] DEFAULT '{}', valid_for interval DEFAULT NULL, if_exists text DEFAULT 'error') RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF if_exists IS NULL OR if_exists NOT IN ('error', 'replace', 'skip') THEN
		RAISE EXCEPTION 'unrecognized value "%" of argument "if_exists"', if_exists
			USING ERRCODE = 'invalid_parameter_value', HINT = 'It is error, replace or skip.';
	ELSIF if_exists <> 'replace' AND EXISTS (SELECT FROM cdp.purposes p WHERE p.name = create_purpose.name) THEN
		IF if_exists = 'skip' THEN
			RAISE NOTICE 'purpose "%" already exists, skipping', name USING ERRCODE = 'duplicate_object';
			RETURN;
		END IF;
		RAISE EXCEPTION 'purpose "%" already exists', name
			USING ERRCODE = 'duplicate_object', HINT = 'Use cdp.alter_purpose(), or if_exists => ''replace''.';
	END IF;
	PERFORM cdp.put_purpose(name, description, combine, coalesce(aliases, '{}'), valid_for);
END
$$;
COMMENT ON FUNCTION cdp.create_purpose(text, text, text, text[], interval, text) IS
	'declare something that people can consent to. combine: what a profile comes to when its identifiers differ: restrictive (who denies with one denies) or latest (the last word counts). aliases: names of categories in context.consent.categoryPreferences that mean it, beside its own, in any case. valid_for: how long a grant counts that does not say when it expires. if_exists: error, replace or skip. What entries have said so far counts. Errors: invalid_name, invalid_parameter_value, duplicate_object';

CREATE FUNCTION cdp.alter_purpose(name text, description text DEFAULT NULL, combine text DEFAULT NULL,
		aliases text[] DEFAULT NULL, valid_for interval DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	old record;
BEGIN
	SELECT * INTO old FROM cdp.purposes p WHERE p.name = alter_purpose.name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'purpose "%" does not exist', name USING ERRCODE = 'undefined_object', HINT = 'See cdp.purposes.';
	END IF;
	PERFORM cdp.put_purpose(name, CASE description WHEN '' THEN NULL ELSE coalesce(description, old.description) END,
		coalesce(combine, old.combine), coalesce(aliases, old.aliases),
		CASE WHEN valid_for = '0' THEN NULL ELSE coalesce(valid_for, old.valid_for) END);
END
$$;
COMMENT ON FUNCTION cdp.alter_purpose(text, text, text, text[], interval) IS
	'change a purpose; arguments that are NULL stay as they are, an empty description and a valid_for of zero remove. Segments follow. Errors: undefined_object, and those of cdp.create_purpose';

CREATE FUNCTION cdp.drop_purpose(name text) RETURNS void
	AS 'MODULE_PATHNAME', 'cdp_drop_purpose' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.drop_purpose(text) IS
	'forget a purpose; what was said about it stays in the log. Errors: undefined_object, dependent_objects_still_exist when a segment has it or asks for it';

CREATE FUNCTION cdp.consent(user_id cdp.key DEFAULT NULL, purpose text DEFAULT NULL, state text DEFAULT 'granted',
		expires timestamptz DEFAULT NULL, anonymous_id cdp.key DEFAULT NULL,
		identifiers cdp.identifier[] DEFAULT NULL, context jsonb DEFAULT NULL,
		occurred_at timestamptz DEFAULT NULL, message_id text DEFAULT NULL, source text DEFAULT NULL)
	RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_consent' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.consent(cdp.key, text, text, timestamptz, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text) IS
	'log what somebody says to a purpose: state granted, denied or unset, until expires (default: the purpose''s valid_for, or for good). Returns the message id; the other arguments and errors as cdp.track, and undefined_object for an unknown purpose';

CREATE FUNCTION cdp.consents(identifier cdp.identifier)
	RETURNS TABLE (purpose text, state text, said_by cdp.identifier, source text, at timestamptz, expires timestamptz)
	AS 'MODULE_PATHNAME', 'cdp_consents' LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 10;

COMMENT ON FUNCTION cdp.consents(cdp.identifier) IS
	'what the profile of an identifier says to every purpose: a row for what it comes to (said_by NULL; state granted, denied or unset), and one for the last word of each of its identifiers that has said something (unset also when it has expired), with the source and time of the entry and when it expires (NULL: never); said_by is NULL in one of those when the identifier is no node any more. Nothing for unknown identifiers';

CREATE FUNCTION cdp.consented(identifier cdp.identifier, purpose text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_consented' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.consented(cdp.identifier, text) IS
	'does the profile of an identifier consent to a purpose at this moment, as far as the log has been applied? false for who has said nothing, and for unknown identifiers. Error: undefined_object for an unknown purpose';
CREATE FUNCTION cdp.consented(profile_id bigint, purpose text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_consented_profile' LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION cdp.consented(bigint, text) IS 'the same for the profile of that number, or the one that it was merged into';

-- For delivery: an entry into a segment is told nobody when the person does not
-- consent to the segment's purpose at that moment.
CREATE FUNCTION cdp.purposed_segments() RETURNS text[]
	LANGUAGE sql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	RETURN ARRAY(SELECT s.name FROM cdp.segment_definitions s WHERE s.options ->> 'purpose' IS NOT NULL);
COMMENT ON FUNCTION cdp.purposed_segments() IS 'internal: names of the segments that have a purpose';

CREATE FUNCTION cdp.lacks_consent(segment text, profile_id bigint) RETURNS boolean
	LANGUAGE plpgsql STABLE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN NOT cdp.consented(profile_id,
		(SELECT s.options ->> 'purpose' FROM cdp.segment_definitions s WHERE s.name = segment));
END
$$;
COMMENT ON FUNCTION cdp.lacks_consent(text, bigint) IS 'internal: does somebody not consent to the purpose of a segment';

CREATE TRIGGER audit_purpose_insert AFTER INSERT ON cdp.trait_definitions
	FOR EACH ROW WHEN (NEW.aggregate IN ('consent', 'consent_latest'))
	EXECUTE FUNCTION cdp.audit_definition('purpose', 'key', 'name', 'hidden', 'implicit', 'owner', 'type', 'timezone', 'entity');
CREATE TRIGGER audit_purpose_update AFTER UPDATE ON cdp.trait_definitions
	FOR EACH ROW WHEN (NEW.aggregate IN ('consent', 'consent_latest'))
	EXECUTE FUNCTION cdp.audit_definition('purpose', 'key', 'name', 'hidden', 'implicit', 'owner', 'type', 'timezone', 'entity');
CREATE TRIGGER audit_purpose_delete AFTER DELETE ON cdp.trait_definitions
	FOR EACH ROW WHEN (OLD.aggregate IN ('consent', 'consent_latest'))
	EXECUTE FUNCTION cdp.audit_definition('purpose', 'key', 'name', 'hidden', 'implicit', 'owner', 'type', 'timezone', 'entity');

REVOKE ALL ON cdp.purposes FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.define_purpose(text, boolean, jsonb, text), cdp.put_purpose(text, text, text, text[], interval),
	cdp.create_purpose(text, text, text, text[], interval, text), cdp.alter_purpose(text, text, text, text[], interval),
	cdp.drop_purpose(text),
	cdp.consent(cdp.key, text, text, timestamptz, cdp.key, cdp.identifier[], jsonb, timestamptz, text, text),
	cdp.consents(cdp.identifier), cdp.consented(cdp.identifier, text), cdp.consented(bigint, text),
	cdp.purposed_segments(), cdp.lacks_consent(text, bigint) FROM PUBLIC;
