/* sql/trust/visibility.sql: roles that see some profiles only */

CREATE TABLE cdp.visibility_rules (
	role text NOT NULL,
	segment_id int NOT NULL,
	PRIMARY KEY (role, segment_id)
);
COMMENT ON TABLE cdp.visibility_rules IS 'roles that see the members of these segments only; changed by cdp.restrict_reader() and cdp.unrestrict_reader()';
SELECT pg_extension_config_dump('cdp.visibility_rules', '');

CREATE FUNCTION cdp.visibility_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cdp_visibility_changed' LANGUAGE C;
COMMENT ON FUNCTION cdp.visibility_changed() IS 'internal: trigger that has all sessions read the rules anew';
CREATE TRIGGER visibility_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp.visibility_rules
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.visibility_changed();

CREATE FUNCTION cdp.restrict_reader(role regrole, segment text) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	id int;
BEGIN
	IF role IS NULL THEN
		RAISE EXCEPTION 'role must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	SELECT d.id INTO id FROM cdp.segment_definitions d WHERE d.name = segment AND d.entity = 'profile' AND NOT d.hidden FOR KEY SHARE;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'segment "%" of profiles does not exist', segment
			USING ERRCODE = 'undefined_object', HINT = 'See cdp.segments.';
	END IF;
	INSERT INTO cdp.visibility_rules VALUES ((SELECT r.rolname FROM pg_roles r WHERE r.oid = role), id) ON CONFLICT DO NOTHING;
	PERFORM cdp.audit_record('restrict reader', role::text, jsonb_build_object('segment', segment));
END;
$$;
COMMENT ON FUNCTION cdp.restrict_reader(regrole, text) IS
	'let a role, and who has its rights, see only the members of a segment (of several: of any of them) in profiles, identities, traits, timelines, memberships and audiences. Superusers and the extension''s owner see everybody. Only the owner may call it. Errors: undefined_object';

CREATE FUNCTION cdp.unrestrict_reader(role text, segment text DEFAULT NULL) RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM cdp.visibility_rules v
	WHERE v.role = unrestrict_reader.role AND (segment IS NULL OR
		v.segment_id = (SELECT d.id FROM cdp.segment_definitions d WHERE d.name = segment));
	IF NOT FOUND THEN
		RAISE EXCEPTION 'role "%" is not restricted%', role, coalesce(' to segment "' || segment || '"', '')
			USING ERRCODE = 'undefined_object', HINT = 'See cdp.visibility_rules.';
	END IF;
	PERFORM cdp.audit_record('unrestrict reader', role, jsonb_strip_nulls(jsonb_build_object('segment', segment)));
END;
$$;
COMMENT ON FUNCTION cdp.unrestrict_reader(text, text) IS
	'take the restriction of a role (its name) to a segment away, or NULL: all of them. With the last one, it sees everybody. Only the owner may call it. Errors: undefined_object';

-- Who could drop the segment could open what it closes.
CREATE FUNCTION cdp.visibility_keeps() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	restricted text := (SELECT min(v.role) FROM cdp.visibility_rules v WHERE v.segment_id = OLD.id);
BEGIN
	IF restricted IS NOT NULL THEN
		RAISE EXCEPTION 'cannot drop segment "%": it says what role "%" sees', OLD.name, restricted
			USING ERRCODE = 'dependent_objects_still_exist', HINT = 'Use cdp.unrestrict_reader() first.';
	END IF;
	RETURN OLD;
END;
$$;
COMMENT ON FUNCTION cdp.visibility_keeps() IS 'internal: trigger that keeps segments that restrict a role';
CREATE TRIGGER visibility_keeps BEFORE DELETE ON cdp.segment_definitions
	FOR EACH ROW EXECUTE FUNCTION cdp.visibility_keeps();

REVOKE ALL ON cdp.visibility_rules FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.visibility_changed(), cdp.restrict_reader(regrole, text), cdp.unrestrict_reader(text, text),
	cdp.visibility_keeps() FROM PUBLIC;
