/* sql/trust/schema.sql: JSON Schema */

CREATE FUNCTION cdp.schema_violations(value jsonb, schema jsonb, OUT path text, OUT keyword text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'cdp_schema_violations' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION cdp.schema_violations(jsonb, jsonb) IS
	'what is wrong with a value by a JSON Schema (draft 2020-12): path, a JSON pointer into the value, and the keyword that it breaks there; no row when it is valid. Errors: invalid_parameter_value (not a schema), feature_not_supported (a keyword, format or pattern that is not known)';
