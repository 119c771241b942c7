/* sql/trust/sensitivity.sql: values that not everybody who reads may see */

CREATE TABLE cdp.sensitive_names (
	object text NOT NULL CHECK (object IN ('kind', 'trait', 'account_trait')),
	name text NOT NULL CHECK (name = lower(name COLLATE "C")),
	PRIMARY KEY (object, name)
);
COMMENT ON TABLE cdp.sensitive_names IS 'kinds of identifiers and traits whose values are masked for who may not execute cdp.see_sensitive(), in lower case; changed by cdp.set_sensitivity()';
SELECT pg_extension_config_dump('cdp.sensitive_names', '');

CREATE FUNCTION cdp.sensitivity_changed() RETURNS trigger
	AS 'MODULE_PATHNAME', 'cdp_sensitivity_changed' LANGUAGE C;
COMMENT ON FUNCTION cdp.sensitivity_changed() IS 'internal: trigger that has all sessions read the names anew';
CREATE TRIGGER sensitivity_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON cdp.sensitive_names
	FOR EACH STATEMENT EXECUTE FUNCTION cdp.sensitivity_changed();
CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON cdp.sensitive_names
	FOR EACH ROW EXECUTE FUNCTION cdp.audit_definition('sensitivity', 'name');

CREATE FUNCTION cdp.see_sensitive() RETURNS void
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC; END;
COMMENT ON FUNCTION cdp.see_sensitive() IS 'does nothing: who may execute it sees sensitive values, and may name them in definitions';

CREATE FUNCTION cdp.shown(identifier cdp.identifier) RETURNS cdp.identifier
	AS 'MODULE_PATHNAME', 'cdp_shown_identifier' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.shown(cdp.identifier) IS 'an identifier as the session''s user may see it: the same, or kind:*** when its kind is sensitive and he may not';
CREATE FUNCTION cdp.shown(identifiers cdp.identifier[]) RETURNS cdp.identifier[]
	AS 'MODULE_PATHNAME', 'cdp_shown_identifiers' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.shown(cdp.identifier[]) IS 'identifiers as the session''s user may see them';
CREATE FUNCTION cdp.shown(value jsonb) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'cdp_shown_jsonb' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.shown(jsonb) IS 'properties as the session''s user may see them: values under the name of a sensitive kind or trait, at any depth, are ***';
CREATE FUNCTION cdp.hidden(object text, name text) RETURNS boolean
	AS 'MODULE_PATHNAME', 'cdp_hidden' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.hidden(text, text) IS 'is a kind, trait or account_trait of that name hidden from the session''s user?';

CREATE FUNCTION cdp.shown_error(error text) RETURNS text
	AS 'MODULE_PATHNAME', 'cdp_shown_error' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.shown_error(text) IS 'the text of an error as the session''s user may see it: ***, as texts quote values, when anything is hidden from him';

CREATE FUNCTION cdp.set_sensitivity(object text, name text, sensitivity text DEFAULT 'sensitive') RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
	IF name IS NULL THEN
		RAISE EXCEPTION 'name must not be null' USING ERRCODE = 'null_value_not_allowed';
	ELSIF octet_length(name) > 250 THEN
		RAISE EXCEPTION 'name is too long' USING ERRCODE = 'name_too_long', DETAIL = 'Names of sensitive values have at most 250 bytes.';
	ELSIF object IS NULL OR object NOT IN ('kind', 'trait', 'account_trait') THEN
		RAISE EXCEPTION 'invalid object "%"', object USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There are kind, trait and account_trait.';
	ELSIF sensitivity IS NULL OR sensitivity NOT IN ('normal', 'sensitive') THEN
		RAISE EXCEPTION 'invalid sensitivity "%"', sensitivity USING ERRCODE = 'invalid_parameter_value',
			HINT = 'There are normal and sensitive.';
	END IF;
	IF sensitivity = 'sensitive' AND object = 'kind' THEN
		PERFORM FROM cdp.identifier_kinds k WHERE k.kind = name AND k.entity = 'profile';
		IF NOT FOUND THEN
			RAISE EXCEPTION 'kind "%" of identifiers of profiles does not exist', name
				USING ERRCODE = 'undefined_object', HINT = 'See cdp.identifier_kinds.';
		END IF;
	END IF;
	IF sensitivity = 'normal' THEN
		DELETE FROM cdp.sensitive_names s WHERE s.object = object AND s.name = lower(name COLLATE "C");
	ELSE
		INSERT INTO cdp.sensitive_names VALUES (object, lower(name COLLATE "C")) ON CONFLICT DO NOTHING;
	END IF;
END;
$$;
COMMENT ON FUNCTION cdp.set_sensitivity(text, text, text) IS
	'say that the values of a kind of identifiers (object kind), of a trait of profiles (trait: its name, or a key that identify calls declare, in any case) or of accounts (account_trait) are sensitive, or normal again. Sensitive ones are masked for who may not execute cdp.see_sensitive(). A trait that is computed by an expression from a sensitive one is as sensitive; one that reads the log has to be marked by itself. Errors: undefined_object (kind), invalid_parameter_value';

-- A trait takes its mark along.
CREATE FUNCTION cdp.sensitivity_follows() RETURNS trigger
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO cdp.sensitive_names
	SELECT s.object, lower(NEW.name COLLATE "C") FROM cdp.sensitive_names s
	WHERE s.object = CASE OLD.entity WHEN 'account' THEN 'account_trait' ELSE 'trait' END
		AND s.name = lower(OLD.name COLLATE "C")
	ON CONFLICT DO NOTHING;
	RETURN NULL;
END;
$$;
COMMENT ON FUNCTION cdp.sensitivity_follows() IS 'internal: trigger that marks a renamed trait as its old name is; the old one stays marked, as it may be a key that is declared';
CREATE TRIGGER sensitivity_follows AFTER UPDATE OF name ON cdp.trait_definitions
	FOR EACH ROW WHEN (NEW.name <> OLD.name) EXECUTE FUNCTION cdp.sensitivity_follows();

REVOKE ALL ON cdp.sensitive_names FROM PUBLIC;
REVOKE ALL ON FUNCTION cdp.sensitivity_changed(), cdp.see_sensitive(), cdp.set_sensitivity(text, text, text),
	cdp.sensitivity_follows() FROM PUBLIC;
